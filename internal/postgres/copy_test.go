package postgres

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-sync/millrace/internal/source"
)

// copyOf writes rows of text columns as COPY does; nil is NULL.
func copyOf(rows ...[][]byte) []byte {
	b := append([]byte(nil), copySignature...)
	b = append(b, make([]byte, 8)...)
	for _, row := range rows {
		b = binary.BigEndian.AppendUint16(b, uint16(len(row)))
		for _, v := range row {
			if v == nil {
				b = binary.BigEndian.AppendUint32(b, 0xffffffff)
				continue
			}
			b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
			b = append(b, v...)
		}
	}
	return append(b, 0xff, 0xff)
}

var twoColumns = []source.Encoding{source.Binary, source.Text}

func readCopy(in []byte, piece int) ([][]source.Datum, error) {
	var rows [][]source.Datum
	r := copyReader{columns: twoColumns, yield: func(row []source.Datum, _ int) error {
		rows = append(rows, slices.Clone(row))
		return nil
	}}
	for len(in) > 0 {
		n := min(piece, len(in))
		buf := bytes.Clone(in[:n])
		if _, err := r.Write(buf); err != nil {
			return nil, err
		}
		for i := range buf {
			buf[i] = 0xEE // the rows must not point into it
		}
		in = in[n:]
	}
	return rows, r.finish()
}

func TestCopyInPiecesOfAnySize(t *testing.T) {
	in := copyOf([][]byte{[]byte("one"), nil}, [][]byte{{}, bytes.Repeat([]byte("x"), 100)}, [][]byte{nil, []byte("end")})
	want := [][]source.Datum{
		{{Encoding: source.Binary, Bytes: []byte("one")}, {}},
		{{Encoding: source.Binary, Bytes: []byte{}}, {Encoding: source.Text, Bytes: bytes.Repeat([]byte("x"), 100)}},
		{{}, {Encoding: source.Text, Bytes: []byte("end")}},
	}
	for piece := 1; piece <= len(in); piece++ {
		got, err := readCopy(in, piece)
		if err != nil {
			t.Fatalf("pieces of %d: %v", piece, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("pieces of %d: -want +got\n%s", piece, diff)
		}
	}
	for n := range in {
		if _, err := readCopy(in[:n], 1000); !errors.Is(err, ErrMalformed) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	for name, bad := range map[string][]byte{
		"another format":  append([]byte("PGCOPY\n\xff\r\n\x01"), make([]byte, 8)...),
		"too few columns": copyOf([][]byte{[]byte("a")}),
		"more follows":    append(bytes.Clone(in), 0),
		"negative length": append(copyOf()[:19], 0, 2, 0xff, 0xff, 0xff, 0xfe),
	} {
		if _, err := readCopy(bad, 1000); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzCopy(f *testing.F) {
	f.Add(copyOf([][]byte{[]byte("one"), nil}, [][]byte{{}, []byte("two")}), uint8(7))
	f.Add(copyOf(), uint8(200))
	f.Fuzz(func(t *testing.T, in []byte, piece uint8) {
		whole, err := readCopy(in, len(in))
		parts, err2 := readCopy(in, int(piece)+1)
		if (err == nil) != (err2 == nil) {
			t.Fatalf("whole: %v, in pieces: %v", err, err2)
		}
		if err == nil && !cmp.Equal(whole, parts) {
			t.Fatalf("whole %v, in pieces %v", whole, parts)
		}
	})
}
