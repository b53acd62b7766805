package protocol_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/millrace-sync/millrace/protocol"
)

// TestBadLines checks that each line of the file is refused with the words after
// the arrow, as text and, where it is JSON at all, as BSON.
func TestBadLines(t *testing.T) {
	text, err := os.ReadFile("testdata/bad_lines.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		line, want, ok := strings.Cut(entry, " => ")
		if !ok {
			t.Fatalf("a case without outcome: %q", entry)
		}
		_, err := protocol.JSONLines.DecodeLine([]byte(line))
		var e *protocol.LineError
		if !errors.As(err, &e) || !strings.Contains(e.Error(), want) {
			t.Errorf("%s: %v, want %q", line, err, want)
		}
		var doc bson.D
		if !json.Valid([]byte(line)) || bson.UnmarshalExtJSON([]byte(line), false, &doc) != nil {
			continue
		}
		raw, err := bson.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		if l, err := protocol.BSON.DecodeLine(raw); !errors.As(err, &e) {
			t.Errorf("%s as BSON: %v, %v", line, l, err)
		}
	}
}

func TestLeniency(t *testing.T) {
	chunk := func(sum uint32) protocol.Line {
		return &protocol.DataChunk{Bucket: "b", Ops: []protocol.Op{{ID: 1, Kind: protocol.Clear, Checksum: sum}}}
	}
	entry := func(b protocol.Bucket) protocol.Line {
		b.Name = "b"
		return &protocol.Checkpoint{LastOpID: 1, Buckets: []protocol.Bucket{b}}
	}
	for text, want := range map[string]protocol.Line{
		`{"something_new":{"a":[1,"x",null,true,{}]}}`:                                                                                                         &protocol.Unknown{Key: "something_new"},
		` { "token_expires_in" : 5e0 } `:                                                                                                                       &protocol.TokenExpiresIn{Seconds: 5},
		`{"data":{"bucket":"b","data":[{"op_id":"1","op":"CLEAR","checksum":-1,"new":0}],"new":{}}}`:                                                           chunk(1<<32 - 1),
		`{"data":{"bucket":"b","data":[{"op_id":"1","op":"CLEAR","checksum":4294967295,"data":null}]}}`:                                                        chunk(1<<32 - 1),
		`{"data":{"bucket":"b","data":[{"op_id":"1","op":"CLEAR","checksum":7.0}]}}`:                                                                           chunk(7),
		`{"checkpoint":{"last_op_id":"1","buckets":[{"bucket":"b","checksum":1}]}}`:                                                                            entry(protocol.Bucket{Checksum: 1, Priority: 3}),
		`{"checkpoint":{"last_op_id":"1","write_checkpoint":null,"buckets":[{"bucket":"b","checksum":-1,"priority":null,"count":null,"subscriptions":null}]}}`: entry(protocol.Bucket{Checksum: 1<<32 - 1, Priority: 3}),
		`{"checkpoint":{"last_op_id":"1","streams":[{"name":"s","is_default":true,"errors":[{"subscription":"any","message":"m"}]}]}}`: &protocol.Checkpoint{LastOpID: 1,
			Streams: []protocol.Stream{{Name: "s", Default: true, Errors: []protocol.StreamError{{Subscription: protocol.DefaultSubscription, Message: "m"}}}}},
	} {
		got, err := protocol.JSONLines.DecodeLine([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
		var doc bson.D
		if err := bson.UnmarshalExtJSON([]byte(text), false, &doc); err != nil {
			t.Fatal(err)
		}
		raw, err := bson.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		if got, err = protocol.BSON.DecodeLine(raw); err != nil {
			t.Errorf("%s as BSON: %v", text, err)
		} else if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s as BSON (-want +got):\n%s", text, diff)
		}
	}
}

func TestBSONLineBreaksOff(t *testing.T) {
	for _, line := range goldenLines(t) {
		l, err := protocol.JSONLines.DecodeLine(line)
		if err != nil {
			t.Fatal(err)
		}
		doc := encode(protocol.BSON, l)
		for n := range doc {
			if _, err := protocol.BSON.DecodeLine(doc[:n]); err == nil {
				t.Fatalf("no error after %d of %d bytes", n, len(doc))
			}
		}
	}
}

func fuzzLine(f *testing.F, c protocol.Codec) {
	for _, line := range goldenLines(f) {
		l, err := protocol.JSONLines.DecodeLine(line)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(encode(c, l))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		before := bytes.Clone(src)
		l, err := c.DecodeLine(src)
		if !bytes.Equal(before, src) {
			t.Fatal("the input was changed")
		}
		if err != nil {
			var e *protocol.LineError
			if !errors.As(err, &e) {
				t.Fatalf("%v", err)
			}
			return
		}
		if _, ok := l.(*protocol.Unknown); ok {
			return
		}
		again := encode(c, l)
		got, err := c.DecodeLine(again)
		if err != nil {
			t.Fatalf("%v in what was written: %s", err, hex.EncodeToString(again))
		}
		if diff := cmp.Diff(l, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("written and read (-want +got):\n%s", diff)
		}
	})
}

func FuzzDecodeJSONLine(f *testing.F)     { fuzzLine(f, protocol.JSONLines) }
func FuzzDecodeEmbeddedLine(f *testing.F) { fuzzLine(f, protocol.JSONLinesEmbedded) }
func FuzzDecodeBSONLine(f *testing.F)     { fuzzLine(f, protocol.BSON) }
