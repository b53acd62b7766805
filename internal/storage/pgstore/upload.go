package pgstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// WriteCheckpoint returns a user's newest write checkpoint; false if there is none.
func (s *Store) WriteCheckpoint(user string) (storage.WriteCheckpoint, bool, error) {
	if s.closing.Load() {
		return storage.WriteCheckpoint{}, false, fmt.Errorf("read write checkpoint: %w", storage.ErrClosed)
	}
	ctx, cancel := context.WithTimeout(context.Background(), readTime)
	defer cancel()
	var id, lsn int64
	err := s.reads.QueryRow(ctx, s.text.in("SELECT id, lsn FROM millrace.write_checkpoint WHERE user_key = $1"), shorten(user)).Scan(&id, &lsn)
	if errors.Is(err, pgx.ErrNoRows) {
		return storage.WriteCheckpoint{}, false, nil
	}
	if err != nil {
		return storage.WriteCheckpoint{}, false, fmt.Errorf("read write checkpoint: %w", s.failure(err))
	}
	return storage.WriteCheckpoint{ID: uint64(id), LSN: source.LSN(lsn)}, true, nil
}

// RequestWriteCheckpoints stores the next write checkpoint of each user, in order,
// all in one durable step, and returns their ids. An id never falls: one that
// asks for less than the user already has gets what is stored, and numbering ends at
// bucket.MaxOpID, which is then given out again. The stored LSN never falls either, so that an id stands for all uploads before the request.
// Any process may ask, also a reader.
func (s *Store) RequestWriteCheckpoints(ctx context.Context, reqs []storage.WriteCheckpointRequest) ([]uint64, error) {
	ids, err := s.requestUploads(ctx, reqs)
	if err != nil {
		return nil, fmt.Errorf("request write checkpoints: %w", err)
	}
	return ids, nil
}

func (s *Store) requestUploads(ctx context.Context, reqs []storage.WriteCheckpointRequest) ([]uint64, error) {
	if s.closing.Load() {
		return nil, storage.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(reqs) == 0 {
		return nil, nil
	}
	for _, r := range reqs {
		if r.AtLeast > uint64(bucket.MaxOpID) {
			return nil, fmt.Errorf("%w: id %d is beyond the largest, %d", storage.ErrBatch, r.AtLeast, bucket.MaxOpID)
		}
	}
	// In order of the users, so that two processes do not wait for each other; the
	// counter comes first and lets one in at a time, so that seq is in the order of
	// the commits.
	order := make([]int, len(reqs))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(reqs[a].User, reqs[b].User) })
	var out pgx.Batch
	out.Queue(beginText)
	out.Queue(s.text.in("UPDATE millrace.upload_counter SET seq = seq + 1 WHERE one = 1"))
	for _, i := range order {
		r := &reqs[i]
		out.Queue(s.text.in(`INSERT INTO millrace.write_checkpoint AS w (user_key, username, id, lsn, requested, seq)
			SELECT $1, $2, CASE WHEN $3::bigint = 0 THEN 1 ELSE $3 END, $4, CASE WHEN $3::bigint > 0 THEN $5::bigint END, c.seq FROM millrace.upload_counter c WHERE c.one = 1
			ON CONFLICT (user_key) DO UPDATE SET
				id = CASE WHEN $3::bigint = 0 THEN least(w.id, 9223372036854775806) + 1 ELSE greatest(w.id, $3) END,
				lsn = greatest(w.lsn, excluded.lsn), seq = excluded.seq,
				requested = CASE WHEN w.requested IS NOT NULL THEN excluded.requested END
			RETURNING id`), shorten(r.User), []byte(r.User), int64(r.AtLeast), int64(r.LSN), r.At.Unix())
	}
	out.Queue("COMMIT")
	conn, err := s.reads.Acquire(ctx)
	if err != nil {
		return nil, s.failure(err)
	}
	defer conn.Release()
	ids := make([]uint64, len(reqs))
	results := conn.SendBatch(ctx, &out)
	err = func() error {
		for range 2 {
			if _, err := results.Exec(); err != nil {
				return err
			}
		}
		for _, i := range order {
			var id int64
			if err := results.QueryRow().Scan(&id); err != nil {
				return err
			}
			ids[i] = uint64(id)
		}
		_, err := results.Exec()
		return err
	}()
	if err = errors.Join(err, results.Close()); err != nil {
		_, _ = conn.Exec(ctx, "ROLLBACK")
		return nil, s.failure(err)
	}
	s.notify(ctx)
	return ids, nil
}

// ResetWriteCheckpoints makes every write checkpoint wait for lsn, and keeps its
// number: the positions that they waited for are of another source, or of a past
// that the source does not have.
func (s *Store) ResetWriteCheckpoints(ctx context.Context, lsn source.LSN) error {
	err := s.writable(ctx)
	if err == nil {
		err = s.failure(s.resetUploads(ctx, lsn))
	}
	if err != nil {
		return fmt.Errorf("reset write checkpoints: %w", err)
	}
	s.notify(ctx)
	return nil
}

func (s *Store) resetUploads(ctx context.Context, lsn source.LSN) error {
	return pgx.BeginTxFunc(ctx, s.writes, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, s.text.in("UPDATE millrace.upload_counter SET seq = seq + 1 WHERE one = 1")); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, s.text.in("UPDATE millrace.write_checkpoint SET lsn = $1, seq = (SELECT seq FROM millrace.upload_counter WHERE one = 1)"), int64(lsn))
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, s.text.in("UPDATE millrace.store SET fence = (owner = $1) WHERE one = 1"), s.owner)
		return err
	})
}

// forgetRows bounds what one transaction removes: requests wait for it.
const forgetRows = 1000

// ForgetCheckpointRequests removes the write checkpoints of users who named their ids
// whenever they asked, the last time before the given one, if they have been reached.
// It returns how many there were. Requests go on meanwhile.
func (s *Store) ForgetCheckpointRequests(ctx context.Context, before time.Time) (removed int64, err error) {
	for {
		n := int64(0)
		if err = s.writable(ctx); err == nil {
			n, err = s.forget(ctx, before.Unix())
		}
		if err != nil {
			return removed, fmt.Errorf("forget checkpoint requests: %w", s.failure(err))
		}
		if removed += n; n < forgetRows {
			return removed, nil
		}
	}
}

// forget removes some. It takes the counter first, as requests do, so that neither waits
// for a row that the other has. Who has the lease does not matter: a client that still
// waits asks again.
func (s *Store) forget(ctx context.Context, before int64) (removed int64, err error) {
	err = pgx.BeginTxFunc(ctx, s.writes, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, s.text.in("SELECT seq FROM millrace.upload_counter WHERE one = 1 FOR UPDATE")); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, s.text.in(`DELETE FROM millrace.write_checkpoint WHERE user_key IN (
			SELECT user_key FROM millrace.write_checkpoint WHERE requested < $1 AND lsn <= $2 LIMIT $3)`), before, int64(s.DurableLSN()), forgetRows)
		removed = tag.RowsAffected()
		return err
	})
	return removed, err
}
