package pebblestore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/record"
)

// view is a Pebble snapshot that is shared by the Snapshots of one published
// state. Store.mu guards it.
type view struct {
	snap *pebble.Snapshot
	refs int
}

// publish makes the state as it is now what Snapshot returns; without changed
// data only its checkpoint differs. The caller holds Store.writing.
func (s *Store) publish(c storage.Checkpoint, changed bool) {
	var fresh *view
	if changed {
		fresh = &view{snap: s.db.NewSnapshot(), refs: 1}
	}
	s.mu.Lock()
	s.checkpoint = c
	var old *pebble.Snapshot
	if changed {
		old = s.unref(s.current)
		s.current = fresh
		s.views[fresh] = struct{}{}
	}
	s.mu.Unlock()
	s.release(old)
}

// release closes a Pebble snapshot that nobody reads, if any. That may start a
// compaction, and so wait for a write that has failed: hence the guard, whose
// error concerns the next write and not the reader.
func (s *Store) release(snap *pebble.Snapshot) {
	if snap != nil {
		_ = s.health.guard(snap.Close)
	}
}

// unref gives up a reference and returns the Pebble snapshot to close, if it was
// the last. The caller holds Store.mu.
func (s *Store) unref(v *view) *pebble.Snapshot {
	if v == nil {
		return nil
	}
	if v.refs--; v.refs > 0 {
		return nil
	}
	delete(s.views, v)
	return v.snap
}

// Snapshot is a reader's view of the store at a checkpoint, safe for concurrent
// use. It keeps what it shows from being compacted away: close it soon.
type Snapshot struct {
	store      *Store
	view       *view
	checkpoint storage.Checkpoint
}

// Snapshot returns the newest published state. It takes a fraction of a microsecond.
func (s *Store) Snapshot() (*Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() || s.current == nil {
		return nil, fmt.Errorf("snapshot: %w", storage.ErrClosed)
	}
	s.current.refs++
	return &Snapshot{store: s, view: s.current, checkpoint: s.checkpoint}, nil
}

// Checkpoint returns what the snapshot is of.
func (sn *Snapshot) Checkpoint() storage.Checkpoint { return sn.checkpoint }

// Close releases the snapshot, which must not be in use. A second Close does nothing.
func (sn *Snapshot) Close() {
	s := sn.store
	s.mu.Lock()
	var old *pebble.Snapshot
	if sn.view != nil && s.views != nil {
		old = s.unref(sn.view)
	}
	sn.view = nil
	if old != nil {
		// Store.Close must not close the database meanwhile.
		s.active++
		defer s.end()
	}
	s.mu.Unlock()
	s.release(old)
}

// begin marks a read as under way and returns what to read from; Store.end must follow.
func (sn *Snapshot) begin() (*pebble.Snapshot, error) {
	s := sn.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if sn.view == nil || s.closing.Load() {
		return nil, storage.ErrClosed
	}
	s.active++
	return sn.view.snap, nil
}

// BucketStates sets each element of out, which is as long as keys, to the state of
// the bucket at the same place; a bucket without ops has the zero State.
func (sn *Snapshot) BucketStates(keys []storage.BucketKey, out []bucket.State) error {
	snap, err := sn.begin()
	if err != nil {
		return fmt.Errorf("read bucket states: %w", err)
	}
	defer sn.store.end()
	var buf [128]byte
	for i, k := range keys {
		out[i] = bucket.State{}
		value, closer, err := snap.Get(appendBucket(buf[:0], spaceState, k))
		if err == pebble.ErrNotFound {
			continue
		}
		if err == nil {
			out[i], err = decodeState(value)
			err = errors.Join(err, closer.Close())
		}
		if err != nil {
			return fmt.Errorf("read state of bucket %d%s: %w", k.Def, k.Params, corrupt(err))
		}
	}
	return nil
}

