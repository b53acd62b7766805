package server

import (
	"context"
	"time"
)

// roomEvery is how often it is looked whether the storage waits for room on its disk.
const roomEvery = time.Second

// roomWatch has the probes tell when the disk of the storage is full. That is no
// failure: writes wait, everything is served as it is, and when there is room
// replication goes on. A restart would not help, so the process calls itself alive.
type roomWatch struct {
	store interface {
		// Waiting returns why writes wait, nil if none does.
		Waiting() error
		// Impatient has writes fail that wait, or would: the process is to end.
		Impatient()
	}
	health *health
	every  time.Duration
}

// Run looks until ctx ends.
func (w *roomWatch) Run(ctx context.Context) error {
	defer w.store.Impatient()
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			err := w.store.Waiting()
			if err == nil {
				w.health.note(storageNote, "", false)
				continue
			}
			w.health.touch(now)
			w.health.note(storageNote, err.Error()+": make room on it; replication then goes on by itself", true)
		case <-ctx.Done():
			return nil
		}
	}
}
