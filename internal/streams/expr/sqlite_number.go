package expr

import (
	"math"
	"strconv"
	"strings"

	"github.com/millrace-sync/millrace/internal/source"
)

// numberForm says what a text looks like to SQLite.
type numberForm uint8

const (
	formNone    numberForm = iota // not a number as a whole; it may begin with an integer
	formPrefix                    // begins with a real, and goes on
	formInteger                   // digits with an optional sign, and white space around
	formReal                      // the same with a fraction or an exponent
)

type intState uint8

const (
	intExact    intState = iota // the text as a whole is an integer that fits
	intPrefix                   // the text begins with one, or with none, which gives 0
	intOverflow                 // it does not fit; the value is saturated
)

// parseFloatSQLite reads the number at the start of s as SQLite converts text to a
// real, and says what s looks like.
func parseFloatSQLite(s string) (float64, numberForm) {
	s, _, _ = strings.Cut(s, "\x00")
	s = strings.TrimLeft(s, " \t\n\v\f\r")
	n, real := scanNumber(s)
	if n == 0 {
		return 0, formNone
	}
	rest := s[n:]
	f := decimalText(s[:n])
	whole := strings.TrimLeft(rest, " \t\n\v\f\r") == ""
	switch {
	case whole && real:
		return f, formReal
	case whole:
		return f, formInteger
	case real:
		return f, formPrefix
	}
	return f, formNone
}

// decimalText converts a number as scanNumber delimits it. SQLite looks at the first
// 19 or 20 significant digits only.
func decimalText(s string) float64 {
	negative := s[0] == '-'
	var digits uint64
	exp, fraction := 0, false
	i := 0
	for ; i < len(s) && s[i] != 'e' && s[i] != 'E'; i++ {
		switch c := s[i]; {
		case c == '.':
			fraction = true
		case !isDigit(c):
		case digits < (math.MaxUint64-9)/10:
			digits = digits*10 + uint64(c-'0')
			if fraction {
				exp--
			}
		case !fraction:
			exp++
		}
	}
	if i < len(s) {
		e, err := strconv.Atoi(s[i+1:])
		if err != nil || e > 10000 || e < -10000 {
			e = 10000
			if s[i+1] == '-' {
				e = -10000
			}
		}
		exp += e
	}
	f := decimalValue(digits, exp)
	if negative {
		return -f
	}
	return f
}

// parseIntSQLite reads the integer at the start of s.
func parseIntSQLite(s string) (int64, intState) {
	s = strings.TrimLeft(s, " \t\n\v\f\r")
	n := 0
	if n < len(s) && (s[n] == '+' || s[n] == '-') {
		n++
	}
	start := n
	for n < len(s) && isDigit(s[n]) {
		n++
	}
	if n == start {
		return 0, intPrefix
	}
	i, err := strconv.ParseInt(s[:n], 10, 64)
	switch {
	case err != nil:
		return i, intOverflow
	case strings.TrimLeft(s[n:], " \t\n\v\f\r") != "":
		return i, intPrefix
	}
	return i, intExact
}

func intValueText(s string) int64 {
	i, _ := parseIntSQLite(s)
	return i
}

// numericText returns the number that a text operand of arithmetic stands for.
func numericText(s string) source.Value {
	f, form := parseFloatSQLite(s)
	if form == formInteger || form == formNone {
		// A NUL ends the number for one of the two only.
		if i, state := parseIntSQLite(s); state == intExact || (state == intPrefix && form == formNone) {
			return source.Int(i)
		}
	}
	return realOrNull(f)
}

func toNumberSQLite(v source.Value) source.Value {
	if v.Kind() == source.KindText || v.Kind() == source.KindBlob {
		return numericText(v.Str())
	}
	return v
}

// numericSQLite is CAST AS NUMERIC: text that is an integral real gives an integer if
// that has at most 51 bits.
func numericSQLite(v source.Value) source.Value {
	if v.Kind() != source.KindText && v.Kind() != source.KindBlob {
		return v
	}
	n := numericText(v.Str())
	if n.Kind() == source.KindReal {
		if i := floatToInt(n.Real()); float64(i) == n.Real() && i >= -1<<51 && i < 1<<51 {
			return source.Int(i)
		}
	}
	return n
}

func realSQLite(v source.Value) source.Value {
	if v.Kind() == source.KindText || v.Kind() == source.KindBlob {
		f, _ := parseFloatSQLite(v.Str())
		return realOrNull(f)
	}
	return source.Real(toFloat(v))
}

func arithSQLite(op byte, a, b source.Value) source.Value {
	m, n := toInt64(a), toInt64(b) // of text, not of the real that it may stand for
	a, b = toNumberSQLite(a), toNumberSQLite(b)
	x, xok := a.Int()
	y, yok := b.Int()
	if xok && yok {
		if r, ok := intArith(op, x, y); ok {
			return r
		}
	}
	f, g := toFloat(a), toFloat(b)
	switch op {
	case '+':
		return realOrNull(f + g)
	case '-':
		return realOrNull(f - g)
	case '*':
		return realOrNull(f * g)
	case '/':
		if g == 0 {
			return source.Value{}
		}
		return realOrNull(f / g)
	}
	if n == 0 {
		return source.Value{}
	}
	if n == -1 {
		n = 1
	}
	return source.Real(float64(m % n))
}

// textSQLite returns the text of a value that is not NULL.
func textSQLite(v source.Value) string {
	switch v.Kind() {
	case source.KindInteger:
		return integerDigits(v)
	case source.KindReal:
		return formatRealSQLite(v.Real())
	}
	return v.Str()
}
