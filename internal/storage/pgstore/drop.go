package pgstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/millrace-sync/millrace/internal/storage"
)

// Drop removes a store: its tables, and the schema if nothing else is in it and the
// user owns it. It calls first before, when the lease is taken; if that fails, all
// stays. It reports false if there was no store.
//
// Like Open it fails with ErrLocked if a process writes to the store, and with ErrFormat
// if the schema is not of a store or of a newer version: what others made is never
// removed. Processes that only read are not noticed. Of opts only the connection, the
// schema and the logger are used.
func Drop(ctx context.Context, opts Options, first func() error) (bool, error) {
	opts = opts.withDefaults()
	opts.Wait, opts.NoMigrate = false, true
	s := newStore(opts)
	defer s.end()
	dropped, err := s.drop(ctx, first)
	if err != nil {
		return false, fmt.Errorf("remove storage at %s: %w", s.where, s.failure(err))
	}
	return dropped, nil
}

func (s *Store) drop(ctx context.Context, first func() error) (dropped bool, err error) {
	if err := s.opts.check(); err != nil {
		return false, err
	}
	if err := s.opts.reach(ctx); err != nil {
		return false, err
	}
	if s.writes, err = s.opts.pool(ctx, 1); err != nil {
		return false, err
	}
	defer s.writes.Close()
	version, err := s.format(ctx, s.writes)
	switch {
	case err != nil:
		return false, err
	case version == 0:
		return false, first()
	case version > formatVersion:
		return false, newer(version)
	}
	if err := s.acquire(ctx); err != nil {
		return false, err
	}
	if err = first(); err == nil {
		err = s.dropTables(ctx, s.writes)
	}
	if err != nil {
		s.release()
		return false, err
	}
	return true, s.dropSchema(ctx)
}

// dropTables removes the tables of every version, all or none: by their names, and not
// what depends on them, as a view that somebody made.
func (s *Store) dropTables(ctx context.Context, pool *pgxpool.Pool) error {
	names, err := tableNames()
	if err != nil {
		return err
	}
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		// Whoever has waited for the lease since it ran out has it, and goes on.
		if _, err := tx.Exec(ctx, s.text.in("UPDATE millrace.store SET fence = (owner = $1) WHERE one = 1"), s.owner); err != nil {
			return err
		}
		for _, name := range names {
			if _, err := tx.Exec(ctx, s.text.in("DROP TABLE IF EXISTS millrace."+name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("drop the tables: %w", err)
	}
	return nil
}

var createTable = regexp.MustCompile(`CREATE TABLE millrace\.(\w+)`)

// tableNames returns the tables that migrations make.
func tableNames() ([]string, error) {
	names := []string{"format"}
	err := fs.WalkDir(migrations, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := migrations.ReadFile(path)
		for _, found := range createTable.FindAllSubmatch(text, -1) {
			names = append(names, string(found[1]))
		}
		return err
	})
	return names, err
}

// dropSchema removes the schema, unless something else is in it or another user made
// it: then it stays.
func (s *Store) dropSchema(ctx context.Context) error {
	_, err := s.writes.Exec(ctx, "DROP SCHEMA "+pgx.Identifier{s.opts.Schema}.Sanitize())
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (pg.Code == "2BP01" || pg.Code == "42501") {
		s.log.Warn("storage: the tables are dropped, and the schema is left", "schema", s.opts.Schema, "reason", pg.Message)
		return nil
	}
	if err != nil {
		return fmt.Errorf("the tables are dropped; drop the schema: %w", err)
	}
	return nil
}

// newer is the error for a store of a version that is not known.
func newer(version int) error {
	return fmt.Errorf("%w: it is %d and this millrace reads up to %d; use the version that wrote it, or another schema", storage.ErrFormat, version, formatVersion)
}
