package expr

import (
	"math"
	"math/big"
	"strconv"

	"github.com/millrace-sync/millrace/internal/source"
)

// arith is + - * / % in one engine; neither argument is NULL.
type arith func(a, b source.Value) (source.Value, error)

// realOrNull returns f, or NULL for NaN: no result of an operator is NaN.
func realOrNull(f float64) source.Value {
	if f != f {
		return source.Value{}
	}
	return source.Real(f)
}

// toNumberReference converts an operand of arithmetic: text and blobs give the
// number that they begin with, an integer unless it has a fraction or exponent.
func toNumberReference(v source.Value) source.Value {
	switch v.Kind() {
	case source.KindInteger, source.KindReal:
		return v
	case source.KindText, source.KindBlob:
		return numericPrefix(v.Str())
	}
	return source.Value{}
}

// numericPrefix returns the number at the start of s, or 0.
func numericPrefix(s string) source.Value {
	s = trimSpaceJS(s)
	n, real := scanNumber(s)
	if n == 0 {
		return source.Int(0)
	}
	if real {
		f, _ := strconv.ParseFloat(s[:n], 64)
		return source.Real(f)
	}
	return integerText(s[:n])
}

// integerText returns the integer that the digits, with an optional sign, are. Too
// many digits for the bound give a real.
func integerText(s string) source.Value {
	if i, err := strconv.ParseInt(s, 10, 64); err == nil {
		return source.Int(i)
	}
	if len(s) <= MaxDigits {
		if n, ok := new(big.Int).SetString(s, 10); ok {
			return source.BigInt(n.String())
		}
	}
	f, _ := strconv.ParseFloat(s, 64)
	return source.Real(f)
}

// scanNumber returns the length of the decimal number at the start of s, 0 if there
// is none, and whether it has a fraction or an exponent.
func scanNumber(s string) (n int, real bool) {
	i := 0
	if i < len(s) && (s[i] == '+' || s[i] == '-') {
		i++
	}
	start := i
	for i < len(s) && isDigit(s[i]) {
		i++
	}
	digits := i - start
	if i < len(s) && s[i] == '.' {
		j := i + 1
		for j < len(s) && isDigit(s[j]) {
			j++
		}
		if digits+j-i-1 > 0 {
			digits += j - i - 1
			i, real = j, true
		}
	}
	if digits == 0 {
		return 0, false
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		j := i + 1
		if j < len(s) && (s[j] == '+' || s[j] == '-') {
			j++
		}
		if j < len(s) && isDigit(s[j]) {
			for j < len(s) && isDigit(s[j]) {
				j++
			}
			i, real = j, true
		}
	}
	return i, real
}

func isDigit(c byte) bool { return c-'0' < 10 }

// toFloat converts a number.
func toFloat(v source.Value) float64 {
	switch v.Kind() {
	case source.KindReal:
		return v.Real()
	case source.KindInteger:
		if i, ok := v.Int(); ok {
			return float64(i)
		}
		f, _ := strconv.ParseFloat(v.BigDigits(), 64)
		return f
	}
	return 0
}

// bigResult returns n as a value, or an error beyond MaxDigits.
func bigResult(op string, n *big.Int) (source.Value, error) {
	if n.IsInt64() {
		return source.Int(n.Int64()), nil
	}
	if n.BitLen() > MaxDigits*3322/1000 {
		return source.Value{}, tooLarge(op, "the result has more than %d digits", MaxDigits)
	}
	return source.BigInt(n.String()), nil
}

func arithmetic(op string, e Engine) arith {
	if e == SQLite {
		return func(a, b source.Value) (source.Value, error) { return arithSQLite(op[0], a, b), nil }
	}
	return func(a, b source.Value) (source.Value, error) { return arithReference(op, a, b) }
}

