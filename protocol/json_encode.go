package protocol

import (
	"encoding/binary"
	"slices"
	"strconv"
)

func beginJSONData(dst []byte, bucket string, after uint64) ([]byte, DataMark) {
	w := DataMark{line: len(dst)}
	dst = append(dst, `{"data":{"bucket":`...)
	dst = appendJSONString(dst, bucket)
	dst = append(dst, `,"after":"`...)
	dst = strconv.AppendUint(dst, after, 10)
	dst = append(dst, `","has_more":`...)
	w.more = len(dst)
	dst = append(dst, `false,"data":[`...)
	return dst, w
}

func appendJSONOp(dst []byte, w *DataMark, op *Op, embed bool) []byte {
	if w.n > 0 {
		dst = append(dst, ',')
	}
	w.n++
	dst = append(dst, `{"op_id":"`...)
	dst = strconv.AppendUint(dst, op.ID, 10)
	switch op.Kind {
	case Put:
		dst = append(dst, `","op":"PUT","object_type":`...)
	case Remove:
		dst = append(dst, `","op":"REMOVE","object_type":`...)
	case Clear:
		// The reference sums the ops that a CLEAR stands for as a signed number.
		dst = append(dst, `","op":"CLEAR","checksum":`...)
		dst = strconv.AppendInt(dst, int64(int32(op.Checksum)), 10)
		return append(dst, `,"data":null}`...)
	default:
		dst = append(dst, `","op":"MOVE","checksum":`...)
		dst = strconv.AppendUint(dst, uint64(op.Checksum), 10)
		return append(dst, `,"data":null}`...)
	}
	dst = appendJSONString(dst, op.ObjectType)
	dst = append(dst, `,"object_id":`...)
	dst = appendJSONString(dst, op.ObjectID)
	dst = append(dst, `,"checksum":`...)
	dst = strconv.AppendUint(dst, uint64(op.Checksum), 10)
	dst = append(dst, `,"subkey":`...)
	dst = appendJSONString(dst, op.Subkey)
	switch {
	case op.Kind == Remove:
		return append(dst, `,"data":null}`...)
	case embed:
		dst = append(dst, `,"data":`...)
		dst = append(dst, op.Data...)
		return append(dst, '}')
	}
	dst = append(dst, `,"data":"`...)
	dst = appendEscaped(dst, op.Data)
	return append(dst, `"}`...)
}

func endJSONData(dst []byte, w DataMark, hasMore bool, nextAfter uint64) []byte {
	if hasMore {
		copy(dst[w.more:], `true `)
	}
	dst = append(dst, `],"next_after":"`...)
	dst = strconv.AppendUint(dst, nextAfter, 10)
	return append(dst, "\"}}\n"...)
}

