package storagetest

import (
	"bytes"
	"cmp"
	"maps"
	"reflect"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// model is the contract in maps. What a batch wrote is shared between clones and
// never changed, so a clone is one copy of each map.
type model struct {
	checkpoint storage.Checkpoint
	nextOp     bucket.OpID
	nextDef    storage.DefinitionID
	ops        map[storage.BucketKey][]bucket.Op
	rows       map[storage.RowRef]*storage.RowRecord
	lookups    map[storage.LookupKey]map[bucket.Subkey][]byte
	defs       map[storage.DefinitionID]storage.Definition
	deploys    map[uint64]storage.Deploy
}

func newModel() *model {
	return &model{
		nextOp: 1, nextDef: 1,
		ops:     map[storage.BucketKey][]bucket.Op{},
		rows:    map[storage.RowRef]*storage.RowRecord{},
		lookups: map[storage.LookupKey]map[bucket.Subkey][]byte{},
		defs:    map[storage.DefinitionID]storage.Definition{},
		deploys: map[uint64]storage.Deploy{},
	}
}

func (m *model) clone() *model {
	c := *m
	c.ops = make(map[storage.BucketKey][]bucket.Op, len(m.ops))
	for k, ops := range m.ops {
		c.ops[k] = slices.Clip(ops)
	}
	c.rows = maps.Clone(m.rows)
	c.lookups = make(map[storage.LookupKey]map[bucket.Subkey][]byte, len(m.lookups))
	for k, rows := range m.lookups {
		c.lookups[k] = maps.Clone(rows)
	}
	c.defs, c.deploys = maps.Clone(m.defs), maps.Clone(m.deploys)
	return &c
}

// apply does what Commit does.
func (m *model) apply(b *storage.Batch) {
	for i := range b.Ops {
		o := &b.Ops[i]
		m.ops[o.Bucket] = append(m.ops[o.Bucket], cloneOp(&o.Op))
		m.nextOp = o.Op.ID + 1
		m.checkpoint.Op = o.Op.ID // which shows once it is published
	}
	for _, r := range b.Rows {
		if r.Record == nil {
			delete(m.rows, r.Ref)
		} else {
			m.rows[r.Ref] = r.Record
		}
	}
	for _, l := range b.Lookups {
		if l.Values == nil {
			delete(m.lookups[l.Lookup], l.Row)
			continue
		}
		if m.lookups[l.Lookup] == nil {
			m.lookups[l.Lookup] = map[bucket.Subkey][]byte{}
		}
		m.lookups[l.Lookup][l.Row] = slices.Clone(l.Values)
	}
	for _, d := range b.Definitions {
		m.defs[d.ID] = d
		m.nextDef = max(m.nextDef, d.ID+1)
	}
	for _, id := range b.Drop {
		delete(m.defs, id)
		maps.DeleteFunc(m.ops, func(k storage.BucketKey, _ []bucket.Op) bool { return k.Def == id })
		maps.DeleteFunc(m.lookups, func(k storage.LookupKey, _ map[bucket.Subkey][]byte) bool { return k.Def == id })
	}
	if d := b.Deploy; d != nil {
		if d.State == storage.DeployServing {
			clear(m.deploys)
		}
		m.deploys[d.ID] = *d
	}
	if b.Publish {
		m.checkpoint.LSN = b.LSN
	}
}

// discard returns the model after the batches since published are taken back.
func (m *model) discard(published *model) *model {
	c := published.clone()
	c.nextOp, c.nextDef = m.nextOp, m.nextDef
	return c
}

// state recomputes a bucket's state from its ops.
func (m *model) state(key storage.BucketKey) bucket.State {
	var s bucket.State
	for i := range m.ops[key] {
		s = s.Add(&m.ops[key][i])
	}
	return s
}

func (m *model) sortedDefs() []storage.Definition {
	return slices.SortedFunc(maps.Values(m.defs), func(a, b storage.Definition) int { return cmp.Compare(a.ID, b.ID) })
}

func (m *model) sortedDeploys() []storage.Deploy {
	return slices.SortedFunc(maps.Values(m.deploys), func(a, b storage.Deploy) int { return cmp.Compare(a.ID, b.ID) })
}

// checkSnapshot compares a snapshot with the model as of its checkpoint. Keys
// names buckets and lookups to look at besides those of the model.
func (m *model) checkSnapshot(t testing.TB, sn Snapshot, buckets []storage.BucketKey, lookups []storage.LookupKey) {
	t.Helper()
	if got := sn.Checkpoint(); got != m.checkpoint {
		t.Fatalf("checkpoint %s, want %s", got, m.checkpoint)
	}
	all := maps.Clone(m.ops)
	for _, k := range buckets {
		all[k] = m.ops[k]
	}
	keys := slices.Collect(maps.Keys(all))
	states := make([]bucket.State, len(keys))
	if err := sn.BucketStates(keys, states); err != nil {
		t.Fatalf("bucket states: %v", err)
	}
	for i, k := range keys {
		if want := m.state(k); states[i] != want {
			t.Fatalf("state of %v is %+v, want %+v", k, states[i], want)
		}
		want := m.ops[k]
		afters := []bucket.OpID{0}
		if n := len(want); n > 0 {
			afters = append(afters, want[n/2].ID, want[n-1].ID, want[n-1].ID-1)
		}
		for _, after := range afters {
			m.checkOps(t, sn, k, after)
		}
	}
	for _, k := range append(slices.Collect(maps.Keys(m.lookups)), lookups...) {
		var got, want []string
		err := sn.Lookup(k, func(v []byte) error {
			got = append(got, string(v))
			return nil
		})
		if err != nil {
			t.Fatalf("lookup %v: %v", k, err)
		}
		for _, v := range m.lookups[k] {
			want = append(want, string(v))
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("lookup %v is %q, want %q", k, got, want)
		}
	}
}

func (m *model) checkOps(t testing.TB, sn Snapshot, key storage.BucketKey, after bucket.OpID) {
	t.Helper()
	var want, got []bucket.Op
	for _, op := range m.ops[key] {
		if op.ID > after {
			want = append(want, op)
		}
	}
	err := sn.Ops(key, after, func(op *bucket.Op) bool {
		got = append(got, cloneOp(op))
		return true
	})
	if err != nil {
		t.Fatalf("ops of %v after %s: %v", key, after, err)
	}
	if slices.EqualFunc(want, got, sameOp) {
		return
	}
	if d := gocmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		t.Fatalf("ops of %v after %s differ (-want +got):\n%s", key, after, d)
	}
}

