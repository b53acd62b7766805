package expr

import (
	"cmp"
	"math"
	"math/big"
	"strings"
	"unicode/utf8"

	"github.com/millrace-sync/millrace/internal/source"
)

// Compare orders two values as the comparison operators do: null, then numbers by
// value, then text, then blobs; no conversions. In the Reference engine text is
// ordered by UTF-16 units and two blobs give an ErrValue.
func Compare(a, b source.Value, o Options) (int, error) {
	if o.Engine == SQLite {
		return compareSQLite(a, b), nil
	}
	return compareReference(a, b)
}

// Truth reports whether a filter that gives v admits the row.
func Truth(v source.Value, o Options) bool {
	if v.Kind() == source.KindInteger {
		i, ok := v.Int()
		return !ok || i != 0
	}
	if o.Engine == SQLite {
		return truthSQLite(v)
	}
	return truthReference(v)
}

// Typeof returns the name that typeof() gives.
func Typeof(v source.Value) string { return v.Kind().String() }

func truthReference(v source.Value) bool {
	switch v.Kind() {
	case source.KindInteger:
		i, ok := v.Int()
		return !ok || i != 0
	case source.KindReal:
		f := v.Real()
		return f != 0 && f == f
	case source.KindText:
		return leadingIntegerNonzero(v.Str())
	}
	return false
}

func truthSQLite(v source.Value) bool {
	switch v.Kind() {
	case source.KindInteger:
		i, ok := v.Int()
		return !ok || i != 0
	case source.KindReal:
		f := v.Real()
		return f != 0 && f == f
	case source.KindText, source.KindBlob:
		f, _ := parseFloatSQLite(v.Str())
		return f != 0
	}
	return false
}

// leadingIntegerNonzero reports whether the integer at the start of s is not zero,
// as JavaScript's parseInt reads it; no integer counts as zero.
func leadingIntegerNonzero(s string) bool {
	s = trimSpaceJS(s)
	if s != "" && (s[0] == '+' || s[0] == '-') {
		s = s[1:]
	}
	for i := 0; i < len(s) && isDigit(s[i]); i++ {
		if s[i] != '0' {
			return true
		}
	}
	return false
}

// rank orders kinds: null, number, text, blob.
func rank(k source.ValueKind) int {
	switch k {
	case source.KindNull:
		return 0
	case source.KindInteger, source.KindReal:
		return 1
	case source.KindText:
		return 2
	}
	return 3
}

func compareReference(a, b source.Value) (int, error) {
	ra, rb := rank(a.Kind()), rank(b.Kind())
	if ra != rb {
		return cmp.Compare(ra, rb), nil
	}
	switch ra {
	case 1:
		return compareNumbers(a, b), nil
	case 2:
		return compareUTF16(a.Str(), b.Str()), nil
	case 3:
		return 0, badValue("compare", "the default expression engine cannot compare two blobs; compare hex(…) of them instead")
	}
	return 0, nil
}

func compareSQLite(a, b source.Value) int {
	ra, rb := rank(a.Kind()), rank(b.Kind())
	if ra != rb {
		return cmp.Compare(ra, rb)
	}
	switch ra {
	case 1:
		return compareNumbers(a, b)
	case 2, 3:
		return strings.Compare(a.Str(), b.Str())
	}
	return 0
}

// compareNumbers compares two numbers by their exact mathematical value. NaN is
// less than every other number, so that the order stays total; the operators give
// NULL for it before they come here.
func compareNumbers(a, b source.Value) int {
	x, xok := a.Int()
	y, yok := b.Int()
	if xok && yok {
		return cmp.Compare(x, y)
	}
	if a.Kind() == source.KindReal && b.Kind() == source.KindReal {
		return cmp.Compare(a.Real(), b.Real())
	}
	switch {
	case xok && b.Kind() == source.KindReal:
		return compareIntFloat(x, b.Real())
	case yok && a.Kind() == source.KindReal:
		return -compareIntFloat(y, a.Real())
	}
	if f := a.Real(); a.Kind() == source.KindReal && (math.IsNaN(f) || math.IsInf(f, 0)) {
		return cmp.Compare(f, 0)
	}
	if f := b.Real(); b.Kind() == source.KindReal && (math.IsNaN(f) || math.IsInf(f, 0)) {
		return cmp.Compare(0, f)
	}
	return bigRat(a).Cmp(bigRat(b))
}

func compareIntFloat(i int64, f float64) int {
	switch {
	case math.IsNaN(f):
		return 1
	case f < -9223372036854775808.0:
		return 1
	case f >= 9223372036854775808.0:
		return -1
	}
	t := int64(f)
	if i != t {
		return cmp.Compare(i, t)
	}
	return -cmp.Compare(f-float64(t), 0)
}

// bigRat returns a finite number exactly.
func bigRat(v source.Value) *big.Rat {
	if v.Kind() == source.KindReal {
		return new(big.Rat).SetFloat64(v.Real())
	}
	return new(big.Rat).SetInt(bigInt(v))
}

// bigInt returns an integer value.
func bigInt(v source.Value) *big.Int {
	if i, ok := v.Int(); ok {
		return big.NewInt(i)
	}
	n, ok := new(big.Int).SetString(v.BigDigits(), 10)
	if !ok {
		return new(big.Int)
	}
	return n
}

// compareUTF16 compares two strings by their UTF-16 code units. That differs from
// the order of the bytes only where a character beyond U+FFFF meets one between
// U+D800 and U+FFFF.
func compareUTF16(a, b string) int {
	n := min(len(a), len(b))
	i := 0
	for i < n && a[i] == b[i] {
		i++
	}
	if i == n {
		return cmp.Compare(len(a), len(b))
	}
	if a[i] < 0xED || b[i] < 0xED {
		return cmp.Compare(a[i], b[i])
	}
	ua, ub := firstUnit(a[i:]), firstUnit(b[i:])
	if ua != ub {
		return cmp.Compare(ua, ub)
	}
	return cmp.Compare(a[i], b[i])
}

// firstUnit returns the first UTF-16 unit of the character that s begins with; a
// lone surrogate is in s as three bytes.
func firstUnit(s string) rune {
	r, size := utf8.DecodeRuneInString(s)
	if r == utf8.RuneError && size <= 1 {
		if u, ok := loneSurrogate(s); ok {
			return u
		}
		return r
	}
	if r > 0xFFFF {
		return 0xD800 + (r-0x10000)>>10
	}
	return r
}

// loneSurrogate decodes a surrogate written as three bytes, as substring leaves one
// when it cuts a pair in two.
func loneSurrogate(s string) (rune, bool) {
	if len(s) >= 3 && s[0] == 0xED && s[1] >= 0xA0 && s[1] <= 0xBF && s[2] >= 0x80 && s[2] <= 0xBF {
		return 0xD000 | rune(s[1]&0x3F)<<6 | rune(s[2]&0x3F), true
	}
	return 0, false
}
