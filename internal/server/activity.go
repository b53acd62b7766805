package server

import (
	"sync"
	"time"

	"github.com/millrace-sync/millrace/internal/storage"
)

// activity is what replication has done, for those who watch it. What it is reading
// backfills knows.
type activity struct {
	mu   sync.Mutex
	at   storage.Checkpoint
	when time.Time // at was published; zero if none was since the start
}

func newActivity(at storage.Checkpoint) *activity { return &activity{at: at} }

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
