package storagetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// Compacter is a Store that can be compacted.
type Compacter interface {
	Store
	Compact(context.Context, storage.CompactOptions) (storage.CompactStats, error)
}

// RunCompaction runs the part of the suite that is about compaction, with a fresh
// medium for each test. What Open returns must be a Compacter.
func RunCompaction(t *testing.T, fresh func(t *testing.T) Harness) {
	for _, test := range []struct {
		name string
		run  func(*tester)
	}{
		{"NewReadersGetLess", newReadersGetLess},
		{"UnpublishedPartsAreWaitedFor", unpublishedPartsAreWaitedFor},
		{"SmallGrowthIsLeftAlone", smallGrowthIsLeftAlone},
		{"GivenBucketsOnly", givenBucketsOnly},
		{"DroppedDefinitions", droppedDefinitions},
		{"RowsOfTablesNotRead", rowsOfTablesNotRead},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(newTester(t, fresh(t))) })
	}
	t.Run("RandomHistory", func(t *testing.T) {
		base := seed(t)
		for i := range uint64(8) {
			t.Run(strconv.FormatUint(base+i, 10), func(t *testing.T) {
				randomCompactions(newTester(t, fresh(t)), base+i)
			})
		}
	})
}

func (t *tester) compact(opts storage.CompactOptions) storage.CompactStats {
	t.Helper()
	stats, err := t.store.(Compacter).Compact(t.Context(), opts)
	if err != nil {
		t.Fatalf("compact: %v", err)
	}
	return stats
}

var (
	compactedBucket = storage.BucketKey{Def: 1, Params: "[]"}
	otherBucket     = storage.BucketKey{Def: 1, Params: `["other"]`}
)

// update commits n updates of a few rows to some buckets, each as its own batch.
func (t *tester) update(from bucket.OpID, n, rows int, keys ...storage.BucketKey) bucket.OpID {
	t.Helper()
	for i := range n {
		b := &storage.Batch{Publish: true, LSN: source.LSN(from)}
		for _, k := range keys {
			b.Ops = append(b.Ops, storage.BucketOp{Bucket: k, Op: put(from, strconv.Itoa(i%rows), fmt.Sprintf(`{"n":%d}`, i))})
			from++
		}
		t.commit(b)
	}
	return from
}

func newReadersGetLess(t *tester) {
	t.define(1)
	t.update(1, 50, 2, compactedBucket)
	before := t.snapshot()
	defer before.Close()
	want := t.state(before, compactedBucket)
	stats := t.compact(storage.CompactOptions{})
	if stats.Buckets != 1 || stats.Cleared != 48 || stats.Bytes == 0 {
		t.Fatalf("stats %+v", stats)
	}
	after := t.snapshot()
	defer after.Close()
	if before.Checkpoint() != after.Checkpoint() {
		t.Fatalf("checkpoint %s became %s", before.Checkpoint(), after.Checkpoint())
	}
	got := t.state(after, compactedBucket)
	ops := t.ops(after, compactedBucket, 0)
	if len(ops) != 3 || ops[0].Kind != bucket.Clear || got.Count != 3 {
		t.Fatalf("ops %v are left, state %+v", ops, got)
	}
	if got.Checksum != want.Checksum || got.Last != want.Last || got.Bytes != int64(len(ops[1].Data)+len(ops[2].Data)) {
		t.Fatalf("state %+v became %+v", want, got)
	}
	if n := len(t.ops(before, compactedBucket, 0)); n != 50 || t.state(before, compactedBucket) != want {
		t.Fatalf("a snapshot that was open sees %d ops of 50", n)
	}
	t.reopen()
	again := t.snapshot()
	defer again.Close()
	if t.state(again, compactedBucket) != got || len(t.ops(again, compactedBucket, 0)) != 3 {
		t.Fatal("the compacted bucket changed when the store was opened again")
	}
}

