package server

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-sync/millrace/internal/admin"
	"github.com/millrace-sync/millrace/internal/httpapi"
	"github.com/millrace-sync/millrace/internal/postgres"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/protocol"
)

// entrance is what a process shows that waits for its storage: probes that say why it is
// not there, and to all else that it may be tried again. When the process is open,
// requests and questions go to its own parts.
type entrance struct {
	probes bool // whether they are shown by HTTP
	most   int  // connections while it waits; 0 for any number
	in     atomic.Int64

	mu      sync.Mutex
	reason  string
	health  vitals
	handler handler // nil while it waits
}

// wait sets what is waited for.
func (e *entrance) wait(reason string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.reason = reason
}

// open lets everybody in.
func (e *entrance) open(h handler, health vitals) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.handler, e.health = h, health
}

func (e *entrance) inside() (handler, vitals) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.handler, e.health
}

// ServeHTTP implements handler.
func (e *entrance) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h, _ := e.inside(); h != nil {
		h.ServeHTTP(w, r)
		return
	}
	// The next request is to find what there is then.
	w.Header().Set("Connection", "close")
	if e.probes && r.Method == http.MethodGet {
		switch r.URL.Path {
		case "/probes/startup", "/probes/readiness", "/probes/liveness":
			httpapi.Probes{Health: e}.ServeHTTP(w, r)
			return
		}
	}
	// Not why: that is for operators, and whoever asks may be anybody.
	refusal := protocol.Errorf(protocol.ShuttingDown, "The service is starting; try again shortly.")
	w.Header().Set("Access-Control-Allow-Origin", "*")
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Retry-After", "5")
	w.WriteHeader(refusal.Status)
	_, _ = w.Write(refusal.AppendJSON(nil))
}

// ConnState implements handler.
func (e *entrance) ConnState(c net.Conn, s http.ConnState) {
	if h, _ := e.inside(); h != nil {
		h.ConnState(c, s)
		return
	}
	switch s {
	case http.StateNew:
		if n := e.in.Add(1); e.most > 0 && n > int64(e.most) {
			_ = c.Close()
		}
	case http.StateClosed, http.StateHijacked:
		e.in.Add(-1)
	}
}

// Shutdown implements handler.
func (e *entrance) Shutdown(ctx context.Context) error {
	if h, _ := e.inside(); h != nil {
		return h.Shutdown(ctx)
	}
	return nil
}

// Status implements httpapi.Health. Waiting is no failure of liveness: a restart mends
// nothing.
func (e *entrance) Status() httpapi.Status {
	e.mu.Lock()
	health, reason := e.health, e.reason
	e.mu.Unlock()
	if health != nil {
		return health.Status()
	}
	return httpapi.Status{Touched: time.Now(), Reason: reason}
}

// heard implements vitals.
func (e *entrance) heard() time.Time {
	if _, health := e.inside(); health != nil {
		return health.heard()
	}
	return time.Time{}
}

// reading implements vitals.
func (e *entrance) reading() []admin.TableProgress {
	if _, health := e.inside(); health != nil {
		return health.reading()
	}
	return nil
}

// mends reports whether storage that could not be opened may be there later, without
// anybody starting the process again: what the database or the way to it refuses, people
// change there. Tables of another version or product, and what a configuration gets
// wrong by itself, they do not.
func mends(err error) bool {
	_, told := errors.AsType[*postgres.Error](err)
	return told || errors.Is(err, storage.ErrUnavailable)
}

// troubleOf names the kind of a failure of the storage: what is one state to people has
// one name, whatever port a connection had.
func troubleOf(err error) string {
	if e, told := errors.AsType[*postgres.Error](err); told {
		return e.Code
	}
	if errors.Is(err, storage.ErrUnavailable) {
		return storage.ErrUnavailable.Error()
	}
	return err.Error()
}

// authRetry is how often a user is tried again that the server refused: servers lock
// users out.
const authRetry = 30 * time.Second
