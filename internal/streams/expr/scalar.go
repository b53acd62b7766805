package expr

import (
	"math"
	"math/big"
	"strings"
	"unicode/utf8"

	"github.com/millrace-sync/millrace/internal/source"
)

// absolute is abs(x): text that is no number gives 0.0.
func absolute(o Options, v source.Value) (source.Value, error) {
	if v.Kind() == source.KindInteger {
		i, ok := v.Int()
		switch {
		case !ok:
			return source.BigInt(strings.TrimPrefix(v.BigDigits(), "-")), nil
		case i == math.MinInt64 && o.Engine == SQLite:
			return source.Value{}, badValue("abs", "integer overflow")
		case i == math.MinInt64:
			return source.BigInt(new(big.Int).Abs(big.NewInt(i)).String()), nil
		case i < 0:
			return source.Int(-i), nil
		}
		return v, nil
	}
	return realOrNull(math.Abs(toFloat(realSQLite(v)))), nil
}

// round is round(x [, digits]), half away from zero, with 0 to 30 digits.
func round(_ Options, a few) (source.Value, error) {
	digits := int64(0)
	if a.n == 2 {
		digits = min(max(toInt64(a.v[1]), 0), 30)
	}
	r := toFloat(realSQLite(a.v[0]))
	switch {
	case r < -4503599627370496.0 || r > 4503599627370496.0:
		// No fraction to round.
	case digits == 0:
		r = float64(int64(r + math.Copysign(0.5, r)))
	default:
		r = roundDecimal(r, int(digits))
	}
	return realOrNull(r), nil
}

// trimmer is trim, ltrim and rtrim: they remove the characters of the second
// argument, spaces by default.
func trimmer(left, right bool) func(o Options, a few) (source.Value, error) {
	return func(o Options, a few) (source.Value, error) {
		s := textOf(o, a.v[0])
		cut := " "
		if a.n == 2 {
			cut = textOf(o, a.v[1])
			if o.Engine == SQLite {
				cut, _, _ = strings.Cut(cut, "\x00")
			}
		}
		if len(cut) > 1024 {
			return source.Value{}, tooLarge("trim", "the set of characters is longer than 1024 bytes")
		}
		if left {
			for s != "" {
				size := characterSize(s)
				if !containsCharacter(cut, s[:size]) {
					break
				}
				s = s[size:]
			}
		}
		if right {
			for s != "" {
				_, size := utf8.DecodeLastRuneInString(s)
				if !containsCharacter(cut, s[len(s)-size:]) {
					break
				}
				s = s[:len(s)-size]
			}
		}
		return source.String(s), nil
	}
}

func characterSize(s string) int {
	_, size := utf8.DecodeRuneInString(s)
	return size
}

func containsCharacter(set, c string) bool {
	for set != "" {
		size := characterSize(set)
		if set[:size] == c {
			return true
		}
		set = set[size:]
	}
	return false
}

// replace is replace(x, from, to); an empty from changes nothing.
func replace(o Options, a few) (source.Value, error) {
	if a.v[0].IsNull() || a.v[1].IsNull() {
		return source.Value{}, nil
	}
	if from := textOf(o, a.v[1]); from == "" || (o.Engine == SQLite && from[0] == 0) {
		return source.String(textOf(o, a.v[0])), nil
	}
	if a.v[2].IsNull() {
		return source.Value{}, nil
	}
	s, from, to := textOf(o, a.v[0]), textOf(o, a.v[1]), textOf(o, a.v[2])
	n := strings.Count(s, from)
	if grown := len(s) + n*(len(to)-len(from)); grown > MaxText && grown > len(s) {
		return source.Value{}, tooLarge("replace", "the result is longer than %d bytes", MaxText)
	}
	return source.String(strings.ReplaceAll(s, from, to)), nil
}
