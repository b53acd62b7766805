package checkpoint

import (
	"fmt"
	"testing"

	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// crowd is a hub with n watchers of a bucket and a lookup of their own, and one that
// all share.
func crowd(b *testing.B, n int) *Hub {
	h := NewHub(at(0, 0))
	for i := range n {
		w := h.Watch(fmt.Sprint("user", i))
		w.Take()
		w.Set([]storage.BucketKey{key(-1), key(i)}, []storage.LookupKey{lookup(-1), lookup(i)})
	}
	b.ResetTimer()
	return h
}

// A commit that concerns one watcher, however many there are.
func BenchmarkPublish(b *testing.B) {
	for _, n := range []int{1000, 10_000, 100_000} {
		b.Run(fmt.Sprint("watchers=", n), func(b *testing.B) {
			h := crowd(b, n)
			for i := range b.N {
				h.Publish(at(i, source.LSN(i)), Changes{Buckets: []storage.BucketKey{key(i % n)}, Lookups: []storage.LookupKey{lookup((i + 1) % n)}})
			}
		})
	}
}

// A commit that concerns all watchers.
func BenchmarkPublishToAll(b *testing.B) {
	const n = 10_000
	h := crowd(b, n)
	for i := range b.N {
		h.Publish(at(i, source.LSN(i)), Changes{Buckets: []storage.BucketKey{key(-1)}})
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/watcher")
}

// A transaction whose changes were too many to name, and concern nobody.
func BenchmarkPublishMany(b *testing.B) {
	const n = 100_000
	h := crowd(b, n)
	f := NewFilter()
	for i := range 1_000_000 {
		f.AddBucket(key(n + i))
	}
	b.ResetTimer()
	for i := range b.N {
		h.Publish(at(i, source.LSN(i)), Changes{Many: f})
	}
}

// A session that begins while commits go on.
func BenchmarkWatch(b *testing.B) {
	h := crowd(b, 10_000)
	for i := range b.N {
		w := h.Watch("late")
		w.Take()
		h.Publish(at(i, source.LSN(i)), Changes{Buckets: []storage.BucketKey{key(i % 10_000)}})
		w.Set([]storage.BucketKey{key(-1), key(-2)}, nil)
		w.Close()
	}
}