func appendJSONCheckpoint(dst []byte, l *Checkpoint) []byte {
	dst = append(dst, `{"checkpoint":{"last_op_id":"`...)
	dst = appendJSONPosition(dst, l.LastOpID, l.WriteCheckpoint)
	dst = append(dst, `,"buckets":`...)
	dst = appendJSONBuckets(dst, l.Buckets)
	dst = append(dst, `,"streams":[`...)
	for i := range l.Streams {
		s := &l.Streams[i]
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"name":`...)
		dst = appendJSONString(dst, s.Name)
		dst = append(dst, `,"is_default":`...)
		dst = strconv.AppendBool(dst, s.Default)
		dst = append(dst, `,"errors":[`...)
		for j, e := range s.Errors {
			if j > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, `{"subscription":`...)
			if e.Subscription == DefaultSubscription {
				dst = append(dst, `"default"`...)
			} else {
				dst = strconv.AppendInt(dst, int64(e.Subscription), 10)
			}
			dst = append(dst, `,"message":`...)
			dst = appendJSONString(dst, e.Message)
			dst = append(dst, '}')
		}
		dst = append(dst, `]}`...)
	}
	return append(dst, "]}}\n"...)
}

func appendJSONCheckpointDiff(dst []byte, l *CheckpointDiff) []byte {
	dst = append(dst, `{"checkpoint_diff":{"last_op_id":"`...)
	dst = appendJSONPosition(dst, l.LastOpID, l.WriteCheckpoint)
	dst = append(dst, `,"removed_buckets":[`...)
	for i, name := range l.RemovedBuckets {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendJSONString(dst, name)
	}
	dst = append(dst, `],"updated_buckets":`...)
	dst = appendJSONBuckets(dst, l.UpdatedBuckets)
	return append(dst, "}}\n"...)
}

// appendJSONPosition completes a begun last_op_id and adds the write checkpoint.
func appendJSONPosition(dst []byte, lastOp, writeCheckpoint uint64) []byte {
	dst = strconv.AppendUint(dst, lastOp, 10)
	dst = append(dst, '"')
	if writeCheckpoint != 0 {
		dst = append(dst, `,"write_checkpoint":"`...)
		dst = strconv.AppendUint(dst, writeCheckpoint, 10)
		dst = append(dst, '"')
	}
	return dst
}

func appendJSONBuckets(dst []byte, buckets []Bucket) []byte {
	dst = append(dst, '[')
	for i := range buckets {
		b := &buckets[i]
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"bucket":`...)
		dst = appendJSONString(dst, b.Name)
		dst = append(dst, `,"checksum":`...)
		dst = strconv.AppendInt(dst, int64(int32(b.Checksum)), 10)
		dst = append(dst, `,"count":`...)
		dst = strconv.AppendInt(dst, b.Count, 10)
		dst = append(dst, `,"priority":`...)
		dst = strconv.AppendInt(dst, int64(b.Priority), 10)
		dst = append(dst, `,"subscriptions":[`...)
		dst = appendJSONRefs(dst, `{"default":`, b.Defaults)
		if len(b.Defaults) > 0 && len(b.Subscriptions) > 0 {
			dst = append(dst, ',')
		}
		dst = appendJSONRefs(dst, `{"sub":`, b.Subscriptions)
		dst = append(dst, `]}`...)
	}
	return append(dst, ']')
}

func appendJSONRefs(dst []byte, open string, refs []int) []byte {
	for i, r := range refs {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, open...)
		dst = strconv.AppendInt(dst, int64(r), 10)
		dst = append(dst, '}')
	}
	return dst
}

func appendJSONPartialComplete(dst []byte, l *PartialCheckpointComplete) []byte {
	dst = append(dst, `{"partial_checkpoint_complete":{"last_op_id":"`...)
	dst = strconv.AppendUint(dst, l.LastOpID, 10)
	dst = append(dst, `","priority":`...)
	dst = strconv.AppendInt(dst, int64(l.Priority), 10)
	return append(dst, "}}\n"...)
}

func appendJSONComplete(dst []byte, l *CheckpointComplete) []byte {
	dst = append(dst, `{"checkpoint_complete":{"last_op_id":"`...)
	dst = strconv.AppendUint(dst, l.LastOpID, 10)
	return append(dst, "\"}}\n"...)
}

func appendJSONTokenExpiresIn(dst []byte, l *TokenExpiresIn) []byte {
	dst = append(dst, `{"token_expires_in":`...)
	dst = strconv.AppendInt(dst, int64(l.Seconds), 10)
	return append(dst, "}\n"...)
}

// appendJSONString appends s as a JSON string. It suits short strings, which
// seldom need escapes: it copies first and looks for them in the copy. Row data goes
// through appendEscaped.
func appendJSONString[T string | []byte](dst []byte, s T) []byte {
	dst = append(dst, '"')
	start := len(dst)
	dst = append(dst, s...)
	if !hasSpecial(dst[start:]) {
		return append(dst, '"')
	}
	dst = dst[:start]
	plain := 0
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' {
			dst = append(dst, s[plain:i]...)
			dst = appendEscape(dst, c)
			plain = i + 1
		}
	}
	dst = append(dst, s[plain:]...)
	return append(dst, '"')
}

// hasSpecial reports whether b has a byte that a JSON string must escape.
func hasSpecial(b []byte) bool {
	for len(b) >= 8 {
		if special(binary.LittleEndian.Uint64(b)) != 0 {
			return true
		}
		b = b[8:]
	}
	for _, c := range b {
		if c < 0x20 || c == '"' || c == '\\' {
			return true
		}
	}
	return false
}

const (
	everyByte = 0x0101010101010101
	highBits  = 0x8080808080808080
)

// special marks, in the high bit of each byte, the bytes of w that a JSON string
// must escape. Only the lowest mark is exact: bytes above it may be marked wrongly.
func special(w uint64) uint64 {
	quote := w ^ ('"' * everyByte)
	slash := w ^ ('\\' * everyByte)
	return ((quote-everyByte)&^quote | (slash-everyByte)&^slash | (w-0x20*everyByte)&^w) & highBits
}

// appendEscaped appends the inside of a JSON string whose value is src. Row data
// has a quote every few bytes, at places that no processor can guess. So it goes by
// eight bytes: if one of them needs an escape, it writes all of them with a backslash
// before each, over which the next byte is written unless it is wanted.
func appendEscaped(dst, src []byte) []byte {
	dst = slices.Grow(dst, 2*len(src)+8)
	out, n := dst[:cap(dst)], len(dst)
	i := 0
	for ; i+8 <= len(src); i += 8 {
		w := binary.LittleEndian.Uint64(src[i:])
		binary.LittleEndian.PutUint64(out[n:], w)
		if special(w) == 0 {
			n += 8
			continue
		}
		if (w-0x20*everyByte)&^w&highBits != 0 {
			// Control characters take up to six bytes, more than was reserved.
			dst = appendEachEscaped(out[:n], src[i:i+8])
			dst = slices.Grow(dst, 2*(len(src)-i)+8)
			out, n = dst[:cap(dst)], len(dst)
			continue
		}
		room := out[n : n+16 : n+16]
		k := 0
		for range 8 {
			c := byte(w)
			w >>= 8
			room[k&15] = '\\'
			k += int(needsBackslash[c])
			room[k&15] = c
			k++
		}
		n += k
	}
	return appendEachEscaped(out[:n], src[i:])
}

// needsBackslash is 1 for the bytes that a backslash before them escapes.
var needsBackslash = [256]uint8{'"': 1, '\\': 1}

func appendEachEscaped(dst, src []byte) []byte {
	for _, c := range src {
		if c < 0x20 || c == '"' || c == '\\' {
			dst = appendEscape(dst, c)
		} else {
			dst = append(dst, c)
		}
	}
	return dst
}

func appendEscape(dst []byte, c byte) []byte {
	const hex = "0123456789abcdef"
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\b':
		return append(dst, '\\', 'b')
	case '\t':
		return append(dst, '\\', 't')
	case '\n':
		return append(dst, '\\', 'n')
	case '\f':
		return append(dst, '\\', 'f')
	case '\r':
		return append(dst, '\\', 'r')
	}
	return append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
}
