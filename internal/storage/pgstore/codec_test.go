package pgstore

import (
	"bytes"
	"errors"
	"math"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/storagetest"
)

// keyedRow is what a row record's bytes hold.
type keyedRow struct {
	Key string
	Rec *storage.RowRecord
}

// samples has values of what this store alone encodes; what a record itself holds is
// tested where it is encoded.
var samples = []any{
	keyedRow{"", &storage.RowRecord{}},
	keyedRow{string(make([]byte, 2000)), &storage.RowRecord{Lookups: []storage.Contribution{{Lookup: storage.LookupKey{Def: 2, Key: "\x00\xff"}, Hash: 1 << 63}}, Copies: 1}},
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

var codec = storagetest.Codec{
	Samples: samples, Encode: encode, Decode: decode, Compare: cmp.Options{cmpopts.EquateEmpty(), cmp.AllowUnexported(changeSet{})},
}

func TestCodec(t *testing.T) { codec.Check(t) }

func FuzzDecode(f *testing.F) { codec.Fuzz(f) }

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
