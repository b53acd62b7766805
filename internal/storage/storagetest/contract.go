package storagetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// contract is one test for each promise.
var contract = []struct {
	name string
	run  func(*tester)
}{
	{"FreshStore", freshStore},
	{"IdentityIsKept", identityIsKept},
	{"LockExcludesSecondOpen", lockExcludesSecondOpen},
	{"BucketsAreSeparate", bucketsAreSeparate},
	{"OpsStopWhenTold", opsStopWhenTold},
	{"SnapshotIsFixed", snapshotIsFixed},
	{"PartsAreNotSeen", partsAreNotSeen},
	{"PartsAreTakenBackAfterCrash", partsAreTakenBackAfterCrash},
	{"PartsAreTakenBackByRecover", partsAreTakenBackByRecover},
	{"ReplayAfterCrash", replayAfterCrash},
	{"OpIDsOnlyGrow", opIDsOnlyGrow},
	{"InvalidBatchesWriteNothing", invalidBatchesWriteNothing},
	{"DropRemovesADefinition", dropRemovesADefinition},
	{"DefinitionIDsAreNotReused", definitionIDsAreNotReused},
	{"DeploysReplaceEachOther", deploysReplaceEachOther},
	{"LookupsPerSnapshot", lookupsPerSnapshot},
	{"RowRecords", rowRecords},
	{"RowsOfWhileCommitting", rowsOfWhileCommitting},
	{"LSNWithoutOps", lsnWithoutOps},
	{"WriteCheckpointNumbering", writeCheckpointNumbering},
	{"WriteCheckpointsAreDurable", writeCheckpointsAreDurable},
	{"WriteCheckpointLimit", writeCheckpointLimit},
	{"CheckpointRequestsAreForgotten", checkpointRequestsAreForgotten},
	{"ClosedStore", closedStore},
	{"CancelledContext", cancelledContext},
	{"ReadersDuringCommits", readersDuringCommits},
}

var (
	bucketA = storage.BucketKey{Def: 1, Params: `["a"]`}
	bucketB = storage.BucketKey{Def: 1, Params: `["a","b"]`}
)

func bucketOps(key storage.BucketKey, ops ...bucket.Op) []storage.BucketOp {
	var out []storage.BucketOp
	for _, op := range ops {
		out = append(out, storage.BucketOp{Bucket: key, Op: op})
	}
	return out
}

func freshStore(t *tester) {
	r := t.recover()
	if r.NextOp != 1 || r.NextDefinition != 1 || r.Checkpoint != (storage.Checkpoint{}) || len(r.Definitions)+len(r.Deploys) > 0 {
		t.Fatalf("fresh store recovered %+v", r)
	}
	if len(r.Epoch) != 5 || r.Secret == [32]byte{} {
		t.Fatalf("fresh store has epoch %q", r.Epoch)
	}
	for _, c := range r.Epoch {
		if (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			t.Fatalf("epoch %q has a character that is not of a-z or 2-7", r.Epoch)
		}
	}
	sn := t.snapshot()
	defer sn.Close()
	newModel().checkSnapshot(t, sn, allBuckets(3), allLookups(3))
	if _, ok, err := t.store.WriteCheckpoint("u"); ok || err != nil {
		t.Fatalf("fresh store has a write checkpoint: %v, %v", ok, err)
	}
}

func identityIsKept(t *tester) {
	first := t.recover()
	t.reopen()
	t.crash(rand.New(rand.NewPCG(1, 1)))
	if r := t.recover(); r.Epoch != first.Epoch || r.Secret != first.Secret {
		t.Fatal("epoch or secret changed")
	}
}

func lockExcludesSecondOpen(t *tester) {
	second, err := t.harness.Open()
	if !errors.Is(err, storage.ErrLocked) {
		if err == nil {
			_ = second.Close()
		}
		t.Fatalf("second open: %v, want ErrLocked", err)
	}
	t.define(1) // the first one works on
	t.reopen()
}

