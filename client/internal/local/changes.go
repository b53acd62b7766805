package local

import (
	"errors"
	"maps"
	"slices"

	"github.com/ncruces/go-sqlite3"
)

// changes collects the tables that a transaction writes.
type changes struct {
	pending map[string]struct{}
	hook    func(sqlite3.PreUpdateData)
}

// Track calls committed after each transaction, with the names of the tables that it
// changed, sorted, and the length of the log in pages. It runs on the connection, on
// which it may call [Checkpoint] and nothing else. The file must be in WAL mode: only there does
// SQLite call back after a commit rather than before.
func (c *Conn) Track(committed func(tables []string, pages int) error) {
	c.changes.pending = make(map[string]struct{})
	// The pre-update hook rather than the update hook, which says nothing of rows
	// replaced, of tables without row ids and of tables emptied at once.
	c.changes.hook = func(d sqlite3.PreUpdateData) {
		if d.Schema == "main" {
			c.changes.pending[d.Table] = struct{}{}
		}
	}
	c.PreUpdateHook(c.changes.hook)
	c.RollbackHook(func() { clear(c.changes.pending) })
	c.WALHook(func(_ *sqlite3.Conn, _ string, pages int) error {
		var tables []string
		if len(c.changes.pending) > 0 {
			tables = slices.Sorted(maps.Keys(c.changes.pending))
			clear(c.changes.pending)
		}
		return committed(tables, pages)
	})
}

// Checkpoint moves what the log holds into the database, as far as readers let it. That
// another connection does so already is no error.
func Checkpoint(db *sqlite3.Conn) error {
	_, _, err := db.WALCheckpoint("main", sqlite3.CHECKPOINT_PASSIVE)
	if isBusy(err) {
		return nil
	}
	return err
}

// Changed reports a table as changed by the running transaction, for writes done
// while quiet.
func (c *Conn) Changed(table string) {
	if c.changes.pending != nil {
		c.changes.pending[table] = struct{}{}
	}
}

// Quiet turns tracking off while rows are stored by the thousand in tables that
// nobody watches.
func (c *Conn) Quiet(on bool) {
	if on {
		c.PreUpdateHook(nil)
	} else {
		c.PreUpdateHook(c.changes.hook)
	}
}

func isBusy(err error) bool {
	return err != nil && (errors.Is(err, sqlite3.BUSY) || errors.Is(err, sqlite3.LOCKED))
}
