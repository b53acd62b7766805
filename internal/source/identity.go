package source

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// RowKey is the canonical encoding of a row's replica identity columns: what a
// stored row of a table is found by. Equal rows have equal keys whether they came
// by backfill or by stream, in text or binary. It is opaque but for AppendRowKey
// and Texts.
type RowKey string

// AppendRowKey appends the encoding of the identity columns of row to dst. Each
// column is a kind byte and its content: integers as 8 bytes big-endian with the
// sign bit flipped, so that keys sort as the numbers do; anything else as text
// with 0x00 escaped as 0x00 0xFF and ended by 0x00 0x01.
//
// It fails if an identity column cannot be decoded or was not sent.
func AppendRowKey(dst []byte, t *Table, row []Datum) ([]byte, error) {
	if len(row) != len(t.Columns) {
		return dst, fmt.Errorf("table %s: row of %d columns, want %d", t.QualifiedName(), len(row), len(t.Columns))
	}
	for i := range t.Columns {
		c := &t.Columns[i]
		if !c.Key {
			continue
		}
		if row[i].Encoding == Unchanged {
			return dst, fmt.Errorf("table %s: identity column %s was not sent", t.QualifiedName(), c.Name)
		}
		v, err := c.Type.Decode(row[i], CanonicalForm)
		if err != nil {
			return dst, fmt.Errorf("table %s: identity column %s: %w", t.QualifiedName(), c.Name, err)
		}
		dst = appendKeyValue(dst, v)
	}
	return dst, nil
}

func appendKeyValue(dst []byte, v Value) []byte {
	dst = append(dst, byte(v.Kind()))
	switch v.Kind() {
	case KindInteger:
		i, _ := v.Int()
		return binary.BigEndian.AppendUint64(dst, uint64(i)^(1<<63))
	case KindReal:
		dst = strconv.AppendFloat(dst, v.Real(), 'g', -1, 64)
	default:
		s := v.Str()
		if strings.IndexByte(s, 0) < 0 {
			dst = append(dst, s...)
			break
		}
		for ; s != ""; s = s[1:] {
			if s[0] == 0 {
				dst = append(dst, 0, 0xFF)
				continue
			}
			dst = append(dst, s[0])
		}
	}
	if v.IsNull() {
		return dst
	}
	return append(dst, 0, 1)
}

var errRowKey = errors.New("malformed row key")

// Texts returns the key's values, in the order of the identity columns, in the text
// form from which the source makes a value of the column's type. Integers and
// booleans are decimal, bytes are hexadecimal after \x.
func (k RowKey) Texts() ([]string, error) {
	var out []string
	for s := string(k); s != ""; {
		kind := ValueKind(s[0])
		s = s[1:]
		switch kind {
		case KindInteger:
			if len(s) < 8 {
				return nil, errRowKey
			}
			out = append(out, strconv.FormatInt(int64(binary.BigEndian.Uint64([]byte(s[:8]))^(1<<63)), 10))
			s = s[8:]
		case KindReal, KindText, KindBlob:
			var b strings.Builder
			for {
				i := strings.IndexByte(s, 0)
				if i < 0 || i+1 == len(s) {
					return nil, errRowKey
				}
				b.WriteString(s[:i])
				end := s[i+1] == 1
				s = s[i+2:]
				if end {
					break
				}
				b.WriteByte(0)
			}
			if kind == KindBlob {
				out = append(out, `\x`+hex.EncodeToString([]byte(b.String())))
				continue
			}
			out = append(out, b.String())
		default:
			return nil, errRowKey // null is no identity
		}
	}
	return out, nil
}
