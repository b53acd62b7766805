// Package server wires the service together: it opens the store, compiles the sync
// config, starts replication and the API, and stops them in order. It is the only
// package that knows all the others; cmd/millrace calls Run.
//
// With the embedded store one process does everything. With storage in Postgres
// there may be several: each reads the store (front), and of those that may
// replicate one does, as long as it has the storage's lease (leader).
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

// drainTime is how long streams have to end after a signal.
const drainTime = 8 * time.Second

// SyncConfigError says that the sync config does not compile.
type SyncConfigError struct{ Diagnostics []streams.Diagnostic }

// Error returns all mistakes, each with its place.
func (e *SyncConfigError) Error() string {
	return "the sync config has mistakes:\n" + streams.Format(e.Diagnostics)
}

// Run does what role says until ctx ends, and then lets clients go in order. Errors
// before serving began are of the configuration or the environment; a
// storage.ErrFailed is a store that can no longer be written.
func Run(ctx context.Context, cfg *config.Config, role Role, reload Reload, log *slog.Logger) error {
	if err := role.check(cfg); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(cfg.Port)))
	if err != nil {
		return fmt.Errorf("listen on port %d: %w; end the program that uses the port, or set another port in %s", cfg.Port, err, cfg.File)
	}
	defer listener.Close()
	return run(ctx, cfg, role, reload, log, listener, choices{catalogInterval, openStore})
}

// choices are what tests choose otherwise.
type choices struct {
	lookEvery time.Duration // at the source's catalog
	openStore func(context.Context, *config.Config, resources, *slog.Logger) (store, error)
}

// run is Run with what tests choose.
func run(ctx context.Context, cfg *config.Config, role Role, reload Reload, log *slog.Logger, listener net.Listener, c choices) error {
	s := &service{cfg: cfg, role: role, log: log, listener: listener, choices: c, reload: reload}
	if role.replicates() && cfg.Sync.Supplied() {
		s.plan, s.diagnostics = streams.Compile(cfg.Sync.Source)
		logWarnings(log, s.diagnostics)
		if s.plan == nil && cfg.Sync.ExitOnError {
			return &SyncConfigError{s.diagnostics}
		}
	}
	if role.serves() {
		verifier, err := newVerifier(cfg, log)
		if err != nil {
			return err
		}
		defer verifier.Close()
		s.verifier = verifier
	}
	s.resources = available(os.DirFS("/"))
	if cfg.Storage.Type == config.PostgreSQL {
		return s.shared(ctx)
	}
	return s.embedded(ctx)
}

// service is what Run has put together.
type service struct {
	cfg         *config.Config
	role        Role
	log         *slog.Logger
	plan        *streams.Plan // nil: the configuration has no sync config, or one with mistakes
	diagnostics []streams.Diagnostic
	resources   resources
	listener    net.Listener
	verifier    *auth.Verifier // nil: no clients are served
	reload      Reload
	choices
}

