package pgstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/millrace-sync/millrace/internal/postgres"
)

// Defaults of Options.
const (
	DefaultSchema      = "millrace"
	DefaultConnections = 8
	DefaultLease       = 15 * time.Second
	DefaultRetain      = 5 * time.Minute
	DefaultPoll        = time.Second
)

// writeConnections is how many connections a writer has besides those for reading:
// one to commit, one to read row records, one to list them, one for the lease.
const writeConnections = 4

// minLease keeps a lease from running out between two renewals.
const minLease = time.Second

// Options say where a store is and how it is used. Only Connection must be set.
type Options struct {
	// Connection says how to reach the database; what it has of replication is not
	// used. The user must be able to create the schema, or own it.
	Connection postgres.Config
	// Schema holds the store's tables and nothing else; "" means DefaultSchema.
	Schema string
	// Connections is the most connections to read by at a time; 0 means
	// DefaultConnections. A writer has a few more, and Watch one.
	Connections int
	// Reader opens the store for reading, and for requests of write checkpoints.
	Reader bool
	// Wait makes Open wait for the lease until its context ends, and call Waiting,
	// if it is set, with who has the lease, once.
	Wait    bool
	Waiting func(holder string)
	// NoMigrate makes Open fail with ErrFormat, instead of creating or changing the
	// tables, if that has to be done: see Migrate.
	NoMigrate bool
	// Lease is how long a process that writes may be silent before another takes
	// over; 0 means DefaultLease.
	Lease time.Duration
	// Retain is how long what is superseded stays readable for the snapshots of
	// other processes; 0 means DefaultRetain.
	Retain time.Duration
	// Poll is how often Watch looks by itself; 0 means DefaultPoll.
	Poll time.Duration
	// Logger gets what the store has to say; nil means nobody does.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.Schema == "" {
		o.Schema = DefaultSchema
	}
	if o.Connections <= 0 {
		o.Connections = DefaultConnections
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&o.Lease, DefaultLease}, {&o.Retain, DefaultRetain}, {&o.Poll, DefaultPoll}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Connection.ApplicationName == "" {
		o.Connection.ApplicationName = "millrace storage"
	}
	return o
}

func (o *Options) check() error {
	if o.Connection.Host == "" {
		return errors.New("no host given: set the storage's hostname")
	}
	if len(o.Schema) > 63 || strings.IndexByte(o.Schema, 0) >= 0 {
		return fmt.Errorf("schema name %q is no identifier: give one of up to 63 bytes", o.Schema)
	}
	if o.Lease < minLease {
		return fmt.Errorf("a lease of %v is too short: give %v or more", o.Lease, minLease)
	}
	return nil
}

// where names the store in messages.
func (o *Options) where() string {
	port := o.Connection.Port
	if port == 0 {
		port = 5432
	}
	return fmt.Sprintf("%s:%d/%s, schema %s", o.Connection.Host, port, o.Connection.Database, o.Schema)
}

// holder names this process to people.
func holder() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return fmt.Sprintf("%s, process %d", host, os.Getpid())
}

// reach connects once, to say why that does not go and what to do. It asks for no more
// than the pools do: a pooler may refuse settings that it does not know.
func (o *Options) reach(ctx context.Context) error { return postgres.Reach(ctx, o.Connection) }

// pool makes a pool, which connects when it is used.
func (o *Options) pool(ctx context.Context, size int) (*pgxpool.Pool, error) {
	driver, err := o.Connection.Driver()
	if err != nil {
		return nil, err
	}
	pc, err := pgxpool.ParseConfig("host=localhost user=nobody sslmode=disable target_session_attrs=any passfile=none")
	if err != nil {
		return nil, err
	}
	pc.ConnConfig.Config = *driver
	pc.MaxConns = int32(size)
	pc.MaxConnIdleTime = time.Minute
	pc.AfterConnect = func(ctx context.Context, c *pgx.Conn) error { return prepareSession(ctx, c, o.Lease) }
	return pgxpool.NewWithConfig(ctx, pc)
}

// prepareSession makes the settings that the database knows of those we want:
// every query is a walk over an index, planned once; a transaction left alone ends
// with the lease; and a commit that returns is on disk, whatever the default is.
func prepareSession(ctx context.Context, c *pgx.Conn, lease time.Duration) error {
	_, err := c.Exec(ctx, `SELECT set_config(s.name, v.value, false)
		FROM (VALUES ('jit', 'off'), ('enable_seqscan', 'off'), ('enable_hashjoin', 'off'), ('enable_mergejoin', 'off'),
			('plan_cache_mode', 'force_generic_plan'), ('idle_in_transaction_session_timeout', $1::text)) v (name, value)
		JOIN pg_catalog.pg_settings s ON s.name = v.name`, fmt.Sprint(lease.Milliseconds()))
	if err != nil {
		return fmt.Errorf("prepare the session: %w", err)
	}
	_, err = c.Exec(ctx, `SELECT set_config('synchronous_commit', 'on', false)
		FROM pg_catalog.pg_settings WHERE name = 'synchronous_commit' AND setting = 'off'`)
	if err != nil {
		return fmt.Errorf("prepare the session: %w", err)
	}
	return nil
}
