package pgstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// readTime bounds one query of a reader.
const readTime = time.Minute

// recordCacheBytes is what half of the cache of row records may hold.
const recordCacheBytes = 16 << 20

// recordOverhead is what an entry takes besides its key and record.
const recordOverhead = 120

// recordCache remembers row records of the newest state, and which are absent: a
// round trip for each row of a backfill would cost more than all else. It is exact
// because only this process writes. Two halves, as stateCache.
type recordCache struct {
	mu           sync.Mutex
	newer, older map[storage.RowRef][]byte // nil: absent
	size         int                       // of newer
	// largest holds, for tables that were asked for, a key that none of their row
	// records is beyond: what a backfill in key order adds is found absent at once.
	largest map[source.TableID][]byte
	// writes counts the commits, so that what was read before one is not remembered
	// after it.
	writes uint64
}

func (c *recordCache) init() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.newer, c.older, c.size = map[storage.RowRef][]byte{}, nil, 0
	c.largest = map[source.TableID][]byte{}
	c.writes++
}

// get returns a row's record, nil if it is absent; known is false if neither is known.
func (c *recordCache) get(ref storage.RowRef) (record []byte, known bool) {
	if largest, ok := c.largest[ref.Table]; ok && compareKey(ref.Key, largest) > 0 {
		return nil, true
	}
	if r, ok := c.newer[ref]; ok {
		return r, true
	}
	r, ok := c.older[ref]
	return r, ok
}

// compareKey compares a key, as it is stored, with a stored one.
func compareKey(key source.RowKey, stored []byte) int {
	if len(key) > keyPrefix {
		return bytes.Compare(shorten(string(key)), stored)
	}
	return bytes.Compare([]byte(key), stored)
}

func (c *recordCache) put(ref storage.RowRef, record []byte) {
	if _, ok := c.newer[ref]; !ok {
		c.size += len(ref.Key) + recordOverhead
	}
	c.newer[ref] = record
	if c.size += len(record); c.size > recordCacheBytes {
		c.newer, c.older, c.size = map[storage.RowRef][]byte{}, c.newer, 0
	}
}

// committed takes note of what a commit wrote.
func (c *recordCache) committed(rows map[storage.RowRef]rowWrite) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writes++
	for ref, w := range rows {
		if largest, ok := c.largest[ref.Table]; ok && w.record != nil && compareKey(ref.Key, largest) > 0 {
			c.largest[ref.Table] = shorten(string(ref.Key))
		}
		c.put(ref, w.record)
	}
}

// forget makes rows be looked for again.
func (c *recordCache) forget(refs []storage.RowRef) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writes++
	for _, ref := range refs {
		delete(c.newer, ref)
		delete(c.older, ref)
	}
}

// absent returns those of the rows to be stored that are known to have no record.
func (c *recordCache) absent(rows map[storage.RowRef]rowWrite) []storage.RowRef {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []storage.RowRef
	for ref, w := range rows {
		if w.record == nil {
			continue
		}
		if had, known := c.get(ref); known && had == nil {
			out = append(out, ref)
		}
	}
	return out
}

// Row returns what is remembered of a source row in the newest state, published
// or not; false if nothing is. See Prefetch for many.
func (s *Store) Row(ref storage.RowRef) (*storage.RowRecord, bool, error) {
	rec, ok, err := s.row(ref)
	if err != nil {
		return nil, false, fmt.Errorf("read row record of table %d: %w", ref.Table, err)
	}
	return rec, ok, nil
}

func (s *Store) row(ref storage.RowRef) (*storage.RowRecord, bool, error) {
	if err := s.readable(); err != nil {
		return nil, false, err
	}
	s.records.mu.Lock()
	record, known := s.records.get(ref)
	s.records.mu.Unlock()
	if !known {
		if err := s.fetch(context.Background(), []storage.RowRef{ref}); err != nil {
			return nil, false, err
		}
		s.records.mu.Lock()
		record, known = s.records.get(ref)
		s.records.mu.Unlock()
	}
	if !known {
		// A commit came between: what it wrote is known now, else read again.
		return s.row(ref)
	}
	if record == nil {
		return nil, false, nil
	}
	// The caller may change what it gets.
	_, rec, err := decodeRow(bytes.Clone(record))
	return rec, err == nil, err
}

// Records calls found for those rows of a table that have a record in the newest
// state, in the order of keys, which differ.
func (s *Store) Records(table source.TableID, keys []source.RowKey, found func(i int, rec *storage.RowRecord)) error {
	// Not more at once than the cache holds.
	for from := 0; from < len(keys); from += statementRows {
		piece := keys[from:min(from+statementRows, len(keys))]
		refs := make([]storage.RowRef, len(piece))
		for i, k := range piece {
			refs[i] = storage.RowRef{Table: table, Key: k}
		}
		if err := s.Prefetch(context.Background(), refs); err != nil {
			return err
		}
		for i, ref := range refs {
			rec, ok, err := s.Row(ref)
			if err != nil {
				return err
			}
			if ok {
				found(from+i, rec)
			}
		}
	}
	return nil
}

