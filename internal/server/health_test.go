package server

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-sync/millrace/internal/httpapi"
	"github.com/millrace-sync/millrace/internal/postgres"
	"github.com/millrace-sync/millrace/internal/storage"
)

// fullStore waits for room as long as it is told to.
type fullStore struct {
	mu        sync.Mutex
	why       error
	impatient bool
}

func (s *fullStore) set(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.why = why
}

func (s *fullStore) Waiting() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why
}

func (s *fullStore) Impatient() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.impatient = true
}

// A full disk makes the process not ready, with the reason, and leaves it alive; when
// there is room it is ready again.
func TestFullDiskShows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHealth(time.Now(), newBackfills(nil))
		h.setServing()
		h.progress(time.Now())
		s := &fullStore{}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- (&roomWatch{store: s, health: h, every: roomEvery}).Run(ctx) }()
		after := func(d time.Duration) httpapi.Status {
			<-time.After(d) // of the bubble's clock
			synctest.Wait()
			return h.Status()
		}
		if st := after(5 * time.Second); !st.Ready {
			t.Fatalf("not ready: %s", st.Reason)
		}
		s.set(storage.ErrFull)
		st := after(30 * time.Second)
		if st.Ready || !strings.Contains(st.Reason, "full") || !strings.Contains(st.Reason, "make room") {
			t.Errorf("on a full disk: ready %t, %q", st.Ready, st.Reason)
		}
		if since := time.Since(st.Touched); since > 5*time.Second {
			t.Errorf("last alive %v ago, though only waiting", since)
		}
		s.set(nil)
		h.progress(time.Now())
		if st := after(2 * time.Second); !st.Ready || st.Reason != "" {
			t.Errorf("with room again: ready %t, %q", st.Ready, st.Reason)
		}
		cancel()
		if err := <-done; err != nil || !s.impatient {
			t.Errorf("at the end: %v, writes fail that wait: %t", err, s.impatient)
		}
	})
}

// What is wrong makes the process not ready, the gravest thing first; what may go wrong
// is told while it is ready.
func TestReadiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHealth(time.Now(), newBackfills(nil))
		want := func(what string, ready bool, reason string) {
			t.Helper()
			if st := h.Status(); st.Ready != ready || !strings.Contains(st.Reason, reason) || reason == "" && st.Reason != "" {
				t.Errorf("%s: ready %t, %q; want %t, %q", what, st.Ready, st.Reason, ready, reason)
			}
		}
		want("at first", false, "has not started")
		h.progress(time.Now())
		want("before the first deploy", false, "first backfill")
		h.setServing()
		want("serving", true, "")
		h.note(slotNote, "40 MB are left", false)
		want("slot in danger", true, "40 MB")
		h.note(compareNote, comparing, true)
		want("comparing", false, "compared")
		h.note(compareNote, "", false)
		h.note(slotNote, "", false)
		<-time.After(stalled + time.Second) // of the bubble's clock
		want("nothing heard", false, "no progress for 1m1s")
		h.trouble(errors.New("the source is gone").Error())
		want("trouble", false, "the source is gone")
		h.progress(time.Now())
		want("well again", true, "")
	})
}

func TestSlotTrouble(t *testing.T) {
	for name, c := range map[string]struct {
		slot  postgres.SlotState
		text  string
		grave bool
	}{
		"no limit":           {postgres.SlotState{SafeWAL: -1, Budget: -1, WALStatus: "extended"}, "", false},
		"most is left":       {postgres.SlotState{SafeWAL: 60 << 20, Budget: 100 << 20, WALStatus: "reserved"}, "", false},
		"half is left":       {postgres.SlotState{SafeWAL: 50 << 20, Budget: 100 << 20, WALStatus: "extended"}, "50 MB", false},
		"about to be lost":   {postgres.SlotState{SafeWAL: -5, Budget: 100 << 20, WALStatus: "unreserved"}, "0 MB", true},
		"nothing left of it": {postgres.SlotState{SafeWAL: 0, Budget: 100 << 20, WALStatus: "extended"}, "0 MB", true},
	} {
		text, grave := slotTrouble(&c.slot, "s")
		if grave != c.grave || !strings.HasPrefix(text, c.text) || (c.text == "") != (text == "") {
			t.Errorf("%s: %q, grave %t; want %q, %t", name, text, grave, c.text, c.grave)
		}
	}
}