func bucketsAreSeparate(t *tester) {
	t.define(1, 2)
	other := storage.BucketKey{Def: 2, Params: bucketA.Params}
	t.commit(&storage.Batch{Publish: true, LSN: 5, Ops: slices.Concat(
		bucketOps(bucketA, put(1, "x", "1")),
		bucketOps(bucketB, put(2, "x", "22")),
		bucketOps(other, put(3, "x", "333")),
		bucketOps(bucketA, remove(4, "x")),
	)})
	sn := t.snapshot()
	defer sn.Close()
	m := newModel()
	m.checkpoint = storage.Checkpoint{Op: 4, LSN: 5}
	m.ops[bucketA] = []bucket.Op{put(1, "x", "1"), remove(4, "x")}
	m.ops[bucketB] = []bucket.Op{put(2, "x", "22")}
	m.ops[other] = []bucket.Op{put(3, "x", "333")}
	m.checkSnapshot(t, sn, allBuckets(4), nil)
	if s := t.state(sn, bucketA); s.Count != 2 || s.Last != 4 || s.Bytes != 1 {
		t.Fatalf("state %+v", s)
	}
}

func opsStopWhenTold(t *tester) {
	t.define(1)
	t.commit(&storage.Batch{Publish: true, Ops: bucketOps(bucketA, put(1, "x", "1"), put(2, "y", "2"), put(3, "z", "3"))})
	sn := t.snapshot()
	defer sn.Close()
	var seen []bucket.OpID
	var kept []string
	err := sn.Ops(bucketA, 0, func(op *bucket.Op) bool {
		seen, kept = append(seen, op.ID), append(kept, op.ObjectID)
		return len(seen) < 2
	})
	if err != nil || !slices.Equal(seen, []bucket.OpID{1, 2}) || !slices.Equal(kept, []string{"x", "y"}) {
		t.Fatalf("saw %v %v, %v", seen, kept, err)
	}
	if got := t.ops(sn, bucketA, bucket.MaxOpID); len(got) > 0 {
		t.Fatalf("ops after the largest id: %v", got)
	}
}

func snapshotIsFixed(t *tester) {
	t.define(1)
	m := newModel()
	first := &storage.Batch{Publish: true, LSN: 10, Ops: bucketOps(bucketA, put(1, "x", "1"))}
	t.commit(first)
	m.apply(first)
	sn := t.snapshot()
	defer sn.Close()
	t.commit(&storage.Batch{Publish: true, LSN: 20, Ops: bucketOps(bucketA, put(2, "x", "2"))})
	t.commit(&storage.Batch{Publish: true, LSN: 30, Drop: []storage.DefinitionID{1}})
	m.checkSnapshot(t, sn, []storage.BucketKey{bucketB}, nil)

	newest := t.snapshot()
	defer newest.Close()
	if got := newest.Checkpoint(); got != (storage.Checkpoint{Op: 2, LSN: 30}) {
		t.Fatalf("newest checkpoint %s", got)
	}
	if s := t.state(newest, bucketA); s != (bucket.State{}) {
		t.Fatalf("dropped bucket has state %+v", s)
	}
	sn.Close()
	sn.Close() // does no harm
	if err := sn.Ops(bucketA, 0, func(*bucket.Op) bool { return true }); !errors.Is(err, storage.ErrClosed) {
		t.Fatalf("read from a closed snapshot: %v", err)
	}
}

// someTransaction commits a published batch, then two parts that change and add
// everything that a part can.
func someTransaction(t *tester) (published *model, parts []*storage.Batch) {
	m := newModel()
	lookup := storage.LookupKey{Def: 2, Key: "k"}
	row := storage.RowRef{Table: 7, Key: "r"}
	first := &storage.Batch{
		Publish: true, LSN: 100,
		Definitions: []storage.Definition{definition(1), definition(2)},
		Deploy:      &storage.Deploy{ID: 1, SyncConfig: "one", State: storage.DeployServing},
		Ops:         bucketOps(bucketA, put(1, "x", "1"), put(2, "y", "1")),
		Rows:        []storage.RowWrite{{Ref: row, Record: &storage.RowRecord{Copies: 1}}},
		Lookups:     []storage.LookupWrite{{Lookup: lookup, Row: bucket.Subkey{1}, Values: []byte("v")}},
	}
	t.commit(first)
	m.apply(first)
	backfilling := definition(2)
	backfilling.State = storage.Backfilling
	parts = []*storage.Batch{{
		Definitions: []storage.Definition{definition(3), backfilling},
		Deploy:      &storage.Deploy{ID: 2, SyncConfig: "two", State: storage.DeployServing},
		Ops:         slices.Concat(bucketOps(bucketA, remove(3, "x")), bucketOps(bucketB, put(4, "x", "2"))),
		Rows: []storage.RowWrite{
			{Ref: row, Record: &storage.RowRecord{Copies: 2}},
			{Ref: storage.RowRef{Table: 7, Key: "new"}, Record: &storage.RowRecord{}},
		},
		Lookups: []storage.LookupWrite{
			{Lookup: lookup, Row: bucket.Subkey{1}},
			{Lookup: lookup, Row: bucket.Subkey{2}, Values: []byte("w")},
		},
	}, {
		Ops:  slices.Concat(bucketOps(bucketA, put(5, "x", "3")), bucketOps(bucketB, put(6, "x", "4"))),
		Rows: []storage.RowWrite{{Ref: row}},
	}}
	for _, p := range parts {
		t.commit(p)
	}
	return m, parts
}

