package client_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"path/filepath"

	"github.com/millrace-sync/millrace/client"
)

var schema = client.Schema{Tables: []client.Table{
	{
		Name:    "todos",
		Columns: []client.Column{client.Text("title"), client.Integer("done")},
		Indexes: []client.Index{{Name: "by_done", Columns: []client.IndexColumn{{Column: "done"}}}},
	},
	{Name: "drafts", Columns: []client.Column{client.Text("title")}, LocalOnly: true},
}}

// open opens a database in a new folder, for the examples.
func open(ctx context.Context) (db *client.DB, end func()) {
	dir, err := os.MkdirTemp("", "client-example-")
	if err != nil {
		log.Fatal(err)
	}
	db, err = client.Open(ctx, filepath.Join(dir, "app.db"), schema, nil)
	if err != nil {
		log.Fatal(err)
	}
	return db, func() {
		if err := db.Close(); err != nil {
			log.Fatal(err)
		}
		os.RemoveAll(dir)
	}
}

func Example() {
	ctx := context.Background()
	db, end := open(ctx)
	defer end()

	if _, err := db.ExecContext(ctx, `INSERT INTO todos(id, title, done) VALUES (uuid(), ?, ?)`, "buy milk", false); err != nil {
		log.Fatal(err)
	}
	type todo struct {
		Title string
		Done  bool
	}
	todos, err := client.GetAll[todo](ctx, db, `SELECT title, done FROM todos`)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(todos)
	// Output: [{buy milk false}]
}

func ExampleDB_WriteTx() {
	ctx := context.Background()
	db, end := open(ctx)
	defer end()

	err := db.WriteTx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO todos(id, title) VALUES ('t1', 'buy milk')`); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `UPDATE todos SET done = 1 WHERE id = 't1'`)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	// Both writes wait for upload as one transaction.
	t, err := db.NextTransaction(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, e := range t.Entries {
		fmt.Println(e.Op, e.Table, e.RowID, string(e.Data))
	}
	// Output:
	// PUT todos t1 {"title":"buy milk"}
	// PATCH todos t1 {"done":1}
}

func ExampleWatch() {
	ctx := context.Background()
	db, end := open(ctx)
	defer end()

	for titles, err := range client.Watch[string](ctx, db, nil, `SELECT title FROM todos ORDER BY title`) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(titles)
		if len(titles) == 2 {
			break
		}
		// Anybody may write: this program elsewhere, or the service.
		if _, err := db.ExecContext(ctx, `INSERT INTO todos(id, title) VALUES (uuid(), ?)`, fmt.Sprint("todo ", len(titles)+1)); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// []
	// [todo 1]
	// [todo 1 todo 2]
}

// backend is a connector for an app's own HTTP backend.
type backend struct{ url string }

func (b backend) FetchCredentials(ctx context.Context) (client.Credentials, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+"/api/auth/token", nil)
	if err != nil {
		return client.Credentials{}, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return client.Credentials{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusUnauthorized {
		return client.Credentials{}, client.ErrSignedOut
	}
	var answer struct{ Endpoint, Token string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return client.Credentials{}, err
	}
	return client.Credentials{Endpoint: answer.Endpoint, Token: answer.Token}, nil
}

func (b backend) UploadData(ctx context.Context, db *client.DB) error {
	t, err := db.NextTransaction(ctx)
	if err != nil || t == nil {
		return err
	}
	body, err := json.Marshal(t.Entries)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.url+"/api/upload", bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("upload: %s", resp.Status) // the entries stay; it is tried again
	}
	return t.Complete(ctx)
}

func ExampleDB_Connect() {
	ctx := context.Background()
	db, end := open(ctx)
	defer end()

	if err := db.Connect(backend{"https://app.example.com"}, nil); err != nil {
		log.Fatal(err)
	}
	if err := db.WaitForFirstSync(ctx, client.AllPriorities); err != nil {
		log.Fatal(err)
	}
	for status := range db.StatusChanges(ctx) {
		p := status.Downloaded(client.AllPriorities)
		fmt.Println(status.Connected, p.Downloaded, "of", p.Total, status.LastSyncedAt)
	}
}

func ExampleStream_Subscribe() {
	ctx := context.Background()
	db, end := open(ctx)
	defer end()

	list, err := db.Stream("list", map[string]any{"id": "l1"}).Subscribe(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer list.Release()
	for _, s := range db.Status().Streams {
		fmt.Println(s.Stream, s.Parameters, s.Subscribed, s.LastSyncedAt.IsZero())
	}
	// Output: list {"id":"l1"} true true
}
