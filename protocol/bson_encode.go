package protocol

import (
	"encoding/binary"
	"math"
	"strconv"
)

// The BSON element types that the protocol uses.
const (
	bsonDouble   = 0x01
	bsonString   = 0x02
	bsonDocument = 0x03
	bsonArray    = 0x04
	bsonBool     = 0x08
	bsonNull     = 0x0A
	bsonInt32    = 0x10
	bsonInt64    = 0x12
)

func beginBSONData(dst []byte, bucket string, after uint64) ([]byte, DataMark) {
	var w DataMark
	dst, w.line = beginBSON(dst)
	dst, w.doc = beginBSONElement(dst, bsonDocument, "data")
	dst = appendBSONString(dst, "bucket", bucket)
	dst = appendBSONUint(dst, "after", after)
	dst = appendBSONBool(dst, "has_more", false)
	w.more = len(dst) - 1
	dst, w.ops = beginBSONElement(dst, bsonArray, "data")
	return dst, w
}

func appendBSONOp(dst []byte, w *DataMark, op *Op) []byte {
	dst, doc := beginBSONItem(dst, bsonDocument, w.n)
	w.n++
	dst = appendBSONUint(dst, "op_id", op.ID)
	dst = appendBSONString(dst, "op", op.Kind.String())
	switch op.Kind {
	case Put, Remove:
		dst = appendBSONString(dst, "object_type", op.ObjectType)
		dst = appendBSONString(dst, "object_id", op.ObjectID)
		dst = appendBSONNumber(dst, "checksum", int64(op.Checksum))
		dst = appendBSONString(dst, "subkey", op.Subkey)
	case Clear:
		// The reference sums the ops that a CLEAR stands for as a signed number.
		dst = appendBSONNumber(dst, "checksum", int64(int32(op.Checksum)))
	default:
		dst = appendBSONNumber(dst, "checksum", int64(op.Checksum))
	}
	if op.Kind == Put {
		dst = appendBSONString(dst, "data", op.Data)
	} else {
		dst = append(dst, bsonNull)
		dst = append(dst, "data\x00"...)
	}
	return endBSON(dst, doc)
}

func endBSONData(dst []byte, w DataMark, hasMore bool, nextAfter uint64) []byte {
	if hasMore {
		dst[w.more] = 1
	}
	dst = endBSON(dst, w.ops)
	dst = appendBSONUint(dst, "next_after", nextAfter)
	return endBSON(endBSON(dst, w.doc), w.line)
}

func appendBSONCheckpoint(dst []byte, l *Checkpoint) []byte {
	dst, line := beginBSON(dst)
	dst, doc := beginBSONElement(dst, bsonDocument, "checkpoint")
	dst = appendBSONPosition(dst, l.LastOpID, l.WriteCheckpoint)
	dst = appendBSONBuckets(dst, "buckets", l.Buckets)
	dst, streams := beginBSONElement(dst, bsonArray, "streams")
	for i := range l.Streams {
		s := &l.Streams[i]
		var stream, errs int
		dst, stream = beginBSONItem(dst, bsonDocument, i)
		dst = appendBSONString(dst, "name", s.Name)
		dst = appendBSONBool(dst, "is_default", s.Default)
		dst, errs = beginBSONElement(dst, bsonArray, "errors")
		for j, e := range s.Errors {
			var item int
			dst, item = beginBSONItem(dst, bsonDocument, j)
			if e.Subscription == DefaultSubscription {
				dst = appendBSONString(dst, "subscription", "default")
			} else {
				dst = appendBSONNumber(dst, "subscription", int64(e.Subscription))
			}
			dst = appendBSONString(dst, "message", e.Message)
			dst = endBSON(dst, item)
		}
		dst = endBSON(endBSON(dst, errs), stream)
	}
	dst = endBSON(dst, streams)
	return endBSON(endBSON(dst, doc), line)
}

func appendBSONCheckpointDiff(dst []byte, l *CheckpointDiff) []byte {
	dst, line := beginBSON(dst)
	dst, doc := beginBSONElement(dst, bsonDocument, "checkpoint_diff")
	dst = appendBSONPosition(dst, l.LastOpID, l.WriteCheckpoint)
	dst, removed := beginBSONElement(dst, bsonArray, "removed_buckets")
	for i, name := range l.RemovedBuckets {
		dst = append(dst, bsonString)
		dst = strconv.AppendInt(dst, int64(i), 10)
		dst = append(dst, 0)
		dst = appendBSONStringValue(dst, name)
	}
	dst = endBSON(dst, removed)
	dst = appendBSONBuckets(dst, "updated_buckets", l.UpdatedBuckets)
	return endBSON(endBSON(dst, doc), line)
}

func appendBSONPosition(dst []byte, lastOp, writeCheckpoint uint64) []byte {
	dst = appendBSONUint(dst, "last_op_id", lastOp)
	if writeCheckpoint != 0 {
		dst = appendBSONUint(dst, "write_checkpoint", writeCheckpoint)
	}
	return dst
}

