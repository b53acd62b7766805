package pgstore

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-sync/millrace/internal/pgtest"
	"github.com/millrace-sync/millrace/internal/storage"
)

// tablesIn returns the tables of a schema, nil if there is no such schema.
func tablesIn(t *testing.T, conn *pgx.Conn, schema string) []string {
	t.Helper()
	var exists bool
	if err := conn.QueryRow(t.Context(), "SELECT count(*) > 0 FROM pg_namespace WHERE nspname = $1", schema).Scan(&exists); err != nil {
		t.Fatal(err)
	}
	if !exists {
		return nil
	}
	rows, err := conn.Query(t.Context(), "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE nspname = $1 AND relkind IN ('r', 'v')", schema)
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return append([]string{}, names...)
}

// Drop removes what Millrace made and nothing else, and nothing at all while somebody
// writes, or what was to be done first fails.
func TestDrop(t *testing.T) {
	cluster := shared.Cluster(t)
	dsn := cluster.DSN("postgres")
	conn := cluster.Conn(t, dsn)
	nothing := func() error { return nil }
	drop := func(t *testing.T, opts Options, first func() error) (bool, error) {
		t.Helper()
		return Drop(t.Context(), opts, first)
	}

	t.Run("of a store", func(t *testing.T) {
		opts := at(t, cluster, freshSchema())
		s := open(t, opts)
		commit(t, s, put(1, true))
		if _, err := drop(t, opts, func() error { t.Error("something was done beside a process that writes"); return nil }); !errors.Is(err, storage.ErrLocked) {
			t.Fatalf("drop beside a process that writes: %v, want ErrLocked", err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		failure := errors.New("it failed")
		if _, err := drop(t, opts, func() error { return failure }); !errors.Is(err, failure) {
			t.Fatalf("drop: %v, want %v", err, failure)
		}
		again := open(t, opts) // and the lease is free
		if got := again.Recovered().Checkpoint.Op; got != 1 {
			t.Fatalf("checkpoint %d after a drop that failed, want 1", got)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
		if dropped, err := drop(t, opts, nothing); err != nil || !dropped {
			t.Fatalf("dropped: %v, %v", dropped, err)
		}
		if left := tablesIn(t, conn, opts.Schema); left != nil {
			t.Errorf("the schema is left, with %v", left)
		}
		if dropped, err := drop(t, opts, nothing); err != nil || dropped {
			t.Errorf("dropped again: %v, %v", dropped, err)
		}
	})
	t.Run("where somebody put something", func(t *testing.T) {
		opts := at(t, cluster, freshSchema())
		s := open(t, opts)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		pgtest.Exec(t, dsn, s.text.in("CREATE TABLE millrace.theirs (id text)"))
		if dropped, err := drop(t, opts, nothing); err != nil || !dropped {
			t.Fatalf("dropped: %v, %v", dropped, err)
		}
		if left := tablesIn(t, conn, opts.Schema); !slices.Equal(left, []string{"theirs"}) {
			t.Errorf("left are %v, want what is theirs", left)
		}
	})
	t.Run("that a view is of", func(t *testing.T) {
		opts := at(t, cluster, freshSchema())
		s := open(t, opts)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		before := tablesIn(t, conn, opts.Schema)
		view := pgx.Identifier{freshSchema()}.Sanitize()
		pgtest.Exec(t, dsn, s.text.in("CREATE VIEW public."+view+" AS SELECT id FROM millrace.deploy"))
		if _, err := drop(t, opts, nothing); err == nil || !strings.Contains(err.Error(), "depend") {
			t.Errorf("drop: %v, want that something depends on it", err)
		}
		if left := tablesIn(t, conn, opts.Schema); len(left) != len(before) {
			t.Errorf("%d tables are left, want all %d", len(left), len(before))
		}
		pgtest.Exec(t, dsn, "DROP VIEW public."+view)
	})
	for name, sql := range map[string]string{
		"of another product": "CREATE TABLE millrace.buckets (id text)",
		"of a newer version": "CREATE TABLE millrace.format (product text, version bigint); INSERT INTO millrace.format VALUES ('millrace', 99)",
	} {
		t.Run(name, func(t *testing.T) {
			opts := at(t, cluster, freshSchema())
			text := newText(opts.Schema)
			pgtest.Exec(t, dsn, "CREATE SCHEMA "+strings.TrimSuffix(text.schema, "."), text.in(sql))
			if _, err := drop(t, opts, func() error { t.Error("something was done before it was refused"); return nil }); !errors.Is(err, storage.ErrFormat) {
				t.Errorf("drop: %v, want ErrFormat", err)
			}
			if left := tablesIn(t, conn, opts.Schema); len(left) != 1 {
				t.Errorf("left are %v", left)
			}
		})
	}
	t.Run("that another user's schema holds", func(t *testing.T) {
		opts := at(t, cluster, freshSchema())
		text := newText(opts.Schema)
		pgtest.Exec(t, dsn, "CREATE ROLE guest LOGIN", "CREATE SCHEMA "+strings.TrimSuffix(text.schema, "."),
			"GRANT USAGE, CREATE ON SCHEMA "+strings.TrimSuffix(text.schema, ".")+" TO guest")
		opts.Connection.User = "guest"
		if err := open(t, opts).Close(); err != nil {
			t.Fatal(err)
		}
		if dropped, err := drop(t, opts, nothing); err != nil || !dropped {
			t.Fatalf("dropped: %v, %v", dropped, err)
		}
		if left := tablesIn(t, conn, opts.Schema); left == nil || len(left) > 0 {
			t.Errorf("left are %v, want the schema alone", left)
		}
	})
}

// What a connection fails for is told in words, and with what to do.
func TestReach(t *testing.T) {
	cluster := pgtest.Start(t, pgtest.WithPassword("right"))
	good := at(t, cluster, "x")
	pgtest.Exec(t, cluster.DSN("postgres"), "CREATE ROLE nobody_special LOGIN PASSWORD 'right'")
	for name, c := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"password": {func(o *Options) { o.Connection.Password = "wrong" }, "PSYNC_S1108.*check the connection's username and password"},
		"database": {func(o *Options) { o.Connection.Database = "away" }, "PSYNC_S1105.*check the connection's database"},
		"rights":   {func(o *Options) { o.Connection.User = "nobody_special" }, `GRANT CREATE ON DATABASE "postgres" TO "nobody_special"`},
		"port":     {func(o *Options) { o.Connection.Port = 1 }, "check that the server runs"},
	} {
		t.Run(name, func(t *testing.T) {
			opts := good
			c.change(&opts)
			for what, f := range map[string]func() error{
				"open":    func() error { _, err := Open(context.WithoutCancel(t.Context()), opts); return err },
				"migrate": func() error { return Migrate(t.Context(), opts) },
			} {
				err := f()
				for _, word := range strings.Split(c.want, ".*") {
					if err == nil || !strings.Contains(err.Error(), word) {
						t.Errorf("%s: %v, want %q", what, err, word)
					}
				}
			}
		})
	}
}
