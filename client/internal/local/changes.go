package local

import (
	"errors"
	"maps"
	"slices"

	"github.com/ncruces/go-sqlite3"
)

// checkpointPages is the length of the log, in pages of 4 KiB, at which a commit
// moves it into the database. SQLite's own choice of 1,000 would write what a first
// sync downloads several times.
const checkpointPages = 8000

// changes collects the tables that a transaction writes.
type changes struct {
	pending map[string]struct{}
	hook    func(sqlite3.PreUpdateData)
}

// Track calls committed after each transaction that changed tables, with their
// names, sorted. It runs on the connection, which it must not use. The file must be in WAL
// mode: only there does SQLite call back after a commit rather than before.
func (c *Conn) Track(committed func(tables []string)) {
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
	c.WALHook(func(db *sqlite3.Conn, schema string, pages int) error {
		if len(c.changes.pending) > 0 {
			tables := slices.Sorted(maps.Keys(c.changes.pending))
			clear(c.changes.pending)
			committed(tables)
		}
		if pages < checkpointPages {
			return nil
		}
		// Readers may hold it back; the next commit tries again.
		_, _, err := db.WALCheckpoint(schema, sqlite3.CHECKPOINT_PASSIVE)
		if isBusy(err) {
			return nil
		}
		return err
	})
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