func partsAreNotSeen(t *tester) {
	m, parts := someTransaction(t)
	sn := t.snapshot()
	defer sn.Close()
	m.checkSnapshot(t, sn, []storage.BucketKey{bucketB}, nil)
	// The writer reads its own parts.
	newest := m.clone()
	for _, p := range parts {
		newest.apply(p)
	}
	newest.checkRows(t, t.store, []source.TableID{7}, []storage.RowRef{{Table: 7, Key: "r"}})

	last := &storage.Batch{Publish: true, LSN: 200, NoSync: true}
	t.commit(last)
	newest.apply(last)
	if got := t.store.DurableLSN(); got != 200 {
		t.Fatalf("durable LSN %s after parts were published with NoSync, want 0/C8", got)
	}
	m.checkSnapshot(t, sn, []storage.BucketKey{bucketB}, nil)
	whole := t.snapshot()
	defer whole.Close()
	newest.checkSnapshot(t, whole, nil, nil)
	t.crash(rand.New(rand.NewPCG(1, 1)))
	newest.checkRecovered(t, t.recover())
	t.checkAll(newest)
}

// checkAll compares the published state and the rows of table 7 with a model.
func (t *tester) checkAll(m *model) {
	t.Helper()
	sn := t.snapshot()
	defer sn.Close()
	m.checkSnapshot(t, sn, []storage.BucketKey{bucketA, bucketB}, []storage.LookupKey{{Def: 2, Key: "k"}})
	m.checkRows(t, t.store, []source.TableID{7}, []storage.RowRef{{Table: 7, Key: "new"}})
}

func partsAreTakenBackAfterCrash(t *tester) {
	m, _ := someTransaction(t)
	t.crash(rand.New(rand.NewPCG(2, 2)))
	r := t.recover()
	m.checkRecovered(t, r)
	if r.NextOp != 7 {
		t.Fatalf("next op %s after parts up to 6 were taken back, want 7", r.NextOp)
	}
	t.checkAll(m)
	t.reopen()
	m.checkRecovered(t, t.recover())
	t.checkAll(m)
}

func partsAreTakenBackByRecover(t *tester) {
	m, _ := someTransaction(t)
	sn := t.snapshot()
	defer sn.Close()
	for range 2 {
		r := t.recover()
		m.checkRecovered(t, r)
		if r.NextOp != 7 {
			t.Fatalf("next op %s after parts up to 6 were taken back, want 7", r.NextOp)
		}
		t.checkAll(m)
	}
	m.checkSnapshot(t, sn, nil, nil)
	b := &storage.Batch{Publish: true, LSN: 150, Ops: bucketOps(bucketB, put(7, "x", "5"))}
	t.commit(b)
	m.apply(b)
	t.checkAll(m)
	t.crash(rand.New(rand.NewPCG(3, 3)))
	m.checkRecovered(t, t.recover())
	t.checkAll(m)
}

// replayAfterCrash plays the transaction of which parts were lost again, as
// replication does, with the ids that come next.
func replayAfterCrash(t *tester) {
	m, _ := someTransaction(t)
	t.crash(rand.New(rand.NewPCG(4, 4)))
	next := t.recover().NextOp
	parts := []*storage.Batch{
		{Ops: bucketOps(bucketA, remove(next, "x")), Rows: []storage.RowWrite{{Ref: storage.RowRef{Table: 7, Key: "r"}}}},
		{Ops: bucketOps(bucketB, put(next+1, "x", "2"))},
		{Ops: bucketOps(bucketB, put(next+2, "x", "4")), Publish: true, LSN: 200},
	}
	for i, p := range parts {
		if i > 0 {
			t.checkPublished(m.checkpoint)
		}
		t.commit(p)
	}
	for _, p := range parts {
		m.apply(p)
	}
	t.checkAll(m)
}

