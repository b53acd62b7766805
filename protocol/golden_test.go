package protocol_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/millrace-sync/millrace/protocol"
)

// goldenLines returns the lines that the reference was seen to send.
func goldenLines(tb testing.TB) [][]byte {
	tb.Helper()
	text, err := os.ReadFile("testdata/lines.ndjson")
	if err != nil {
		tb.Fatal(err)
	}
	return bytes.SplitAfter(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
}

// encode appends any line.
func encode(c protocol.Codec, l protocol.Line) []byte {
	switch l := l.(type) {
	case *protocol.Checkpoint:
		return c.AppendCheckpoint(nil, l)
	case *protocol.CheckpointDiff:
		return c.AppendCheckpointDiff(nil, l)
	case *protocol.DataChunk:
		return c.AppendDataChunk(nil, l)
	case *protocol.PartialCheckpointComplete:
		return c.AppendPartialCheckpointComplete(nil, l)
	case *protocol.CheckpointComplete:
		return c.AppendCheckpointComplete(nil, l)
	case *protocol.TokenExpiresIn:
		return c.AppendTokenExpiresIn(nil, l)
	}
	panic(fmt.Sprintf("no encoder for %T", l))
}

func TestGoldenLinesAsText(t *testing.T) {
	for _, line := range goldenLines(t) {
		l, err := protocol.JSONLines.DecodeLine(line)
		if err != nil {
			t.Fatalf("%s\n%v", line, err)
		}
		want := append(bytes.TrimSuffix(line, []byte("\n")), '\n')
		if diff := cmp.Diff(string(want), string(encode(protocol.JSONLines, l))); diff != "" {
			t.Errorf("written again (-want +got):\n%s", diff)
		}
	}
}

func TestGoldenLinesEmbedded(t *testing.T) {
	for _, line := range goldenLines(t) {
		l, err := protocol.JSONLines.DecodeLine(line)
		if err != nil {
			t.Fatal(err)
		}
		chunk, ok := l.(*protocol.DataChunk)
		if !ok {
			continue
		}
		var got struct {
			Data struct {
				Data []struct{ Data json.RawMessage }
			}
		}
		text := encode(protocol.JSONLinesEmbedded, l)
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatalf("%s\n%v", text, err)
		}
		for i, op := range chunk.Ops {
			want := string(op.Data)
			if op.Data == nil {
				want = "null"
			}
			if string(got.Data.Data[i].Data) != want {
				t.Errorf("embedded %s, want %s", got.Data.Data[i].Data, want)
			}
		}
		again, err := protocol.JSONLinesEmbedded.DecodeLine(text)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(l, again); diff != "" {
			t.Errorf("read again (-want +got):\n%s", diff)
		}
	}
}

// ordered reads JSON as BSON's own library would represent it, with numbers as
// JavaScript servers write them.
func ordered(t *testing.T, d *json.Decoder) any {
	t.Helper()
	tok, err := d.Token()
	if err != nil {
		t.Fatal(err)
	}
	switch tok := tok.(type) {
	case json.Delim:
		if tok == '[' {
			list := bson.A{}
			for d.More() {
				list = append(list, ordered(t, d))
			}
			_, _ = d.Token()
			return list
		}
		doc := bson.D{}
		for d.More() {
			key, _ := d.Token()
			doc = append(doc, bson.E{Key: key.(string), Value: ordered(t, d)})
		}
		_, _ = d.Token()
		return doc
	case json.Number:
		n, err := tok.Int64()
		if err != nil {
			t.Fatal(err)
		}
		if n < math.MinInt32 || n > math.MaxInt32 {
			return float64(n)
		}
		return int32(n)
	}
	return tok
}

func TestGoldenLinesAsBSON(t *testing.T) {
	for _, line := range goldenLines(t) {
		l, err := protocol.JSONLines.DecodeLine(line)
		if err != nil {
			t.Fatal(err)
		}
		d := json.NewDecoder(bytes.NewReader(line))
		d.UseNumber()
		want, err := bson.Marshal(ordered(t, d))
		if err != nil {
			t.Fatal(err)
		}
		got := encode(protocol.BSON, l)
		if !bytes.Equal(got, want) {
			t.Errorf("%s\n got %x\nwant %x", line, got, want)
		}
		again, err := protocol.BSON.DecodeLine(want)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(l, again); diff != "" {
			t.Errorf("read from BSON (-want +got):\n%s", diff)
		}
	}
}

