package pgstore

import (
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
	purged := int64(0)
	if len(dropped) > 0 {
		purged = oldest
	}
	if err := s.remove(ctx, `UPDATE millrace.horizon SET pruned = greatest(pruned, $1), purged = greatest(purged, $2) WHERE one = 1`, false, oldest, purged); err != nil {
		return fmt.Errorf("prune: %w", err)
	}
	for _, id := range dropped {
		if err := s.purge(ctx, id); err != nil {
			return fmt.Errorf("purge definition %d: %w", id, err)
		}
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
		if err == nil {
			err = s.remove(ctx, "DELETE FROM millrace.bucket WHERE id = ANY ($1)", false, buckets)
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
		var removed int64
		err := pgx.BeginTxFunc(ctx, s.writes, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
			tag, err := tx.Exec(ctx, s.text.in(statement), args...)
			if err != nil {
				return err
			}
			if removed = tag.RowsAffected(); removed == 0 {
				return nil
			}
			_, err = tx.Exec(ctx, s.text.in("UPDATE millrace.store SET fence = (owner = $1) WHERE one = 1"), s.owner)
			return err
		})
		if err != nil {
			return s.failure(err)
		}
		if !limited || removed < pruneRows {
			return nil
		}
	}
}
