// Package checkpoint holds the newest published checkpoint and knows who must
// hear of what changed with it.
//
// The replicator publishes, sessions watch. An inverted index leads from the
// buckets and lookups of a change to the sessions that read them, so a commit
// costs what it concerns and not what is connected. A slow session finds the
// newest state when it looks, never a queue of old ones.
//
// It does no I/O and starts no goroutine; its methods may be called from any.
//
// Invariant: a Watcher that has taken the changes up to a checkpoint, and watches
// the buckets and lookups that its view there depends on, is woken by the first
// later checkpoint that can change the view.
package checkpoint

import (
	"container/heap"
	"slices"
	"sync"

	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// Changes names what a checkpoint changed since the one before.
type Changes struct {
	// All stands for every bucket and lookup, when it is not known which changed.
	All     bool
	Buckets []storage.BucketKey // each once
	Lookups []storage.LookupKey // each once
	// Many has more of both, when there were too many to name; nil if not.
	Many *Filter
}

func (c *Changes) any() bool {
	return c.All || c.Many != nil || len(c.Buckets) > 0 || len(c.Lookups) > 0
}

// The publications that are remembered, for watchers whose view was being evaluated
// meanwhile: so many, naming so many buckets and lookups in all.
const (
	maxRecent     = 1000
	maxRecentKeys = 20_000
)

// Hub is the meeting point of one replicator and many sessions.
type Hub struct {
	mu       sync.Mutex
	latest   storage.Checkpoint
	version  uint64    // counts publications that named changes
	recent   []Changes // the last of them, the one of version last
	keys     int       // that recent names
	watchers map[*Watcher]struct{}
	buckets  map[storage.BucketKey]map[*Watcher]int // → position in the watcher's list
	lookups  map[storage.LookupKey]map[*Watcher]struct{}
	users    map[string]*audience
	waiting  waiters
}

// audience is the sessions of one user, or of one client of a user. It is there as
// long as it has watchers.
type audience struct {
	watchers map[*Watcher]struct{}
	// lsn is the least position that a watcher or a write checkpoint waits for. Who
	// waits for a greater one is woken too early, and waits again.
	lsn   source.LSN
	place int // in Hub.waiting; -1 if nobody waits
}

func (a *audience) wake() {
	for w := range a.watchers {
		w.dirty.Write = true
		w.wake()
	}
}

// NewHub returns a Hub whose newest checkpoint is c, the one recovered from storage.
func NewHub(c storage.Checkpoint) *Hub {
	return &Hub{
		latest:   c,
		watchers: map[*Watcher]struct{}{},
		buckets:  map[storage.BucketKey]map[*Watcher]int{},
		lookups:  map[storage.LookupKey]map[*Watcher]struct{}{},
		users:    map[string]*audience{},
	}
}

// Latest returns the newest checkpoint. Its LSN may be ahead of what storage has
// recorded, when the source moved on without changing anything.
func (h *Hub) Latest() storage.Checkpoint {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.latest
}

// Publish makes c the newest checkpoint and wakes the watchers concerned. Storage
// must show it before Publish is called.
func (h *Hub) Publish(c storage.Checkpoint, changes Changes) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.LSN < h.latest.LSN {
		// Positions that were given out are worth nothing any more: who waits for one
		// looks for another.
		for _, a := range h.waiting {
			a.place = -1
			a.wake()
		}
		h.waiting = nil
	}
	h.latest = c
	if changes.any() {
		h.remember(changes)
	}
	if changes.All {
		for w := range h.watchers {
			w.dirtyAll()
		}
	}
	for _, b := range changes.Buckets {
		for w, i := range h.buckets[b] {
			w.dirtyBucket(i)
		}
	}
	for _, l := range changes.Lookups {
		for w := range h.lookups[l] {
			w.dirtyLookups()
		}
	}
	if changes.Many != nil {
		h.publishMany(changes.Many)
	}
	for len(h.waiting) > 0 && h.waiting[0].lsn <= c.LSN {
		heap.Pop(&h.waiting).(*audience).wake()
	}
}

