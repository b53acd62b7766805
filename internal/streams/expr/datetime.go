package expr

import (
	"strings"

	"github.com/millrace-sync/millrace/internal/source"
)

const dayMillis = 86_400_000

// unixEpochJD is 1970-01-01 as a Julian day in milliseconds.
const unixEpochJD = 210_866_760_000_000

// greatestJD is 9999-12-31 23:59:59.999.
const greatestJD = 464_269_060_799_999

// moment is a point in time under construction, as SQLite's date functions hold it:
// as a Julian day, as date and time of day, or as a number not yet interpreted.
type moment struct {
	jd            int64 // Julian day × 86 400 000
	y, m, d       int
	hour, min, tz int // tz is in minutes
	sec           float64
	floor         int // days that the day of the month is beyond the month's end
	hasJD         bool
	hasYMD        bool
	hasHMS        bool
	raw           bool // sec is a number that may be a Julian day or a Unix time
	utc           bool
	subsec        bool
	failed        bool
}

// datetime is datetime(value, modifier, …).
func datetime(o Options, a []source.Value) (source.Value, error) {
	t, ok, err := momentOf("datetime", o, a)
	if err != nil || !ok {
		return source.Value{}, err
	}
	t.computeYMD()
	t.computeHMS()
	dst := make([]byte, 0, 28)
	y := t.y
	if y < 0 {
		dst = append(dst, '-')
		y = -y
	}
	dst = appendPadded(dst, y, 4)
	dst = appendPadded(append(dst, '-'), t.m, 2)
	dst = appendPadded(append(dst, '-'), t.d, 2)
	dst = appendPadded(append(dst, ' '), t.hour, 2)
	dst = appendPadded(append(dst, ':'), t.min, 2)
	if t.subsec {
		ms := int(1000*t.sec + 0.5)
		dst = appendPadded(append(dst, ':'), ms/1000, 2)
		dst = appendPadded(append(dst, '.'), ms%1000, 3)
	} else {
		dst = appendPadded(append(dst, ':'), int(t.sec), 2)
	}
	return source.String(string(dst)), nil
}

// unixepoch is unixepoch(value, modifier, …): seconds since 1970, a real with subsec.
func unixepoch(o Options, a []source.Value) (source.Value, error) {
	t, ok, err := momentOf("unixepoch", o, a)
	if err != nil || !ok {
		return source.Value{}, err
	}
	if t.subsec {
		return source.Real(float64(t.jd-unixEpochJD) / 1000), nil
	}
	return source.Int(t.jd/1000 - unixEpochJD/1000), nil
}

// appendPadded appends the last width digits of n.
func appendPadded(dst []byte, n, width int) []byte {
	div := 1
	for range width - 1 {
		div *= 10
	}
	for ; div > 0; div /= 10 {
		dst = append(dst, byte('0'+n/div%10))
	}
	return dst
}

// momentOf interprets a time value and its modifiers, none of them NULL. ok is false
// if the result is NULL.
func momentOf(op string, o Options, a []source.Value) (t moment, ok bool, err error) {
	switch v := a[0]; v.Kind() {
	case source.KindInteger, source.KindReal:
		t.setNumber(toFloat(v))
	default:
		s := cText(v)
		if usesClock(strings.ToLower(s), true) {
			return t, false, badValue(op, "'%s' is the time of day; rows are not evaluated again as time passes", s)
		}
		if !t.parse(s) {
			return t, false, nil
		}
	}
	for i, v := range a[1:] {
		word := cText(v)
		lower := strings.ToLower(word)
		if o.Engine == Reference && lower != "unixepoch" && lower != "subsec" && lower != "subsecond" {
			return t, false, nil
		}
		if lower == "localtime" || (lower == "utc" && !t.utc) {
			return t, false, badValue(op, "'%s' depends on the time zone of the server", word)
		}
		if !t.modify(lower, i == 0) {
			return t, false, nil
		}
	}
	t.computeJD()
	if t.failed || t.jd < 0 || t.jd > greatestJD {
		return t, false, nil
	}
	if len(a) == 1 && t.hasYMD && t.d > 28 {
		t.hasYMD = false // so that February 31 becomes March 3
	}
	return t, true, nil
}

// setNumber takes a number that is a Julian day unless a modifier says otherwise.
func (t *moment) setNumber(f float64) {
	t.sec, t.raw = f, true
	if f >= 0 && f < 5373484.5 {
		t.jd = int64(f*dayMillis + 0.5)
		t.hasJD = true
	}
}

// parse reads YYYY-MM-DD, a time of day, both, or a number.
func (t *moment) parse(s string) bool {
	if t.parseDate(s) || t.parseTime(s) {
		return true
	}
	f, form := parseFloatSQLite(s)
	if form != formInteger && form != formReal {
		return false
	}
	t.setNumber(f)
	return true
}

// digitsAt reads a number of exactly n digits from lo to hi.
func digitsAt(s string, at, n, lo, hi int) (int, bool) {
	if at+n > len(s) {
		return 0, false
	}
	v := 0
	for _, c := range []byte(s[at : at+n]) {
		if !isDigit(c) {
			return 0, false
		}
		v = v*10 + int(c-'0')
	}
	return v, v >= lo && v <= hi
}

func byteAt(s string, i int) byte {
	if i < len(s) {
		return s[i]
	}
	return 0
}

