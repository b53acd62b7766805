package client

import (
	"errors"
	"fmt"

	"github.com/ncruces/go-sqlite3"

	"github.com/millrace-sync/millrace/client/internal/engine"
	"github.com/millrace-sync/millrace/client/internal/local"
)

// maxStatements bounds the prepared statements that a store keeps. The engine has
// some thirty, and two for each table.
const maxStatements = 500

// store is the engine's view of the writer's connection.
type store struct {
	c     *local.Conn
	stmts map[string]*sqlite3.Stmt
}

func newStore(c *local.Conn) *store { return &store{c: c, stmts: make(map[string]*sqlite3.Stmt)} }

// close frees the statements.
func (s *store) close() error {
	var err error
	for _, stmt := range s.stmts {
		err = errors.Join(err, stmt.Close())
	}
	clear(s.stmts)
	return err
}

func (s *store) Syncing(on bool) {
	s.c.Syncing(on)
	// What synced rows change is watched; what is only kept for later is not.
	s.c.Quiet(!on)
}

func (s *store) Exec(sql string, args ...any) error {
	stmt, err := s.bind(sql, args)
	if err != nil {
		return err
	}
	return stmt.Exec()
}

func (s *store) Query(sql string, row func(engine.Row) error, args ...any) error {
	stmt, err := s.bind(sql, args)
	if err != nil {
		return err
	}
	for stmt.Step() {
		if err := row(storeRow{stmt}); err != nil {
			return errors.Join(err, stmt.Reset())
		}
	}
	// A failed step is reported by the statement and again by its reset.
	if err := stmt.Err(); err != nil {
		_ = stmt.Reset()
		return err
	}
	return stmt.Reset()
}

func (s *store) bind(sql string, args []any) (*sqlite3.Stmt, error) {
	stmt := s.stmts[sql]
	if stmt == nil {
		if len(s.stmts) >= maxStatements {
			if err := s.close(); err != nil {
				return nil, err
			}
		}
		var err error
		if stmt, _, err = s.c.PrepareFlags(sql, sqlite3.PREPARE_PERSISTENT); err != nil {
			return nil, err
		}
		s.stmts[sql] = stmt
	}
	for i, a := range args {
		if err := bindArg(stmt, i+1, a); err != nil {
			return nil, fmt.Errorf("bind argument %d: %w", i+1, err)
		}
	}
	return stmt, nil
}

func bindArg(stmt *sqlite3.Stmt, i int, arg any) error {
	switch a := arg.(type) {
	case nil:
		return stmt.BindNull(i)
	case int64:
		return stmt.BindInt64(i, a)
	case float64:
		return stmt.BindFloat(i, a)
	case string:
		return stmt.BindText(i, a)
	case []byte:
		return stmt.BindRawText(i, a)
	}
	panic(fmt.Sprintf("client: the engine passed a %T", arg))
}

type storeRow struct{ *sqlite3.Stmt }

func (r storeRow) Int64(i int) int64  { return r.ColumnInt64(i) }
func (r storeRow) Text(i int) string  { return r.ColumnText(i) }
func (r storeRow) Bytes(i int) []byte { return r.ColumnRawText(i) }
func (r storeRow) Null(i int) bool    { return r.ColumnType(i) == sqlite3.NULL }
