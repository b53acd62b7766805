package postgres_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/millrace-sync/millrace/internal/postgres"
	"github.com/millrace-sync/millrace/internal/source"
)

// A commit that waits for a standby is in the stream, and nobody sees what it wrote. The
// same goes, for a moment, for every commit.
func TestAwaitVisible(t *testing.T) {
	w := newWorld(t, "CREATE TABLE t (id int PRIMARY KEY, n int)", "INSERT INTO t VALUES (1, 0)")
	table := w.table("t")
	stream := w.stream(0)
	w.exec("SET synchronous_commit = local", "ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()")
	release := func() {
		if _, err := w.conn.Exec(context.Background(), "ALTER SYSTEM RESET synchronous_standby_names").ReadAll(); err != nil {
			t.Error(err)
		}
		if _, err := w.conn.Exec(context.Background(), "SELECT pg_reload_conf()").ReadAll(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(release)

	// The first commit that waits is the last.
	writer, wrote := w.connect(), make(chan error, 1)
	stop, stopped := context.WithCancel(t.Context())
	defer stopped()
	go func() {
		for stop.Err() == nil {
			if _, err := writer.Exec(t.Context(), "UPDATE t SET n = n + 1").ReadAll(); err != nil {
				wrote <- err
				return
			}
		}
		wrote <- nil
	}()
	text := ""
	waitFor(t, "a commit that waits", func() bool {
		text = w.scalar("SELECT coalesce(max(backend_xid::text), '') FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
		return text != ""
	})
	stopped()
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	xid := source.XID(id)
	ctx, cancel := contextFor(t, 20*time.Second)
	defer cancel()
	var change source.Change
	for {
		e, err := stream.Next(ctx)
		if err != nil {
			t.Fatalf("the transaction did not come in the stream: %v", err)
		}
		if e.Txn != nil && e.Txn.XID == xid {
			change = e.Txn.Changes[0]
			break
		}
	}

	hasty, cancel := contextFor(t, 100*time.Millisecond)
	defer cancel()
	if err := postgres.AwaitVisible(hasty, w.connect(), xid); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while the commit waits: %v", err)
	}
	read := func() string {
		row, _, err := postgres.ReadRow(ctx, w.conn, table, change.New)
		if err != nil {
			t.Fatal(err)
		}
		return string(row[1].Bytes)
	}
	want := string(change.New[1].Bytes)
	if got := read(); got == want {
		t.Errorf("the row has %s already, which is what the waiting transaction wrote", got)
	}
	release()
	if err := postgres.AwaitVisible(ctx, w.conn, xid); err != nil {
		t.Fatal(err)
	}
	if got := read(); got != want {
		t.Errorf("the row has %s, want %s", got, want)
	}
	if err := <-wrote; err != nil {
		t.Errorf("writer: %v", err)
	}
}
