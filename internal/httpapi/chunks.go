package httpapi

import (
	"container/list"
	"hash/maphash"
	"sync"

	"github.com/millrace-sync/millrace/internal/session"
)

const (
	// chunkCacheBytes bounds the encoded lines that are kept to be shared.
	chunkCacheBytes = 16 << 20
	// askedSize is the number of keys that are remembered to have been asked for.
	askedSize = 4096
	// chunkOverhead is what an entry costs beside its line.
	chunkOverhead = 300
)

// chunkCache holds encoded data lines for sessions that need the same: those that
// follow the same bucket, when it changes. A line is kept only once a second session
// has asked for it, so a large download, which nobody shares, neither fills the
// cache nor costs a copy.
type chunkCache struct {
	max  int
	seed maphash.Seed

	mu      sync.Mutex
	bytes   int
	entries map[session.ChunkKey]*list.Element
	recent  list.List // of *cachedChunk, the last used first
	asked   [askedSize]uint64
}

type cachedChunk struct {
	key session.ChunkKey
	session.EncodedChunk
}

func (c *cachedChunk) size() int { return len(c.Line) + len(c.key.Bucket.Params) + chunkOverhead }

func newChunkCache(max int) *chunkCache {
	return &chunkCache{max: max, seed: maphash.MakeSeed(), entries: map[session.ChunkKey]*list.Element{}}
}

// Get implements session.Chunks.
func (c *chunkCache) Get(key session.ChunkKey) (session.EncodedChunk, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[key]
	if !ok {
		return session.EncodedChunk{}, false
	}
	c.recent.MoveToFront(e)
	return e.Value.(*cachedChunk).EncodedChunk, true
}

// Put implements session.Chunks.
func (c *chunkCache) Put(key session.ChunkKey, chunk session.EncodedChunk) {
	hash := maphash.Comparable(c.seed, key) | 1
	c.mu.Lock()
	defer c.mu.Unlock()
	if place := &c.asked[hash/2%askedSize]; *place != hash {
		*place = hash
		return
	}
	if _, ok := c.entries[key]; ok {
		return
	}
	entry := &cachedChunk{key, chunk}
	if entry.size() > c.max/4 {
		return
	}
	entry.Line = append([]byte(nil), chunk.Line...)
	c.entries[key] = c.recent.PushFront(entry)
	c.bytes += entry.size()
	for c.bytes > c.max {
		last := c.recent.Remove(c.recent.Back()).(*cachedChunk)
		delete(c.entries, last.key)
		c.bytes -= last.size()
	}
}
