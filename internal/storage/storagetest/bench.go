package storagetest

import (
	"fmt"
	"testing"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// benchBuckets is the number of buckets that a benchmark's ops go to in turn.
const benchBuckets = 200

// Bench measures an implementation: what a backfill, a large transaction, a
// download and a session's bookkeeping ask of it.
func Bench(b *testing.B, fresh func(b *testing.B) Store) {
	b.Run("CommitPublished", func(b *testing.B) { benchCommit(b, fresh(b), 1) })
	b.Run("CommitParts", func(b *testing.B) { benchCommit(b, fresh(b), 50) })
	b.Run("CommitSingle", func(b *testing.B) { benchSingle(b, fresh(b)) })
	b.Run("RowAbsent", func(b *testing.B) { benchRow(b, fresh(b), "absent") })
	b.Run("RowPresent", func(b *testing.B) { benchRow(b, fresh(b), "") })
	b.Run("ScanOps", func(b *testing.B) { benchScan(b, fresh(b)) })
	b.Run("BucketStates", func(b *testing.B) { benchStates(b, fresh(b)) })
	b.Run("FewOpsOfManyBuckets", func(b *testing.B) { benchTails(b, fresh(b)) })
	b.Run("Snapshot", func(b *testing.B) { benchSnapshot(b, fresh(b)) })
}

func benchBucket(i int) storage.BucketKey {
	return storage.BucketKey{Def: 1, Params: fmt.Sprintf(`["user-%04d"]`, i%benchBuckets)}
}

// loader commits batches of ops with one row record each, of about 150 bytes of data.
type loader struct {
	b     *testing.B
	store Store
	next  bucket.OpID
	batch storage.Batch
}

func newLoader(b *testing.B, s Store) *loader {
	l := &loader{b: b, store: s, next: 1}
	l.commit(&storage.Batch{Publish: true, Definitions: []storage.Definition{definition(1)}})
	return l
}

func (l *loader) commit(batch *storage.Batch) {
	if err := l.store.Commit(l.b.Context(), batch); err != nil {
		l.b.Fatal(err)
	}
}

// fill makes the next batch, of n ops.
func (l *loader) fill(n int) {
	l.batch.Ops, l.batch.Rows = l.batch.Ops[:0], l.batch.Rows[:0]
	for range n {
		i := int(l.next)
		id := benchID(i)
		data := fmt.Sprintf(`{"id":"%s","owner_id":"user-%04d","message":"The quick brown fox jumps over the lazy dog, %d times","created_at":"2026-11-22 10:%02d:%02d"}`, id, i%benchBuckets, i, i/60%60, i%60)
		op := put(l.next, id, data)
		l.batch.Ops = append(l.batch.Ops, storage.BucketOp{Bucket: benchBucket(i), Op: op})
		l.batch.Rows = append(l.batch.Rows, storage.RowWrite{
			Ref: storage.RowRef{Table: 1, Key: benchKey(i)},
			Record: &storage.RowRecord{Memberships: []storage.Membership{{
				Bucket: benchBucket(i), ObjectType: "notes", ObjectID: id, Op: l.next, Hash: uint64(i),
			}}},
		})
		l.next++
	}
}

func benchID(i int) string {
	return fmt.Sprintf("%08x-5c1e-4d3f-9a61-d02f6a3c8b17", uint32(i)*2654435761)
}

func benchKey(i int) source.RowKey { return source.RowKey("\x03" + benchID(i) + "\x00\x01") }

// load commits n ops.
func (l *loader) load(n int) {
	for ; n > 0; n -= 2000 {
		l.fill(min(n, 2000))
		l.batch.Publish = true
		l.commit(&l.batch)
	}
}

func benchCommit(b *testing.B, s Store, parts int) {
	const size = 2000
	l := newLoader(b, s)
	b.ReportAllocs()
	b.ResetTimer()
	n := 0
	for b.Loop() {
		b.StopTimer()
		l.fill(size)
		n++
		l.batch.Publish = n%parts == 0
		b.StartTimer()
		l.commit(&l.batch)
	}
	b.ReportMetric(float64(n*size)/b.Elapsed().Seconds(), "ops/s")
}

func benchSingle(b *testing.B, s Store) {
	l := newLoader(b, s)
	l.batch.Publish = true
	for b.Loop() {
		l.fill(1)
		l.commit(&l.batch)
	}
}

// benchRow reads row records in random order, of rows that are there or, with a
// suffix to their keys, are not.
func benchRow(b *testing.B, s Store, suffix source.RowKey) {
	const rows = 300_000
	newLoader(b, s).load(rows)
	refs := make([]storage.RowRef, 4096)
	for i := range refs {
		refs[i] = storage.RowRef{Table: 1, Key: benchKey(1+i*7919%rows) + suffix}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		if _, held, err := s.Row(refs[i%len(refs)]); err != nil || held != (suffix == "") {
			b.Fatal(held, err)
		}
	}
}

func benchScan(b *testing.B, s Store) {
	l := newLoader(b, s)
	l.load(300_000)
	sn, err := s.Snapshot()
	if err != nil {
		b.Fatal(err)
	}
	defer sn.Close()
	b.ReportAllocs()
	b.ResetTimer()
	n, bytes := 0, 0
	for i := 0; b.Loop(); i++ {
		err := sn.Ops(benchBucket(i), 0, func(op *bucket.Op) bool {
			n++
			bytes += len(op.Data)
			return true
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(bytes / b.N))
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "ops/s")
}

func benchStates(b *testing.B, s Store) {
	newLoader(b, s).load(100_000)
	sn, err := s.Snapshot()
	if err != nil {
		b.Fatal(err)
	}
	defer sn.Close()
	keys, out := make([]storage.BucketKey, benchBuckets), make([]bucket.State, benchBuckets)
	for i := range keys {
		keys[i] = benchBucket(i)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		if err := sn.BucketStates(keys, out); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*len(keys))/b.Elapsed().Seconds(), "states/s")
}

// benchTails reads the last op of each bucket, as sessions do after a commit.
func benchTails(b *testing.B, s Store) {
	l := newLoader(b, s)
	l.load(100_000)
	sn, err := s.Snapshot()
	if err != nil {
		b.Fatal(err)
	}
	defer sn.Close()
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		n := 0
		err := sn.Ops(benchBucket(i), l.next-1-benchBuckets, func(*bucket.Op) bool { n++; return true })
		if err != nil || n != 1 {
			b.Fatal(n, err)
		}
	}
}

func benchSnapshot(b *testing.B, s Store) {
	newLoader(b, s)
	b.ReportAllocs()
	for b.Loop() {
		sn, err := s.Snapshot()
		if err != nil {
			b.Fatal(err)
		}
		sn.Close()
	}
}
