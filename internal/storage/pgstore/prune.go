package pgstore

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// pruneRows bounds what one transaction of a pruning removes.
const pruneRows = 10_000

// pruneEvery returns how often superseded versions are removed: what is kept is
// then at most a fifth more than Retain asks for.
func (o *Options) pruneEvery() time.Duration { return max(o.Retain/5, 100*time.Millisecond) }

// prune removes what no snapshot that is to be kept shows. First it says so in the
// horizon, so that a snapshot that is too old all the same learns it.
func (s *Store) prune(ctx context.Context) error {
	oldest, err := s.oldest(ctx)
	if err != nil {
		return fmt.Errorf("prune: %w", err)
	}
	if err := s.removeUndo(ctx); err != nil {
		return fmt.Errorf("prune undo tables: %w", err)
	}
	dropped, err := s.dropped(ctx, oldest)
	if err != nil {
		return fmt.Errorf("prune: %w", err)
	}
	compacted, err := s.foldable(ctx, oldest)
	if err != nil {
		return fmt.Errorf("prune: %w", err)
	}
	purged := int64(0)
	if len(dropped)+len(compacted) > 0 {
		purged = oldest
	}
	if err := s.remove(ctx, `UPDATE millrace.horizon SET pruned = greatest(pruned, $1), purged = greatest(purged, $2) WHERE one = 1`, false, oldest, purged); err != nil {
		return fmt.Errorf("prune: %w", err)
	}
	for _, b := range compacted {
		if err := s.fold(ctx, b, oldest); err != nil {
			return fmt.Errorf("fold what was compacted: %w", err)
		}
	}
	for _, id := range dropped {
		if err := s.purge(ctx, id); err != nil {
			return fmt.Errorf("purge definition %d: %w", id, err)
		}
	}
	// Who made a request removes it, unless it has died.
	if err := s.remove(ctx, "DELETE FROM millrace.request WHERE expires < clock_timestamp() - interval '1 day'", false); err != nil {
		return fmt.Errorf("prune requests: %w", err)
	}
	for _, statement := range []string{
		`DELETE FROM millrace.lookup WHERE (def, key, subkey, from_v) IN (
			SELECT def, key, subkey, from_v FROM millrace.lookup WHERE to_v <= $1 AND to_v < 9223372036854775807 LIMIT $2)`,
		`DELETE FROM millrace.definition WHERE (id, from_v) IN (SELECT id, from_v FROM millrace.definition WHERE to_v <= $1 LIMIT $2)`,
		`DELETE FROM millrace.deploy WHERE (id, from_v) IN (SELECT id, from_v FROM millrace.deploy WHERE to_v <= $1 LIMIT $2)`,
		`DELETE FROM millrace.publication WHERE version IN (SELECT version FROM millrace.publication WHERE version < $1 LIMIT $2)`,
	} {
		if err := s.remove(ctx, statement, true, oldest, pruneRows); err != nil {
			return fmt.Errorf("prune: %w", err)
		}
	}
	return nil
}

// oldest returns the oldest version to keep: the one that was the newest a time
// Retain ago, or an older one that a snapshot of this process shows.
func (s *Store) oldest(ctx context.Context) (int64, error) {
	var version int64
	err := s.writes.QueryRow(ctx, s.text.in(`SELECT coalesce(max(version), 0) FROM millrace.publication
		WHERE at <= clock_timestamp() - $1::bigint * interval '1 millisecond'`), s.opts.Retain.Milliseconds()).Scan(&version)
	s.mu.Lock()
	defer s.mu.Unlock()
	version = min(version, s.current.version)
	for pinned := range s.pins {
		version = min(version, pinned)
	}
	return version, err
}

// removeUndo removes what was noted for versions that are published by now.
func (s *Store) removeUndo(ctx context.Context) error {
	s.mu.Lock()
	published := s.current.version
	s.mu.Unlock()
	for _, statement := range []string{
		`DELETE FROM millrace.row_undo WHERE (version, tbl, key) IN (
			SELECT version, tbl, key FROM millrace.row_undo WHERE version <= $1 LIMIT $2)`,
		`DELETE FROM millrace.bucket_undo WHERE (version, bucket) IN (
			SELECT version, bucket FROM millrace.bucket_undo WHERE version <= $1 LIMIT $2)`,
	} {
		if err := s.remove(ctx, statement, true, published, pruneRows); err != nil {
			return err
		}
	}
	return nil
}

// dropped returns the definitions that no version from oldest on has.
func (s *Store) dropped(ctx context.Context, oldest int64) ([]int64, error) {
	rows, err := s.writes.Query(ctx, s.text.in("SELECT id FROM millrace.definition GROUP BY id HAVING max(to_v) <= $1 ORDER BY id"), oldest)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}

// foldable returns the buckets of which something is compacted that every snapshot
// from version oldest on shows, and that is not folded yet.
func (s *Store) foldable(ctx context.Context, oldest int64) ([]int64, error) {
	rows, err := s.writes.Query(ctx, s.text.in("SELECT DISTINCT bucket FROM millrace.op_edit WHERE from_v <= $1"), oldest)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}

