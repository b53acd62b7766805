//go:build unix

package pgtest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Start gives a test a cluster of its own, which ends with the test: for tests
// that stop, break or reconfigure the server. Others use a Shared. It fails the
// test, and never skips it, if Postgres is not installed.
func Start(t testing.TB, opts ...Option) *Cluster {
	t.Helper()
	c, err := startTemp(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.end(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Shared is one cluster for all the tests of a package. It starts when the first
// test asks for it. Declare one in the test package and let TestMain end it:
//
//	var shared pgtest.Shared
//
//	func TestMain(m *testing.M) { os.Exit(shared.Main(m)) }
type Shared struct {
	Options []Option

	once    sync.Once
	cluster *Cluster
	err     error
}

// Cluster returns the cluster, and fails the test if there can be none.
func (s *Shared) Cluster(t testing.TB) *Cluster {
	t.Helper()
	s.once.Do(func() { s.cluster, s.err = startTemp(s.Options...) })
	if s.err != nil {
		t.Fatal(s.err)
	}
	return s.cluster
}

// NewDatabase is short for Cluster and NewDatabase.
func (s *Shared) NewDatabase(t testing.TB) string {
	t.Helper()
	return s.Cluster(t).NewDatabase(t)
}

// Main runs a package's tests, ends the cluster and returns the exit code.
func (s *Shared) Main(m *testing.M) int {
	code := m.Run()
	if s.cluster == nil {
		return code
	}
	if err := s.cluster.end(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return max(code, 1)
	}
	return code
}

// startTemp starts a cluster in a temporary directory that goes when we go.
func startTemp(opts ...Option) (*Cluster, error) {
	dir, err := os.MkdirTemp("", "pgtest-")
	if err != nil {
		return nil, fmt.Errorf("set up Postgres: %w", err)
	}
	c, err := New(dir, opts...)
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	c.remove = true
	if err := c.Start(context.Background()); err != nil {
		c.Remove()
		return nil, err
	}
	return c, nil
}

// end stops a temporary cluster and removes it.
func (c *Cluster) end() error {
	if err := c.Stop(Immediate); err != nil {
		return err
	}
	return c.Remove()
}

// databases numbers the databases of this process, so that their names differ.
var databases atomic.Int64

// NewDatabase creates an empty database, which is dropped after the test with its
// replication slots, and returns its connection URI (superuser, TCP).
func (c *Cluster) NewDatabase(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("t%d_%s", databases.Add(1), safeName(t.Name()))
	ctx := t.Context()
	conn := c.Conn(t, c.DSN("postgres"))
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.dropDatabase(name); err != nil {
			t.Errorf("drop database %s: %v", name, err)
		}
	})
	return c.DSN(name)
}

// dropDatabase drops a database and the replication slots in it. It does nothing
// while the server is stopped: its directory goes anyway.
func (c *Cluster) dropDatabase(name string) error {
	if c.Done() == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.DSN("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var standby bool
	if err := conn.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&standby); err != nil || standby {
		return err // a standby's databases go with its directory
	}
	if _, err := conn.Exec(ctx, "ALTER DATABASE "+name+" WITH ALLOW_CONNECTIONS false"); err != nil {
		return err
	}
	// A walsender frees its slot some time after it was told to end.
	for {
		var active int
		err := conn.QueryRow(ctx, `SELECT count(*) FROM pg_replication_slots
			WHERE database = $1 AND active AND pg_terminate_backend(active_pid, 1000) IS NOT NULL`, name).Scan(&active)
		if err != nil {
			return err
		}
		if active == 0 {
			break
		}
	}
	if _, err := conn.Exec(ctx, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1", name); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "DROP DATABASE "+name+" WITH (FORCE)")
	return err
}

// Conn opens a connection that is closed after the test.
func (c *Cluster) Conn(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		conn.Close(ctx) // the server may have been stopped
	})
	return conn
}

// Exec runs statements on a connection of their own, over the simple protocol, so
// that there may be several in one text. It may be called from a test's cleanup.
func Exec(t testing.TB, dsn string, statements ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	for _, s := range statements {
		if _, err := conn.PgConn().Exec(ctx, s).ReadAll(); err != nil {
			t.Fatalf("%v\n%s", err, s)
		}
	}
}

// As returns a connection URI for another user of the same database.
func As(t testing.TB, dsn, user, password string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(user)
	if password != "" {
		u.User = url.UserPassword(user, password)
	}
	return u.String()
}

// safeName makes a test's name into a part of an identifier that needs no quotes.
func safeName(name string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '_'
	}, name)
	return name[:min(len(name), 40)]
}
