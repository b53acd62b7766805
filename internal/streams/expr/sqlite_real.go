package expr

import (
	"math"
	"math/big"
	"math/bits"
	"strconv"
	"sync"
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

// firstDigits returns the first 18 or 19 significant digits of f > 0, and the
// position of the point. They come from one multiplication of 64 bits by 64 as in
// SQLite, so that the last digit is off now and then exactly where SQLite's is.
func firstDigits(f float64) (z []byte, point int) {
	v := math.Float64bits(f)
	e := int(v >> 52 & 0x7FF)
	v &= 1<<52 - 1
	if e == 0 {
		n := bits.LeadingZeros64(v)
		v <<= n
		e = -1074 - n
	} else {
		v = v<<11 | 1<<63
		e -= 1086
	}
	p := 17 - (e+63)*78913>>18                         // 78913/2¹⁸ is the decimal logarithm of 2
	h, _ := bits.Mul64(v, powersOfTen()[p-leastPower]) // the product without its lower half
	h >>= -(e + binaryExponent(p) + 2)                 // twice the digits wanted
	d := (h + h<<1&2) >> 1                             // rounded half up
	z = strconv.AppendUint(make([]byte, 0, 24), d, 10)
	return z, len(z) - p
}

const leastPower, greatestPower = -348, 347

// binaryExponent returns the binary logarithm of 10 to the power of p, rounded down.
func binaryExponent(p int) int { return p * 108853 >> 15 }

// powersOfTen returns the leading 64 bits of 10 to the powers from leastPower.
var powersOfTen = sync.OnceValue(func() *[greatestPower - leastPower + 1]uint64 {
	var powers [greatestPower - leastPower + 1]uint64
	ten := big.NewInt(10)
	for i := range powers {
		p := leastPower + i
		shift := 63 - binaryExponent(p)
		n := new(big.Int).Exp(ten, big.NewInt(int64(max(p, -p))), nil)
		switch {
		case p < 0:
			n.Quo(new(big.Int).Lsh(big.NewInt(1), uint(shift)), n)
		case shift < 0:
			n.Rsh(n, uint(-shift))
		default:
			n.Lsh(n, uint(shift))
		}
		powers[i] = n.Uint64()
	}
	return &powers
})

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
