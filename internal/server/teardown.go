package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/millrace-sync/millrace/internal/config"
	"github.com/millrace-sync/millrace/internal/postgres"
	"github.com/millrace-sync/millrace/internal/storage/pebblestore"
	"github.com/millrace-sync/millrace/internal/storage/pgstore"
)

// Teardown removes what a service that does not run has left: the replication slot on
// the source, and the storage, which is a folder or tables of a database. It returns
// what it removed of that, "" if there was no storage. Whatever is not Millrace's own
// stays, and then the slot does too.
func Teardown(ctx context.Context, cfg *config.Config, log *slog.Logger) (removed string, err error) {
	drop := func() error { return postgres.DropSlot(ctx, sourceConfig(&cfg.Connection)) }
	if cfg.Storage.Type == config.PostgreSQL {
		// Whoever writes to it still needs the slot.
		dropped, err := pgstore.Drop(ctx, pgOptions(cfg, log), drop)
		if err != nil || !dropped {
			return "", err
		}
		return cfg.Storage.String(), nil
	}
	dir := cfg.Storage.Path
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return "", drop()
	}
	// Whoever has the folder open still needs the slot. What cannot be opened as a
	// storage is nothing to be removed either.
	if err := withStorage(ctx, cfg, log, func(*pebblestore.Store) error { return drop() }); err != nil {
		return "", err
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("the slot is dropped; remove the storage: %w", err)
	}
	return dir, nil
}

// TestConnection connects to the source and checks its settings, the publication and
// the rights. It returns the server's version, and what is not as it should be but
// hinders nothing.
func TestConnection(ctx context.Context, cfg *config.Config) (version string, warnings []error, err error) {
	facts, err := postgres.Check(ctx, sourceConfig(&cfg.Connection))
	if err != nil {
		return "", nil, err
	}
	for _, w := range facts.Warnings {
		warnings = append(warnings, w)
	}
	return fmt.Sprint(facts.Version), warnings, nil
}
