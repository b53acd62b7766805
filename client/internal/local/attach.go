package local

import (
	"crypto/rand"
	"fmt"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/ext/fts5"
)

// Conn is a connection with the functions and virtual tables of this package. It
// is not safe for concurrent use; whoever holds the connection uses it.
type Conn struct {
	*sqlite3.Conn

	// syncing is set while synced rows are written, when triggers must not queue.
	syncing bool
	// tx is the number of the running transaction in the upload queue; 0 is none.
	tx int64

	queue     statement // ps_crud
	queueText statement // ps_crud, from a finished entry
	mark      statement // ps_updated_rows
	next      statement // ps_tx
	shut      statement // whether the gate is shut

	changes changes
}

// Attach registers everything with db. Every connection to a file needs it, readers
// too: their views may call the functions.
func Attach(db *sqlite3.Conn) (*Conn, error) {
	c := &Conn{Conn: db}
	c.queue.sql = `INSERT INTO ps_crud(tx_id, data) VALUES (?, ?)`
	c.queueText.sql = `INSERT INTO ps_crud(tx_id, data) SELECT ?1, ?2
WHERE NOT (?3 & 16) OR ?2 ->> 'op' != 'PATCH' OR ?2 -> 'data' != '{}'`
	c.mark.sql = `INSERT OR IGNORE INTO ps_updated_rows(row_type, row_id) VALUES (?, ?)`
	c.next.sql = `UPDATE ps_tx SET next_tx = next_tx + 1 WHERE id = 1 RETURNING next_tx - 1`
	c.shut.sql = isShut
	if err := fts5.Register(db); err != nil {
		return nil, fmt.Errorf("register full-text search: %w", err)
	}
	if err := c.functions(); err != nil {
		return nil, fmt.Errorf("register functions: %w", err)
	}
	if err := c.modules(); err != nil {
		return nil, fmt.Errorf("register virtual tables: %w", err)
	}
	return c, nil
}

// Detach frees what would keep the connection from closing.
func (c *Conn) Detach() error {
	for _, s := range []*statement{&c.queue, &c.queueText, &c.mark, &c.next, &c.shut} {
		if err := s.close(); err != nil {
			return err
		}
	}
	return nil
}

// Syncing says whether what is written now comes from the service, so that triggers
// on raw tables do not queue it for upload.
func (c *Conn) Syncing(on bool) { c.syncing = on }

func (c *Conn) functions() error {
	const pure = sqlite3.DETERMINISTIC | sqlite3.INNOCUOUS
	for _, f := range []struct {
		name  string
		args  int
		flags sqlite3.FunctionFlag
		call  sqlite3.ScalarFunction
	}{
		{"powersync_strip_subtype", 1, pure | sqlite3.SUBTYPE | sqlite3.RESULT_SUBTYPE, stripSubtype},
		{"powersync_json_merge", -1, pure | sqlite3.RESULT_SUBTYPE, jsonMerge},
		{"powersync_diff", 2, pure | sqlite3.RESULT_SUBTYPE, jsonDiff},
		{"powersync_in_sync_operation", 0, sqlite3.INNOCUOUS, c.inSync},
		{"powersync_client_id", 0, sqlite3.INNOCUOUS, c.clientID},
		{"powersync_drop_view", 1, sqlite3.DIRECTONLY, c.dropView},
		{"uuid", 0, sqlite3.INNOCUOUS, newUUID},
		{"gen_random_uuid", 0, sqlite3.INNOCUOUS, newUUID},
	} {
		if err := c.CreateFunction(f.name, f.args, f.flags, f.call); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return nil
}

// subtypeJSON is what SQLite marks JSON results with, so that they nest.
const subtypeJSON = 'J'

// stripSubtype returns its argument as a plain value: text that a JSON function
// made is a string in a column, not an object to embed.
func stripSubtype(ctx sqlite3.Context, arg ...sqlite3.Value) {
	ctx.ResultValue(arg[0])
	ctx.ResultSubtype(0)
}

func jsonMerge(ctx sqlite3.Context, arg ...sqlite3.Value) {
	objects := make([]string, len(arg))
	for i, a := range arg {
		objects[i] = a.Text()
	}
	merged, err := merge(objects)
	if err != nil {
		ctx.ResultError(fmt.Errorf("powersync_json_merge: %w", err))
		return
	}
	ctx.ResultText(merged)
	ctx.ResultSubtype(subtypeJSON)
}

func jsonDiff(ctx sqlite3.Context, arg ...sqlite3.Value) {
	changed, err := diff(arg[0].Text(), arg[1].Text())
	if err != nil {
		ctx.ResultError(fmt.Errorf("powersync_diff: %w", err))
		return
	}
	ctx.ResultText(changed)
	ctx.ResultSubtype(subtypeJSON)
}

func (c *Conn) inSync(ctx sqlite3.Context, _ ...sqlite3.Value) { ctx.ResultBool(c.syncing) }

func (c *Conn) clientID(ctx sqlite3.Context, _ ...sqlite3.Value) {
	id, err := c.ClientID()
	if err != nil {
		ctx.ResultError(err)
		return
	}
	ctx.ResultText(id)
}

// ClientID returns the file's name to the service.
func (c *Conn) ClientID() (string, error) {
	s, _, err := c.Prepare(`SELECT value FROM ps_kv WHERE key = 'client_id'`)
	if err != nil {
		return "", fmt.Errorf("read the client id: %w", err)
	}
	defer s.Close()
	if !s.Step() {
		return "", fmt.Errorf("read the client id: there is none: %w", s.Err())
	}
	return s.ColumnText(0), nil
}

// dropView is for the SQL of migrations that later versions leave to go back.
func (c *Conn) dropView(ctx sqlite3.Context, arg ...sqlite3.Value) {
	if err := c.Exec(`DROP VIEW IF EXISTS ` + sqlite3.QuoteIdentifier(arg[0].Text())); err != nil {
		ctx.ResultError(fmt.Errorf("powersync_drop_view: %w", err))
	}
}

func newUUID(ctx sqlite3.Context, _ ...sqlite3.Value) { ctx.ResultText(UUID()) }

// UUID returns a random UUID, version 4.
func UUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// statement is prepared when first needed and kept.
type statement struct {
	sql  string
	stmt *sqlite3.Stmt
}

func (s *statement) on(db *sqlite3.Conn) (*sqlite3.Stmt, error) {
	if s.stmt == nil {
		stmt, _, err := db.PrepareFlags(s.sql, sqlite3.PREPARE_PERSISTENT)
		if err != nil {
			return nil, err
		}
		s.stmt = stmt
	}
	return s.stmt, nil
}

func (s *statement) close() error {
	stmt := s.stmt
	s.stmt = nil
	if stmt == nil {
		return nil
	}
	return stmt.Close()
}
