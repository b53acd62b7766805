package pebblestore

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/record"
)

// writer is what a store knows of its newest state, published or not. Its fields
// belong to whoever holds Store.writing.
type writer struct {
	db *pebble.DB

	checkpoint storage.Checkpoint
	lastOp     bucket.OpID // the newest op that is stored
	nextOp     bucket.OpID
	nextDef    storage.DefinitionID
	defs       map[storage.DefinitionID]struct{}
	// undo is the number of entries in the undo log: 0 unless parts of a
	// transaction were committed without Publish.
	undo   uint64
	states stateCache
	// settled, if not nil, is closed when undo falls to 0.
	settled chan struct{}
	drops   int // of definitions, since the store was opened

	probe   probe                              // has its own lock; Row uses it
	touched map[storage.BucketKey]*stateChange // by the batch being prepared
	key     []byte                             // scratch
	value   []byte                             // scratch
}

// stateChange is a bucket's state before and after a batch.
type stateChange struct {
	was, is bucket.State
	ops     int // of the batch
}

func (w *writer) init(db *pebble.DB) {
	w.db, w.probe.db = db, db
	w.probe.largest = map[source.TableID][]byte{}
	w.defs = map[storage.DefinitionID]struct{}{}
	w.touched = map[storage.BucketKey]*stateChange{}
	w.states.clear()
}

// Commit writes a batch, all of it or nothing, and syncs it unless NoSync allows
// otherwise. It fails with ErrBatch if the batch breaks the contract, and with
// ErrFailed if the medium does. The context is heeded until writing begins.
func (s *Store) Commit(ctx context.Context, b *storage.Batch) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.writable(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	w := &s.writer
	if err := w.check(b); err != nil {
		return fmt.Errorf("commit: %w: %w", storage.ErrBatch, err)
	}
	size := sizeOf(b)
	ingest := size >= s.ingestSize && len(b.Drop) == 0
	if ingest {
		size -= sizeOfData(b)
	}
	pb := s.db.NewBatchWithSize(size)
	if err := w.prepare(pb, b, ingest); err != nil {
		_ = pb.Close()
		return fmt.Errorf("commit: %w", err)
	}
	hasData := len(b.Ops)+len(b.Rows)+len(b.Lookups)+len(b.Definitions)+len(b.Drop) > 0 || b.Deploy != nil
	whole := hasData || w.undo > 0 // there is something to publish, or to be told apart from it
	sync := !b.NoSync || (b.Publish && whole)
	var err error
	if ingest {
		sync = true
		err = s.ingest(ctx, pb, b)
	} else {
		err = s.apply(pb, sync)
	}
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}

	w.adopt(b)
	if err := w.probe.committed(b.Rows); err != nil {
		s.health.fail(err)
		return fmt.Errorf("commit: %w", err)
	}
	if sync {
		s.durable.Store(uint64(w.checkpoint.LSN))
	}
	if b.Publish {
		s.publish(w.checkpoint, whole)
		w.undo = 0
		w.settle()
	}
	return nil
}

// settle wakes who waits for undo to fall to 0.
func (w *writer) settle() {
	if w.settled != nil {
		close(w.settled)
		w.settled = nil
	}
}

// writable returns why nothing may be written, or nil.
func (s *Store) writable(ctx context.Context) error {
	if s.closing.Load() {
		return storage.ErrClosed
	}
	if err := s.health.err(); err != nil {
		return err
	}
	return ctx.Err()
}

// apply writes a Pebble batch and closes it.
func (s *Store) apply(b *pebble.Batch, sync bool) error {
	opts := pebble.NoSync
	if sync {
		opts = pebble.Sync
		// Pebble does nothing for an empty batch, but what was written before may still have
		// to be synced.
		if b.Empty() {
			if err := b.LogData(nil, nil); err != nil {
				return err
			}
		}
	}
	return s.health.guard(func() error {
		if err := b.Commit(opts); err != nil {
			return err
		}
		return b.Close()
	})
}

