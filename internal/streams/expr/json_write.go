package expr

import (
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/millrace-sync/millrace/internal/source"
)

// AppendJSON appends the form that v has in a row sent to clients: integers as
// plain digits however large, reals as JavaScript prints them with .0 if they are
// integral, text as AppendString, NaN, infinities and NULL as null. A blob has no
// such form: ok is false and the key is to be left out.
func AppendJSON(dst []byte, v source.Value) (out []byte, ok bool) {
	switch v.Kind() {
	case source.KindInteger:
		if i, ok := v.Int(); ok {
			return strconv.AppendInt(dst, i, 10), true
		}
		return append(dst, v.BigDigits()...), true
	case source.KindReal:
		return appendRealJSON(dst, v.Real()), true
	case source.KindText:
		return AppendString(dst, v.Str()), true
	case source.KindBlob:
		return dst, false
	}
	return append(dst, "null"...), true
}

// AppendParam appends the form that v has among a bucket's parameters, where equal
// numbers look the same: 1 and 1.0 are both 1. It reports false for NULL, NaN,
// infinities and blobs, which match no bucket.
func AppendParam(dst []byte, v source.Value) ([]byte, bool) {
	switch v.Kind() {
	case source.KindInteger, source.KindText:
		return AppendJSON(dst, v)
	case source.KindReal:
		f := v.Real()
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return dst, false
		}
		return appendNumberJS(dst, f), true
	}
	return dst, false
}

// appendRealJSON appends a real so that it stays one: 3.0, not 3.
func appendRealJSON(dst []byte, f float64) []byte {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return append(dst, "null"...)
	}
	dst = appendNumberJS(dst, f)
	if f == math.Trunc(f) && math.Abs(f) < 1e21 {
		dst = append(dst, '.', '0')
	}
	return dst
}

// appendNumberJS appends a number as JavaScript's String gives it.
func appendNumberJS(dst []byte, f float64) []byte {
	switch {
	case f == 0:
		return append(dst, '0')
	case f != f:
		return append(dst, "NaN"...)
	case math.IsInf(f, 1):
		return append(dst, "Infinity"...)
	case math.IsInf(f, -1):
		return append(dst, "-Infinity"...)
	}
	if a := math.Abs(f); a >= 1e-6 && a < 1e21 {
		return strconv.AppendFloat(dst, f, 'f', -1, 64)
	}
	dst = strconv.AppendFloat(dst, f, 'e', -1, 64)
	// Go writes at least two digits of exponent, JavaScript none in vain.
	if n := len(dst); dst[n-2] == '0' && (dst[n-3] == '-' || dst[n-3] == '+') {
		dst[n-2] = dst[n-1]
		dst = dst[:n-1]
	}
	return dst
}

// isSafe marks the ASCII characters that stand for themselves in a JSON string.
var isSafe = func() (t [256]bool) {
	for c := byte(0x20); c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

const hexDigits = "0123456789abcdef"

// AppendString appends s as a JSON string as JavaScript's JSON.stringify does: no
// escapes for HTML, U+2028 raw, lone surrogates as \ud800. Bytes that are not UTF-8
// become U+FFFD.
func AppendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if isSafe[c] {
			i++
			continue
		}
		if c < utf8.RuneSelf {
			dst = append(dst, s[start:i]...)
			dst = appendEscape(dst, c)
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r != utf8.RuneError || size > 1 {
			i += size
			continue
		}
		dst = append(dst, s[start:i]...)
		if u, ok := loneSurrogate(s[i:]); ok {
			dst = append(dst, '\\', 'u', 'd', hexDigits[u>>8&0xF], hexDigits[u>>4&0xF], hexDigits[u&0xF])
			i += 3
		} else {
			dst = append(dst, "\uFFFD"...)
			i++
		}
		start = i
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

func appendEscape(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\b':
		return append(dst, '\\', 'b')
	case '\f':
		return append(dst, '\\', 'f')
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xF])
}
