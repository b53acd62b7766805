package server

import (
	"context"
	"errors"
	"log/slog"

	"github.com/millrace-sync/millrace/internal/admin"
	"github.com/millrace-sync/millrace/internal/config"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/pebblestore"
	"github.com/millrace-sync/millrace/internal/storage/pgstore"
	"github.com/millrace-sync/millrace/internal/streams"
)

// DryRun says what deploying a sync config would do to a service that does not run. It
// changes nothing.
func DryRun(ctx context.Context, cfg *config.Config, src streams.Source, log *slog.Logger) (*admin.DryRun, error) {
	plan, diagnostics := streams.Compile(src)
	if plan == nil {
		return nil, &SyncConfigError{diagnostics}
	}
	rec, err := recovered(ctx, cfg, log)
	if err != nil {
		return nil, err
	}
	current := storedTarget(rec, true)
	var served *streams.Plan
	if current != nil {
		served = current.plan
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	d := dryRun(ctx, sourceConfig(&cfg.Connection), served, plan)
	d.Unchanged = current != nil && current.source.Text == src.Text
	return d, nil
}

// Deploy stores a sync config for a service that does not run: it is deployed when the
// service starts.
func Deploy(ctx context.Context, cfg *config.Config, src streams.Source, log *slog.Logger) error {
	plan, diagnostics := streams.Compile(src)
	if plan == nil {
		return &SyncConfigError{diagnostics}
	}
	wanted := &target{source: src, plan: plan}
	if cfg.Storage.Type != config.PostgreSQL {
		return withStorage(ctx, cfg, log, func(s *pebblestore.Store) error {
			rec := s.Recovered()
			return storeTarget(ctx, s, wanted, &rec)
		})
	}
	s, err := pgstore.Open(ctx, pgOptions(cfg, log))
	if err != nil {
		return err
	}
	rec := s.Recovered()
	return errors.Join(storeTarget(ctx, s, wanted, &rec), s.Close())
}

// recovered reads what the storage of a service that does not run holds.
func recovered(ctx context.Context, cfg *config.Config, log *slog.Logger) (rec storage.Recovered, err error) {
	if cfg.Storage.Type != config.PostgreSQL {
		err = withStorage(ctx, cfg, log, func(s *pebblestore.Store) error {
			rec = s.Recovered()
			return nil
		})
		return rec, err
	}
	opts := pgOptions(cfg, log)
	opts.Reader, opts.NoMigrate = true, true
	s, err := pgstore.Open(ctx, opts)
	if err != nil {
		return rec, err
	}
	return s.Recovered(), s.Close()
}
