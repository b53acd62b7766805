// Package httpapi serves the sync protocol over HTTP and WebSocket: routes,
// streaming, limits, probes. It holds the sockets and clocks of sessions; what they
// send is decided by package session. The server package starts it.
//
// A driver carries one session. Where its lines go is a sink: a response's body
// (stream.go) or a stream of RSocket payloads (socket.go).
//
// Invariants:
//   - Every refusal has the documented status, code and body, and harms nobody else.
//   - A stream holds no encoding buffer and no storage snapshot while it waits.
//   - A client that does not read is cut off after writeTimeout; until then it costs
//     one buffer.
//   - Whatever a client does with one request, all that it waits for is bounded in
//     number and in time.
package httpapi

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"sync"

	"github.com/millrace-sync/millrace/internal/auth"
	"github.com/millrace-sync/millrace/internal/checkpoint"
	"github.com/millrace-sync/millrace/internal/deploy"
	"github.com/millrace-sync/millrace/internal/session"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/streams"
	"github.com/millrace-sync/millrace/internal/zstd"
	"github.com/millrace-sync/millrace/protocol"
)

// Snapshot is a view of the store that has to be closed.
type Snapshot interface {
	session.View
	Close()
}

// Store is what sessions read.
type Store interface {
	Snapshot() (Snapshot, error)
	WriteCheckpoint(user string) (storage.WriteCheckpoint, bool, error)
}

// Verifier checks tokens.
type Verifier interface {
	// Verify checks an Authorization header; its errors are *protocol.Error.
	Verify(ctx context.Context, header string) (*auth.Claims, error)
}

// Deploys tells which deploy is current.
type Deploys interface {
	// Current returns the deploy that sessions are to use, nil if there is none yet,
	// and a channel that is closed when another takes its place.
	Current() (*deploy.Deploy, <-chan struct{})
}

// WriteCheckpoints gives out write checkpoints.
type WriteCheckpoints interface {
	// Request returns a new write checkpoint of the user: the next number, or if
	// atLeast is set the greater of it and the one stored.
	Request(ctx context.Context, user string, atLeast uint64) (uint64, error)
}

// Config is what a Handler needs.
type Config struct {
	Verifier         Verifier
	Store            Store
	Hub              *checkpoint.Hub
	Deploys          Deploys
	WriteCheckpoints WriteCheckpoints
	Health           Health
	Limits           streams.Limits
	// Connections bounds the open streams. When most are taken, one user's share is
	// bounded too.
	Connections int
	// Sockets bounds the connections of all clients together, by ConnState; 0 means
	// that nothing does.
	Sockets int
	// Fetches bounds the sessions that do at once what costs: begin, or send more than
	// the first chunk of a checkpoint. 0 means as many as there are processors.
	Fetches int
	// Draining is closed when the process is to stop: streams end, requests get 503.
	Draining <-chan struct{}
	Log      *slog.Logger
	// Admin answers the admin API, to those who have one of AdminTokens; nil if this
	// process has none.
	Admin       Admin
	AdminTokens []string
	// NoProbes turns the probes' routes off.
	NoProbes bool
}

// Bounds of requests other than streams: so many are served at once, so many wait.
const (
	checkpointsRunning = 1024
	checkpointsQueued  = 4096
	catchUpsRunning    = 1024 // each waits for up to catchUpTimeout
	adminsRunning      = 10
	adminsQueued       = 20
)

// Handler serves all routes. Shutdown must follow its last request.
type Handler struct {
	Config
	places      *places
	checkpoints *lane
	catchUps    *lane
	counters    Counters
	turns       *turns
	admins      *lane
	chunks      *chunkCache
	taken       *roster
	doorman     doorman
	refusals    muffler
	buffers     sync.Pool // *[]byte
	encoders    sync.Pool // *zstd.Encoder
}

// New returns a Handler.
func New(c Config) *Handler {
	if c.Fetches == 0 {
		c.Fetches = runtime.GOMAXPROCS(0)
	}
	return &Handler{
		Config:      c,
		places:      newPlaces(c.Connections),
		checkpoints: newLane(checkpointsRunning, checkpointsQueued),
		catchUps:    newLane(catchUpsRunning, 0),
		turns:       newTurns(c.Fetches),
		admins:      newLane(adminsRunning, adminsQueued),
		chunks:      newChunkCache(chunkCacheBytes),
		taken:       newRoster(),
		doorman:     doorman{in: map[net.Conn]struct{}{}},
		buffers:     sync.Pool{New: func() any { return new([]byte) }},
		encoders:    sync.Pool{New: func() any { return new(zstd.Encoder) }},
	}
}

// ServeHTTP dispatches by path. Unknown paths and methods get the documented 404.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	limitBody(w, r)
	w.Header().Set("Access-Control-Allow-Origin", "*")
	w.Header().Set("Access-Control-Expose-Headers", "Content-Type")
	if r.Method == http.MethodOptions {
		preflight(w, r)
		return
	}
	if !h.NoProbes && probe(w, r, h.Health) {
		return
	}
	select {
	case <-h.Draining:
		h.fail(w, r, protocol.Errorf(protocol.ShuttingDown, "The service is stopping; try again."))
		return
	default:
	}
	if isUpgrade(r) {
		h.socket(w, r)
		return
	}
	switch route := r.Method + " " + r.URL.Path; route {
	case "POST /sync/stream":
		h.stream(w, r)
	case "GET /write-checkpoint2.json":
		h.checkpoints.do(h, w, r, h.writeCheckpoint)
	case "GET /write-checkpoint.json":
		h.catchUps.do(h, w, r, h.catchUp)
	case "POST /sync/checkpoint-request":
		h.checkpoints.do(h, w, r, h.checkpointRequest)
	default:
		if serve := h.adminRoute(route); serve != nil {
			h.admins.do(h, w, r, serve)
			return
		}
		h.fail(w, r, notFound(r))
	}
}

// preflight answers a browser that asks what it may send.
func preflight(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Access-Control-Request-Method") == "" {
		http.Error(w, "Invalid Preflight Request", http.StatusBadRequest)
		return
	}
	w.Header().Set("Access-Control-Allow-Methods", "GET, HEAD, POST")
	w.Header().Set("Access-Control-Allow-Headers", "Content-Type, Authorization, User-Agent, X-User-Agent")
	w.Header().Set("Access-Control-Max-Age", "3600")
	w.WriteHeader(http.StatusNoContent)
}

func answer(w http.ResponseWriter, status int, body any) {
	b, err := json.Marshal(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	reply(w, status, b)
}

// reply writes a JSON body. An error in writing means that the client has gone.
func reply(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// fail answers with an error: a *protocol.Error as it is, anything else as an
// internal one, whose cause is for the log only.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	e := h.refused(err, "method", r.Method, "path", short(r.URL.Path), "user_agent", userAgent(r))
	reply(w, e.Status, e.AppendJSON(nil))
}

// refused logs why a request is refused, and returns what the client is told.
func (h *Handler) refused(err error, attrs ...any) *protocol.Error {
	e := protocol.AsError(err)
	log := h.Log.With(attrs...)
	switch {
	case e.Status == http.StatusInternalServerError && e.Code != protocol.NoSyncConfig:
		log.Error("request failed", "error", err)
	case e.Status != http.StatusNotFound:
		log.Info("request refused", "status", e.Status, "code", e.Code, "reason", err)
	}
	return e
}
