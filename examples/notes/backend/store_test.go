package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/millrace-sync/millrace/internal/pgtest"
)

var shared pgtest.Shared

func TestMain(m *testing.M) { os.Exit(shared.Main(m)) }

// database returns a new one with the app's schema, a row of ann's and one of bob's.
func database(t *testing.T) (dsn string) {
	t.Helper()
	schema, err := os.ReadFile(filepath.Join("..", "schema.sql"))
	if err != nil {
		t.Fatal(err)
	}
	dsn = shared.NewDatabase(t)
	pgtest.Exec(t, dsn, string(schema), `INSERT INTO greeting (id, owner, message) VALUES
		('00000000-0000-4000-8000-000000000001', 'ann', 'first'),
		('00000000-0000-4000-8000-000000000002', 'bob', 'his')`)
	return dsn
}

// open returns a store that has the rights of the backend's own role.
func open(t *testing.T, dsn string) *store {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), pgtest.As(t, dsn, "notes_backend", ""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return &store{pool: pool}
}

// query returns the one text column of a query.
func query(t *testing.T, dsn, sql string) []string {
	t.Helper()
	conn := shared.Cluster(t).Conn(t, dsn)
	rows, err := conn.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return texts
}

const allRows = `SELECT owner || ': ' || message FROM greeting ORDER BY owner, message COLLATE "C"`

// TestUpload runs the cases of testdata/uploads.json, each as ann, and each twice:
// a client whose acknowledgement was lost sends its writes again.
func TestUpload(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "uploads.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name     string
		Writes   json.RawMessage
		Rejected []string // "index status code"
		Rows     []string // "owner: message", sorted
	}
	if err := json.Unmarshal(text, &cases); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			dsn := database(t)
			s := open(t, dsn)
			for _, time := range []string{"first", "second"} {
				writes, err := parseUpload(c.Writes)
				if err != nil {
					t.Fatal(err)
				}
				rejected, err := s.upload(t.Context(), "ann", writes)
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, r := range rejected {
					got = append(got, fmt.Sprintf("%d %d %s", r.Index, r.Status, r.Code))
					if r.Reason == "" {
						t.Errorf("write %d: rejected without a reason", r.Index)
					}
				}
				if diff := cmp.Diff(c.Rejected, got); diff != "" {
					t.Errorf("rejected (-want +got), %s time:\n%s", time, diff)
				}
				if diff := cmp.Diff(c.Rows, query(t, dsn, allRows)); diff != "" {
					t.Errorf("rows (-want +got), %s time:\n%s", time, diff)
				}
			}
			want := []string{}
			for i, w := range must(parseUpload(c.Writes)) {
				if slices.ContainsFunc(c.Rejected, func(r string) bool {
					var index int
					_, err := fmt.Sscan(r, &index)
					return err == nil && index == i
				}) {
					want = append(want, string(w.raw))
				}
			}
			got := query(t, dsn, "SELECT write FROM upload_dead_letter WHERE owner = 'ann'")
			slices.Sort(want)
			slices.Sort(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("dead letters (-want +got):\n%s", diff)
			}
		})
	}
}

func must(writes []write, err error) []write {
	if err != nil {
		panic(err)
	}
	return writes
}

// TestUploadAllOrNothing: what could work later fails the whole upload, so that
// the client keeps all of it.
func TestUploadAllOrNothing(t *testing.T) {
	writes := must(parseUpload([]byte(`[
		{"op": "PUT", "type": "greeting", "id": "00000000-0000-4000-8000-0000000000a1", "data": {"message": "new"}},
		{"op": "PUT", "type": "secret", "id": "1"},
		{"op": "DELETE", "type": "greeting", "id": "00000000-0000-4000-8000-000000000001"}]`)))
	// In this database only: roles are the cluster's.
	set := func(setting string) string {
		return `DO $$ BEGIN EXECUTE format('ALTER ROLE notes_backend IN DATABASE %I SET ` + setting + `', current_database()); END $$;`
	}
	for name, c := range map[string]struct {
		setup string
		want  string // SQLSTATE
	}{
		"no right":               {`REVOKE DELETE ON greeting FROM notes_backend`, "42501"},
		"no dead-letter table":   {`DROP TABLE upload_dead_letter`, "42P01"},
		"column is missing":      {`ALTER TABLE greeting RENAME message TO msg`, "42703"},
		"database is read-only":  {set("default_transaction_read_only = on"), "25006"},
		"statement is cancelled": {set("statement_timeout = 100") + `CREATE RULE slow AS ON DELETE TO greeting DO ALSO SELECT pg_sleep(60)`, "57014"},
	} {
		t.Run(name, func(t *testing.T) {
			dsn := database(t)
			pgtest.Exec(t, dsn, c.setup)
			_, err := open(t, dsn).upload(t.Context(), "ann", writes)
			var pgErr *pgconn.PgError
			if !errors.As(err, &pgErr) || pgErr.Code != c.want {
				t.Fatalf("upload: %v, want SQLSTATE %s", err, c.want)
			}
			if got := query(t, dsn, "SELECT owner FROM greeting ORDER BY 1"); !slices.Equal(got, []string{"ann", "bob"}) {
				t.Errorf("after a failed upload the table holds rows of %v", got)
			}
			if name != "no dead-letter table" {
				if got := query(t, dsn, "SELECT write FROM upload_dead_letter"); len(got) > 0 {
					t.Errorf("after a failed upload there are dead letters: %v", got)
				}
			}
		})
	}
}

func TestUploadDatabaseDown(t *testing.T) {
	pool, err := pgxpool.New(t.Context(), "postgresql://nobody@127.0.0.1:1/notes?connect_timeout=2")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := (&store{pool: pool}).upload(t.Context(), "ann", nil); err == nil {
		t.Fatal("an upload succeeded without a database")
	}
}

// TestSchemaTwice: the demo applies the schema at every start.
func TestSchemaTwice(t *testing.T) {
	dsn := database(t)
	schema, err := os.ReadFile(filepath.Join("..", "schema.sql"))
	if err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, dsn, string(schema))
	if got, want := query(t, dsn, allRows), []string{"ann: first", "bob: his"}; !slices.Equal(got, want) {
		t.Errorf("rows %v, want %v", got, want)
	}
}