// sameOp compares ops much faster than package cmp, which then tells what differs.
func sameOp(a, b bucket.Op) bool {
	return a.ID == b.ID && a.Kind == b.Kind && a.Checksum == b.Checksum && a.Subkey == b.Subkey &&
		a.ObjectType == b.ObjectType && a.ObjectID == b.ObjectID && bytes.Equal(a.Data, b.Data)
}

// checkRows compares all row records of some tables, in order and one by one.
func (m *model) checkRows(t testing.TB, s Store, tables []source.TableID, absent []storage.RowRef) {
	t.Helper()
	type row struct {
		Key    source.RowKey
		Record *storage.RowRecord
	}
	for _, table := range tables {
		var want, got []row
		for ref, rec := range m.rows {
			if ref.Table == table {
				want = append(want, row{ref.Key, rec})
			}
		}
		slices.SortFunc(want, func(a, b row) int { return cmp.Compare(a.Key, b.Key) })
		err := s.RowsOf(table, func(k source.RowKey, rec *storage.RowRecord) error {
			got = append(got, row{k, rec})
			return nil
		})
		if err != nil {
			t.Fatalf("rows of table %d: %v", table, err)
		}
		if reflect.DeepEqual(want, got) {
			continue
		}
		if d := gocmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("rows of table %d differ (-want +got):\n%s", table, d)
		}
	}
	refs := append(slices.Collect(maps.Keys(m.rows)), absent...)
	m.checkRecords(t, s, refs)
	for _, ref := range refs {
		rec, ok, err := s.Row(ref)
		if err != nil {
			t.Fatalf("row %v: %v", ref, err)
		}
		want, held := m.rows[ref]
		if ok != held {
			t.Fatalf("row %v present: %v, want %v", ref, ok, held)
		}
		if !held || reflect.DeepEqual(want, rec) {
			continue
		}
		if d := gocmp.Diff(want, rec, cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("row %v differs (-want +got):\n%s", ref, d)
		}
	}
}

// checkRecords compares the records of many rows, asked for at once.
func (m *model) checkRecords(t testing.TB, s Store, refs []storage.RowRef) {
	t.Helper()
	keys := map[source.TableID][]source.RowKey{}
	for _, ref := range refs {
		keys[ref.Table] = append(keys[ref.Table], ref.Key)
	}
	for table, list := range keys {
		slices.Sort(list)
		list = slices.Compact(list)
		want, got := map[source.RowKey]*storage.RowRecord{}, map[source.RowKey]*storage.RowRecord{}
		for _, k := range list {
			if rec, ok := m.rows[storage.RowRef{Table: table, Key: k}]; ok {
				want[k] = rec
			}
		}
		last := -1
		err := s.Records(table, list, func(i int, rec *storage.RowRecord) {
			if i <= last {
				t.Errorf("records of table %d: place %d after %d", table, i, last)
			}
			last = i
			got[list[i]] = rec
		})
		if err != nil {
			t.Fatalf("records of table %d: %v", table, err)
		}
		if d := gocmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("records of table %d differ (-want +got):\n%s", table, d)
		}
	}
}

// checkRecovered compares what Recover returns, but for the numbering.
func (m *model) checkRecovered(t testing.TB, r storage.Recovered) {
	t.Helper()
	if r.Checkpoint != m.checkpoint {
		t.Fatalf("recovered checkpoint %s, want %s", r.Checkpoint, m.checkpoint)
	}
	if d := gocmp.Diff(m.sortedDefs(), r.Definitions, cmpopts.EquateEmpty()); d != "" {
		t.Fatalf("recovered definitions differ (-want +got):\n%s", d)
	}
	if d := gocmp.Diff(m.sortedDeploys(), r.Deploys, cmpopts.EquateEmpty()); d != "" {
		t.Fatalf("recovered deploys differ (-want +got):\n%s", d)
	}
}
