package pgstore

import (
	"github.com/millrace-sync/millrace/internal/checkpoint"
	"github.com/millrace-sync/millrace/internal/storage"
)

// maxChanged is how many buckets and lookups a change set names; beyond it, it tells of
// them by a filter.
const maxChanged = 20_000

// changeSet collects what one or several versions changed.
type changeSet struct {
	all     bool
	plan    bool // definitions or deploys
	buckets map[storage.BucketKey]struct{}
	lookups map[storage.LookupKey]struct{}
	many    *checkpoint.Filter // of more; nil if all are named
}

func (c *changeSet) clear() {
	*c = changeSet{buckets: map[storage.BucketKey]struct{}{}, lookups: map[storage.LookupKey]struct{}{}}
}

func (c *changeSet) bucket(k storage.BucketKey) {
	if !c.all {
		c.buckets[k] = struct{}{}
		c.bound()
	}
}

func (c *changeSet) lookup(k storage.LookupKey) {
	if !c.all {
		c.lookups[k] = struct{}{}
		c.bound()
	}
}

func (c *changeSet) bound() {
	if len(c.buckets)+len(c.lookups) > maxChanged {
		c.many = checkpoint.Absorb(c.many, c.buckets, c.lookups)
	}
}

// filter adds what a filter has.
func (c *changeSet) filter(f *checkpoint.Filter) {
	if c.all {
		return
	}
	if c.many == nil {
		c.many = f
		return
	}
	c.many.Join(f)
}

// everything gives up telling what changed.
func (c *changeSet) everything() {
	c.all, c.many = true, nil
	clear(c.buckets)
	clear(c.lookups)
}

// batch adds what a batch changes.
func (c *changeSet) batch(b *storage.Batch) {
	for i := range b.Ops {
		if i == 0 || b.Ops[i].Bucket != b.Ops[i-1].Bucket {
			c.bucket(b.Ops[i].Bucket)
		}
	}
	for i := range b.Lookups {
		c.lookup(b.Lookups[i].Lookup)
	}
	// What is dropped is in nobody's view: sessions have been told of the deploy that
	// took its place before.
	if len(b.Definitions)+len(b.Drop) > 0 || b.Deploy != nil {
		c.plan = true
	}
}
