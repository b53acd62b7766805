package httpapi

import "sync/atomic"

// Counters say what was sent since the start.
type Counters struct {
	// Operations are those of buckets; Bytes the lines that they and others were in,
	// Packed the same after compression.
	Operations, Bytes, Packed atomic.Int64
}

// Counters returns the handler's counters, which grow while it serves.
func (h *Handler) Counters() *Counters { return &h.counters }

// Streams returns how many streams are open.
func (h *Handler) Streams() int {
	h.places.mu.Lock()
	defer h.places.mu.Unlock()
	return h.places.taken
}
