package postgres_test

import (
	"testing"
	"time"

	"github.com/millrace-sync/millrace/internal/postgres"
)

// A table that somebody holds a lock on keeps nobody from connecting, nor from the
// other tables.
func TestCheckWithALockedTable(t *testing.T) {
	w := newWorld(t, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE other (id int PRIMARY KEY)")
	if _, err := w.connect().Exec(t.Context(), "BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE").ReadAll(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := contextFor(t, 5*time.Second) // less than the wait for a lock
	defer cancel()
	if _, err := postgres.Check(ctx, w.config); err != nil {
		t.Errorf("check: %v", err)
	}
	conn := w.connect()
	tables, problems, err := postgres.Tables(ctx, conn, "powersync", w.registry, []postgres.Pattern{{Schema: "public", Name: "%"}})
	if err != nil || len(tables) != 2 || len(problems) != 0 {
		t.Errorf("tables: %d, %v, %v", len(tables), problems, err)
	}
	if err := postgres.LimitLocks(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	_, err = conn.Exec(t.Context(), "SET lock_timeout = '50ms'; SELECT * FROM t").ReadAll()
	if !postgres.Locked(err) {
		t.Errorf("a read of the locked table gave %v", err)
	}
}
