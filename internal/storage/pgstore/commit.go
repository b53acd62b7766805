package pgstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/postgres"
	"github.com/millrace-sync/millrace/internal/storage"
)

// commitTime bounds one commit; a connection that is silent for so long is dead. It is
// given up before that if the lease cannot be renewed either.
const commitTime = 2 * time.Minute

// bulk is the number of ops, or rows, from which on they are copied: it costs two
// more round trips.
const bulk = 200

// writer is what a store knows of its newest state, published or not. Its fields
// belong to whoever holds Store.writing.
type writer struct {
	token int64

	view       view        // the newest published state
	lastOp     bucket.OpID // the newest op that is stored
	nextOp     bucket.OpID
	nextDef    storage.DefinitionID
	nextBucket int64
	defs       map[storage.DefinitionID]struct{}
	states     stateCache
	changes    changeSet // since view
	// parts says that there are batches since view.
	parts bool
	// settled is closed when there are none any more, if somebody waits for that.
	settled chan struct{}
	// lastCompacted is the newest op when all buckets were last looked at by an
	// incremental compaction; swept says that no row record is left of a definition
	// that was dropped.
	lastCompacted bucket.OpID
	swept         bool
	// unknown is why the outcome of a commit is not known; nil if it is. Nothing may
	// be written until Recover has found out.
	unknown error

	staged staged // the batch being prepared
}

func (w *writer) init() {
	w.defs = map[storage.DefinitionID]struct{}{}
	w.states.clear()
	w.changes.clear()
	w.staged.touched = map[storage.BucketKey]*bucketChange{}
}

// Commit writes a batch, all of it or nothing, and durably unless NoSync allows
// otherwise. It fails with ErrBatch if the batch breaks the contract, and with
// ErrFailed and ErrLocked if another process has taken over. The context is heeded
// until writing begins.
//
// If the database cannot be reached, or the connection breaks, the error is of
// none of these kinds, and Commit goes on failing until Recover succeeds, which
// finds out whether the batch was kept.
func (s *Store) Commit(ctx context.Context, b *storage.Batch) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.writable(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	w := &s.writer
	if w.unknown != nil {
		return fmt.Errorf("commit: the outcome of an earlier one has to be found out by recovering: %w", w.unknown)
	}
	if err := w.check(b); err != nil {
		return fmt.Errorf("commit: %w: %w", storage.ErrBatch, err)
	}
	hasData := len(b.Ops)+len(b.Rows)+len(b.Lookups)+len(b.Definitions)+len(b.Drop) > 0 || b.Deploy != nil
	whole := hasData || w.parts // there is something to publish, or to be told apart from it
	sync := !b.NoSync || (b.Publish && whole)

	ctx, cancel := s.abandonable(context.WithoutCancel(ctx), commitTime)
	defer cancel()
	if err := s.stage(ctx, b); err != nil {
		return fmt.Errorf("commit: %w", s.silenced(ctx, err))
	}
	w.changes.batch(b)
	next := w.after(b, whole)
	if err := s.write(ctx, b, next, whole, sync); err != nil {
		// The changes named too many then, which does no harm.
		return fmt.Errorf("commit: %w", s.silenced(ctx, err))
	}

	w.adopt(b, next)
	s.records.committed(w.staged.rows)
	if sync {
		s.durable.Store(uint64(w.view.checkpoint.LSN))
	}
	if w.parts = whole && !b.Publish; !w.parts {
		w.settle()
	}
	if b.Publish {
		w.changes.clear()
		s.publish(w.view)
	}
	return nil
}

// errSilent: the lease ran out while something was written, and could not be renewed.
var errSilent = errors.New("the database has not answered for as long as the lease lasts")

// abandonable returns a context for writing that giveUp ends, too. One at a time is
// writing: the caller holds writing.
func (s *Store) abandonable(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	ctx, stop := context.WithTimeout(ctx, limit)
	ctx, abandon := context.WithCancelCause(ctx)
	s.mu.Lock()
	s.abandon = func() { abandon(errSilent) }
	s.mu.Unlock()
	return ctx, func() {
		s.mu.Lock()
		s.abandon = nil
		s.mu.Unlock()
		abandon(nil)
		stop()
	}
}

// giveUp ends what is being written: a connection that says nothing would keep the
// writer waiting. Recover finds out what became of it.
func (s *Store) giveUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.abandon != nil {
		s.abandon()
	}
}

// silenced is failure of what was written with an abandonable context.
func (s *Store) silenced(ctx context.Context, err error) error {
	if context.Cause(ctx) == errSilent {
		return fmt.Errorf("%w: %w", storage.ErrUnavailable, errSilent)
	}
	return s.failure(err)
}

