package postgres_test

import (
	"testing"

	"github.com/millrace-sync/millrace/internal/postgres"
)

// A table that somebody holds a lock on keeps nobody from connecting.
func TestCheckWithALockedTable(t *testing.T) {
	w := newWorld(t, "CREATE TABLE t (id int PRIMARY KEY)")
	if _, err := w.connect().Exec(t.Context(), "BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE").ReadAll(); err != nil {
		t.Fatal(err)
	}
	if _, err := postgres.Check(t.Context(), w.config); err != nil {
		t.Errorf("check: %v", err)
	}
	conn := w.connect()
	if err := postgres.LimitLocks(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	_, err := conn.Exec(t.Context(), "SET lock_timeout = '50ms'; SELECT * FROM t").ReadAll()
	if !postgres.Locked(err) {
		t.Errorf("a read of the locked table gave %v", err)
	}
}
