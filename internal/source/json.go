package source

import (
	"math"
	"strconv"
	"unicode/utf8"
)

// AppendJSON appends v as it stands in the JSON of a synced row: integers as
// plain digits; reals as JavaScript writes numbers, but integral ones with ".0"
// and never with a negative zero; text as a JSON string without HTML escaping.
// Null, blobs, NaN and infinities give null: JSON has no other word for them.
func (v Value) AppendJSON(dst []byte) []byte {
	switch v.kind {
	case KindInteger:
		if v.s != "" {
			return append(dst, v.s...)
		}
		return strconv.AppendInt(dst, int64(v.n), 10)
	case KindReal:
		return appendReal(dst, v.Real())
	case KindText:
		return AppendJSONString(dst, v.s)
	}
	return append(dst, "null"...)
}

// appendReal writes the shortest digits that read back as f, in the notation
// that JavaScript chooses: plain from 1e-6 to below 1e21.
func appendReal(dst []byte, f float64) []byte {
	switch abs := math.Abs(f); {
	case math.IsNaN(f) || math.IsInf(f, 0):
		return append(dst, "null"...)
	case f == 0:
		return append(dst, "0.0"...)
	case abs >= 1e-6 && abs < 1e21:
		dst = strconv.AppendFloat(dst, f, 'f', -1, 64)
		if f == math.Trunc(f) {
			dst = append(dst, ".0"...)
		}
		return dst
	default:
		dst = strconv.AppendFloat(dst, f, 'e', -1, 64)
		// Go pads exponents to two digits ("1e-07"), JavaScript does not.
		if n := len(dst); dst[n-2] == '0' && (dst[n-3] == '+' || dst[n-3] == '-') {
			dst[n-2] = dst[n-1]
			dst = dst[:n-1]
		}
		return dst
	}
}

const hexDigits = "0123456789abcdef"

// AppendJSONString appends s as a JSON string, escaping only what JSON demands.
// Surrogate halves in s (three bytes each, as WTF-8 has them) are written as
// \udXXX; other bytes that are not UTF-8 become U+FFFD.
func AppendJSONString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r != utf8.RuneError || n != 1 {
				i += n
				continue
			}
			dst = append(dst, s[start:i]...)
			if c == 0xED && i+2 < len(s) && s[i+1]&0xE0 == 0xA0 && s[i+2]&0xC0 == 0x80 {
				half := uint16(0xD000) | uint16(s[i+1]&0x3F)<<6 | uint16(s[i+2]&0x3F)
				dst = append(dst, '\\', 'u', 'd', hexDigits[half>>8&0xF], hexDigits[half>>4&0xF], hexDigits[half&0xF])
				i += 3
			} else {
				dst = append(dst, "\uFFFD"...)
				i++
			}
			start = i
			continue
		}
		dst = append(dst, s[start:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\f':
			dst = append(dst, '\\', 'f')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xF])
		}
		i++
		start = i
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}
