package protocol

import (
	"bytes"
	"encoding/binary"
	"math"
	"unicode/utf8"
)

// bsonDoc iterates over the elements of a document.
type bsonDoc struct {
	rest []byte // what is left, without the closing zero
	// The current element.
	typ byte
	key []byte
	val []byte
}

// openBSON checks the frame of the document at the start of b, which it must fill.
func openBSON(b []byte) (bsonDoc, bool) {
	if len(b) < 5 || uint64(binary.LittleEndian.Uint32(b)) != uint64(len(b)) || b[len(b)-1] != 0 {
		return bsonDoc{}, false
	}
	return bsonDoc{rest: b[4 : len(b)-1]}, true
}

// next moves to the next element. It returns false at the end, and if what follows
// is not an element, in which case bad is true too.
func (d *bsonDoc) next() (more, bad bool) {
	if len(d.rest) == 0 {
		return false, false
	}
	d.typ = d.rest[0]
	end := bytes.IndexByte(d.rest[1:], 0)
	if end < 0 {
		return false, true
	}
	d.key = d.rest[1 : 1+end]
	after := d.rest[2+end:]
	n, ok := bsonSize(d.typ, after)
	if !ok || n > len(after) {
		return false, true
	}
	d.val, d.rest = after[:n:n], after[n:]
	return true, false
}

// bsonSize returns how many bytes the value of a type takes at the start of b; it
// may be more than there are.
func bsonSize(typ byte, b []byte) (int, bool) {
	fixed := func(n int) (int, bool) { return n, true }
	// prefixed is a value whose first four bytes count what follows fixed bytes.
	prefixed := func(extra, least int) (int, bool) {
		if len(b) < 4 {
			return 0, false
		}
		n := int64(int32(binary.LittleEndian.Uint32(b)))
		if n < int64(least) || n+int64(extra) > math.MaxInt32 {
			return 0, false
		}
		return int(n) + extra, true
	}
	switch typ {
	case bsonDouble, 0x09, 0x11, bsonInt64: // double, time, timestamp, int64
		return fixed(8)
	case bsonString, 0x0D, 0x0E: // string, code, symbol
		return prefixed(4, 1)
	case bsonDocument, bsonArray, 0x0F: // document, array, code with scope
		return prefixed(0, 5)
	case 0x05: // binary
		return prefixed(5, 0)
	case 0x07: // object id
		return fixed(12)
	case bsonBool:
		return fixed(1)
	case 0x06, bsonNull, 0xFF, 0x7F: // undefined, null, least and greatest key
		return fixed(0)
	case bsonInt32:
		return fixed(4)
	case 0x13: // decimal
		return fixed(16)
	case 0x0B: // regular expression: two C strings
		first := bytes.IndexByte(b, 0)
		if first < 0 {
			return 0, false
		}
		second := bytes.IndexByte(b[first+1:], 0)
		if second < 0 {
			return 0, false
		}
		return first + second + 2, true
	}
	return 0, false
}

// str returns the value of a string element.
func (d *bsonDoc) str() ([]byte, bool) {
	if d.typ != bsonString || d.val[len(d.val)-1] != 0 {
		return nil, false
	}
	s := d.val[4 : len(d.val)-1 : len(d.val)-1]
	return s, utf8.Valid(s)
}

// integer returns the value of a number element that is whole.
func (d *bsonDoc) integer() (int64, bool) {
	switch d.typ {
	case bsonInt32:
		return int64(int32(binary.LittleEndian.Uint32(d.val))), true
	case bsonInt64:
		return int64(binary.LittleEndian.Uint64(d.val)), true
	case bsonDouble:
		return wholeNumber(math.Float64frombits(binary.LittleEndian.Uint64(d.val)))
	}
	return 0, false
}

func (d *bsonDoc) null() bool { return d.typ == bsonNull || d.typ == 0x06 }

// bsonReader reads one line. The first error sticks; reads after it give zeros.
type bsonReader struct {
	d     *decoder
	where string
	err   error
}

func (d *decoder) bsonLine(src []byte) (Line, error) {
	r := &bsonReader{d: d}
	var line Line
	doc, ok := openBSON(src)
	if !ok {
		return nil, lineError("", "not a BSON document")
	}
	r.each(doc, func(e *bsonDoc) {
		if line != nil {
			r.fail("more than one key")
			return
		}
		line = r.line(e)
	})
	if r.err != nil {
		return nil, r.err
	}
	if line == nil {
		return nil, lineError("", "no key")
	}
	return line, nil
}

func (r *bsonReader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = lineError(r.where, format, args...)
	}
}

