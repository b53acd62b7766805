package record

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"unsafe"

	"github.com/millrace-sync/millrace/internal/storage"
)

// Decoder reads a stored value. It never reads past the end: the first attempt to
// do so makes it bad, and everything after reads as zero.
type Decoder struct {
	rest []byte
	bad  bool
}

// NewDecoder returns a Decoder of value, which it does not copy.
func NewDecoder(value []byte) Decoder { return Decoder{rest: value} }

// Rest returns what has not been read yet.
func (d *Decoder) Rest() []byte { return d.rest }

// Fail makes the decoder bad: what it has read makes no sense.
func (d *Decoder) Fail() { d.rest, d.bad = nil, true }

// Bytes reads n bytes, which it does not copy.
func (d *Decoder) Bytes(n uint64) []byte {
	if n > uint64(len(d.rest)) {
		d.Fail()
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

// U8 reads a byte.
func (d *Decoder) U8() byte {
	if b := d.Bytes(1); b != nil {
		return b[0]
	}
	return 0
}

// U32 reads four bytes, the high one first.
func (d *Decoder) U32() uint32 {
	if b := d.Bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// U64 reads eight bytes, the high one first.
func (d *Decoder) U64() uint64 {
	if b := d.Bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// Uvarint reads a number of variable length.
func (d *Decoder) Uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.Fail()
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// Text reads a length and so many bytes, which it does not copy.
func (d *Decoder) Text() []byte { return d.Bytes(d.Uvarint()) }

// Str reads a text and copies it.
func (d *Decoder) Str() string { return string(d.Text()) }

// Shared is like Str, but the string shares the bytes read: they must never
// change again.
func (d *Decoder) Shared() string {
	b := d.Text()
	return unsafe.String(unsafe.SliceData(b), len(b))
}

// Count reads the number of the items that follow, each of which takes at least
// one byte: so a wrong count cannot make the caller allocate without bound.
func (d *Decoder) Count() int {
	n := d.Uvarint()
	if n > uint64(len(d.rest)) {
		d.Fail()
		return 0
	}
	return int(n)
}

// End returns ErrCorrupt unless the value was read exactly to its end.
func (d *Decoder) End(what string) error {
	if d.bad {
		return fmt.Errorf("decode %s: value ends early: %w", what, storage.ErrCorrupt)
	}
	if len(d.rest) > 0 {
		return fmt.Errorf("decode %s: %d bytes left over: %w", what, len(d.rest), storage.ErrCorrupt)
	}
	return nil
}

// UvarintLen returns the length of a number of variable length.
func UvarintLen(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

// AppendText appends a text and its length before it.
func AppendText[T string | []byte](dst []byte, s T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}