func (t *moment) parseDate(s string) bool {
	s, negative := strings.CutPrefix(s, "-")
	y, ok1 := digitsAt(s, 0, 4, 0, 14712)
	m, ok2 := digitsAt(s, 5, 2, 1, 12)
	d, ok3 := digitsAt(s, 8, 2, 1, 31)
	if !ok1 || !ok2 || !ok3 || s[4] != '-' || s[7] != '-' {
		return false
	}
	rest := strings.TrimLeft(s[10:], " \t\n\v\f\rT")
	if !t.parseTime(rest) {
		if rest != "" {
			return false
		}
		t.hasHMS = false
	}
	t.hasJD, t.hasYMD = false, true
	if t.y, t.m, t.d = y, m, d; negative {
		t.y = -y
	}
	t.computeFloor()
	if t.tz != 0 {
		t.computeJD()
	}
	return true
}

// parseTime reads HH:MM[:SS[.FFF]] and a zone. It may change t though it fails.
func (t *moment) parseTime(s string) bool {
	hour, ok1 := digitsAt(s, 0, 2, 0, 24)
	minute, ok2 := digitsAt(s, 3, 2, 0, 59)
	if !ok1 || !ok2 || s[2] != ':' {
		return false
	}
	s = s[5:]
	sec, fraction := 0, 0.0
	if rest, ok := strings.CutPrefix(s, ":"); ok {
		if sec, ok = digitsAt(rest, 0, 2, 0, 59); !ok {
			return false
		}
		s = rest[2:]
		if byteAt(s, 0) == '.' && isDigit(byteAt(s, 1)) {
			scale := 1.0
			for s = s[1:]; s != "" && isDigit(s[0]); s = s[1:] {
				fraction = fraction*10 + float64(s[0]-'0')
				scale *= 10
			}
			// More would round up to the next second where it is printed.
			fraction = min(fraction/scale, 0.999)
		}
	}
	t.hasJD, t.raw, t.hasHMS = false, false, true
	t.hour, t.min, t.sec = hour, minute, float64(sec)+fraction
	return t.parseZone(s)
}

// parseZone reads Z, +HH:MM or -HH:MM, or nothing.
func (t *moment) parseZone(s string) bool {
	s = strings.TrimLeft(s, " \t\n\v\f\r")
	t.tz = 0
	switch c := byteAt(s, 0); c {
	case 'Z', 'z':
		t.utc = true
		s = s[1:]
	case '+', '-':
		hours, ok1 := digitsAt(s, 1, 2, 0, 14)
		minutes, ok2 := digitsAt(s, 4, 2, 0, 59)
		if !ok1 || !ok2 || s[3] != ':' {
			return false
		}
		if t.tz = hours*60 + minutes; c == '-' {
			t.tz = -t.tz
		}
		s = s[6:]
	default:
		return s == ""
	}
	return strings.TrimLeft(s, " \t\n\v\f\r") == ""
}

func (t *moment) clear() { t.hasYMD, t.hasHMS, t.tz = false, false, 0 }

// computeJD computes the Julian day from the date, by default 2000-01-01, and time.
func (t *moment) computeJD() {
	if t.hasJD {
		return
	}
	y, m, d := 2000, 1, 1
	if t.hasYMD {
		y, m, d = t.y, t.m, t.d
	}
	if y < -4713 || y > 9999 || t.raw {
		*t = moment{failed: true}
		return
	}
	if m <= 2 {
		y--
		m += 12
	}
	a := (y + 4800) / 100
	b := 38 - a + a/4
	x1 := 36525 * (y + 4716) / 100
	x2 := 306001 * (m + 1) / 10000
	t.jd = int64((float64(x1+x2+d+b) - 1524.5) * dayMillis)
	t.hasJD = true
	if t.hasHMS {
		t.jd += int64(t.hour*3600000+t.min*60000) + floatToInt(t.sec*1000+0.5)
		if t.tz != 0 {
			t.jd -= int64(t.tz * 60000)
			t.clear()
			t.utc = true
		}
	}
}

func (t *moment) computeYMD() {
	switch {
	case t.hasYMD:
		return
	case !t.hasJD:
		t.y, t.m, t.d = 2000, 1, 1
	case t.jd < 0 || t.jd > greatestJD:
		*t = moment{failed: true}
		return
	default:
		z := int((t.jd + dayMillis/2) / dayMillis)
		century := int((float64(z)+32044.75)/36524.25) - 52
		a := z + 1 + century - (century+100)/4 + 25
		b := a + 1524
		c := int((float64(b) - 122.1) / 365.25)
		d := 36525 * (c & 32767) / 100
		e := int(float64(b-d) / 30.6001)
		t.d = b - d - int(30.6001*float64(e))
		t.m = e - 1
		if e >= 14 {
			t.m = e - 13
		}
		t.y = c - 4716
		if t.m <= 2 {
			t.y++
		}
	}
	t.hasYMD = true
}

func (t *moment) computeHMS() {
	if t.hasHMS {
		return
	}
	t.computeJD()
	ms := int((t.jd + dayMillis/2) % dayMillis)
	t.sec = float64(ms%60000) / 1000
	t.min = ms / 60000 % 60
	t.hour = ms / 3600000
	t.raw, t.hasHMS = false, true
}

func (t *moment) computeFloor() {
	switch {
	case t.d <= 28 || 1<<t.m&0x15AA != 0:
		t.floor = 0
	case t.m != 2:
		t.floor = 0
		if t.d == 31 {
			t.floor = 1
		}
	case t.y%4 != 0 || (t.y%100 == 0 && t.y%400 != 0):
		t.floor = t.d - 28
	default:
		t.floor = t.d - 29
	}
}