func arithReference(op string, a, b source.Value) (source.Value, error) {
	a, b = toNumberReference(a), toNumberReference(b)
	x, xok := a.Int()
	y, yok := b.Int()
	if xok && yok {
		if r, ok := intArith(op[0], x, y); ok {
			return r, nil
		}
	}
	if a.Kind() == source.KindReal || b.Kind() == source.KindReal {
		f, g := toFloat(a), toFloat(b)
		switch op[0] {
		case '+':
			return realOrNull(f + g), nil
		case '-':
			return realOrNull(f - g), nil
		case '*':
			return realOrNull(f * g), nil
		case '/':
			if g == 0 {
				return source.Value{}, nil
			}
			return realOrNull(f / g), nil
		}
		m, n := floatToInt(f), floatToInt(g)
		if f != f || g != g || n == 0 {
			return source.Value{}, nil
		}
		if n == -1 {
			n = 1
		}
		return source.Real(float64(m % n)), nil
	}
	m, n, r := bigInt(a), bigInt(b), new(big.Int)
	switch op[0] {
	case '+':
		r.Add(m, n)
	case '-':
		r.Sub(m, n)
	case '*':
		r.Mul(m, n)
	default:
		if n.Sign() == 0 {
			return source.Value{}, nil
		}
		if op[0] == '/' {
			r.Quo(m, n)
		} else {
			r.Rem(m, n)
		}
	}
	return bigResult(op, r)
}

// intArith computes within 64 bits; false means that the result does not fit.
func intArith(op byte, x, y int64) (source.Value, bool) {
	switch op {
	case '+':
		r := x + y
		return source.Int(r), (r > x) == (y > 0)
	case '-':
		r := x - y
		return source.Int(r), (r < x) == (y > 0)
	case '*':
		r, ok := mulInt(x, y)
		return source.Int(r), ok
	case '/':
		if y == 0 {
			return source.Value{}, true
		}
		if y == -1 && x == math.MinInt64 {
			return source.Value{}, false
		}
		return source.Int(x / y), true
	}
	if y == 0 {
		return source.Value{}, true
	}
	if y == -1 {
		return source.Int(0), true
	}
	return source.Int(x % y), true
}

func mulInt(x, y int64) (int64, bool) {
	if x == 0 || y == 0 {
		return 0, true
	}
	r := x * y
	if (x == -1 && y == math.MinInt64) || (y == -1 && x == math.MinInt64) || r/y != x {
		return 0, false
	}
	return r, true
}

// floatToInt truncates towards zero and saturates; NaN gives 0.
func floatToInt(f float64) int64 {
	switch {
	case f != f:
		return 0
	case f <= -9223372036854775808.0:
		return math.MinInt64
	case f >= 9223372036854775808.0:
		return math.MaxInt64
	}
	return int64(f)
}

// toInt64 converts an operand of a bit operator, as SQLite does in both engines:
// text gives its leading integer, reals are truncated, everything saturates.
func toInt64(v source.Value) int64 {
	switch v.Kind() {
	case source.KindInteger:
		if i, ok := v.Int(); ok {
			return i
		}
		if v.BigDigits()[0] == '-' {
			return math.MinInt64
		}
		return math.MaxInt64
	case source.KindReal:
		return floatToInt(v.Real())
	case source.KindText, source.KindBlob:
		return intValueText(v.Str())
	}
	return 0
}

func bitOp(op string, a, b source.Value) source.Value {
	x, y := toInt64(a), toInt64(b)
	switch op {
	case "&":
		return source.Int(x & y)
	case "|":
		return source.Int(x | y)
	case "<<":
		return source.Int(shiftLeft(x, y))
	}
	if y == math.MinInt64 {
		return source.Int(shiftLeft(x, math.MaxInt64))
	}
	return source.Int(shiftLeft(x, -y))
}

// shiftLeft shifts to the left, or to the right with the sign if n is negative.
func shiftLeft(x, n int64) int64 {
	switch {
	case n >= 64:
		return 0
	case n >= 0:
		return x << uint(n)
	case n <= -64:
		return x >> 63
	}
	return x >> uint(-n)
}
