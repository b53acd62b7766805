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
		h.Log.Warn("stream refused: too many connections", "limit", h.Connections, "setting", "api.parameters.max_concurrent_connections")
		return false
	case userTaken:
		h.Log.Warn("stream refused: the user has many connections and few are left", "user", user, "has", h.places.share,
			"limit", h.Connections, "setting", "api.parameters.max_concurrent_connections")
		return false
	}
	return true
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
		h.Log.Warn("request refused: too many at once", "path", r.URL.Path)
		w.WriteHeader(http.StatusTooManyRequests)
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
