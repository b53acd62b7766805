package pebblestore

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/record"
)

// A large batch does not go through the log and the memtable, where each of its
// bytes would be written and sorted twice more: it becomes sorted tables, which
// Pebble takes in all together or not at all. Their key ranges do not meet: the one
// ends with the ops, the other has what follows them. So the row records of a
// backfill, which come in the order of their keys, go straight to the last level
// and are never rewritten. Small batches would make small tables, which cost more in
// compactions than they save (see Options.IngestSize).

// The names that tables are written under before Pebble takes them.
const (
	opsTable = "batch.ops"  // up to the ops: states, lookups, definitions, numbering, the checkpoint
	rowTable = "batch.rows" // from there on: row records, the undo log
)

// ingest writes a batch, of which pb has all but the ops and the row records, and
// closes pb.
func (s *Store) ingest(ctx context.Context, pb *pebble.Batch, b *storage.Batch) error {
	return s.health.guard(func() error {
		entries, err := entriesOf(pb)
		if err != nil {
			return err
		}
		at, _ := slices.BinarySearchFunc(entries, []byte{spaceOp}, func(e entry, key []byte) int { return bytes.Compare(e.key, key) })
		head, tail := entries[:at], entries[at:]
		ops := make(chan error, 1)
		go func() { ops <- s.writeOps(head, b.Ops) }()
		err = errors.Join(s.writeRows(tail, b.Rows), <-ops)
		if err != nil {
			return err
		}
		var paths []string
		for name, used := range map[string]bool{opsTable: len(head)+len(b.Ops) > 0, rowTable: len(tail)+len(b.Rows) > 0} {
			if used {
				paths = append(paths, s.fs.PathJoin(s.dir, name))
			}
		}
		// The files are there, and sound: a failure now is of the medium.
		if err := s.db.Ingest(context.WithoutCancel(ctx), paths); err != nil {
			s.health.fail(err)
			return err
		}
		return pb.Close()
	})
}

// entry is a key of a batch and what it gets, or that it or a range is deleted.
type entry struct {
	kind       pebble.InternalKeyKind
	key, value []byte
}

// entriesOf returns what a batch writes, in order of the keys, the last write of
// each. They share the batch's memory.
func entriesOf(pb *pebble.Batch) ([]entry, error) {
	list := make([]entry, 0, pb.Count())
	for r := pb.Reader(); ; {
		kind, key, value, ok, err := r.Next()
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		list = append(list, entry{kind, key, value})
	}
	slices.SortStableFunc(list, func(a, b entry) int { return bytes.Compare(a.key, b.key) })
	last := list[:0]
	for i := range list {
		if i+1 == len(list) || !bytes.Equal(list[i].key, list[i+1].key) {
			last = append(last, list[i])
		}
	}
	return last, nil
}

