package server

import (
	"context"
	"log/slog"
	"time"
)

// Checkpoint requests are looked through every forgetFraction of the time that they are
// kept, but not more often than each leastForget.
const (
	forgetFraction = 6
	leastForget    = time.Minute
)

// forgetting is what a forgetter needs of the store.
type forgetting interface {
	ForgetCheckpointRequests(context.Context, time.Time) (int64, error)
}

// forgetter removes checkpoint requests that are reached and older than keep, beside
// everything else that goes on: a client that waits for one names it again every few
// seconds. Those of clients that do not come back would stay for ever.
type forgetter struct {
	store forgetting
	keep  time.Duration
	log   *slog.Logger
}

// once removes what is too old now.
func (f *forgetter) once(ctx context.Context) error {
	removed, err := f.store.ForgetCheckpointRequests(ctx, time.Now().Add(-f.keep))
	if removed > 0 {
		f.log.Info("forgot old checkpoint requests", "requests", removed, "older_than", f.keep)
	}
	return err
}

// Run does so again and again until ctx ends. It returns an error only if the store
// fails.
func (f *forgetter) Run(ctx context.Context) error {
	return again(ctx, max(f.keep/forgetFraction, leastForget), "keep checkpoint requests few", f.log, f.once)
}
