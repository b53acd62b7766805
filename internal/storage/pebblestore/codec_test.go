package pebblestore

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/record"
)

// samples are one or more of all that is stored, with what reads it back.
var samples = []struct {
	name  string
	value any
}{
	{"put", &bucket.Op{ID: 0x0102030405060708, Kind: bucket.Put, Checksum: 0xFEDCBA98, Subkey: bucket.Subkey{1, 15: 2},
		ObjectType: "notes", ObjectID: "1", Data: []byte(`{"id":"1"}`)}},
	{"put of nothing", &bucket.Op{ID: 1, Kind: bucket.Put}},
	{"put of long names", &bucket.Op{ID: 2, Kind: bucket.Put, ObjectType: strings.Repeat("t", 128), ObjectID: strings.Repeat("i", 700), Data: []byte("{}")}},
	{"remove", &bucket.Op{ID: 3, Kind: bucket.Remove, Checksum: 7, Subkey: bucket.Subkey{9}, ObjectType: "notes", ObjectID: "é"}},
	{"move", &bucket.Op{ID: 4, Kind: bucket.Move, Checksum: 1 << 31}},
	{"clear", &bucket.Op{ID: bucket.MaxOpID, Kind: bucket.Clear, Checksum: 5}},
	{"state", bucket.State{Last: 300, Count: 128, Checksum: 0xFFFFFFFF, Bytes: 1 << 40}},
	{"compaction mark", compactionMark{Until: 300, Count: 128}},
	{"empty row", &storage.RowRecord{}},
	{"row", &storage.RowRecord{
		Memberships: []storage.Membership{
			{Bucket: storage.BucketKey{Def: 1, Params: `["u"]`}, ObjectType: "notes", ObjectID: "1", Op: 5, Hash: 1 << 63},
			{Bucket: storage.BucketKey{Def: 1<<32 - 1, Params: `[]`}, ObjectType: "", ObjectID: "", Op: bucket.MaxOpID},
		},
		Lookups: []storage.Contribution{{Lookup: storage.LookupKey{Def: 300, Key: "k\x00"}, Hash: 2}},
		Kept: []storage.Kept{
			{Column: "body", Datum: source.Datum{Encoding: source.Text, Bytes: []byte("long")}},
			{Column: "none", Datum: source.Datum{Encoding: source.Null}},
		},
		Copies: 3,
	}},
	{"definition", storage.Definition{ID: 7, Hash: "abc", Label: "notes|0", State: storage.Backfilling, Tables: []storage.TableProgress{
		{Table: 16384, After: []string{"9", ""}, Rows: 1000},
		{Table: 1, After: []string{}, Done: true},
		{Table: 2},
	}}},
	{"deploy", storage.Deploy{ID: 9, SyncConfig: "streams: {}", Source: "7/16384", Definitions: []storage.DefinitionID{3, 200}, State: storage.DeployServing}},
	{"write checkpoint", upload{WriteCheckpoint: storage.WriteCheckpoint{ID: 5, LSN: 0x16B374D848}}},
	{"checkpoint request", upload{WriteCheckpoint: storage.WriteCheckpoint{ID: 5, LSN: 0x16B374D848}, Requested: 1_772_000_000}},
	{"checkpoint", storage.Checkpoint{Op: 77, LSN: 88}},
}

func encode(v any) []byte {
	switch v := v.(type) {
	case *bucket.Op:
		return record.AppendOp(nil, v)
	case bucket.State:
		return appendState(nil, v)
	case compactionMark:
		return appendMark(nil, v)
	case *storage.RowRecord:
		return record.AppendRow(nil, v)
	case storage.Definition:
		return record.AppendDefinition(nil, &v)
	case storage.Deploy:
		return record.AppendDeploy(nil, &v)
	case upload:
		return appendUploadValue(nil, v)
	case storage.Checkpoint:
		return appendCheckpoint(nil, v)
	}
	panic(fmt.Sprintf("no encoder for %T", v))
}