func appendBSONBuckets(dst []byte, key string, buckets []Bucket) []byte {
	dst, list := beginBSONElement(dst, bsonArray, key)
	for i := range buckets {
		b := &buckets[i]
		var item, subs int
		dst, item = beginBSONItem(dst, bsonDocument, i)
		dst = appendBSONString(dst, "bucket", b.Name)
		dst = appendBSONNumber(dst, "checksum", int64(int32(b.Checksum)))
		dst = appendBSONNumber(dst, "count", b.Count)
		dst = appendBSONNumber(dst, "priority", int64(b.Priority))
		dst, subs = beginBSONElement(dst, bsonArray, "subscriptions")
		dst = appendBSONRefs(dst, 0, "default", b.Defaults)
		dst = appendBSONRefs(dst, len(b.Defaults), "sub", b.Subscriptions)
		dst = endBSON(endBSON(dst, subs), item)
	}
	return endBSON(dst, list)
}

func appendBSONRefs(dst []byte, first int, key string, refs []int) []byte {
	for i, r := range refs {
		var item int
		dst, item = beginBSONItem(dst, bsonDocument, first+i)
		dst = appendBSONNumber(dst, key, int64(r))
		dst = endBSON(dst, item)
	}
	return dst
}

func appendBSONPartialComplete(dst []byte, l *PartialCheckpointComplete) []byte {
	dst, line := beginBSON(dst)
	dst, doc := beginBSONElement(dst, bsonDocument, "partial_checkpoint_complete")
	dst = appendBSONUint(dst, "last_op_id", l.LastOpID)
	dst = appendBSONNumber(dst, "priority", int64(l.Priority))
	return endBSON(endBSON(dst, doc), line)
}

func appendBSONComplete(dst []byte, l *CheckpointComplete) []byte {
	dst, line := beginBSON(dst)
	dst, doc := beginBSONElement(dst, bsonDocument, "checkpoint_complete")
	dst = appendBSONUint(dst, "last_op_id", l.LastOpID)
	return endBSON(endBSON(dst, doc), line)
}

func appendBSONTokenExpiresIn(dst []byte, l *TokenExpiresIn) []byte {
	dst, line := beginBSON(dst)
	dst = appendBSONNumber(dst, "token_expires_in", int64(l.Seconds))
	return endBSON(dst, line)
}

// beginBSON leaves room for a document's length and returns its place.
func beginBSON(dst []byte) ([]byte, int) {
	return append(dst, 0, 0, 0, 0), len(dst)
}

func beginBSONElement(dst []byte, typ byte, key string) ([]byte, int) {
	dst = append(dst, typ)
	dst = append(dst, key...)
	return append(dst, 0, 0, 0, 0, 0), len(dst) + 1
}

func beginBSONItem(dst []byte, typ byte, index int) ([]byte, int) {
	dst = append(dst, typ)
	dst = strconv.AppendInt(dst, int64(index), 10)
	return append(dst, 0, 0, 0, 0, 0), len(dst) + 1
}

// endBSON closes the document that begins at start.
func endBSON(dst []byte, start int) []byte {
	dst = append(dst, 0)
	binary.LittleEndian.PutUint32(dst[start:], uint32(len(dst)-start))
	return dst
}

func appendBSONString[T string | []byte](dst []byte, key string, s T) []byte {
	dst = append(dst, bsonString)
	dst = append(dst, key...)
	dst = append(dst, 0)
	return appendBSONStringValue(dst, s)
}

func appendBSONStringValue[T string | []byte](dst []byte, s T) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(s)+1))
	dst = append(dst, s...)
	return append(dst, 0)
}

// appendBSONUint appends n as a decimal string, the form of all ids.
func appendBSONUint(dst []byte, key string, n uint64) []byte {
	dst = append(dst, bsonString)
	dst = append(dst, key...)
	dst = append(dst, 0, 0, 0, 0, 0)
	start := len(dst)
	dst = strconv.AppendUint(dst, n, 10)
	dst = append(dst, 0)
	binary.LittleEndian.PutUint32(dst[start-4:], uint32(len(dst)-start))
	return dst
}

// appendBSONNumber appends n as an int32 if it fits, else as a double: what
// JavaScript servers send and clients expect.
func appendBSONNumber(dst []byte, key string, n int64) []byte {
	if n < math.MinInt32 || n > math.MaxInt32 {
		dst = append(dst, bsonDouble)
		dst = append(dst, key...)
		dst = append(dst, 0)
		return binary.LittleEndian.AppendUint64(dst, math.Float64bits(float64(n)))
	}
	dst = append(dst, bsonInt32)
	dst = append(dst, key...)
	dst = append(dst, 0)
	return binary.LittleEndian.AppendUint32(dst, uint32(int32(n)))
}

func appendBSONBool(dst []byte, key string, b bool) []byte {
	dst = append(dst, bsonBool)
	dst = append(dst, key...)
	if b {
		return append(dst, 0, 1)
	}
	return append(dst, 0, 0)
}
