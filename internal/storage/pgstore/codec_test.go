package pgstore

import (
	"bytes"
	"errors"
	"math"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// keyedRow is what a row record's bytes hold.
type keyedRow struct {
	Key string
	Rec *storage.RowRecord
}

// samples has values of what this store alone encodes, at its edges.
var samples = []any{
	keyedRow{"", &storage.RowRecord{}},
	keyedRow{string(make([]byte, 2000)), &storage.RowRecord{
		Memberships: []storage.Membership{{Bucket: storage.BucketKey{Def: math.MaxUint32, Params: `["a"]`}, ObjectType: "notes", ObjectID: "1", Op: bucket.MaxOpID, Hash: math.MaxUint64}, {}},
		Lookups:     []storage.Contribution{{Lookup: storage.LookupKey{Def: 2, Key: "\x00\xff"}, Hash: 1 << 63}},
		Kept:        []storage.Kept{{Column: "body", Datum: source.Datum{Encoding: source.Binary, Bytes: []byte("x")}}, {Column: "n", Datum: source.Datum{Encoding: source.Null}}},
		Copies:      1 << 40,
	}},
	changes(true, storage.BucketKey{Def: 1, Params: "[]"}, storage.LookupKey{Def: math.MaxUint32, Key: "\x00"}),
	changes(false, storage.BucketKey{Def: 3, Params: "\xff"}, storage.LookupKey{}),
}

func changes(plan bool, b storage.BucketKey, l storage.LookupKey) *changeSet {
	var c changeSet
	c.clear()
	c.bucket(b)
	c.lookup(l)
	c.plan = plan
	return &c
}

func encode(v any) []byte {
	switch v := v.(type) {
	case keyedRow:
		return appendRow(nil, v.Key, v.Rec)
	case *changeSet:
		return appendChanges(nil, v)
	}
	panic("no encoding")
}

// decode reads b as what like is.
func decode(like any, b []byte) (any, error) {
	switch like.(type) {
	case keyedRow:
		key, rec, err := decodeRow(b)
		return keyedRow{key, rec}, err
	case *changeSet:
		var c changeSet
		c.clear()
		return &c, decodeChanges(&c, b)
	}
	panic("no encoding")
}

var compare = cmp.Options{cmpopts.EquateEmpty(), cmp.AllowUnexported(changeSet{})}

func TestCodecRoundTrip(t *testing.T) {
	for _, want := range samples {
		b := encode(want)
		got, err := decode(want, b)
		if err != nil {
			t.Errorf("%+v: %v", want, err)
			continue
		}
		if d := cmp.Diff(want, got, compare); d != "" {
			t.Errorf("%T (-want +got):\n%s", want, d)
		}
	}
}

// Values that are cut short are corrupt, unless data reaches to their end.
func TestCodecRefusesWhatIsCut(t *testing.T) {
	for _, v := range samples {
		b := encode(v)
		for n := range len(b) {
			got, err := decode(v, b[:n])
			if err == nil && bytes.Equal(encode(got), b[:n]) {
				continue
			}
			if !errors.Is(err, storage.ErrCorrupt) {
				t.Fatalf("%T cut to %d of %d bytes: %v, want ErrCorrupt", v, n, len(b), err)
			}
		}
	}
}

// A change set that names too much comes back as a filter, and joins others.
func TestChangeSetWithFilter(t *testing.T) {
	var sets [2]changeSet
	named := func(i int) storage.LookupKey { return storage.LookupKey{Def: 1, Key: strconv.Itoa(i)} }
	for s := range sets {
		sets[s].clear()
		for i := range maxChanged + 10 {
			sets[s].lookup(named(i*2 + s))
		}
	}
	var got changeSet
	got.clear()
	for s := range sets {
		b := appendChanges(nil, &sets[s])
		if err := decodeChanges(&got, b); err != nil {
			t.Fatal(err)
		}
		var cut changeSet
		cut.clear()
		if err := decodeChanges(&cut, b[:len(b)-1]); !errors.Is(err, storage.ErrCorrupt) {
			t.Errorf("cut short: %v, want ErrCorrupt", err)
		}
	}
	for i := range 2*maxChanged + 20 {
		if _, ok := got.lookups[named(i)]; !ok && !got.many.MayHaveLookup(named(i)) {
			t.Fatalf("lookup %d is lost", i)
		}
	}
	if got.all || got.plan || len(got.lookups) != 18 {
		t.Errorf("all %v, plan %v, %d named", got.all, got.plan, len(got.lookups))
	}
}

// FuzzDecode: no bytes make a decoder fail otherwise than with ErrCorrupt, and what
// it reads survives being written and read again.
func FuzzDecode(f *testing.F) {
	for i, v := range samples {
		f.Add(byte(i), encode(v))
	}
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		like := samples[int(kind)%len(samples)]
		got, err := decode(like, b)
		if err != nil {
			if !errors.Is(err, storage.ErrCorrupt) {
				t.Fatalf("%T: %v", like, err)
			}
			return
		}
		again, err := decode(like, encode(got))
		if err != nil {
			t.Fatalf("%T written anew: %v", like, err)
		}
		if d := cmp.Diff(got, again, compare); d != "" {
			t.Fatalf("%T changed:\n%s", like, d)
		}
	})
}

// Keys keep their order, but for long ones that begin alike, and stay apart.
func TestShorten(t *testing.T) {
	long := string(bytes.Repeat([]byte("k"), keyPrefix))
	keys := []string{"", "\x00", "a", "ab", "b", long, long + "\x00", long + "a", long + "b", "l", "\xff"}
	seen := map[string]bool{}
	for i, k := range keys {
		got := shorten(k)
		if seen[string(got)] {
			t.Errorf("key %d meets another", i)
		}
		seen[string(got)] = true
		if len(got) > keyPrefix+32 || isShortened(got) != (len(k) > keyPrefix) {
			t.Errorf("key %d of %d bytes became one of %d", i, len(k), len(got))
		}
		if i > 0 && bytes.Compare(shorten(keys[i-1]), got) >= 0 && (!isShortened(got) || i <= 6) {
			t.Errorf("key %d is not beyond the one before", i)
		}
	}
}