func TestBSONBytes(t *testing.T) {
	hexOf := func(s string) []byte {
		b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	got := protocol.BSON.AppendCheckpointComplete(nil, &protocol.CheckpointComplete{LastOpID: 8})
	want := hexOf("31000000 03" + hex.EncodeToString([]byte("checkpoint_complete")) + "00 17000000 02" +
		hex.EncodeToString([]byte("last_op_id")) + "00 02000000 3800 00 00")
	if len(got) != 49 || !bytes.Equal(got, want) {
		t.Errorf("checkpoint_complete\n got %x\nwant %x", got, want)
	}
	key := hex.EncodeToString([]byte("checksum")) + "00"
	put := protocol.BSON.AppendDataChunk(nil, &protocol.DataChunk{Ops: []protocol.Op{{ID: 1, Kind: protocol.Move, Checksum: 3385964279}}})
	if !bytes.Contains(put, hexOf("01"+key+"0000e0de363ae941")) {
		t.Errorf("no checksum as a double in %x", put)
	}
	entry := protocol.BSON.AppendCheckpoint(nil, &protocol.Checkpoint{Buckets: []protocol.Bucket{{Checksum: 3385964279}}})
	if !bytes.Contains(entry, hexOf("10"+key+"f7b6d1c9")) {
		t.Errorf("no checksum as an int32 in %x", entry)
	}
	token := protocol.BSON.AppendTokenExpiresIn(nil, &protocol.TokenExpiresIn{Seconds: 30})
	if want := hexOf("1b000000 10" + hex.EncodeToString([]byte("token_expires_in")) + "00 1e000000 00"); !bytes.Equal(token, want) {
		t.Errorf("token_expires_in\n got %x\nwant %x", token, want)
	}
}

// TestChecksumForms holds the vectors of the reference: buckets and CLEARs are signed
// on the wire, other ops are not.
func TestChecksumForms(t *testing.T) {
	entry := protocol.JSONLines.AppendCheckpoint(nil, &protocol.Checkpoint{Buckets: []protocol.Bucket{{Checksum: 3129678135}, {Checksum: 354417572}}})
	for _, want := range []string{`"checksum":-1165289161,`, `"checksum":354417572,`} {
		if !bytes.Contains(entry, []byte(want)) {
			t.Errorf("no %s in %s", want, entry)
		}
	}
	data := protocol.JSONLines.AppendDataChunk(nil, &protocol.DataChunk{Ops: []protocol.Op{
		{ID: 1, Kind: protocol.Put, Checksum: 3129678135, Data: []byte("{}")}, {ID: 2, Kind: protocol.Remove, Checksum: 4204341352},
		{ID: 3, Kind: protocol.Move, Checksum: 4263068929}, {ID: 4, Kind: protocol.Clear, Checksum: 3463877803},
	}})
	for _, want := range []string{`"checksum":3129678135,`, `"checksum":4204341352,`, `"checksum":4263068929,`, `"checksum":-831089493,`} {
		if !bytes.Contains(data, []byte(want)) {
			t.Errorf("no %s in %s", want, data)
		}
	}
}

func TestHasMoreIsPatched(t *testing.T) {
	for _, c := range []protocol.Codec{protocol.JSONLines, protocol.JSONLinesEmbedded, protocol.BSON} {
		for _, more := range []bool{false, true} {
			dst, w := c.BeginData([]byte("before"), "b", 3)
			dst = c.AppendOp(dst, &w, &protocol.Op{ID: 4, Kind: protocol.Move, Checksum: 7})
			if w.Ops() != 1 {
				t.Errorf("%s: %d ops", c, w.Ops())
			}
			dst = c.EndData(dst, w, more, 4)
			line, ok := bytes.CutPrefix(dst, []byte("before"))
			if !ok {
				t.Fatalf("%s: the start of dst was changed: %q", c, dst)
			}
			l, err := c.DecodeLine(line)
			if err != nil {
				t.Fatal(err)
			}
			want := &protocol.DataChunk{Bucket: "b", After: 3, HasMore: more, NextAfter: 4,
				Ops: []protocol.Op{{ID: 4, Kind: protocol.Move, Checksum: 7}}}
			if diff := cmp.Diff(protocol.Line(want), l); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c, diff)
			}
		}
	}
}