// publishMany goes through all that is watched, which is less than what changed.
func (h *Hub) publishMany(f *Filter) {
	for b, watchers := range h.buckets {
		if f.MayHaveBucket(b) {
			for w, i := range watchers {
				w.dirtyBucket(i)
			}
		}
	}
	for l, watchers := range h.lookups {
		if f.MayHaveLookup(l) {
			for w := range watchers {
				w.dirtyLookups()
			}
		}
	}
}

// remember keeps changes as the newest, and forgets old ones beyond the bounds.
func (h *Hub) remember(c Changes) {
	h.version++
	h.recent = append(h.recent, c)
	h.keys += weight(&c)
	for len(h.recent) > maxRecent || h.keys > maxRecentKeys && len(h.recent) > 0 {
		h.keys -= weight(&h.recent[0])
		h.recent[0] = Changes{}
		h.recent = h.recent[1:]
	}
}

// weight is what changes count for in the bound of what is remembered.
func weight(c *Changes) int {
	if c.Many != nil {
		return maxRecentKeys/2 + 1 // at most one
	}
	return len(c.Buckets) + len(c.Lookups)
}

// WriteCheckpoint tells the Hub of a user's new write checkpoint, after storage
// has it: the user's sessions are woken once lsn is reached, which may be now.
func (h *Hub) WriteCheckpoint(user string, lsn source.LSN) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a := h.users[user]; a != nil { // a session that comes later looks for itself
		h.await(a, lsn)
	}
}

// await wakes an audience once lsn is reached, which may be now.
func (h *Hub) await(a *audience, lsn source.LSN) {
	switch {
	case lsn <= h.latest.LSN:
		a.wake()
	case a.place < 0:
		a.lsn = lsn
		heap.Push(&h.waiting, a)
	case lsn < a.lsn:
		a.lsn = lsn
		heap.Fix(&h.waiting, a.place)
	}
}

// Dirty says what of a watcher's view may have changed.
type Dirty struct {
	All     bool  // anything: evaluate everything again
	Lookups bool  // a lookup that was read: evaluate the request again
	Write   bool  // the user's write checkpoint
	Buckets []int // positions in the watched list
}

// Any reports whether anything may have changed.
func (d *Dirty) Any() bool { return d.All || d.Lookups || d.Write || len(d.Buckets) > 0 }

// Watcher is one session's place at the Hub. Its own methods, but for C, are for
// the session's goroutine.
type Watcher struct {
	hub      *Hub
	user     string
	audience *audience
	c        chan struct{}

	// guarded by hub.mu
	dirty   Dirty
	marked  []bool // parallel to buckets
	buckets []storage.BucketKey
	lookups []storage.LookupKey
	version uint64 // of the hub when dirty was last taken
}

