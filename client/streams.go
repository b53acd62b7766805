package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace-sync/millrace/client/internal/engine"
	"github.com/millrace-sync/millrace/client/internal/local"
)

// StreamStatus is the state of a subscription or of a default stream.
type StreamStatus struct {
	Stream string
	// Parameters is the JSON text of the subscription's parameters; empty for none.
	Parameters string
	// Active says that the service knows the stream and sends it.
	Active bool
	// Default says that the service sends the stream to everybody; Subscribed that
	// this database has subscribed to it.
	Default, Subscribed bool
	// Priority is the priority after which the stream is complete; -1 if it has no buckets.
	Priority int
	// ExpiresAt is when the subscription ends if nobody uses it; zero for never.
	ExpiresAt time.Time
	// LastSyncedAt is when the stream was last complete; zero if it never was.
	LastSyncedAt time.Time
	Progress     Progress
}

func streamStatus(s *engine.Stream) StreamStatus {
	return StreamStatus{
		Stream: s.Name, Parameters: s.Params, Active: s.Active, Default: s.Default, Subscribed: s.Explicit,
		Priority: s.Priority, ExpiresAt: micros(s.ExpiresAt), LastSyncedAt: micros(s.SyncedAt), Progress: Progress(s.Progress),
	}
}

func micros(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n)
}

// Stream is a sync stream with parameters, to subscribe to.
type Stream struct {
	db  *DB
	key engine.StreamKey
	err error
}

// Stream names a stream of the service. Parameters may be nil.
func (d *DB) Stream(name string, parameters map[string]any) *Stream {
	s := &Stream{db: d, key: engine.StreamKey{Name: name}}
	if parameters != nil {
		// Maps are encoded in the order of their keys, so that equal parameters are
		// one subscription.
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if err := e.Encode(parameters); err != nil {
			s.err = fmt.Errorf("stream %s: parameters: %w", name, err)
		}
		s.key.Params = string(bytes.TrimSpace(b.Bytes()))
	}
	return s
}

// SubscribeOptions sets what most subscriptions leave as it is.
type SubscribeOptions struct {
	// TTL is how long the stream goes on syncing once nobody holds the subscription,
	// restarts included. It counts in whole seconds; 0 means a day.
	TTL time.Duration
	// Priority replaces that of the stream's buckets, 0 to 3; nil leaves it.
	Priority *int
}

const defaultTTL = 24 * time.Hour

// Subscription holds a subscription. Release it when its data is no longer looked
// at; the stream stays for its TTL.
type Subscription struct {
	stream  *Stream
	release sync.Once
}

// Subscribe has the stream synced, from now on if there is a connection.
func (s *Stream) Subscribe(ctx context.Context, opts *SubscribeOptions) (*Subscription, error) {
	o := SubscribeOptions{}
	if opts != nil {
		o = *opts
	}
	o.TTL = orDefault(o.TTL, defaultTTL)
	switch {
	case s.err != nil:
		return nil, s.err
	case o.TTL < time.Second:
		return nil, fmt.Errorf("stream %s: a TTL of %s; it counts in whole seconds", s.key.Name, o.TTL)
	case o.Priority != nil && (*o.Priority < 0 || *o.Priority > 3):
		return nil, fmt.Errorf("stream %s: priority %d is not from 0 to 3", s.key.Name, *o.Priority)
	}
	err := s.db.exclusive(ctx, func(*local.Conn) error {
		return engine.Subscribe(s.db.store, s.key, int64(o.TTL/time.Second), o.Priority, now())
	})
	if err != nil {
		return nil, err
	}
	s.db.mu.Lock()
	s.db.streams[s.key]++
	s.db.mu.Unlock()
	return &Subscription{stream: s}, s.db.subscribed(ctx)
}

// Unsubscribe ends the stream's subscription at once, whoever holds it.
func (s *Stream) Unsubscribe(ctx context.Context) error {
	if s.err != nil {
		return s.err
	}
	err := s.db.exclusive(ctx, func(*local.Conn) error { return engine.Unsubscribe(s.db.store, s.key) })
	if err != nil {
		return err
	}
	s.db.mu.Lock()
	delete(s.db.streams, s.key)
	s.db.mu.Unlock()
	return s.db.subscribed(ctx)
}

// Status returns the state of the stream; nil if there is no subscription.
func (s *Stream) Status() *StreamStatus {
	status := s.db.Status()
	return status.stream(s.key)
}

func (s *Status) stream(k engine.StreamKey) *StreamStatus {
	for i := range s.Streams {
		if s.Streams[i].Stream == k.Name && s.Streams[i].Parameters == k.Params {
			return &s.Streams[i]
		}
	}
	return nil
}

// Release says that nobody looks at the subscription's data any more.
func (s *Subscription) Release() {
	s.release.Do(func() {
		d := s.stream.db
		d.mu.Lock()
		if d.streams[s.stream.key]--; d.streams[s.stream.key] <= 0 {
			delete(d.streams, s.stream.key)
		}
		c := d.connection
		d.mu.Unlock()
		if c != nil {
			c.events.raise(func(f *eventFlags) { f.subscribed = true })
		}
	})
}

// Wait waits until the stream has been complete once.
func (s *Subscription) Wait(ctx context.Context) error {
	_, err := s.stream.db.WaitForStatus(ctx, func(status Status) bool {
		st := status.stream(s.stream.key)
		return st != nil && !st.LastSyncedAt.IsZero()
	})
	return err
}

// subscribed tells the connection, or without one the status, of a subscription that
// came or went.
func (d *DB) subscribed(ctx context.Context) error {
	d.mu.Lock()
	c := d.connection
	d.mu.Unlock()
	if c == nil {
		return d.readStatus(ctx)
	}
	c.events.raise(func(f *eventFlags) { f.subscribed = true })
	return nil
}

// activeStreams returns the subscriptions that are held, in a fixed order.
func (d *DB) activeStreams() []engine.StreamKey {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.SortedFunc(maps.Keys(d.streams), func(a, b engine.StreamKey) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Params, b.Params))
	})
}
