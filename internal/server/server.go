// Package server wires the service together: it opens the store, compiles the sync
// config, starts replication and the API, and stops them in order. It is the only
// package that knows all the others; cmd/millrace calls Run.
//
// Invariants:
//   - Every goroutine that Run starts has ended when it returns.
//   - A failure of the source ends nothing: the API goes on serving what the store
//     holds, and the probes say what is wrong. A failure of the store ends the
//     process, since nothing can be promised any more.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace-sync/millrace/internal/auth"
	"github.com/millrace-sync/millrace/internal/checkpoint"
	"github.com/millrace-sync/millrace/internal/config"
	"github.com/millrace-sync/millrace/internal/deploy"
	"github.com/millrace-sync/millrace/internal/httpapi"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/streams"
)

const (
	// drainTime is how long streams have to end after a signal.
	drainTime = 8 * time.Second
	// readHeaderTimeout bounds a request's header, idleTimeout a connection between
	// requests; the reference keeps idle connections for 72 s.
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 72 * time.Second
	maxHeaderBytes    = 64 << 10
)

// SyncConfigError says that the sync config does not compile.
type SyncConfigError struct{ Diagnostics []streams.Diagnostic }

// Error returns all mistakes, each with its place.
func (e *SyncConfigError) Error() string {
	return "the sync config has mistakes:\n" + streams.Format(e.Diagnostics)
}

// Run serves until ctx ends, and then lets clients go in order. Errors before
// serving began are of the configuration or the environment; a storage.ErrFailed
// is a store that can no longer be written.
func Run(ctx context.Context, cfg *config.Config, log *slog.Logger) error {
	listener, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(cfg.Port)))
	if err != nil {
		return fmt.Errorf("listen on port %d: %w; end the program that uses the port, or set another port in %s", cfg.Port, err, cfg.File)
	}
	defer listener.Close()
	return run(ctx, cfg, log, listener, catalogInterval)
}

// run is Run with what tests choose.
func run(ctx context.Context, cfg *config.Config, log *slog.Logger, listener net.Listener, lookEvery time.Duration) error {
	plan, diagnostics := streams.Compile(cfg.Sync.Source)
	for _, d := range diagnostics {
		if d.Severity == streams.Warning {
			log.Warn("sync config", "place", d.Start.String(), "stream", d.Stream, "warning", d.Message, "hint", d.Hint)
		}
	}
	if plan == nil && cfg.Sync.ExitOnError {
		return &SyncConfigError{diagnostics}
	}
	verifier, err := newVerifier(cfg, log)
	if err != nil {
		return err
	}
	defer verifier.Close()
	store, err := openStore(ctx, cfg, log)
	if err != nil {
		return err
	}
	err = serve(ctx, &service{
		cfg: cfg, log: log, plan: plan, store: store, listener: listener, verifier: verifier, diagnostics: diagnostics, lookEvery: lookEvery,
	})
	if cerr := store.Close(); cerr != nil && err == nil {
		err = fmt.Errorf("close storage: %w", cerr)
	}
	return err
}

// service is what Run has put together.
type service struct {
	cfg         *config.Config
	log         *slog.Logger
	plan        *streams.Plan // nil: the config does not compile
	diagnostics []streams.Diagnostic
	store       store
	listener    net.Listener
	verifier    *auth.Verifier
	lookEvery   time.Duration
}

func serve(ctx context.Context, s *service) error {
	recovered := s.store.Recovered()
	hub := checkpoint.NewHub(recovered.Checkpoint)
	current := newDeploys()
	health := newHealth(time.Now())
	if s.plan == nil {
		s.log.Error("the sync config does not compile; what was deployed before is served, and nothing is replicated", "mistakes", streams.Format(s.diagnostics))
		health.trouble("the sync config does not compile")
	}
	if d := deployedBefore(recovered, s.plan, s.cfg.Sync.Source.Text); d != nil {
		current.set(d)
		health.setServing()
	}
	pg := sourceConfig(&s.cfg.Connection)
	marker := &marker{config: pg}
	defer marker.close()
	checkpoints := &writeCheckpoints{store: s.store, hub: hub, mark: marker.mark, log: s.log, requests: make(chan *writeCheckpointRequest, maxWriteCheckpoints)}
	draining := make(chan struct{})
	handler := httpapi.New(httpapi.Config{
		Verifier: s.verifier, Store: s.store, Hub: hub, Deploys: current, WriteCheckpoints: checkpoints, Health: health,
		Limits: limits(s.cfg), Connections: connections(s.cfg), Fetches: s.cfg.API.Limits.DataFetches, Draining: draining, Log: s.log,
	})
	web := &http.Server{
		Handler: handler, ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	// Work goes on while streams drain; it is stopped last.
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	g, gctx := errgroup.WithContext(work)
	if s.plan != nil {
		r := &replicator{
			config: pg, plan: s.plan, text: s.cfg.Sync.Source.Text, store: s.store, hub: hub,
			deploys: current, health: health, log: s.log, heartbeat: s.cfg.Connection.Heartbeat, lookEvery: s.lookEvery,
		}
		g.Go(func() error { return r.Run(gctx) })
	}
	g.Go(func() error { return checkpoints.Run(gctx) })
	g.Go(func() error { return (&compactor{store: s.store, log: s.log}).Run(gctx) })
	g.Go(func() error {
		if err := web.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		select {
		case <-ctx.Done():
			s.log.Info("stopping")
		case <-gctx.Done():
		case <-s.store.Failed():
			close(draining)
			web.Close()
			now, cancel := context.WithCancel(context.Background())
			cancel()
			_ = handler.Shutdown(now)
			return s.store.Err()
		}
		close(draining)
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
		defer cancel()
		err := web.Shutdown(drain)
		// The handler's own part are the sockets, of which web does not know.
		if err = errors.Join(err, handler.Shutdown(drain)); err != nil {
			s.log.Warn("some streams did not end in time and were cut", "error", err)
			web.Close()
		}
		stopWork()
		return nil
	})
	s.log.Info("serving", "address", s.listener.Addr().String(), "storage", s.cfg.Storage.Path, "checkpoint", recovered.Checkpoint)
	err := g.Wait()
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return nil
	}
	return err
}

// deployedBefore returns the deploy to serve before the source was even reached:
// the one that the store held as current.
func deployedBefore(rec storage.Recovered, plan *streams.Plan, text string) *deploy.Deploy {
	if plan != nil {
		return prepare(rec, plan, text).current
	}
	for i := range rec.Deploys {
		if rec.Deploys[i].State == storage.DeployServing {
			return restore(rec, &rec.Deploys[i])
		}
	}
	return nil
}
