package expr

import (
	"strings"
)

// modify applies a lower-case modifier, other than those for local time, and
// reports whether it is one that fits.
func (t *moment) modify(s string, first bool) bool {
	switch s {
	case "auto":
		return first && t.interpret()
	case "ceiling":
		t.computeJD()
		t.clear()
		t.floor = 0
		return true
	case "floor":
		t.computeJD()
		t.jd -= int64(t.floor) * dayMillis
		t.clear()
		return true
	case "julianday":
		ok := first && t.hasJD && t.raw
		t.raw = t.raw && !ok
		return ok
	case "unixepoch":
		return t.unixTime(first)
	case "utc":
		return true
	case "subsec", "subsecond":
		t.subsec = true
		return true
	}
	if day, ok := strings.CutPrefix(s, "weekday "); ok {
		return t.weekday(day)
	}
	if unit, ok := strings.CutPrefix(s, "start of "); ok {
		return t.startOf(unit)
	}
	if c := byteAt(s, 0); c == '+' || c == '-' || isDigit(c) {
		return t.shift(s)
	}
	return false
}

// interpret takes a number for a Unix time if it is too large for a Julian day.
func (t *moment) interpret() bool {
	if !t.raw || t.hasJD {
		t.raw = false
	} else if t.sec >= -unixEpochJD/1000 && t.sec <= 253402300799 {
		ms := t.sec*1000 + unixEpochJD
		t.clear()
		t.jd = int64(ms + 0.5)
		t.hasJD, t.raw = true, false
	}
	return true
}

func (t *moment) unixTime(first bool) bool {
	if !t.raw || !first {
		return false
	}
	ms := t.sec*1000 + unixEpochJD
	if !(ms >= 0 && ms < greatestJD+1) {
		return false
	}
	t.clear()
	t.jd = int64(ms + 0.5)
	t.hasJD, t.raw = true, false
	return true
}

func (t *moment) weekday(s string) bool {
	f, form := parseFloatSQLite(s)
	if (form != formInteger && form != formReal) || f < 0 || f >= 7 || f != float64(int(f)) {
		return false
	}
	t.computeYMD()
	t.computeHMS()
	t.tz, t.hasJD = 0, false
	t.computeJD()
	z := (t.jd + 3*dayMillis/2) / dayMillis % 7
	if z > int64(f) {
		z -= 7
	}
	t.jd += (int64(f) - z) * dayMillis
	t.clear()
	return true
}

func (t *moment) startOf(unit string) bool {
	if !t.hasJD && !t.hasYMD && !t.hasHMS {
		return false
	}
	t.computeYMD()
	t.hour, t.min, t.sec, t.tz = 0, 0, 0, 0
	t.hasHMS, t.raw, t.hasJD = true, false, false
	switch unit {
	case "month":
		t.d = 1
	case "year":
		t.m, t.d = 1, 1
	case "day":
	default:
		return false
	}
	return true
}

// shift applies ±NNN units, ±YYYY-MM-DD [HH:MM] or ±HH:MM[:SS.FFF].
func (t *moment) shift(s string) bool {
	n := 1
	for n < len(s) && s[n] != ':' && !strings.ContainsRune(" \t\n\v\f\r", rune(s[n])) {
		if s[n] == '-' {
			if _, ok := digitsAt(s, 1, n-1, 0, 14712); ok && (n == 5 || n == 6) {
				break
			}
		}
		n++
	}
	f, form := parseFloatSQLite(s[:n])
	if form != formInteger && form != formReal {
		return false
	}
	clock := s
	if byteAt(s, n) == '-' {
		rest, done, ok := t.shiftDate(s, n)
		if done || !ok {
			return ok
		}
		clock, n = rest, 2
	}
	if byteAt(clock, n) == ':' {
		return t.shiftTime(clock, s[0] == '-')
	}
	return t.shiftUnits(f, strings.TrimLeft(s[n:], " \t\n\v\f\r"))
}

// shiftDate adds years, months and days; n is the place of the first hyphen after
// the year. done is false if a time of day follows, in rest.
func (t *moment) shiftDate(s string, n int) (rest string, done, ok bool) {
	if s[0] != '+' && s[0] != '-' {
		return "", true, false
	}
	y, ok1 := digitsAt(s, 1, n-1, 0, 14712)
	m, ok2 := digitsAt(s, n+1, 2, 0, 11)
	d, ok3 := digitsAt(s, n+4, 2, 0, 30)
	if !ok1 || !ok2 || !ok3 || byteAt(s, n+3) != '-' {
		return "", true, false
	}
	t.computeYMD()
	t.computeHMS()
	t.hasJD = false
	if s[0] == '-' {
		y, m, d = -y, -m, -d
	}
	t.y += y
	t.addMonths(m)
	t.computeJD()
	t.hasHMS, t.hasYMD = false, false
	t.jd += int64(d) * dayMillis
	rest = s[n+6:]
	if rest == "" {
		return "", true, true
	}
	_, hour := digitsAt(rest, 1, 2, 0, 24)
	_, minute := digitsAt(rest, 4, 2, 0, 59)
	if !strings.ContainsRune(" \t\n\v\f\r", rune(rest[0])) || !hour || !minute || rest[3] != ':' {
		return "", true, false
	}
	return rest[1:], false, true
}

// addMonths adds months and carries into the years.
func (t *moment) addMonths(n int) {
	t.m += n
	x := (t.m - 12) / 12
	if t.m > 0 {
		x = (t.m - 1) / 12
	}
	t.y += x
	t.m -= x * 12
	t.computeFloor()
}

func (t *moment) shiftTime(s string, negative bool) bool {
	if !isDigit(s[0]) {
		s = s[1:]
	}
	var x moment
	if !x.parseTime(s) {
		return false
	}
	x.computeJD()
	ms := (x.jd - dayMillis/2) % dayMillis
	if negative {
		ms = -ms
	}
	t.computeJD()
	t.clear()
	t.jd += ms
	return true
}

// shiftUnits adds f seconds, minutes, hours, days, months or years.
func (t *moment) shiftUnits(f float64, unit string) bool {
	if len(unit) < 3 || len(unit) > 10 {
		return false
	}
	unit = strings.TrimSuffix(unit, "s")
	t.computeJD()
	t.floor = 0
	defer t.clear()
	var limit float32
	var seconds float64
	switch unit {
	case "second":
		limit, seconds = 4.6427e+14, 1
	case "minute":
		limit, seconds = 7.7379e+12, 60
	case "hour":
		limit, seconds = 1.2897e+11, 3600
	case "day":
		limit, seconds = 5373485, 86400
	case "month":
		limit, seconds = 176546, 30*86400
	case "year":
		limit, seconds = 14713, 365*86400
	default:
		return false
	}
	if f <= -float64(limit) || f >= float64(limit) {
		return false
	}
	rounder := 0.5
	if f < 0 {
		rounder = -0.5
	}
	if unit == "month" || unit == "year" {
		t.computeYMD()
		t.computeHMS()
		if unit == "month" {
			t.addMonths(int(f))
		} else {
			t.y += int(f)
			t.computeFloor()
		}
		t.hasJD = false
		f -= float64(int(f))
	}
	t.computeJD()
	t.jd += int64(f*1000*seconds + rounder)
	return true
}