func (t *tester) checkPublished(want storage.Checkpoint) {
	t.Helper()
	sn := t.snapshot()
	defer sn.Close()
	if got := sn.Checkpoint(); got != want {
		t.Fatalf("checkpoint %s, want %s", got, want)
	}
}

func opIDsOnlyGrow(t *tester) {
	t.define(1)
	t.commit(&storage.Batch{Publish: true, Ops: bucketOps(bucketA, put(10, "x", "1"))})
	t.commit(&storage.Batch{Ops: bucketOps(bucketA, put(20, "x", "2"))})
	t.reopen() // takes 20 back, but not its id
	if next := t.recover().NextOp; next != 21 {
		t.Fatalf("next op %s, want 21", next)
	}
	for _, id := range []bucket.OpID{0, 5, 10, 20, bucket.MaxOpID + 1} {
		err := t.store.Commit(t.Context(), &storage.Batch{Publish: true, Ops: bucketOps(bucketA, put(id, "x", "3"))})
		if !errors.Is(err, storage.ErrBatch) {
			t.Fatalf("op id %s: %v, want ErrBatch", id, err)
		}
	}
	t.commit(&storage.Batch{Publish: true, Ops: bucketOps(bucketA, put(21, "x", "3"), put(bucket.MaxOpID, "y", "4"))})
	sn := t.snapshot()
	defer sn.Close()
	if got := t.ops(sn, bucketA, 10); len(got) != 2 || got[1].ID != bucket.MaxOpID {
		t.Fatalf("ops %v", got)
	}
}

func invalidBatchesWriteNothing(t *tester) {
	t.define(1)
	good := bucketOps(bucketA, put(1, "x", "1"))
	for name, b := range map[string]*storage.Batch{
		"ids not ascending":   {Publish: true, Ops: bucketOps(bucketA, put(2, "x", "1"), put(2, "y", "1"))},
		"unknown kind":        {Publish: true, Ops: append(slices.Clone(good), bucketOps(bucketA, bucket.Op{ID: 2, Kind: 9})...)},
		"unknown definition":  {Publish: true, Ops: append(slices.Clone(good), bucketOps(storage.BucketKey{Def: 9, Params: "[]"}, put(2, "y", "1"))...)},
		"no definition":       {Publish: true, Ops: bucketOps(storage.BucketKey{Params: "[]"}, put(2, "y", "1"))},
		"dropped definition":  {Publish: true, Ops: good, Drop: []storage.DefinitionID{1}},
		"stored and dropped":  {Publish: true, Definitions: []storage.Definition{definition(1)}, Drop: []storage.DefinitionID{1}},
		"drop in a part":      {Drop: []storage.DefinitionID{1}},
		"zero byte in params": {Publish: true, Ops: append(slices.Clone(good), bucketOps(storage.BucketKey{Def: 1, Params: "[\x00]"}, put(2, "y", "1"))...)},
		"lookup of none":      {Publish: true, Ops: good, Lookups: []storage.LookupWrite{{Lookup: storage.LookupKey{Def: 5}, Values: []byte("v")}}},
		"deploy of no state":  {Publish: true, Ops: good, Deploy: &storage.Deploy{ID: 1}},
	} {
		if err := t.store.Commit(t.Context(), b); !errors.Is(err, storage.ErrBatch) {
			t.Errorf("%s: %v, want ErrBatch", name, err)
		}
	}
	sn := t.snapshot()
	defer sn.Close()
	if s := t.state(sn, bucketA); s != (bucket.State{}) || sn.Checkpoint() != (storage.Checkpoint{}) {
		t.Fatalf("an invalid batch left state %+v at %s", s, sn.Checkpoint())
	}
	t.commit(&storage.Batch{Publish: true, Ops: good}) // its id is still free
}

