package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"time"

	"github.com/ncruces/go-sqlite3"
)

// schemaChange stands among changed tables for a change of the schema.
const schemaChange = ""

// WatchOptions sets what most watches leave as it is.
type WatchOptions struct {
	// Throttle is the least time between two runs of the query; 0 means 30 ms.
	Throttle time.Duration
	// Tables replaces the tables that the query is found to read, if it is not nil.
	// They are named as in SQL.
	Tables []string
}

const defaultThrottle = 30 * time.Millisecond

// Watch yields the rows of a query, scanned as by [Get], now and again after commits
// that change a table it reads. It runs in the caller's goroutine, ends with ctx, and
// yields an error once, as the last.
//
// Changes of other processes go unnoticed. So do those of tables that the query
// reaches only in ways that SQLite does not announce when it prepares the query, such
// as names in the arguments of functions: name such tables in the options.
func Watch[T any](ctx context.Context, d *DB, opts *WatchOptions, query string, args ...any) iter.Seq2[[]T, error] {
	o := WatchOptions{}
	if opts != nil {
		o = *opts
	}
	o.Throttle = orDefault(o.Throttle, defaultThrottle)
	return func(yield func([]T, error) bool) {
		changes := d.changes.subscribe()
		defer changes.cancel()
		var reads readSet
		for {
			tables, err := d.tablesOf(ctx, o.Tables, query, &reads)
			var rows []T
			if err == nil {
				rows, err = GetAll[T](ctx, d, query, args...)
			}
			if err != nil {
				if ctx.Err() == nil {
					yield(nil, fmt.Errorf("watch: %w", err))
				}
				return
			}
			if !yield(rows, nil) || !changes.await(ctx, tables, o.Throttle) {
				return
			}
		}
	}
}

// Changes yields the tables that commits have changed, of those named or of all, as
// named in SQL. It ends with ctx or the database.
func (d *DB) Changes(ctx context.Context, tables ...string) iter.Seq[[]string] {
	return func(yield func([]string) bool) {
		changes := d.changes.subscribe()
		defer changes.cancel()
		for {
			select {
			case <-ctx.Done():
				return
			case _, ok := <-changes.ready:
				if !ok {
					return
				}
			}
			names := d.visible(changes.take())
			if len(tables) > 0 {
				names = slices.DeleteFunc(names, func(n string) bool { return !slices.Contains(tables, n) })
			}
			if len(names) > 0 && !yield(names) {
				return
			}
		}
	}
}

// await returns when a table of a set has changed, not before the throttle's time has
// passed; false when ctx or the database ends.
func (s *changeSet) await(ctx context.Context, tables map[string]bool, throttle time.Duration) bool {
	sleep(ctx, throttle)
	for {
		select {
		case <-ctx.Done():
			return false
		case _, ok := <-s.ready:
			if !ok {
				return false
			}
		}
		for _, t := range s.take() {
			if tables[t] || t == schemaChange {
				return true
			}
		}
	}
}

// readSet is what a query reads under a version of the database's schema.
type readSet struct {
	version int64
	tables  map[string]bool
}

// tablesOf returns the tables whose changes concern a query: those that it reads,
// views resolved, unless named are given. What it found before holds as long as the
// schema does.
func (d *DB) tablesOf(ctx context.Context, named []string, query string, known *readSet) (map[string]bool, error) {
	if named != nil {
		tables := make(map[string]bool)
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, n := range named {
			tables[n] = true
			for i := range d.schema.Tables {
				if t := &d.schema.Tables[i]; t.view() == n {
					tables[t.store()] = true
				}
			}
		}
		return tables, nil
	}
	err := d.onReader(ctx, func(c *sqlite3.Conn) error {
		version, err := schemaVersion(c)
		if err != nil || known.tables != nil && version == known.version {
			return err
		}
		tables, err := readBy(c, query)
		if err == nil {
			*known = readSet{version, tables}
		}
		return err
	})
	return known.tables, err
}

