package server

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/millrace-sync/millrace/internal/admin"
	"github.com/millrace-sync/millrace/internal/config"
	"github.com/millrace-sync/millrace/internal/httpapi"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/pgstore"
)

// leaderConnections is how many connections a replicating process has for what is
// neither reading row records nor committing.
const leaderConnections = 2

// shared is the service on storage in Postgres: it serves clients, or replicates
// when it is this process's turn, or both.
func (s *service) shared(ctx context.Context) error {
	var lead *leader
	var list []work
	deployer, activity := newDeployer(s.log), newActivity(storage.Checkpoint{})
	if s.role.replicates() {
		opts := pgOptions(s.cfg, s.log)
		opts.Connections = leaderConnections
		lead = &leader{service: s, options: opts, deployer: deployer, activity: activity, log: s.log}
		list = append(list, lead.Run)
	}
	if !s.role.serves() {
		watched, err := s.watched(measured{activity: activity, health: lead, deployer: deployer})
		if err != nil {
			return err
		}
		list = append(list, watched...)
		s.log.Info("replicating only: clients are served by other processes", "probes", s.listener.Addr().String(), "storage", s.cfg.Storage.String())
		return s.host(ctx, httpapi.Probes{Health: lead}, make(chan struct{}), unfailing{}, list...)
	}
	opts := pgOptions(s.cfg, s.log)
	opts.Reader = true
	store, err := pgstore.Open(ctx, opts)
	if err != nil {
		return err
	}
	f := newFront(store, s.log)
	if f.strange != nil {
		s.log.Error("what is deployed cannot be served", "reason", f.strange)
	}
	health, elsewhere := vitals(f), f.elsewhere
	if lead != nil {
		health, elsewhere = both{f, lead}, lead.elsewhere
	}
	operator := s.operator(deployer, f.deploys, health, f.activity)
	operator.elsewhere = elsewhere
	a := s.api(apiParts{store: f, uploads: store, hub: f.hub, deploys: f.deploys, health: health, admin: operator})
	defer a.close()
	s.log.Info("serving", "address", s.listener.Addr().String(), "storage", s.cfg.Storage.String(), "checkpoint", store.Recovered().Checkpoint,
		"max_connections", a.most)
	if lead == nil {
		activity = f.activity
	}
	watched, err := s.watched(measured{api: a.handler, activity: activity, health: health, deployer: deployer})
	if err == nil {
		list = append(append(list, watched...), a.checkpoints.Run, f.Run)
		err = s.host(ctx, a.handler, a.draining, unfailing{}, list...)
	}
	if cerr := store.Close(); cerr != nil && err == nil {
		err = fmt.Errorf("close storage: %w", cerr)
	}
	return err
}

// pgOptions returns how to open the configured store in Postgres.
func pgOptions(cfg *config.Config, log *slog.Logger) pgstore.Options {
	c := cfg.Storage.Connection
	return pgstore.Options{
		Connection: connectionConfig(c), Schema: cfg.Storage.Schema, Connections: c.MaxPoolSize, NoMigrate: cfg.Storage.NoMigrate, Logger: log,
	}
}

// unfailing is storage that comes back: no process ends on account of it.
type unfailing struct{}

func (unfailing) Failed() <-chan struct{} { return nil }
func (unfailing) Err() error              { return nil }

// writing is the store in Postgres as the replicator writes it.
type writing struct{ *pgstore.Store }

// Prefetch implements replicate.Prefetcher.
func (w writing) Prefetch(refs []storage.RowRef) error {
	return w.Store.Prefetch(context.Background(), refs)
}

// Snapshot implements replicaStore.
func (w writing) Snapshot() (httpapi.Snapshot, error) { return w.Store.Snapshot() }

// both is the health of a process that serves and replicates.
type both struct {
	serving     *front
	replicating *leader
}

func (b both) heard() time.Time               { return b.replicating.heard() }
func (b both) reading() []admin.TableProgress { return b.replicating.reading() }

// Status implements httpapi.Health.
func (b both) Status() httpapi.Status {
	s, r := b.serving.Status(), b.replicating.Status()
	out := httpapi.Status{Started: s.Started, Ready: s.Ready && r.Ready, Touched: r.Touched, Reason: s.Reason}
	if s.Ready && r.Reason != "" {
		out.Reason = r.Reason
	}
	return out
}