// publish makes v what Snapshot returns, and tells of it.
func (s *Store) publish(v view) {
	s.mu.Lock()
	s.current = v
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// write sends a staged batch as one transaction.
func (s *Store) write(ctx context.Context, b *storage.Batch, next position, whole, sync bool) error {
	w := &s.writer
	conn, err := s.writes.Acquire(ctx)
	if err != nil {
		return s.failure(err)
	}
	defer conn.Release()
	var out pgx.Batch
	copied := len(w.staged.copyOps) > 0 || len(w.staged.copyRows) > 0
	if copied {
		if err = s.copyStaged(ctx, conn.Conn().PgConn()); err != nil {
			return s.undecided(ctx, conn.Conn(), err, false)
		}
	} else {
		out.Queue(beginText)
	}
	if !sync {
		out.Queue("SELECT set_config('synchronous_commit', 'off', true)")
	}
	q := queue{batch: &out, text: s.text, version: w.view.version + 1}
	q.staged(&w.staged, !b.Publish)
	q.plan(b)
	if b.Publish && whole {
		var changes []byte
		if !w.changes.all {
			changes = appendChanges([]byte{}, &w.changes)
		}
		q.add("INSERT INTO millrace.publication (version, at, changes) VALUES ($1, clock_timestamp(), $2)", next.view.version, changes)
	}
	q.fence(w.token, s.opts.Lease, next)
	out.Queue("COMMIT")
	if err := sendBatch(ctx, conn.Conn(), &out); err != nil {
		return s.undecided(ctx, conn.Conn(), err, true)
	}
	return nil
}

const beginText = "BEGIN ISOLATION LEVEL READ COMMITTED"

func sendBatch(ctx context.Context, conn *pgx.Conn, b *pgx.Batch) error {
	results := conn.SendBatch(ctx, b)
	for range b.Len() {
		if _, err := results.Exec(); err != nil {
			return errors.Join(err, results.Close())
		}
	}
	return results.Close()
}

// undecided ends a transaction that met an error. If the database reported it, the
// transaction is not committed; if not, and COMMIT was sent, no one knows.
func (s *Store) undecided(ctx context.Context, conn *pgx.Conn, err error, sent bool) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.SeverityUnlocalized != "FATAL" && pg.SeverityUnlocalized != "PANIC" {
		_, _ = conn.Exec(ctx, "ROLLBACK") // or the pool drops the connection
		// Who has been replaced may meet what the other one wrote before the fence.
		if lost := s.renew(ctx); errors.Is(lost, storage.ErrFailed) {
			return lost
		}
		return s.failure(err)
	}
	if sent {
		s.writer.unknown = err
	}
	// The other connections are of a server that is gone, too.
	s.writes.Reset()
	s.reads.Reset()
	return s.failure(err)
}

// failure gives an error of the driver the kind that callers know.
func (s *Store) failure(err error) error {
	if err == nil {
		return nil
	}
	if fenced(err) {
		return s.lost()
	}
	if _, told := errors.AsType[*postgres.Error](err); told {
		return err // it says more than we can
	}
	if s.closing.Load() && !errors.Is(err, storage.ErrClosed) {
		return fmt.Errorf("%w: %w", storage.ErrClosed, err)
	}
	if unavailable(err) {
		return fmt.Errorf("%w: %w", storage.ErrUnavailable, err)
	}
	return err
}

// unavailable reports whether an error is of the connection, or of a server that
// starts, stops or has no room for another one.
func unavailable(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		class := pg.Code[:min(2, len(pg.Code))]
		return class == "08" || class == "53" || class == "57" || pg.SeverityUnlocalized == "FATAL" || pg.SeverityUnlocalized == "PANIC"
	}
	var connect *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &connect) || errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, context.DeadlineExceeded)
}

// position is what a commit brings the store to.
type position struct {
	view       view
	nextOp     bucket.OpID
	nextDef    storage.DefinitionID
	nextBucket int64
	lastOp     bucket.OpID
	led        bool // some process has the lease
}

func (w *writer) after(b *storage.Batch, whole bool) position {
	p := position{view: w.view, nextOp: w.nextOp, nextDef: w.nextDef, nextBucket: w.staged.nextBucket, lastOp: w.lastOp}
	if n := len(b.Ops); n > 0 {
		p.lastOp = b.Ops[n-1].Op.ID
		p.nextOp = p.lastOp + 1
	}
	for i := range b.Definitions {
		p.nextDef = max(p.nextDef, b.Definitions[i].ID+1)
	}
	if b.Publish {
		p.view.checkpoint = storage.Checkpoint{Op: p.lastOp, LSN: b.LSN}
		if whole {
			p.view.version++
		}
	}
	return p
}

// adopt makes a committed batch the newest state.
func (w *writer) adopt(b *storage.Batch, p position) {
	w.view, w.lastOp, w.nextOp, w.nextDef, w.nextBucket = p.view, p.lastOp, p.nextOp, p.nextDef, p.nextBucket
	for key, c := range w.staged.touched {
		w.states.put(key, c.bucketState)
	}
	for i := range b.Definitions {
		w.defs[b.Definitions[i].ID] = struct{}{}
	}
	for _, id := range b.Drop {
		delete(w.defs, id)
		w.swept = false
	}
}

// settle wakes who waits until there are no parts.
func (w *writer) settle() {
	if w.settled != nil {
		close(w.settled)
		w.settled = nil
	}
}
