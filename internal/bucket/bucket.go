// Package bucket holds the operations that clients download, their order and
// their checksums: the arithmetic that lets a client know it has everything.
//
// Compact, which storage runs, drops what no client needs any more.
//
// It is pure: no I/O, no clock. Storage persists these values, sessions send
// them, clients (and the tests' model client) reduce them.
//
// Invariants:
//   - An OpID is used once, ever, and OpIDs of one store only grow.
//   - A bucket's checksum at an OpID is the wrapping sum of the checksums of its
//     ops up to there. Compaction keeps every such sum that a client may hold (see Compact).
package bucket

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strconv"
)

// OpID is an operation's place in the one global order of a store. 0 is before
// the first; it never names an operation.
type OpID uint64

// MaxOpID is the largest id that clients can hold: they store a signed 64-bit integer.
const MaxOpID OpID = 1<<63 - 1

// String returns the decimal form that the protocol uses.
func (id OpID) String() string { return strconv.FormatUint(uint64(id), 10) }

// ParseOpID reads the protocol's decimal form.
func ParseOpID(s string) (OpID, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("operation id %q is not a decimal number from 0 to %d", s, MaxOpID)
	}
	return OpID(n), nil
}

// OpKind is what an operation does to the row entry it names.
type OpKind uint8

// The kinds of operation.
const (
	Put    OpKind = iota + 1 // the entry is now Data
	Remove                   // the entry is gone
	Move                     // nothing: stands in for a superseded op, to keep the sum
	Clear                    // every earlier op of the bucket is void
)

// String returns the protocol's word.
func (k OpKind) String() string {
	switch k {
	case Put:
		return "PUT"
	case Remove:
		return "REMOVE"
	case Move:
		return "MOVE"
	case Clear:
		return "CLEAR"
	}
	return "unknown"
}

// Subkey tells apart the entries of one bucket that have the same object type
// and id but come from different source rows. It is a keyed hash of the source
// row's identity: stable, unique, and saying nothing about the row.
type Subkey [16]byte

// SubkeyFor derives a row's Subkey from the store's secret, its table and its
// identity.
func SubkeyFor(secret [32]byte, table uint32, rowKey string) Subkey {
	buf := make([]byte, 0, 128)
	buf = append(buf, secret[:]...)
	buf = binary.BigEndian.AppendUint32(buf, table)
	buf = append(buf, rowKey...)
	h := sha256.Sum256(buf)
	return Subkey(h[:16])
}

// String returns the form sent to clients: 22 characters of base64url.
func (s Subkey) String() string { return base64.RawURLEncoding.EncodeToString(s[:]) }

// AppendText appends the form sent to clients.
func (s Subkey) AppendText(dst []byte) ([]byte, error) {
	return base64.RawURLEncoding.AppendEncode(dst, s[:]), nil
}

// Checksum is a sum of operation checksums modulo 2³².
type Checksum uint32

// Signed returns the form that the protocol uses for buckets.
func (c Checksum) Signed() int32 { return int32(c) }

// ContentHash identifies the content of a PUT: the first eight bytes,
// little-endian, of SHA-256 over "put.{objectType}.{objectID}.{data}". Its low
// half is the op's checksum.
func ContentHash(objectType, objectID string, data []byte) uint64 {
	var stack [512]byte
	buf := append(stack[:0], "put."...)
	buf = append(buf, objectType...)
	buf = append(buf, '.')
	buf = append(buf, objectID...)
	buf = append(buf, '.')
	buf = append(buf, data...)
	h := sha256.Sum256(buf)
	return binary.LittleEndian.Uint64(h[:8])
}

// PutChecksum returns the checksum of a PUT with the given ContentHash: the first
// four bytes, little-endian, of the same SHA-256.
func PutChecksum(contentHash uint64) Checksum { return Checksum(uint32(contentHash)) }

// RemoveChecksum returns the checksum of a REMOVE: the first four bytes,
// little-endian, of SHA-256 over "delete.{subkey}".
func RemoveChecksum(s Subkey) Checksum {
	buf, _ := s.AppendText(append(make([]byte, 0, 32), "delete."...))
	h := sha256.Sum256(buf)
	return Checksum(binary.LittleEndian.Uint32(h[:4]))
}

// Op is one operation of a bucket.
type Op struct {
	ID   OpID
	Kind OpKind
	// Checksum is PutChecksum or RemoveChecksum when an op is made. It belongs to the
	// op's place: a compaction may put another row there, see Compact.
	Checksum Checksum
	// The rest is set for Put and Remove.
	Subkey     Subkey
	ObjectType string
	ObjectID   string
	// Data is the row as JSON text, for Put.
	Data []byte
}

// State sums up a bucket's operations up to Last.
type State struct {
	Last     OpID
	Count    int64 // operations in storage, of all kinds
	Checksum Checksum
	Bytes    int64 // of their Data
}

// Add returns the state after op, which must follow Last.
func (s State) Add(op *Op) State {
	s.Last = op.ID
	s.Count++
	s.Checksum += op.Checksum
	s.Bytes += int64(len(op.Data))
	return s
}
