package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/millrace-sync/millrace/client"
)

func ExampleBackend() {
	ctx := context.Background()
	db, end := open(ctx)
	defer end()

	// An app's backend, which here takes whatever comes.
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/api/auth/token":
			fmt.Fprint(w, `{"endpoint": "https://sync.example.com", "token": "a token"}`)
		case "/api/data":
			var entries []client.Entry
			if err := json.NewDecoder(r.Body).Decode(&entries); err != nil {
				log.Fatal(err)
			}
			fmt.Println(r.Header.Get("Authorization"), entries[0].Op, entries[0].RowID)
			fmt.Fprintf(w, `{"applied": %d, "rejected": []}`, len(entries))
		}
	}))
	defer server.Close()

	connector := &client.Backend{URL: server.URL, User: "ann", OnRejected: func(r client.Rejection) {
		fmt.Println("refused:", r.Entry.Table, r.Entry.RowID, r.Reason)
	}}
	if _, err := db.ExecContext(ctx, `INSERT INTO todos(id, title) VALUES ('t1', 'buy milk')`); err != nil {
		log.Fatal(err)
	}
	// db.Connect(connector, nil) has it called in the background; this is what it does then.
	if err := connector.UploadData(ctx, db); err != nil {
		log.Fatal(err)
	}
	stats, err := db.UploadQueueStats(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(stats.Count, "left")
	// Output:
	// Bearer a token PUT t1
	// 0 left
}

func ExampleDB_CaptureWrites() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "client-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	db, err := client.Open(ctx, filepath.Join(dir, "app.db"), client.Schema{RawTables: []client.RawTable{
		{Name: "lists", Table: "lists", Columns: []string{"name"}},
	}}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			log.Fatal(err)
		}
	}()

	// The app's own migration, with a constraint and a column that is not synced.
	if _, err := db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS lists(id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, opened_at TEXT)`); err != nil {
		log.Fatal(err)
	}
	if err := db.CaptureWrites(ctx, "lists"); err != nil {
		log.Fatal(err)
	}
	if _, err := db.ExecContext(ctx, `INSERT INTO lists(id, name, opened_at) VALUES ('l1', 'home', '9:00') ON CONFLICT (id) DO NOTHING`); err != nil {
		log.Fatal(err)
	}
	t, err := db.NextTransaction(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(t.Entries[0].Op, t.Entries[0].Table, string(t.Entries[0].Data))
	// Output: PUT lists {"name":"home"}
}

func ExampleWatchDiff() {
	ctx := context.Background()
	db, end := open(ctx)
	defer end()

	type todo struct{ ID, Title string }
	id := func(t todo) string { return t.ID }
	steps := []string{
		`INSERT INTO todos(id, title) VALUES ('1', 'milk'), ('2', 'bread')`,
		`UPDATE todos SET title = 'oat milk' WHERE id = '1'`,
		`DELETE FROM todos WHERE id = '2'`,
	}
	for diff, err := range client.WatchDiff(ctx, db, nil, id, `SELECT id, title FROM todos ORDER BY id`) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("added", diff.Added, "updated", diff.Updated, "removed", diff.Removed)
		if len(steps) == 0 {
			break
		}
		if _, err := db.ExecContext(ctx, steps[0]); err != nil {
			log.Fatal(err)
		}
		steps = steps[1:]
	}
	// Output:
	// added [] updated [] removed []
	// added [{1 milk} {2 bread}] updated [] removed []
	// added [] updated [{{1 milk} {1 oat milk}}] removed []
	// added [] updated [] removed [{2 bread}]
}

// An index that follows the rows, whoever writes them, by a trigger on the table behind the view.
func ExampleDB_QueryContext_fullTextSearch() {
	ctx := context.Background()
	db, end := open(ctx)
	defer end()

	for _, sql := range []string{
		`CREATE VIRTUAL TABLE IF NOT EXISTS search USING fts5(id UNINDEXED, title)`,
		`CREATE TRIGGER IF NOT EXISTS search_insert AFTER INSERT ON ps_data__todos BEGIN
			INSERT INTO search(id, title) VALUES (NEW.id, NEW.data ->> 'title'); END`,
		`CREATE TRIGGER IF NOT EXISTS search_update AFTER UPDATE ON ps_data__todos BEGIN
			UPDATE search SET title = NEW.data ->> 'title' WHERE id = OLD.id; END`,
		`CREATE TRIGGER IF NOT EXISTS search_delete AFTER DELETE ON ps_data__todos BEGIN
			DELETE FROM search WHERE id = OLD.id; END`,
		`INSERT INTO todos(id, title) VALUES ('1', 'fresh milk'), ('2', 'old bread')`,
		`UPDATE todos SET title = 'old milk' WHERE id = '2'`,
		`DELETE FROM todos WHERE id = '1'`,
	} {
		if _, err := db.ExecContext(ctx, sql); err != nil {
			log.Fatal(err)
		}
	}
	found, err := client.GetAll[string](ctx, db, `SELECT title FROM search('milk')`)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(found)
	// Output: [old milk]
}
