package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/millrace-sync/millrace/client/internal/nodesdk"
)

// sdkSchema is a schema as the official SDK takes it.
func sdkSchema(s Schema) []nodesdk.Table {
	var tables []nodesdk.Table
	for _, t := range s.Tables {
		table := nodesdk.Table{Name: t.Name}
		for _, c := range t.Columns {
			table.Columns = append(table.Columns, nodesdk.Column{Name: c.Name, Type: string(c.Type)})
		}
		tables = append(tables, table)
	}
	return tables
}

// backendOf serves uploads of transactions to a service's Postgres.
func backendOf(t *testing.T, s *service) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var entries []Entry
		err := json.NewDecoder(r.Body).Decode(&entries)
		if err == nil {
			err = pgx.BeginFunc(r.Context(), s.db, func(tx pgx.Tx) error {
				for _, e := range entries {
					if err := write(r.Context(), tx, e); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err != nil {
			t.Errorf("upload: %v", err)
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// A file goes from our client to the official SDK and back, twice, with writes in the queue each
// time, and syncs on where it was.
func TestFilesMoveToSDK(t *testing.T) {
	s := newService(t,
		`INSERT INTO setting VALUES ('s', 'ann', 'dark')`,
		`INSERT INTO greeting(owner, message) SELECT 'ann', 'row ' || n FROM generate_series(1, 50) n`)
	backend := backendOf(t, s)
	file := filepath.Join(t.TempDir(), "moving.db")
	const first, second, third = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002", "00000000-0000-4000-8000-000000000003"
	insert := func(id, message string) string {
		return fmt.Sprintf(`INSERT INTO greeting(id, owner, message) VALUES ('%s', 'ann', '%s')`, id, message)
	}
	var entries []Entry
	queue := func(sdk *nodesdk.SDK) []Entry {
		t.Helper()
		entries = nil
		sdk.Do(&entries, "next", nil)
		return entries
	}

	// Ours: a sync, then two transactions without a connection.
	d, err := Open(t.Context(), file, greetings, nil)
	if err != nil {
		t.Fatal(err)
	}
	connect(t, d, connectorOf{s, "ann"})
	if err := d.WaitForFirstSync(patient(t), AllPriorities); err != nil {
		t.Fatal(err)
	}
	d.Disconnect()
	mustExec(t, d, insert(first, "by us"))
	mustExec(t, d, `UPDATE setting SET val = 'light'`)
	ours, err := d.NextTransaction(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	identity := fmt.Sprint(dump(t, d, `SELECT powersync_client_id()`))
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}

	// The SDK sees the same rows, the same queue, adds to it and uploads a part of it.
	sdk := nodesdk.Open(t, file, sdkSchema(greetings))
	var rows []struct {
		N       int
		Message string
		ID      string
	}
	sdk.Do(&rows, "all", map[string]any{"sql": `SELECT count(*) AS n, max(message) AS message, powersync_client_id() AS id FROM greeting`})
	if rows[0].N != 51 || rows[0].Message != "row 9" || identity != fmt.Sprintf("[[text %s]]", rows[0].ID) {
		t.Errorf("the SDK reads %+v; our client id is %s", rows, identity)
	}
	var status struct{ Synced bool }
	sdk.Do(&status, "status", nil)
	if !status.Synced {
		t.Error("the SDK does not know that the file has been synced")
	}
	if diff := cmp.Diff(ours.Entries, queue(sdk)); diff != "" {
		t.Errorf("the queue's start (-ours +official):\n%s", diff)
	}
	sdk.Do(nil, "write", map[string]any{"statements": []string{insert(second, "by the SDK"), `DELETE FROM greeting WHERE message = 'row 50'`}})
	body, err := json.Marshal(entries)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(backend, "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	sdk.Do(nil, "complete", nil)
	sdk.Close()

	// Ours again, with two transactions in the queue, one of each.
	if d, err = Open(t.Context(), file, greetings, nil); err != nil {
		t.Fatal(err)
	}
	var got []string
	for tx, err := range d.Transactions(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range tx.Entries {
			got = append(got, fmt.Sprint(tx.ID, " ", e.Op, " ", e.Table))
		}
	}
	if want := []string{"2 PATCH setting", "3 PUT greeting", "3 DELETE greeting"}; !cmp.Equal(want, got) {
		t.Errorf("queue %q, want %q", got, want)
	}
	size := fmt.Sprint(dump(t, d, `SELECT sum(downloaded_size) FROM ps_buckets`))
	connect(t, d, connectorOf{s, "ann"})
	until(t, d, "", `SELECT data FROM ps_crud`)
	// What Postgres adds to a row shows that the gate has opened.
	until(t, d, "2", `SELECT count(*) FROM greeting WHERE id IN (?, ?) AND created_at IS NOT NULL`, first, second)
	until(t, d, "51 light", `SELECT count(*) || ' ' || (SELECT val FROM setting) FROM greeting`)
	if after := fmt.Sprint(dump(t, d, `SELECT sum(downloaded_size) < 5000 + `+size[len("[[int "):len(size)-2]+` FROM ps_buckets`)); after != "[[int 1]]" {
		t.Error("the file was downloaded again")
	}
	d.Disconnect()
	mustExec(t, d, insert(third, "by us again"))
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}

	// The SDK syncs on: our write goes up, others come down.
	s.exec(`INSERT INTO greeting(owner, message) VALUES ('ann', 'from postgres')`)
	sdk = nodesdk.Open(t, file, sdkSchema(greetings))
	sdk.Do(nil, "sync", map[string]any{"endpoint": s.url, "token": token("ann", time.Hour), "backend": backend})
	ctx := patient(t)
	eventually(t, ctx, func() string {
		sdk.Do(&rows, "all", map[string]any{"sql": fmt.Sprintf(`SELECT count(*) AS n, '' AS message, '' AS id FROM greeting
WHERE (id = '%s' AND created_at IS NOT NULL OR message = 'from postgres') AND NOT EXISTS (SELECT 1 FROM ps_crud)`, third)})
		if rows[0].N == 2 {
			return ""
		}
		return fmt.Sprintf("%+v", rows)
	})
	sdk.Do(nil, "execute", map[string]any{"sql": `UPDATE setting SET val = 'grey'`})
	sdk.Close()

	// And ours once more.
	d = openDB(t, file, greetings)
	if got := fmt.Sprint(dump(t, d, `SELECT powersync_client_id()`)); got != identity {
		t.Errorf("client id %s, want %s", got, identity)
	}
	connect(t, d, connectorOf{s, "ann"})
	until(t, d, "", `SELECT data FROM ps_crud`)
	until(t, d, "53 grey", `SELECT count(*) || ' ' || (SELECT val FROM setting) FROM greeting`)
	var val string
	if err := s.db.QueryRow(t.Context(), `SELECT val FROM setting`).Scan(&val); err != nil || val != "grey" {
		t.Errorf("Postgres has %q, %v", val, err)
	}
}

// eventually polls until look returns nothing to complain of.
func eventually(t *testing.T, ctx context.Context, look func() string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		complaint := look()
		if complaint == "" {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", complaint)
		}
	}
}
