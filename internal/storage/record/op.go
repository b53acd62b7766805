// Package record encodes the values that every store keeps: ops, row records,
// definitions, deploys. The stores call it; keys, and what only one of them keeps,
// they encode themselves, with its Decoder.
//
// Its encodings are part of the format that storage.FormatVersion numbers.
//
// Invariants:
//   - What is appended is decoded to an equal value.
//   - Bytes that no Append function wrote are decoded to a value or to
//     storage.ErrCorrupt, at a cost in proportion to their length.
package record

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/storage"
)

// An op is its kind u8, checksum u32 and, for PUT and REMOVE, subkey, object type
// and id as texts, then the data to the end.

func hasEntry(k bucket.OpKind) bool { return k == bucket.Put || k == bucket.Remove }

// OpLen returns how many bytes AppendOp appends.
func OpLen(op *bucket.Op) int {
	if !hasEntry(op.Kind) {
		return 5
	}
	return 5 + len(op.Subkey) +
		UvarintLen(uint64(len(op.ObjectType))) + len(op.ObjectType) +
		UvarintLen(uint64(len(op.ObjectID))) + len(op.ObjectID) + len(op.Data)
}

// AppendOp appends an op, but for its id.
func AppendOp(dst []byte, op *bucket.Op) []byte {
	dst = binary.BigEndian.AppendUint32(append(dst, byte(op.Kind)), uint32(op.Checksum))
	if !hasEntry(op.Kind) {
		return dst
	}
	dst = append(dst, op.Subkey[:]...)
	dst = AppendText(dst, op.ObjectType)
	dst = AppendText(dst, op.ObjectID)
	return append(dst, op.Data...)
}

// OpDecoder decodes consecutive ops. Object ids are copied into chunks that are
// never written again, so that the strings handed out stay valid at a hundredth
// of an allocation each.
type OpDecoder struct {
	chunk      []byte
	objectType string // of the op before, which mostly is the same
}

// Chunks grow, as most reads are of a few ops.
const minChunkLen, maxChunkLen = 128, 4 << 10

// Decode fills op, but for its ID, from value, whose bytes op.Data shares.
func (d *OpDecoder) Decode(op *bucket.Op, value []byte) error {
	r := NewDecoder(value)
	op.Kind, op.Checksum = bucket.OpKind(r.U8()), bucket.Checksum(r.U32())
	switch op.Kind {
	case bucket.Put, bucket.Remove:
		copy(op.Subkey[:], r.Bytes(uint64(len(op.Subkey))))
		if t := r.Text(); string(t) != d.objectType {
			d.objectType = string(t)
		}
		op.ObjectType = d.objectType
		op.ObjectID = d.intern(r.Text())
		op.Data = r.Bytes(uint64(len(r.rest)))
		if op.Kind == bucket.Remove && len(op.Data) > 0 {
			return fmt.Errorf("decode op %s: a REMOVE with data: %w", op.ID, storage.ErrCorrupt)
		}
	case bucket.Move, bucket.Clear:
		*op = bucket.Op{ID: op.ID, Kind: op.Kind, Checksum: op.Checksum}
	default:
		return fmt.Errorf("decode op %s: unknown kind %d: %w", op.ID, op.Kind, storage.ErrCorrupt)
	}
	return r.End("op")
}

func (d *OpDecoder) intern(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if len(b) > minChunkLen {
		return string(b)
	}
	if cap(d.chunk)-len(d.chunk) < len(b) {
		d.chunk = make([]byte, 0, max(minChunkLen, min(2*cap(d.chunk), maxChunkLen)))
	}
	n := len(d.chunk)
	d.chunk = append(d.chunk, b...)
	return unsafe.String(&d.chunk[n], len(b))
}
