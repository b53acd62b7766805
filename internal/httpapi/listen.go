package httpapi

import (
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Bounds are those of a connection before a route has its request. What routes read
// has bounds of its own.
type Bounds struct {
	// Header is how long a request's header may take. A connection that says nothing
	// lasts no longer.
	Header time.Duration
	// Idle is how long a connection may wait between two requests.
	Idle time.Duration
	// HeaderBytes bounds a header. The HTTP server lets 4 KiB more pass.
	HeaderBytes int
}

// DefaultBounds are those of a service. Idle is what clients know from the reference.
func DefaultBounds() Bounds {
	return Bounds{Header: 10 * time.Second, Idle: 72 * time.Second, HeaderBytes: 64 << 10}
}

// NewServer returns the HTTP server that serves h, a Handler or Probes, within bounds.
// What is wrong with connections is logged for debugging only: clients come and go.
func NewServer(h interface {
	http.Handler
	ConnState(net.Conn, http.ConnState)
}, b Bounds, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: b.Header, IdleTimeout: b.Idle, MaxHeaderBytes: b.HeaderBytes,
		ConnState: h.ConnState,
		ErrorLog:  slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
