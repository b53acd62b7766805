package server

import (
	"sync"
	"time"

	"github.com/millrace-sync/millrace/internal/admin"
	"github.com/millrace-sync/millrace/internal/replicate"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// activity is what replication has done and is doing, for those who watch it.
type activity struct {
	mu   sync.Mutex
	at   storage.Checkpoint
	when time.Time // at was published; zero if none was since the start
	read []admin.TableProgress
}

func newActivity(at storage.Checkpoint) *activity { return &activity{at: at} }

// published notes a checkpoint, and how far the backfill has come.
func (a *activity) published(at storage.Checkpoint, applier *replicate.Applier, names map[source.TableID]string) {
	var read []admin.TableProgress
	if !applier.Backfilled() {
		read = progressOf(applier.Definitions(), names)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at, a.when, a.read = at, time.Now(), read
}

// progressOf returns how far each table has come that definitions are still to read.
func progressOf(defs []storage.Definition, names map[source.TableID]string) []admin.TableProgress {
	var list []admin.TableProgress
	seen := map[source.TableID]bool{}
	for _, d := range defs {
		for _, p := range d.Tables {
			if !p.Done && !seen[p.Table] {
				seen[p.Table] = true
				list = append(list, admin.TableProgress{Table: names[p.Table], Rows: p.Rows})
			}
		}
	}
	return list
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

func (a *activity) backfill() []admin.TableProgress {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.read
}
