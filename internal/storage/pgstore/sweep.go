package pgstore

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// Dropping a definition leaves row records that name it. Those of a table that
// other definitions read go with the next change of the row; those of other tables
// would stay for ever.

// rows drops the row records of tables that no definition reads, if definitions
// were dropped since this was last done, or the process has not looked yet.
func (c *compaction) rows(ctx context.Context) error {
	s := c.store
	var read map[source.TableID]bool
	err := s.settled(ctx, func(w *writer) (err error) {
		if !w.swept {
			read, err = s.tablesRead(ctx)
			w.swept = read != nil
		}
		return err
	})
	if err != nil || read == nil {
		return err
	}
	for table := int64(-1); ; {
		err := s.writes.QueryRow(ctx, s.text.in("SELECT tbl FROM millrace.row_record WHERE tbl > $1 ORDER BY tbl LIMIT 1"), table).Scan(&table)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err == nil && !read[source.TableID(table)] {
			err = c.table(ctx, table)
		}
		if err != nil {
			s.writing.Lock()
			s.writer.swept = false
			s.writing.Unlock()
			return s.failure(err)
		}
	}
}

// tablesRead returns the tables that definitions read, or nil if that is not
// certain: as long as a definition is being backfilled, more may be added. The
// caller holds writing.
func (s *Store) tablesRead(ctx context.Context) (map[source.TableID]bool, error) {
	var r storage.Recovered
	if err := s.loadPlan(ctx, s.writes, s.writer.view.version, &r); err != nil {
		return nil, s.failure(err)
	}
	if slices.ContainsFunc(r.Deploys, func(d storage.Deploy) bool { return d.State == storage.DeployPending }) {
		return nil, nil
	}
	read := map[source.TableID]bool{}
	for _, d := range r.Definitions {
		if d.State == storage.Backfilling {
			return nil, nil
		}
		for _, t := range d.Tables {
			read[t.Table] = true
		}
	}
	return read, nil
}

// staleRows are row records that may be dropped, if they are still the same.
type staleRows struct {
	keys, records [][]byte
	refs          []storage.RowRef
}

// table drops the row records of a table that name no stored definition.
func (c *compaction) table(ctx context.Context, table int64) error {
	s := c.store
	for after := []byte(nil); ; {
		if err := c.rest(ctx); err != nil {
			return err
		}
		rows, err := s.writes.Query(ctx, s.text.in("SELECT key, record FROM millrace.row_record WHERE tbl = $1 AND ($2::bytea IS NULL OR key > $2) ORDER BY key LIMIT $3"),
			table, after, compactPage)
		if err != nil {
			return err
		}
		var page staleRows
		var key, value []byte
		if _, err = pgx.ForEachRow(rows, []any{&key, &value}, func() error {
			page.keys, page.records = append(page.keys, bytes.Clone(key)), append(page.records, bytes.Clone(value))
			return nil
		}); err != nil {
			return err
		}
		if len(page.keys) == 0 {
			return nil
		}
		after = page.keys[len(page.keys)-1]
		if err := s.settled(ctx, func(w *writer) error { return c.dropRows(ctx, w, table, page) }); err != nil {
			return err
		}
	}
}

// dropRows drops those of the row records that are as they were and name no definition
// that is stored.
func (c *compaction) dropRows(ctx context.Context, w *writer, table int64, page staleRows) error {
	s := c.store
	read, err := s.tablesRead(ctx)
	if err != nil || read == nil || read[source.TableID(table)] {
		w.swept = false // another time
		return err
	}
	known := func(id storage.DefinitionID) bool { _, ok := w.defs[id]; return ok }
	var drop staleRows
	for i, value := range page.records {
		long, rec, err := decodeRow(value)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(rec.Memberships, func(m storage.Membership) bool { return known(m.Bucket.Def) }) ||
			slices.ContainsFunc(rec.Lookups, func(l storage.Contribution) bool { return known(l.Lookup.Def) }) {
			continue
		}
		key := source.RowKey(page.keys[i])
		if isShortened(page.keys[i]) {
			key = source.RowKey(long)
		}
		drop.keys, drop.records = append(drop.keys, page.keys[i]), append(drop.records, value)
		drop.refs = append(drop.refs, storage.RowRef{Table: source.TableID(table), Key: key})
	}
	if len(drop.keys) == 0 {
		return nil
	}
	dropped, err := s.removeOnce(ctx, `DELETE FROM millrace.row_record r USING unnest($2::bytea[], $3::bytea[]) k (key, record)
		WHERE r.tbl = $1 AND r.key = k.key AND r.record = k.record`, table, drop.keys, drop.records)
	if err != nil {
		return err
	}
	c.stats.Rows += dropped
	s.records.forget(drop.refs)
	return nil
}