// each calls f with each element of a document.
func (r *bsonReader) each(d bsonDoc, f func(e *bsonDoc)) {
	for r.err == nil {
		more, bad := d.next()
		if bad {
			r.fail("BSON that breaks off")
		}
		if !more {
			return
		}
		f(&d)
	}
}

// within calls f with each element of the document or array that e is.
func (r *bsonReader) within(e *bsonDoc, typ byte, f func(e *bsonDoc)) {
	doc, ok := openBSON(e.val)
	if e.typ != typ || !ok {
		r.fail("%.40q has the wrong type", e.key)
		return
	}
	r.each(doc, f)
}

func (r *bsonReader) str(e *bsonDoc) []byte {
	b, ok := e.str()
	if !ok {
		r.fail("%.40q is not a string", e.key)
	}
	return b
}

// optionalStr reads a string or null, for which it returns nil.
func (r *bsonReader) optionalStr(e *bsonDoc) []byte {
	if e.null() {
		return nil
	}
	return r.str(e)
}

func (r *bsonReader) id(e *bsonDoc) uint64 {
	b := r.str(e)
	if r.err != nil {
		return 0
	}
	n, ok := parseID(b)
	if !ok {
		r.fail("%.40q is not a decimal id", b)
	}
	return n
}

func (r *bsonReader) integer(e *bsonDoc) int64 {
	n, ok := e.integer()
	if !ok {
		r.fail("%.40q is not a whole number", e.key)
	}
	return n
}

func (r *bsonReader) position(e *bsonDoc) int {
	n := r.integer(e)
	if n < 0 || n > 1<<31-1 {
		r.fail("%.40q is out of range", e.key)
	}
	return int(n)
}

func (r *bsonReader) sum(e *bsonDoc) uint32 {
	c, ok := checksum(r.integer(e))
	if !ok {
		r.fail("checksum does not fit 32 bits")
	}
	return c
}

func (r *bsonReader) boolean(e *bsonDoc) bool {
	if e.typ != bsonBool || e.val[0] > 1 {
		r.fail("%.40q is not a boolean", e.key)
		return false
	}
	return e.val[0] == 1
}

func (r *bsonReader) line(e *bsonDoc) Line {
	r.where = string(e.key)
	switch r.where {
	case "data":
		return r.data(e)
	case "checkpoint":
		return r.checkpoint(e)
	case "checkpoint_diff":
		return r.checkpointDiff(e)
	case "partial_checkpoint_complete":
		return r.partialComplete(e)
	case "checkpoint_complete":
		return r.complete(e)
	case "token_expires_in":
		return &TokenExpiresIn{Seconds: int(r.integer(e))}
	}
	return &Unknown{Key: r.where}
}

func (r *bsonReader) checkpoint(e *bsonDoc) *Checkpoint {
	l := new(Checkpoint)
	var seen bool
	r.within(e, bsonDocument, func(e *bsonDoc) {
		switch string(e.key) {
		case "last_op_id":
			seen = true
			l.LastOpID = r.id(e)
		case "write_checkpoint":
			if !e.null() {
				l.WriteCheckpoint = r.id(e)
			}
		case "buckets":
			l.Buckets = r.buckets(e)
		case "streams":
			l.Streams = r.streams(e)
		}
	})
	if !seen {
		r.fail("last_op_id is missing")
	}
	return l
}

func (r *bsonReader) checkpointDiff(e *bsonDoc) *CheckpointDiff {
	l := new(CheckpointDiff)
	var seen bool
	r.within(e, bsonDocument, func(e *bsonDoc) {
		switch string(e.key) {
		case "last_op_id":
			seen = true
			l.LastOpID = r.id(e)
		case "write_checkpoint":
			if !e.null() {
				l.WriteCheckpoint = r.id(e)
			}
		case "removed_buckets":
			l.RemovedBuckets = nil
			r.within(e, bsonArray, func(e *bsonDoc) {
				l.RemovedBuckets = append(l.RemovedBuckets, string(r.str(e)))
			})
		case "updated_buckets":
			l.UpdatedBuckets = r.buckets(e)
		}
	})
	if !seen {
		r.fail("last_op_id is missing")
	}
	return l
}

func (r *bsonReader) buckets(e *bsonDoc) (list []Bucket) {
	r.within(e, bsonArray, func(e *bsonDoc) {
		b := Bucket{Priority: defaultPriority}
		var name, sum bool
		r.within(e, bsonDocument, func(e *bsonDoc) {
			if e.null() {
				return
			}
			switch string(e.key) {
			case "bucket":
				name = true
				b.Name = string(r.str(e))
			case "checksum":
				sum = true
				b.Checksum = r.sum(e)
			case "count":
				b.Count = r.integer(e)
			case "priority":
				b.Priority = r.position(e)
			case "subscriptions":
				b.Defaults, b.Subscriptions = nil, nil
				r.within(e, bsonArray, func(e *bsonDoc) { r.ref(e, &b) })
			}
		})
		if !name || !sum {
			r.fail("a bucket without name or checksum")
		}
		list = append(list, b)
	})
	return list
}