// decode decodes b as what like is, with like's id where the key holds it.
func decode(like any, b []byte) (any, error) {
	switch like := like.(type) {
	case *bucket.Op:
		var d record.OpDecoder
		op := bucket.Op{ID: like.ID}
		err := d.Decode(&op, b)
		return &op, err
	case bucket.State:
		return decodeState(b)
	case compactionMark:
		return decodeMark(b)
	case *storage.RowRecord:
		return record.DecodeRow(bytes.Clone(b))
	case storage.Definition:
		return record.DecodeDefinition(like.ID, b)
	case storage.Deploy:
		return record.DecodeDeploy(like.ID, b)
	case upload:
		return decodeUpload(b)
	case storage.Checkpoint:
		return decodeCheckpoint(b)
	}
	panic(fmt.Sprintf("no decoder for %T", like))
}

func TestValuesRoundTrip(t *testing.T) {
	for _, s := range samples {
		b := encode(s.value)
		got, err := decode(s.value, b)
		if err != nil {
			t.Errorf("%s: %v", s.name, err)
			continue
		}
		if d := cmp.Diff(s.value, got, cmpopts.EquateEmpty()); d != "" {
			t.Errorf("%s differs (-want +got):\n%s", s.name, d)
		}
		if op, ok := s.value.(*bucket.Op); ok && record.OpLen(op) != len(b) {
			t.Errorf("%s: opLen is %d, it takes %d", s.name, record.OpLen(op), len(b))
		}
	}
	nothing, err := record.DecodeDefinition(1, record.AppendDefinition(nil, &storage.Definition{Tables: []storage.TableProgress{{Table: 1}, {Table: 2, After: []string{}}}}))
	if err != nil || nothing.Tables[0].After != nil || nothing.Tables[1].After == nil {
		t.Errorf("a table not begun and one without key columns are not told apart: %+v, %v", nothing.Tables, err)
	}
}

// TestValuesAreChecked cuts each sample short at every length, and adds a byte.
func TestValuesAreChecked(t *testing.T) {
	for _, s := range samples {
		whole := encode(s.value)
		for n := range whole {
			got, err := decode(s.value, whole[:n:n])
			if err == nil {
				// An op's data is all that is left: it may be shorter.
				if op, ok := got.(*bucket.Op); ok && op.Kind == bucket.Put {
					continue
				}
				// Without its time a checkpoint request is an ordinary write checkpoint.
				if u, ok := got.(upload); ok && n == len(whole)-8 && u.Requested == 0 {
					continue
				}
			}
			if !errors.Is(err, storage.ErrCorrupt) {
				t.Errorf("%s cut to %d of %d bytes: %v, want ErrCorrupt", s.name, n, len(whole), err)
			}
		}
		if op, ok := s.value.(*bucket.Op); ok && op.Kind == bucket.Put {
			continue
		}
		if _, err := decode(s.value, append(whole, 0)); !errors.Is(err, storage.ErrCorrupt) {
			t.Errorf("%s with a byte more: %v, want ErrCorrupt", s.name, err)
		}
	}
}

var update = flag.Bool("update", false, "rewrite testdata/format1.txt from the code: only with a new storage.FormatVersion, or before the first release")

// TestFormatIsStable compares the encodings with a golden file: who changes them
// changes what existing stores mean.
func TestFormatIsStable(t *testing.T) {
	var out strings.Builder
	for _, s := range samples {
		fmt.Fprintf(&out, "%s: %s\n", s.name, hex.EncodeToString(encode(s.value)))
	}
	key := storage.BucketKey{Def: 258, Params: `["u"]`}
	for _, k := range []struct {
		name string
		key  []byte
	}{
		{"op key", appendOpKey(nil, key, 3)},
		{"state key", appendBucket(nil, spaceState, key)},
		{"compaction mark key", appendBucket(nil, spaceMark, key)},
		{"lookup key", appendLookup(nil, storage.LookupKey{Def: 258, Key: "a\x00\x01\x02"})},
		{"row key", appendRowKey(nil, storage.RowRef{Table: 258, Key: "\x03k\x00\x01"})},
		{"upload key", appendUpload(nil, "u/c")},
		{"undo key", appendUndoKey(nil, 258)},
		{"next", appendNext(nil, 5, 6)},
	} {
		fmt.Fprintf(&out, "%s: %s\n", k.name, hex.EncodeToString(k.key))
	}
	const golden = "testdata/format1.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), out.String()); d != "" {
		t.Fatalf("format %d changed (-golden +code):\n%s", storage.FormatVersion, d)
	}
}

