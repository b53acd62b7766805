package protocol_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/millrace-sync/millrace/protocol"
)

var codecs = []protocol.Codec{protocol.JSONLines, protocol.JSONLinesEmbedded, protocol.BSON}

// generator makes random lines.
type generator struct{ *rand.Rand }

func (g generator) text() string {
	const alphabet = "abc\"\\\n\t\x00\x1f\x7f/é€😀{}[],: \u2028"
	runes := []rune(alphabet)
	var b strings.Builder
	for range g.IntN(20) {
		b.WriteRune(runes[g.IntN(len(runes))])
	}
	return b.String()
}

func (g generator) row() []byte {
	row, err := json.Marshal(map[string]string{g.text(): g.text(), "id": g.text()})
	if err != nil {
		panic(err)
	}
	return row
}

func (g generator) id() uint64 { return 1 + g.Uint64()>>(1+g.IntN(63)) }

func (g generator) refs() []int {
	var out []int
	for range g.IntN(3) {
		out = append(out, g.IntN(1000))
	}
	return out
}

func (g generator) buckets() (out []protocol.Bucket) {
	for range g.IntN(13) {
		out = append(out, protocol.Bucket{Name: g.text(), Checksum: g.Uint32(), Count: g.Int64N(1 << 50), Priority: g.IntN(4),
			Defaults: g.refs(), Subscriptions: g.refs()})
	}
	return out
}

func (g generator) line() protocol.Line {
	switch g.IntN(6) {
	case 0:
		l := &protocol.Checkpoint{LastOpID: g.id(), Buckets: g.buckets()}
		if g.IntN(2) == 0 {
			l.WriteCheckpoint = g.id()
		}
		for range g.IntN(4) {
			s := protocol.Stream{Name: g.text(), Default: g.IntN(2) == 0}
			for range g.IntN(3) {
				s.Errors = append(s.Errors, protocol.StreamError{Subscription: g.IntN(5) - 1, Message: g.text()})
			}
			l.Streams = append(l.Streams, s)
		}
		return l
	case 1:
		l := &protocol.CheckpointDiff{LastOpID: g.id(), UpdatedBuckets: g.buckets()}
		for range g.IntN(12) {
			l.RemovedBuckets = append(l.RemovedBuckets, g.text())
		}
		return l
	case 2:
		return &protocol.PartialCheckpointComplete{LastOpID: g.id(), Priority: g.IntN(4)}
	case 3:
		return &protocol.CheckpointComplete{LastOpID: g.id()}
	case 4:
		return &protocol.TokenExpiresIn{Seconds: g.IntN(100000)}
	}
	l := &protocol.DataChunk{Bucket: g.text(), After: g.id(), HasMore: g.IntN(2) == 0, NextAfter: g.id()}
	for range g.IntN(25) {
		op := protocol.Op{ID: g.id(), Kind: protocol.OpKind(1 + g.IntN(4)), Checksum: g.Uint32()}
		if op.Kind == protocol.Put || op.Kind == protocol.Remove {
			op.ObjectType, op.ObjectID, op.Subkey = g.text(), g.text(), []byte(g.text())
		}
		if op.Kind == protocol.Put {
			op.Data = g.row()
		}
		l.Ops = append(l.Ops, op)
	}
	return l
}

func TestRoundTrip(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	g := generator{rand.New(rand.NewPCG(seed, 0))}
	for _, c := range codecs {
		var stream []byte
		var want []protocol.Line
		for range 500 {
			l := g.line()
			want = append(want, l)
			one := encode(c, l)
			stream = append(stream, one...)
			got, err := c.DecodeLine(one)
			if err != nil {
				t.Fatalf("%s: %v\n%q", c, err, one)
			}
			if diff := cmp.Diff(l, got, cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("%s (-want +got):\n%s", c, diff)
			}
			if c != protocol.BSON && !json.Valid(one) {
				t.Fatalf("%s: not JSON: %q", c, one)
			}
		}
		r := protocol.NewReader(iotest.HalfReader(bytes.NewReader(stream)), c, 1<<20)
		for i, l := range want {
			got, err := r.Next()
			if err != nil {
				t.Fatalf("%s: line %d: %v", c, i, err)
			}
			if diff := cmp.Diff(l, got, cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("%s: line %d (-want +got):\n%s", c, i, diff)
			}
		}
		if _, err := r.Next(); err != io.EOF {
			t.Errorf("%s: after the last line: %v", c, err)
		}
	}
}

