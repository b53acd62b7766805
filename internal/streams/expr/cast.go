package expr

import (
	"math"
	"math/big"
	"strconv"

	"github.com/millrace-sync/millrace/internal/source"
)

// cast is CAST(a AS typ).
func (c *compiler) cast(typ string, a operand) operand {
	var f func(source.Value) source.Value
	sqlite := c.Engine == SQLite
	aff := affNumeric
	switch typ {
	case "text":
		aff = affText
		f = func(v source.Value) source.Value { return source.String(textReference(v)) }
		if sqlite {
			f = func(v source.Value) source.Value { return source.String(textSQLite(v)) }
		}
	case "blob":
		aff = affBlob
		f = func(v source.Value) source.Value { return source.Blob(bytesReference(v)) }
		if sqlite {
			f = func(v source.Value) source.Value { return source.Blob(textSQLite(v)) }
		}
	case "integer":
		f = integerReference
		if sqlite {
			f = func(v source.Value) source.Value { return source.Int(toInt64(v)) }
		}
	case "real":
		f = func(v source.Value) source.Value { return realOrNull(toFloat(toNumberReference(v))) }
		if sqlite {
			f = realSQLite
		}
	default:
		f = toNumberReference
		if sqlite {
			f = numericSQLite
		}
	}
	res := strict1(a, func(v source.Value) (source.Value, error) { return f(v), nil })
	res.aff = aff
	return res
}

// textReference returns the text of a value that is not NULL, as JavaScript gives
// it: 3.0 is "3". Bytes of a blob that are not UTF-8 become U+FFFD.
func textReference(v source.Value) string {
	switch v.Kind() {
	case source.KindInteger:
		return integerDigits(v)
	case source.KindReal:
		var buf [32]byte
		return string(appendNumberJS(buf[:0], v.Real()))
	case source.KindBlob:
		return decodeUTF8(v.Str())
	}
	return v.Str()
}

// bytesReference returns the bytes of a value that is not NULL.
func bytesReference(v source.Value) string {
	if v.Kind() == source.KindBlob {
		return v.Str()
	}
	return textReference(v)
}

func integerDigits(v source.Value) string {
	if i, ok := v.Int(); ok {
		return strconv.FormatInt(i, 10)
	}
	return v.BigDigits()
}

// integerReference floors reals and reads the leading digits of text.
func integerReference(v source.Value) source.Value {
	switch v.Kind() {
	case source.KindReal:
		f := math.Floor(v.Real())
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return source.Value{}
		}
		if i := floatToInt(f); i != math.MinInt64 && i != math.MaxInt64 {
			return source.Int(i)
		}
		n, _ := new(big.Float).SetFloat64(f).Int(nil)
		return source.BigInt(n.String())
	case source.KindText, source.KindBlob:
		s := trimSpaceJS(v.Str())
		n := 0
		if n < len(s) && (s[n] == '+' || s[n] == '-') {
			n++
		}
		start := n
		for n < len(s) && isDigit(s[n]) {
			n++
		}
		if n == start {
			return source.Int(0)
		}
		// Digits beyond the bound have no integer here; the nearest real has one.
		if i := integerText(s[:n]); i.Kind() == source.KindInteger {
			return i
		} else if f := i.Real(); !math.IsInf(f, 0) {
			return integerReference(i)
		}
		return source.Value{}
	}
	return v
}
