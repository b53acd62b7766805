package local

import (
	"errors"
	"fmt"

	"github.com/ncruces/go-sqlite3"
)

// modules registers the two virtual tables that triggers insert into:
//
//	powersync_crud(op, id, type, data, old_values, metadata, options)
//	powersync_crud_(data, options)
//
// Both append to ps_crud under the number of the transaction. The first builds the
// entry from its parts, notes the row for the next apply, and shuts the gate until
// the upload has come back. The second takes a finished entry and does no more, so
// that insert-only tables never hold back what is downloaded.
//
// They are virtual tables because SQLite tells those when a transaction begins and
// ends: the number is taken when the first of them is touched.
func (c *Conn) modules() error {
	//lint:ignore SA1019 the method that replaces it needs Go 1.27
	err := sqlite3.CreateModule(c.Conn, "powersync_crud", nil, c.connect(
		`CREATE TABLE powersync_crud(op TEXT, id TEXT, type TEXT, data TEXT, old_values TEXT, metadata TEXT, options INT HIDDEN)`,
		(*crud).insertParts))
	if err != nil {
		return err
	}
	//lint:ignore SA1019 the method that replaces it needs Go 1.27
	return sqlite3.CreateModule(c.Conn, "powersync_crud_", nil, c.connect(
		`CREATE TABLE powersync_crud_(data TEXT, options INT HIDDEN)`,
		(*crud).insertEntry))
}

func (c *Conn) connect(ddl string, insert func(*crud, []sqlite3.Value) error) sqlite3.VTabConstructor[*crud] {
	return func(db *sqlite3.Conn, _, _, _ string, _ ...string) (*crud, error) {
		if err := db.DeclareVTab(ddl); err != nil {
			return nil, err
		}
		// Triggers of a file that the connection does not trust may use it.
		if err := db.VTabConfig(sqlite3.VTAB_INNOCUOUS); err != nil {
			return nil, err
		}
		return &crud{conn: c, insert: insert}, nil
	}
}

// crud is one of the two virtual tables.
type crud struct {
	conn   *Conn
	insert func(*crud, []sqlite3.Value) error
	// owns says that this table took the transaction's number and gives it back.
	owns bool
	// gated says that this transaction has shut the gate.
	gated bool
}

var errInsertOnly = errors.New("the table takes inserts only")

func (t *crud) BestIndex(*sqlite3.IndexInfo) error { return errInsertOnly }
func (t *crud) Open() (sqlite3.VTabCursor, error)  { return nil, errInsertOnly }
func (t *crud) Sync() error                        { return nil }
func (t *crud) Commit() error                      { t.end(); return nil }
func (t *crud) Rollback() error                    { t.end(); return nil }
func (t *crud) Update(arg ...sqlite3.Value) (int64, error) {
	if len(arg) < 2 || arg[0].Type() != sqlite3.NULL {
		return 0, errInsertOnly
	}
	if t.conn.syncing {
		return 0, nil
	}
	return 0, t.insert(t, arg[2:])
}

// Begin takes the transaction's number, unless the other table has. A rollback
// takes it back with everything else.
func (t *crud) Begin() error {
	t.gated = false
	if t.conn.tx != 0 {
		return nil
	}
	s, err := t.conn.next.on(t.conn.Conn)
	if err != nil {
		return fmt.Errorf("number the transaction: %w", err)
	}
	if !s.Step() {
		return fmt.Errorf("number the transaction: %w", errors.Join(errNoCounter, s.Err(), s.Reset()))
	}
	t.conn.tx = s.ColumnInt64(0)
	t.owns = true
	return s.Reset()
}

var errNoCounter = errors.New("ps_tx has no row; the file is damaged")

func (t *crud) end() {
	if t.owns {
		t.owns = false
		t.conn.tx = 0
	}
}

// ignoreEmptyUpdate is the bit of options that leaves out updates that change nothing.
const ignoreEmptyUpdate = 16

func (t *crud) insertParts(arg []sqlite3.Value) error {
	op, id, kind := arg[0].Text(), arg[1].Text(), arg[2].Text()
	data, hasData := optionalText(arg[3])
	if arg[6].Int()&ignoreEmptyUpdate != 0 && op == "PATCH" && data == "{}" {
		return nil
	}
	entry := append(appendString([]byte(`{"op":`), op), `,"id":`...)
	entry = append(appendString(entry, id), `,"type":`...)
	entry = appendString(entry, kind)
	if hasData {
		entry = append(append(entry, `,"data":`...), data...)
	}
	if old, ok := optionalText(arg[4]); ok {
		entry = append(append(entry, `,"old":`...), old...)
	}
	if metadata, ok := optionalText(arg[5]); ok {
		entry = appendString(append(entry, `,"metadata":`...), metadata)
	}
	entry = append(entry, '}')

	db := t.conn.Conn
	s, err := t.conn.queue.on(db)
	if err == nil {
		err = errors.Join(s.BindInt64(1, t.conn.tx), s.BindRawText(2, entry), s.Exec())
	}
	if err != nil {
		return fmt.Errorf("queue the write: %w", err)
	}
	s, err = t.conn.mark.on(db)
	if err == nil {
		err = errors.Join(s.BindText(1, kind), s.BindText(2, id), s.Exec())
	}
	if err != nil {
		return fmt.Errorf("note the row: %w", err)
	}
	if t.gated {
		return nil
	}
	t.gated = true
	s, err = t.conn.shut.on(db)
	if err == nil && !s.Step() {
		err = errors.Join(s.Err(), db.Exec(shutGate))
	}
	if err == nil {
		err = s.Reset()
	}
	if err != nil {
		return fmt.Errorf("shut the gate: %w", err)
	}
	return nil
}

// isShut finds a row if an earlier write has shut the gate and nothing came since: then
// there is nothing to write.
const isShut = `SELECT 1 FROM ps_kv WHERE key = 'target_checkpoint_request_id' AND value = 9223372036854775807
AND NOT EXISTS (SELECT 1 FROM ps_kv WHERE key IN ('last_seen_checkpoint_request_id', 'last_applied_checkpoint_request_id'))`

// shutGate keeps downloaded rows from being applied until this write has come back.
// What was seen before cannot acknowledge it, so that goes too.
const shutGate = `
INSERT OR REPLACE INTO ps_kv(key, value) VALUES ('target_checkpoint_request_id', 9223372036854775807);
DELETE FROM ps_kv WHERE key IN ('last_seen_checkpoint_request_id', 'last_applied_checkpoint_request_id')`

func (t *crud) insertEntry(arg []sqlite3.Value) error {
	s, err := t.conn.queueText.on(t.conn.Conn)
	if err == nil {
		err = errors.Join(
			s.BindInt64(1, t.conn.tx), s.BindText(2, arg[0].Text()), s.BindInt(3, arg[1].Int()), s.Exec())
	}
	if err != nil {
		return fmt.Errorf("queue the write: %w", err)
	}
	return nil
}

// optionalText returns a text value; the wire form leaves out all others.
func optionalText(v sqlite3.Value) (string, bool) {
	if v.Type() != sqlite3.TEXT {
		return "", false
	}
	return v.Text(), true
}
