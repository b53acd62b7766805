package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace-sync/millrace/internal/admin"
	"github.com/millrace-sync/millrace/internal/config"
	"github.com/millrace-sync/millrace/internal/httpapi"
	"github.com/millrace-sync/millrace/internal/postgres"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/pgstore"
)

// leaderConnections is how many connections a replicating process has for what is
// neither reading row records nor committing.
const leaderConnections = 2

// shared is the service on storage in Postgres: it serves clients, or replicates
// when it is this process's turn, or both.
func (s *service) shared(ctx context.Context) error {
	sh := &sharing{
		service: s, deployer: newDeployer(s.log), activity: newActivity(storage.Checkpoint{}), draining: make(chan struct{}),
		entrance: &entrance{probes: s.cfg.Probes.HTTP || !s.role.serves(), most: s.resources.sockets(), reason: "the storage is being opened"},
	}
	watched, err := s.watched(measured{api: sh.api, activity: sh.activity, health: sh.entrance, deployer: sh.deployer, store: sh})
	if err != nil {
		return err
	}
	err = s.host(ctx, sh.entrance, sh.draining, unfailing{}, append(watched, sh.Run)...)
	return errors.Join(err, sh.close())
}

// sharing is the service on storage in Postgres, which may not be there when the process
// starts.
type sharing struct {
	service  *service
	deployer *deployer
	// activity is that of this process, if it replicates; if not, of any.
	activity *activity
	entrance *entrance
	draining chan struct{}

	mu     sync.Mutex
	store  *pgstore.Store // for reading; nil until it is there
	served *api           // nil before, and in a process that serves no clients
}

// Run waits for the storage, and does then what the role says, until ctx ends.
func (sh *sharing) Run(ctx context.Context) error {
	store, err := sh.await(ctx)
	if err != nil || store == nil {
		return err
	}
	s := sh.service
	var lead *leader
	var list []work
	if s.role.replicates() {
		opts := pgOptions(s.cfg, s.log)
		opts.Connections = leaderConnections
		lead = &leader{service: s, options: opts, deployer: sh.deployer, activity: sh.activity, log: s.log}
		rec := store.Recovered()
		if d := newestDeploy(&rec); d != nil {
			lead.newest = d.SyncConfig
		}
		list = append(list, lead.Run)
	}
	if s.role.serves() {
		list = append(list, sh.serve(store, lead)...)
	} else {
		sh.administer(store, lead)
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, work := range list {
		g.Go(func() error { return work(ctx) })
	}
	return g.Wait()
}

// await opens the store for reading, however long that takes; nil if ctx ends before.
func (sh *sharing) await(ctx context.Context) (*pgstore.Store, error) {
	s := sh.service
	opts := pgOptions(s.cfg, s.log)
	opts.Reader = true
	said, delay := "", minRetry
	for {
		store, err := pgstore.Open(ctx, opts)
		switch {
		case err == nil:
			sh.mu.Lock()
			defer sh.mu.Unlock()
			sh.store = store
			if said != "" {
				s.log.Info("the storage is there", "storage", s.cfg.Storage.String())
			}
			return store, nil
		case ctx.Err() != nil:
			return nil, nil
		case !mends(err):
			return nil, err
		}
		pause := delay
		if errors.Is(err, postgres.ErrAuth) {
			pause = authRetry
		}
		sh.entrance.wait(err.Error())
		if kind := troubleOf(err); kind != said {
			said = kind
			s.log.Error("the storage cannot be used yet; trying again until it can", "reason", err, "retry_in", pause)
		}
		wait := time.NewTimer(pause)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return nil, nil
		}
		delay = min(2*delay, maxRetry)
	}
}