// Ops calls yield with each op of a bucket that follows after, in order, until it
// returns false. The Op and its Data are valid until yield returns; its strings
// may be kept.
func (sn *Snapshot) Ops(key storage.BucketKey, after bucket.OpID, yield func(*bucket.Op) bool) error {
	if err := sn.ops(key, after, yield); err != nil {
		return fmt.Errorf("read ops of bucket %d%s: %w", key.Def, key.Params, corrupt(err))
	}
	return nil
}

func (sn *Snapshot) ops(key storage.BucketKey, after bucket.OpID, yield func(*bucket.Op) bool) (err error) {
	if after >= bucket.MaxOpID {
		return nil
	}
	snap, err := sn.begin()
	if err != nil {
		return err
	}
	defer sn.store.end()
	from := appendOpKey(nil, key, after+1)
	it, err := snap.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: opsEnd(key)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	idAt := len(from) - 8
	var dec record.OpDecoder
	var op bucket.Op
	for ok := it.SeekPrefixGE(from); ok; ok = it.Next() {
		if sn.store.closing.Load() {
			return storage.ErrClosed
		}
		k := it.Key()
		if len(k) != idAt+8 {
			return fmt.Errorf("op key of %d bytes: %w", len(k), storage.ErrCorrupt)
		}
		op.ID = bucket.OpID(binary.BigEndian.Uint64(k[idAt:]))
		value, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		if err := dec.Decode(&op, value); err != nil {
			return err
		}
		if !yield(&op) {
			return nil
		}
	}
	return nil
}

// opsEnd returns the end of the range of a bucket's ops.
func opsEnd(key storage.BucketKey) []byte {
	return append(appendBucket(nil, spaceOp, key), 1)
}

// Lookup calls yield with what each source row contributes to a lookup, in no
// particular order, until it fails. The bytes are valid until yield returns.
func (sn *Snapshot) Lookup(key storage.LookupKey, yield func(values []byte) error) error {
	snap, err := sn.begin()
	if err != nil {
		return fmt.Errorf("read lookup: %w", err)
	}
	defer sn.store.end()
	from := appendLookup(nil, key)
	to := append([]byte(nil), from...)
	to[len(to)-1] = 1
	it, err := snap.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return fmt.Errorf("read lookup: %w", corrupt(err))
	}
	for ok := it.SeekPrefixGE(from); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err == nil {
			err = yield(value)
		}
		if err != nil {
			return errors.Join(err, it.Close())
		}
	}
	if err := it.Close(); err != nil {
		return fmt.Errorf("read lookup: %w", corrupt(err))
	}
	return nil
}

// Row returns what is remembered of a source row in the newest state, published
// or not; false if nothing is.
func (s *Store) Row(ref storage.RowRef) (*storage.RowRecord, bool, error) {
	if err := s.begin(); err != nil {
		return nil, false, fmt.Errorf("read row record: %w", err)
	}
	defer s.end()
	p := &s.writer.probe
	p.mu.Lock()
	defer p.mu.Unlock()
	var buf [128]byte
	value, held, err := p.find(appendRowKey(buf[:0], ref))
	if err != nil {
		return nil, false, fmt.Errorf("read row record of table %d: %w", ref.Table, err)
	}
	if !held {
		return nil, false, nil
	}
	rec, err := record.DecodeRow(bytes.Clone(value))
	if err != nil {
		return nil, false, fmt.Errorf("read row record of table %d: %w", ref.Table, err)
	}
	return rec, true, nil
}

// Records calls found for those rows of a table that have a record in the newest
// state, in the order of keys, which are ascending and differ. It is one pass over
// the part of the table that the keys are in; where they have no record, as in a
// first backfill, it costs next to nothing.
func (s *Store) Records(table source.TableID, keys []source.RowKey, found func(i int, rec *storage.RowRecord)) error {
	if err := s.begin(); err != nil {
		return fmt.Errorf("read row records: %w", err)
	}
	defer s.end()
	if err := s.records(table, keys, found); err != nil {
		return fmt.Errorf("read row records of table %d: %w", table, corrupt(err))
	}
	return nil
}