func TestReaderBreaksOff(t *testing.T) {
	for _, c := range codecs {
		one := c.AppendCheckpointComplete(nil, &protocol.CheckpointComplete{LastOpID: 5})
		for n := 1; n < len(one); n++ {
			if _, err := protocol.NewReader(bytes.NewReader(one[:n]), c, 1000).Next(); err != io.ErrUnexpectedEOF {
				t.Errorf("%s cut after %d bytes: %v", c, n, err)
			}
		}
		var line *protocol.LineError
		if _, err := protocol.NewReader(bytes.NewReader(one), c, len(one)-1).Next(); !errors.As(err, &line) {
			t.Errorf("%s: a line over the limit: %v", c, err)
		}
		broken := errors.New("broken")
		_, err := protocol.NewReader(io.MultiReader(bytes.NewReader(one[:6]), iotest.ErrReader(broken)), c, 1000).Next()
		if !errors.Is(err, broken) {
			t.Errorf("%s: a broken reader: %v", c, err)
		}
	}
}

func TestReaderDoesNotTrustLengths(t *testing.T) {
	claim := []byte{0, 0, 0, 0x40, 3}
	allocated := testing.AllocsPerRun(1, func() {
		if _, err := protocol.NewReader(bytes.NewReader(claim), protocol.BSON, 1<<31-1).Next(); err != io.ErrUnexpectedEOF {
			t.Error(err)
		}
	})
	if allocated > 10 {
		t.Errorf("%v allocations", allocated)
	}
	for _, short := range []string{"\x00\x00\x00\x00", "\x04\x00\x00\x00", "\xff\xff\xff\xff"} {
		var line *protocol.LineError
		if _, err := protocol.NewReader(strings.NewReader(short), protocol.BSON, 1000).Next(); !errors.As(err, &line) {
			t.Errorf("length %x: %v", short, err)
		}
	}
}

func TestBlankLinesAreSkipped(t *testing.T) {
	r := protocol.NewReader(strings.NewReader("\n \r\n{\"token_expires_in\":1}\r\n\n  "), protocol.JSONLines, 100)
	if l, err := r.Next(); err != nil || l.(*protocol.TokenExpiresIn).Seconds != 1 {
		t.Errorf("got %v, %v", l, err)
	}
	if _, err := r.Next(); err != io.EOF {
		t.Error(err)
	}
}

// TestEscapes compares the escaping of row data, eight bytes at a time, with the
// standard library's, over every length and mixture of bytes.
func TestEscapes(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	alphabets := []string{"ab", "a\"", "\"\\", "abcdefgh\"", "a\"\\\n\x00", "\x01\x1f"}
	for i := range 5000 {
		alphabet := alphabets[r.IntN(len(alphabets))]
		data := make([]byte, i%60)
		for j := range data {
			data[j] = alphabet[r.IntN(len(alphabet))]
		}
		op := protocol.Op{ID: 1, Kind: protocol.Put, Data: data}
		line := protocol.JSONLines.AppendDataChunk(nil, &protocol.DataChunk{Ops: []protocol.Op{op}})
		var got struct {
			Data struct {
				Data []struct{ Data string }
			}
		}
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		if got.Data.Data[0].Data != string(data) {
			t.Fatalf("%q became %q", data, got.Data.Data[0].Data)
		}
	}
}
