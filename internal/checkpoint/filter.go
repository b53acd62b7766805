package checkpoint

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/millrace-sync/millrace/internal/storage"
)

// Filter holds buckets and lookups that are too many to name, in a fixed amount of
// memory (a Bloom filter): whatever was added is in it; of what was not, one in
// 400 seems to be after a million were added, one in six after four millions.
//
// It is the same in every process, so that one can tell another by it. Whoever chooses
// keys can so make it have others, which are then looked at in vain.
type Filter struct {
	bits [filterBits / 64]uint64
}

// A Filter takes 2 MiB; each key sets filterProbes bits.
const (
	filterBits   = 1 << 24
	filterProbes = 4
)

// NewFilter returns an empty Filter.
func NewFilter() *Filter { return &Filter{} }

// Absorb moves what was named to a filter, a new one if f is nil, and returns it.
func Absorb(f *Filter, buckets map[storage.BucketKey]struct{}, lookups map[storage.LookupKey]struct{}) *Filter {
	if f == nil {
		f = NewFilter()
	}
	for k := range buckets {
		f.AddBucket(k)
	}
	for k := range lookups {
		f.AddLookup(k)
	}
	clear(buckets)
	clear(lookups)
	return f
}

// AddBucket adds a bucket.
func (f *Filter) AddBucket(k storage.BucketKey) { f.add(digest(0, k.Def, k.Params)) }

// AddLookup adds a lookup.
func (f *Filter) AddLookup(k storage.LookupKey) { f.add(digest(1, k.Def, k.Key)) }

// MayHaveBucket reports whether the bucket may have been added.
func (f *Filter) MayHaveBucket(k storage.BucketKey) bool { return f.has(digest(0, k.Def, k.Params)) }

// MayHaveLookup reports whether the lookup may have been added.
func (f *Filter) MayHaveLookup(k storage.LookupKey) bool { return f.has(digest(1, k.Def, k.Key)) }

// Join adds all that another filter has.
func (f *Filter) Join(other *Filter) {
	for i, w := range other.bits {
		f.bits[i] |= w
	}
}

// The forms of a filter's bytes: all its bits, or, where they are few, their number and
// how far each is from the one before.
const (
	allBits byte = iota
	bitGaps
)

// Append appends the filter's bytes, which DecodeFilter reads: at most 16 for each key,
// and never more than 2 MiB.
func (f *Filter) Append(dst []byte) []byte {
	start, next, n := len(dst), 0, 0
	for _, w := range f.bits {
		n += bits.OnesCount64(w)
	}
	dst = binary.AppendUvarint(append(dst, bitGaps), uint64(n))
	for i, w := range f.bits {
		for ; w != 0; w &= w - 1 {
			at := 64*i + bits.TrailingZeros64(w)
			dst = binary.AppendUvarint(dst, uint64(at-next))
			next = at + 1
		}
		if len(dst)-start > 8*len(f.bits) {
			dst = append(dst[:start], allBits)
			for _, w := range f.bits {
				dst = binary.LittleEndian.AppendUint64(dst, w)
			}
			break
		}
	}
	return dst
}

// DecodeFilter reads what Append wrote. It fails with storage.ErrCorrupt.
func DecodeFilter(b []byte) (*Filter, error) {
	f := NewFilter()
	bad := fmt.Errorf("a filter of %d bytes: %w", len(b), storage.ErrCorrupt)
	if len(b) == 0 || b[0] > bitGaps {
		return nil, bad
	}
	form, b := b[0], b[1:]
	if form == allBits {
		if len(b) != 8*len(f.bits) {
			return nil, bad
		}
		for i := range f.bits {
			f.bits[i] = binary.LittleEndian.Uint64(b[8*i:])
		}
		return f, nil
	}
	left, size := binary.Uvarint(b)
	for next := uint64(0); size > 0 && left > 0; left, next = left-1, next+1 {
		b = b[size:]
		var gap uint64
		if gap, size = binary.Uvarint(b); size <= 0 || gap >= filterBits || next+gap >= filterBits {
			return nil, bad
		}
		next += gap
		f.bits[next/64] |= 1 << (next % 64)
	}
	if size <= 0 || len(b) != size {
		return nil, bad
	}
	return f, nil
}

// digest is FNV-1a of a key, with its bits spread.
func digest(kind uint64, def storage.DefinitionID, text string) uint64 {
	const prime = 1099511628211
	h := (14695981039346656037 ^ kind) * prime
	h = (h ^ uint64(def)) * prime
	for i := range len(text) {
		h = (h ^ uint64(text[i])) * prime
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

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
