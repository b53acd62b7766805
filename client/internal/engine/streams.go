package engine

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/millrace-sync/millrace/protocol"
)

// StreamKey names a subscription: a stream and its parameters, as JSON text. Empty
// parameters are none. The text counts, not its meaning.
type StreamKey struct{ Name, Params string }

// stored returns the parameters as the table has them.
func (k StreamKey) stored() string {
	if k.Params == "" {
		return "null"
	}
	return k.Params
}

// subscription is a row of ps_stream_subscriptions.
type subscription struct {
	id int64
	StreamKey
	active, isDefault bool
	priority          *int
	ttl               *int64 // seconds; nil if nobody subscribed
	expiresAt         *int64
	syncedAt          *int64
}

func (s *subscription) status() Stream {
	st := Stream{StreamKey: s.StreamKey, Active: s.active, Default: s.isDefault, Explicit: s.ttl != nil, Priority: -1, id: s.id}
	if s.expiresAt != nil {
		st.ExpiresAt = *s.expiresAt
	}
	if s.syncedAt != nil {
		st.SyncedAt = *s.syncedAt
	}
	return st
}

func readSubscriptions(store Store) ([]subscription, error) {
	var list []subscription
	err := store.Query(`SELECT id, stream_name, active, is_default, local_priority, local_params, ttl, expires_at, last_synced_at
FROM ps_stream_subscriptions ORDER BY id`, func(r Row) error {
		optional := func(column int) *int64 {
			if r.Null(column) {
				return nil
			}
			n := r.Int64(column)
			return &n
		}
		s := subscription{
			id: r.Int64(0), StreamKey: StreamKey{Name: r.Text(1), Params: r.Text(5)},
			active: r.Int64(2) != 0, isDefault: r.Int64(3) != 0,
			ttl: optional(6), expiresAt: optional(7), syncedAt: optional(8),
		}
		if s.Params == "null" {
			s.Params = ""
		}
		if p := optional(4); p != nil {
			n := int(*p)
			s.priority = &n
		}
		list = append(list, s)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read subscriptions: %w", err)
	}
	return list, nil
}

// subscriptions returns what a request asks for, after removing what has expired.
func subscriptions(store Store, now int64) ([]protocol.Subscription, []int64, error) {
	err := store.Exec(`DELETE FROM ps_stream_subscriptions WHERE expires_at < ? OR (ttl IS NULL AND NOT active)`, now)
	if err != nil {
		return nil, nil, fmt.Errorf("remove expired subscriptions: %w", err)
	}
	known, err := readSubscriptions(store)
	if err != nil {
		return nil, nil, err
	}
	var asked []protocol.Subscription
	var ids []int64
	for _, s := range known {
		if s.ttl == nil {
			continue
		}
		a := protocol.Subscription{Stream: s.Name, Priority: s.priority}
		if s.Params != "" {
			a.Parameters = []byte(s.Params)
		}
		asked, ids = append(asked, a), append(ids, s.id)
	}
	return asked, ids, nil
}

func sameSubscription(a, b protocol.Subscription) bool {
	samePriority := a.Priority == nil && b.Priority == nil || a.Priority != nil && b.Priority != nil && *a.Priority == *b.Priority
	return a.Stream == b.Stream && bytes.Equal(a.Parameters, b.Parameters) && samePriority
}

// renew puts off the expiry of subscriptions in use.
func renew(store Store, active []StreamKey, now int64) error {
	for _, k := range active {
		err := store.Exec(`UPDATE ps_stream_subscriptions SET expires_at = ? + ttl * 1000000
WHERE stream_name = ? AND local_params = ? AND ttl IS NOT NULL`, now, k.Name, k.stored())
		if err != nil {
			return fmt.Errorf("renew a subscription of stream %s: %w", k.Name, err)
		}
	}
	return nil
}

// Subscribe records a subscription for ttl seconds after its last use. The priority
// may be nil; of two the more urgent stays.
func Subscribe(store Store, k StreamKey, ttl int64, priority *int, now int64) error {
	var p any
	if priority != nil {
		p = int64(*priority)
	}
	err := store.Exec(`INSERT INTO ps_stream_subscriptions(stream_name, local_priority, local_params, ttl, expires_at)
VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET
  local_priority = min(coalesce(?2, local_priority), local_priority), ttl = ?4, expires_at = ?5`,
		k.Name, p, k.stored(), ttl, now+ttl*1_000_000)
	if err != nil {
		return fmt.Errorf("subscribe to stream %s: %w", k.Name, err)
	}
	return nil
}

// Unsubscribe forgets a subscription at once.
func Unsubscribe(store Store, k StreamKey) error {
	err := store.Exec(`UPDATE ps_stream_subscriptions SET ttl = NULL WHERE stream_name = ? AND local_params = ?`, k.Name, k.stored())
	if err != nil {
		return fmt.Errorf("unsubscribe from stream %s: %w", k.Name, err)
	}
	return nil
}

// resolve matches the service's streams with the subscriptions, adds default streams
// that are new, and forgets those that are gone.
func (e *Engine) resolve(c *checkpoint, o *Outcome) ([]Stream, error) {
	known, err := readSubscriptions(e.store)
	if err != nil {
		return nil, err
	}
	served := make([]int, len(known)) // position in c.streams, or -1
	for i := range known {
		known[i].active, known[i].isDefault = false, false
		served[i] = -1
	}
	for i, stream := range c.streams {
		found := false
		for j := range known {
			if known[j].Name == stream.Name {
				found = true
				served[j] = i
				known[j].active, known[j].isDefault = true, stream.Default
			}
		}
		e.warnOf(stream, known, o)
		if !found && stream.Default {
			s := subscription{StreamKey: StreamKey{Name: stream.Name}, active: true, isDefault: true}
			err := e.store.Query(`INSERT INTO ps_stream_subscriptions(stream_name, active, is_default) VALUES (?, TRUE, TRUE) RETURNING id`,
				func(r Row) error { s.id = r.Int64(0); return nil }, stream.Name)
			if err != nil {
				return nil, err
			}
			known, served = append(known, s), append(served, i)
		}
	}
	var streams []Stream
	byDefault, byID := make(map[int]int), make(map[int64]int) // positions in streams
	for i := range known {
		s := &known[i]
		if s.ttl == nil && served[i] < 0 {
			if err := e.store.Exec(`DELETE FROM ps_stream_subscriptions WHERE id = ?`, s.id); err != nil {
				return nil, err
			}
			continue
		}
		if err := e.store.Exec(`UPDATE ps_stream_subscriptions SET active = ?, is_default = ? WHERE id = ?`,
			asInt(s.active), asInt(s.isDefault), s.id); err != nil {
			return nil, err
		}
		byID[s.id] = len(streams)
		if s.isDefault && s.ttl == nil {
			byDefault[served[i]] = len(streams)
		}
		streams = append(streams, s.status())
	}
	for _, name := range c.upTo(complete) {
		b := c.buckets[name]
		for _, i := range b.Defaults {
			if at, ok := byDefault[i]; ok {
				streams[at].hold(&b)
			}
		}
		for _, i := range b.Subscriptions {
			if i < 0 || i >= len(e.askedIDs) {
				continue
			}
			if at, ok := byID[e.askedIDs[i]]; ok {
				streams[at].hold(&b)
			}
		}
	}
	return streams, nil
}

func asInt(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// hold adds a bucket to the stream.
func (s *Stream) hold(b *protocol.Bucket) {
	if !slices.Contains(s.buckets, b.Name) {
		s.buckets = append(s.buckets, b.Name)
	}
	s.Priority = max(s.Priority, b.Priority)
}

// warnOf passes on what the service says of a stream.
func (e *Engine) warnOf(stream protocol.Stream, known []subscription, o *Outcome) {
	for _, problem := range stream.Errors {
		if problem.Subscription == protocol.DefaultSubscription {
			o.warn("default stream %s: %s", stream.Name, problem.Message)
			continue
		}
		if problem.Subscription < 0 || problem.Subscription >= len(e.askedIDs) {
			continue
		}
		for i := range known {
			if known[i].id == e.askedIDs[problem.Subscription] {
				o.warn("stream %s with parameters %s: %s", known[i].Name, known[i].stored(), problem.Message)
			}
		}
	}
}

// markStreams records the time for streams of which all is visible.
func markStreams(store Store, status *Status, priority int, now int64) error {
	for i := range status.Streams {
		s := &status.Streams[i]
		if priority != complete && (s.Priority < 0 || s.Priority > priority) {
			continue
		}
		s.SyncedAt = now
		if err := store.Exec(`UPDATE ps_stream_subscriptions SET last_synced_at = ? WHERE id = ?`, now, s.id); err != nil {
			return fmt.Errorf("record that stream %s is synced: %w", s.Name, err)
		}
	}
	return nil
}
