package pgstore

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/record"
)

// maxKeptBuffer is the largest buffer that is kept from one batch to the next.
const maxKeptBuffer = 32 << 20

// statementRows bounds the rows of one statement, and so the size of a message.
const statementRows = 10_000

// staged is a batch as it is written: one entry for each key, the last one.
type staged struct {
	touched    map[storage.BucketKey]*bucketChange
	fresh      []storage.BucketKey // of touched, not stored before
	nextBucket int64
	ops        []opRow // few ones
	copyOps    []byte  // many, in binary form
	rows       map[storage.RowRef]rowWrite
	copyRows   []byte // of rows, those that are known to be absent, if many
	lookups    map[lookupRef][]byte
}

// bucketChange is what the batch being prepared makes of a bucket.
type bucketChange struct {
	bucketState
}

type opRow struct {
	bucket, id, count, checksum, bytes int64
	body                               []byte
}

// rowWrite is the record to store, nil to delete it. Copied ones are in copyRows.
type rowWrite struct {
	record []byte
	copied bool
}

type lookupRef struct {
	key storage.LookupKey
	row bucket.Subkey
}

// stage brings a batch into the form in which it is written.
func (s *Store) stage(ctx context.Context, b *storage.Batch) error {
	w := &s.writer
	st := &w.staged
	clear(st.touched)
	st.nextBucket = w.nextBucket
	st.fresh, st.ops = st.fresh[:0], st.ops[:0]
	st.copyOps, st.copyRows = reuse(st.copyOps), reuse(st.copyRows)
	st.rows = make(map[storage.RowRef]rowWrite, len(b.Rows))
	st.lookups = make(map[lookupRef][]byte, len(b.Lookups))
	if err := s.touch(ctx, b.Ops); err != nil {
		return fmt.Errorf("read bucket states: %w", err)
	}
	st.addOps(b.Ops)
	s.stageRows(b)
	for i := range b.Lookups {
		l := &b.Lookups[i]
		st.lookups[lookupRef{l.Lookup, l.Row}] = l.Values
	}
	return nil
}

func reuse(buf []byte) []byte {
	if cap(buf) > maxKeptBuffer {
		return nil
	}
	return buf[:0]
}

// touch finds the buckets that ops name, and gives ids to new ones.
func (s *Store) touch(ctx context.Context, ops []storage.BucketOp) error {
	w := &s.writer
	st := &w.staged
	var missing []storage.BucketKey
	for i := range ops {
		key := ops[i].Bucket
		if i > 0 && key == ops[i-1].Bucket || st.touched[key] != nil {
			continue
		}
		state, ok := w.states.get(key)
		if !ok {
			missing = append(missing, key)
		}
		st.touched[key] = &bucketChange{state}
	}
	for keys := range slices.Chunk(missing, statementRows) {
		if err := s.loadStates(ctx, keys); err != nil {
			return err
		}
	}
	for _, key := range missing {
		if c := st.touched[key]; c.id == 0 {
			c.id = st.nextBucket
			st.nextBucket++
			st.fresh = append(st.fresh, key)
		}
	}
	return nil
}

// loadStates reads the newest states of buckets into what is staged.
func (s *Store) loadStates(ctx context.Context, keys []storage.BucketKey) error {
	defs, params := bucketColumns(keys)
	rows, err := s.writes.Query(ctx, s.text.in(`SELECT k.ord, b.id, coalesce(o.id, 0), coalesce(o.count, 0), coalesce(o.checksum, 0), coalesce(o.bytes, 0)
		FROM unnest($1::bigint[], $2::bytea[]) WITH ORDINALITY k (def, params, ord)
		JOIN millrace.bucket b ON b.def = k.def AND b.params = k.params
		LEFT JOIN LATERAL (SELECT id, count, checksum, bytes FROM millrace.op WHERE bucket = b.id ORDER BY id DESC LIMIT 1) o ON true`), defs, params)
	if err != nil {
		return err
	}
	var ord, id, last, checksum int64
	var state bucket.State
	_, err = pgx.ForEachRow(rows, []any{&ord, &id, &last, &state.Count, &checksum, &state.Bytes}, func() error {
		state.Last, state.Checksum = bucket.OpID(last), bucket.Checksum(checksum)
		s.writer.staged.touched[keys[ord-1]].bucketState = bucketState{id, state}
		return nil
	})
	return err
}

func bucketColumns(keys []storage.BucketKey) (defs []int64, params [][]byte) {
	defs, params = make([]int64, len(keys)), make([][]byte, len(keys))
	for i, k := range keys {
		defs[i], params[i] = int64(k.Def), shorten(k.Params)
	}
	return defs, params
}

