package server

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// activity is what replication has done, for those who watch it. What it is reading,
// backfills knows.
type activity struct {
	// Since the start: changes and rows of chunks, their bytes, transactions, chunks.
	rows, bytes, txns, chunks atomic.Int64
	// commitOps are the operations of a commit, commitTime the seconds it took.
	commitOps, commitTime prometheus.Histogram
	// compactions and their dropped operations.
	compactions, compacted atomic.Int64

	mu   sync.Mutex
	at   storage.Checkpoint
	when time.Time // at was published; zero if none was since the start
}

func newActivity(at storage.Checkpoint) *activity {
	return &activity{
		at: at,
		commitOps: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "millrace_commit_operations", Help: "Operations written by one commit.", Buckets: prometheus.ExponentialBuckets(1, 10, 6),
		}),
		commitTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "millrace_commit_seconds", Help: "Time that one commit to the storage took.", Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9),
		}),
	}
}

// begin notes the checkpoint that there was when the storage was opened.
func (a *activity) begin(at storage.Checkpoint) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at = at
}

// applied notes a transaction, or a part of one.
func (a *activity) applied(tx *source.Txn) {
	size := 0
	for i := range tx.Changes {
		for j := range tx.Changes[i].New {
			size += len(tx.Changes[i].New[j].Bytes)
		}
	}
	a.rows.Add(int64(len(tx.Changes)))
	a.bytes.Add(int64(size))
	if !tx.More {
		a.txns.Add(1)
	}
}

// merged notes a chunk of a table.
func (a *activity) merged(rows int) {
	a.chunks.Add(1)
	a.rows.Add(int64(rows))
}

// committed notes a commit that began at a time.
func (a *activity) committed(b *storage.Batch, began time.Time) {
	a.commitOps.Observe(float64(len(b.Ops)))
	a.commitTime.Observe(time.Since(began).Seconds())
}

// published notes a checkpoint.
func (a *activity) published(at storage.Checkpoint) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at, a.when = at, time.Now()
}

func (a *activity) checkpoint() storage.Checkpoint {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.at
}

// last returns when a checkpoint was last published; zero if none was since the start.
func (a *activity) last() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.when
}