// sparseAfter is the number of seeks of one pass after which it is told whether the
// keys are few among many records.
const sparseAfter = 16

func (s *Store) records(table source.TableID, keys []source.RowKey, found func(int, *storage.RowRecord)) (err error) {
	_, end := defRange(spaceRow, uint32(table))
	it, err := s.db.NewIter(&pebble.IterOptions{UpperBound: end, UseL6Filters: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	var key []byte
	sought := false
	seeks, missed := 0, 0 // those that found neither their key nor that the next is absent
	for i := range keys {
		key = appendRowKey(key[:0], storage.RowRef{Table: table, Key: keys[i]})
		if seeks >= sparseAfter && missed > seeks/2 {
			// Between two keys there mostly is a record, of no use. A filter tells that a key
			// is absent without reading what is near it.
			if !it.SeekPrefixGE(key) {
				if err := it.Error(); err != nil {
					return err
				}
				continue
			}
		} else if !sought || bytes.Compare(it.Key(), key) < 0 {
			if seeks++; !it.SeekGE(key) {
				return it.Error()
			}
			sought = true
			if !bytes.Equal(it.Key(), key) && i+1 < len(keys) && bytes.Compare(it.Key()[defLen:], []byte(keys[i+1])) < 0 {
				missed++
			}
		}
		if !bytes.Equal(it.Key(), key) {
			continue
		}
		value, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		rec, err := record.DecodeRow(bytes.Clone(value))
		if err != nil {
			return err
		}
		found(i, rec)
	}
	return nil
}

// RowsOf calls yield with every row record of a table in the newest state as it
// is now, in order of their keys, until yield fails. Yield may commit.
func (s *Store) RowsOf(table source.TableID, yield func(source.RowKey, *storage.RowRecord) error) error {
	if err := s.begin(); err != nil {
		return fmt.Errorf("read row records: %w", err)
	}
	defer s.end()
	from, to := defRange(spaceRow, uint32(table))
	err := s.scan(from, to, func(key, value []byte) error {
		rowKey, ok := rowOf(key)
		if !ok {
			return fmt.Errorf("row key of %d bytes: %w", len(key), storage.ErrCorrupt)
		}
		rec, err := record.DecodeRow(bytes.Clone(value))
		if err != nil {
			return err
		}
		if s.closing.Load() {
			return storage.ErrClosed
		}
		return yield(rowKey, rec)
	})
	if err != nil {
		return fmt.Errorf("read row records of table %d: %w", table, err)
	}
	return nil
}

// scan calls f with each key and value of a range of the newest state.
func (s *Store) scan(from, to []byte, f func(key, value []byte) error) error {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return corrupt(err)
	}
	for it.First(); it.Valid(); it.Next() {
		value, err := it.ValueAndErr()
		if err == nil {
			err = f(it.Key(), value)
		}
		if err != nil {
			return errors.Join(err, it.Close())
		}
	}
	return corrupt(it.Close())
}

// meta reads a meta key that must be there.
func (s *Store) meta(name string) ([]byte, error) {
	value, ok, err := get(s.db, []byte(name))
	if err == nil && !ok {
		err = fmt.Errorf("key %q is missing: %w", name, storage.ErrCorrupt)
	}
	return value, err
}

// get returns a copy of what a key holds, false if it is absent.
func get(db *pebble.DB, key []byte) ([]byte, bool, error) {
	value, closer, err := db.Get(key)
	if err == pebble.ErrNotFound {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, corrupt(err)
	}
	value = append([]byte(nil), value...)
	return value, true, closer.Close()
}

// corrupt makes Pebble's own finding of bad bytes an ErrCorrupt.
func corrupt(err error) error {
	if err != nil && pebble.IsCorruptionError(err) && !errors.Is(err, storage.ErrCorrupt) {
		return fmt.Errorf("%w: %w", storage.ErrCorrupt, err)
	}
	return err
}
