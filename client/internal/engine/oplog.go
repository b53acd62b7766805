package engine

import (
	"fmt"

	"github.com/millrace-sync/millrace/protocol"
)

// storeOps keeps the operations of a data line, which took size bytes on the wire.
// Of each key only the last PUT stays; what it supersedes lives on in the sum.
func storeOps(s Store, line *protocol.DataChunk, size int) error {
	if err := storeChunk(s, line, size); err != nil {
		return fmt.Errorf("store operations of bucket %s: %w", line.Bucket, err)
	}
	return nil
}

func storeChunk(s Store, line *protocol.DataChunk, size int) error {
	var bucket, applied int64
	err := s.Query(`INSERT INTO ps_buckets(name) VALUES (?) ON CONFLICT DO UPDATE SET name = name RETURNING id, last_applied_op`,
		func(r Row) error {
			bucket, applied = r.Int64(0), r.Int64(1)
			return nil
		}, line.Bucket)
	if err != nil || len(line.Ops) == 0 {
		return err
	}
	// Of a bucket that has never been applied nothing is visible, so rows removed
	// from it need no look.
	fresh := applied == 0
	var add, sum uint32 // what changes of add_checksum and op_checksum
	var key []byte
	for i := range line.Ops {
		op := &line.Ops[i]
		switch op.Kind {
		case protocol.Put, protocol.Remove:
			key = appendKey(key[:0], op)
			superseded := false
			err := s.Query(`DELETE FROM ps_oplog WHERE unlikely(bucket = ?) AND key = ? RETURNING hash`, func(r Row) error {
				hash := uint32(r.Int64(0))
				add += hash
				sum -= hash
				superseded = true
				return nil
			}, bucket, key)
			if err != nil {
				return err
			}
			if op.Kind == protocol.Put {
				sum += op.Checksum
				if err := insertPut(s, bucket, key, op); err != nil {
					return err
				}
				continue
			}
			add += op.Checksum
			if superseded && !fresh && len(key) > 0 {
				err := s.Exec(`INSERT OR IGNORE INTO ps_updated_rows(row_type, row_id) VALUES (?, ?)`, op.ObjectType, op.ObjectID)
				if err != nil {
					return err
				}
			}
		case protocol.Move:
			add += op.Checksum
		case protocol.Clear:
			// Rows that are only here must vanish at the next apply.
			if err := noteRows(s, bucket); err != nil {
				return err
			}
			if err := s.Exec(`UPDATE ps_buckets SET last_applied_op = 0, add_checksum = ?, op_checksum = 0 WHERE id = ?`,
				int64(op.Checksum), bucket); err != nil {
				return err
			}
			add, sum, fresh = 0, 0, true
		}
	}
	return s.Exec(`UPDATE ps_buckets SET
  last_op = ?2,
  add_checksum = (add_checksum + ?3) & 0xffffffff,
  op_checksum = (op_checksum + ?4) & 0xffffffff,
  count_since_last = count_since_last + ?5,
  downloaded_size = downloaded_size + ?6
WHERE id = ?1`,
		bucket, int64(line.Ops[len(line.Ops)-1].ID), int64(add), int64(sum), int64(len(line.Ops)), int64(size))
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

func insertPut(s Store, bucket int64, key []byte, op *protocol.Op) error {
	const insert = `INSERT INTO ps_oplog(bucket, op_id, key, row_type, row_id, data, hash) VALUES (?, ?, ?, ?, ?, ?, ?)`
	hash := int64(int32(op.Checksum))
	if len(key) == 0 {
		return s.Exec(insert, bucket, int64(op.ID), nil, nil, nil, op.Data, hash)
	}
	return s.Exec(insert, bucket, int64(op.ID), key, op.ObjectType, op.ObjectID, op.Data, hash)
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
