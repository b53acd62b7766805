package pgtypes

import (
	"encoding/binary"
	"math"
	"strconv"

	"github.com/millrace-sync/millrace/internal/source"
)

// The codecs of numbers other than integers.
var (
	numericCodec = codec{parse: verbatim, unpack: unpackNumeric}
	float4Codec  = codec{parse: parseFloat, unpack: unpackFloat4, direct: directFloat4}
	float8Codec  = codec{parse: parseFloat, unpack: unpackFloat8, direct: directFloat8}
)

// The signs of numeric's send form.
const (
	numericPositive = 0x0000
	numericNegative = 0x4000
	numericNaN      = 0xC000
	numericPosInf   = 0xD000
	numericNegInf   = 0xF000
)

// unpackNumeric prints base-10000 digits, of which weight+1 stand before the
// point, with exactly scale decimal digits after it.
func unpackNumeric(dst, b []byte) ([]byte, error) {
	if len(b) < 8 {
		return dst, malformed("a numeric of %d bytes", len(b))
	}
	count := int(binary.BigEndian.Uint16(b))
	weight := int(int16(binary.BigEndian.Uint16(b[2:])))
	sign := binary.BigEndian.Uint16(b[4:])
	scale := int(binary.BigEndian.Uint16(b[6:]))
	digits := b[8:]
	if len(digits) != 2*count || scale > math.MaxInt16 {
		return dst, malformed("a numeric of %d digits, scale %d, in %d bytes", count, scale, len(b))
	}
	digit := func(i int) uint64 {
		if i < 0 || i >= count {
			return 0
		}
		return uint64(binary.BigEndian.Uint16(digits[2*i:]))
	}
	for i := range count {
		if digit(i) > 9999 {
			return dst, malformed("a numeric's digit of %d", digit(i))
		}
	}
	switch sign {
	case numericNaN:
		return append(dst, "NaN"...), nil
	case numericPosInf:
		return append(dst, "Infinity"...), nil
	case numericNegInf:
		return append(dst, "-Infinity"...), nil
	case numericNegative:
		dst = append(dst, '-')
	case numericPositive:
	default:
		return dst, malformed("a numeric's sign of %#x", sign)
	}
	if weight < 0 {
		dst = append(dst, '0')
	} else {
		dst = strconv.AppendUint(dst, digit(0), 10)
		for i := 1; i <= weight; i++ {
			dst = appendFour(dst, digit(i))
		}
	}
	if scale > 0 {
		dst = append(dst, '.')
		end := len(dst) + scale
		for i := weight + 1; len(dst) < end; i++ {
			dst = appendFour(dst, digit(i))
		}
		dst = dst[:end]
	}
	return dst, nil
}

// appendFour prints four decimal digits.
func appendFour(dst []byte, n uint64) []byte {
	return append(dst, '0'+byte(n/1000), '0'+byte(n/100%10), '0'+byte(n/10%10), '0'+byte(n%10))
}

func parseFloat(s string, _ source.Form) (source.Value, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return source.Value{}, malformed("a floating-point number is not decimal digits within 64 bits")
	}
	return source.Real(f), nil
}

func readFloat4(b []byte) (float32, error) {
	if len(b) != 4 {
		return 0, malformed("a float4 of %d bytes", len(b))
	}
	return math.Float32frombits(binary.BigEndian.Uint32(b)), nil
}

func readFloat8(b []byte) (float64, error) {
	if len(b) != 8 {
		return 0, malformed("a float8 of %d bytes", len(b))
	}
	return math.Float64frombits(binary.BigEndian.Uint64(b)), nil
}

func directFloat8(b []byte, _ source.Form) (source.Value, error) {
	f, err := readFloat8(b)
	if err != nil {
		return source.Value{}, err
	}
	if f != f {
		f = math.NaN() // as above
	}
	return source.Real(f), nil
}

// directFloat4 gives the double nearest to the shortest digits of the float, so
// that 1.1 stays 1.1: what reading its text gives.
func directFloat4(b []byte, _ source.Form) (source.Value, error) {
	f, err := readFloat4(b)
	if err != nil {
		return source.Value{}, err
	}
	d := float64(f)
	switch {
	case d != d:
		return source.Real(math.NaN()), nil // NaNs of any payload print alike
	case d == math.Trunc(d) && math.Abs(d) < 1<<24 || math.IsInf(d, 0):
		return source.Real(d), nil
	}
	var buf [64]byte
	d, err = strconv.ParseFloat(share(appendShortest(buf[:0], d, 32)), 64)
	if err != nil {
		return source.Value{}, malformed("a float4: %v", err)
	}
	return source.Real(d), nil
}

func unpackFloat4(dst, b []byte) ([]byte, error) {
	f, err := readFloat4(b)
	if err != nil {
		return dst, err
	}
	return appendFloat(dst, float64(f), 32), nil
}

func unpackFloat8(dst, b []byte) ([]byte, error) {
	f, err := readFloat8(b)
	if err != nil {
		return dst, err
	}
	return appendFloat(dst, f, 64), nil
}
