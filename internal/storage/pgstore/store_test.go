package pgstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-sync/millrace/internal/pgtest"
	"github.com/millrace-sync/millrace/internal/postgres"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/storagetest"
)

// shared serves the tests that leave the server alone.
var shared pgtest.Shared

func TestMain(m *testing.M) { os.Exit(shared.Main(m)) }

// schemas numbers the schemas of this process: a schema of its own is all that a
// store needs.
var schemas atomic.Int64

func freshSchema() string { return fmt.Sprintf("Store %d", schemas.Add(1)) }

// at returns options for a store on a cluster.
func at(t testing.TB, c *pgtest.Cluster, schema string) Options {
	t.Helper()
	config, err := pgx.ParseConfig(c.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	return Options{
		Connection: postgres.Config{
			Host: config.Host, Port: config.Port, User: config.User, Password: config.Password, Database: config.Database,
			TLS: postgres.DisableTLS, ConnectTimeout: 5 * time.Second,
		},
		Schema: schema, Connections: 4,
	}
}

func TestContract(t *testing.T) {
	cluster := pgtest.Start(t)
	fresh := func(t *testing.T) storagetest.Harness {
		return &harness{t: t, cluster: cluster, opts: at(t, cluster, freshSchema())}
	}
	storagetest.RunRounds(t, fresh, 2, 6)
}

func TestCompaction(t *testing.T) {
	cluster := pgtest.Start(t)
	storagetest.RunCompaction(t, func(t *testing.T) storagetest.Harness {
		return &harness{t: t, cluster: cluster, opts: at(t, cluster, freshSchema())}
	})
}

// The same, where what is compacted is folded into the ops at once.
func TestCompactionAndPruning(t *testing.T) {
	cluster := pgtest.Start(t)
	storagetest.RunCompaction(t, func(t *testing.T) storagetest.Harness {
		opts := at(t, cluster, freshSchema())
		opts.Retain = time.Nanosecond
		return pruning{&harness{t: t, cluster: cluster, opts: opts}}
	})
}

// pruning is a harness whose stores prune after each compaction.
type pruning struct{ *harness }

func (h pruning) Open() (storagetest.Store, error) {
	if _, err := h.harness.Open(); err != nil {
		return nil, err
	}
	return pruningStore{h.open}, nil
}

type pruningStore struct{ *process }

func (p pruningStore) Compact(ctx context.Context, opts storage.CompactOptions) (storage.CompactStats, error) {
	stats, err := p.process.Compact(ctx, opts)
	if err == nil {
		err = p.prune(ctx)
	}
	return stats, err
}

// harness keeps a store in a schema of a server.
type harness struct {
	t       *testing.T
	cluster *pgtest.Cluster
	opts    Options
	open    *process
}

// process is a store as a process has it, which may crash.
type process struct {
	*Store
	crashed atomic.Bool
}

func (p *process) Snapshot() (storagetest.Snapshot, error) {
	sn, err := p.Store.Snapshot()
	if err != nil {
		return nil, err
	}
	return sn, nil
}

// Commit tells nobody how it went once the process has crashed.
func (p *process) Commit(ctx context.Context, b *storage.Batch) error {
	err := p.Store.Commit(ctx, b)
	if p.crashed.Load() {
		return nil
	}
	return err
}

func (h *harness) Open() (storagetest.Store, error) {
	opts := h.opts
	opts.Connection.ApplicationName = fmt.Sprintf("store %d", schemas.Add(1))
	s, err := Open(h.t.Context(), opts)
	if err != nil {
		return nil, err
	}
	p := &process{Store: s}
	h.open = p
	h.t.Cleanup(func() {
		if err := s.Close(); err != nil {
			h.t.Errorf("close at the end: %v", err)
		}
	})
	return p, nil
}

// Crash ends the process that has the store open, and sometimes the server with
// it. The time that the lease has left is let pass.
func (h *harness) Crash(rng *rand.Rand) {
	h.open.crashed.Store(true)
	if rng.IntN(3) == 0 {
		if err := h.cluster.Restart(h.t.Context(), pgtest.Crash); err != nil {
			h.t.Fatal(err)
		}
	}
	seize(h.t, h.opts, h.open.Store)
}

// seize ends the connections of a store and its lease: it may go on trying, but
// another one has had its place.
func seize(t testing.TB, opts Options, s *Store) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	pool, err := ptr(opts.withDefaults()).pool(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	for _, statement := range []string{
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1",
		"UPDATE millrace.store SET token = token + 1, owner = '', expires = clock_timestamp() WHERE one = 1 AND owner <> $1",
	} {
		if _, err := pool.Exec(ctx, s.text.in(statement), s.opts.Connection.ApplicationName); err != nil {
			t.Fatal(err)
		}
	}
}

func BenchmarkStore(b *testing.B) {
	storagetest.Bench(b, func(b *testing.B) storagetest.Store {
		s, err := Open(b.Context(), at(b, shared.Cluster(b), freshSchema()))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = s.Close() })
		return &process{Store: s}
	})
}

func ptr[T any](v T) *T { return &v }
