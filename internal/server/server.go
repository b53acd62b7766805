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
	"os"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace-sync/millrace/internal/auth"
	"github.com/millrace-sync/millrace/internal/checkpoint"
	"github.com/millrace-sync/millrace/internal/config"
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
func Run(ctx context.Context, cfg *config.Config, reload Reload, log *slog.Logger) error {
	listener, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(cfg.Port)))
	if err != nil {
		return fmt.Errorf("listen on port %d: %w; end the program that uses the port, or set another port in %s", cfg.Port, err, cfg.File)
	}
	defer listener.Close()
	return run(ctx, cfg, reload, log, listener, catalogInterval)
}

// run is Run with what tests choose.
func run(ctx context.Context, cfg *config.Config, reload Reload, log *slog.Logger, listener net.Listener, lookEvery time.Duration) error {
	var plan *streams.Plan
	var diagnostics []streams.Diagnostic
	if cfg.Sync.Supplied() {
		plan, diagnostics = streams.Compile(cfg.Sync.Source)
		logWarnings(log, diagnostics)
		if plan == nil && cfg.Sync.ExitOnError {
			return &SyncConfigError{diagnostics}
		}
	}
	verifier, err := newVerifier(cfg, log)
	if err != nil {
		return err
	}
	defer verifier.Close()
	resources := available(os.DirFS("/"))
	store, err := openStore(ctx, cfg, resources, log)
	if err != nil {
		return err
	}
	err = serve(ctx, &service{
		cfg: cfg, log: log, plan: plan, store: store, listener: listener, verifier: verifier, diagnostics: diagnostics, lookEvery: lookEvery, reload: reload,
		resources: resources,
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
	plan        *streams.Plan // nil: the configuration has no sync config, or one with mistakes
	diagnostics []streams.Diagnostic
	store       store
	resources   resources
	listener    net.Listener
	verifier    *auth.Verifier
	lookEvery   time.Duration
	reload      Reload
}

// wanted gives the deployer what is to be served: the configuration's sync config,
// else the newest that was deployed.
func (s *service) wanted(rec storage.Recovered, d *deployer) *target {
	var t *target
	switch src := s.cfg.Sync.Source; {
	case s.plan != nil:
		t = &target{source: src, plan: s.plan, taken: make(chan struct{})}
	case s.cfg.Sync.Supplied():
		d.refuse(src, &SyncConfigError{s.diagnostics})
		t = storedTarget(rec, true)
	default:
		if t = storedTarget(rec, false); t == nil {
			s.log.Warn("no sync config is deployed yet, and the configuration names none: run millrace deploy FILE")
		}
	}
	d.begin(t, s.cfg.Sync.Source.File)
	return t
}

func serve(ctx context.Context, s *service) error {
	recovered := s.store.Recovered()
	hub := checkpoint.NewHub(recovered.Checkpoint)
	current := newDeploys()
	health := newHealth(time.Now(), newBackfills(s.log))
	deployer := newDeployer(s.log)
	if wanted := s.wanted(recovered, deployer); wanted != nil {
		if before := prepare(recovered, wanted.plan, wanted.source.Text); before.current != nil {
			current.set(before.current, before.text)
			health.setServing()
		}
	}
	pg := sourceConfig(&s.cfg.Connection)
	marker := &marker{config: pg}
	defer marker.close()
	checkpoints := &writeCheckpoints{store: s.store, hub: hub, mark: marker.mark, log: s.log, requests: make(chan *writeCheckpointRequest, maxWriteCheckpoints)}
	draining := make(chan struct{})
	most, sockets := connections(s.cfg, s.resources), s.resources.sockets()
	if most > sockets {
		s.log.Warn("api.parameters.max_concurrent_connections is more than the limit of open files allows: raise the limit (ulimit -n)",
			"configured", most, "allowed", sockets)
	}
	activity := newActivity(recovered.Checkpoint)
	reloader := &reloader{deployer: deployer, Reload: s.reload, log: s.log}
	operator := &operator{
		connection: &s.cfg.Connection, source: pg, deployer: deployer, reloader: reloader, deploys: current, health: health, activity: activity, log: s.log,
	}
	handler := httpapi.New(httpapi.Config{
		Verifier: s.verifier, Store: s.store, Hub: hub, Deploys: current, WriteCheckpoints: checkpoints, Health: health,
		Limits: limits(s.cfg), Connections: most, Sockets: sockets, Fetches: s.cfg.API.Limits.DataFetches, Draining: draining, Log: s.log,
		Admin: operator, AdminTokens: adminTokens(s.cfg),
	})
	web := &http.Server{
		Handler: handler, ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ConnState: handler.ConnState,
		ErrorLog:  slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	// Work goes on while streams drain; it is stopped last.
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	g, gctx := errgroup.WithContext(work)
	r := &replicator{
		config: pg, deployer: deployer, store: s.store, hub: hub,
		deploys: current, health: health, activity: activity, backfills: health.backfills, log: s.log, heartbeat: s.cfg.Connection.Heartbeat, lookEvery: s.lookEvery,
	}
	g.Go(func() error { return r.Run(gctx) })
	g.Go(func() error { return reloader.Run(gctx) })
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
	s.log.Info("serving", "address", s.listener.Addr().String(), "storage", s.cfg.Storage.Path, "checkpoint", recovered.Checkpoint,
		"max_connections", most)
	err := g.Wait()
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return nil
	}
	return err
}
