package pgstore

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/record"
)

// The number of ops that one query reads: few at first, then as many as make
// about pageBytes. What a caller leaves unread of a page was sent in vain.
const (
	firstPage = 128
	maxPage   = 4096
	pageBytes = 1 << 20
)

// Snapshot is a reader's view of the store at a checkpoint, safe for concurrent
// use. It is kept readable for Options.Retain, or in the writing process for as
// long as it is open; its reads then fail with storage.ErrExpired.
type Snapshot struct {
	store  *Store
	view   view
	closed atomic.Bool
}

// Snapshot returns the newest published state: in a reader, the newest that Watch
// or Refresh has seen. It takes a fraction of a microsecond.
func (s *Store) Snapshot() (*Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		return nil, fmt.Errorf("snapshot: %w", storage.ErrClosed)
	}
	s.pins[s.current.version]++
	return &Snapshot{store: s, view: s.current}, nil
}

// Checkpoint returns what the snapshot is of.
func (sn *Snapshot) Checkpoint() storage.Checkpoint { return sn.view.checkpoint }

// Close releases the snapshot, which must not be in use. A second Close does nothing.
func (sn *Snapshot) Close() {
	if sn.closed.Swap(true) {
		return
	}
	s := sn.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pins[sn.view.version]--; s.pins[sn.view.version] == 0 {
		delete(s.pins, sn.view.version)
	}
}

func (sn *Snapshot) err() error {
	if sn.closed.Load() || sn.store.closing.Load() {
		return storage.ErrClosed
	}
	return nil
}

// live is a condition: the definition $1 is stored in version $2. A definition that
// is dropped goes on having ops and lookups until they are purged.
const live = `EXISTS (SELECT 1 FROM millrace.definition d WHERE d.id = $1 AND d.from_v <= $2 AND d.to_v > $2)`

// editedBody is the body of the op x in version $2.
const editedBody = `coalesce((SELECT e.body FROM millrace.op_edit e WHERE e.bucket = x.bucket AND e.id = x.id AND e.from_v <= $2
	ORDER BY e.from_v DESC LIMIT 1), x.body)`

// BucketStates sets each element of out, which is as long as keys, to the state of
// the bucket at the same place; a bucket without ops has the zero State.
func (sn *Snapshot) BucketStates(keys []storage.BucketKey, out []bucket.State) error {
	clear(out)
	err := sn.err()
	if err == nil && len(keys) > 0 {
		err = sn.states(keys, out)
	}
	if err != nil {
		return fmt.Errorf("read bucket states: %w", err)
	}
	return nil
}

func (sn *Snapshot) states(keys []storage.BucketKey, out []bucket.State) error {
	ctx, cancel := context.WithTimeout(context.Background(), readTime)
	defer cancel()
	s := sn.store
	for from, to := range pieces(len(keys)) {
		defs, params := bucketColumns(keys[from:to])
		rows, err := s.reads.Query(ctx, s.text.in(`SELECT h.purged, k.* FROM millrace.horizon h LEFT JOIN (
				SELECT k.ord, o.id, o.count + coalesce(c.count, 0), o.checksum, o.bytes + coalesce(c.bytes, 0)
				FROM unnest($1::bigint[], $2::bytea[]) WITH ORDINALITY k (def, params, ord)
				JOIN millrace.bucket b ON b.def = k.def AND b.params = k.params
				JOIN LATERAL (SELECT id, count, checksum, bytes FROM millrace.op WHERE bucket = b.id AND id <= $4 ORDER BY id DESC LIMIT 1) o ON true
				LEFT JOIN LATERAL (SELECT count, bytes FROM millrace.compacted WHERE bucket = b.id AND from_v <= $3 ORDER BY from_v DESC LIMIT 1) c ON true
				WHERE EXISTS (SELECT 1 FROM millrace.definition d WHERE d.id = k.def AND d.from_v <= $3 AND d.to_v > $3)
			) k ON true WHERE h.one = 1`),
			defs, params, sn.view.version, int64(sn.view.checkpoint.Op))
		if err != nil {
			return s.failure(err)
		}
		defer rows.Close()
		for rows.Next() {
			raw := rows.RawValues()
			if err := sn.row(raw, 6); err != nil {
				return err
			}
			if raw[1] == nil {
				break
			}
			var v [5]int64
			for i := range v {
				if len(raw[i+1]) != 8 {
					return errForm
				}
				v[i] = readInt(raw[i+1])
			}
			out[from+int(v[0])-1] = bucket.State{Last: bucket.OpID(v[1]), Count: v[2], Checksum: bucket.Checksum(v[3]), Bytes: v[4]}
		}
		rows.Close()
		if err := rows.Err(); err != nil {
			return s.failure(err)
		}
	}
	return nil
}

// since fails unless the snapshot is of version oldest or later.
func (sn *Snapshot) since(oldest int64) error {
	if sn.view.version < oldest {
		return fmt.Errorf("%w: it is of version %d, what is kept starts at %d; take a new one", storage.ErrExpired, sn.view.version, oldest)
	}
	return nil
}

