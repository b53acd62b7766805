package client

import (
	"maps"
	"slices"
	"sync"
)

// hub tells subscribers which tables have changed. Who is slow gets one set of
// tables instead of a queue, so nothing here grows beyond the schema.
type hub struct {
	mu     sync.Mutex
	subs   map[*changeSet]struct{}
	closed bool
}

// changeSet is what one subscriber has yet to take.
type changeSet struct {
	hub *hub
	// ready has one element when there is something to take; it is closed with the hub.
	ready  chan struct{}
	tables map[string]struct{} // under hub.mu
}

func (h *hub) subscribe() *changeSet {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &changeSet{hub: h, ready: make(chan struct{}, 1), tables: make(map[string]struct{})}
	if h.closed {
		close(s.ready)
		return s
	}
	if h.subs == nil {
		h.subs = make(map[*changeSet]struct{})
	}
	h.subs[s] = struct{}{}
	return s
}

func (s *changeSet) cancel() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	delete(s.hub.subs, s)
}

// take returns the tables that changed since the last call.
func (s *changeSet) take() []string {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	tables := slices.Sorted(maps.Keys(s.tables))
	clear(s.tables)
	return tables
}

func (h *hub) publish(tables []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs {
		for _, t := range tables {
			s.tables[t] = struct{}{}
		}
		select {
		case s.ready <- struct{}{}:
		default:
		}
	}
}

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for s := range h.subs {
		close(s.ready)
	}
	clear(h.subs)
}

func (h *hub) isClosed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.closed
}
