package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5"
)

// schema is the one of storage in Postgres that bench/postgres.yaml leaves at its default.
const schema = "millrace"

// store is the service's storage: a folder, or a schema of a database.
type store struct {
	dir string
	pg  *pgx.Conn // nil: storage is the folder
}

// newStore makes an empty one.
func newStore(ctx context.Context, o *options) (*store, error) {
	dir, err := os.MkdirTemp("", "millrace-bench-")
	if err != nil {
		return nil, err
	}
	s := &store{dir: dir}
	if o.storage == "" {
		return s, nil
	}
	if s.pg, err = pgx.Connect(ctx, o.storage); err == nil {
		_, err = s.pg.Exec(ctx, "DROP SCHEMA IF EXISTS "+schema+" CASCADE")
	}
	if err != nil {
		s.remove()
		return nil, err
	}
	return s, nil
}

// remove removes what is left of it, which is of no use to anybody; a schema stays
// until the next run, for who wants to look at it.
func (s *store) remove() {
	_ = os.RemoveAll(s.dir)
	if s.pg != nil {
		_ = s.pg.Close(context.Background())
	}
}

// size returns the bytes that it takes on the disk.
func (s *store) size(ctx context.Context) (n int64, err error) {
	if s.pg != nil {
		err = s.pg.QueryRow(ctx, `SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c
			JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relkind = 'r'`, schema).Scan(&n)
		return n, err
	}
	err = filepath.Walk(s.dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			n += info.Size()
		}
		if os.IsNotExist(err) {
			return nil // the service removes files meanwhile
		}
		return err
	})
	return n, err
}
