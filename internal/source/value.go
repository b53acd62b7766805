package source

import (
	"math"
	"strconv"
)

// ValueKind is the storage class that SQLite would give a value.
type ValueKind uint8

// The kinds, in SQLite's comparison order.
const (
	KindNull ValueKind = iota
	KindInteger
	KindReal
	KindText
	KindBlob
)

// String returns the name that SQLite's typeof() gives.
func (k ValueKind) String() string {
	switch k {
	case KindNull:
		return "null"
	case KindInteger:
		return "integer"
	case KindReal:
		return "real"
	case KindText:
		return "text"
	case KindBlob:
		return "blob"
	}
	return "unknown"
}

// Value is one value as SQLite knows it: null, integer, real, text or blob. The
// zero Value is null. Values are immutable and comparable with ==, which
// compares kind and exact content (so 1 ≠ 1.0, and NaN equals itself).
type Value struct {
	s    string // text, blob, or the digits of an integer beyond 64 bits
	n    uint64 // the integer, or the real's bits
	kind ValueKind
}

// Int returns an integer.
func Int(i int64) Value { return Value{kind: KindInteger, n: uint64(i)} }

// BigInt returns an integer given by its decimal digits, for results of
// arithmetic that leave 64 bits: the reference's default expression semantics
// has integers without bound. Digits that fit int64 give the same Value as Int.
func BigInt(digits string) Value {
	if i, err := strconv.ParseInt(digits, 10, 64); err == nil {
		return Int(i)
	}
	return Value{kind: KindInteger, s: digits}
}

// Bool returns the integer 1 or 0.
func Bool(b bool) Value {
	if b {
		return Int(1)
	}
	return Int(0)
}

// Real returns a floating-point number.
func Real(f float64) Value { return Value{kind: KindReal, n: math.Float64bits(f)} }

// String returns a text value; for the text form of any Value see the expression
// evaluator's cast.
func String(s string) Value { return Value{kind: KindText, s: s} }

// Blob returns a blob whose bytes are those of s.
func Blob(s string) Value { return Value{kind: KindBlob, s: s} }

// Kind returns the value's storage class.
func (v Value) Kind() ValueKind { return v.kind }

// IsNull reports whether v is null.
func (v Value) IsNull() bool { return v.kind == KindNull }

// Int returns an integer's value, and false if it is beyond 64 bits or v is no integer.
func (v Value) Int() (int64, bool) {
	return int64(v.n), v.kind == KindInteger && v.s == ""
}

// BigDigits returns the decimal digits of an integer beyond 64 bits, else "".
func (v Value) BigDigits() string {
	if v.kind == KindInteger {
		return v.s
	}
	return ""
}

// Real returns a real's value; 0 for another kind.
func (v Value) Real() float64 {
	if v.kind != KindReal {
		return 0
	}
	return math.Float64frombits(v.n)
}

// Str returns the content of a text or blob; "" for another kind.
func (v Value) Str() string {
	if v.kind == KindText || v.kind == KindBlob {
		return v.s
	}
	return ""
}
