package pgstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/record"
)

// recoverTime bounds taking back the parts of a transaction, which may be large.
const recoverTime = time.Hour

// Recover takes back every batch since the last one with Publish, as Open does,
// and returns what the store then holds. The writer calls it before it starts, and
// before it starts again after a failure of the source or of the database, to
// replay a transaction from its beginning. Snapshots are not affected, nor is the
// numbering.
func (s *Store) Recover(ctx context.Context) (storage.Recovered, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.writable(ctx); err != nil {
		return storage.Recovered{}, fmt.Errorf("recover: %w", err)
	}
	ctx, cancel := s.abandonable(ctx, recoverTime)
	defer cancel()
	r, err := s.recover(ctx)
	if err != nil {
		return storage.Recovered{}, fmt.Errorf("recover: %w", s.silenced(ctx, err))
	}
	return r, nil
}

// recover is Recover, also for a store that has just taken the lease. The caller
// holds writing.
func (s *Store) recover(ctx context.Context) (storage.Recovered, error) {
	w := &s.writer
	w.unknown = errRecovering // until this has succeeded
	if err := s.retake(ctx); err != nil {
		return storage.Recovered{}, err
	}
	at, r, err := s.position(ctx, s.writes)
	if err != nil {
		return storage.Recovered{}, err
	}
	if err := s.rollback(ctx, at); err != nil {
		return storage.Recovered{}, fmt.Errorf("take back an unfinished transaction: %w", err)
	}
	if err := s.loadPlan(ctx, s.writes, at.view.version, &r); err != nil {
		return storage.Recovered{}, err
	}
	w.view, w.nextOp, w.nextDef, w.nextBucket, w.lastOp = at.view, at.nextOp, at.nextDef, at.nextBucket, at.lastOp
	clear(w.defs)
	for i := range r.Definitions {
		w.defs[r.Definitions[i].ID] = struct{}{}
	}
	w.states.clear()
	w.changes.clear()
	s.records.init()
	w.parts, w.unknown = false, nil
	w.settle()
	s.durable.Store(uint64(at.view.checkpoint.LSN))
	s.publish(at.view)
	return r, nil
}

var errRecovering = errors.New("recovering did not succeed")

// position reads where the store is, and fills in what is not its plan.
func (s *Store) position(ctx context.Context, db querier) (position, storage.Recovered, error) {
	var p position
	var r storage.Recovered
	var secret []byte
	var used, nextDef, op, lsn int64
	err := db.QueryRow(ctx, s.text.in(`SELECT epoch, secret, used_op, next_def, next_bucket, version, op, lsn,
		expires > clock_timestamp() FROM millrace.store WHERE one = 1`)).Scan(&r.Epoch, &secret, &used, &nextDef, &p.nextBucket, &p.view.version, &op, &lsn, &p.led)
	if err != nil {
		return p, r, err
	}
	if len(r.Epoch) != epochLen || copy(r.Secret[:], secret) != len(r.Secret) {
		return p, r, fmt.Errorf("epoch of %d and secret of %d bytes: %w", len(r.Epoch), len(secret), storage.ErrCorrupt)
	}
	p.view.checkpoint = storage.Checkpoint{Op: bucket.OpID(op), LSN: source.LSN(lsn)}
	p.nextOp, p.nextDef, p.lastOp = bucket.OpID(used)+1, storage.DefinitionID(nextDef), bucket.OpID(op)
	r.NextOp, r.NextDefinition, r.Checkpoint = p.nextOp, p.nextDef, p.view.checkpoint
	return p, r, nil
}

// rollback takes back what was written under the version after at, if anything.
func (s *Store) rollback(ctx context.Context, at position) error {
	conn, err := s.writes.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	var out pgx.Batch
	next := at.view.version + 1
	out.Queue(beginText)
	q := queue{batch: &out, text: s.text, version: next}
	q.add(`DELETE FROM millrace.row_record r USING millrace.row_undo u
		WHERE u.version = $1 AND u.record IS NULL AND r.tbl = u.tbl AND r.key = u.key`, next)
	q.add(`INSERT INTO millrace.row_record (tbl, key, record)
		SELECT tbl, key, record FROM millrace.row_undo WHERE version = $1 AND record IS NOT NULL
		ON CONFLICT (tbl, key) DO UPDATE SET record = excluded.record`, next)
	q.add("DELETE FROM millrace.row_undo WHERE version = $1", next)
	q.add(`DELETE FROM millrace.op o USING millrace.bucket_undo u
		WHERE u.version = $1 AND o.bucket = u.bucket AND o.id > $2`, next, int64(at.view.checkpoint.Op))
	q.add(`DELETE FROM millrace.bucket b USING millrace.bucket_undo u
		WHERE u.version = $1 AND b.id = u.bucket AND NOT EXISTS (SELECT 1 FROM millrace.op o WHERE o.bucket = b.id)`, next)
	q.add("DELETE FROM millrace.bucket_undo WHERE version = $1", next)
	for _, table := range []string{"lookup", "definition", "deploy"} {
		q.add("DELETE FROM millrace."+table+" WHERE from_v = $1", next)
		q.add("UPDATE millrace."+table+" SET to_v = $1 WHERE to_v = $2 AND to_v < 9223372036854775807", int64(forever), next)
	}
	q.fence(s.writer.token, s.opts.Lease, at)
	out.Queue("COMMIT")
	if err := sendBatch(ctx, conn.Conn(), &out); err != nil {
		_, _ = conn.Exec(ctx, "ROLLBACK")
		return err
	}
	return nil
}

// querier is one of the pools.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// loadPlan fills in the definitions and deploys of a version.
func (s *Store) loadPlan(ctx context.Context, db querier, version int64, r *storage.Recovered) error {
	err := s.eachVersioned(ctx, db, "definition", version, func(id int64, body []byte) error {
		d, err := record.DecodeDefinition(storage.DefinitionID(id), body)
		r.Definitions = append(r.Definitions, d)
		return err
	})
	if err != nil {
		return fmt.Errorf("load definitions: %w", err)
	}
	err = s.eachVersioned(ctx, db, "deploy", version, func(id int64, body []byte) error {
		d, err := record.DecodeDeploy(uint64(id), body)
		r.Deploys = append(r.Deploys, d)
		return err
	})
	if err != nil {
		return fmt.Errorf("load deploys: %w", err)
	}
	return nil
}

func (s *Store) eachVersioned(ctx context.Context, db querier, table string, version int64, f func(id int64, body []byte) error) error {
	rows, err := db.Query(ctx, s.text.in("SELECT id, body FROM millrace."+table+" WHERE from_v <= $1 AND to_v > $1 ORDER BY id"), version)
	if err != nil {
		return err
	}
	var id int64
	var body []byte
	_, err = pgx.ForEachRow(rows, []any{&id, &body}, func() error { return f(id, append([]byte(nil), body...)) })
	return err
}
