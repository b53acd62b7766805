package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/millrace-sync/millrace/internal/config"
	"github.com/millrace-sync/millrace/internal/deploy"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/pebblestore"
	"github.com/millrace-sync/millrace/internal/storage/pgstore"
)

// Compaction is what Compact did.
type Compaction struct {
	storage.CompactStats
	// Before and After are the bytes that the storage takes on the disk.
	Before, After uint64
}

// Compact compacts the storage of a service that does not run: the buckets with the
// given names, or everything, but for what has hardly grown if incremental.
func Compact(ctx context.Context, cfg *config.Config, names []string, incremental bool, log *slog.Logger) (done Compaction, err error) {
	err = withStorage(ctx, cfg, log, func(s *pebblestore.Store) error {
		opts := storage.CompactOptions{Incremental: incremental}
		rec := s.Recovered()
		for _, name := range names {
			key, ok := deploy.ParseBucketName(rec.Epoch, rec.Definitions, name)
			if !ok {
				return fmt.Errorf("there is no bucket %q: give its full name, as in the checkpoint line of a client's stream", name)
			}
			opts.Buckets = append(opts.Buckets, key)
		}
		if done.Before, err = s.Size(); err != nil {
			return err
		}
		if done.CompactStats, err = s.Compact(ctx, opts); err != nil {
			return err
		}
		done.After, err = s.Size()
		return err
	})
	return done, err
}

// Backup copies the storage of a service that does not run to a folder that must
// not exist, and returns what the copy holds. It is a storage folder like any other.
//
// A service that is started on it finds its slot ahead of the storage. It replaces
// the slot, serves clients the old state, and reads every table anew.
func Backup(ctx context.Context, cfg *config.Config, dir string, log *slog.Logger) (at storage.Checkpoint, err error) {
	err = withStorage(ctx, cfg, log, func(s *pebblestore.Store) error {
		at = s.Recovered().Checkpoint
		return s.Backup(ctx, dir)
	})
	return at, err
}

// Migrate creates the tables of storage in Postgres, or brings them to the format of
// this version of the program. It reports false if the storage has no tables.
func Migrate(ctx context.Context, cfg *config.Config, log *slog.Logger) (bool, error) {
	if cfg.Storage.Type != config.PostgreSQL {
		return false, nil
	}
	return true, pgstore.Migrate(ctx, pgOptions(cfg, log))
}

// withStorage opens the storage, which must be there, and closes it after f.
func withStorage(ctx context.Context, cfg *config.Config, log *slog.Logger, f func(*pebblestore.Store) error) error {
	if cfg.Storage.Type != config.Pebble {
		return fmt.Errorf("the storage in %s is of type %s, and this is for one in a folder", cfg.File, cfg.Storage.Type)
	}
	dir := cfg.Storage.Path
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no storage in %s: check storage.path in %s", dir, cfg.File)
	}
	s, err := pebblestore.Open(ctx, pebblestore.Options{Dir: dir, Logger: log})
	if err != nil {
		return err
	}
	err = f(s)
	if cerr := s.Close(); cerr != nil && err == nil {
		err = fmt.Errorf("close storage: %w", cerr)
	}
	return err
}
