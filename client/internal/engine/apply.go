package engine

import (
	"encoding/json"
	"fmt"
	"strings"
)

// complete is the priority under which full syncs are recorded.
const complete = 1<<31 - 1

// result is what came of trying to make a checkpoint visible.
type result struct {
	// failed names the buckets whose checksums do not hold, with an explanation.
	failed []string
	// gated says that local writes are on their way.
	gated bool
}

// applied reports whether the rows are visible now.
func (r result) applied() bool { return len(r.failed) == 0 && !r.gated }

// apply validates a checkpoint and makes its rows visible: those of buckets up to a
// priority, or all if priority is [complete].
func (e *Engine) apply(c *checkpoint, priority int, now int64) (result, error) {
	var r result
	names := c.upTo(priority)
	for _, name := range names {
		var add, sum uint32
		err := e.store.Query(`SELECT add_checksum, op_checksum FROM ps_buckets WHERE name = ?`, func(r Row) error {
			add, sum = uint32(r.Int64(0)), uint32(r.Int64(1))
			return nil
		}, name)
		if err != nil {
			return r, fmt.Errorf("validate bucket %s: %w", name, err)
		}
		if want := c.buckets[name].Checksum; add+sum != want {
			r.failed = append(r.failed, fmt.Sprintf("%s (expected %d, got %d = %d (op) + %d (add))", name, want, add+sum, sum, add))
			if err := deleteBucket(e.store, name); err != nil {
				return r, err
			}
		}
	}
	if len(r.failed) > 0 {
		return r, nil
	}
	// The next request goes on from the checkpoint, in buckets without new data too.
	for _, name := range names {
		if err := e.store.Exec(`UPDATE ps_buckets SET last_op = ? WHERE name = ?`, int64(c.lastOp), name); err != nil {
			return r, fmt.Errorf("advance bucket %s: %w", name, err)
		}
	}
	if priority == complete && c.writeCheckpoint != 0 {
		if err := setNumber(e.store, keySeen, int64(c.writeCheckpoint)); err != nil {
			return r, err
		}
	}
	if priority != 0 {
		open, err := gateOpen(e.store)
		if err != nil {
			return r, fmt.Errorf("look at the gate: %w", err)
		}
		if !open {
			return result{gated: true}, nil
		}
	}
	e.store.Syncing(true)
	defer e.store.Syncing(false)
	if err := e.publish(names, priority, now); err != nil {
		return r, fmt.Errorf("apply a checkpoint: %w", err)
	}
	if priority == complete {
		for _, name := range names {
			if c.buckets[name].Count == 0 {
				continue // an old service, which does not count, or nothing to count
			}
			err := e.store.Exec(`UPDATE ps_buckets SET count_since_last = 0, count_at_last = ? WHERE name = ?`, c.buckets[name].Count, name)
			if err != nil {
				return r, fmt.Errorf("count bucket %s: %w", name, err)
			}
		}
		if c.writeCheckpoint != 0 {
			if err := setNumber(e.store, keyApplied, int64(c.writeCheckpoint)); err != nil {
				return r, err
			}
		}
	}
	return r, nil
}

// The rows to look at, and what the newest operation on each says; nothing if there
// is none left.
const (
	changedRows = `
WITH changed AS (
  SELECT o.row_type, o.row_id FROM ps_buckets b
    CROSS JOIN ps_oplog o ON o.bucket = b.id AND o.op_id > b.last_applied_op
  UNION ALL SELECT row_type, row_id FROM ps_updated_rows
)
SELECT row_type, row_id,
  (SELECT iif(max(o.op_id), o.data, NULL) FROM ps_oplog o WHERE o.row_type = changed.row_type AND o.row_id = changed.row_id)
FROM changed GROUP BY row_type, row_id`
	// Where nothing has been applied, every operation is a change.
	firstRows = `SELECT row_type, row_id, iif(max(op_id), data, NULL) FROM ps_oplog WHERE row_type = ? GROUP BY row_id`
	// The same for some buckets, whose names are the argument, a JSON array.
	changedRowsOf = `
WITH involved AS MATERIALIZED (SELECT id FROM ps_buckets WHERE name IN (SELECT value FROM json_each(?1))),
changed AS (
  SELECT o.row_type, o.row_id FROM ps_buckets b
    CROSS JOIN ps_oplog o ON o.bucket = b.id AND o.op_id > b.last_applied_op
  WHERE b.id IN (SELECT id FROM involved)
)
SELECT row_type, row_id,
  (SELECT iif(max(o.op_id), o.data, NULL) FROM ps_oplog o
    WHERE o.row_type = changed.row_type AND o.row_id = changed.row_id AND o.bucket IN (SELECT id FROM involved))
FROM changed GROUP BY row_type, row_id`
)

