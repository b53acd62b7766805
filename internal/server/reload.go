package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/millrace-sync/millrace/internal/config"
)

// Reload is how a running service learns that its configuration has changed.
type Reload struct {
	// Signals receives when the configuration is to be read again; nil for never.
	Signals <-chan os.Signal
	// Load reads it as it was read at the start; nil if it cannot be read again.
	Load func() (*config.Config, error)
}

// takeTimeout is how long a sync config may take to be stored: as long as a commit,
// and not as long as a backfill.
const takeTimeout = 30 * time.Second

// errNotReloadable: nobody can say what the configuration is now.
var errNotReloadable = errors.New("the configuration cannot be read again: restart the service")

// reloader deploys the configuration's sync config when it has changed. Of the other
// settings it takes no notice.
//
// Files are not watched: editors and tools write them in several steps, and half a
// sync config is one that drops streams.
type reloader struct {
	Reload
	deployer *deployer
	log      *slog.Logger
}

// Run reads the configuration again at every signal, until ctx ends.
func (r *reloader) Run(ctx context.Context) error {
	for {
		select {
		case <-r.Signals:
		case <-ctx.Done():
			return nil
		}
		switch err := r.again(ctx); {
		case err == nil:
		case errors.Is(err, errUnchanged):
			r.log.Info("the sync config has not changed; other settings take effect at a restart")
		default:
			r.log.Error("the configuration was not taken; what was there before goes on", "error", err)
		}
	}
}

// again reads the configuration and deploys its sync config.
func (r *reloader) again(ctx context.Context) error {
	if r.Load == nil {
		return errNotReloadable
	}
	cfg, err := r.Load()
	if err != nil {
		return fmt.Errorf("read the configuration again: %w", err)
	}
	if !cfg.Sync.Supplied() {
		return errUnchanged
	}
	ctx, cancel := context.WithTimeout(ctx, takeTimeout)
	defer cancel()
	return r.deployer.deploy(ctx, cfg.Sync.Source, cfg.Sync.Source.File)
}
