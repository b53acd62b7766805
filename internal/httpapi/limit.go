package httpapi

import (
	"net/http"
	"sync"
	"time"
)

// places counts the open streams, and those of each user. Any user may take any
// number of places while there are plenty; when most are taken, those who have many
// get no more, so that others find one.
type places struct {
	total int
	share int // of one user, when places are scarce

	mu    sync.Mutex
	taken int
	users map[string]int
}

// Of the places the last quarter is for users who have fewer than a sixteenth of
// them, or than eight.
const (
	scarceFraction = 4
	shareFraction  = 16
	leastShare     = 8
)

func newPlaces(total int) *places {
	return &places{total: total, share: max(leastShare, total/shareFraction), users: map[string]int{}}
}

// refusal says why there is no place.
type refusal uint8

const (
	placed    refusal = iota
	allTaken          // by anyone
	userTaken         // by the same user, and few are left
)

// take takes a place, which is given back by leave.
func (p *places) take(user string) refusal {
	p.mu.Lock()
	defer p.mu.Unlock()
	free := p.total - p.taken
	switch {
	case free <= 0:
		return allTaken
	case free <= p.total/scarceFraction && p.users[user] >= p.share:
		return userTaken
	}
	p.taken++
	p.users[user]++
	return placed
}

func (p *places) leave(user string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
	if p.users[user]--; p.users[user] == 0 {
		delete(p.users, user)
	}
}

// place takes a place for a stream, or logs why there is none.
func (h *Handler) place(user string) bool {
	switch h.places.take(user) {
	case allTaken:
		h.warn("stream refused: too many connections", "limit", h.Connections, "setting", "api.parameters.max_concurrent_connections")
		return false
	case userTaken:
		h.warn("stream refused: the user has many connections and few are left", "user", user, "has", h.places.share,
			"limit", h.Connections, "setting", "api.parameters.max_concurrent_connections")
		return false
	}
	return true
}

// muffledFor is how long warnings of one kind are counted after one was logged.
const muffledFor = 10 * time.Second

// maxMuffled bounds the kinds.
const maxMuffled = 16

// muffler lets one warning of each kind through and then counts them for a while:
// where thousands of clients are refused, a line for each would bury the cause.
type muffler struct {
	mu    sync.Mutex
	kinds map[string]*muffled
}

type muffled struct {
	until time.Time
	count int
}

// pass reports whether to log now, and how many were not logged since the last time.
func (m *muffler) pass(kind string, now time.Time) (before int, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.kinds[kind]
	switch {
	case k == nil && len(m.kinds) >= maxMuffled:
		return 0, true
	case k == nil:
		if m.kinds == nil {
			m.kinds = map[string]*muffled{}
		}
		k = &muffled{}
		m.kinds[kind] = k
	case now.Before(k.until):
		k.count++
		return 0, false
	}
	before, k.count, k.until = k.count, 0, now.Add(muffledFor)
	return before, true
}

// warn logs a refusal, unless one like it was logged just now.
func (h *Handler) warn(message string, attrs ...any) {
	if before, ok := h.refusals.pass(message, time.Now()); ok {
		h.Log.Warn(message, append(attrs, "others_since_last", before)...)
	}
}

// tooMany answers 429 with no body, and ends the connection: where there are too many,
// it should not wait for another request.
func tooMany(w http.ResponseWriter) {
	w.Header().Set("Connection", "close")
	w.WriteHeader(http.StatusTooManyRequests)
}

// queueTimeout is how long a request waits for its turn.
const queueTimeout = 30 * time.Second

// lane lets some requests run and some wait; the rest are refused.
type lane struct {
	running chan struct{}
	all     chan struct{} // running and waiting
}

func newLane(running, queued int) *lane {
	return &lane{running: make(chan struct{}, running), all: make(chan struct{}, running+queued)}
}

// do serves a request when its turn has come, or answers 429 without a body.
func (l *lane) do(h *Handler, w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
	refuse := func() {
		h.warn("request refused: too many at once", "path", r.URL.Path)
		tooMany(w)
	}
	select {
	case l.all <- struct{}{}:
		defer func() { <-l.all }()
	default:
		refuse()
		return
	}
	timeout := time.NewTimer(queueTimeout)
	defer timeout.Stop()
	select {
	case l.running <- struct{}{}:
		defer func() { <-l.running }()
	case <-timeout.C:
		refuse()
		return
	case <-r.Context().Done():
		return
	}
	serve(w, r)
}