// embedded is the service on a store that this process alone has: it replicates and
// serves.
func (s *service) embedded(ctx context.Context) error {
	store, err := s.openStore(ctx, s.cfg, s.resources, s.log)
	if err != nil {
		return err
	}
	err = s.onStore(ctx, store)
	if cerr := store.Close(); cerr != nil && err == nil {
		err = fmt.Errorf("close storage: %w", cerr)
	}
	return err
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

func (s *service) onStore(ctx context.Context, store store) error {
	recovered := store.Recovered()
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
	activity := newActivity(recovered.Checkpoint)
	operator := s.operator(deployer, current, health, activity)
	operator.store, operator.storage = store, s.cfg.Storage.Path
	a := s.api(apiParts{store: store, uploads: store, hub: hub, deploys: current, health: health, admin: operator, draining: make(chan struct{})})
	defer a.close()
	s.log.Info("serving", "address", s.listener.Addr().String(), "storage", s.cfg.Storage.String(), "checkpoint", recovered.Checkpoint,
		"max_connections", a.most)
	watched, err := s.watched(measured{api: func() *httpapi.Handler { return a.handler }, activity: activity, health: health, deployer: deployer, store: store})
	if err != nil {
		return err
	}
	watched = append(watched, s.replicator(store, hub, deployer, current, health, activity).Run,
		s.reloader(deployer).Run, a.checkpoints.Run, s.compactor(store, activity).Run, s.forgetter(store).Run, (&roomWatch{store: store, health: health, every: roomEvery}).Run)
	return s.host(ctx, a.handler, a.draining, store, watched...)
}

// replicator makes a replicator of what a deployer wants.
func (s *service) replicator(store replicaStore, hub *checkpoint.Hub, d *deployer, current *deploys, health *health, activity *activity) *replicator {
	return &replicator{
		config: sourceConfig(&s.cfg.Connection), deployer: d, store: store, hub: hub,
		deploys: current, health: health, activity: activity, readers: backfillReaders(s.cfg.Connection.MaxPoolSize), backfills: health.backfills, log: s.log, heartbeat: s.cfg.Connection.Heartbeat, lookEvery: s.lookEvery,
	}
}

func (s *service) compactor(store compacter, activity *activity) *compactor {
	return &compactor{store: store, activity: activity, log: s.log}
}

// watched returns the work for those who watch the process: metrics and probe files, if
// they are wanted.
func (s *service) watched(m measured) ([]work, error) {
	var list []work
	if port := s.cfg.Telemetry.PrometheusPort; port != 0 {
		m.storage, m.source, m.log = string(s.cfg.Storage.Type), sourceConfig(&s.cfg.Connection), s.log
		metrics, err := newMetrics(port, m)
		if err != nil {
			return nil, err
		}
		list = append(list, metrics.Run)
	}
	if s.cfg.Probes.Filesystem {
		list = append(list, (&probeFiles{dir: probeDir, status: m.health.Status, log: s.log}).Run)
	}
	return list, nil
}

func (s *service) forgetter(store forgetting) *forgetter {
	return &forgetter{store: store, keep: s.cfg.API.Limits.CheckpointRequestRetention, log: s.log}
}

func (s *service) reloader(d *deployer) *reloader {
	return &reloader{deployer: d, Reload: s.reload, log: s.log}
}

// operator answers the admin API of this process.
func (s *service) operator(d *deployer, current *deploys, health vitals, activity *activity) *operator {
	return &operator{
		connection: &s.cfg.Connection, source: sourceConfig(&s.cfg.Connection), deployer: d, reloader: s.reloader(d),
		deploys: current, health: health, activity: activity, log: s.log,
	}
}

// apiParts are what the API is made of, by who provides it.
type apiParts struct {
	store   httpapi.Store
	uploads writeCheckpointStore
	hub     *checkpoint.Hub
	deploys httpapi.Deploys
	health  httpapi.Health
	admin   httpapi.Admin
	// draining is closed when streams are to end.
	draining chan struct{}
}

// api is the API and what belongs to it.
type api struct {
	handler     *httpapi.Handler
	most        int // streams
	checkpoints *writeCheckpoints
	draining    chan struct{}
	marker      *marker
}

func (s *service) api(p apiParts) *api {
	most, sockets := connections(s.cfg, s.resources), s.resources.sockets()
	if most > sockets {
		s.log.Warn("api.parameters.max_concurrent_connections is more than the limit of open files allows: raise the limit (ulimit -n)",
			"configured", most, "allowed", sockets)
	}
	a := &api{most: most, draining: p.draining, marker: &marker{config: sourceConfig(&s.cfg.Connection)}}
	a.checkpoints = &writeCheckpoints{store: p.uploads, hub: p.hub, mark: a.marker.mark, log: s.log, requests: make(chan *writeCheckpointRequest, maxWriteCheckpoints)}
	a.handler = httpapi.New(httpapi.Config{
		Verifier: s.verifier, Store: p.store, Hub: p.hub, Deploys: p.deploys, WriteCheckpoints: a.checkpoints, Health: p.health,
		Limits: limits(s.cfg), Connections: most, Sockets: sockets, Fetches: s.cfg.API.Limits.DataFetches, Draining: a.draining, Log: s.log,
		Admin: p.admin, AdminTokens: adminTokens(s.cfg), NoProbes: !s.cfg.Probes.HTTP,
	})
	return a
}

func (a *api) close() { a.marker.close() }

// work goes on until its context ends. If it ends before, so does the service.
type work func(context.Context) error

// handler answers requests. Shutdown ends what the HTTP server does not know of.
type handler interface {
	http.Handler
	ConnState(net.Conn, http.ConnState)
	Shutdown(context.Context) error
}

// failing is a store that may fail for good.
type failing interface {
	Failed() <-chan struct{}
	Err() error
}

// host serves requests and works until ctx ends: then it closes draining, lets
// streams end, and stops the work last. A store that fails ends everything at once.
func (s *service) host(ctx context.Context, h handler, draining chan struct{}, store failing, list ...work) error {
	web := httpapi.NewServer(h, httpapi.DefaultBounds(), s.log)
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, gctx := errgroup.WithContext(working)
	for _, work := range append(list, new(slack).Run) {
		g.Go(func() error { return work(gctx) })
	}
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
		case <-store.Failed():
			close(draining)
			web.Close()
			now, cancel := context.WithCancel(context.Background())
			cancel()
			_ = h.Shutdown(now)
			return store.Err()
		}
		close(draining)
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
		defer cancel()
		err := web.Shutdown(drain)
		if err = errors.Join(err, h.Shutdown(drain)); err != nil {
			s.log.Warn("some streams did not end in time and were cut", "error", err)
			web.Close()
		}
		stop()
		return nil
	})
	err := g.Wait()
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return nil
	}
	return err
}
