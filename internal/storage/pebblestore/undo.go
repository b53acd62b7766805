package pebblestore

import (
	"context"
	"encoding/binary"

	"github.com/cockroachdb/pebble/v2"

	"github.com/millrace-sync/millrace/internal/storage/record"
)

// edit collects the writes of one batch and, if log is set, what they overwrite.
//
// An entry of the undo log is the key, as a text, and then nothing if the key was
// absent, or a byte 1 and what it held. Entries are in the order of the writes: a
// key may have several, of which the first counts, so they are played backwards.
// Ops need no entries: the state of each bucket that got any has one, and those
// beyond the checkpoint are deleted.
type edit struct {
	w     *writer
	batch *pebble.Batch
	log   bool
	undo  uint64 // number of the next entry
	// ingest says that ops and row records are written elsewhere.
	ingest bool
}

func (e *edit) set(key, value []byte) error {
	if err := e.rememberStored(key); err != nil {
		return err
	}
	return e.batch.Set(key, value, nil)
}

// rememberRow logs what the key of a row record holds in the store: nothing, if it
// is new.
func (e *edit) rememberRow(key []byte, isNew bool) error {
	if isNew && e.log {
		return e.remember(key, nil, false)
	}
	return e.rememberStored(key)
}

func (e *edit) delete(key []byte) error {
	if err := e.rememberStored(key); err != nil {
		return err
	}
	return e.batch.Delete(key, nil)
}

// deleteAll deletes the few keys of a range but for one.
func (e *edit) deleteAll(from, to, except []byte) error {
	it, err := e.w.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return err
	}
	defer func() { _ = it.Close() }()
	for it.First(); it.Valid(); it.Next() {
		if string(it.Key()) == string(except) {
			continue
		}
		if err := e.delete(it.Key()); err != nil {
			return err
		}
	}
	return it.Error()
}

// rememberStored logs what a key holds in the store.
func (e *edit) rememberStored(key []byte) error {
	if !e.log {
		return nil
	}
	e.w.probe.mu.Lock()
	defer e.w.probe.mu.Unlock()
	value, held, err := e.w.probe.find(key)
	if err != nil {
		return err
	}
	return e.remember(key, value, held)
}

// remember logs what a key held, if anything.
func (e *edit) remember(key, value []byte, held bool) error {
	n := record.UvarintLen(uint64(len(key))) + len(key)
	if held {
		n += 1 + len(value)
	}
	d := e.batch.SetDeferred(1+8, n)
	appendUndoKey(d.Key[:0], e.undo)
	v := record.AppendText(d.Value[:0], key)
	if held {
		_ = append(append(v, 1), value...)
	}
	e.undo++
	return d.Finish()
}

func appendUndoKey(dst []byte, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, spaceUndo), seq)
}

// decodeUndo reads an entry of the undo log. It shares the bytes of value.
func decodeUndo(value []byte) (key, old []byte, held bool, err error) {
	r := record.NewDecoder(value)
	key = r.Text()
	if len(r.Rest()) > 0 {
		if r.U8() != 1 {
			r.Fail()
		}
		old, held = r.Bytes(uint64(len(r.Rest()))), true
	}
	if len(key) == 0 {
		r.Fail()
	}
	return key, old, held, r.End("undo log entry")
}

// rollbackChunk bounds the bytes that one batch of a rollback has.
const rollbackChunk = 1 << 20

// rollback plays the undo log backwards. Each step restores some keys and removes
// their entries in one batch: wherever it is interrupted, it can be resumed.
func (s *Store) rollback(ctx context.Context) error {
	w := &s.writer
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceUndo}, UpperBound: []byte{spaceUndo + 1}})
	if err != nil {
		return err
	}
	defer func() { _ = it.Close() }()
	b := s.db.NewBatch()
	entries := 0
	for it.Last(); it.Valid(); it.Prev() {
		entries++
		key, old, held, err := decodeUndo(it.Value())
		if err != nil {
			return err
		}
		if held {
			err = b.Set(key, old, nil)
		} else {
			err = b.Delete(key, nil)
		}
		if err != nil {
			return err
		}
		if bkt, ok := bucketOf(key); ok {
			if err := b.DeleteRange(appendOpKey(nil, bkt, w.checkpoint.Op+1), opsEnd(bkt), nil); err != nil {
				return err
			}
		}
		if err := b.Delete(it.Key(), nil); err != nil {
			return err
		}
		if b.Len() < rollbackChunk {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.apply(b, false); err != nil {
			return err
		}
		b = s.db.NewBatch()
	}
	if err := it.Error(); err != nil {
		return err
	}
	if err := s.apply(b, true); err != nil {
		return err
	}
	if entries > 0 {
		s.log.Info("took back an unfinished transaction", "entries", entries, "checkpoint", w.checkpoint)
	}
	w.undo, w.lastOp = 0, w.checkpoint.Op
	w.settle()
	w.states.clear()
	if err := w.probe.reset(); err != nil {
		return err
	}
	return s.knowDefinitions()
}

// knowDefinitions finds which definitions are stored.
func (s *Store) knowDefinitions() error {
	clear(s.writer.defs)
	return s.scan([]byte{spaceDefinition}, []byte{spaceDefinition + 1}, func(key, _ []byte) error {
		id, err := definitionOf(key)
		s.writer.defs[id] = struct{}{}
		return err
	})
}
