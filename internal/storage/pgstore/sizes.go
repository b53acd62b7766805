package pgstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace-sync/millrace/internal/storage"
)

// sizeTime bounds the question what the store takes.
const sizeTime = 5 * time.Second

// Sizes measures the store: its tables with their indexes, and what is dead in them
// until a vacuum. All are 0 if the database does not tell. It reads no data.
func (s *Store) Sizes() (storage.Sizes, error) {
	ctx, cancel := context.WithTimeout(s.life, sizeTime)
	defer cancel()
	var total, operations, lookups, rows int64
	err := s.reads.QueryRow(ctx, `SELECT coalesce(sum(t.size), 0)::bigint,
			coalesce(sum(t.size) FILTER (WHERE t.name IN ('op', 'op_edit')), 0)::bigint,
			coalesce(sum(t.size) FILTER (WHERE t.name = 'lookup'), 0)::bigint,
			coalesce(sum(t.size) FILTER (WHERE t.name = 'row_record'), 0)::bigint
		FROM (SELECT c.relname AS name, pg_catalog.pg_total_relation_size(c.oid) AS size FROM pg_catalog.pg_class c
			JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relkind = 'r') t`, s.opts.Schema).
		Scan(&total, &operations, &lookups, &rows)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && !unavailable(err) {
		return storage.Sizes{}, nil
	}
	if err != nil {
		return storage.Sizes{}, fmt.Errorf("sizes of storage: %w", s.failure(err))
	}
	return storage.Sizes{Total: uint64(total), Operations: uint64(operations), Lookups: uint64(lookups), Rows: uint64(rows)}, nil
}