// unpublishedPartsAreWaitedFor also has a rollback restore what was compacted, and
// not what was there before.
func unpublishedPartsAreWaitedFor(t *tester) {
	t.define(1)
	next := t.update(1, 50, 2, compactedBucket)
	part := func(id bucket.OpID, publish bool) *storage.Batch {
		return &storage.Batch{Publish: publish, LSN: source.LSN(id), Ops: []storage.BucketOp{
			{Bucket: compactedBucket, Op: put(id, "0", "{}")}}}
	}
	t.commit(part(next, false))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := t.store.(Compacter).Compact(ctx, storage.CompactOptions{})
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("compaction among unpublished parts: %v, want that it waits until canceled", err)
	}
	go func() {
		_, err := t.store.(Compacter).Compact(t.Context(), storage.CompactOptions{})
		done <- err
	}()
	t.commit(part(next+1, false))
	t.commit(part(next+2, true))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.compact(storage.CompactOptions{})
	count := func() int64 {
		sn := t.snapshot()
		defer sn.Close()
		return t.state(sn, compactedBucket).Count
	}
	compacted := count()
	if compacted != 5 { // a CLEAR, two rows, two MOVEs
		t.Fatalf("%d ops are left, want 5", compacted)
	}
	t.commit(part(next+3, false))
	t.recover()
	if got := count(); got != compacted {
		t.Fatalf("%d ops after parts were taken back, want %d", got, compacted)
	}
}

func smallGrowthIsLeftAlone(t *tester) {
	t.define(1)
	next := t.update(1, 50, 2, compactedBucket)
	if s := t.compact(storage.CompactOptions{Incremental: true}); s != (storage.CompactStats{}) {
		t.Fatalf("50 ops were not left alone: %+v", s)
	}
	next = t.update(next, 1000, 2, compactedBucket)
	if s := t.compact(storage.CompactOptions{Incremental: true, Share: 0.5}); s.Buckets != 1 || s.Cleared != 1048 {
		t.Fatalf("1050 ops were compacted as %+v", s)
	}
	t.update(next, 20, 2, compactedBucket)
	if s := t.compact(storage.CompactOptions{Incremental: true}); s != (storage.CompactStats{}) {
		t.Fatalf("a growth by 20 was not left alone: %+v", s)
	}
	if s := t.compact(storage.CompactOptions{}); s.Cleared == 0 {
		t.Fatalf("a growth by 20 was left alone by a full compaction: %+v", s)
	}
}

func givenBucketsOnly(t *tester) {
	t.define(1)
	t.update(1, 50, 2, compactedBucket, otherBucket)
	never := storage.BucketKey{Def: 1, Params: `["never"]`}
	unknown := storage.BucketKey{Def: 9, Params: "[]"}
	t.compact(storage.CompactOptions{Buckets: []storage.BucketKey{otherBucket, never, unknown}})
	sn := t.snapshot()
	defer sn.Close()
	if n := t.state(sn, compactedBucket).Count; n != 50 {
		t.Errorf("a bucket that was not given has %d ops of 50", n)
	}
	if n := t.state(sn, otherBucket).Count; n != 3 {
		t.Errorf("the bucket that was given has %d ops, want 3", n)
	}
	for _, k := range []storage.BucketKey{never, unknown} {
		if s := t.state(sn, k); s != (bucket.State{}) {
			t.Errorf("bucket %v came into being: %+v", k, s)
		}
	}
}

func droppedDefinitions(t *tester) {
	t.define(1, 2)
	second := storage.BucketKey{Def: 2, Params: "[]"}
	next := t.update(1, 50, 2, compactedBucket, second)
	t.compact(storage.CompactOptions{})
	t.commit(&storage.Batch{Drop: []storage.DefinitionID{1}, Publish: true, LSN: source.LSN(next)})
	t.compact(storage.CompactOptions{})
	t.compact(storage.CompactOptions{Buckets: []storage.BucketKey{compactedBucket}})
	sn := t.snapshot()
	defer sn.Close()
	if s := t.state(sn, compactedBucket); s != (bucket.State{}) || len(t.ops(sn, compactedBucket, 0)) != 0 {
		t.Errorf("compaction brought a dropped bucket back: %+v", s)
	}
	if n := t.state(sn, second).Count; n != 3 {
		t.Errorf("the other bucket has %d ops, want 3", n)
	}
}

