package pebblestore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/cockroachdb/pebble/v2"

	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/record"
)

// Dropping a definition leaves row records that name it. Those of a table that
// other definitions read go with the next change of the row; those of other tables
// would stay for ever.

// rows drops the row records of tables that no definition reads, if definitions
// were dropped since this was last done.
func (c *compaction) rows(ctx context.Context) error {
	s := c.store
	drops := 0
	var read map[source.TableID]bool
	err := s.settled(ctx, func(w *writer) (err error) {
		drops = w.drops
		if _, ok, err := get(s.db, []byte(metaDropped)); err != nil || !ok {
			return err
		}
		read, err = s.tablesRead()
		return err
	})
	if err != nil || read == nil {
		return err
	}
	from := []byte{spaceRow}
	for from != nil {
		var page []staleRow
		if page, from, err = c.staleRows(ctx, from, read); err != nil {
			return err
		}
		if len(page) == 0 {
			continue
		}
		err := s.settled(ctx, func(w *writer) error {
			if read, err = s.tablesRead(); err != nil || read == nil {
				from = nil // another time
				return err
			}
			return c.dropRows(page, read)
		})
		if err != nil {
			return err
		}
	}
	return s.settled(ctx, func(w *writer) error {
		if w.drops != drops || read == nil {
			return nil
		}
		b := s.db.NewBatch()
		_ = b.Delete([]byte(metaDropped), nil)
		return s.apply(b, false)
	})
}

// staleRow is a row record that may be dropped, if it is still the same.
type staleRow struct{ key, value []byte }

// tablesRead returns the tables that definitions read, or nil if that is not
// certain: as long as a definition is being backfilled, more may be added.
func (s *Store) tablesRead() (map[source.TableID]bool, error) {
	var r storage.Recovered
	if err := s.loadDefinitions(&r); err != nil {
		return nil, err
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
	for _, d := range r.Deploys {
		if d.State == storage.DeployPending {
			return nil, nil
		}
	}
	return read, nil
}

// staleRows returns the next row records of tables that are not read, and the key
// from which to go on, nil after the last.
func (c *compaction) staleRows(ctx context.Context, from []byte, read map[source.TableID]bool) (page []staleRow, next []byte, err error) {
	s := c.store
	if err := s.begin(); err != nil {
		return nil, nil, err
	}
	defer s.end()
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: []byte{spaceRow + 1}})
	if err != nil {
		return nil, nil, corrupt(err)
	}
	defer func() { err = errors.Join(err, corrupt(it.Close())) }()
	for ok := it.First(); ok; {
		k := it.Key()
		if _, sound := rowOf(k); !sound {
			return nil, nil, fmt.Errorf("row key of %d bytes: %w", len(k), storage.ErrCorrupt)
		}
		table := binary.BigEndian.Uint32(k[1:])
		if read[source.TableID(table)] {
			if table == math.MaxUint32 {
				break
			}
			_, end := defRange(spaceRow, table)
			ok = it.SeekGE(end)
			continue
		}
		if len(page) == compactPage {
			return page, bytes.Clone(k), c.rest(ctx)
		}
		value, err := it.ValueAndErr()
		if err != nil {
			return nil, nil, corrupt(err)
		}
		page = append(page, staleRow{bytes.Clone(k), bytes.Clone(value)})
		ok = it.Next()
	}
	return page, nil, nil
}

// dropRows drops row records that are as they were and name no definition that is
// stored. The caller holds Store.writing, and has read what definitions read now.
func (c *compaction) dropRows(page []staleRow, read map[source.TableID]bool) error {
	s := c.store
	known := func(id storage.DefinitionID) bool { _, ok := s.writer.defs[id]; return ok }
	b := s.db.NewBatch()
	dropped := int64(0)
rows:
	for _, r := range page {
		if read[source.TableID(binary.BigEndian.Uint32(r.key[1:]))] {
			continue
		}
		now, ok, err := get(s.db, r.key)
		if err != nil {
			return err
		}
		if !ok || !bytes.Equal(now, r.value) {
			continue
		}
		rec, err := record.DecodeRow(bytes.Clone(now))
		if err != nil {
			return err
		}
		for i := range rec.Memberships {
			if known(rec.Memberships[i].Bucket.Def) {
				continue rows
			}
		}
		for i := range rec.Lookups {
			if known(rec.Lookups[i].Lookup.Def) {
				continue rows
			}
		}
		if err := b.Delete(r.key, nil); err != nil {
			return err
		}
		dropped++
	}
	if dropped == 0 {
		return b.Close()
	}
	if err := s.apply(b, false); err != nil {
		return err
	}
	c.stats.Rows += dropped
	return nil
}
