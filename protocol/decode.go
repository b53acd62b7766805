package protocol

import (
	"fmt"
	"math"
)

// LineError says that a line is not one that the protocol allows.
type LineError struct {
	// Where is the path of the part concerned, such as "checkpoint.buckets"; it may
	// be empty.
	Where string
	What  string
}

func (e *LineError) Error() string {
	if e.Where == "" {
		return "protocol line: " + e.What
	}
	return "protocol line: " + e.Where + ": " + e.What
}

func lineError(where, format string, args ...any) error {
	return &LineError{Where: where, What: fmt.Sprintf(format, args...)}
}

// DecodeLine reads one line: a line of text, with or without its line feed, or a
// BSON document. Byte slices in the result may alias src. A line of an unknown kind
// is an *Unknown; anything else that the protocol does not allow is a *LineError.
func (c Codec) DecodeLine(src []byte) (Line, error) {
	var d decoder
	return d.line(c, src)
}

// decoder holds the space that decoding lines takes, for use by one line after the
// other.
type decoder struct {
	ops     []Op
	scratch []byte
	// object is the last object type, which most ops of a chunk share.
	object string
}

func (d *decoder) line(c Codec, src []byte) (Line, error) {
	if c == BSON {
		return d.bsonLine(src)
	}
	return d.jsonLine(src, c == JSONLinesEmbedded)
}

// objectType returns b as a string, without allocating if it is the last one again.
func (d *decoder) objectType(b []byte) string {
	if string(b) != d.object {
		d.object = string(b)
	}
	return d.object
}

// The fields that an op must have.
const (
	hasID = 1 << iota
	hasKind
	hasChecksum
)

func checkOp(where string, op *Op, seen int) error {
	switch {
	case seen&hasID == 0:
		return lineError(where, "op_id is missing")
	case seen&hasKind == 0:
		return lineError(where, "op is missing")
	case seen&hasChecksum == 0:
		return lineError(where, "checksum is missing")
	case op.ID == 0:
		return lineError(where, "op_id is 0")
	case op.Kind == Put && op.Data == nil:
		return lineError(where, "a PUT without data")
	case op.Kind != Put && op.Data != nil:
		return lineError(where, "a %s with data", op.Kind)
	}
	return nil
}

// checksum brings the number forms that servers use to one: the value modulo 2³².
func checksum(n int64) (uint32, bool) {
	return uint32(n), n >= math.MinInt32 && n <= math.MaxUint32
}

// The fields that a stream must have.
const (
	hasName = 1 << iota
	hasDefault
	hasErrors
	hasAll = hasName | hasDefault | hasErrors
)