func addEntries(t *sstable.Writer, list []entry) error {
	for i := range list {
		var err error
		switch e := &list[i]; e.kind {
		case pebble.InternalKeyKindSet:
			err = t.Set(e.key, e.value)
		case pebble.InternalKeyKindDelete:
			err = t.Delete(e.key)
		case pebble.InternalKeyKindRangeDelete:
			err = t.DeleteRange(e.key, e.value)
		default:
			err = fmt.Errorf("batch has an entry of kind %s", e.kind)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writeOps writes what precedes the ops, and then those, bucket by bucket.
func (s *Store) writeOps(list []entry, ops []storage.BucketOp) error {
	if len(list)+len(ops) == 0 {
		return nil
	}
	w := &s.writer
	keys := make([]storage.BucketKey, 0, len(w.touched))
	for k := range w.touched {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, compareBuckets)
	// Where the ops of each bucket begin, and then continue, in order.
	next, at := make(map[storage.BucketKey]*int, len(keys)), 0
	for _, k := range keys {
		begin := at
		next[k] = &begin
		at += w.touched[k].ops
	}
	order := make([]int32, len(ops))
	var place *int
	for i := range ops {
		if i == 0 || ops[i].Bucket != ops[i-1].Bucket {
			place = next[ops[i].Bucket]
		}
		order[*place] = int32(i)
		*place++
	}
	return s.writeTable(opsTable, func(t *sstable.Writer) error {
		if err := addEntries(t, list); err != nil {
			return err
		}
		var key, value []byte
		for _, i := range order {
			o := &ops[i]
			key = appendOpKey(key[:0], o.Bucket, o.Op.ID)
			value = record.AppendOp(value[:0], &o.Op)
			if err := t.Set(key, value); err != nil {
				return err
			}
		}
		return nil
	})
}

// compareBuckets orders buckets as the keys of their ops.
func compareBuckets(a, b storage.BucketKey) int {
	return cmp.Or(cmp.Compare(a.Def, b.Def), strings.Compare(a.Params, b.Params))
}

// writeRows writes the row records among what else follows the ops.
func (s *Store) writeRows(list []entry, rows []storage.RowWrite) error {
	if len(list)+len(rows) == 0 {
		return nil
	}
	order := sortedRows(rows)
	return s.writeTable(rowTable, func(t *sstable.Writer) error {
		var key, value []byte
		for at, i := range order {
			if at+1 < len(order) && rows[i].Ref == rows[order[at+1]].Ref {
				continue // written again
			}
			key = appendRowKey(key[:0], rows[i].Ref)
			n := 0
			for n < len(list) && bytes.Compare(list[n].key, key) < 0 {
				n++
			}
			if err := addEntries(t, list[:n]); err != nil {
				return err
			}
			list = list[n:]
			var err error
			if rows[i].Record == nil {
				err = t.Delete(key)
			} else {
				value = record.AppendRow(value[:0], rows[i].Record)
				err = t.Set(key, value)
			}
			if err != nil {
				return err
			}
		}
		return addEntries(t, list)
	})
}

// sortedRows returns the places of rows in the order of their records' keys, writes of
// the same row as they were.
func sortedRows(rows []storage.RowWrite) []int32 {
	// Most comparisons are decided by a table and the first bytes of a key, which stand
	// side by side here.
	type place struct {
		table source.TableID
		first uint64
		at    int32
	}
	places := make([]place, len(rows))
	sorted := true
	for i := range rows {
		ref := &rows[i].Ref
		var first [8]byte
		copy(first[:], ref.Key)
		places[i] = place{ref.Table, binary.BigEndian.Uint64(first[:]), int32(i)}
		sorted = sorted && (i == 0 || compareRows(&rows[i-1].Ref, ref) <= 0)
	}
	if !sorted {
		slices.SortFunc(places, func(a, b place) int {
			switch {
			case a.table != b.table:
				return cmp.Compare(a.table, b.table)
			case a.first != b.first:
				return cmp.Compare(a.first, b.first)
			}
			return cmp.Or(compareRows(&rows[a.at].Ref, &rows[b.at].Ref), cmp.Compare(a.at, b.at))
		})
	}
	order := make([]int32, len(rows))
	for i, p := range places {
		order[i] = p.at
	}
	return order
}

// compareRows orders rows as the keys of their records.
func compareRows(a, b *storage.RowRef) int {
	if a.Table != b.Table {
		return cmp.Compare(a.Table, b.Table)
	}
	return strings.Compare(string(a.Key), string(b.Key))
}

// writeTable makes a table of what fill adds in order, and syncs it.
func (s *Store) writeTable(name string, fill func(*sstable.Writer) error) error {
	f, err := medium{s.fs, s.health}.Create(s.fs.PathJoin(s.dir, name), "batch")
	if err != nil {
		return fmt.Errorf("create table: %w", err)
	}
	t := sstable.NewWriter(&tableFile{f: f}, s.tables)
	if err := fill(t); err != nil {
		return errors.Join(fmt.Errorf("write table: %w", err), t.Close())
	}
	if err := t.Close(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}

// removeTables removes what a crash left of a batch that was not committed.
func (s *Store) removeTables() error {
	for _, name := range []string{opsTable, rowTable} {
		if err := s.fs.Remove(s.fs.PathJoin(s.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what is left of a batch: %w", err)
		}
	}
	return nil
}

// tableFile is a file that a table is written to, in large pieces.
type tableFile struct {
	f   vfs.File
	buf []byte
}

var _ objstorage.Writable = (*tableFile)(nil)

const tablePiece = 256 << 10

// Write implements objstorage.Writable.
func (t *tableFile) Write(p []byte) error {
	if t.buf = append(t.buf, p...); len(t.buf) < tablePiece {
		return nil
	}
	return t.flush()
}

func (t *tableFile) flush() error {
	_, err := t.f.Write(t.buf)
	t.buf = t.buf[:0]
	return err
}

// Finish implements objstorage.Writable.
func (t *tableFile) Finish() error { return errors.Join(t.flush(), t.f.Sync(), t.f.Close()) }

// Abort implements objstorage.Writable.
func (t *tableFile) Abort() { _ = t.f.Close() }