// Prefetch reads the records of many rows at once, so that Row finds them without
// a round trip each. Rows beyond what the cache holds are read when they are asked for.
func (s *Store) Prefetch(ctx context.Context, refs []storage.RowRef) error {
	if err := s.readable(); err != nil {
		return fmt.Errorf("prefetch row records: %w", err)
	}
	var missing []storage.RowRef
	s.records.mu.Lock()
	for _, ref := range refs {
		if _, known := s.records.get(ref); !known {
			missing = append(missing, ref)
		}
	}
	s.records.mu.Unlock()
	for piece := range slices.Chunk(missing, statementRows) {
		if err := s.fetch(ctx, piece); err != nil {
			return fmt.Errorf("prefetch row records: %w", err)
		}
	}
	return nil
}

// fetch reads records into the cache, unless a commit comes between.
func (s *Store) fetch(ctx context.Context, refs []storage.RowRef) error {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	s.records.mu.Lock()
	before := s.records.writes
	s.records.mu.Unlock()
	tables, keys := make([]int64, len(refs)), make([][]byte, len(refs))
	for i, ref := range refs {
		tables[i], keys[i] = int64(ref.Table), shorten(string(ref.Key))
	}
	rows, err := s.writes.Query(ctx, s.text.in(`SELECT k.ord, r.record FROM unnest($1::bigint[], $2::bytea[]) WITH ORDINALITY k (tbl, key, ord)
		JOIN millrace.row_record r ON r.tbl = k.tbl AND r.key = k.key`), tables, keys)
	if err != nil {
		return s.failure(err)
	}
	found := make([][]byte, len(refs))
	var ord int64
	var record []byte
	if _, err = pgx.ForEachRow(rows, []any{&ord, &record}, func() error { found[ord-1] = bytes.Clone(record); return nil }); err != nil {
		return s.failure(err)
	}
	largest, err := s.largest(ctx, refs)
	if err != nil {
		return s.failure(err)
	}
	s.records.mu.Lock()
	defer s.records.mu.Unlock()
	if s.records.writes != before {
		return nil
	}
	for i, ref := range refs {
		s.records.put(ref, found[i])
	}
	for table, key := range largest {
		s.records.largest[table] = key
	}
	return nil
}

// largest reads the largest keys of the tables that are asked for the first time.
func (s *Store) largest(ctx context.Context, refs []storage.RowRef) (map[source.TableID][]byte, error) {
	out := map[source.TableID][]byte{}
	s.records.mu.Lock()
	for i := range refs {
		table := refs[i].Table
		if _, ok := s.records.largest[table]; !ok {
			out[table] = nil
		}
	}
	s.records.mu.Unlock()
	for table := range out {
		var key []byte
		err := s.writes.QueryRow(ctx, s.text.in("SELECT key FROM millrace.row_record WHERE tbl = $1 ORDER BY key DESC LIMIT 1"), int64(table)).Scan(&key)
		if errors.Is(err, pgx.ErrNoRows) {
			// None is beyond the empty key but one: that one is looked for.
			key, err = []byte{}, nil
		}
		if err != nil {
			return nil, err
		}
		out[table] = key
	}
	return out, nil
}

// RowsOf calls yield with every row record of a table in the newest state as it
// is now, in order of their keys (those of more than a kilobyte that begin alike
// in any order), until yield fails. Yield may commit.
func (s *Store) RowsOf(table source.TableID, yield func(source.RowKey, *storage.RowRecord) error) error {
	err := s.readable()
	if err == nil {
		err = s.rowsOf(table, yield)
	}
	if err != nil {
		return fmt.Errorf("read row records of table %d: %w", table, err)
	}
	return nil
}

func (s *Store) rowsOf(table source.TableID, yield func(source.RowKey, *storage.RowRecord) error) error {
	// One statement sees one state, however long its rows are being read. It ends
	// with the connection if yield ends early, which may be long before the last row.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	rows, err := s.writes.Query(ctx, s.text.in("SELECT key, record FROM millrace.row_record WHERE tbl = $1 ORDER BY key"), int64(table))
	if err != nil {
		return s.failure(err)
	}
	defer rows.Close()
	defer cancel()
	for rows.Next() {
		if s.closing.Load() {
			return storage.ErrClosed
		}
		raw := rows.RawValues()
		long, rec, err := decodeRow(bytes.Clone(raw[1]))
		if err != nil {
			return err
		}
		key := source.RowKey(raw[0])
		if isShortened(raw[0]) {
			key = source.RowKey(long)
		}
		if err := yield(key, rec); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return s.failure(err)
	}
	return nil
}

// readable returns why the newest state cannot be read, or nil.
func (s *Store) readable() error {
	if s.closing.Load() {
		return storage.ErrClosed
	}
	if s.opts.Reader {
		return errReader
	}
	return nil
}
