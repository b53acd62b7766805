package pebblestore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/record"
)

const (
	// compactPage is how many buckets, or row records, are looked up at a time.
	compactPage = 1000
	// paceOps is how many ops are walked between two looks at the clock.
	paceOps = 512
)

// errGone: the definition was dropped while its bucket was compacted.
var errGone = errors.New("the definition was dropped")

// Compact drops what no client needs any more, as bucket.Compact says, and the row
// records of tables that no definition reads any more. It goes on beside reads and
// commits and waits for transactions whose parts are not published; one compaction
// waits for another. What it did until an error is kept, and counted.
func (s *Store) Compact(ctx context.Context, opts storage.CompactOptions) (stats storage.CompactStats, err error) {
	select {
	case s.compacting <- struct{}{}:
		defer func() { <-s.compacting }()
	case <-ctx.Done():
		return stats, fmt.Errorf("compact: %w", ctx.Err())
	}
	c := &compaction{store: s, opts: opts, pace: bucket.NewPace(opts.Share, time.Now())}
	err = c.run(ctx)
	if err != nil {
		err = fmt.Errorf("compact: %w", err)
	}
	return c.stats, err
}

type compaction struct {
	store *Store
	opts  storage.CompactOptions
	pace  bucket.Pace
	stats storage.CompactStats
}

func (c *compaction) run(ctx context.Context) error {
	if len(c.opts.Buckets) > 0 {
		for _, key := range c.opts.Buckets {
			if err := c.bucket(ctx, key); err != nil {
				return err
			}
		}
		return nil
	}
	from := []byte{spaceState}
	for from != nil {
		var page []storage.BucketKey
		var err error
		if page, from, err = c.candidates(ctx, from); err != nil {
			return err
		}
		for _, key := range page {
			if err := c.bucket(ctx, key); err != nil {
				return err
			}
		}
	}
	if err := c.rows(ctx); err != nil {
		return fmt.Errorf("drop row records: %w", err)
	}
	if c.opts.Incremental {
		return nil
	}
	return c.reclaim(ctx)
}

// candidates returns the next buckets that may be worth compacting, and the key
// from which to go on, nil after the last.
func (c *compaction) candidates(ctx context.Context, from []byte) (page []storage.BucketKey, next []byte, err error) {
	s := c.store
	if err := s.begin(); err != nil {
		return nil, nil, err
	}
	defer s.end()
	busy, err := s.backfilling()
	if err != nil {
		return nil, nil, err
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: []byte{spaceState + 1}})
	if err != nil {
		return nil, nil, corrupt(err)
	}
	defer func() { err = errors.Join(err, corrupt(it.Close())) }()
	for looked := 0; it.Valid() || looked == 0 && it.First(); it.Next() {
		if looked++; looked > 10*compactPage || len(page) == compactPage {
			return page, append([]byte(nil), it.Key()...), nil
		}
		if looked%paceOps == 0 {
			if err := c.rest(ctx); err != nil {
				return nil, nil, err
			}
		}
		key, ok := bucketOf(it.Key())
		if !ok {
			return nil, nil, fmt.Errorf("state key of %d bytes: %w", len(it.Key()), storage.ErrCorrupt)
		}
		value, err := it.ValueAndErr()
		if err != nil {
			return nil, nil, corrupt(err)
		}
		state, err := decodeState(value)
		if err != nil {
			return nil, nil, err
		}
		if !bucket.Due(state.Count, 0, c.opts.Incremental) {
			continue
		}
		if c.opts.Incremental {
			if busy[key.Def] {
				continue
			}
			mark, err := s.mark(key)
			if err != nil {
				return nil, nil, err
			}
			if !bucket.Due(state.Count, mark.Count, true) {
				continue
			}
		}
		page = append(page, key)
	}
	return page, nil, nil
}

// backfilling returns the definitions that are being backfilled.
func (s *Store) backfilling() (map[storage.DefinitionID]bool, error) {
	var r storage.Recovered
	if err := s.loadDefinitions(&r); err != nil {
		return nil, err
	}
	busy := map[storage.DefinitionID]bool{}
	for _, d := range r.Definitions {
		if d.State == storage.Backfilling {
			busy[d.ID] = true
		}
	}
	return busy, nil
}

// mark returns where the last compaction of a bucket left it.
func (s *Store) mark(key storage.BucketKey) (compactionMark, error) {
	value, ok, err := get(s.db, appendBucket(nil, spaceMark, key))
	if err != nil || !ok {
		return compactionMark{}, err
	}
	return decodeMark(value)
}

// bucket compacts one bucket.
func (c *compaction) bucket(ctx context.Context, key storage.BucketKey) error {
	err := c.compactBucket(ctx, key)
	if errors.Is(err, errGone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("bucket %d%s: %w", key.Def, key.Params, err)
	}
	return nil
}

func (c *compaction) compactBucket(ctx context.Context, key storage.BucketKey) error {
	s := c.store
	mark, err := s.readMark(key)
	if err != nil {
		return err
	}
	s.mu.Lock()
	until := s.checkpoint.Op
	s.mu.Unlock()
	target := compactable{c, ctx, key}
	did, err := bucket.Compact(target, bucket.NewCompaction(until, mark.Until, c.opts.Incremental))
	c.stats.Buckets++
	c.stats.Add(did)
	if err != nil {
		return err
	}
	return s.settled(ctx, func(w *writer) error {
		state, err := w.state(key)
		if err != nil {
			return err
		}
		b := s.db.NewBatch()
		if err := b.Set(appendBucket(nil, spaceMark, key), appendMark(nil, compactionMark{until, state.Count}), nil); err != nil {
			return err
		}
		if err := s.apply(b, false); err != nil {
			return err
		}
		if did != (bucket.Compacted{}) {
			// Who comes from now on reads what is left, and the rest can go.
			s.publish(w.checkpoint, true)
		}
		return nil
	})
}

