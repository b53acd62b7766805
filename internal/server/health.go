package server

import (
	"fmt"
	"sync"
	"time"

	"github.com/millrace-sync/millrace/internal/admin"
	"github.com/millrace-sync/millrace/internal/httpapi"
)

// stalled is how long replication may make no progress before the process calls
// itself not ready. The source is heard from at least every keepalive, far more often.
const stalled = 60 * time.Second

// health gathers the signs of life that the probes show.
type health struct {
	mu      sync.Mutex
	serving bool      // a deploy is current
	touched time.Time // the replicator's last step
	moved   time.Time // the source was last heard from
	reason  string    // why replication does not go on; "" if it does
	notes   [noteKinds]note

	backfills *backfills // has its own lock
}

// noteKind is something that is worth telling while replication goes on.
type noteKind int

// The kinds of note, the gravest first.
const (
	storageNote noteKind = iota // the storage cannot be written for now
	compareNote                 // what is served is being compared with the source
	alterNote                   // nothing is published before a table that was altered is read
	slotNote                    // the slot is in danger
	noteKinds
)

// note is what the probes show of a kind; grave ones make the process not ready.
type note struct {
	text  string
	grave bool
}

// note sets what is to be told of a kind; no text takes it back.
func (h *health) note(kind noteKind, text string, grave bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.notes[kind] = note{text, grave}
}

func newHealth(now time.Time, b *backfills) *health {
	return &health{touched: now, reason: "replication has not started", backfills: b}
}

// touch notes that the replicator is alive.
func (h *health) touch(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.touched = now
}

// progress notes that the source was heard from.
func (h *health) progress(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.touched, h.moved, h.reason = now, now, ""
}

// trouble notes why replication does not go on.
func (h *health) trouble(reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reason = reason
}

func (h *health) setServing() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.serving = true
}

// Status implements httpapi.Health.
func (h *health) Status() httpapi.Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := httpapi.Status{Started: h.serving, Touched: h.touched, Reason: h.reason}
	switch {
	case h.reason != "":
	case time.Since(h.moved) > stalled:
		s.Reason = "replication has made no progress for " + time.Since(h.moved).Round(time.Second).String()
	case !h.serving:
		s.Reason = h.firstBackfill()
	default:
		s.Ready = true
	}
	for _, n := range h.notes {
		if n.text != "" && (s.Reason == "" || n.grave && s.Ready) {
			s.Reason, s.Ready = n.text, s.Ready && !n.grave
		}
	}
	return s
}

// heard returns when the source was last heard from; zero if it was not since the
// start.
func (h *health) heard() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.moved
}

func (h *health) reading() []admin.TableProgress { return h.backfills.report() }

// firstBackfill says how far the tables are that are being read.
func (h *health) firstBackfill() string {
	const most = 5
	reason := "the first backfill is under way"
	list := h.backfills.List()
	for i, t := range list[:min(len(list), most)] {
		if i == 0 {
			reason += ": "
		} else {
			reason += "; "
		}
		reason += t.String()
	}
	if len(list) > most {
		reason += fmt.Sprintf("; and %d tables more", len(list)-most)
	}
	return reason
}