func rowsOfTablesNotRead(t *tester) {
	read := definition(1)
	read.Tables = []storage.TableProgress{{Table: 1, Done: true}}
	gone := definition(2)
	gone.Tables = []storage.TableProgress{{Table: 2, Done: true}, {Table: 1, Done: true}}
	next := definition(3)
	next.State = storage.Backfilling
	row := func(table source.TableID, key source.RowKey, def storage.DefinitionID) storage.RowWrite {
		rec := &storage.RowRecord{Memberships: []storage.Membership{{Bucket: storage.BucketKey{Def: def, Params: "[]"}, ObjectID: string(key), Op: 1}}}
		return storage.RowWrite{Ref: storage.RowRef{Table: table, Key: key}, Record: rec}
	}
	t.commit(&storage.Batch{
		Definitions: []storage.Definition{read, gone, next}, Publish: true, LSN: 1,
		Rows: []storage.RowWrite{row(1, "a", 2), row(1, "b", 1), row(2, "a", 2), row(2, "b", 2), row(2, "c", 1), row(1<<32-1, "z", 2)},
	})
	if n := t.compact(storage.CompactOptions{}).Rows; n != 0 {
		t.Fatalf("%d rows were dropped, though all definitions are there", n)
	}
	t.commit(&storage.Batch{Drop: []storage.DefinitionID{2}, Publish: true, LSN: 2})
	if n := t.compact(storage.CompactOptions{}).Rows; n != 0 {
		t.Fatalf("%d rows were dropped, though a definition is being backfilled", n)
	}
	t.reopen()
	next.State = storage.Serving
	t.commit(&storage.Batch{Definitions: []storage.Definition{next}, Publish: true, LSN: 3})
	if n := t.compact(storage.CompactOptions{}).Rows; n != 3 {
		t.Fatalf("%d rows were dropped, want 3", n)
	}
	for _, want := range []struct {
		ref  storage.RowRef
		held bool
	}{
		{storage.RowRef{Table: 1, Key: "a"}, true}, // its table is read
		{storage.RowRef{Table: 1, Key: "b"}, true},
		{storage.RowRef{Table: 2, Key: "a"}, false},
		{storage.RowRef{Table: 2, Key: "b"}, false},
		{storage.RowRef{Table: 2, Key: "c"}, true}, // its definition is there
		{storage.RowRef{Table: 1<<32 - 1, Key: "z"}, false},
	} {
		if _, held, err := t.store.Row(want.ref); err != nil || held != want.held {
			t.Errorf("row %v is held: %v, %v; want %v", want.ref, held, err, want.held)
		}
	}
	if n := t.compact(storage.CompactOptions{}).Rows; n != 0 {
		t.Fatalf("%d more rows were dropped", n)
	}
}

// replica is what a client has of one bucket.
type replica struct {
	at   bucket.OpID
	sum  bucket.Checksum
	rows map[entry]string
}

type entry struct {
	objectType, objectID string
	subkey               bucket.Subkey
}

func (r *replica) apply(op *bucket.Op) {
	key := entry{op.ObjectType, op.ObjectID, op.Subkey}
	r.at, r.sum = op.ID, r.sum+op.Checksum
	switch op.Kind {
	case bucket.Put:
		r.rows[key] = string(op.Data)
	case bucket.Remove:
		delete(r.rows, key)
	case bucket.Clear:
		clear(r.rows)
		r.sum = op.Checksum
	}
}

// replay returns what a client has that got all ops up to one.
func replay(ops []bucket.Op, until bucket.OpID) *replica {
	r := &replica{rows: map[entry]string{}}
	for i := range ops {
		if ops[i].ID <= until {
			r.apply(&ops[i])
		}
	}
	r.at = until
	return r
}

// compactions is a random history with compactions in it. Its models are never
// compacted.
type compactions struct {
	*tester
	rng               *rand.Rand
	newest, published *model
	replicas          map[storage.BucketKey][]*replica
	held              []heldSnapshot
	lsn               source.LSN
}

func randomCompactions(t *tester, seed uint64) {
	h := &compactions{
		tester: t, rng: rand.New(rand.NewPCG(seed, 4)), newest: newModel(), published: newModel(),
		replicas: map[storage.BucketKey][]*replica{},
	}
	h.write(true)
	var did storage.CompactStats
	for range 40 {
		switch n := h.rng.IntN(20); {
		case n < 8:
			h.write(true)
		case n < 10:
			h.write(false)
			if h.rng.IntN(2) == 0 {
				h.recover()
				h.newest = h.newest.discard(h.published)
			} else {
				h.write(true)
			}
		case n < 14:
			s := h.compact(storage.CompactOptions{Incremental: h.rng.IntN(2) == 0})
			did.Add(s.Compacted)
		case n < 15:
			h.reopen()
			h.held = nil
		case n < 16:
			h.crash(h.rng)
			h.held = nil
			h.newest = h.newest.discard(h.published)
			h.newest.nextOp = h.recover().NextOp
		case n < 17 && len(h.held) < 3:
			h.held = append(h.held, heldSnapshot{h.snapshot(), h.published})
		default:
			h.read(h.rng.IntN(300))
		}
		h.check()
	}
	h.compact(storage.CompactOptions{})
	h.check()
	h.read(1 << 30)
	for _, s := range h.held {
		s.sn.Close()
	}
	if did.Cleared+did.Moved == 0 {
		t.Errorf("the dice never reached what is to be tested: %+v", did)
	}
}

