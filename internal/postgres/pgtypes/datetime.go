package pgtypes

import (
	"encoding/binary"
	"math"
	"strconv"
	"strings"

	"github.com/millrace-sync/millrace/internal/source"
)

// The codecs of dates and times. Clients expect them in forms of their own, with
// stand-ins for infinities and null for years that SQLite's functions lack.
var (
	dateCodec        = codec{parse: parseDate, unpack: unpackDate}
	timeCodec        = codec{parse: parseTime, unpack: unpackTime, direct: directTime}
	timetzCodec      = codec{parse: verbatim, unpack: unpackTimetz}
	timestampCodec   = stampCodec(false)
	timestamptzCodec = stampCodec(true)
)

// What Postgres prints for the ends of time, and what clients get for them.
const (
	infinity         = "infinity"
	negativeInfinity = "-infinity"
	lastDate         = "9999-12-31"
	firstDate        = "0000-01-01"
)

const (
	secondMicros = 1_000_000
	dayMicros    = 86_400 * secondMicros
	// epochDays is the number of days from 0000-03-01 to 2000-01-01, where
	// Postgres counts from.
	epochDays = 730_425
)

// stamp is a date with a time, broken down.
type stamp struct {
	year       int // astronomical: 0 is 1 BC
	month, day int
	micros     int64 // within the day, or a little outside before normalisation
	ends       int8  // 1 for infinity, -1 for -infinity, with nothing else set
}

// civil returns the date that is days after 2000-01-01, in the Gregorian calendar
// without end. It counts in eras of 400 years from a 1 March.
func civil(days int64) (year, month, day int) {
	days += epochDays
	era := floorDiv(days, 146_097)
	d := days - era*146_097
	y := (d - d/1460 + d/36_524 - d/146_096) / 365
	d -= 365*y + y/4 - y/100
	m := (5*d + 2) / 153
	day = int(d-(153*m+2)/5) + 1
	month = int(m) + 3
	year = int(y + era*400)
	if month > 12 {
		month -= 12
		year++
	}
	return year, month, day
}