func (r *bsonReader) ref(e *bsonDoc, b *Bucket) {
	n := 0
	r.within(e, bsonDocument, func(e *bsonDoc) {
		n++
		switch string(e.key) {
		case "default":
			b.Defaults = append(b.Defaults, r.position(e))
		case "sub":
			b.Subscriptions = append(b.Subscriptions, r.position(e))
		default:
			r.fail("a subscription of unknown kind %.40q", e.key)
		}
	})
	if n != 1 {
		r.fail("a subscription with %d keys", n)
	}
}

func (r *bsonReader) streams(e *bsonDoc) (list []Stream) {
	r.within(e, bsonArray, func(e *bsonDoc) {
		var s Stream
		seen := 0
		r.within(e, bsonDocument, func(e *bsonDoc) {
			switch string(e.key) {
			case "name":
				seen |= hasName
				s.Name = string(r.str(e))
			case "is_default":
				seen |= hasDefault
				s.Default = r.boolean(e)
			case "errors":
				seen |= hasErrors
				s.Errors = nil
				r.within(e, bsonArray, func(e *bsonDoc) {
					s.Errors = append(s.Errors, r.streamError(e))
				})
			}
		})
		if seen != hasAll {
			r.fail("a stream without name, is_default or errors")
		}
		list = append(list, s)
	})
	return list
}

func (r *bsonReader) streamError(e *bsonDoc) StreamError {
	out := StreamError{Subscription: DefaultSubscription}
	r.within(e, bsonDocument, func(e *bsonDoc) {
		switch string(e.key) {
		case "subscription":
			// Any string stands for the default subscription.
			if out.Subscription = DefaultSubscription; e.typ != bsonString {
				out.Subscription = r.position(e)
			}
		case "message":
			out.Message = string(r.str(e))
		}
	})
	return out
}

func (r *bsonReader) data(e *bsonDoc) *DataChunk {
	l := new(DataChunk)
	var seen bool
	r.d.ops = r.d.ops[:0]
	r.within(e, bsonDocument, func(e *bsonDoc) {
		switch string(e.key) {
		case "bucket":
			seen = true
			l.Bucket = string(r.str(e))
		case "after":
			l.After = r.id(e)
		case "has_more":
			l.HasMore = r.boolean(e)
		case "next_after":
			l.NextAfter = r.id(e)
		case "data":
			r.d.ops = r.d.ops[:0]
			r.within(e, bsonArray, r.op)
		}
	})
	if !seen {
		r.fail("bucket is missing")
	}
	l.Ops = r.d.ops
	return l
}

func (r *bsonReader) op(e *bsonDoc) {
	var op Op
	seen := 0
	r.within(e, bsonDocument, func(e *bsonDoc) {
		switch string(e.key) {
		case "op_id":
			seen |= hasID
			op.ID = r.id(e)
		case "op":
			seen |= hasKind
			b := r.str(e)
			var ok bool
			if op.Kind, ok = parseOpKind(b); !ok {
				r.fail("unknown op %.40q", b)
			}
		case "object_type":
			op.ObjectType = r.d.objectType(r.optionalStr(e))
		case "object_id":
			op.ObjectID = string(r.optionalStr(e))
		case "checksum":
			seen |= hasChecksum
			op.Checksum = r.sum(e)
		case "subkey":
			op.Subkey = r.optionalStr(e)
		case "data":
			op.Data = r.optionalStr(e)
		}
	})
	if r.err == nil {
		r.err = checkOp(r.where, &op, seen)
	}
	r.d.ops = append(r.d.ops, op)
}

func (r *bsonReader) partialComplete(e *bsonDoc) *PartialCheckpointComplete {
	l := new(PartialCheckpointComplete)
	seen := 0
	r.within(e, bsonDocument, func(e *bsonDoc) {
		switch string(e.key) {
		case "last_op_id":
			seen |= 1
			l.LastOpID = r.id(e)
		case "priority":
			seen |= 2
			l.Priority = r.position(e)
		}
	})
	if seen != 3 {
		r.fail("last_op_id or priority is missing")
	}
	return l
}

func (r *bsonReader) complete(e *bsonDoc) *CheckpointComplete {
	l := new(CheckpointComplete)
	var seen bool
	r.within(e, bsonDocument, func(e *bsonDoc) {
		if string(e.key) == "last_op_id" {
			seen = true
			l.LastOpID = r.id(e)
		}
	})
	if !seen {
		r.fail("last_op_id is missing")
	}
	return l
}
