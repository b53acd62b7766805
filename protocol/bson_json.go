package protocol

import (
	"bytes"
	"encoding/binary"
	"math"
	"strconv"
	"unicode/utf8"
)

// JSONFromBSON rewrites a BSON document as JSON text: what some socket clients send
// in place of a JSON body or of JSON metadata. Whole doubles print as integers,
// NaN and infinities as null; undefined values are left out. Types that JSON has no
// counterpart for are an *Error (BadRequest) that names the key.
func JSONFromBSON(doc []byte) ([]byte, error) {
	w := jsonWriter{dst: make([]byte, 0, len(doc)+len(doc)/4)}
	d, ok := openBSON(doc)
	if !ok {
		return nil, badRequest([]string{"body must be a BSON document"})
	}
	w.document(d, 1)
	if w.mistake != "" {
		return nil, badRequest([]string{w.mistake})
	}
	return w.dst, nil
}

// jsonWriter writes BSON values as JSON until it meets a mistake.
type jsonWriter struct {
	dst     []byte
	mistake string
}

// each calls value with each element, and writes the commas between.
func (w *jsonWriter) each(d bsonDoc, value func(e *bsonDoc)) {
	first := true
	for w.mistake == "" {
		more, bad := d.next()
		if bad {
			w.mistake = "body must be a BSON document without gaps"
		}
		if !more {
			return
		}
		if d.typ == 0x06 {
			continue
		}
		if !first {
			w.dst = append(w.dst, ',')
		}
		first = false
		value(&d)
	}
}

func (w *jsonWriter) document(d bsonDoc, depth int) {
	w.dst = append(w.dst, '{')
	w.each(d, func(e *bsonDoc) {
		w.dst = appendJSONString(w.dst, validUTF8(e.key))
		w.dst = append(w.dst, ':')
		w.value(e, depth)
	})
	w.dst = append(w.dst, '}')
}

func (w *jsonWriter) value(e *bsonDoc, depth int) {
	switch e.typ {
	case bsonDocument, bsonArray:
		d, ok := openBSON(e.val)
		switch {
		case !ok:
			w.mistake = "body must be a BSON document without gaps"
		case depth >= MaxDepth:
			w.mistake = "body must not nest deeper than " + strconv.Itoa(MaxDepth) + " levels"
		case e.typ == bsonDocument:
			w.document(d, depth+1)
		default:
			w.dst = append(w.dst, '[')
			w.each(d, func(e *bsonDoc) { w.value(e, depth+1) })
			w.dst = append(w.dst, ']')
		}
	case bsonString:
		w.dst = appendJSONString(w.dst, validUTF8(e.val[4:len(e.val)-1]))
	case bsonBool:
		w.dst = strconv.AppendBool(w.dst, e.val[0] != 0)
	case bsonNull:
		w.dst = append(w.dst, `null`...)
	case bsonInt32:
		w.dst = strconv.AppendInt(w.dst, int64(int32(binary.LittleEndian.Uint32(e.val))), 10)
	case bsonInt64:
		w.dst = strconv.AppendInt(w.dst, int64(binary.LittleEndian.Uint64(e.val)), 10)
	case bsonDouble:
		f := math.Float64frombits(binary.LittleEndian.Uint64(e.val))
		if n, ok := wholeNumber(f); ok {
			w.dst = strconv.AppendInt(w.dst, n, 10)
		} else if math.IsNaN(f) || math.IsInf(f, 0) {
			w.dst = append(w.dst, `null`...)
		} else {
			w.dst = strconv.AppendFloat(w.dst, f, 'g', -1, 64)
		}
	default:
		w.mistake = strconv.Quote(string(validUTF8(e.key))) + " must be of a type that JSON has"
	}
}

func validUTF8(b []byte) []byte {
	if utf8.Valid(b) {
		return b
	}
	return bytes.ToValidUTF8(b, []byte("\uFFFD"))
}
