package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/millrace-sync/millrace/internal/storage"
)

const (
	// compactEvery is the pause between two compactions.
	compactEvery = 30 * time.Second
	// compactShare is how much of one core's time a compaction may use.
	compactShare = 0.2
)

// compacter is what a compactor needs of the store.
type compacter interface {
	Compact(context.Context, storage.CompactOptions) (storage.CompactStats, error)
}

// compactor keeps the store small, beside everything else that goes on.
type compactor struct {
	store    compacter
	activity *activity
	log      *slog.Logger
}

// Run compacts the buckets that have grown, again and again, until ctx ends. It
// returns an error only if the store fails; a bucket that cannot be read is tried
// again the next time.
func (c *compactor) Run(ctx context.Context) error {
	return again(ctx, compactEvery, "compact the storage", c.log, c.once)
}

// once compacts the buckets that have grown by now.
func (c *compactor) once(ctx context.Context) error {
	start := time.Now()
	did, err := c.store.Compact(ctx, storage.CompactOptions{Incremental: true, Share: compactShare})
	if did != (storage.CompactStats{}) {
		c.activity.compactions.Add(1)
		c.activity.compacted.Add(did.Cleared + did.Moved)
		c.log.Info("compacted", "buckets", did.Buckets, "ops_cleared", did.Cleared, "ops_moved", did.Moved, "rows_shifted", did.Shifted,
			"data_bytes", did.Bytes, "row_records", did.Rows, "seconds", time.Since(start).Seconds())
	}
	return err
}

// again does something in the store again and again, with pauses, until ctx ends. It
// returns an error only if the store fails; any other is logged.
func again(ctx context.Context, every time.Duration, doing string, log *slog.Logger, once func(context.Context) error) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		err := once(ctx)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, storage.ErrFailed), errors.Is(err, storage.ErrClosed):
			return fmt.Errorf("%s: %w", doing, err)
		default:
			log.Error("upkeep failed; trying again", "doing", doing, "error", err, "retry_in", every)
		}
	}
}