// readBy returns the tables that a query reads.
func readBy(c *sqlite3.Conn, query string) (map[string]bool, error) {
	// Preparing alone does not notice that another connection has changed the
	// schema; running a statement does.
	if err := c.Exec(`SELECT 1 FROM sqlite_master LIMIT 1`); err != nil {
		return nil, err
	}
	tables := make(map[string]bool)
	if err := c.SetAuthorizer(func(action sqlite3.AuthorizerActionCode, table, _, _, _ string) sqlite3.AuthorizerReturnCode {
		if action == sqlite3.AUTH_READ {
			tables[table] = true
		}
		return sqlite3.AUTH_OK
	}); err != nil {
		return nil, err
	}
	s, _, err := c.Prepare(query)
	if err == nil {
		err = s.Close()
	}
	if err = errors.Join(err, c.SetAuthorizer(nil)); err != nil {
		return nil, err
	}
	return tables, addShadows(c, tables)
}

// schemaVersion returns a number that every change of the schema changes.
func schemaVersion(c *sqlite3.Conn) (int64, error) {
	s, _, err := c.Prepare(`PRAGMA schema_version`)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	if !s.Step() {
		return 0, s.Err()
	}
	return s.ColumnInt64(0), nil
}

// addShadows adds the tables in which virtual tables keep their contents: it is
// those that change.
func addShadows(c *sqlite3.Conn, tables map[string]bool) error {
	shadows, err := strings2(c, `SELECT s.name, v.name FROM pragma_table_list v JOIN pragma_table_list s
ON v.type = 'virtual' AND s.type = 'shadow' AND s.name GLOB v.name || '_*'`)
	for shadow, virtual := range shadows {
		if tables[virtual] {
			tables[shadow] = true
		}
	}
	return err
}

// visible replaces the names of tables that hold rows by those of their views, and
// leaves out the client's own.
func (d *DB) visible(tables []string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	views := make(map[string]string)
	for i := range d.schema.Tables {
		views[d.schema.Tables[i].store()] = d.schema.Tables[i].view()
	}
	var names []string
	for _, t := range tables {
		switch v, ok := views[t]; {
		case ok:
			names = append(names, v)
		case t != schemaChange && !(len(t) > 3 && t[:3] == "ps_"):
			names = append(names, t)
		}
	}
	return names
}

// Diff is how the rows of a query have changed.
type Diff[T any] struct {
	// All holds the rows as they are now, in the query's order; Added those that
	// are new, in that order too.
	All, Added []T
	// Updated holds rows that have other values than before.
	Updated []Update[T]
	// Removed holds rows that are gone.
	Removed []T
}

// Update is a row before and after a change.
type Update[T any] struct{ Before, After T }

// WatchDiff is [Watch] with the differences from the time before, which are all of
// the rows at first. Key returns what tells rows apart; of two rows with one key the
// later counts. Commits that change nothing in the rows yield nothing.
func WatchDiff[T any, K comparable](ctx context.Context, d *DB, opts *WatchOptions, key func(T) K, query string, args ...any) iter.Seq2[Diff[T], error] {
	return func(yield func(Diff[T], error) bool) {
		var before map[K]T
		for rows, err := range Watch[T](ctx, d, opts, query, args...) {
			if err != nil {
				yield(Diff[T]{}, err)
				return
			}
			diff := Diff[T]{All: rows}
			now := make(map[K]T, len(rows))
			for _, row := range rows {
				now[key(row)] = row
			}
			for _, row := range rows {
				switch old, ok := before[key(row)]; {
				case !ok:
					diff.Added = append(diff.Added, row)
				case !reflect.DeepEqual(old, row):
					diff.Updated = append(diff.Updated, Update[T]{old, row})
				}
			}
			for k, row := range before {
				if _, ok := now[k]; !ok {
					diff.Removed = append(diff.Removed, row)
				}
			}
			same := before != nil && len(diff.Added)+len(diff.Updated)+len(diff.Removed) == 0
			before = now
			if !same && !yield(diff, nil) {
				return
			}
		}
	}
}
