package server

import (
	"context"
	"log/slog"

	"github.com/millrace-sync/millrace/internal/admin"
	"github.com/millrace-sync/millrace/internal/config"
	"github.com/millrace-sync/millrace/internal/storage/pebblestore"
	"github.com/millrace-sync/millrace/internal/streams"
)

// DryRun says what deploying a sync config would do to a service that does not run. It
// changes nothing.
func DryRun(ctx context.Context, cfg *config.Config, src streams.Source, log *slog.Logger) (*admin.DryRun, error) {
	plan, diagnostics := streams.Compile(src)
	if plan == nil {
		return nil, &SyncConfigError{diagnostics}
	}
	var current *target
	err := withStorage(ctx, cfg, log, func(s *pebblestore.Store) error {
		current = storedTarget(s.Recovered(), true)
		return nil
	})
	if err != nil {
		return nil, err
	}
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
	return withStorage(ctx, cfg, log, func(s *pebblestore.Store) error {
		rec := s.Recovered()
		return storeTarget(ctx, s, &target{source: src, plan: plan}, &rec)
	})
}