// publish writes the rows and records that it did.
func (e *Engine) publish(names []string, priority int, now int64) error {
	tables, err := e.tables()
	if err != nil {
		return err
	}
	write := func(r Row) error {
		if r.Null(0) {
			return nil // an operation on no row
		}
		name := r.Text(0)
		t, ok := tables[name]
		if !ok {
			t = untyped(name)
			tables[name] = t
		}
		if r.Null(2) {
			return t.remove(e.store, r.Bytes(1))
		}
		return t.put(e.store, r.Bytes(1), r.Bytes(2))
	}
	if priority == complete {
		err = e.publishAll(tables, write)
	} else {
		buckets, _ := json.Marshal(names) // strings do not fail
		err = e.store.Query(changedRowsOf, write, buckets)
		if err == nil {
			err = e.store.Exec(`UPDATE ps_buckets SET last_applied_op = last_op
WHERE last_applied_op != last_op AND name IN (SELECT value FROM json_each(?))`, buckets)
		}
	}
	if err != nil {
		return err
	}
	if err := e.store.Exec(`DELETE FROM ps_sync_state WHERE priority < ?`, int64(priority)); err != nil {
		return err
	}
	return e.store.Exec(`INSERT OR REPLACE INTO ps_sync_state(priority, last_synced_at) VALUES (?, ?)`, int64(priority), now)
}

func (e *Engine) publishAll(tables map[string]table, write func(Row) error) error {
	first := true
	err := e.store.Query(`SELECT 1 FROM ps_buckets WHERE last_applied_op > 0
UNION ALL SELECT 1 FROM (SELECT 1 FROM ps_updated_rows LIMIT 1) LIMIT 1`, func(Row) error {
		first = false
		return nil
	})
	switch {
	case err != nil:
	case first:
		err = e.publishFirst(tables, write)
	default:
		err = e.store.Query(changedRows, write)
	}
	if err == nil {
		err = e.store.Exec(`UPDATE ps_buckets SET last_applied_op = last_op WHERE last_applied_op != last_op`)
	}
	if err == nil {
		err = e.store.Exec(`DELETE FROM ps_updated_rows`)
	}
	return err
}

// publishFirst writes every row there is, tables that are empty in one statement.
func (e *Engine) publishFirst(tables map[string]table, write func(Row) error) error {
	var names []string
	err := e.store.Query(`SELECT DISTINCT row_type FROM ps_oplog WHERE row_type IS NOT NULL`, func(r Row) error {
		names = append(names, r.Text(0))
		return nil
	})
	for _, name := range names {
		fill := tables[name].fill
		if err == nil && fill != "" {
			err = e.store.Query(tables[name].look, func(Row) error {
				fill = "" // rows may have to go
				return nil
			})
		}
		switch {
		case err != nil:
			return err
		case fill != "":
			err = e.store.Exec(fill, name)
		default:
			err = e.store.Query(firstRows, write, name)
		}
	}
	return err
}

// table writes the rows of one table.
type table struct {
	put    func(s Store, id, data []byte) error
	remove func(s Store, id []byte) error
	// look finds out whether the table holds rows, and fill puts there all that the
	// operations on a type leave. They are empty for tables that go row by row.
	look, fill string
}

// tables finds where rows go: by the database for tables with views, by the schema
// for raw ones.
func (e *Engine) tables() (map[string]table, error) {
	tables := make(map[string]table)
	for i := range e.opts.RawTables {
		tables[e.opts.RawTables[i].Name] = e.raw(&e.opts.RawTables[i])
	}
	const prefix = "ps_data__"
	err := e.store.Query(`SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB 'ps_data__*'`, func(r Row) error {
		name := r.Text(0)
		visible, ok := strings.CutPrefix(name, prefix)
		if !ok {
			return nil
		}
		quoted := quote(name)
		replace := `REPLACE INTO ` + quoted + `(id, data) VALUES (?, ?)`
		remove := `DELETE FROM ` + quoted + ` WHERE id = ?`
		tables[visible] = table{
			put:    func(s Store, id, data []byte) error { return s.Exec(replace, id, data) },
			remove: func(s Store, id []byte) error { return s.Exec(remove, id) },
			look:   `SELECT 1 FROM ` + quoted + ` LIMIT 1`,
			fill: `INSERT OR FAIL INTO ` + quoted + `(id, data) SELECT * FROM (
  SELECT row_id, iif(max(op_id), data, NULL) AS data FROM ps_oplog WHERE row_type = ? GROUP BY row_id) WHERE data IS NOT NULL`,
		}
		return nil
	})
	return tables, err
}

// raw writes to a table of the app's own, whose columns are looked at once there is a row.
func (e *Engine) raw(r *RawTable) table {
	var whole *RawTable
	with := func(do func(*RawTable) error) (err error) {
		if whole == nil {
			if whole, err = r.inferred(e.store); err != nil {
				return err
			}
		}
		return do(whole)
	}
	return table{
		put: func(s Store, id, data []byte) error {
			return with(func(r *RawTable) error { return r.put(s, id, data) })
		},
		remove: func(s Store, id []byte) error { return with(func(r *RawTable) error { return r.remove(s, id) }) },
	}
}

// untyped keeps the rows of a table that the schema does not have.
func untyped(name string) table {
	return table{
		put: func(s Store, id, data []byte) error {
			return s.Exec(`REPLACE INTO ps_untyped(type, id, data) VALUES (?, ?, ?)`, name, id, data)
		},
		remove: func(s Store, id []byte) error {
			return s.Exec(`DELETE FROM ps_untyped WHERE type = ? AND id = ?`, name, id)
		},
	}
}
