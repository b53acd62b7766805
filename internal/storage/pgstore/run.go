package pgstore

import (
	"context"
	"fmt"
	"time"

	"github.com/millrace-sync/millrace/internal/storage"
)

// Run keeps the lease, tells other processes of new checkpoints, and removes what
// nobody reads any more, until ctx ends or the store is closed. It returns an
// error only if another process has taken over. A reader needs no Run.
func (s *Store) Run(ctx context.Context) error {
	if s.opts.Reader {
		return fmt.Errorf("run storage: %w", errReader)
	}
	renew := time.NewTicker(s.opts.Lease / 3)
	defer renew.Stop()
	silent, renewed := false, time.Now() // the lease could not be renewed the last time; when it could
	prune := time.NewTicker(s.opts.pruneEvery())
	defer prune.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.life.Done():
			return nil
		case <-s.health.failed:
			return s.health.err()
		case <-s.wake:
			s.notify(ctx)
		case <-renew.C:
			err := s.tend(ctx)
			if err != nil && !silent && ctx.Err() == nil && s.health.err() == nil && !s.closing.Load() {
				s.log.Warn("storage: the lease could not be renewed; trying again", "error", err)
			}
			if silent = err != nil; !silent {
				renewed = time.Now()
			} else if time.Since(renewed) > s.opts.Lease {
				s.giveUp()
			}
		case <-prune.C:
			if err := s.prune(ctx); err != nil && ctx.Err() == nil && s.health.err() == nil {
				s.log.Warn("storage: what is superseded could not be removed; trying again", "error", err)
			}
		}
	}
}

// tend renews the lease. It does not wait for a commit under way, which may take
// longer than the lease lasts.
func (s *Store) tend(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Lease/2)
	defer cancel()
	return s.renew(ctx)
}

// writable returns why nothing may be written, or nil.
func (s *Store) writable(ctx context.Context) error {
	if s.closing.Load() {
		return storage.ErrClosed
	}
	if s.opts.Reader {
		return errReader
	}
	if err := s.health.err(); err != nil {
		return err
	}
	return ctx.Err()
}

var errReader = fmt.Errorf("%w: this process opened it for reading only", storage.ErrLocked)
