package pgtypes

import (
	"bytes"
	"math"
	"strconv"
)

// appendFloat prints f, a float of 32 or 64 bits, as Postgres does with
// extra_float_digits 1: plain where C's %g would be at 6 or 15 digits.
func appendFloat(dst []byte, f float64, bits int) []byte {
	switch {
	case f != f:
		return append(dst, "NaN"...)
	case math.IsInf(f, 1):
		return append(dst, "Infinity"...)
	case math.IsInf(f, -1):
		return append(dst, "-Infinity"...)
	case f == 0:
		return strconv.AppendFloat(dst, f, 'f', -1, bits)
	}
	var buf [64]byte
	b := appendShortest(buf[:0], f, bits)
	e := bytes.IndexByte(b, 'e')
	exp, err := strconv.Atoi(share(b[e+1:]))
	limit := 15
	if bits == 32 {
		limit = 6
	}
	if err != nil || exp < -4 || exp >= limit {
		return append(dst, b...)
	}
	if b[0] == '-' {
		dst = append(dst, '-')
		b = b[1:]
		e--
	}
	digits := append(b[:1], b[min(2, e):e]...) // without the point
	switch {
	case exp < 0:
		dst = append(dst, "0.000"[:1-exp]...)
		return append(dst, digits...)
	case len(digits) <= exp+1:
		dst = append(dst, digits...)
		return append(dst, "00000000000000"[:exp+1-len(digits)]...)
	}
	dst = append(dst, digits[:exp+1]...)
	dst = append(dst, '.')
	return append(dst, digits[exp+1:]...)
}

// appendShortest appends the fewest digits that read back as f, in the form
// 1.5e+10. Postgres, unlike strconv, avoids digits that lie exactly half-way
// between f and its neighbour and read back only by rounding to even.
func appendShortest(dst []byte, f float64, bits int) []byte {
	start := len(dst)
	dst = strconv.AppendFloat(dst, f, 'e', -1, bits)
	if bits == 32 && !nearHalfway32(dst[start:], float32(f)) {
		return dst
	}
	for halfway(dst[start:], f, bits) {
		e := bytes.IndexByte(dst[start:], 'e')
		digits := e // with one for the point
		if f < 0 {
			digits--
		}
		if digits == 1 {
			digits = 2 // there was no point
		}
		dst = strconv.AppendFloat(dst[:start], f, 'e', digits-1, bits)
	}
	return dst
}

// nearHalfway32 tells floats apart that need no closer look at their digits.
func nearHalfway32(digits []byte, f float32) bool {
	d, err := strconv.ParseFloat(share(digits), 64)
	if err != nil {
		return true
	}
	up := math.Nextafter32(f, float32(math.Inf(1)))
	down := math.Nextafter32(f, float32(math.Inf(-1)))
	return d == (float64(f)+float64(up))/2 || d == (float64(f)+float64(down))/2
}

// halfway reports whether the digits, moved away from f by next to nothing, no
// longer read back as f.
func halfway(digits []byte, f float64, bits int) bool {
	exact, err := strconv.ParseFloat(share(digits), 64)
	if err != nil || bits == 64 && exact != f {
		return false
	}
	e := bytes.IndexByte(digits, 'e')
	var b []byte
	for _, away := range []bool{false, true} {
		b = append(b[:0], digits[:e]...)
		if bytes.IndexByte(b, '.') < 0 {
			b = append(b, '.')
		}
		if away {
			b = append(b, "0000000000000000000000000000001"...)
		} else {
			last := len(b) - 1
			if b[last] == '.' {
				last--
			}
			b[last]-- // shortest digits do not end in 0
			b = append(b, "9999999999999999999999999999999"...)
		}
		b = append(b, digits[e:]...)
		if back, err := strconv.ParseFloat(share(b), bits); err != nil || back != f {
			return true
		}
	}
	return false
}