// Watch adds a watcher for a user's session. It must be closed.
func (h *Hub) Watch(user string) *Watcher {
	w := &Watcher{hub: h, user: user, c: make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watchers[w] = struct{}{}
	if h.users[user] == nil {
		h.users[user] = &audience{watchers: map[*Watcher]struct{}{}, place: -1}
	}
	w.audience = h.users[user]
	w.audience.watchers[w] = struct{}{}
	w.version = h.version
	return w
}

// C receives when there may be something to take.
func (w *Watcher) C() <-chan struct{} { return w.c }

func (w *Watcher) wake() {
	select {
	case w.c <- struct{}{}:
	default:
	}
}

// The following are for the Hub, which holds its lock.

func (w *Watcher) dirtyAll() {
	w.dirty.All = true
	w.wake()
}

func (w *Watcher) dirtyLookups() {
	w.dirty.Lookups = true
	w.wake()
}

func (w *Watcher) dirtyBucket(i int) {
	if !w.marked[i] {
		w.marked[i] = true
		w.dirty.Buckets = append(w.dirty.Buckets, i)
	}
	w.wake()
}

// catchUp marks what was published after the last Take and concerns what is watched
// now.
func (w *Watcher) catchUp() {
	h := w.hub
	missed := h.version - w.version
	if missed > uint64(len(h.recent)) {
		w.dirtyAll()
		return
	}
	for _, c := range h.recent[uint64(len(h.recent))-missed:] {
		if c.All {
			w.dirtyAll()
			return
		}
		for _, b := range c.Buckets {
			if i, ok := h.buckets[b][w]; ok {
				w.dirtyBucket(i)
			}
		}
		for _, l := range c.Lookups {
			if _, ok := h.lookups[l][w]; ok {
				w.dirtyLookups()
			}
		}
		if c.Many == nil {
			continue
		}
		for i, b := range w.buckets {
			if c.Many.MayHaveBucket(b) {
				w.dirtyBucket(i)
			}
		}
		if slices.ContainsFunc(w.lookups, c.Many.MayHaveLookup) {
			w.dirtyLookups()
		}
	}
}

// Take returns the newest checkpoint and what may have changed since the last
// Take. Changes from now on are for the next one.
func (w *Watcher) Take() (storage.Checkpoint, Dirty) {
	h := w.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	d := w.dirty
	w.dirty = Dirty{}
	for _, i := range d.Buckets {
		w.marked[i] = false
	}
	w.version = h.version
	select {
	case <-w.c:
	default:
	}
	return h.latest, d
}

// Pending reports what the next Take would find changed.
func (w *Watcher) Pending() bool {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	return w.dirty.Any()
}

// Set replaces what the session watches: the buckets of its view and the lookups
// that led to it, as of the last Take. The watcher is woken if something of it was
// published since, and with All if too much was for the Hub to remember.
func (w *Watcher) Set(buckets []storage.BucketKey, lookups []storage.LookupKey) {
	h := w.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	w.unset()
	w.buckets, w.lookups, w.marked = buckets, lookups, make([]bool, len(buckets))
	w.dirty.Buckets = nil
	for i, b := range buckets {
		m := h.buckets[b]
		if m == nil {
			m = map[*Watcher]int{}
			h.buckets[b] = m
		}
		m[w] = i
	}
	for _, l := range lookups {
		m := h.lookups[l]
		if m == nil {
			m = map[*Watcher]struct{}{}
			h.lookups[l] = m
		}
		m[w] = struct{}{}
	}
	w.catchUp()
}

// Await asks to be woken with Write once lsn is reached. It may be woken before, on
// account of another write checkpoint of the user: it then has to ask again.
func (w *Watcher) Await(lsn source.LSN) {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	w.hub.await(w.audience, lsn)
}

func (w *Watcher) unset() {
	h := w.hub
	for _, b := range w.buckets {
		delete(h.buckets[b], w)
		if len(h.buckets[b]) == 0 {
			delete(h.buckets, b)
		}
	}
	for _, l := range w.lookups {
		delete(h.lookups[l], w)
		if len(h.lookups[l]) == 0 {
			delete(h.lookups, l)
		}
	}
}

// Close removes the watcher.
func (w *Watcher) Close() {
	h := w.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	w.unset()
	delete(h.watchers, w)
	delete(w.audience.watchers, w)
	if len(w.audience.watchers) > 0 {
		return
	}
	if w.audience.place >= 0 {
		heap.Remove(&h.waiting, w.audience.place)
	}
	delete(h.users, w.user)
}

// waiters is a heap of those whose write checkpoints wait, least LSN first: each user
// once, however many requests and sessions it has.
type waiters []*audience

func (s waiters) Len() int           { return len(s) }
func (s waiters) Less(i, j int) bool { return s[i].lsn < s[j].lsn }
func (s waiters) Swap(i, j int) {
	s[i], s[j] = s[j], s[i]
	s[i].place, s[j].place = i, j
}

func (s *waiters) Push(x any) {
	a := x.(*audience)
	a.place = len(*s)
	*s = append(*s, a)
}

func (s *waiters) Pop() any {
	old := *s
	last := len(old) - 1
	a := old[last]
	old[last] = nil
	*s, a.place = old[:last], -1
	return a
}
