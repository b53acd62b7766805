package server

import (
	"github.com/millrace-sync/millrace/internal/checkpoint"
	"github.com/millrace-sync/millrace/internal/storage"
)

// maxChanged is how many changed buckets and lookups are named to the hub at once;
// beyond it, they are told by a filter.
const maxChanged = 100_000

// changeSet gathers what batches change until they are published.
type changeSet struct {
	buckets map[storage.BucketKey]struct{}
	lookups map[storage.LookupKey]struct{}
	many    *checkpoint.Filter
}

func newChangeSet() changeSet {
	return changeSet{buckets: map[storage.BucketKey]struct{}{}, lookups: map[storage.LookupKey]struct{}{}}
}

func (c *changeSet) add(b *storage.Batch) {
	// What is dropped is in nobody's view: sessions have been told of the deploy that
	// took its place before.
	for i := range b.Ops {
		c.buckets[b.Ops[i].Bucket] = struct{}{}
		c.bound()
	}
	for i := range b.Lookups {
		c.lookups[b.Lookups[i].Lookup] = struct{}{}
		c.bound()
	}
}

// bound moves what was named to the filter, once it is too much.
func (c *changeSet) bound() {
	if len(c.buckets)+len(c.lookups) >= maxChanged {
		c.many = checkpoint.Absorb(c.many, c.buckets, c.lookups)
	}
}

func (c *changeSet) take() checkpoint.Changes {
	out := checkpoint.Changes{Many: c.many}
	for b := range c.buckets {
		out.Buckets = append(out.Buckets, b)
	}
	for l := range c.lookups {
		out.Lookups = append(out.Lookups, l)
	}
	clear(c.buckets)
	clear(c.lookups)
	c.many = nil
	return out
}