// addOps brings the states of the buckets forward, and with them makes the rows.
func (st *staged) addOps(ops []storage.BucketOp) {
	many := len(ops) >= bulk
	if many {
		st.copyOps = append(st.copyOps, copyHeader...)
	}
	var c *bucketChange
	for i := range ops {
		o := &ops[i]
		if i == 0 || ops[i-1].Bucket != o.Bucket {
			c = st.touched[o.Bucket]
		}
		c.State = c.State.Add(&o.Op)
		row := opRow{bucket: c.id, id: int64(o.Op.ID), count: c.Count, checksum: int64(c.Checksum), bytes: c.Bytes}
		if many {
			st.copyOps = appendCopyOp(st.copyOps, &row, &o.Op)
			continue
		}
		row.body = record.AppendOp(nil, &o.Op)
		st.ops = append(st.ops, row)
	}
	if many {
		st.copyOps = append(st.copyOps, copyEnd...)
	}
}

// stageRows encodes row records. Those that are known to be absent are copied if
// they are many, as a backfill's are.
func (s *Store) stageRows(b *storage.Batch) {
	st := &s.writer.staged
	for i := range b.Rows {
		r := &b.Rows[i]
		if r.Record == nil {
			st.rows[r.Ref] = rowWrite{}
			continue
		}
		long := ""
		if len(r.Ref.Key) > keyPrefix {
			long = string(r.Ref.Key)
		}
		st.rows[r.Ref] = rowWrite{record: appendRow(make([]byte, 0, 96), long, r.Record)}
	}
	if len(st.rows) < bulk {
		return
	}
	absent := s.records.absent(st.rows)
	if len(absent) < bulk {
		return
	}
	st.copyRows = append(st.copyRows, copyHeader...)
	for _, ref := range absent {
		w := st.rows[ref]
		st.copyRows = appendCopyRow(st.copyRows, ref, w.record)
		st.rows[ref] = rowWrite{record: w.record, copied: true}
	}
	st.copyRows = append(st.copyRows, copyEnd...)
}

// queue collects the statements of a commit under the version that it makes.
type queue struct {
	batch   *pgx.Batch
	text    sqlText
	version int64
}

func (q *queue) add(statement string, args ...any) { q.batch.Queue(q.text.in(statement), args...) }

// staged adds what is not copied of ops, buckets, rows and lookups. Undo says that
// what is overwritten is to be noted.
func (q *queue) staged(st *staged, undo bool) {
	q.buckets(st, undo)
	q.ops(st.ops)
	var tables, gone, added []int64
	var keys, records, goneKeys, addedKeys [][]byte
	for ref, w := range st.rows {
		switch {
		case w.copied && !undo:
		case w.copied:
			added, addedKeys = append(added, int64(ref.Table)), append(addedKeys, shorten(string(ref.Key)))
		case w.record == nil:
			gone, goneKeys = append(gone, int64(ref.Table)), append(goneKeys, shorten(string(ref.Key)))
		default:
			tables, keys, records = append(tables, int64(ref.Table)), append(keys, shorten(string(ref.Key))), append(records, w.record)
		}
	}
	for from, to := range pieces(len(added)) {
		q.add(`INSERT INTO millrace.row_undo (version, tbl, key, record)
			SELECT $1, k.tbl, k.key, NULL FROM unnest($2::bigint[], $3::bytea[]) k (tbl, key)
			ON CONFLICT (version, tbl, key) DO NOTHING`, q.version, added[from:to], addedKeys[from:to])
	}
	for from, to := range pieces(len(tables)) {
		if undo {
			q.noteRows(tables[from:to], keys[from:to])
		}
		q.add(`INSERT INTO millrace.row_record (tbl, key, record) SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[])
			ON CONFLICT (tbl, key) DO UPDATE SET record = excluded.record`, tables[from:to], keys[from:to], records[from:to])
	}
	for from, to := range pieces(len(gone)) {
		if undo {
			q.noteRows(gone[from:to], goneKeys[from:to])
		}
		q.add(`DELETE FROM millrace.row_record r USING unnest($1::bigint[], $2::bytea[]) k (tbl, key)
			WHERE r.tbl = k.tbl AND r.key = k.key`, gone[from:to], goneKeys[from:to])
	}
	q.lookups(st.lookups)
}

// pieces yields the ends of consecutive pieces of n rows.
func pieces(n int) func(func(from, to int) bool) {
	return func(yield func(from, to int) bool) {
		for from := 0; from < n; from += statementRows {
			if !yield(from, min(from+statementRows, n)) {
				return
			}
		}
	}
}

// noteRows keeps what a version overwrites of row records; the first note counts.
func (q *queue) noteRows(tables []int64, keys [][]byte) {
	q.add(`INSERT INTO millrace.row_undo (version, tbl, key, record) SELECT $1, k.tbl, k.key, r.record
		FROM unnest($2::bigint[], $3::bytea[]) k (tbl, key)
		LEFT JOIN millrace.row_record r ON r.tbl = k.tbl AND r.key = k.key
		ON CONFLICT (version, tbl, key) DO NOTHING`, q.version, tables, keys)
}