// serve lets clients in, and returns the work that they need done.
func (sh *sharing) serve(store *pgstore.Store, lead *leader) []work {
	s, activity := sh.service, sh.activity
	if lead != nil {
		activity = newActivity(storage.Checkpoint{})
	}
	f := newFront(store, activity, s.log)
	if f.strange != nil {
		s.log.Error("what is deployed cannot be served", "reason", f.strange)
	}
	health, leading := vitals(f), func() *operator { return nil }
	if lead != nil {
		health, leading = both{f, lead}, lead.operator
	}
	office := &relay{operator: s.operator(sh.deployer, f.deploys, health, f.activity), store: store, leading: leading}
	a := s.api(apiParts{store: f, uploads: store, hub: f.hub, deploys: f.deploys, health: health, admin: office, draining: sh.draining})
	s.log.Info("serving", "address", s.listener.Addr().String(), "storage", s.cfg.Storage.String(), "checkpoint", store.Recovered().Checkpoint,
		"max_connections", a.most)
	sh.mu.Lock()
	sh.served = a
	sh.mu.Unlock()
	sh.entrance.open(a.handler, health)
	return []work{a.checkpoints.Run, f.Run}
}

// administer lets in those who give orders: there is nothing here for clients.
func (sh *sharing) administer(store *pgstore.Store, lead *leader) {
	s := sh.service
	office := &relay{operator: s.operator(sh.deployer, newDeploys(), lead, sh.activity), store: store, leading: lead.operator}
	s.log.Info("replicating only: clients are served by other processes", "address", s.listener.Addr().String(), "storage", s.cfg.Storage.String())
	sh.entrance.open(backOffice{
		Probes: httpapi.Probes{Health: lead},
		admin:  httpapi.New(httpapi.Config{Health: lead, Draining: sh.draining, Log: s.log, Admin: office, AdminTokens: adminTokens(s.cfg), NoProbes: true}),
	}, lead)
}

// backOffice is the probes and the admin API, without what clients ask for.
type backOffice struct {
	httpapi.Probes
	admin *httpapi.Handler
}

// ServeHTTP implements handler.
func (b backOffice) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/api/") && len(r.Header["Upgrade"]) == 0 {
		b.admin.ServeHTTP(w, r)
		return
	}
	b.Probes.ServeHTTP(w, r)
}

// api is the API that clients use; nil if there is none.
func (sh *sharing) api() *httpapi.Handler {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.served == nil {
		return nil
	}
	return sh.served.handler
}

// Sizes implements sizedStore.
func (sh *sharing) Sizes() (storage.Sizes, error) {
	sh.mu.Lock()
	store := sh.store
	sh.mu.Unlock()
	if store == nil {
		return storage.Sizes{}, storage.ErrUnavailable
	}
	return store.Sizes()
}

// close closes what Run has opened, when nobody uses it any more.
func (sh *sharing) close() error {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.served != nil {
		sh.served.close()
	}
	if sh.store == nil {
		return nil
	}
	if err := sh.store.Close(); err != nil {
		return fmt.Errorf("close storage: %w", err)
	}
	return nil
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

// Failed implements failing.
func (unfailing) Failed() <-chan struct{} { return nil }

// Err implements failing.
func (unfailing) Err() error { return nil }

// writing is the store in Postgres as the replicator writes it. A database that takes
// long, or does not answer, is no sign that the process hangs.
type writing struct {
	*pgstore.Store
	touch func(time.Time)
}

// Prefetch implements replicate.Prefetcher.
func (w writing) Prefetch(refs []storage.RowRef) error {
	defer w.waiting()()
	return w.Store.Prefetch(context.Background(), refs)
}

// Commit implements replicaStore.
func (w writing) Commit(ctx context.Context, b *storage.Batch) error {
	defer w.waiting()()
	return w.Store.Commit(ctx, b)
}

// Recover implements replicaStore.
func (w writing) Recover(ctx context.Context) (storage.Recovered, error) {
	defer w.waiting()()
	return w.Store.Recover(ctx)
}

// waiting shows every second that the process is alive, until done is called.
func (w writing) waiting() (done func()) {
	var mu sync.Mutex
	var t *time.Timer
	mu.Lock()
	defer mu.Unlock()
	t = time.AfterFunc(time.Second, func() {
		mu.Lock()
		defer mu.Unlock()
		if t != nil {
			w.touch(time.Now())
			t.Reset(time.Second)
		}
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		t.Stop()
		t = nil
	}
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
	// Before anything is served it is replication that knows why.
	if (s.Ready || !s.Started) && r.Reason != "" {
		out.Reason = r.Reason
	}
	return out
}