func dropRemovesADefinition(t *tester) {
	t.define(1, 2, 3)
	key2 := storage.BucketKey{Def: 2, Params: `["a"]`}
	key3 := storage.BucketKey{Def: 3, Params: `["a"]`}
	b := &storage.Batch{Publish: true, LSN: 9, Ops: slices.Concat(
		bucketOps(bucketA, put(1, "x", "1")), bucketOps(key2, put(2, "x", "1")), bucketOps(key3, put(3, "x", "1"))),
	}
	for def := storage.DefinitionID(1); def <= 3; def++ {
		b.Lookups = append(b.Lookups, storage.LookupWrite{Lookup: storage.LookupKey{Def: def, Key: "k"}, Values: []byte("v")})
	}
	t.commit(b)
	t.commit(&storage.Batch{Publish: true, LSN: 10, Drop: []storage.DefinitionID{2, 77}})
	check := func() {
		t.Helper()
		sn := t.snapshot()
		defer sn.Close()
		for key, want := range map[storage.BucketKey]int{bucketA: 1, key2: 0, key3: 1} {
			if got := len(t.ops(sn, key, 0)); got != want {
				t.Fatalf("%d ops in %v, want %d", got, key, want)
			}
			if got := int(t.state(sn, key).Count); got != want {
				t.Fatalf("count %d in %v, want %d", got, key, want)
			}
			if got := len(t.lookup(sn, storage.LookupKey{Def: key.Def, Key: "k"})); got != want {
				t.Fatalf("%d lookup entries of %d, want %d", got, key.Def, want)
			}
		}
	}
	check()
	t.crash(rand.New(rand.NewPCG(5, 5)))
	check()
	if defs := t.recover().Definitions; len(defs) != 2 || defs[0].ID != 1 || defs[1].ID != 3 {
		t.Fatalf("definitions %v", defs)
	}
}

func definitionIDsAreNotReused(t *tester) {
	t.define(1, 5)
	t.commit(&storage.Batch{Publish: true, Drop: []storage.DefinitionID{5}})
	t.reopen()
	if next := t.recover().NextDefinition; next != 6 {
		t.Fatalf("next definition %d, want 6", next)
	}
	for _, id := range []storage.DefinitionID{0, 3, 5} {
		err := t.store.Commit(t.Context(), &storage.Batch{Publish: true, Definitions: []storage.Definition{definition(id)}})
		if !errors.Is(err, storage.ErrBatch) {
			t.Fatalf("definition id %d: %v, want ErrBatch", id, err)
		}
	}
	t.define(6)
}

func deploysReplaceEachOther(t *tester) {
	t.define(1, 2)
	one := storage.Deploy{ID: 1, SyncConfig: "one: é\x00", Source: "system/1", Definitions: []storage.DefinitionID{1}, State: storage.DeployServing}
	two := storage.Deploy{ID: 2, SyncConfig: "two", Definitions: []storage.DefinitionID{2, 1}, State: storage.DeployPending}
	t.commit(&storage.Batch{Publish: true, Deploy: &one})
	t.commit(&storage.Batch{Publish: true, Deploy: &two})
	m := newModel()
	m.defs = map[storage.DefinitionID]storage.Definition{1: definition(1), 2: definition(2)}
	m.deploys = map[uint64]storage.Deploy{1: one, 2: two}
	t.reopen()
	m.checkRecovered(t, t.recover())

	two.State = storage.DeployServing
	t.commit(&storage.Batch{Publish: true, Deploy: &two})
	m.deploys = map[uint64]storage.Deploy{2: two}
	t.reopen()
	m.checkRecovered(t, t.recover())
}

func lookupsPerSnapshot(t *tester) {
	t.define(1, 2)
	key := storage.LookupKey{Def: 1, Key: "owner\x00u"}
	set := func(row byte, values []byte) {
		t.Helper()
		t.commit(&storage.Batch{Publish: true, Lookups: []storage.LookupWrite{
			{Lookup: key, Row: bucket.Subkey{row}, Values: values},
			{Lookup: storage.LookupKey{Def: 1, Key: "owner"}, Row: bucket.Subkey{row}, Values: []byte("other key")},
			{Lookup: storage.LookupKey{Def: 2, Key: key.Key}, Row: bucket.Subkey{row}, Values: []byte("other definition")},
		}})
	}
	var snapshots []Snapshot
	take := func() { snapshots = append(snapshots, t.snapshot()) }
	take()
	set(1, []byte("a"))
	take()
	set(2, []byte{})
	set(1, []byte("b"))
	take()
	set(1, nil)
	take()
	for i, want := range [][]string{nil, {"a"}, {"", "b"}, {""}} {
		got := t.lookup(snapshots[i], key)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("lookup in snapshot %d is %q, want %q", i, got, want)
		}
		snapshots[i].Close()
	}
	sn := t.snapshot()
	defer sn.Close()
	stop := errors.New("stop")
	if err := sn.Lookup(key, func([]byte) error { return stop }); !errors.Is(err, stop) {
		t.Fatalf("lookup returned %v, want what yield returned", err)
	}
}