func (s *Store) readMark(key storage.BucketKey) (compactionMark, error) {
	if err := s.begin(); err != nil {
		return compactionMark{}, err
	}
	defer s.end()
	return s.mark(key)
}

// settled calls f with the writer, when there is nothing that is not published.
// F may write without syncing: what it writes is durable before anything later is.
func (s *Store) settled(ctx context.Context, f func(*writer) error) error {
	w := &s.writer
	s.writing.Lock()
	defer s.writing.Unlock()
	for {
		if err := s.writable(ctx); err != nil {
			return err
		}
		if w.undo == 0 {
			return errors.Join(f(w), w.probe.reset())
		}
		if w.settled == nil {
			w.settled = make(chan struct{})
		}
		settled := w.settled
		s.writing.Unlock()
		select {
		case <-settled:
		case <-s.health.failed:
		case <-ctx.Done():
		}
		s.writing.Lock()
	}
}

// state returns a bucket's newest state, or errGone.
func (w *writer) state(key storage.BucketKey) (bucket.State, error) {
	if _, ok := w.defs[key.Def]; !ok {
		return bucket.State{}, errGone
	}
	state, ok := w.states.get(key)
	if !ok {
		var err error
		w.key = appendBucket(w.key[:0], spaceState, key)
		if state, err = w.storedState(w.key); err != nil {
			return state, err
		}
	}
	if state.Last == 0 {
		return state, errGone // a bucket that never was
	}
	return state, nil
}

// compactable is a bucket under compaction. Its ops up to a published checkpoint
// are changed by nobody else, but may be dropped.
type compactable struct {
	*compaction
	ctx context.Context
	key storage.BucketKey
}

// Descend implements bucket.Compactable.
func (t compactable) Descend(after, until bucket.OpID, yield func(*bucket.Op) bool) (err error) {
	s := t.store
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end()
	from := appendOpKey(nil, t.key, after+1)
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: appendOpKey(nil, t.key, until+1)})
	if err != nil {
		return corrupt(err)
	}
	defer func() { err = errors.Join(err, corrupt(it.Close())) }()
	idAt := len(from) - 8
	var dec record.OpDecoder
	var op bucket.Op
	n := 0
	for ok := it.Last(); ok; ok = it.Prev() {
		if n++; n%paceOps == 0 {
			if err := t.rest(t.ctx); err != nil {
				return err
			}
		}
		k := it.Key()
		if len(k) != idAt+8 {
			return fmt.Errorf("op key of %d bytes: %w", len(k), storage.ErrCorrupt)
		}
		op.ID = bucket.OpID(binary.BigEndian.Uint64(k[idAt:]))
		value, err := it.ValueAndErr()
		if err != nil {
			return corrupt(err)
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

// Apply implements bucket.Compactable.
func (t compactable) Apply(e *bucket.Edit) error {
	s := t.store
	b := s.db.NewBatch()
	if e.Clear != nil {
		if err := b.DeleteRange(appendOpKey(nil, t.key, 0), appendOpKey(nil, t.key, e.Clear.ID), nil); err != nil {
			return err
		}
		if err := b.Set(appendOpKey(nil, t.key, e.Clear.ID), record.AppendOp(nil, e.Clear), nil); err != nil {
			return err
		}
	}
	for i := range e.Set {
		op := &e.Set[i]
		d := b.SetDeferred(opKeyLen(t.key), record.OpLen(op))
		appendOpKey(d.Key[:0], t.key, op.ID)
		record.AppendOp(d.Value[:0], op)
		if err := d.Finish(); err != nil {
			return err
		}
	}
	return s.settled(t.ctx, func(w *writer) error {
		state, err := w.state(t.key)
		if err != nil {
			return err
		}
		state.Count += e.Count
		state.Bytes += e.Bytes
		if state.Count < 0 || state.Bytes < 0 {
			return fmt.Errorf("%d ops and %d bytes would be left: %w", state.Count, state.Bytes, storage.ErrCorrupt)
		}
		if err := b.Set(appendBucket(nil, spaceState, t.key), appendState(nil, state), nil); err != nil {
			return err
		}
		if err := s.apply(b, false); err != nil {
			return err
		}
		w.states.put(t.key, state)
		return nil
	})
}

// reclaim gives the space of what was dropped back to the file system.
func (c *compaction) reclaim(ctx context.Context) error {
	s := c.store
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end()
	return s.health.guard(func() error {
		return s.db.Compact(ctx, []byte{spaceState}, []byte{spaceUpload + 1}, true)
	})
}

// Size returns the bytes that the store takes on the disk.
func (s *Store) Size() (uint64, error) {
	if err := s.begin(); err != nil {
		return 0, fmt.Errorf("size of storage: %w", err)
	}
	defer s.end()
	return s.db.Metrics().DiskSpaceUsage(), nil
}

// rest returns an error if the work has to end, and rests if it is time to.
func (c *compaction) rest(ctx context.Context) error {
	s := c.store
	if s.closing.Load() {
		return storage.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	rest := c.pace.Rest(time.Now())
	if rest == 0 {
		return nil
	}
	t := time.NewTimer(rest)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-s.health.failed:
	}
	c.pace.Rested(time.Now())
	return nil
}
