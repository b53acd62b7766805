package pebblestore

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/millrace-sync/millrace/internal/storage"
)

// ErrBackupExists: there is something already where a backup should go.
var ErrBackupExists = errors.New("it exists already: name a folder that does not")

// Backup makes a copy of the store in a folder that must not exist yet, as of some
// moment while it runs and including everything that was durable when it was called.
// Reads and commits go on. On the store's own file system most files are linked, not
// copied, so that it takes little time and space; of the rest it is a full copy.
//
// To restore, open the folder as a store. Its Recovered().Checkpoint.LSN is then
// behind what was confirmed to the source, so its slot cannot be used on.
//
// A failure leaves nothing in the folder, and does the store no harm.
func (s *Store) Backup(ctx context.Context, dir string) error {
	if err := s.backup(ctx, dir); err != nil {
		return fmt.Errorf("back storage up to %s: %w", dir, err)
	}
	return nil
}

func (s *Store) backup(ctx context.Context, dir string) error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end()
	// One at a time, and no compaction meanwhile, which would only make more to copy.
	select {
	case s.compacting <- struct{}{}:
		defer func() { <-s.compacting }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.closing.Load() {
		return storage.ErrClosed
	}
	dir = s.fs.PathJoin(dir) // in its shortest form, as the names of its files begin
	if _, err := s.fs.Stat(dir); err == nil {
		return ErrBackupExists
	}
	s.health.backup.Store(&dir)
	defer s.health.backup.Store(nil)
	err := s.health.guard(func() (err error) {
		// Pebble panics if a folder cannot be synced, which here concerns the copy only.
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("pebble: %v", p)
				if e, ok := p.(error); ok {
					err = e
				}
			}
		}()
		return s.db.Checkpoint(dir, pebble.WithFlushedWAL())
	})
	if err != nil {
		return errors.Join(err, s.fs.RemoveAll(dir))
	}
	return nil
}
