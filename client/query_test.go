package client

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var todos = Schema{Tables: []Table{{
	Name:    "todos",
	Columns: []Column{Text("title"), Integer("done"), Real("weight"), Text("due_at")},
}}}

func mustExec(t testing.TB, d *DB, query string, args ...any) {
	t.Helper()
	if _, err := d.ExecContext(t.Context(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func TestGet(t *testing.T) {
	d := newDB(t, todos)
	mustExec(t, d, `INSERT INTO todos(id, title, done, weight) VALUES ('a', 'milk', 1, 0.5), ('b', 'bread', 0, NULL)`)
	type base struct {
		ID string
	}
	type todo struct {
		base   // unexported, yet its exported field counts
		Title  string
		Done   bool
		Weight *float64
		Due    sql.NullString `db:"due_at"`
	}
	half := 0.5
	all, err := GetAll[todo](t.Context(), d, `SELECT * FROM todos ORDER BY id`)
	want := []todo{{base{"a"}, "milk", true, &half, sql.NullString{}}, {base{"b"}, "bread", false, nil, sql.NullString{}}}
	if err != nil || !cmp.Equal(want, all, cmp.AllowUnexported(todo{})) {
		t.Errorf("got %+v, %v", all, err)
	}
	one, err := Get[todo](t.Context(), d, `SELECT id, title FROM todos WHERE id = ?`, "b")
	if err != nil || one.Title != "bread" {
		t.Errorf("got %+v, %v", one, err)
	}
	n, err := Get[int](t.Context(), d, `SELECT count(*) FROM todos`)
	if err != nil || n != 2 {
		t.Errorf("got %d, %v", n, err)
	}
	titles, err := GetAll[string](t.Context(), d, `SELECT title FROM todos ORDER BY title`)
	if err != nil || fmt.Sprint(titles) != "[bread milk]" {
		t.Errorf("got %v, %v", titles, err)
	}
	if _, err := Get[string](t.Context(), d, `SELECT title FROM todos WHERE id = 'x'`); !errors.Is(err, ErrNoRow) {
		t.Errorf("no row: %v", err)
	}
	none, err := GetOptional[todo](t.Context(), d, `SELECT * FROM todos WHERE id = 'x'`)
	if none != nil || err != nil {
		t.Errorf("got %v, %v", none, err)
	}
	some, err := GetOptional[string](t.Context(), d, `SELECT title FROM todos WHERE id = 'a'`)
	if err != nil || *some != "milk" {
		t.Errorf("got %v, %v", some, err)
	}
	mustExec(t, d, `CREATE TABLE own(at DATETIME)`)
	mustExec(t, d, `INSERT INTO own VALUES ('2026-01-02 03:04:05')`)
	when, err := Get[time.Time](t.Context(), d, `SELECT at FROM own`)
	if err != nil || when.Year() != 2026 {
		t.Errorf("got %v, %v", when, err)
	}
	for query, want := range map[string]string{
		`SELECT id, title AS name FROM todos`: `no field for column "name"`,
		`SELECT absent FROM todos`:            "no such column",
		`SELECT weight AS title FROM todos`:   "converting NULL to string",
	} {
		if _, err := GetAll[todo](t.Context(), d, query); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", query, err, want)
		}
	}
	if _, err := Get[int](t.Context(), d, `SELECT 1, 2`); err == nil || !strings.Contains(err.Error(), "2 columns") {
		t.Errorf("two columns into an int: %v", err)
	}
}

func TestTransactions(t *testing.T) {
	d := newDB(t, todos)
	count := func(q Querier) int {
		t.Helper()
		n, err := Get[int](t.Context(), q, `SELECT count(*) FROM todos`)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	err := d.ReadTx(t.Context(), func(read *sql.Tx) error {
		if n := count(read); n != 0 {
			t.Errorf("at first %d rows", n)
		}
		// A reader does not keep a writer waiting, nor see it before its own end.
		err := d.WriteTx(t.Context(), func(write *sql.Tx) error {
			_, err := write.Exec(`INSERT INTO todos(id, title) VALUES (uuid(), 'x')`)
			if n := count(write); n != 1 {
				t.Errorf("the writer sees %d rows", n)
			}
			if n := count(d); n != 0 {
				t.Errorf("others see %d rows before the commit", n)
			}
			return err
		})
		if n := count(read); n != 0 {
			t.Errorf("%d rows appeared within a transaction", n)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := count(d); n != 1 {
		t.Errorf("%d rows", n)
	}
	cause := errors.New("no")
	err = d.WriteTx(t.Context(), func(tx *sql.Tx) error {
		if _, err := tx.Exec(`DELETE FROM todos`); err != nil {
			return err
		}
		return cause
	})
	if !errors.Is(err, cause) || count(d) != 1 {
		t.Errorf("got %v and %d rows", err, count(d))
	}
	if _, err := d.Reader().ExecContext(t.Context(), `DELETE FROM todos`); err == nil {
		t.Error("a reader wrote")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.WriteTx(ctx, func(*sql.Tx) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// Statements are kept across changes of the schema, and not without bound.
func TestStatements(t *testing.T) {
	d := newDB(t, todos)
	insert := func() error {
		_, err := d.ExecContext(t.Context(), `INSERT INTO todos(id, title) VALUES (uuid(), ?)`, "x")
		return err
	}
	if err := insert(); err != nil {
		t.Fatal(err)
	}
	if err := d.UpdateSchema(t.Context(), Schema{}); err != nil {
		t.Fatal(err)
	}
	if err := insert(); err == nil || !strings.Contains(err.Error(), "no such table") {
		t.Errorf("into a table that went: %v", err)
	}
	if err := d.UpdateSchema(t.Context(), Schema{Tables: []Table{{Name: "todos", Columns: []Column{Text("other"), Text("title")}}}}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 3 * maxPrepared {
		wg.Go(func() {
			err := insert()
			if err == nil {
				_, err = d.ExecContext(t.Context(), fmt.Sprintf(`INSERT INTO todos(id, title) VALUES (?, '%d')`, i), fmt.Sprint(i))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	d.mu.Lock()
	kept := len(d.statements)
	d.mu.Unlock()
	if kept > maxPrepared {
		t.Errorf("%d statements are kept", kept)
	}
	if n, err := Get[int](t.Context(), d, `SELECT count(*) FROM todos WHERE title IS NOT NULL`); err != nil || n != 6*maxPrepared+1 {
		t.Errorf("%d rows, %v", n, err)
	}
	if _, err := d.ExecContext(t.Context(), `INSERT INTO todos(id) VALUES (?); SELECT 1`, "two"); err == nil {
		t.Error("two statements with arguments")
	}
}

// A wide row's values are merged by a function of ours, on readers too.
func TestWideTables(t *testing.T) {
	d := newDB(t, everything())
	mustExec(t, d, `INSERT INTO wide(id, c0, c104) VALUES ('w', 'first', 'last')`)
	got, err := Get[string](t.Context(), d, `SELECT c0 || c104 FROM wide`)
	if err != nil || got != "firstlast" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestFullTextSearch(t *testing.T) {
	d := newDB(t, todos)
	mustExec(t, d, `CREATE VIRTUAL TABLE search USING fts5(id UNINDEXED, title)`)
	mustExec(t, d, `CREATE TRIGGER search_insert AFTER INSERT ON ps_data__todos BEGIN
		INSERT INTO search(id, title) VALUES (NEW.id, NEW.data ->> 'title'); END`)
	mustExec(t, d, `INSERT INTO todos(id, title) VALUES ('a', 'fresh milk'), ('b', 'old bread')`)
	got, err := GetAll[string](t.Context(), d, `SELECT id FROM search('milk')`)
	if err != nil || fmt.Sprint(got) != "[a]" {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestOpenMistakes(t *testing.T) {
	dir := t.TempDir()
	for name, tc := range map[string]struct {
		file string
		opts *Options
		want string
	}{
		"memory":    {":memory:", nil, "a file name is needed"},
		"nowhere":   {filepath.Join(dir, "no", "such.db"), nil, "unable to open"},
		"directory": {dir, nil, "unable to open"},
		"cache":     {filepath.Join(dir, "a.db"), &Options{CacheSize: 1 << 30}, "at most"},
		"negative":  {filepath.Join(dir, "a.db"), &Options{Readers: -1}, "cannot be negative"},
	} {
		_, err := Open(t.Context(), tc.file, todos, tc.opts)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		}
	}
	d := newDB(t, todos)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.ExecContext(t.Context(), `SELECT 1`); err == nil {
		t.Error("a closed database took a statement")
	}
}

// File names may hold what means something in a URI.
func TestFileNames(t *testing.T) {
	for _, name := range []string{"a b.db", "a?mode=ro.db", "a#b.db", "ä%20.db"} {
		file := filepath.Join(t.TempDir(), name)
		d := openDB(t, file, todos)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if found, _ := filepath.Glob(filepath.Join(filepath.Dir(file), "*")); len(found) != 1 || found[0] != file {
			t.Errorf("%q became %q", file, found)
		}
	}
}
