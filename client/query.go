package client

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// Writer returns the pool whose one connection writes. A transaction on it keeps
// every other writer waiting, the sync engine too. Its connection also reads; do
// not use it for long queries. Closing it breaks the database.
func (d *DB) Writer() *sql.DB { return d.writer }

// Reader returns the pool of connections that only read. They see what has been
// committed, and are never kept waiting by the writer.
func (d *DB) Reader() *sql.DB { return d.readers }

// QueryContext runs a query on a reader.
func (d *DB) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	rows, err := d.readers.QueryContext(ctx, query, args...)
	return rows, explain(err)
}

// ExecContext runs a statement that writes. Writes to views report no affected rows:
// their triggers do the work. Statements with arguments are prepared once and kept.
func (d *DB) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if len(args) == 0 {
		r, err := d.writer.ExecContext(ctx, query)
		return r, explain(err)
	}
	s, err := d.prepared(ctx, query)
	switch {
	case err != nil:
		return nil, explain(err)
	case s == nil:
		r, err := d.writer.ExecContext(ctx, query, args...)
		return r, explain(err)
	}
	r, err := s.ExecContext(ctx, args...)
	return r, explain(err)
}

// maxPrepared bounds the statements of an app that are kept: preparing one that writes to a
// view, with its triggers, takes a fifth of the time of the write.
const maxPrepared = 100

// prepared returns a statement that is kept, nil if there are too many already.
func (d *DB) prepared(ctx context.Context, query string) (*sql.Stmt, error) {
	d.mu.Lock()
	s, full := d.statements[query], len(d.statements) >= maxPrepared
	d.mu.Unlock()
	if s != nil || full {
		return s, nil
	}
	s, err := d.writer.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if other := d.statements[query]; other != nil || len(d.statements) >= maxPrepared {
		return other, s.Close()
	}
	d.statements[query] = s
	return s, nil
}

// ReadTx runs fn in a transaction that reads one state of the database throughout.
func (d *DB) ReadTx(ctx context.Context, fn func(*sql.Tx) error) error {
	return inTx(ctx, d.readers, &sql.TxOptions{ReadOnly: true}, fn)
}

// WriteTx runs fn in a write transaction and commits it unless fn fails. Its writes
// are uploaded as one transaction. fn must not write by other means than its
// transaction, which would wait for fn to end.
func (d *DB) WriteTx(ctx context.Context, fn func(*sql.Tx) error) error {
	return inTx(ctx, d.writer, nil, fn)
}

func inTx(ctx context.Context, pool *sql.DB, opts *sql.TxOptions, fn func(*sql.Tx) error) error {
	tx, err := pool.BeginTx(ctx, opts)
	if err != nil {
		return fmt.Errorf("begin a transaction: %w", explain(err))
	}
	defer tx.Rollback() // of no effect after the commit
	if err := fn(tx); err != nil {
		return explain(err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", explain(err))
	}
	return nil
}

// Querier is what runs a query: a [*DB], a *sql.Tx, a *sql.Conn or a *sql.DB.
type Querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// ErrNoRow says that a query for one row found none.
var ErrNoRow = sql.ErrNoRows

// errEnough ends a query whose further rows nobody wants.
var errEnough = errors.New("enough")

// Get returns a query's first row, [ErrNoRow] if there is none.
//
// T is a struct, whose fields take the columns that their db tag or else their name
// names, in any case, or any other type that database/sql can scan a single column
// into. Fields must be able to hold NULL where a column may be: pointers or
// sql.Null. Every column needs a field; fields without a column stay zero.
func Get[T any](ctx context.Context, q Querier, query string, args ...any) (T, error) {
	var first T
	err := each(ctx, q, query, args, func(row T) error {
		first = row
		return errEnough
	})
	switch {
	case errors.Is(err, errEnough):
		return first, nil
	case err == nil:
		err = ErrNoRow
	}
	return first, fmt.Errorf("get: %w", err)
}

// GetOptional is [Get] with nil in place of ErrNoRow.
func GetOptional[T any](ctx context.Context, q Querier, query string, args ...any) (*T, error) {
	row, err := Get[T](ctx, q, query, args...)
	if errors.Is(err, ErrNoRow) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &row, nil
}

// GetAll returns all rows of a query, as [Get] does one.
func GetAll[T any](ctx context.Context, q Querier, query string, args ...any) ([]T, error) {
	var all []T
	err := each(ctx, q, query, args, func(row T) error {
		all = append(all, row)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("get all: %w", err)
	}
	return all, nil
}

func each[T any](ctx context.Context, q Querier, query string, args []any, yield func(T) error) error {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	fields, err := match(reflect.TypeFor[T](), columns)
	if err != nil {
		return err
	}
	targets := make([]any, len(columns))
	for rows.Next() {
		var row T
		if fields == nil {
			targets[0] = &row
		} else {
			v := reflect.ValueOf(&row).Elem()
			for i, f := range fields {
				targets[i] = v.FieldByIndex(f).Addr().Interface()
			}
		}
		if err := rows.Scan(targets...); err != nil {
			return err
		}
		if err := yield(row); err != nil {
			return err
		}
	}
	return explain(rows.Err())
}

// match returns the field for each column, or nil if T takes a single column whole.
func match(t reflect.Type, columns []string) ([][]int, error) {
	_, scans := reflect.New(t).Interface().(sql.Scanner)
	if t.Kind() != reflect.Struct || scans || t.PkgPath() == "time" {
		if len(columns) != 1 {
			return nil, fmt.Errorf("the query has %d columns, which do not fit a single %s; use a struct", len(columns), t)
		}
		return nil, nil
	}
	byName := make(map[string][]int)
	for _, f := range reflect.VisibleFields(t) {
		if !f.IsExported() || f.Anonymous || throughPointer(t, f.Index) {
			continue
		}
		name := f.Tag.Get("db")
		if name == "-" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		byName[strings.ToLower(name)] = f.Index
	}
	fields := make([][]int, len(columns))
	for i, c := range columns {
		f, ok := byName[strings.ToLower(c)]
		if !ok {
			return nil, fmt.Errorf("%s has no field for column %q: add one, tagged `db:%q` if it has another name, or leave the column out of the query", t, c, c)
		}
		fields[i] = f
	}
	return fields, nil
}

// throughPointer reports whether a field lies in an embedded pointer, which may be nil.
func throughPointer(t reflect.Type, index []int) bool {
	for _, i := range index[:len(index)-1] {
		if t = t.Field(i).Type; t.Kind() == reflect.Pointer {
			return true
		}
	}
	return false
}
