package httpapi

import (
	"context"
	"sync"
)

// roster knows the connections that were taken from the HTTP server, which forgets
// them: sockets and streams.
type roster struct {
	context context.Context // ends when they are to be cut
	cut     context.CancelFunc

	mu      sync.Mutex
	n       int
	closing bool
	empty   chan struct{} // closed when closing and n is 0
}

func newRoster() *roster {
	r := &roster{empty: make(chan struct{})}
	r.context, r.cut = context.WithCancel(context.Background())
	return r
}

// enter counts a connection, false if no more are taken.
func (r *roster) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing {
		return false
	}
	r.n++
	return true
}

func (r *roster) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n--; r.n == 0 && r.closing {
		close(r.empty)
	}
}

// size returns how many there are.
func (r *roster) size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}

// Shutdown waits for streams and sockets, which http.Server.Shutdown does not.
// Those that are left when ctx ends are cut, and its error returned.
func (h *Handler) Shutdown(ctx context.Context) error {
	r := h.taken
	r.mu.Lock()
	if !r.closing {
		if r.closing = true; r.n == 0 {
			close(r.empty)
		}
	}
	r.mu.Unlock()
	var err error
	select {
	case <-r.empty:
	case <-ctx.Done():
		err = ctx.Err()
	}
	r.cut()
	<-r.empty
	return err
}