// fold makes what was compacted of a bucket up to a version the ops themselves: every
// snapshot that can still be read shows it so. The edits go last, each with the op
// that it was moved into: wherever this ends, it can be done again.
func (s *Store) fold(ctx context.Context, bucket, oldest int64) error {
	const floor = `(SELECT floor FROM millrace.compacted WHERE bucket = $1 AND from_v <= $2 ORDER BY from_v DESC LIMIT 1)`
	for _, table := range []string{"op", "op_edit"} {
		err := s.remove(ctx, `DELETE FROM millrace.`+table+` WHERE bucket = $1 AND id IN (
			SELECT id FROM millrace.`+table+` WHERE bucket = $1 AND id < `+floor+` ORDER BY id LIMIT $3)`, true, bucket, oldest, pruneRows)
		if err != nil {
			return err
		}
	}
	for {
		moved, err := s.foldEdits(ctx, bucket, oldest)
		if err != nil {
			return err
		}
		if moved < pruneRows {
			break
		}
	}
	return s.remove(ctx, `DELETE FROM millrace.compacted WHERE bucket = $1 AND from_v < (
		SELECT max(from_v) FROM millrace.compacted WHERE bucket = $1 AND from_v <= $2)`, false, bucket, oldest)
}

// foldEdits moves some of the edits of a bucket into its ops, and returns how many.
func (s *Store) foldEdits(ctx context.Context, bucket, oldest int64) (moved int, err error) {
	rows, err := s.writes.Query(ctx, s.text.in(`SELECT id, from_v, body FROM millrace.op_edit
		WHERE bucket = $1 AND from_v <= $2 ORDER BY id, from_v LIMIT $3`), bucket, oldest, pruneRows)
	if err != nil {
		return 0, s.failure(err)
	}
	var ids, versions []int64
	var bodies [][]byte
	var id, version int64
	var body []byte
	if _, err = pgx.ForEachRow(rows, []any{&id, &version, &body}, func() error {
		moved++
		if n := len(ids); n > 0 && ids[n-1] == id { // a newer one of the same op
			versions[n-1], bodies[n-1] = version, bytes.Clone(body)
			return nil
		}
		ids, versions, bodies = append(ids, id), append(versions, version), append(bodies, bytes.Clone(body))
		return nil
	}); err != nil || moved == 0 {
		return 0, s.failure(err)
	}
	err = pgx.BeginTxFunc(ctx, s.writes, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, s.text.in(`UPDATE millrace.op o SET body = k.body FROM unnest($2::bigint[], $3::bytea[]) k (id, body)
			WHERE o.bucket = $1 AND o.id = k.id`), bucket, ids, bodies)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, s.text.in(`DELETE FROM millrace.op_edit e USING unnest($2::bigint[], $3::bigint[]) k (id, from_v)
			WHERE e.bucket = $1 AND e.id = k.id AND e.from_v <= k.from_v`), bucket, ids, versions)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, s.text.in("UPDATE millrace.store SET fence = (owner = $1) WHERE one = 1"), s.owner)
		return err
	})
	return moved, s.failure(err)
}

// purge removes all data of a definition.
func (s *Store) purge(ctx context.Context, def int64) error {
	for {
		rows, err := s.writes.Query(ctx, s.text.in("SELECT id FROM millrace.bucket WHERE def = $1 LIMIT $2"), def, pruneRows)
		if err != nil {
			return err
		}
		buckets, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil {
			return err
		}
		if len(buckets) == 0 {
			break
		}
		err = s.remove(ctx, `DELETE FROM millrace.op WHERE (bucket, id) IN (
			SELECT o.bucket, o.id FROM unnest($1::bigint[]) b JOIN millrace.op o ON o.bucket = b LIMIT $2)`, true, buckets, pruneRows)
		for _, statement := range []string{
			"DELETE FROM millrace.op_edit WHERE bucket = ANY ($1)", "DELETE FROM millrace.compacted WHERE bucket = ANY ($1)",
			"DELETE FROM millrace.compaction_mark WHERE bucket = ANY ($1)", "DELETE FROM millrace.bucket WHERE id = ANY ($1)",
		} {
			if err == nil {
				err = s.remove(ctx, statement, false, buckets)
			}
		}
		if err != nil {
			return err
		}
	}
	return s.remove(ctx, `DELETE FROM millrace.lookup WHERE (def, key, subkey, from_v) IN (
		SELECT def, key, subkey, from_v FROM millrace.lookup WHERE def = $1 LIMIT $2)`, true, def, pruneRows)
}

// remove carries out a statement in a transaction that checks who has the lease;
// again and again while it removes something, if it has a limit.
func (s *Store) remove(ctx context.Context, statement string, limited bool, args ...any) error {
	for {
		removed, err := s.removeOnce(ctx, statement, args...)
		if err != nil || !limited || removed < pruneRows {
			return err
		}
	}
}

// removeOnce carries out a statement in a transaction that checks who has the lease,
// and returns how many rows it changed.
func (s *Store) removeOnce(ctx context.Context, statement string, args ...any) (changed int64, err error) {
	err = pgx.BeginTxFunc(ctx, s.writes, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, s.text.in(statement), args...)
		if err != nil {
			return err
		}
		if changed = tag.RowsAffected(); changed == 0 {
			return nil
		}
		_, err = tx.Exec(ctx, s.text.in("UPDATE millrace.store SET fence = (owner = $1) WHERE one = 1"), s.owner)
		return err
	})
	return changed, s.failure(err)
}