// FuzzDecode feeds any bytes to every decoder: each returns a value that encodes
// to something equal, or ErrCorrupt.
func FuzzDecode(f *testing.F) {
	for _, s := range samples {
		f.Add(encode(s.value))
	}
	f.Add([]byte{1, 'k', 1, 'v'})
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		for _, s := range samples {
			v, err := decode(s.value, b)
			if err != nil {
				if !errors.Is(err, storage.ErrCorrupt) {
					t.Fatalf("%s: %v, want ErrCorrupt", s.name, err)
				}
				continue
			}
			again, err := decode(s.value, encode(v))
			if err != nil {
				t.Fatalf("%s: decoded %+v, which does not survive: %v", s.name, v, err)
			}
			if d := cmp.Diff(v, again, cmpopts.EquateEmpty()); d != "" {
				t.Fatalf("%s changed (-first +second):\n%s", s.name, d)
			}
		}
		key, _, _, err := decodeUndo(b)
		if err == nil && len(key) == 0 || err != nil && !errors.Is(err, storage.ErrCorrupt) {
			t.Fatalf("undo entry: key %q, %v", key, err)
		}
		if _, _, err := decodeNext(b); err != nil && !errors.Is(err, storage.ErrCorrupt) {
			t.Fatal(err)
		}
		if !bytes.Equal(b, before) {
			t.Fatal("a decoder changed its input")
		}
	})
}

// FuzzKeys holds the order of keys to what Pebble asks of a Comparer with Split,
// and lookup keys to sorting, and being told apart, as what they encode.
func FuzzKeys(f *testing.F) {
	f.Add([]byte("o\x00\x00\x00\x01[]\x00\x00\x00\x00\x00\x00\x00\x00\x01"), []byte("o\x00\x00\x00\x01[\x00"))
	f.Add([]byte("l\x00\x00\x00\x01a\x00"), []byte("l\x00\x00\x00\x01a\x01\x01\x00"))
	f.Add([]byte("r\x00"), []byte(""))
	c := comparer()
	f.Fuzz(func(t *testing.T, a, b []byte) {
		pa, pb := a[:split(a)], b[:split(b)]
		sa, sb := a[len(pa):], b[len(pb):]
		if split(pa) != len(pa) {
			t.Fatalf("prefix %q of %q has another prefix", pa, a)
		}
		if len(sa) > 0 && c.Compare(pa, a) >= 0 {
			t.Fatalf("prefix %q does not sort before %q", pa, a)
		}
		want := bytes.Compare(pa, pb)
		if want == 0 {
			want = c.ComparePointSuffixes(sa, sb)
		}
		if got := c.Compare(a, b); got != want {
			t.Fatalf("compare %q with %q: %d, by prefix and suffix %d", a, b, got, want)
		}
		la := appendLookup(nil, storage.LookupKey{Def: 1, Key: string(a)})
		lb := appendLookup(nil, storage.LookupKey{Def: 1, Key: string(b)})
		if got, want := bytes.Compare(la, lb), bytes.Compare(a, b); got != want {
			t.Fatalf("lookups %q and %q compare as %d, want %d", a, b, got, want)
		}
		if split(la) != len(la) {
			t.Fatalf("lookup %q does not end its prefix: %q", a, la)
		}
	})
}
