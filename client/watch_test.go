package client

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// watching runs a test in a bubble of fake time, and waits for what it starts with goRun.
func watching(t *testing.T, schema Schema, test func(t *testing.T, d *DB, goRun func(func(context.Context)))) {
	synctest.Test(t, func(t *testing.T) {
		d, err := Open(t.Context(), filepath.Join(t.TempDir(), "ours.db"), schema, &Options{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		test(t, d, func(f func(context.Context)) { wg.Go(func() { f(ctx) }) })
		cancel()
		wg.Wait()
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
}

// runs counts what a watch yields.
type runs struct {
	mu   sync.Mutex
	all  []string
	errs []error
}

func (r *runs) take() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := strings.Join(r.all, "; ")
	r.all = nil
	return s
}

func (r *runs) watch(d *DB, opts *WatchOptions, query string, args ...any) func(context.Context) {
	return func(ctx context.Context) {
		for rows, err := range Watch[string](ctx, d, opts, query, args...) {
			r.mu.Lock()
			r.all = append(r.all, strings.Join(rows, ","))
			if err != nil {
				r.errs = append(r.errs, err)
			}
			r.mu.Unlock()
		}
	}
}

func settle() {
	time.Sleep(time.Second) // fake time, beyond every throttle
	synctest.Wait()
}

func TestWatch(t *testing.T) {
	schema := Schema{Tables: []Table{
		{Name: "todos", Columns: []Column{Text("title")}},
		{Name: "other", Columns: []Column{Text("x")}, ViewName: "others"},
		{Name: "drafts", Columns: []Column{Text("x")}, LocalOnly: true},
	}}
	watching(t, schema, func(t *testing.T, d *DB, goRun func(func(context.Context))) {
		mustExec(t, d, `CREATE VIEW long AS SELECT title FROM todos WHERE length(title) > 3`)
		mustExec(t, d, `CREATE VIRTUAL TABLE search USING fts5(x)`)
		var todo, other, join, named, full runs
		goRun(todo.watch(d, nil, `SELECT title FROM long WHERE title != ? ORDER BY title`, "hidden"))
		goRun(other.watch(d, nil, `SELECT x FROM others ORDER BY id`))
		goRun(join.watch(d, nil, `SELECT x FROM drafts WHERE x IN (SELECT x FROM others)`))
		goRun(named.watch(d, &WatchOptions{Tables: []string{"others"}, Throttle: time.Minute}, `SELECT count(*) FROM todos`))
		goRun(full.watch(d, nil, `SELECT x FROM search('milk')`))
		check := func(after string, want ...string) {
			t.Helper()
			settle()
			got := []string{todo.take(), other.take(), join.take(), named.take(), full.take()}
			for i := range want {
				if got[i] != want[i] {
					t.Errorf("after %s watch %d yielded %q, want %q", after, i, got[i], want[i])
				}
			}
		}
		settle()
		for _, r := range []*runs{&todo, &other, &join, &named, &full} {
			r.mu.Lock()
			if len(r.all) != 1 {
				t.Errorf("at first: %q", r.all)
			}
			if r.errs != nil {
				t.Error(r.errs)
			}
			r.all = nil
			r.mu.Unlock()
		}
		mustExec(t, d, `INSERT INTO todos(id, title) VALUES ('1', 'bread')`)
		check("an insert", "bread", "", "", "", "")
		if err := d.WriteTx(t.Context(), func(tx *sql.Tx) error {
			_, err := tx.Exec(`INSERT INTO todos(id, title) VALUES ('2', 'cheese'); INSERT INTO others(id, x) VALUES ('o', 'x')`)
			if err != nil {
				return err
			}
			check("nothing committed", "", "", "", "", "")
			_, err = tx.Exec(`INSERT INTO drafts(id, x) VALUES ('d', 'x')`)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		check("a transaction", "bread,cheese", "x", "x", "", "")
		fail := errors.New("no")
		if err := d.WriteTx(t.Context(), func(tx *sql.Tx) error {
			if _, err := tx.Exec(`DELETE FROM todos`); err != nil {
				return err
			}
			return fail
		}); !errors.Is(err, fail) {
			t.Fatal(err)
		}
		check("a rollback", "", "", "", "", "")
		for i := range 20 {
			mustExec(t, d, `INSERT INTO todos(id, title) VALUES (?, 'hidden')`, fmt.Sprint("h", i))
		}
		mustExec(t, d, `DELETE FROM todos WHERE id = '1'`)
		settle()
		if got := todo.take(); strings.Count(got, ";") > 2 || !strings.HasSuffix(got, "cheese") {
			t.Errorf("twenty writes yielded %q", got)
		}
		mustExec(t, d, `INSERT INTO search(x) VALUES ('fresh milk')`)
		check("an entry in the full-text index", "", "", "", "", "fresh milk")
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := named.take(); got != "21" {
			t.Errorf("the watch of named tables yielded %q", got)
		}
		schema.Tables[0].LocalOnly = true
		if err := d.UpdateSchema(t.Context(), schema); err != nil {
			t.Fatal(err)
		}
		check("a new schema", "", "x", "x")
		mustExec(t, d, `INSERT INTO todos(id, title) VALUES ('l', 'local')`)
		check("an insert into what is now local", "local", "", "")
		var bad runs
		goRun(bad.watch(d, nil, `SELECT * FROM absent`))
		settle()
		if len(bad.errs) != 1 || !strings.Contains(bad.errs[0].Error(), "no such table") {
			t.Errorf("errors: %v", bad.errs)
		}
	})
}

func TestChanges(t *testing.T) {
	watching(t, everything(), func(t *testing.T, d *DB, goRun func(func(context.Context))) {
		var all, some runs
		record := func(r *runs, tables ...string) {
			goRun(func(ctx context.Context) {
				for names := range d.Changes(ctx, tables...) {
					r.mu.Lock()
					r.all = append(r.all, strings.Join(names, ","))
					r.mu.Unlock()
				}
			})
		}
		record(&all)
		record(&some, "renamed")
		settle()
		mustExec(t, d, `CREATE TABLE own(x)`)
		mustExec(t, d, `INSERT INTO notes(id) VALUES ('n')`)
		settle()
		mustExec(t, d, `INSERT INTO renamed(id) VALUES ('n'); INSERT INTO own VALUES (1)`)
		settle()
		if got := all.take(); !strings.Contains(got, "notes") || !strings.HasSuffix(got, "own,renamed") && !strings.HasSuffix(got, "renamed,own") && !strings.HasSuffix(got, "renamed; own") {
			t.Errorf("all: %q", got)
		}
		if got := some.take(); got != "renamed" {
			t.Errorf("some: %q", got)
		}
	})
}

func TestWatchDiff(t *testing.T) {
	type todo struct{ ID, Title string }
	watching(t, todos, func(t *testing.T, d *DB, goRun func(func(context.Context))) {
		mustExec(t, d, `INSERT INTO todos(id, title) VALUES ('1', 'a'), ('2', 'b')`)
		var got runs
		goRun(func(ctx context.Context) {
			key := func(r todo) string { return r.ID }
			for diff, err := range WatchDiff(ctx, d, nil, key, `SELECT id, title FROM todos ORDER BY id`) {
				got.mu.Lock()
				got.all = append(got.all, fmt.Sprint(len(diff.All), " added ", diff.Added, " updated ", diff.Updated, " removed ", diff.Removed, err))
				got.mu.Unlock()
			}
		})
		for _, step := range []struct{ sql, want string }{
			{`SELECT 1`, "2 added [{1 a} {2 b}] updated [] removed [] <nil>"},
			{`UPDATE todos SET title = 'c' WHERE id = '2'`, "2 added [] updated [{{2 b} {2 c}}] removed [] <nil>"},
			{`UPDATE todos SET title = 'c' WHERE id = '2'`, ""},
			{`DELETE FROM todos WHERE id = '1'`, "1 added [] updated [] removed [{1 a}] <nil>"},
			{`INSERT INTO todos(id, title) VALUES ('0', 'z')`, "2 added [{0 z}] updated [] removed [] <nil>"},
		} {
			mustExec(t, d, step.sql)
			settle()
			if got := got.take(); got != step.want {
				t.Errorf("%s yielded %q, want %q", step.sql, got, step.want)
			}
		}
	})
}

// What a service sends is watched as well as what is written here.
func TestWatchSync(t *testing.T) {
	scripted(t, &user{}, func(t *testing.T, d *DB, p *peer) {
		var r runs
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { r.watch(d, nil, `SELECT title FROM todos`)(ctx) })
		settle()
		if got := r.take(); got != "" {
			t.Errorf("at first %q", got)
		}
		s := <-p.streams
		s.send(t, oneBucket, oneRow)
		settle()
		if n := len(r.all); n != 0 {
			t.Errorf("data that is not visible yet ran the query %d times", n)
		}
		s.send(t, complete1)
		settle()
		if got := r.take(); got != "milk" {
			t.Errorf("the sync yielded %q", got)
		}
		cancel()
		wg.Wait()
	})
}

// manyTables is a schema of ten tables, and many a hundred queries, ten of each.
func manyTables() (schema Schema, queries []string) {
	for i := range 10 {
		schema.Tables = append(schema.Tables, Table{Name: fmt.Sprint("t", i), Columns: []Column{Integer("n")}})
		for j := range 10 {
			queries = append(queries, fmt.Sprintf(`SELECT count(*) FROM t%d WHERE n >= %d`, i, j))
		}
	}
	return schema, queries
}

// Of a hundred watched queries those run again that a commit concerns, once, however many
// rows it changes; schema changes concern all.
func TestWatchMany(t *testing.T) {
	schema, queries := manyTables()
	watching(t, schema, func(t *testing.T, d *DB, goRun func(func(context.Context))) {
		counts := make([]atomic.Int32, len(queries))
		for i, q := range queries {
			goRun(func(ctx context.Context) {
				for _, err := range Watch[int](ctx, d, nil, q) {
					if err != nil {
						t.Error(err)
					}
					counts[i].Add(1)
				}
			})
		}
		ran := func(after string, concerned ...int) {
			t.Helper()
			settle()
			for i := range counts {
				want := int32(0)
				if slices.Contains(concerned, i/10) {
					want = 1
				}
				if n := counts[i].Swap(0); n != want {
					t.Errorf("after %s query %d ran %d times, want %d", after, i, n, want)
				}
			}
		}
		ran("opening", 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
		mustExec(t, d, `INSERT INTO t3(id, n) VALUES ('a', 5)`)
		ran("one row", 3)
		if err := d.WriteTx(t.Context(), func(tx *sql.Tx) error {
			for i := range 500 {
				if _, err := tx.Exec(fmt.Sprintf(`INSERT INTO t%d(id, n) VALUES (uuid(), %d)`, 4+i%2, i)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		ran("many rows", 4, 5)
		mustExec(t, d, `UPDATE t0 SET n = 1`)
		mustExec(t, d, `CREATE TABLE other(x)`)
		mustExec(t, d, `INSERT INTO other VALUES (1)`)
		ran("what concerns none")
		if err := d.UpdateSchema(t.Context(), schema); err != nil {
			t.Fatal(err)
		}
		ran("a new schema", 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
	})
}

// BenchmarkWatchMany writes a row while a hundred queries are watched, ten of them concerned, and
// waits until those have run again.
func BenchmarkWatchMany(b *testing.B) {
	schema, queries := manyTables()
	d := newDB(b, schema)
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	ran := make(chan int, len(queries))
	for i, q := range queries {
		wg.Go(func() {
			for range Watch[int](ctx, d, &WatchOptions{Throttle: time.Nanosecond}, q) {
				ran <- i
			}
		})
	}
	for range queries {
		<-ran
	}
	for b.Loop() {
		if _, err := d.ExecContext(ctx, `INSERT INTO t3(id, n) VALUES (uuid(), 100)`); err != nil {
			b.Fatal(err)
		}
		for range 10 {
			if i := <-ran; i/10 != 3 {
				b.Fatalf("query %d ran", i)
			}
		}
	}
}
