package server

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-sync/millrace/internal/storage"
)

// forgetful answers calls one after the other, and notes what was asked.
type forgetful struct {
	answers []func() (int64, error)
	at      []time.Time // of the calls
	kept    []time.Duration
}

func (s *forgetful) ForgetCheckpointRequests(_ context.Context, before time.Time) (int64, error) {
	s.at, s.kept = append(s.at, time.Now()), append(s.kept, time.Since(before))
	next := s.answers[0]
	s.answers = s.answers[1:]
	return next()
}

// Old requests are looked for at a pace that follows from how long they are kept. What
// goes wrong is tried again, unless the store has failed.
func TestForgetter(t *testing.T) {
	for keep, every := range map[time.Duration]time.Duration{time.Hour: 10 * time.Minute, time.Minute: time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			var out bytes.Buffer
			store := &forgetful{answers: []func() (int64, error){
				func() (int64, error) { return 0, nil },
				func() (int64, error) { return 7, nil },
				func() (int64, error) { return 3, errors.New("not now") },
				func() (int64, error) { return 0, storage.ErrFailed },
			}}
			f := &forgetter{store: store, keep: keep, log: slog.New(slog.NewTextHandler(&out, nil))}
			start := time.Now()
			if err := f.Run(t.Context()); !errors.Is(err, storage.ErrFailed) {
				t.Errorf("got %v", err)
			}
			for i, at := range store.at {
				if want := time.Duration(i+1) * every; at.Sub(start) != want || store.kept[i] != keep {
					t.Errorf("call %d after %s for what is older than %s, want %s and %s", i, at.Sub(start), store.kept[i], want, keep)
				}
			}
			if len(store.at) != 4 || strings.Count(out.String(), "forgot") != 2 || !strings.Contains(out.String(), "not now") {
				t.Errorf("%d calls: %s", len(store.at), out.String())
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (&forgetter{keep: time.Hour}).Run(ctx); err != nil {
		t.Error(err)
	}
}
