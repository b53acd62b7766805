package auth

import (
	"crypto/sha256"
	"sync"
)

const (
	// cacheSize bounds the tokens that are remembered.
	cacheSize = 4096
	// maxCachedToken bounds their length in bytes: longer ones are verified each time.
	maxCachedToken = 8 << 10
	// evictionSample is how many tokens are looked at to find one to forget.
	evictionSample = 8
)

// verified is a token that passed.
type verified struct {
	claims *Claims
	until  float64 // seconds since 1970 at which it no longer passes
	// set is the remote key set that it was verified with, nil for a configured key,
	// and generation that of its keys.
	set        *keySet
	generation uint64
}

// tokenCache remembers verified tokens by their hash: clients show the same token at
// every request, and verifying one costs more than the rest of most requests.
type tokenCache struct {
	mu     sync.Mutex
	tokens map[[sha256.Size]byte]verified
}

func (c *tokenCache) get(token string) (verified, bool) {
	hash := sha256.Sum256([]byte(token))
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.tokens[hash]
	return v, ok
}

func (c *tokenCache) drop(token string) {
	hash := sha256.Sum256([]byte(token))
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.tokens, hash)
}

// put remembers a token. When full it forgets the one that expires first among a
// few taken at random, as Go iterates over maps.
func (c *tokenCache) put(token string, v verified) {
	if len(token) > maxCachedToken {
		return
	}
	hash := sha256.Sum256([]byte(token))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tokens == nil {
		c.tokens = make(map[[sha256.Size]byte]verified)
	}
	if _, known := c.tokens[hash]; !known && len(c.tokens) >= cacheSize {
		var first [sha256.Size]byte
		n := 0
		for h, old := range c.tokens {
			if n == 0 || old.until < c.tokens[first].until {
				first = h
			}
			if n++; n == evictionSample {
				break
			}
		}
		delete(c.tokens, first)
	}
	c.tokens[hash] = v
}