var compactionBuckets = []storage.BucketKey{{Def: 1, Params: "[]"}, {Def: 1, Params: `["a"]`}, {Def: 2, Params: "[]"}}

func (h *compactions) write(publish bool) {
	h.lsn++
	b := &storage.Batch{Publish: publish, LSN: h.lsn}
	if len(h.newest.defs) == 0 {
		b.Definitions = []storage.Definition{definition(1), definition(2)}
	}
	id := h.newest.nextOp
	for range h.rng.IntN(150) {
		object := h.rng.IntN(60)
		if h.rng.IntN(2) == 0 {
			object %= 3
		}
		op := put(id, strconv.Itoa(object), fmt.Sprintf(`{"n":%d}`, id))
		if h.rng.IntN(4) == 0 {
			op = remove(id, strconv.Itoa(object))
		}
		b.Ops = append(b.Ops, storage.BucketOp{Bucket: pick(h.rng, compactionBuckets), Op: op})
		id += bucket.OpID(1 + h.rng.IntN(2))
	}
	h.commit(b)
	h.newest.apply(b)
	if publish {
		h.published = h.newest.clone()
	}
}

// read has clients at all kinds of positions download up to some ops.
func (h *compactions) read(limit int) {
	sn := h.snapshot()
	defer sn.Close()
	for _, key := range compactionBuckets {
		fresh := &replica{rows: map[entry]string{}}
		h.replicas[key] = append(h.replicas[key], fresh)
		for _, r := range h.replicas[key] {
			left := limit
			done := true
			err := sn.Ops(key, r.at, func(op *bucket.Op) bool {
				if left == 0 {
					done = false
					return false
				}
				left--
				r.apply(op)
				return true
			})
			if err != nil {
				h.Fatalf("ops: %v", err)
			}
			if done {
				h.same(sn, key, r, h.published)
			}
		}
	}
}

// same expects a client that has all ops of a snapshot to have what is true.
func (h *compactions) same(sn Snapshot, key storage.BucketKey, r *replica, m *model) {
	h.Helper()
	want := replay(m.ops[key], bucket.MaxOpID)
	if state := h.state(sn, key); r.sum != state.Checksum || r.sum != want.sum {
		h.Fatalf("bucket %v: a client sums to %d, announced %d, without compaction %d", key, r.sum, state.Checksum, want.sum)
	}
	if !maps.Equal(r.rows, want.rows) {
		h.Fatalf("bucket %v: a client has %v, want %v", key, r.rows, want.rows)
	}
}

// check has clients from every position that was ever announced read all, from the
// newest snapshot and one that was held.
func (h *compactions) check() {
	h.Helper()
	sn := h.snapshot()
	h.checkSnapshot(sn, h.published)
	sn.Close()
	if len(h.held) > 0 {
		old := pick(h.rng, h.held)
		h.checkSnapshot(old.sn, old.m)
	}
}

func (h *compactions) checkSnapshot(sn Snapshot, m *model) {
	h.Helper()
	if sn.Checkpoint() != m.checkpoint {
		h.Fatalf("checkpoint %s, want %s", sn.Checkpoint(), m.checkpoint)
	}
	for _, key := range compactionBuckets {
		left := h.ops(sn, key, 0)
		var state bucket.State
		for i := range left {
			state = state.Add(&left[i])
		}
		if got := h.state(sn, key); got != state {
			h.Fatalf("bucket %v: state %+v, the ops give %+v", key, got, state)
		}
		all := m.ops[key]
		positions := []bucket.OpID{0}
		for range 3 {
			if len(all) > 0 {
				positions = append(positions, pick(h.rng, all).ID)
			}
		}
		for _, p := range positions {
			r := replay(all, p)
			for _, op := range h.ops(sn, key, p) {
				r.apply(&op)
			}
			h.same(sn, key, r, m)
		}
		if !slices.IsSortedFunc(left, func(a, b bucket.Op) int { return int(a.ID) - int(b.ID) }) {
			h.Fatalf("bucket %v: ops out of order", key)
		}
	}
}