func rowRecords(t *tester) {
	t.define(1, 2)
	rec := &storage.RowRecord{
		Memberships: []storage.Membership{
			{Bucket: bucketA, ObjectType: "notes", ObjectID: "1", Op: bucket.MaxOpID, Hash: 1<<64 - 1},
			{Bucket: bucketB, ObjectType: "notes", ObjectID: "", Op: 1, Hash: 0},
		},
		Lookups: []storage.Contribution{{Lookup: storage.LookupKey{Def: 2, Key: "a\x00\xff"}, Hash: 1 << 63}},
		Kept: []storage.Kept{
			{Column: "body", Datum: source.Datum{Encoding: source.Binary, Bytes: make([]byte, 70_000)}},
			{Column: "gone", Datum: source.Datum{Encoding: source.Null}},
		},
		Copies: 1 << 40,
	}
	refs := []storage.RowRef{{Table: 1, Key: ""}, {Table: 1, Key: "\x00"}, {Table: 1, Key: "\xff\xff"}, {Table: 2, Key: ""}, {Table: 1<<32 - 1, Key: "z"}}
	m := newModel()
	b := &storage.Batch{Publish: true}
	for _, ref := range refs {
		b.Rows = append(b.Rows, storage.RowWrite{Ref: ref, Record: rec})
	}
	t.commit(b)
	m.apply(b)
	tables := []source.TableID{0, 1, 2, 3, 1<<32 - 1}
	m.checkRows(t, t.store, tables, nil)

	b = &storage.Batch{Publish: true, Rows: []storage.RowWrite{
		{Ref: refs[1]}, {Ref: refs[2], Record: &storage.RowRecord{}}, {Ref: storage.RowRef{Table: 9, Key: "never there"}},
	}}
	t.commit(b)
	m.apply(b)
	m.checkRows(t, t.store, tables, refs)
	t.reopen()
	m.checkRows(t, t.store, tables, refs)

	stop := errors.New("stop")
	n := 0
	err := t.store.RowsOf(1, func(source.RowKey, *storage.RowRecord) error { n++; return stop })
	if !errors.Is(err, stop) || n != 1 {
		t.Fatalf("rows returned %v after %d calls, want what yield returned after 1", err, n)
	}
}

// rowsOfWhileCommitting deletes rows as they are listed, as a truncation does.
func rowsOfWhileCommitting(t *tester) {
	b := &storage.Batch{Publish: true}
	for i := range 500 {
		b.Rows = append(b.Rows, storage.RowWrite{Ref: storage.RowRef{Table: 3, Key: source.RowKey(fmt.Sprintf("%04d", i))}, Record: &storage.RowRecord{}})
	}
	t.commit(b)
	n := 0
	err := t.store.RowsOf(3, func(key source.RowKey, _ *storage.RowRecord) error {
		n++
		return t.store.Commit(t.Context(), &storage.Batch{Publish: n == 500, Rows: []storage.RowWrite{{Ref: storage.RowRef{Table: 3, Key: key}}}})
	})
	if err != nil || n != 500 {
		t.Fatalf("listed %d rows, %v; want 500", n, err)
	}
	newModel().checkRows(t, t.store, []source.TableID{3}, nil)
}

func lsnWithoutOps(t *tester) {
	t.define(1)
	t.commit(&storage.Batch{Publish: true, LSN: 10, Ops: bucketOps(bucketA, put(3, "x", "1"))})
	t.commit(&storage.Batch{Publish: true, LSN: 20})
	t.checkPublished(storage.Checkpoint{Op: 3, LSN: 20})
	if got := t.store.DurableLSN(); got != 20 {
		t.Fatalf("durable LSN %s, want 0/14", got)
	}
	t.commit(&storage.Batch{Publish: true, LSN: 30, NoSync: true})
	t.checkPublished(storage.Checkpoint{Op: 3, LSN: 30})
	if got := t.store.DurableLSN(); got < 20 || got > 30 {
		t.Fatalf("durable LSN %s", got)
	}
	durable := t.store.DurableLSN()
	t.crash(rand.New(rand.NewPCG(6, 6)))
	if got := t.recover().Checkpoint; got.Op != 3 || got.LSN < durable {
		t.Fatalf("checkpoint %s after a crash, LSN %s was durable", got, durable)
	}
	t.commit(&storage.Batch{Publish: true, LSN: 40, NoSync: true})
	t.reopen()
	if got := t.recover().Checkpoint; got != (storage.Checkpoint{Op: 3, LSN: 40}) {
		t.Fatalf("checkpoint %s after closing in order, want 3@0/28", got)
	}
	// What makes it durable says so only then, though it writes nothing itself.
	for i := range uint64(8) {
		t.commit(&storage.Batch{Publish: true, LSN: source.LSN(50 + i), NoSync: true})
		if i%2 == 0 {
			t.recover()
		} else {
			t.commit(&storage.Batch{})
		}
		durable := t.store.DurableLSN()
		t.crash(rand.New(rand.NewPCG(i, 7)))
		if got := t.recover().Checkpoint; got.LSN < durable {
			t.Fatalf("checkpoint %s after crash %d, LSN %s was durable", got, i, durable)
		}
	}
}

