package httpapi

import (
	"net"
	"net/http"
	"sync"
)

// doorman bounds the connections of all clients, streams or not: those that connect
// and do nothing must not use up the descriptors that storage needs.
type doorman struct {
	mu sync.Mutex
	in map[net.Conn]struct{} // those that the HTTP server has; the roster has the others
}

// ConnState is for the http.Server that serves the Handler: it closes connections
// beyond Config.Sockets at once.
func (h *Handler) ConnState(c net.Conn, s http.ConnState) {
	d := &h.doorman
	switch s {
	case http.StateNew:
		taken := h.taken.size()
		d.mu.Lock()
		full := h.Sockets > 0 && len(d.in)+taken >= h.Sockets
		if !full {
			d.in[c] = struct{}{}
		}
		d.mu.Unlock()
		if full {
			h.warn("connection closed: too many, streams and others together", "limit", h.Sockets, "setting", "the limit of open files")
			_ = c.Close()
		}
	case http.StateClosed, http.StateHijacked:
		d.mu.Lock()
		delete(d.in, c)
		d.mu.Unlock()
	}
}