// Ops calls yield with each op of a bucket that follows after, in order, until it
// returns false. The Op and its Data are valid until yield returns; its strings
// may be kept.
func (sn *Snapshot) Ops(key storage.BucketKey, after bucket.OpID, yield func(*bucket.Op) bool) error {
	if err := sn.ops(key, after, yield); err != nil {
		return fmt.Errorf("read ops of bucket %d%s: %w", key.Def, key.Params, err)
	}
	return nil
}

func (sn *Snapshot) ops(key storage.BucketKey, after bucket.OpID, yield func(*bucket.Op) bool) error {
	p := pager{sn: sn, key: key, after: after, limit: firstPage}
	for after < bucket.MaxOpID {
		more, err := p.page(yield)
		if err != nil || !more {
			return err
		}
	}
	return sn.err()
}

// pager reads a bucket's ops, a page at a time.
type pager struct {
	sn    *Snapshot
	key   storage.BucketKey
	after bucket.OpID
	limit int
	dec   record.OpDecoder
	op    bucket.Op
}

// page reads the next page and reports whether there may be another.
func (p *pager) page(yield func(*bucket.Op) bool) (more bool, err error) {
	sn, s := p.sn, p.sn.store
	if err := sn.err(); err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), readTime)
	defer cancel()
	rows, err := s.reads.Query(ctx, s.text.in(`SELECT h.purged, o.id, o.body FROM millrace.horizon h LEFT JOIN (
			SELECT x.id, `+editedBody+` AS body FROM millrace.op x
			WHERE x.bucket = (SELECT b.id FROM millrace.bucket b WHERE b.def = $1 AND b.params = $3)
			AND x.id >= coalesce((SELECT c.floor FROM millrace.bucket b JOIN millrace.compacted c ON c.bucket = b.id
				WHERE b.def = $1 AND b.params = $3 AND c.from_v <= $2 ORDER BY c.from_v DESC LIMIT 1), 0)
			AND x.id > $4 AND x.id <= $5 AND `+live+` ORDER BY x.id LIMIT $6
		) o ON true WHERE h.one = 1 ORDER BY o.id`),
		int64(p.key.Def), sn.view.version, shorten(p.key.Params), int64(p.after), int64(sn.view.checkpoint.Op), p.limit)
	if err != nil {
		return false, s.failure(err)
	}
	defer rows.Close()
	n, size := 0, 0
	for rows.Next() {
		raw := rows.RawValues()
		if err := sn.row(raw, 3); err != nil {
			return false, err
		}
		if raw[1] == nil {
			return false, nil
		}
		if len(raw[1]) != 8 {
			return false, errForm
		}
		p.op.ID = bucket.OpID(readInt(raw[1]))
		if err := p.dec.Decode(&p.op, raw[2]); err != nil {
			return false, err
		}
		p.after = p.op.ID
		n++
		size += len(raw[2])
		if !yield(&p.op) {
			return false, nil
		}
	}
	if err := rows.Err(); err != nil {
		return false, s.failure(err)
	}
	if n == 0 {
		return false, errForm
	}
	more = n == p.limit
	p.limit = min(max(pageBytes/(size/n+1), firstPage/8), 4*p.limit, maxPage)
	return more, nil
}

// Lookup calls yield with what each source row contributes to a lookup, in no
// particular order, until it fails. The bytes are valid until yield returns.
func (sn *Snapshot) Lookup(key storage.LookupKey, yield func(values []byte) error) error {
	err := sn.err()
	if err == nil {
		err = sn.lookup(key, yield)
	}
	if err != nil {
		return fmt.Errorf("read lookup: %w", err)
	}
	return nil
}

func (sn *Snapshot) lookup(key storage.LookupKey, yield func(values []byte) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), readTime)
	defer cancel()
	s := sn.store
	rows, err := s.reads.Query(ctx, s.text.in(`SELECT greatest(h.pruned, h.purged), l.results FROM millrace.horizon h LEFT JOIN (
			SELECT results FROM millrace.lookup WHERE def = $1 AND key = $3 AND from_v <= $2 AND to_v > $2 AND `+live+`
		) l ON true WHERE h.one = 1`),
		int64(key.Def), sn.view.version, shorten(key.Key))
	if err != nil {
		return s.failure(err)
	}
	defer rows.Close()
	for rows.Next() {
		raw := rows.RawValues()
		if err := sn.row(raw, 2); err != nil {
			return err
		}
		if raw[1] == nil {
			return nil
		}
		if err := yield(raw[1]); err != nil {
			return err
		}
	}
	return s.failure(rows.Err())
}

// errForm: the database is not what it says it is.
var errForm = errors.New("the database sent rows of another form than asked for")

// row fails unless a row has so many columns, the first of which is the oldest
// version that is kept, and the snapshot is of that one or later. The statement
// that read the row saw all that the snapshot shows then: what is removed is
// removed after the horizon says so.
func (sn *Snapshot) row(raw [][]byte, columns int) error {
	if err := sn.err(); err != nil {
		return err
	}
	if len(raw) != columns || len(raw[0]) != 8 {
		return errForm
	}
	return sn.since(readInt(raw[0]))
}
