package pgstore

import (
	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/storage"
)

// bucketState is a bucket's number in the database, and its newest state.
type bucketState struct {
	id int64
	bucket.State
}

// stateCacheLen is the number of states that half of a stateCache may hold, at
// about 150 bytes each.
const stateCacheLen = 1 << 15

// stateCache remembers the newest states of the buckets that were written last.
// Two halves: what is in the older one, when the newer is full, is forgotten
// unless it was used meanwhile.
type stateCache struct {
	newer, older map[storage.BucketKey]bucketState
}

func (c *stateCache) clear() {
	c.newer, c.older = map[storage.BucketKey]bucketState{}, nil
}

func (c *stateCache) get(key storage.BucketKey) (bucketState, bool) {
	if s, ok := c.newer[key]; ok {
		return s, true
	}
	s, ok := c.older[key]
	return s, ok
}

func (c *stateCache) put(key storage.BucketKey, s bucketState) {
	if _, ok := c.newer[key]; !ok && len(c.newer) >= stateCacheLen {
		c.newer, c.older = make(map[storage.BucketKey]bucketState, stateCacheLen), c.newer
	}
	c.newer[key] = s
}