// check returns how a batch breaks the contract, or nil.
func (w *writer) check(b *storage.Batch) error {
	if len(b.Drop) > 0 && !b.Publish {
		return fmt.Errorf("definitions are dropped by a batch without Publish")
	}
	known := func(id storage.DefinitionID) bool {
		if _, ok := w.defs[id]; ok {
			return true
		}
		for i := range b.Definitions {
			if b.Definitions[i].ID == id {
				return true
			}
		}
		return false
	}
	dropped := func(id storage.DefinitionID) bool {
		for _, d := range b.Drop {
			if d == id {
				return true
			}
		}
		return false
	}
	for i := range b.Definitions {
		id := b.Definitions[i].ID
		if _, ok := w.defs[id]; !ok && id < w.nextDef {
			return fmt.Errorf("definition id %d was used before", id)
		}
		if dropped(id) {
			return fmt.Errorf("definition %d is stored and dropped", id)
		}
	}
	var def storage.DefinitionID // the last one found good, from 1
	usable := func(id storage.DefinitionID) error {
		if id == def && def > 0 {
			return nil
		}
		if !known(id) || dropped(id) {
			return fmt.Errorf("definition %d is not stored", id)
		}
		def = id
		return nil
	}
	next := w.nextOp
	for i := range b.Ops {
		o := &b.Ops[i]
		if o.Op.ID < next || o.Op.ID > bucket.MaxOpID {
			return fmt.Errorf("op id %s, want %s or more", o.Op.ID, next)
		}
		next = o.Op.ID + 1
		if o.Op.Kind < bucket.Put || o.Op.Kind > bucket.Clear {
			return fmt.Errorf("op %s has unknown kind %d", o.Op.ID, o.Op.Kind)
		}
		if err := usable(o.Bucket.Def); err != nil {
			return fmt.Errorf("op %s: %w", o.Op.ID, err)
		}
		if strings.IndexByte(o.Bucket.Params, 0) >= 0 {
			return fmt.Errorf("op %s: zero byte in bucket parameters %q", o.Op.ID, o.Bucket.Params)
		}
	}
	for i := range b.Lookups {
		if err := usable(b.Lookups[i].Lookup.Def); err != nil && b.Lookups[i].Values != nil {
			return fmt.Errorf("lookup: %w", err)
		}
	}
	if d := b.Deploy; d != nil && (d.State < storage.DeployPending || d.State > storage.DeployFailed) {
		return fmt.Errorf("deploy %d has unknown state %d", d.ID, d.State)
	}
	return nil
}

// prepare turns a batch into one of Pebble's. With ingest it leaves out the ops and
// the row records, but not what the latter overwrite.
func (w *writer) prepare(pb *pebble.Batch, b *storage.Batch, ingest bool) error {
	clear(w.touched)
	e := edit{w: w, batch: pb, undo: w.undo, log: !b.Publish, ingest: ingest}
	if err := e.ops(b.Ops); err != nil {
		return err
	}
	for i := range b.Rows {
		r := &b.Rows[i]
		w.key = appendRowKey(w.key[:0], r.Ref)
		if err := e.rememberRow(w.key, r.New && r.Record != nil); err != nil {
			return err
		}
		switch {
		case ingest:
			continue
		case r.Record == nil:
			if err := pb.Delete(w.key, nil); err != nil {
				return err
			}
		default:
			w.value = record.AppendRow(w.value[:0], r.Record)
			if err := pb.Set(w.key, w.value, nil); err != nil {
				return err
			}
		}
	}
	for i := range b.Lookups {
		l := &b.Lookups[i]
		w.key = append(appendLookup(w.key[:0], l.Lookup), l.Row[:]...)
		if l.Values == nil {
			if err := e.delete(w.key); err != nil {
				return err
			}
			continue
		}
		if err := e.set(w.key, l.Values); err != nil {
			return err
		}
	}
	if err := e.plan(b); err != nil {
		return err
	}
	if b.Publish {
		if err := pb.Set([]byte(metaCheckpoint), appendCheckpoint(nil, storage.Checkpoint{Op: lastOp(w, b), LSN: b.LSN}), nil); err != nil {
			return err
		}
		if w.undo > 0 {
			return pb.DeleteRange([]byte{spaceUndo}, []byte{spaceUndo + 1}, nil)
		}
		return nil
	}
	w.undo = e.undo
	return nil
}

// plan writes what a batch has of definitions, deploys and numbering.
func (e *edit) plan(b *storage.Batch) error {
	w := e.w
	for i := range b.Definitions {
		d := &b.Definitions[i]
		w.key = appendDef(w.key[:0], spaceDefinition, uint32(d.ID))
		w.value = record.AppendDefinition(w.value[:0], d)
		if err := e.set(w.key, w.value); err != nil {
			return err
		}
	}
	for _, id := range b.Drop {
		for _, space := range []byte{spaceOp, spaceState, spaceMark, spaceLookup, spaceDefinition} {
			from, to := defRange(space, uint32(id))
			if err := e.batch.DeleteRange(from, to, nil); err != nil {
				return err
			}
		}
	}
	if len(b.Drop) > 0 {
		if err := e.batch.Set([]byte(metaDropped), nil, nil); err != nil {
			return err
		}
	}
	if d := b.Deploy; d != nil {
		key := binary.BigEndian.AppendUint64([]byte{spaceDeploy}, d.ID)
		if d.State == storage.DeployServing {
			if err := e.deleteAll([]byte{spaceDeploy}, []byte{spaceDeploy + 1}, key); err != nil {
				return err
			}
		}
		w.value = record.AppendDeploy(w.value[:0], d)
		if err := e.set(key, w.value); err != nil {
			return err
		}
	}
	nextOp, nextDef := w.next(b)
	if nextOp == w.nextOp && nextDef == w.nextDef {
		return nil
	}
	return e.batch.Set([]byte(metaNext), appendNext(nil, nextOp, nextDef), nil)
}

