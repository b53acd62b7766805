package postgres_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace-sync/millrace/internal/pgtest"
	"github.com/millrace-sync/millrace/internal/postgres"
	"github.com/millrace-sync/millrace/internal/postgres/pgtypes"
	"github.com/millrace-sync/millrace/internal/source"
)

var update = flag.Bool("update", false, "rewrite the expectations in testdata")

// TestStream runs the scripts of testdata/stream: a line "setup", statements; a
// line "changes", statements; a line "want", what comes in the stream.
func TestStream(t *testing.T) {
	files, err := filepath.Glob("testdata/stream/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			head, rest, ok1 := strings.Cut(string(text), "\nsetup\n")
			setup, rest, ok2 := strings.Cut(rest, "\nchanges\n")
			changes, want, ok3 := strings.Cut(rest, "\nwant\n")
			if !ok1 || !ok2 || !ok3 {
				t.Fatalf("%s lacks a section", file)
			}
			w := newWorld(t, setup)
			s := w.stream(0)
			got, known := "", map[string]string{}
			for line := range strings.Lines(changes) {
				w.exec(line)
				// What the catalog says in addition is of now: the next line waits.
				w.mark("end of line")
				got += essence(known, strings.TrimSuffix(dump(w.until(s, "end of line")), "  message millrace \"end of line\"\ncommit\n"))
			}
			if *update {
				text := head + "\nsetup\n" + setup + "\nchanges\n" + changes + "\nwant\n" + got
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// essence leaves out what comes as the server likes: that a table is described again, as
// before but for its heap, which also divides a transaction. known has the descriptions.
func essence(known map[string]string, dumped string) string {
	var b strings.Builder
	for line := range strings.Lines(dumped) {
		name, description, ok := strings.Cut(strings.TrimPrefix(line, "table "), " ")
		again := ok && strings.HasPrefix(line, "table ") && known[name] == description
		if again || line == "more\n" {
			continue
		}
		if strings.HasPrefix(line, "table ") {
			known[name] = description
		}
		b.WriteString(line)
	}
	return b.String()
}

func TestLargeTransactionComesInParts(t *testing.T) {
	w := newWorld(t, "CREATE TABLE t (id int PRIMARY KEY, body text)")
	w.config.PartChanges, w.config.PartBytes = 100, 64<<10
	s := w.stream(0)
	const rows = 5000
	w.exec(fmt.Sprintf("INSERT INTO t SELECT g, repeat('x', 200) FROM generate_series(1, %d) g", rows))
	w.exec("INSERT INTO t SELECT -g, repeat('y', 30000) FROM generate_series(1, 20) g")
	w.mark("end")
	next, parts := 1, 0
	var xid source.XID
	for _, e := range w.until(s, "end") {
		if e.Txn == nil {
			continue
		}
		size := 0
		for _, ch := range e.Txn.Changes {
			size += len(ch.New[1].Bytes)
		}
		if len(e.Txn.Changes) > 100 || size > 64<<10+30000 {
			t.Errorf("a part of %d changes and %d bytes", len(e.Txn.Changes), size)
		}
		if e.Txn.More != (e.Txn.Commit == 0) {
			t.Errorf("a part with more %v has commit position %s", e.Txn.More, e.Txn.Commit)
		}
		if next > rows {
			continue
		}
		if parts++; parts > 1 && e.Txn.XID != xid {
			t.Errorf("part %d is of transaction %d, the first was of %d", parts, e.Txn.XID, xid)
		}
		xid = e.Txn.XID
		for _, ch := range e.Txn.Changes {
			if got := string(ch.New[0].Bytes); got != fmt.Sprint(next) {
				t.Fatalf("row %s, want %d", got, next)
			}
			next++
		}
	}
	if next != rows+1 || parts < rows/100 {
		t.Errorf("%d rows in %d parts", next-1, parts)
	}
}

// drain reads rows of table t until its highest id is there, and returns them in
// the order of their coming, with the last commit position.
func drain(t *testing.T, s *postgres.Stream, highest string) (ids []string, commit source.LSN) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		e, err := s.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if e.Txn == nil {
			continue
		}
		commit = e.Txn.Commit
		for _, ch := range e.Txn.Changes {
			ids = append(ids, string(ch.New[0].Bytes))
		}
		if len(ids) > 0 && ids[len(ids)-1] == highest {
			return ids, commit
		}
	}
}

func TestResumeAtWhatWasConfirmed(t *testing.T) {
	w := newWorld(t, "CREATE TABLE t (id int PRIMARY KEY)")
	s := w.stream(0)
	for i := 1; i <= 6; i++ {
		w.exec(fmt.Sprintf("INSERT INTO t VALUES (%d)", i))
	}
	_, third := drain(t, s, "3")
	drain(t, s, "6") // received, and not stored
	s.Confirm(third)
	s.Close()
	state, err := postgres.Slot(t.Context(), w.conn, w.config.Slot)
	if err != nil || state.Confirmed != third || state.PID != 0 {
		t.Fatalf("after Close the slot is %+v (%v), want it free and at %s", state, err, third)
	}
	s = w.stream(third)
	if got, _ := drain(t, s, "6"); fmt.Sprint(got) != "[4 5 6]" {
		t.Errorf("resumed with %v", got)
	}
	s.Close()
	// Stored further than confirmed, as after a crash: nothing comes twice.
	start, created, err := postgres.EnsureSlot(t.Context(), w.config)
	if err != nil || created || start != third {
		t.Errorf("EnsureSlot: %s %v %v", start, created, err)
	}
	s = w.stream(third)
	_, fifth := drain(t, s, "5")
	s.Close()
	s = w.stream(fifth)
	if got, _ := drain(t, s, "6"); fmt.Sprint(got) != "[6]" {
		t.Errorf("resumed with %v", got)
	}
}

func TestNothingIsConfirmedUnasked(t *testing.T) {
	w := newWorld(t, "CREATE TABLE t (id int PRIMARY KEY)")
	w.config.StatusInterval = 10 * time.Millisecond
	s := w.stream(0)
	if s.Start() == 0 {
		t.Error("a stream from wherever the slot is does not know where that is")
	}
	w.exec("INSERT INTO t VALUES (1)")
	_, commit := drain(t, s, "1")
	s.Confirm(s.Start() - 1)  // behind: ignored
	s.Confirm(commit + 1<<40) // never received: ignored
	waitFor(t, "several status updates", func() bool {
		// Each carries the position received, so the server has seen one since.
		return w.scalar("SELECT coalesce(max(write_lsn), '0/0') >= '"+commit.String()+"'::pg_lsn FROM pg_stat_replication WHERE application_name = 'millrace'") == "t"
	})
	state, err := postgres.Slot(t.Context(), w.conn, w.config.Slot)
	if err != nil || state.Confirmed != s.Start() {
		t.Errorf("the slot was confirmed to %s, want %s (%v)", state.Confirmed, s.Start(), err)
	}
	s.Confirm(commit)
	waitFor(t, "the confirmation", func() bool {
		state, err := postgres.Slot(t.Context(), w.conn, w.config.Slot)
		return err == nil && state.Confirmed == commit
	})
}

// scalar returns the one value of a query.
func (w *world) scalar(sql string) string {
	w.t.Helper()
	results, err := w.conn.Exec(w.t.Context(), sql).ReadAll()
	if err != nil {
		w.t.Fatal(err)
	}
	return string(results[0].Rows[0][0])
}

// waitFor asks until the answer is yes; what it asks is another process.
func waitFor(t *testing.T, what string, ask func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := contextFor(t, 20*time.Second)
	defer cancel()
	for !ask() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestPositionsMoveOnAQuietDatabase(t *testing.T) {
	w := newWorld(t)
	s := w.stream(0)
	other := shared.NewDatabase(t) // its changes concern the log, not us
	pgtest.Exec(t, other, "CREATE TABLE t AS SELECT generate_series(1, 1000)")
	target, err := postgres.CurrentLSN(t.Context(), w.conn)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		e, err := s.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if e.Txn == nil && e.Table == nil && e.LSN >= target {
			s.Confirm(e.LSN)
			break
		}
	}
}

func TestBuffered(t *testing.T) {
	w := newWorld(t, "CREATE TABLE t (id int PRIMARY KEY)")
	s := w.stream(0)
	w.exec("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)")
	waitFor(t, "rows", s.Buffered)
	w.mark("end")
	w.until(s, "end")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	for { // positions may still come
		_, err := s.Next(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if s.Buffered() {
		t.Error("Buffered though Next had to wait")
	}
	w.exec("INSERT INTO t VALUES (3)")
	if ids, _ := drain(t, s, "3"); len(ids) != 1 {
		t.Errorf("after a cancelled Next came %v", ids)
	}
}

func TestEmittedMessageFollowsWhatWasCommitted(t *testing.T) {
	w := newWorld(t, "CREATE TABLE t (id int PRIMARY KEY)")
	s := w.stream(0)
	w.exec("INSERT INTO t VALUES (1)")
	content := []byte("bytes \x00\xff'\\")
	at, err := postgres.Emit(t.Context(), w.conn, postgres.MessagePrefix, content)
	if err != nil {
		t.Fatal(err)
	}
	after, err := postgres.CurrentLSN(t.Context(), w.conn)
	if err != nil {
		t.Fatal(err)
	}
	events := w.until(s, string(content))
	commit := events[len(events)-1].Txn.Commit
	if at > commit || commit > after || !strings.Contains(dump(events), "insert public.t new(1)") {
		t.Errorf("emitted at %s, committed at %s, afterwards at %s:\n%s", at, commit, after, dump(events))
	}
}

func TestSlotFailures(t *testing.T) {
	w := newWorld(t, "CREATE TABLE t (id int PRIMARY KEY)")
	open := func(config postgres.Config, from source.LSN) error {
		s, err := postgres.OpenStream(t.Context(), config, w.registry, from)
		if err == nil {
			s.Close()
		}
		return err
	}
	t.Run("in use", func(t *testing.T) {
		s := w.stream(0)
		defer s.Close()
		pid := w.scalar("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '" + w.config.Slot + "'")
		_, _, err := postgres.EnsureSlot(t.Context(), w.config)
		for _, err := range []error{err, open(w.config, 0)} {
			if !errors.Is(err, postgres.ErrSlotBusy) || !strings.Contains(err.Error(), "process id "+pid) {
				t.Errorf("got %v, want ErrSlotBusy with process id %s", err, pid)
			}
		}
	})
	t.Run("ahead of what is stored", func(t *testing.T) {
		state, err := postgres.Slot(t.Context(), w.conn, w.config.Slot)
		if err != nil {
			t.Fatal(err)
		}
		if err := open(w.config, state.Confirmed-1); !errors.Is(err, postgres.ErrSlotLost) || !strings.Contains(err.Error(), "ahead of what is stored") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("missing", func(t *testing.T) {
		config := w.config
		config.Slot = "no_such_slot"
		if err := open(config, 0); !errors.Is(err, postgres.ErrSlotLost) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("of another plugin", func(t *testing.T) {
		config := w.config
		config.Slot = "foreign_slot"
		w.exec("SELECT pg_create_physical_replication_slot('foreign_slot')")
		defer w.exec("SELECT pg_drop_replication_slot('foreign_slot')")
		if _, _, err := postgres.EnsureSlot(t.Context(), config); !errors.Is(err, postgres.ErrConfig) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("of another database", func(t *testing.T) {
		config := configOf(t, shared.NewDatabase(t))
		config.Slot = w.config.Slot
		if _, _, err := postgres.EnsureSlot(t.Context(), config); !errors.Is(err, postgres.ErrConfig) || !strings.Contains(err.Error(), "belongs to database") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("dropped", func(t *testing.T) {
		for range 2 { // the second finds nothing to drop
			if err := postgres.DropSlot(t.Context(), w.config); err != nil {
				t.Fatal(err)
			}
		}
		if _, created, err := postgres.EnsureSlot(t.Context(), w.config); err != nil || !created {
			t.Errorf("created %v: %v", created, err)
		}
	})
	t.Run("publication gone", func(t *testing.T) {
		s := w.stream(0)
		w.exec("DROP PUBLICATION powersync", "INSERT INTO t VALUES (1)")
		if err := streamError(t, s); !errors.Is(err, postgres.ErrSlotLost) {
			t.Errorf("got %v", err)
		}
	})
}

func TestSlotWaitsForOpenTransactions(t *testing.T) {
	dsn := shared.NewDatabase(t)
	pgtest.Exec(t, dsn, "CREATE TABLE t (id int PRIMARY KEY)")
	config := configOf(t, dsn)
	config.SlotTimeout = 100 * time.Millisecond
	w := &world{t: t, config: config}
	w.conn = w.connect()
	w.exec("BEGIN", "INSERT INTO t VALUES (1)")
	pid := w.scalar("SELECT pg_backend_pid()")
	_, _, err := postgres.EnsureSlot(t.Context(), config)
	if !errors.Is(err, postgres.ErrTransient) || !strings.Contains(err.Error(), "process "+pid+" of postgres") {
		t.Errorf("got %v, want ErrTransient naming process %s", err, pid)
	}
	w.exec("COMMIT")
	config.SlotTimeout = 0
	if _, created, err := postgres.EnsureSlot(t.Context(), config); err != nil || !created {
		t.Errorf("created %v: %v", created, err)
	}
}

// streamError reads until the stream fails.
func streamError(t *testing.T, s *postgres.Stream) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		if _, err := s.Next(ctx); err != nil {
			if ctx.Err() != nil {
				t.Fatal("the stream did not fail")
			}
			return err
		}
	}
}

func TestInvalidatedSlot(t *testing.T) {
	c := pgtest.Start(t, pgtest.WithSetting("max_slot_wal_keep_size", "1MB"), pgtest.WithSetting("max_wal_size", "32MB"))
	dsn := c.NewDatabase(t)
	pgtest.Exec(t, dsn, "CREATE PUBLICATION powersync FOR ALL TABLES", "CREATE TABLE t (id int PRIMARY KEY, body text)")
	config := configOf(t, dsn)
	start, _, err := postgres.EnsureSlot(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := postgres.Connect(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for range 4 {
		pgtest.Exec(t, dsn, "SELECT pg_switch_wal()", "INSERT INTO t SELECT (SELECT coalesce(max(id), 0) FROM t) + 1, 'x'", "CHECKPOINT")
	}
	state, err := postgres.Slot(t.Context(), conn, config.Slot)
	if err != nil || state.Lost == "" || state.WALStatus != "lost" {
		t.Fatalf("the slot is %+v (%v), want it lost", state, err)
	}
	_, _, err = postgres.EnsureSlot(t.Context(), config)
	_, err2 := postgres.OpenStream(t.Context(), config, nil, start)
	for _, err := range []error{err, err2} {
		if !errors.Is(err, postgres.ErrSlotLost) || !strings.Contains(err.Error(), "max_slot_wal_keep_size") {
			t.Errorf("got %v", err)
		}
	}
	if err := postgres.DropSlot(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if _, created, err := postgres.EnsureSlot(t.Context(), config); err != nil || !created {
		t.Errorf("created %v: %v", created, err)
	}
}

func TestServerRestartIsTransientAndLosesNothing(t *testing.T) {
	c := pgtest.Start(t)
	for _, mode := range []pgtest.StopMode{pgtest.Fast, pgtest.Immediate, pgtest.Crash} {
		t.Run(fmt.Sprint(mode), func(t *testing.T) {
			dsn := c.NewDatabase(t)
			pgtest.Exec(t, dsn, "CREATE PUBLICATION powersync FOR ALL TABLES", "CREATE TABLE t (id int PRIMARY KEY)")
			w := &world{t: t, dsn: dsn, config: configOf(t, dsn), registry: pgtypes.NewRegistry()}
			if _, _, err := postgres.EnsureSlot(t.Context(), w.config); err != nil {
				t.Fatal(err)
			}
			s := w.stream(0)
			pgtest.Exec(t, dsn, "INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)")
			_, stored := drain(t, s, "1")
			drain(t, s, "2")
			s.Confirm(stored)
			if err := c.Restart(t.Context(), mode); err != nil {
				t.Fatal(err)
			}
			if err := streamError(t, s); !errors.Is(err, postgres.ErrTransient) {
				t.Errorf("got %v, want ErrTransient", err)
			}
			s.Close()
			pgtest.Exec(t, dsn, "INSERT INTO t VALUES (3)")
			s = w.stream(stored)
			if got, _ := drain(t, s, "3"); fmt.Sprint(got) != "[2 3]" {
				t.Errorf("after the restart came %v, want [2 3]", got)
			}
			s.Close()
		})
	}
}

func TestCloseInTheMiddleOfALargeTransaction(t *testing.T) {
	w := newWorld(t, "CREATE TABLE t (id int PRIMARY KEY, body text)")
	s := w.stream(0)
	w.exec("INSERT INTO t SELECT g, repeat('x', 500) FROM generate_series(1, 50000) g")
	waitFor(t, "rows", s.Buffered) // nobody takes them: the queue fills up
	s.Close()
	if _, err := s.Next(t.Context()); err == nil {
		for err == nil {
			_, err = s.Next(t.Context())
		}
	}
	if state, err := postgres.Slot(t.Context(), w.conn, w.config.Slot); err != nil || state.PID != 0 {
		t.Errorf("after Close the slot is %+v (%v), want it free", state, err)
	}
	s.Close() // again does nothing
}

func TestCatalogConnectionMayBreak(t *testing.T) {
	w := newWorld(t, "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)")
	w.config.ApplicationName = "broken catalog"
	s := w.stream(0)
	w.exec("INSERT INTO a VALUES (1)")
	drain(t, s, "1")
	killed := w.scalar("SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE application_name = 'broken catalog' AND backend_type = 'client backend'")
	if killed != "1" {
		t.Fatalf("killed %s connections, want the catalog's", killed)
	}
	w.exec("INSERT INTO b VALUES (2)")
	if got, _ := drain(t, s, "2"); len(got) != 1 {
		t.Errorf("got %v", got)
	}
}

func TestErrorsTellTheirKind(t *testing.T) {
	e := &postgres.Error{Code: "PSYNC_S1101", Kind: postgres.ErrConfig, Message: "m", SQL: []string{"A;", "B;"}, Hint: "h",
		Err: &pgconn.PgError{Severity: "ERROR", Message: "two\nlines", Code: "X"}}
	if got, want := e.Error(), "PSYNC_S1101: m: ERROR: two lines (SQLSTATE X); run: A; B; h"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	var pe *pgconn.PgError
	if !errors.Is(e, postgres.ErrConfig) || errors.Is(e, postgres.ErrTransient) || !errors.As(e, &pe) {
		t.Error("kind or cause is not found")
	}
}
