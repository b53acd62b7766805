package checkpoint

import (
	"hash/maphash"

	"github.com/millrace-sync/millrace/internal/storage"
)

// Filter holds buckets and lookups that are too many to name, in a fixed amount of
// memory (a Bloom filter): whatever was added is in it; of what was not, one in
// 400 seems to be after a million were added, one in six after four millions.
type Filter struct {
	seed maphash.Seed
	bits [filterBits / 64]uint64
}

// A Filter takes 2 MiB; each key sets filterProbes bits.
const (
	filterBits   = 1 << 24
	filterProbes = 4
)

// NewFilter returns an empty Filter.
func NewFilter() *Filter { return &Filter{seed: maphash.MakeSeed()} }

// AddBucket adds a bucket.
func (f *Filter) AddBucket(k storage.BucketKey) { f.add(maphash.Comparable(f.seed, k)) }

// AddLookup adds a lookup.
func (f *Filter) AddLookup(k storage.LookupKey) { f.add(maphash.Comparable(f.seed, k)) }

// MayHaveBucket reports whether the bucket may have been added.
func (f *Filter) MayHaveBucket(k storage.BucketKey) bool { return f.has(maphash.Comparable(f.seed, k)) }

// MayHaveLookup reports whether the lookup may have been added.
func (f *Filter) MayHaveLookup(k storage.LookupKey) bool { return f.has(maphash.Comparable(f.seed, k)) }

func (f *Filter) add(hash uint64) {
	for i := range uint64(filterProbes) {
		at := place(hash, i)
		f.bits[at/64] |= 1 << (at % 64)
	}
}

func (f *Filter) has(hash uint64) bool {
	for i := range uint64(filterProbes) {
		if at := place(hash, i); f.bits[at/64]&(1<<(at%64)) == 0 {
			return false
		}
	}
	return true
}

// place returns the bit of a probe: the halves of the hash give the first and the
// distance.
func place(hash, probe uint64) uint64 { return (hash + probe*(hash>>32|1)) % filterBits }
