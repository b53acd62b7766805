package pgstore

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/millrace-sync/millrace/internal/pgtest"
	"github.com/millrace-sync/millrace/internal/storage"
)

// refused opens a store and expects a kind of failure whose message has all words.
func refused(t *testing.T, opts Options, kind error, words ...string) {
	t.Helper()
	s, err := Open(t.Context(), opts)
	if err == nil {
		_ = s.Close()
	}
	if !errors.Is(err, kind) {
		t.Fatalf("open: %v, want %v", err, kind)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("message %q does not contain %q", err, w)
		}
	}
}

func TestFormats(t *testing.T) {
	dsn := shared.Cluster(t).DSN("postgres")
	t.Run("not migrated", func(t *testing.T) {
		opts := at(t, shared.Cluster(t), freshSchema())
		opts.NoMigrate = true
		refused(t, opts, storage.ErrFormat, "millrace migrate")
		if err := Migrate(t.Context(), opts); err != nil {
			t.Fatal(err)
		}
		if err := Migrate(t.Context(), opts); err != nil {
			t.Fatalf("again: %v", err)
		}
		open(t, opts)
	})
	t.Run("newer", func(t *testing.T) {
		opts := at(t, shared.Cluster(t), freshSchema())
		s := open(t, opts)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		pgtest.Exec(t, dsn, s.text.in("UPDATE millrace.format SET version = 99"))
		refused(t, opts, storage.ErrFormat, "99", "use the version that wrote it")
		if err := Migrate(t.Context(), opts); !errors.Is(err, storage.ErrFormat) {
			t.Errorf("migrate: %v, want ErrFormat", err)
		}
		opts.Reader = true
		refused(t, opts, storage.ErrFormat)
	})
	for name, table := range map[string]string{
		"another product's":             "CREATE TABLE millrace.buckets (id text)",
		"another product's with format": "CREATE TABLE millrace.format (id text)",
		"another product's view":        "CREATE VIEW millrace.op AS SELECT 1",
	} {
		t.Run(name, func(t *testing.T) {
			opts := at(t, shared.Cluster(t), freshSchema())
			text := newText(opts.Schema)
			pgtest.Exec(t, dsn, "CREATE SCHEMA "+strings.TrimSuffix(text.schema, "."), text.in(table))
			refused(t, opts, storage.ErrFormat, "not of a store", "give a schema of its own")
		})
	}
}

// Processes that start together all find the tables, one with the lease.
func TestConcurrentMigration(t *testing.T) {
	opts := at(t, shared.Cluster(t), freshSchema())
	opts.Reader = true
	var starting sync.WaitGroup
	for range 4 {
		starting.Go(func() {
			s, err := Open(t.Context(), opts)
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	starting.Wait()
}

// A user who owns the schema needs no other right.
func TestOwnerOfTheSchema(t *testing.T) {
	opts := at(t, shared.Cluster(t), freshSchema())
	dsn := shared.Cluster(t).DSN("postgres")
	text := newText(opts.Schema)
	pgtest.Exec(t, dsn, "CREATE ROLE store_owner LOGIN", "CREATE SCHEMA "+strings.TrimSuffix(text.schema, ".")+" AUTHORIZATION store_owner")
	opts.Connection.User = "store_owner"
	commit(t, open(t, opts), put(1, true))
}

func TestOptions(t *testing.T) {
	good := at(t, shared.Cluster(t), "x")
	for name, c := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"host":   {func(o *Options) { o.Connection.Host = "" }, "set the storage's hostname"},
		"schema": {func(o *Options) { o.Schema = strings.Repeat("x", 64) }, "63 bytes"},
		"lease":  {func(o *Options) { o.Lease = 1 }, "give 1s or more"},
		"tls":    {func(o *Options) { o.Connection.TLS = "perhaps" }, "verify-full"},
		"down":   {func(o *Options) { o.Connection.Port = 1 }, "127.0.0.1:1"},
	} {
		t.Run(name, func(t *testing.T) {
			opts := good
			c.change(&opts)
			if _, err := Open(t.Context(), opts); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("open: %v, want %q", err, c.want)
			}
		})
	}
}
