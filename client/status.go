package client

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/millrace-sync/millrace/client/internal/engine"
)

// Status is what a database is doing. It is a value; a later one does not change it.
type Status struct {
	// Connected says that lines come from the service; Connecting that we try.
	Connected, Connecting bool
	// Uploading says that the connector is at work.
	Uploading bool
	// Download is the progress of what is being downloaded, nil if nothing is: one
	// element for each priority, the most urgent first.
	Download []Progress
	// DownloadError and UploadError are what went wrong last; each is nil again after
	// the next success.
	DownloadError, UploadError error
	// LastSyncedAt is when everything was last complete; zero if it never was.
	LastSyncedAt time.Time
	// Priorities tells when each priority was last complete, the widest first.
	Priorities []SyncedPriority
	// Streams holds the subscriptions and the default streams.
	Streams []StreamStatus

	// applied is the newest write checkpoint that has been applied while this database is open.
	applied int64
}

// Progress counts operations, not rows: the service may send several for one.
type Progress struct {
	Priority          int
	Total, Downloaded int64
}

// SyncedPriority is when everything up to a priority was last complete.
type SyncedPriority struct {
	Priority int
	At       time.Time
}

// HasSynced reports whether everything has been complete once.
func (s *Status) HasSynced() bool { return !s.LastSyncedAt.IsZero() }

// SyncedAt returns when everything up to a priority was last complete; the zero Time
// if it never was.
func (s *Status) SyncedAt(priority int) time.Time {
	at := s.LastSyncedAt
	for _, p := range s.Priorities {
		if p.Priority >= priority && p.At.After(at) {
			at = p.At
		}
	}
	return at
}

// Downloaded adds up the progress of all priorities up to one.
func (s *Status) Downloaded(priority int) Progress {
	sum := Progress{Priority: priority}
	for _, p := range s.Download {
		if p.Priority <= priority {
			sum.Total += p.Total
			sum.Downloaded += p.Downloaded
		}
	}
	return sum
}

// board holds the status and tells who waits for it.
type board struct {
	mu      sync.Mutex
	status  Status
	changed chan struct{} // closed at each change
	closed  bool
}

func (b *board) update(change func(*Status)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(&b.status)
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
}

// read returns the status and a channel that is closed when there is another.
func (b *board) read() (s Status, changed <-chan struct{}, closed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.changed == nil {
		b.changed = make(chan struct{})
	}
	s = b.status
	s.Download, s.Priorities, s.Streams = slices.Clone(s.Download), slices.Clone(s.Priorities), slices.Clone(s.Streams)
	return s, b.changed, b.closed
}

func (b *board) close() {
	b.update(func(*Status) { b.closed = true })
}

// download takes over what the engine knows.
func (s *Status) download(e engine.Status) {
	s.Download = nil
	for _, p := range e.Downloading() {
		s.Download = append(s.Download, Progress(p))
	}
	s.LastSyncedAt, s.Priorities = time.Time{}, nil
	for _, p := range e.Priorities {
		at := time.UnixMicro(p.At)
		if p.Priority == engine.Complete {
			s.LastSyncedAt = at
		} else {
			s.Priorities = append(s.Priorities, SyncedPriority{p.Priority, at})
		}
	}
	s.Streams = nil
	for i := range e.Streams {
		s.Streams = append(s.Streams, streamStatus(&e.Streams[i]))
	}
}

// Status returns what the database is doing now.
func (d *DB) Status() Status {
	s, _, _ := d.board.read()
	return s
}

// StatusChanges yields the status now and after each change, until ctx ends or the
// database is closed. Who is slow misses what was in between.
func (d *DB) StatusChanges(ctx context.Context) iter.Seq[Status] {
	return func(yield func(Status) bool) {
		for {
			s, changed, closed := d.board.read()
			if closed || ctx.Err() != nil || !yield(s) {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
}

// ErrClosed says that the database has been closed.
var ErrClosed = errors.New("the database is closed")

// WaitForStatus returns the first status for which ok holds, or the error of ctx.
func (d *DB) WaitForStatus(ctx context.Context, ok func(Status) bool) (Status, error) {
	for s := range d.StatusChanges(ctx) {
		if ok(s) {
			return s, nil
		}
	}
	if err := ctx.Err(); err != nil {
		return Status{}, err
	}
	return Status{}, ErrClosed
}

// AllPriorities stands for a full sync where a priority is asked for.
const AllPriorities = engine.Complete

// WaitForFirstSync waits until everything up to a priority has been complete once,
// on this connection or an earlier one.
func (d *DB) WaitForFirstSync(ctx context.Context, priority int) error {
	_, err := d.WaitForStatus(ctx, func(s Status) bool { return !s.SyncedAt(priority).IsZero() })
	return err
}
