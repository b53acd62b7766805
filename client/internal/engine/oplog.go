package engine

import (
	"fmt"
	"hash/maphash"
	"slices"
	"strings"

	"github.com/millrace-sync/millrace/protocol"
)

// storeOps keeps the operations of a data line, which took size bytes on the wire.
// Of each key only the last PUT stays; what it supersedes lives on in the sum.
func (e *Engine) storeOps(line *protocol.DataChunk, size int) error {
	if err := e.storeChunk(line, size); err != nil {
		return fmt.Errorf("store operations of bucket %s: %w", line.Bucket, err)
	}
	return nil
}

func (e *Engine) storeChunk(line *protocol.DataChunk, size int) error {
	s := e.store
	w := chunkWriter{store: s}
	var applied int64
	err := s.Query(`INSERT INTO ps_buckets(name) VALUES (?) ON CONFLICT DO UPDATE SET name = name RETURNING id, last_applied_op`,
		func(r Row) error {
			w.bucket, applied = r.Int64(0), r.Int64(1)
			return nil
		}, line.Bucket)
	if err != nil || len(line.Ops) == 0 {
		return err
	}
	// Of a bucket that has never been applied nothing is visible, so rows removed
	// from it need no look.
	fresh := applied == 0
	keys, err := e.keysOf(line.Bucket, w.bucket, fresh)
	if err != nil {
		return err
	}
	for i := range line.Ops {
		op := &line.Ops[i]
		switch op.Kind {
		case protocol.Put, protocol.Remove:
			key := w.key(op)
			superseded := false
			if keys.mayHold(key) {
				if superseded, err = w.supersede(key); err != nil {
					return err
				}
			}
			if op.Kind == protocol.Put {
				keys.add(key)
				if err := w.put(key, op); err != nil {
					return err
				}
				continue
			}
			w.add += op.Checksum
			if superseded && !fresh && len(key) > 0 {
				err := s.Exec(`INSERT OR IGNORE INTO ps_updated_rows(row_type, row_id) VALUES (?, ?)`, op.ObjectType, op.ObjectID)
				if err != nil {
					return err
				}
			}
		case protocol.Move:
			w.add += op.Checksum
		case protocol.Clear:
			if err := w.flush(); err != nil {
				return err
			}
			// Rows that are only here must vanish at the next apply.
			if err := noteRows(s, w.bucket); err != nil {
				return err
			}
			if err := s.Exec(`UPDATE ps_buckets SET last_applied_op = 0, add_checksum = ?, op_checksum = 0 WHERE id = ?`,
				int64(op.Checksum), w.bucket); err != nil {
				return err
			}
			w.add, w.sum, fresh = 0, 0, true
		}
	}
	if err := w.flush(); err != nil {
		return err
	}
	return s.Exec(`UPDATE ps_buckets SET
  last_op = ?2,
  add_checksum = (add_checksum + ?3) & 0xffffffff,
  op_checksum = (op_checksum + ?4) & 0xffffffff,
  count_since_last = count_since_last + ?5,
  downloaded_size = downloaded_size + ?6
WHERE id = ?1`,
		w.bucket, int64(line.Ops[len(line.Ops)-1].ID), int64(w.add), int64(w.sum), int64(len(line.Ops)), int64(size))
}

// insertRows is how many PUTs share a statement.
const insertRows = 16

// The statements that insert one PUT, or insertRows of them. OR FAIL spares SQLite the
// copies of pages by which it would undo a statement that fails halfway: whoever sees
// an error rolls the transaction back.
var (
	insertOne  = `INSERT OR FAIL INTO ps_oplog(bucket, op_id, key, row_type, row_id, data, hash) VALUES (?, ?, ?, ?, ?, ?, ?)`
	insertMany = insertOne + strings.Repeat(`, (?, ?, ?, ?, ?, ?, ?)`, insertRows-1)
)

// chunkWriter writes the operations of one bucket.
type chunkWriter struct {
	store    Store
	bucket   int64
	add, sum uint32 // what changes of add_checksum and op_checksum

	keys []byte // holds the keys of args; never overwritten, for keys in use point into it
	args []any  // of PUTs that wait to be inserted, insertRows at most
}

// key returns an operation's key.
func (w *chunkWriter) key(op *protocol.Op) []byte {
	at := len(w.keys)
	w.keys = appendKey(w.keys, op)
	return w.keys[at:len(w.keys):len(w.keys)]
}

