// Package pgstore keeps a store in a Postgres database, for several processes: one
// replicates, any number serve. The server opens it; replication writes through
// Commit, sessions read through Snapshot, processes that only serve learn of new
// checkpoints through Watch.
//
// It uses plain SQL alone (tables, COPY, ON CONFLICT, LISTEN and NOTIFY), so that
// databases that speak Postgres' protocol can serve, and only the tables of its
// own schema. The database may be the one that is replicated from.
//
// # Writing
//
// A Batch is one database transaction. Small ones go in one round trip; the ops of
// large ones are copied in binary. Who may write is decided by a lease, a row
// that names a token and a time by the database's clock: a process takes a lease
// that has run out, with the next token, and every commit checks the token in its
// own transaction, by a constraint on the row that it updates anyway. So a writer
// that was thought dead and comes back can change nothing, whatever the clocks of
// the machines say, and no lock has to be held between transactions.
//
// # Reading
//
// A Snapshot is a version number and no database transaction, so it costs nothing
// to hold and holds nothing up: no connection, no vacuum. Ops need no versions
// beyond their ids, as they only grow: a snapshot's ops are those up to its
// checkpoint. Each op carries the sums of its bucket up to there, so that the
// state of a bucket at a checkpoint is in one row. Lookups, definitions and
// deploys have the versions from and up to which they hold. What is superseded is
// kept for Options.Retain and for as long as a snapshot of the writing process
// needs it, then pruned; a reader whose snapshot is older fails with
// storage.ErrExpired,
// never with less than the snapshot showed.
//
// # Compaction
//
// Compaction is a commit like others: it makes a version. What it puts in the place of
// ops lies beside them, and shows in snapshots of that version and later ones; when
// no older one is readable any more, it moves into the ops, and what was cleared is
// deleted. So a snapshot shows the same for as long as it can be read, in any process.
// The sums that ops carry are of all ops ever; what compaction took off is noted
// beside the bucket, and replication need not know of it.
//
// # Unpublished parts
//
// The parts of a transaction that are committed without Publish are written in
// place under the next version, which no snapshot shows, and what they overwrite
// of row records goes into an undo table. Open and Recover take them back. The
// alternatives: one open database transaction over all parts would hold back
// vacuum, of the source too if it is the same server, be lost with its connection,
// and meet the limits that distributed databases have; staging tables would write
// everything twice, in one long step at the end.
//
// Invariants, besides those of package storage:
//   - Nothing is written by a process whose token is not the store's.
//   - What a writer remembers of the store (caches, numbering) is what is stored:
//     after a commit whose outcome is unknown it writes nothing until Recover has
//     taken the next token, so that the outcome is final, and read everything again.
//   - DurableLSN is never ahead of what a crash of the database would leave.
package pgstore

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// Store is an open store. One goroutine at a time should write; writes of several
// are carried out one after the other. Any number may read.
type Store struct {
	opts   Options
	log    *slog.Logger
	text   sqlText
	where  string        // host and schema, for messages
	owner  string        // tells this open store from all others
	reads  *pgxpool.Pool // for Snapshots and write checkpoints
	writes *pgxpool.Pool // nil for a reader
	opened storage.Recovered

	health  health
	durable atomic.Uint64 // source.LSN
	closing atomic.Bool
	life    context.Context // ends with Close
	end     context.CancelFunc
	// wake asks Run to tell the other processes that there is something new.
	wake chan struct{}

	// compacting holds a token while a compaction goes on.
	compacting chan struct{}

	// writing is held while a batch is prepared and applied, and by Recover.
	writing sync.Mutex
	writer  writer
	records recordCache // has its own lock; Row uses it

	mu      sync.Mutex
	current view           // what Snapshot returns next
	pins    map[int64]int  // open snapshots of this process, by version
	seen    watchPositions // how far Watch has come; for its goroutine
	pulse   Pulse
	abandon func() // ends what is being written; nil if nothing is
}

// view is a published state.
type view struct {
	version    int64
	checkpoint storage.Checkpoint
}

// Open opens the store, creating it if there is none, and takes the lease. It
// fails with ErrLocked if another process holds the lease (unless Options.Wait),
// with ErrFormat if the schema is of another version or not of a store, with an
// error of package postgres if there is no connection, and with ErrUnavailable if it
// breaks. With Options.Reader it takes no lease, and only reads.
//
// Run must then be running, or the lease runs out while nothing is committed.
func Open(ctx context.Context, opts Options) (*Store, error) {
	s := newStore(opts.withDefaults())
	if err := s.open(ctx); err != nil {
		return nil, fmt.Errorf("open storage at %s: %w", s.where, s.failure(err))
	}
	return s, nil
}

func newStore(opts Options) *Store {
	s := &Store{
		opts: opts, log: opts.Logger, text: newText(opts.Schema), where: opts.where(), owner: rand.Text(),
		wake: make(chan struct{}, 1), compacting: make(chan struct{}, 1),
		pins: map[int64]int{},
	}
	s.life, s.end = context.WithCancel(context.Background())
	s.health.failed = make(chan struct{})
	return s
}

func (s *Store) open(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			s.end()
			s.closePools()
		}
	}()
	if err := s.opts.check(); err != nil {
		return err
	}
	if err := s.opts.reach(ctx); err != nil {
		return err
	}
	if s.reads, err = s.opts.pool(ctx, s.opts.Connections); err != nil {
		return err
	}
	if err := s.migrate(ctx, s.reads, !s.opts.NoMigrate); err != nil {
		return err
	}
	if s.opts.Reader {
		if s.opened, err = s.Refresh(ctx); err != nil {
			return err
		}
		return s.beginWatch(ctx)
	}
	if s.writes, err = s.opts.pool(ctx, writeConnections); err != nil {
		return err
	}
	if err := s.acquire(ctx); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.release()
		}
	}()
	s.writer.init()
	s.records.init()
	if s.opened, err = s.recover(ctx); err != nil {
		return err
	}
	return s.beginWatch(ctx)
}

// Recovered returns what the store held when it was opened.
func (s *Store) Recovered() storage.Recovered { return s.opened }

// DurableLSN returns the LSN of the newest checkpoint that survives a crash of the
// database: what may be confirmed to the source. A reader does not know it: 0.
func (s *Store) DurableLSN() source.LSN { return source.LSN(s.durable.Load()) }

// Failed is closed when this process can no longer write: another one has taken
// over. A database that cannot be reached for a while is no such failure: commits
// fail until it is back, and Recover goes on from there.
func (s *Store) Failed() <-chan struct{} { return s.health.failed }

// Err returns why the store can no longer be written, which is ErrFailed and
// ErrLocked, or nil.
func (s *Store) Err() error { return s.health.err() }

// Close waits for reads and writes under way, gives the lease back, so that
// another process can take it at once, and closes the connections. Snapshots that
// are still open return ErrClosed from then on. A second Close does nothing.
func (s *Store) Close() error {
	if s.closing.Swap(true) {
		return nil
	}
	s.end()
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.writes != nil && s.health.err() == nil {
		s.release()
	}
	s.closePools()
	return nil
}

func (s *Store) closePools() {
	if s.reads != nil {
		s.reads.Close()
	}
	if s.writes != nil {
		s.writes.Close()
	}
}

// health knows whether this process may write.
type health struct {
	mu     sync.Mutex
	cause  error
	failed chan struct{} // closed after cause is set
}

func (h *health) err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cause
}

func (h *health) fail(cause error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cause == nil {
		h.cause = cause
		close(h.failed)
	}
}
