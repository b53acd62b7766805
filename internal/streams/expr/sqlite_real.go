package expr

import (
	"math"
	"math/bits"
	"strconv"
)

// formatRealSQLite returns the text of a real as SQLite 3.53 gives it: up to 17
// significant digits, fewer where the shorter form reads back as the same number
// and the digits end in a run of nines or zeros, and always a point.
func formatRealSQLite(f float64) string {
	switch {
	case f == 0:
		return "0.0"
	case math.IsInf(f, 1):
		return "Inf"
	case math.IsInf(f, -1):
		return "-Inf"
	}
	var buf [40]byte
	dst := buf[:0]
	if f < 0 {
		dst = append(dst, '-')
		f = -f
	}
	digits, point := decimalDigits(f)
	if point < -3 || point > 17 {
		return string(appendExponent(dst, digits, point-1))
	}
	return string(appendFixed(dst, digits, point))
}

// appendFixed appends digits with the point before the digit at position point.
func appendFixed(dst, digits []byte, point int) []byte {
	if point <= 0 {
		dst = append(dst, '0', '.')
		for ; point < 0; point++ {
			dst = append(dst, '0')
		}
		return append(dst, digits...)
	}
	for i := range point {
		if i < len(digits) {
			dst = append(dst, digits[i])
		} else {
			dst = append(dst, '0')
		}
	}
	dst = append(dst, '.')
	if point >= len(digits) {
		return append(dst, '0')
	}
	return append(dst, digits[point:]...)
}

func appendExponent(dst, digits []byte, exp int) []byte {
	dst = append(dst, digits[0], '.')
	if len(digits) == 1 {
		dst = append(dst, '0')
	}
	dst = append(dst, digits[1:]...)
	dst = append(dst, 'e')
	if exp < 0 {
		dst = append(dst, '-')
		exp = -exp
	} else {
		dst = append(dst, '+')
	}
	if exp < 10 {
		dst = append(dst, '0')
	}
	return strconv.AppendInt(dst, int64(exp), 10)
}

// decimalDigits returns the significant digits that SQLite prints for f > 0, and
// the position of the decimal point among them.
func decimalDigits(f float64) (digits []byte, point int) {
	z, point := firstDigits(f)
	n := len(z)
	exp := point - n
	keep := 17
	if n > 17 {
		switch {
		case z[14] == '9' && z[15] == '9':
			j := 14
			for j > 0 && z[j-1] == '9' {
				j--
			}
			if f == decimalValue(prefixNumber(z, j)+1, exp+n-j) {
				keep = j + 1
			}
		case point >= n || (z[13] == '0' && z[14] == '0' && z[15] == '0'):
			j := 13
			for j > 1 && z[j-1] == '0' {
				j--
			}
			if f == decimalValue(prefixNumber(z, j), exp+n-j) {
				keep = j + 1
			}
		}
		roundUp := z[keep] >= '5'
		z = z[:keep]
		if roundUp {
			z, point = incrementDigits(z, point)
		}
	}
	for len(z) > 1 && z[len(z)-1] == '0' {
		z = z[:len(z)-1]
	}
	return z, point
}

func incrementDigits(z []byte, point int) ([]byte, int) {
	for j := len(z) - 1; j >= 0; j-- {
		if z[j] != '9' {
			z[j]++
			return z, point
		}
		z[j] = '0'
	}
	return append([]byte{'1'}, z...), point + 1
}

// prefixNumber returns the first j digits as a number.
func prefixNumber(z []byte, j int) uint64 {
	var n uint64
	for _, c := range z[:j] {
		n = n*10 + uint64(c-'0')
	}
	return n
}

// decimalValue returns the real nearest to d times ten to the power of exp.
func decimalValue(d uint64, exp int) float64 {
	var buf [32]byte
	b := strconv.AppendUint(buf[:0], d, 10)
	b = append(b, 'e')
	b = strconv.AppendInt(b, int64(exp), 10)
	f, _ := strconv.ParseFloat(string(b), 64)
	return f
}

// firstDigits returns the first 18 or 19 significant digits of f > 0, rounded half
// up, and the position of the point. There are 19 where f reaches the next power of
// ten that its binary exponent alone does not.
func firstDigits(f float64) (z []byte, point int) {
	m := math.Float64bits(f)
	exp := int(m >> 52 & 0x7FF)
	m &= 1<<52 - 1
	if exp == 0 {
		exp = -1074 - bits.LeadingZeros64(m) + 63
	} else {
		exp -= 1023
	}
	least := exp * 78913 >> 18 // the decimal exponent of 2^exp
	var buf [48]byte
	// The digits beyond those that decide are enough to tell a tie.
	e := strconv.AppendFloat(buf[:0], f, 'e', 30, 64)
	all := append([]byte{e[0]}, e[2:32]...)
	exp10, _ := strconv.Atoi(string(e[33:]))
	n := 18 + exp10 - least
	z, point = all[:n], exp10+1
	if all[n] >= '5' {
		z, point = incrementDigits(z, point)
	}
	return z, point
}

// roundDecimal rounds to a number of digits after the point, half away from zero in
// terms of the first 18 or 19 significant digits.
func roundDecimal(f float64, digits int) float64 {
	if f == 0 {
		return f
	}
	z, point := firstDigits(math.Abs(f))
	keep := point + digits
	if keep < 0 || (keep == 0 && z[0] < '5') {
		return math.Copysign(0, f)
	}
	if keep < len(z) {
		up := z[keep] >= '5'
		z = append([]byte{'0'}, z[:keep]...)
		point++
		if up {
			z, point = incrementDigits(z, point)
		}
	}
	return math.Copysign(decimalValue(prefixNumber(z, len(z)), point-len(z)), f)
}