// supersede deletes the PUT that a key has had, and reports whether there was one.
func (w *chunkWriter) supersede(key []byte) (had bool, err error) {
	if err := w.flush(); err != nil {
		return false, err
	}
	err = w.store.Query(`DELETE FROM ps_oplog WHERE unlikely(bucket = ?) AND key = ? RETURNING hash`, func(r Row) error {
		hash := uint32(r.Int64(0))
		w.add += hash
		w.sum -= hash
		had = true
		return nil
	}, w.bucket, key)
	return had, err
}

// put inserts a PUT, now or with the next.
func (w *chunkWriter) put(key []byte, op *protocol.Op) error {
	w.sum += op.Checksum
	hash := int64(int32(op.Checksum))
	if len(key) == 0 {
		w.args = append(w.args, w.bucket, int64(op.ID), nil, nil, nil, op.Data, hash)
	} else {
		w.args = append(w.args, w.bucket, int64(op.ID), key, op.ObjectType, op.ObjectID, op.Data, hash)
	}
	const columns = 7
	if len(w.args) < insertRows*columns {
		return nil
	}
	err := w.store.Exec(insertMany, w.args...)
	w.args, w.keys = w.args[:0], nil
	return err
}

// flush inserts the PUTs that wait.
func (w *chunkWriter) flush() error {
	const columns = 7
	for args := range slices.Chunk(w.args, columns) {
		if err := w.store.Exec(insertOne, args...); err != nil {
			return err
		}
	}
	w.args, w.keys = w.args[:0], nil
	return nil
}

// maxKeys bounds the keys that are remembered: 8 bytes each, and as much again.
const maxKeys = 1 << 19

// keySet remembers which keys a bucket may hold, so that a first sync need not look
// for each in the database. A nil keySet may hold any.
type keySet struct {
	seed   maphash.Seed
	hashes map[uint64]struct{}
	left   *int // room in all sets
}

func (k *keySet) mayHold(key []byte) bool {
	if k == nil || *k.left < 0 {
		return true
	}
	_, ok := k.hashes[maphash.Bytes(k.seed, key)]
	return ok
}

func (k *keySet) add(key []byte) {
	if k == nil || *k.left < 0 {
		return
	}
	k.hashes[maphash.Bytes(k.seed, key)] = struct{}{}
	*k.left--
}

// keysOf returns the set of a bucket that was empty when its first line came; nil for
// others. Nobody else writes to a bucket while an engine runs, and what is deleted
// meanwhile does no harm in the set.
func (e *Engine) keysOf(name string, bucket int64, fresh bool) (*keySet, error) {
	if e.keysLeft < 0 {
		clear(e.keys) // too many to be worth their room
		return nil, nil
	}
	if k, ok := e.keys[name]; ok {
		return k, nil
	}
	var k *keySet
	if fresh {
		k = &keySet{seed: e.seed, hashes: make(map[uint64]struct{}), left: &e.keysLeft}
		err := e.store.Query(`SELECT 1 FROM ps_oplog WHERE bucket = ? LIMIT 1`, func(Row) error {
			k = nil
			return nil
		}, bucket)
		if err != nil {
			return nil, err
		}
	}
	e.keys[name] = k
	return k, nil
}

// appendKey appends the name under which an operation is superseded. It is empty for
// one that names no row.
func appendKey(dst []byte, op *protocol.Op) []byte {
	if op.ObjectType == "" && op.ObjectID == "" {
		return dst
	}
	dst = append(append(dst, op.ObjectType...), '/')
	dst = append(append(dst, op.ObjectID...), '/')
	if op.Subkey == nil {
		return append(dst, "null"...)
	}
	return append(dst, op.Subkey...)
}

// noteRows has the next apply look at every row of a bucket, and empties it.
func noteRows(s Store, bucket int64) error {
	err := s.Exec(`INSERT OR IGNORE INTO ps_updated_rows(row_type, row_id) SELECT row_type, row_id FROM ps_oplog WHERE bucket = ?`, bucket)
	if err != nil {
		return err
	}
	return s.Exec(`DELETE FROM ps_oplog WHERE bucket = ?`, bucket)
}

// deleteBucket drops a bucket whole. Its rows stay visible until the next apply.
func deleteBucket(s Store, name string) error {
	var id int64
	found := false
	err := s.Query(`DELETE FROM ps_buckets WHERE name = ? RETURNING id`, func(r Row) error {
		id, found = r.Int64(0), true
		return nil
	}, name)
	if err == nil && found {
		err = noteRows(s, id)
	}
	if err != nil {
		return fmt.Errorf("delete bucket %s: %w", name, err)
	}
	return nil
}