func closedStore(t *tester) {
	t.define(1)
	sn := t.snapshot()
	store := t.store
	for range 2 {
		if err := store.Close(); err != nil {
			t.Fatalf("close: %v", err)
		}
	}
	var states [1]bucket.State
	_, _, rowErr := store.Row(storage.RowRef{Table: 1, Key: "x"})
	_, snapshotErr := store.Snapshot()
	_, _, uploadErr := store.WriteCheckpoint("u")
	_, recoverErr := store.Recover(t.Context())
	_, requestErr := store.RequestWriteCheckpoints(t.Context(), []storage.WriteCheckpointRequest{{User: "u"}})
	for name, err := range map[string]error{
		"commit":                    store.Commit(t.Context(), &storage.Batch{Publish: true}),
		"recover":                   recoverErr,
		"row":                       rowErr,
		"records":                   store.Records(1, []source.RowKey{"k"}, func(int, *storage.RowRecord) {}),
		"rows":                      store.RowsOf(1, func(source.RowKey, *storage.RowRecord) error { return nil }),
		"snapshot":                  snapshotErr,
		"write checkpoint":          uploadErr,
		"request write checkpoints": requestErr,
		"ops":                       sn.Ops(bucketA, 0, func(*bucket.Op) bool { return true }),
		"states":                    sn.BucketStates([]storage.BucketKey{bucketA}, states[:]),
		"lookup":                    sn.Lookup(storage.LookupKey{Def: 1}, func([]byte) error { return nil }),
	} {
		if !errors.Is(err, storage.ErrClosed) {
			t.Errorf("%s after close: %v, want ErrClosed", name, err)
		}
	}
	sn.Close()
	t.open()
}

func cancelledContext(t *tester) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := t.store.Commit(ctx, &storage.Batch{Publish: true, LSN: 5}); !errors.Is(err, context.Canceled) {
		t.Fatalf("commit with a cancelled context: %v", err)
	}
	t.checkPublished(storage.Checkpoint{})
	t.define(1)
}

// readersDuringCommits reads all the time while batches come in: each snapshot
// must agree with itself, as every batch gives every bucket one op.
func readersDuringCommits(t *tester) {
	t.define(1)
	const batches = 60
	keys := []storage.BucketKey{bucketA, bucketB, {Def: 1, Params: "[]"}}
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				if err := checkConsistent(t.store, keys); err != nil {
					t.Error(err)
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	id := bucket.OpID(1)
	for i := range batches {
		for j, key := range keys {
			last := j == len(keys)-1
			t.commit(&storage.Batch{Publish: last, LSN: source.LSN(i), Ops: bucketOps(key, put(id, "x", fmt.Sprint(i)))})
			id++
		}
	}
	close(done)
	readers.Wait()
}

func checkConsistent(s Store, keys []storage.BucketKey) error {
	sn, err := s.Snapshot()
	if err != nil {
		return err
	}
	defer sn.Close()
	states := make([]bucket.State, len(keys))
	if err := sn.BucketStates(keys, states); err != nil {
		return err
	}
	for i, key := range keys {
		var sum bucket.State
		if err := sn.Ops(key, 0, func(op *bucket.Op) bool { sum = sum.Add(op); return true }); err != nil {
			return err
		}
		if sum != states[i] || states[i].Count != states[0].Count || sum.Last > sn.Checkpoint().Op {
			return fmt.Errorf("at %s bucket %v has state %+v, its ops give %+v, the first bucket has %+v",
				sn.Checkpoint(), key, states[i], sum, states[0])
		}
	}
	return nil
}
