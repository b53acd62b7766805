package server

import (
	"fmt"
	"testing"

	"github.com/millrace-sync/millrace/internal/storage"
)

// What changed is named, and told by a filter where it is too much, whole batches or
// many small ones; taking it begins anew.
func TestChangeSet(t *testing.T) {
	bucketKey := func(i int) storage.BucketKey { return storage.BucketKey{Def: 1, Params: fmt.Sprint(i)} }
	lookupKey := func(i int) storage.LookupKey { return storage.LookupKey{Def: 2, Key: fmt.Sprint(i)} }
	batch := func(from, to int) *storage.Batch {
		b := &storage.Batch{}
		for i := from; i < to; i++ {
			b.Ops = append(b.Ops, storage.BucketOp{Bucket: bucketKey(i)})
			b.Lookups = append(b.Lookups, storage.LookupWrite{Lookup: lookupKey(i)})
		}
		return b
	}
	c := newChangeSet()
	for _, n := range []int{3, maxChanged, 10} {
		c.add(batch(0, n/2+1))
		c.add(batch(n/2, n))
		got := c.take()
		named := map[any]int{}
		for _, b := range got.Buckets {
			named[b]++
		}
		for _, l := range got.Lookups {
			named[l]++
		}
		for i := range n {
			for _, k := range []any{bucketKey(i), lookupKey(i)} {
				if named[k] == 1 {
					continue
				}
				told := got.Many != nil
				switch k := k.(type) {
				case storage.BucketKey:
					told = told && got.Many.MayHaveBucket(k)
				case storage.LookupKey:
					told = told && got.Many.MayHaveLookup(k)
				}
				if named[k] != 0 || !told {
					t.Fatalf("of %d: %v is named %d times and not told otherwise", n, k, named[k])
				}
			}
		}
		if (got.Many != nil) != (2*n > maxChanged) || len(named) >= maxChanged || got.All {
			t.Errorf("of %d: a filter: %v, %d named", n, got.Many != nil, len(named))
		}
	}
}
