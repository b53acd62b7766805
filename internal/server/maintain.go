package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"golang.org/x/sync/errgroup"

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

// Compact compacts the buckets of the storage with the given names, or everything, but
// for what has hardly grown if incremental, and removes old checkpoint requests. Storage in a folder must not be in use;
// for storage in Postgres, the process that replicates does it, if there is one.
func Compact(ctx context.Context, cfg *config.Config, names []string, incremental bool, log *slog.Logger) (done Compaction, err error) {
	opts := storage.CompactOptions{Incremental: incremental}
	forget := func(s forgetting) *forgetter {
		return &forgetter{store: s, keep: cfg.API.Limits.CheckpointRequestRetention, log: log}
	}
	if cfg.Storage.Type == config.PostgreSQL {
		return compactShared(ctx, cfg, names, opts, forget, log)
	}
	err = withStorage(ctx, cfg, log, func(s *pebblestore.Store) error {
		if opts.Buckets, err = bucketsNamed(s.Recovered(), names); err != nil {
			return err
		}
		if done.Before, err = s.Size(); err != nil {
			return err
		}
		if done.CompactStats, err = s.Compact(ctx, opts); err != nil {
			return err
		}
		if err = forget(s).once(ctx); err != nil {
			return err
		}
		done.After, err = s.Size()
		return err
	})
	return done, err
}

func bucketsNamed(rec storage.Recovered, names []string) ([]storage.BucketKey, error) {
	var keys []storage.BucketKey
	for _, name := range names {
		key, ok := deploy.ParseBucketName(rec.Epoch, rec.Definitions, name)
		if !ok {
			return nil, fmt.Errorf("there is no bucket %q: give its full name, as in the checkpoint line of a client's stream", name)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// compactShared compacts storage in Postgres: by itself if no process writes to it.
func compactShared(ctx context.Context, cfg *config.Config, names []string, opts storage.CompactOptions, forget func(forgetting) *forgetter, log *slog.Logger) (done Compaction, err error) {
	reader := pgOptions(cfg, log)
	reader.Reader, reader.NoMigrate, reader.Connections = true, true, leaderConnections
	shared, err := pgstore.Open(ctx, reader)
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, shared.Close()) }()
	if opts.Buckets, err = bucketsNamed(shared.Recovered(), names); err != nil {
		return done, err
	}
	sizes, err := shared.Sizes()
	if done.Before = sizes.Total; err != nil {
		return done, err
	}
	writer := reader
	writer.Reader = false
	own, err := pgstore.Open(ctx, writer)
	switch {
	case errors.Is(err, storage.ErrLocked):
		log.Info("the process that replicates compacts", "reason", err)
		done.CompactStats, err = shared.RequestCompaction(ctx, opts)
	case err == nil:
		keep, end := context.WithCancel(ctx)
		var g errgroup.Group
		g.Go(func() error { return own.Run(keep) })
		if done.CompactStats, err = own.Compact(ctx, opts); err == nil {
			err = forget(own).once(ctx)
		}
		end()
		err = errors.Join(err, g.Wait(), own.Close())
	}
	if err == nil {
		sizes, err = shared.Sizes()
		done.After = sizes.Total
	}
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

// errNoFolder: there is nothing that could be copied as files.
func errNoFolder(cfg *config.Config) error {
	return fmt.Errorf("the storage in %s is in Postgres, schema %s: back that database up by its own means, such as "+
		"pg_dump --schema=%s --format=custom, and see docs/operations.md for what a restored one needs", cfg.File, cfg.Storage.Schema, cfg.Storage.Schema)
}

// withStorage opens the storage, which must be there and in a folder, and closes it after f.
func withStorage(ctx context.Context, cfg *config.Config, log *slog.Logger, f func(*pebblestore.Store) error) error {
	if cfg.Storage.Type != config.Pebble {
		return errNoFolder(cfg)
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
