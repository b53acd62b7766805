package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/millrace-sync/millrace/internal/demo"
)

// patience bounds what a test waits for. Nothing takes near as long, but machines
// may be slow and busy.
const patience = 60 * time.Second

// app is the notes app's folder, terminal its client's command.
var (
	app      = filepath.Join("..", "examples", "notes")
	terminal = filepath.Join(app, "terminal", "notes")
)

// bin holds the binaries under test: millrace, notes-backend, notes-demo, notes-tui.
var bin string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	if _, err := os.Stat(filepath.Join(app, "terminal", "node_modules", ".bin", "node")); err != nil {
		fmt.Fprintln(os.Stderr, "the terminal client's packages are missing; run: scripts/deps node")
		return 1
	}
	dir, err := os.MkdirTemp("", "millrace-e2e-")
	if err == nil {
		defer os.RemoveAll(dir)
		bin = dir
		// Postgres runs as another user when we are root.
		err = os.Chmod(dir, 0o755)
	}
	for name, pkg := range map[string]string{"millrace": "../cmd/millrace", "notes-backend": "../examples/notes/backend", "notes-demo": "../examples/notes/demo", "notes-tui": "../examples/notes/tui"} {
		if err != nil {
			break
		}
		build := exec.Command("go", "build", "-o", filepath.Join(dir, name), pkg)
		build.Stderr = os.Stderr
		err = build.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "build the binaries under test:", err)
		return 1
	}
	return m.Run()
}

// newStack prepares an app of the test's own, which stops with the test.
func newStack(t *testing.T) *demo.Stack {
	t.Helper()
	dir := t.TempDir()
	// Run by root, Postgres lives outside: it cannot enter a test's folder.
	t.Cleanup(func() {
		if err := demo.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	s, err := demo.New(t.Context(), demo.Config{
		Dir:      dir,
		Millrace: filepath.Join(bin, "millrace"),
		Backend:  filepath.Join(bin, "notes-backend"),
		Terminal: terminal,
		App:      app,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			showLogs(t, s.LogDir())
		}
	})
	return s
}

// startStack is newStack, started.
func startStack(t *testing.T) *demo.Stack {
	t.Helper()
	s := newStack(t)
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// showLogs adds the end of each log to the test's output.
func showLogs(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		t.Error(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
		}
		t.Logf("%s:\n%s", filepath.Base(file), text[max(0, len(text)-4000):])
	}
}

// connect opens the app's database.
func connect(t *testing.T, s *demo.Stack) *pgx.Conn {
	t.Helper()
	conn, err := s.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		conn.Close(ctx) // the server may be gone
	})
	return conn
}

func exec1(t *testing.T, db *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
}

// newClient runs a terminal client with a fresh local database.
func newClient(t *testing.T, s *demo.Stack, user string, args ...string) *demo.Terminal {
	t.Helper()
	c, err := s.StartTerminal(user, filepath.Join(t.TempDir(), "client.db"), args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// patient returns a context that ends with the test, or when patience does.
func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// table returns a user's rows in Postgres.
func table(t *testing.T, db *pgx.Conn, user string) map[string]demo.Note {
	t.Helper()
	rows, err := db.Query(t.Context(), "SELECT id::text, owner, message FROM greeting WHERE owner = $1", user)
	if err != nil {
		t.Fatal(err)
	}
	notes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[demo.Note])
	if err != nil {
		t.Fatal(err)
	}
	byID := make(map[string]demo.Note, len(notes))
	for _, n := range notes {
		byID[n.ID] = n
	}
	return byID
}

// converge waits until all that the client wrote is confirmed and it shows just its
// user's rows, which nobody else may change meanwhile. Then its local database must
// hold them too.
func converge(t *testing.T, db *pgx.Conn, c *demo.Terminal, user string) {
	t.Helper()
	ctx := patient(t)
	eventually(t, "the client's writes are confirmed", func() (bool, string) {
		state, err := c.State(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return state.Confirmed, fmt.Sprintf("%+v", state)
	})
	want := table(t, db, user)
	var shown map[string]demo.Note
	err := c.Wait(ctx, fmt.Sprintf("it shows the %d rows of %s", len(want), user), func(v demo.View) bool {
		shown = maps.Clone(v.Notes)
		return v.Status.Synced && maps.Equal(v.Notes, want)
	})
	held, listErr := c.List(t.Context())
	if listErr != nil {
		t.Fatal(errors.Join(err, listErr))
	}
	if err != nil || !maps.Equal(held, want) {
		t.Fatalf("%v\nshown (-Postgres +client):\n%s\nheld (-Postgres +client):\n%s\nPostgres now (-then +now):\n%s",
			err, cmp.Diff(want, shown), cmp.Diff(want, held), cmp.Diff(want, table(t, db, user)))
	}
}

// eventually asks until ok holds; seen says what was there instead. It is for what
// cannot tell by itself that it has changed.
func eventually(t *testing.T, what string, ok func() (holds bool, seen string)) {
	t.Helper()
	ctx := patient(t)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		holds, seen := ok()
		if holds {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain until %s; last seen: %s", what, seen)
		case <-tick.C:
		}
	}
}

// exitCode returns the code of a command that has run.
func exitCode(t *testing.T, err error) int {
	t.Helper()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	t.Fatal(err)
	return 0
}
