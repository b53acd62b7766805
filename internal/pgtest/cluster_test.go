//go:build unix

package pgtest_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace-sync/millrace/internal/pgtest"
)

var shared pgtest.Shared

// childEnv makes the test binary play the process that is killed.
const childEnv = "PGTEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(child())
	}
	os.Exit(shared.Main(m))
}

func TestLogicalAndDurable(t *testing.T) {
	dsn := shared.NewDatabase(t)
	conn := shared.Cluster(t).Conn(t, dsn)
	for name, want := range map[string]string{"wal_level": "logical", "fsync": "on", "listen_addresses": "127.0.0.1"} {
		var got string
		if err := conn.QueryRow(t.Context(), "SELECT current_setting($1)", name).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
}

func TestDatabaseIsDroppedWithItsSlots(t *testing.T) {
	c := shared.Cluster(t)
	var name string
	t.Run("use", func(t *testing.T) {
		dsn := c.NewDatabase(t)
		conn := c.Conn(t, dsn)
		pgtest.Exec(t, dsn, "SELECT pg_create_logical_replication_slot('left_behind', 'pgoutput')")
		if err := conn.QueryRow(t.Context(), "SELECT current_database()").Scan(&name); err != nil {
			t.Fatal(err)
		}
	})
	conn := c.Conn(t, c.DSN("postgres"))
	var left int
	err := conn.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM pg_database WHERE datname = $1)
		+ (SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'left_behind')`, name).Scan(&left)
	if err != nil || left != 0 {
		t.Errorf("%d of the database and its slot are left (%v)", left, err)
	}
}

func TestRestartKeepsCommittedRows(t *testing.T) {
	c := pgtest.Start(t)
	dsn := c.NewDatabase(t)
	pgtest.Exec(t, dsn, "CREATE TABLE kept (n int)")
	for n, mode := range []pgtest.StopMode{pgtest.Fast, pgtest.Immediate, pgtest.Crash} {
		pgtest.Exec(t, dsn, fmt.Sprintf("INSERT INTO kept VALUES (%d)", n))
		if err := c.Restart(t.Context(), mode); err != nil {
			t.Fatal(err)
		}
		var rows int
		if err := c.Conn(t, dsn).QueryRow(t.Context(), "SELECT count(*) FROM kept").Scan(&rows); err != nil {
			t.Fatal(err)
		}
		if rows != n+1 {
			t.Errorf("after stop mode %d: %d rows, want %d", mode, rows, n+1)
		}
	}
	if err := c.Stop(pgtest.Fast); err != nil {
		t.Fatal(err)
	}
	if _, err := pgx.Connect(t.Context(), dsn); err == nil {
		t.Error("a stopped server answered")
	}
}

func TestPassword(t *testing.T) {
	c := pgtest.Start(t, pgtest.WithPassword("s3cret/?"))
	for _, dsn := range []string{c.DSN("postgres"), c.SocketDSN("postgres")} {
		pgtest.Exec(t, dsn, "SELECT 1")
		_, err := pgx.Connect(t.Context(), pgtest.As(t, dsn, "postgres", "wrong"))
		var refused *pgconn.PgError
		if !errors.As(err, &refused) || refused.Code != "28P01" {
			t.Errorf("with a wrong password: %v, want 28P01", err)
		}
	}
}

func TestNewKeepsACluster(t *testing.T) {
	// Not t.TempDir, which only its owner may enter.
	dir, err := os.MkdirTemp("", "pgtest-keep-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	long := filepath.Join(dir, strings.Repeat("long", 25)) // too long for a socket
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for run := range 2 {
		c, err := pgtest.New(long, pgtest.WithSetting("work_mem", "5MB"))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if run == 0 {
			pgtest.Exec(t, c.SocketDSN("postgres"), "CREATE TABLE kept ()")
		}
		pgtest.Exec(t, c.SocketDSN("postgres"), "SELECT FROM kept", "DO $$BEGIN ASSERT current_setting('work_mem') = '5MB'; END$$")
		if err := c.Stop(pgtest.Fast); err != nil {
			t.Fatal(err)
		}
		if run == 1 {
			if err := c.Remove(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := os.Stat(long); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
}

func TestMissing(t *testing.T) {
	_, err := pgtest.New(t.TempDir(), pgtest.WithBinaries(t.TempDir()))
	if !errors.Is(err, pgtest.ErrMissing) || !strings.Contains(err.Error(), "apt-get install -y postgresql") {
		t.Errorf("got %v, want ErrMissing with the command to install", err)
	}
}

// child starts a cluster, says where, and waits to be killed.
func child() int {
	dir, err := os.MkdirTemp("", "pgtest-child-")
	if err != nil {
		return 1
	}
	c, err := pgtest.New(dir)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if err := c.Start(context.Background()); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(c.DSN("postgres"))
	fmt.Println(dir)
	select {}
}

func TestServerEndsWithAKilledProcess(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Scan()
	dsn := lines.Text()
	lines.Scan()
	defer os.RemoveAll(lines.Text())
	pgtest.Exec(t, dsn, "SELECT 1")
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Process.Signal(syscall.SIGKILL)
	cmd.Wait()
	// The server ends our connection when it ends.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := conn.Exec(ctx, "SELECT pg_sleep(60)"); err == nil || ctx.Err() != nil {
		t.Errorf("the server outlived the process that started it: %v", err)
	}
}
