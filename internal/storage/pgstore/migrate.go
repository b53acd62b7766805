package pgstore

import (
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/millrace-sync/millrace/internal/postgres"
	"github.com/millrace-sync/millrace/internal/storage"
)

// migrations holds, as N.sql, what brings a schema from version N-1 to N.
//
//go:embed migrations/*.sql
var migrations embed.FS

// formatVersion numbers the tables and the encodings in them. The tables of an older
// version are migrated, those of a newer one refused.
const formatVersion = 3

// migrateAttempts bounds how often a migration is tried when another process
// makes the same one.
const migrateAttempts = 5

const epochLen = 5

// sqlText puts a schema's name into statements, which are written with "millrace.".
type sqlText struct{ schema string }

func newText(schema string) sqlText {
	return sqlText{pgx.Identifier{schema}.Sanitize() + "."}
}

func (t sqlText) in(statement string) string {
	return strings.ReplaceAll(statement, "millrace.", t.schema)
}

// Migrate creates the store's tables, or brings them to this version's format.
// It does nothing if that is what they have. Several processes may do so at once.
// Of opts only the connection and the schema are used.
func Migrate(ctx context.Context, opts Options) error {
	opts = opts.withDefaults()
	s := newStore(opts)
	defer s.end()
	err := opts.check()
	if err == nil {
		err = opts.reach(ctx)
	}
	if err == nil {
		var pool *pgxpool.Pool
		if pool, err = opts.pool(ctx, 1); err == nil {
			err = s.migrate(ctx, pool, true)
			pool.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("migrate storage at %s: %w", s.where, s.failure(err))
	}
	return nil
}

// migrate checks the format and, if change is set, makes it the present one.
func (s *Store) migrate(ctx context.Context, pool *pgxpool.Pool, change bool) error {
	for attempt := 1; ; attempt++ {
		version, err := s.format(ctx, pool)
		if err != nil {
			return fmt.Errorf("read the format: %w", err)
		}
		if version > formatVersion {
			return newer(version)
		}
		if version == formatVersion {
			return nil
		}
		if !change {
			return fmt.Errorf("%w: the tables are not there or of version %d, this millrace needs %d; run millrace migrate", storage.ErrFormat, version, formatVersion)
		}
		err = s.step(ctx, pool, version)
		if err == nil {
			s.log.Info("storage migrated", "schema", s.opts.Schema, "from", version, "to", version+1)
			continue
		}
		if attempt >= migrateAttempts || !raced(err) {
			return fmt.Errorf("migrate from version %d: %w", version, s.allowed(err))
		}
	}
}

// allowed says how to give the user the right that is missing.
func (s *Store) allowed(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != "42501" {
		return err
	}
	c, name := &s.opts.Connection, func(s string) string { return pgx.Identifier{s}.Sanitize() }
	return &postgres.Error{
		Code: "PSYNC_S1101", Kind: postgres.ErrConfig, Message: "the user " + c.User + " may not make the tables", Err: err,
		SQL:  []string{fmt.Sprintf("GRANT CREATE ON DATABASE %s TO %s;", name(c.Database), name(c.User))},
		Hint: fmt.Sprintf("Or, for this schema alone: CREATE SCHEMA %s AUTHORIZATION %s;", name(s.opts.Schema), name(c.User)),
	}
}

// format returns the version of what the schema holds, 0 if nothing is there.
func (s *Store) format(ctx context.Context, pool *pgxpool.Pool) (int, error) {
	rows, err := pool.Query(ctx, `SELECT c.relname FROM pg_catalog.pg_class c
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY c.relname = 'format' DESC LIMIT 1`, s.opts.Schema)
	if err != nil {
		return 0, err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(names) == 0 {
		return 0, err
	}
	other := fmt.Errorf("%w: the schema holds table %q, which is not of a store; give a schema of its own", storage.ErrFormat, names[0])
	if names[0] != "format" {
		return 0, other
	}
	var version int
	var product string
	err = pool.QueryRow(ctx, s.text.in("SELECT product, version FROM millrace.format")).Scan(&product, &version)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42703" || err == nil && (product != "millrace" || version < 1) || errors.Is(err, pgx.ErrNoRows) {
		return 0, other
	}
	return version, err
}

// step makes one migration, all of it or nothing.
func (s *Store) step(ctx context.Context, pool *pgxpool.Pool, from int) error {
	text, err := migrations.ReadFile(fmt.Sprintf("migrations/%d.sql", from+1))
	if err != nil {
		return err
	}
	epoch, secret := strings.ToLower(rand.Text()[:epochLen]), make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if from > 0 {
			tag, err := tx.Exec(ctx, s.text.in("UPDATE millrace.format SET version = $1 WHERE version = $2"), from+1, from)
			if err == nil && tag.RowsAffected() == 0 {
				err = errRaced
			}
			if err != nil {
				return err
			}
			_, err = tx.Exec(ctx, s.text.in(string(text)), pgx.QueryExecModeSimpleProtocol)
			return err
		}
		var exists bool
		err := tx.QueryRow(ctx, "SELECT count(*) > 0 FROM pg_catalog.pg_namespace WHERE nspname = $1", s.opts.Schema).Scan(&exists)
		if err == nil && !exists {
			_, err = tx.Exec(ctx, "CREATE SCHEMA "+pgx.Identifier{s.opts.Schema}.Sanitize())
		}
		if err == nil {
			_, err = tx.Exec(ctx, s.text.in("CREATE TABLE millrace.format (product text PRIMARY KEY, version bigint NOT NULL)"))
		}
		if err == nil {
			_, err = tx.Exec(ctx, s.text.in(string(text)), pgx.QueryExecModeSimpleProtocol)
		}
		if err == nil {
			_, err = tx.Exec(ctx, s.text.in(`INSERT INTO millrace.store
				(one, epoch, secret, token, owner, holder, expires, used_op, next_def, next_bucket, version, op, lsn, fence)
				VALUES (1, $1, $2, 0, '', '', clock_timestamp(), 0, 1, 1, 0, 0, 0, true)`), epoch, secret)
		}
		for _, statement := range []string{
			"INSERT INTO millrace.format (product, version) VALUES ('millrace', 1)",
			"INSERT INTO millrace.horizon (one, pruned, purged) VALUES (1, 0, 0)",
			"INSERT INTO millrace.upload_counter (one, seq) VALUES (1, 0)",
			"INSERT INTO millrace.publication (version, at, changes) VALUES (0, clock_timestamp(), NULL)",
		} {
			if err == nil {
				_, err = tx.Exec(ctx, s.text.in(statement))
			}
		}
		return err
	})
}

var errRaced = errors.New("another process made the migration")

// raced reports whether a migration failed because another process makes it.
func raced(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return errors.Is(err, errRaced)
	}
	switch pg.Code {
	case "23505", "42P06", "42P07", "40001", "40P01", "XX000":
		return true // something exists by now, or both were at it
	}
	return false
}
