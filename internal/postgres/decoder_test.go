package postgres

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-sync/millrace/internal/postgres/pgtypes"
	"github.com/millrace-sync/millrace/internal/source"
)

// recordedMessages returns the messages of a real server; see TestRecord.
func recordedMessages(t testing.TB) [][]byte {
	t.Helper()
	text, err := os.ReadFile("testdata/pgoutput/messages.txt")
	if err != nil {
		t.Fatal(err)
	}
	var list [][]byte
	for _, line := range strings.Fields(string(text)) {
		b, err := hex.DecodeString(line)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, b)
	}
	return list
}

// alone makes a decoder that describes tables by their messages only.
func alone(l limits) *decoder {
	registry := pgtypes.NewRegistry()
	return newDecoder(l, func(rel relation) (*source.Table, error) { return rel.table(registry), nil }, func() uint64 { return 0 })
}

var wide = limits{bytes: 1 << 20, changes: 1000}

func TestDecodeRecorded(t *testing.T) {
	const file = "testdata/pgoutput/events.txt"
	d := alone(wide)
	var events []Event
	for i, msg := range recordedMessages(t) {
		var err error
		kept := strings.Clone(string(msg))
		if events, err = d.decode(msg, events); err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		if string(msg) != kept {
			t.Fatalf("message %d was written to", i)
		}
		// The buffer is used again: what was decoded must not point into it.
		for j := range msg {
			msg[j] = 0xEE
		}
	}
	got := dumpEvents(events)
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// dumpEvents prints events in full, with positions and transaction ids.
func dumpEvents(events []Event) string {
	var b strings.Builder
	for _, e := range events {
		switch {
		case e.Table != nil:
			fmt.Fprintf(&b, "table %d %s %s", e.Table.ID, e.Table.QualifiedName(), e.Table.Identity)
			for _, c := range e.Table.Columns {
				fmt.Fprintf(&b, " %s:%s:%v", c.Name, c.Type.Name(), c.Key)
			}
			b.WriteByte('\n')
		case e.Txn != nil:
			fmt.Fprintf(&b, "transaction %d to %s more %v\n", e.Txn.XID, e.Txn.Commit, e.Txn.More)
			for _, ch := range e.Txn.Changes {
				fmt.Fprintf(&b, "  %s %d old%s new%s\n", ch.Kind, ch.Table.ID, dumpDatums(ch.Old), dumpDatums(ch.New))
			}
			for _, m := range e.Txn.Messages {
				fmt.Fprintf(&b, "  message %q %q\n", m.Prefix, m.Content)
			}
		default:
			fmt.Fprintf(&b, "position %s\n", e.LSN)
		}
	}
	return b.String()
}

func dumpDatums(row []source.Datum) string {
	var b strings.Builder
	for _, d := range row {
		switch d.Encoding {
		case source.Null:
			b.WriteString(" null")
		case source.Unchanged:
			b.WriteString(" unchanged")
		default:
			fmt.Fprintf(&b, " %.20q", d.Bytes)
		}
	}
	return "(" + strings.TrimSpace(b.String()) + ")"
}

// replay decodes messages up to the one at i, and returns the decoder.
func replay(t testing.TB, messages [][]byte, i int) *decoder {
	t.Helper()
	d := alone(wide)
	for _, msg := range messages[:i] {
		if _, err := d.decode(msg, nil); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func TestEveryTruncationIsAnError(t *testing.T) {
	messages := recordedMessages(t)
	for i, msg := range messages {
		for n := range msg {
			d := replay(t, messages, i)
			events, err := d.decode(msg[:n:n], nil)
			if !errors.Is(err, ErrMalformed) || len(events) != 0 {
				t.Errorf("message %d cut to %d of %d bytes: %v, %d events", i, n, len(msg), err, len(events))
			}
		}
		if _, err := replay(t, messages, i).decode(append(msg[:len(msg):len(msg)], 0), nil); !errors.Is(err, ErrMalformed) {
			t.Errorf("message %d with a byte more: %v", i, err)
		}
	}
}

func TestMutationsDoNotPanic(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	messages := recordedMessages(t)
	for range 20000 {
		i := r.IntN(len(messages))
		d := replay(t, messages[:min(i, 3)], min(i, 3))
		msg := append([]byte(nil), messages[i]...)
		for range 1 + r.IntN(3) {
			msg[r.IntN(len(msg))] = byte(r.Uint32())
		}
		checkDatums(t, d, msg)
	}
}

// checkDatums decodes a message, which may fail, and checks what came of it.
func checkDatums(t testing.TB, d *decoder, msg []byte) {
	t.Helper()
	events, _ := d.decode(msg, nil)
	for _, e := range events {
		if e.Txn == nil {
			continue
		}
		for _, ch := range e.Txn.Changes {
			for _, row := range [][]source.Datum{ch.Old, ch.New} {
				if row != nil && len(row) != len(ch.Table.Columns) {
					t.Fatalf("row of %d columns in a table of %d", len(row), len(ch.Table.Columns))
				}
				for _, datum := range row {
					if len(datum.Bytes) > len(msg) && len(e.Txn.Changes) == 1 {
						t.Fatalf("value of %d bytes from a message of %d", len(datum.Bytes), len(msg))
					}
				}
			}
		}
	}
}

func TestMalformedSequences(t *testing.T) {
	messages := recordedMessages(t)
	byKind := map[byte][]byte{}
	for _, m := range messages {
		if byKind[m[0]] == nil {
			byKind[m[0]] = m
		}
	}
	b, r, i, c := byKind['B'], byKind['R'], byKind['I'], byKind['C']
	for name, list := range map[string][][]byte{
		"commit without begin":           {c},
		"begin in a transaction":         {b, b},
		"row outside a transaction":      {r, i},
		"row of a table not described":   {b, i},
		"truncate outside a transaction": {byKind['T']},
		"our message outside one":        {byKind['M']},
		"part of a streamed transaction": {{'S', 0, 0, 0, 1, 1}},
		"unknown kind":                   {{'?'}},
		"empty":                          {{}},
		"negative length": {b, r, append(append([]byte{}, i[:8]...),
			't', 0xff, 0xff, 0xff, 0xff)},
	} {
		t.Run(name, func(t *testing.T) {
			d := alone(wide)
			for n, msg := range list {
				_, err := d.decode(msg, nil)
				if last := n == len(list)-1; last != errors.Is(err, ErrMalformed) {
					t.Errorf("message %d of %d: %v", n+1, len(list), err)
				}
			}
		})
	}
}

func TestEmptyTransactionIsAPosition(t *testing.T) {
	d := alone(wide)
	begin := append([]byte{'B'}, make([]byte, 20)...)
	commit := append([]byte{'C'}, make([]byte, 25)...)
	binary.BigEndian.PutUint64(commit[1+1+8:], 42)
	if _, err := d.decode(begin, nil); err != nil {
		t.Fatal(err)
	}
	events, err := d.decode(commit, nil)
	if err != nil || len(events) != 1 || events[0].Txn != nil || events[0].LSN != 42 {
		t.Errorf("got %v %v", events, err)
	}
}

func FuzzDecode(f *testing.F) {
	// An input is a sequence of messages, each after its length in two bytes.
	var all []byte
	for _, m := range recordedMessages(f) {
		one := binary.BigEndian.AppendUint16(nil, uint16(len(m)))
		one = append(one, m...)
		all = append(all, one...)
		f.Add(one)
	}
	f.Add(all)
	f.Fuzz(func(t *testing.T, in []byte) {
		d := alone(limits{bytes: 500, changes: 3})
		for len(in) >= 2 {
			n := min(int(binary.BigEndian.Uint16(in)), len(in)-2)
			checkDatums(t, d, in[2:2+n])
			in = in[2+n:]
		}
	})
}

// benchmarkMessages is one transaction of rows of 8 columns, about 160 bytes each.
func benchmarkMessages(rows int) (messages [][]byte, bytes int) {
	string0 := func(b []byte, s string) []byte { return append(append(b, s...), 0) }
	rel := binary.BigEndian.AppendUint32([]byte{'R'}, 77)
	rel = append(string0(string0(rel, "public"), "t"), 'd', 0, 8)
	for i := range 8 {
		rel = append(rel, map[bool]byte{true: 1}[i == 0])
		rel = string0(rel, fmt.Sprintf("column%d", i))
		rel = append(rel, 0, 0, 0, 25, 0xff, 0xff, 0xff, 0xff)
	}
	messages = append(messages, append([]byte{'B'}, make([]byte, 20)...), rel)
	for i := range rows {
		row := append(binary.BigEndian.AppendUint32([]byte{'I'}, 77), 'N', 0, 8)
		for c := range 8 {
			v := fmt.Sprintf("%08d-%d-abcd", i, c)
			row = append(row, 't')
			row = binary.BigEndian.AppendUint32(row, uint32(len(v)))
			row = append(row, v...)
		}
		bytes += len(row)
		messages = append(messages, row)
	}
	return append(messages, append([]byte{'C'}, make([]byte, 25)...)), bytes
}

func BenchmarkDecode(b *testing.B) {
	const rows = 1000
	messages, bytes := benchmarkMessages(rows)
	d := alone(limits{bytes: DefaultPartBytes, changes: DefaultPartChanges})
	var events []Event
	b.SetBytes(int64(bytes))
	b.ReportAllocs()
	for b.Loop() {
		for _, m := range messages {
			var err error
			if events, err = d.decode(m, events[:0]); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/rows, "ns/row")
}
