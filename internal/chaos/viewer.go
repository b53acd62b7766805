//go:build unix

package chaos

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/millrace-sync/millrace/protocol"
)

const (
	// reconnectAfter is a viewer's pause after a connection has ended.
	reconnectAfter = 20 * time.Millisecond
	// backups is how many of its earlier states a viewer may go back to.
	backups = 4
	// traced is how many lines of a stream are kept for when it breaks a promise.
	traced = 2000
)

// describe writes a line for people.
func describe(line protocol.Line) string {
	chunk, ok := line.(*protocol.DataChunk)
	if !ok {
		return fmt.Sprintf("%T %+v", line, line)
	}
	text := fmt.Sprintf("data of %s after %d, next %d, more %v", chunk.Bucket, chunk.After, chunk.NextAfter, chunk.HasMore)
	for i := range chunk.Ops {
		op := &chunk.Ops[i]
		text += fmt.Sprintf("\n  %d %s %s/%s %.300s", op.ID, op.Kind, op.ObjectType, op.ObjectID, op.Data)
	}
	return text
}

// Viewer is a model client: it stays connected, drops its connection now and then,
// goes back to an old copy of its data, and checks whatever it gets.
type Viewer struct {
	Name          string
	Addr          string // of the service
	Token         func() string
	Transport     transport
	Subscriptions []protocol.Subscription
	Defaults      bool // whether it has the streams of members
	Rng           *rand.Rand
	Trace         func(lines []string) // told the newest lines of a stream that broke a promise

	mu      sync.Mutex
	rows    Rows          // as of the last checkpoint
	changed chan struct{} // closed, and replaced, when rows change
	calm    bool          // stays connected as long as it can
	done    int           // checkpoints completed
	last    error         // why the last connection ended
}

// Run follows the service until ctx ends. An error is a violation.
func (v *Viewer) Run(ctx context.Context) error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	replica, seals := NewReplica(), Seals{}
	type backup struct {
		*Replica
		seals Seals
	}
	var old []backup
	for {
		err := v.follow(ctx, client, replica, &seals)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !broken(err) {
			return fmt.Errorf("viewer %s: %w", v.Name, err)
		}
		v.mu.Lock()
		v.last = err
		calm := v.calm
		v.mu.Unlock()
		switch n := v.Rng.IntN(8); {
		case n < backups && len(old) < backups:
			old = append(old, backup{replica.Clone(), maps.Clone(seals)})
		case n < backups:
			old[n] = backup{replica.Clone(), maps.Clone(seals)}
		case n == 7 && !calm && len(old) > 0:
			b := old[v.Rng.IntN(len(old))]
			replica, seals = b.Clone(), maps.Clone(b.seals)
		}
		pause := time.NewTimer(reconnectAfter)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil
		}
	}
}

// violation is an error that no fault excuses.
type violation struct{ error }

// follow reads one stream until it ends, or the viewer has had enough of it.
func (v *Viewer) follow(ctx context.Context, client *http.Client, r *Replica, seals *Seals) error {
	request := &protocol.Request{
		RawData: true, ClientID: v.Name, IncludeDefaults: v.Defaults, Subscriptions: v.Subscriptions, Buckets: r.Positions(),
	}
	s, err := v.Transport(ctx, client, v.Addr, v.Token(), request)
	if err != nil {
		return err
	}
	defer s.Close()
	lines := 10 + v.Rng.IntN(400)
	trace := []string{string(request.AppendJSON(nil))}
	for {
		line, err := s.Next(ctx)
		if err != nil {
			return err
		}
		if text := describe(line); len(trace) < traced {
			trace = append(trace, text)
		} else {
			trace = append(trace[1:], text)
		}
		before := r.Rows()
		complete, err := r.Receive(line)
		if err != nil {
			v.Trace(trace)
			return violation{err}
		}
		if complete {
			if *seals, err = Check(r.Rows(), *seals, v.Defaults); err != nil {
				v.Trace(trace)
				return violation{fmt.Errorf("at %+v: %w; since the last checkpoint: %s", line, err, diff(before, r.Rows()))}
			}
		}
		v.mu.Lock()
		if complete {
			v.rows = r.Rows()
			v.done++
			close(v.changes())
			v.changed = nil
		}
		calm := v.calm
		v.mu.Unlock()
		if lines--; lines < 0 && !calm {
			return nil
		}
	}
}

// changes returns the channel that is closed at the next checkpoint; mu is held.
func (v *Viewer) changes() chan struct{} {
	if v.changed == nil {
		v.changed = make(chan struct{})
	}
	return v.changed
}

// Calm makes the viewer stay connected, on the data that it has.
func (v *Viewer) Calm() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.calm = true
}

// Completed returns how many checkpoints were completed, and so checked.
func (v *Viewer) Completed() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.done
}

// WaitCompleted waits until a checkpoint has been completed.
func (v *Viewer) WaitCompleted(ctx context.Context) error {
	for {
		v.mu.Lock()
		done, changed := v.done, v.changes()
		v.mu.Unlock()
		if done > 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("viewer %s completes no checkpoint: %w", v.Name, context.Cause(ctx))
		}
	}
}

// WaitEqual waits until the viewer shows just the rows that are wanted.
func (v *Viewer) WaitEqual(ctx context.Context, want Rows) error {
	for {
		v.mu.Lock()
		shown, changed, last := v.rows, v.changes(), v.last
		v.mu.Unlock()
		difference := diff(want, shown)
		if difference == "" {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("viewer %s does not get to what Postgres holds: %w; the last connection ended with: %v; %s",
				v.Name, context.Cause(ctx), last, difference)
		}
	}
}
