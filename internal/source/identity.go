package source

import (
	"encoding/binary"
	"fmt"
	"strconv"
)

// RowKey is the canonical encoding of a row's replica identity columns: what a
// stored row of a table is found by. Equal rows have equal keys whether they came
// by backfill or by stream, in text or binary. It is opaque but for AppendRowKey.
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
		for s := v.Str(); s != ""; s = s[1:] {
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