// next returns the numbering after a batch.
func (w *writer) next(b *storage.Batch) (bucket.OpID, storage.DefinitionID) {
	op, def := w.nextOp, w.nextDef
	if n := len(b.Ops); n > 0 {
		op = b.Ops[n-1].Op.ID + 1
	}
	for i := range b.Definitions {
		def = max(def, b.Definitions[i].ID+1)
	}
	return op, def
}

func lastOp(w *writer, b *storage.Batch) bucket.OpID {
	if n := len(b.Ops); n > 0 {
		return b.Ops[n-1].Op.ID
	}
	return w.lastOp
}

// adopt makes an applied batch the newest state.
func (w *writer) adopt(b *storage.Batch) {
	w.lastOp = lastOp(w, b)
	w.nextOp, w.nextDef = w.next(b)
	for key, c := range w.touched {
		w.states.put(key, c.is)
	}
	for i := range b.Definitions {
		w.defs[b.Definitions[i].ID] = struct{}{}
	}
	for _, id := range b.Drop {
		delete(w.defs, id)
		w.drops++
	}
	if b.Publish {
		w.checkpoint = storage.Checkpoint{Op: w.lastOp, LSN: b.LSN}
	}
}

// ops adds operations and brings the states of their buckets forward.
func (e *edit) ops(ops []storage.BucketOp) error {
	w := e.w
	var c *stateChange
	for i := range ops {
		o := &ops[i]
		if !e.ingest {
			d := e.batch.SetDeferred(opKeyLen(o.Bucket), record.OpLen(&o.Op))
			appendOpKey(d.Key[:0], o.Bucket, o.Op.ID)
			record.AppendOp(d.Value[:0], &o.Op)
			if err := d.Finish(); err != nil {
				return err
			}
		}
		if i == 0 || ops[i-1].Bucket != o.Bucket {
			var err error
			if c, err = w.touch(o.Bucket); err != nil {
				return err
			}
		}
		c.is = c.is.Add(&o.Op)
		c.ops++
	}
	for key, c := range w.touched {
		w.key = appendBucket(w.key[:0], spaceState, key)
		if e.log {
			w.value = w.value[:0]
			if c.was.Last > 0 {
				w.value = appendState(w.value, c.was)
			}
			if err := e.remember(w.key, w.value, c.was.Last > 0); err != nil {
				return err
			}
		}
		w.value = appendState(w.value[:0], c.is)
		if err := e.batch.Set(w.key, w.value, nil); err != nil {
			return err
		}
	}
	return nil
}

// touch returns the change that the batch being prepared makes to a bucket.
func (w *writer) touch(key storage.BucketKey) (*stateChange, error) {
	if c, ok := w.touched[key]; ok {
		return c, nil
	}
	state, ok := w.states.get(key)
	if !ok {
		w.key = appendBucket(w.key[:0], spaceState, key)
		var err error
		if state, err = w.storedState(w.key); err != nil {
			return nil, fmt.Errorf("bucket %d%s: %w", key.Def, key.Params, err)
		}
	}
	c := &stateChange{was: state, is: state}
	w.touched[key] = c
	return c, nil
}

// storedState reads a state; a bucket without ops has the zero one.
func (w *writer) storedState(key []byte) (bucket.State, error) {
	w.probe.mu.Lock()
	defer w.probe.mu.Unlock()
	value, found, err := w.probe.find(key)
	if err != nil || !found {
		return bucket.State{}, err
	}
	return decodeState(value)
}

// sizeOf estimates a batch's size, so that its buffer seldom grows.
func sizeOf(b *storage.Batch) int { return 256 + 128*len(b.Lookups) + sizeOfData(b) }

// sizeOfData is the part of sizeOf that ops and row records make up.
func sizeOfData(b *storage.Batch) int {
	n := 160 * len(b.Rows)
	for i := range b.Ops {
		n += opKeyLen(b.Ops[i].Bucket) + record.OpLen(&b.Ops[i].Op) + 8
	}
	return n
}
