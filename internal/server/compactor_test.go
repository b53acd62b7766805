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

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/storage"
)

// scriptedStore answers compactions one after the other.
type scriptedStore struct {
	answers []func(context.Context) (storage.CompactStats, error)
	calls   []time.Time
}

func (s *scriptedStore) Compact(ctx context.Context, opts storage.CompactOptions) (storage.CompactStats, error) {
	if !opts.Incremental || opts.Share <= 0 || opts.Share > 0.5 {
		return storage.CompactStats{}, errors.New("not what a service should do beside serving")
	}
	s.calls = append(s.calls, time.Now())
	next := s.answers[0]
	s.answers = s.answers[1:]
	return next(ctx)
}

func TestCompactor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		ctx, cancel := context.WithCancel(t.Context())
		idle := func(context.Context) (storage.CompactStats, error) { return storage.CompactStats{}, nil }
		store := &scriptedStore{answers: []func(context.Context) (storage.CompactStats, error){
			idle,
			func(context.Context) (storage.CompactStats, error) {
				return storage.CompactStats{Buckets: 2, Compacted: bucket.Compacted{Cleared: 70}}, nil
			},
			func(context.Context) (storage.CompactStats, error) {
				return storage.CompactStats{}, storage.ErrCorrupt
			},
			idle,
			func(ctx context.Context) (storage.CompactStats, error) {
				cancel()
				return storage.CompactStats{}, ctx.Err()
			},
		}}
		c := &compactor{store: store, activity: newActivity(storage.Checkpoint{}), log: slog.New(slog.NewTextHandler(&out, nil))}
		if err := c.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if len(store.answers) > 0 {
			t.Errorf("%d compactions were not asked for", len(store.answers))
		}
		for i := 1; i < len(store.calls); i++ {
			if d := store.calls[i].Sub(store.calls[i-1]); d != compactEvery {
				t.Errorf("pause of %s", d)
			}
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 2 || !strings.Contains(lines[0], "buckets=2 ops_cleared=70") || !strings.Contains(lines[1], "corrupt") {
			t.Errorf("logged:\n%s", out.String())
		}
	})
}

func TestCompactorEndsWithTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &scriptedStore{answers: []func(context.Context) (storage.CompactStats, error){
			func(context.Context) (storage.CompactStats, error) {
				return storage.CompactStats{}, storage.ErrFailed
			},
		}}
		c := &compactor{store: store, activity: newActivity(storage.Checkpoint{}), log: slog.New(slog.DiscardHandler)}
		if err := c.Run(t.Context()); !errors.Is(err, storage.ErrFailed) {
			t.Fatalf("got %v, want ErrFailed", err)
		}
	})
}