// ordinal is the inverse of civil.
func ordinal(year, month, day int) int64 {
	y, m := int64(year), int64(month)-3
	if m < 0 {
		y, m = y-1, m+12
	}
	era := floorDiv(y, 400)
	y -= era * 400
	return era*146_097 + 365*y + y/4 - y/100 + (153*m+2)/5 + int64(day) - 1 - epochDays
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// appendDate prints year-month-day, and says whether " BC" belongs at the end.
func appendDate(dst []byte, year, month, day int) (out []byte, bc bool) {
	if bc = year <= 0; bc {
		year = 1 - year
	}
	return appendYMD(dst, year, month, day), bc
}

func appendYMD(dst []byte, year, month, day int) []byte {
	if year <= 9999 {
		dst = appendTwo(appendTwo(dst, year/100), year%100)
	} else {
		dst = strconv.AppendInt(dst, int64(year), 10)
	}
	dst = appendTwo(append(dst, '-'), month)
	return appendTwo(append(dst, '-'), day)
}

// appendTwo prints two decimal digits.
func appendTwo(dst []byte, n int) []byte {
	return append(dst, '0'+byte(n/10), '0'+byte(n%10))
}

// appendClock prints hours, minutes and seconds, and the given number of digits of
// the fraction; if digits is negative, all six without the zeros at the end.
func appendClock(dst []byte, micros int64, digits int) []byte {
	seconds, fraction := int(micros/secondMicros), int(micros%secondMicros)
	dst = appendTwo(dst, seconds/3600)
	dst = appendTwo(append(dst, ':'), seconds/60%60)
	dst = appendTwo(append(dst, ':'), seconds%60)
	if digits == 0 || digits < 0 && fraction == 0 {
		return dst
	}
	dst = append(dst, '.')
	start := len(dst)
	dst = appendTwo(appendTwo(appendTwo(dst, fraction/10_000), fraction/100%100), fraction%100)
	if digits > 0 {
		return dst[:start+digits]
	}
	for dst[len(dst)-1] == '0' {
		dst = dst[:len(dst)-1]
	}
	return dst
}

// fractionDigits returns the number of digits for appendClock: Postgres has six,
// to which everything is padded, and a coarser precision cuts them off.
func fractionDigits(f source.Form) int {
	switch {
	case !f.ISOTimestamps || f.Exact:
		return -1
	case f.Precision == source.PrecisionSeconds:
		return 0
	case f.Precision == source.PrecisionMilliseconds:
		return 3
	}
	return 6
}

func parseDate(s string, f source.Form) (source.Value, error) {
	switch {
	case f.Exact:
	case s == infinity:
		return source.String(lastDate), nil
	case s == negativeInfinity:
		return source.String(firstDate), nil
	}
	return source.String(s), nil
}

func unpackDate(dst, b []byte) ([]byte, error) {
	if len(b) != 4 {
		return dst, malformed("a date of %d bytes", len(b))
	}
	days := int32(binary.BigEndian.Uint32(b))
	switch days {
	case math.MaxInt32:
		return append(dst, infinity...), nil
	case math.MinInt32:
		return append(dst, negativeInfinity...), nil
	}
	if dst == nil {
		dst = make([]byte, 0, len(lastDate))
	}
	year, month, day := civil(int64(days))
	dst, bc := appendDate(dst, year, month, day)
	if bc {
		dst = append(dst, " BC"...)
	}
	return dst, nil
}

func parseTime(s string, f source.Form) (source.Value, error) {
	if !f.ISOTimestamps || f.Exact {
		return source.String(s), nil
	}
	micros, rest, ok := clock(s)
	if !ok || rest != "" {
		return source.Value{}, malformed("a time is not in the form 15:04:05.999999")
	}
	return clockValue(micros, f), nil
}

func directTime(b []byte, f source.Form) (source.Value, error) {
	micros, err := readTime(b)
	if err != nil {
		return source.Value{}, err
	}
	return clockValue(micros, f), nil
}

func clockValue(micros int64, f source.Form) source.Value {
	var buf [16]byte
	return source.String(string(appendClock(buf[:0], micros, fractionDigits(f))))
}

// readTime returns the microseconds of a day; a day's end, 24:00:00, is one.
func readTime(b []byte) (int64, error) {
	if len(b) != 8 {
		return 0, malformed("a time of %d bytes", len(b))
	}
	micros := int64(binary.BigEndian.Uint64(b))
	if micros < 0 || micros > dayMicros {
		return 0, malformed("a time of %d microseconds", micros)
	}
	return micros, nil
}

func unpackTime(dst, b []byte) ([]byte, error) {
	micros, err := readTime(b)
	if err != nil {
		return dst, err
	}
	return appendClock(dst, micros, -1), nil
}

func unpackTimetz(dst, b []byte) ([]byte, error) {
	if len(b) != 12 {
		return dst, malformed("a timetz of %d bytes", len(b))
	}
	dst, err := unpackTime(dst, b[:8])
	if err != nil {
		return dst, err
	}
	west := int(int32(binary.BigEndian.Uint32(b[8:])))
	if west < -86_400 || west > 86_400 {
		return dst, malformed("a time zone of %d seconds", west)
	}
	sign := byte('+')
	if west > 0 {
		sign = '-'
	} else {
		west = -west
	}
	dst = append(dst, sign)
	dst = appendTwo(dst, west/3600)
	if west%3600 != 0 {
		dst = appendTwo(append(dst, ':'), west/60%60)
	}
	if west%60 != 0 {
		dst = appendTwo(append(dst, ':'), west%60)
	}
	return dst, nil
}

func stampCodec(zoned bool) codec {
	return codec{
		parse: func(s string, f source.Form) (source.Value, error) {
			t, ok := parseStamp(s, zoned)
			if !ok {
				return source.Value{}, malformed("a timestamp is not in the form 2006-01-02 15:04:05.999999; " +
					"connect with DateStyle ISO")
			}
			return t.value(zoned, f), nil
		},
		unpack: func(dst, b []byte) ([]byte, error) {
			t, err := readStamp(b)
			if err != nil {
				return dst, err
			}
			return t.appendText(dst, zoned), nil
		},
		direct: func(b []byte, f source.Form) (source.Value, error) {
			t, err := readStamp(b)
			if err != nil {
				return source.Value{}, err
			}
			return t.value(zoned, f), nil
		},
	}
}

// readStamp reads microseconds since 2000.
func readStamp(b []byte) (stamp, error) {
	if len(b) != 8 {
		return stamp{}, malformed("a timestamp of %d bytes", len(b))
	}
	micros := int64(binary.BigEndian.Uint64(b))
	switch micros {
	case math.MaxInt64:
		return stamp{ends: 1}, nil
	case math.MinInt64:
		return stamp{ends: -1}, nil
	}
	days := floorDiv(micros, dayMicros)
	t := stamp{micros: micros - days*dayMicros}
	t.year, t.month, t.day = civil(days)
	return t, nil
}

// appendText prints the timestamp as Postgres does, in UTC if zoned.
func (t *stamp) appendText(dst []byte, zoned bool) []byte {
	switch t.ends {
	case 1:
		return append(dst, infinity...)
	case -1:
		return append(dst, negativeInfinity...)
	}
	dst, bc := appendDate(dst, t.year, t.month, t.day)
	dst = append(dst, ' ')
	dst = appendClock(dst, t.micros, -1)
	if zoned {
		dst = append(dst, "+00"...)
	}
	if bc {
		dst = append(dst, " BC"...)
	}
	return dst
}

// value returns what clients get: nothing for years before 1 and, if zoned, after
// 9999, which they could not compare with others.
func (t *stamp) value(zoned bool, f source.Form) source.Value {
	var buf [40]byte
	if f.Exact {
		return source.String(string(t.appendText(buf[:0], zoned)))
	}
	switch t.ends {
	case 1:
		t = &stamp{year: 9999, month: 12, day: 31, micros: dayMicros - secondMicros}
	case -1:
		t = &stamp{year: 0, month: 1, day: 1}
	default:
		if t.year <= 0 || zoned && t.year > 9999 {
			return source.Value{}
		}
	}
	b := appendYMD(buf[:0], t.year, t.month, t.day)
	if f.ISOTimestamps {
		b = append(b, 'T')
	} else {
		b = append(b, ' ')
	}
	b = appendClock(b, t.micros, fractionDigits(f))
	if zoned {
		b = append(b, 'Z')
	}
	return source.String(string(b))
}

// parseStamp reads what Postgres prints in DateStyle ISO. A time zone, which there
// must be if zoned, is taken off.
func parseStamp(s string, zoned bool) (stamp, bool) {
	switch s {
	case infinity:
		return stamp{ends: 1}, true
	case negativeInfinity:
		return stamp{ends: -1}, true
	}
	s, bc := strings.CutSuffix(s, " BC")
	n := strings.IndexByte(s, '-')
	if n < 4 || n > 7 || len(s) < n+7 || s[n+3] != '-' || s[n+6] != ' ' {
		return stamp{}, false
	}
	year, ok1 := number(s[:n])
	month, ok2 := number(s[n+1 : n+3])
	day, ok3 := number(s[n+4 : n+6])
	micros, zone, ok4 := clock(s[n+7:])
	if !ok1 || !ok2 || !ok3 || !ok4 || month < 1 || month > 12 || day < 1 || day > 31 || year == 0 {
		return stamp{}, false
	}
	if bc {
		year = 1 - year
	}
	t := stamp{year: year, month: month, day: day, micros: micros}
	if !zoned {
		return t, zone == ""
	}
	seconds, ok := offset(zone)
	if !ok {
		return stamp{}, false
	}
	if seconds != 0 {
		total := ordinal(year, month, day)*dayMicros + micros - seconds*secondMicros
		days := floorDiv(total, dayMicros)
		t.micros = total - days*dayMicros
		t.year, t.month, t.day = civil(days)
	}
	return t, true
}

// clock reads hours, minutes, seconds and up to six digits of fraction.
func clock(s string) (micros int64, rest string, ok bool) {
	if len(s) < 8 || s[2] != ':' || s[5] != ':' {
		return 0, "", false
	}
	h, ok1 := number(s[:2])
	m, ok2 := number(s[3:5])
	sec, ok3 := number(s[6:8])
	if !ok1 || !ok2 || !ok3 || h > 24 || m > 59 || sec > 59 || h == 24 && m+sec > 0 {
		return 0, "", false
	}
	micros = (int64(h)*3600 + int64(m)*60 + int64(sec)) * secondMicros
	s = s[8:]
	if s == "" || s[0] != '.' {
		return micros, s, true
	}
	s = s[1:]
	unit := int64(secondMicros / 10)
	for ; s != "" && s[0] >= '0' && s[0] <= '9'; s = s[1:] {
		if unit == 0 {
			return 0, "", false
		}
		micros += int64(s[0]-'0') * unit
		unit /= 10
	}
	return micros, s, micros <= dayMicros
}

// offset reads a time zone such as +02, -03:30 or +00:19:32, in seconds east.
func offset(s string) (seconds int64, ok bool) {
	if s == "+00" {
		return 0, true
	}
	if len(s) != 3 && len(s) != 6 && len(s) != 9 {
		return 0, false
	}
	sign := int64(1)
	switch s[0] {
	case '-':
		sign = -1
	case '+':
	default:
		return 0, false
	}
	unit := int64(3600)
	for i := 0; i < len(s); i += 3 {
		n, ok := number(s[i+1 : i+3])
		if !ok || i > 0 && s[i] != ':' {
			return 0, false
		}
		seconds += int64(n) * unit
		unit /= 60
	}
	return sign * seconds, true
}

// number reads decimal digits, few enough not to overflow.
func number(s string) (n int, ok bool) {
	for i := range len(s) {
		c := s[i] - '0'
		if c > 9 {
			return 0, false
		}
		n = 10*n + int(c)
	}
	return n, true
}
