package pgstore

import (
	"crypto/sha256"
	"math"
)

// forever is the to_v of what still holds.
const forever = math.MaxInt64

// An index of Postgres holds keys of up to 2.7 kB. Longer ones are shortened to a
// prefix, which keeps their order among most others, and a digest of the whole.
const keyPrefix = 1024

// shorten returns the key to store.
func shorten(key string) []byte {
	if len(key) <= keyPrefix {
		return []byte(key)
	}
	digest := sha256.Sum256([]byte(key))
	return append([]byte(key[:keyPrefix]), digest[:]...)
}

func isShortened(key []byte) bool { return len(key) > keyPrefix }
