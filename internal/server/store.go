package server

import (
	"context"
	"errors"
	"log/slog"

	"github.com/millrace-sync/millrace/internal/config"
	"github.com/millrace-sync/millrace/internal/httpapi"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/pebblestore"
)

// store is what the service as a whole needs of a store; each part of it asks for
// less.
type store interface {
	httpapi.Store
	replicaStore
	writeCheckpointStore
	compacter
	forgetting
	// Recovered returns what the store held when it was opened.
	Recovered() storage.Recovered
	// Failed is closed when nothing can be written any more, and Err says why.
	Failed() <-chan struct{}
	Err() error
	// Waiting returns why writes wait for room on a full disk, and Impatient ends that.
	Waiting() error
	Impatient()
	Close() error
}

// openStore opens the store that the configuration asks for.
func openStore(ctx context.Context, cfg *config.Config, r resources, log *slog.Logger) (store, error) {
	s, err := pebblestore.Open(ctx, pebblestore.Options{Dir: cfg.Storage.Path, OpenFiles: r.storageFiles(), Logger: log})
	if err != nil {
		return nil, err
	}
	if err := removeBackups(cfg.Storage.Path); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return pebble{s}, nil
}

// pebble is the embedded store.
type pebble struct{ *pebblestore.Store }

// Snapshot implements httpapi.Store.
func (p pebble) Snapshot() (httpapi.Snapshot, error) { return p.Store.Snapshot() }