func (q *queue) buckets(st *staged, undo bool) {
	for keys := range slices.Chunk(st.fresh, statementRows) {
		ids := make([]int64, len(keys))
		for i, k := range keys {
			ids[i] = st.touched[k].id
		}
		defs, params := bucketColumns(keys)
		q.add("INSERT INTO millrace.bucket (id, def, params) SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bytea[])", ids, defs, params)
	}
	if !undo {
		return
	}
	ids := make([]int64, 0, len(st.touched))
	for _, c := range st.touched {
		ids = append(ids, c.id)
	}
	for piece := range slices.Chunk(ids, statementRows) {
		q.add(`INSERT INTO millrace.bucket_undo (version, bucket) SELECT $1, b FROM unnest($2::bigint[]) b
			ON CONFLICT (version, bucket) DO NOTHING`, q.version, piece)
	}
}

func (q *queue) ops(ops []opRow) {
	if len(ops) == 0 {
		return
	}
	columns := make([][]int64, 5)
	bodies := make([][]byte, len(ops))
	for i := range ops {
		o := &ops[i]
		for c, v := range []int64{o.bucket, o.id, o.count, o.checksum, o.bytes} {
			columns[c] = append(columns[c], v)
		}
		bodies[i] = o.body
	}
	q.add(`INSERT INTO millrace.op (bucket, id, count, checksum, bytes, body)
		SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bytea[])`,
		columns[0], columns[1], columns[2], columns[3], columns[4], bodies)
}

// lookups ends what the entries held up to this version, and adds what they hold
// from it on.
func (q *queue) lookups(entries map[lookupRef][]byte) {
	if len(entries) == 0 {
		return
	}
	var defs, setDefs []int64
	var keys, rows, setKeys, setRows, results [][]byte
	for ref, values := range entries {
		def, key, row := int64(ref.key.Def), shorten(ref.key.Key), slices.Clone(ref.row[:])
		defs, keys, rows = append(defs, def), append(keys, key), append(rows, row)
		if values != nil {
			setDefs, setKeys, setRows, results = append(setDefs, def), append(setKeys, key), append(setRows, row), append(results, values)
		}
	}
	for from, to := range pieces(len(defs)) {
		q.add(`DELETE FROM millrace.lookup l USING unnest($2::bigint[], $3::bytea[], $4::bytea[]) k (def, key, subkey)
			WHERE l.def = k.def AND l.key = k.key AND l.subkey = k.subkey AND l.from_v = $1`,
			q.version, defs[from:to], keys[from:to], rows[from:to])
		q.add(`UPDATE millrace.lookup l SET to_v = $1 FROM unnest($2::bigint[], $3::bytea[], $4::bytea[]) k (def, key, subkey)
			WHERE l.def = k.def AND l.key = k.key AND l.subkey = k.subkey AND l.to_v = $5`,
			q.version, defs[from:to], keys[from:to], rows[from:to], int64(forever))
	}
	for from, to := range pieces(len(setDefs)) {
		q.add(`INSERT INTO millrace.lookup (def, key, subkey, from_v, to_v, results)
			SELECT k.def, k.key, k.subkey, $1, $6, k.results FROM unnest($2::bigint[], $3::bytea[], $4::bytea[], $5::bytea[]) k (def, key, subkey, results)`,
			q.version, setDefs[from:to], setKeys[from:to], setRows[from:to], results[from:to], int64(forever))
	}
}

// plan adds what a batch has of definitions and deploys.
func (q *queue) plan(b *storage.Batch) {
	for i := range b.Definitions {
		d := &b.Definitions[i]
		q.supersede("definition", int64(d.ID))
		q.add("INSERT INTO millrace.definition (id, from_v, to_v, body) VALUES ($1, $2, $3, $4)",
			int64(d.ID), q.version, int64(forever), record.AppendDefinition(nil, d))
	}
	for _, id := range b.Drop {
		q.supersede("definition", int64(id))
	}
	if d := b.Deploy; d != nil {
		if d.State == storage.DeployServing {
			q.add("DELETE FROM millrace.deploy WHERE from_v = $1", q.version)
			q.add("UPDATE millrace.deploy SET to_v = $1 WHERE to_v = $2", q.version, int64(forever))
		}
		q.supersede("deploy", int64(d.ID))
		q.add("INSERT INTO millrace.deploy (id, from_v, to_v, body) VALUES ($1, $2, $3, $4)",
			int64(d.ID), q.version, int64(forever), record.AppendDeploy(nil, d))
	}
}

// supersede ends an entry of a versioned table.
func (q *queue) supersede(table string, id int64) {
	q.add("DELETE FROM millrace."+table+" WHERE id = $1 AND from_v = $2", id, q.version)
	q.add("UPDATE millrace."+table+" SET to_v = $2 WHERE id = $1 AND to_v = $3", id, q.version, int64(forever))
}

// fence records where the commit brings the store to, and extends the lease. It
// fails the transaction if the token is no longer the store's.
func (q *queue) fence(token int64, lease time.Duration, p position) {
	q.add(`UPDATE millrace.store SET fence = (token = $1), expires = clock_timestamp() + $2::bigint * interval '1 millisecond',
		used_op = $3, next_def = $4, next_bucket = $5, version = $6, op = $7, lsn = $8 WHERE one = 1`,
		token, lease.Milliseconds(), int64(p.nextOp-1), int64(p.nextDef), p.nextBucket,
		p.view.version, int64(p.view.checkpoint.Op), int64(p.view.checkpoint.LSN))
}
