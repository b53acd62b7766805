package pgstore

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/pebblestore"
	"github.com/millrace-sync/millrace/internal/storage/storagetest"
)

// pebble is the other store, with the interface of the suite.
type pebble struct{ *pebblestore.Store }

func (p pebble) Snapshot() (storagetest.Snapshot, error) {
	sn, err := p.Store.Snapshot()
	if err != nil {
		return nil, err
	}
	return sn, nil
}

// Both stores give the same answers to the same random operations. Unlike the
// suite's histories, batches here are of all sizes, so that what is copied and what
// is inserted mix, and keys are long as well.
func TestSameAnswersAsPebble(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 3))
	other, err := pebblestore.Open(t.Context(), pebblestore.Options{Dir: "d", FS: vfs.NewMem(), MemTableSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	opts := at(t, shared.Cluster(t), freshSchema())
	opts.Retain = time.Nanosecond
	ours := open(t, opts)
	stores := []storagetest.Store{&process{Store: ours}, pebble{other}}

	d := &driver{rng: rng, next: 1}
	for range 60 {
		d.step(t, stores)
		if err := ours.prune(t.Context()); err != nil {
			t.Fatal(err)
		}
		answers := make([]string, len(stores))
		for i, s := range stores {
			answers[i] = d.ask(t, s)
		}
		if answers[0] == answers[1] {
			continue
		}
		if diff := cmp.Diff(strings.Split(answers[1], "\n"), strings.Split(answers[0], "\n")); diff != "" {
			t.Fatalf("seed %d: answers differ (-pebble +ours):\n%s", seed, diff)
		}
	}
}

// driver draws operations.
type driver struct {
	rng  *rand.Rand
	next bucket.OpID
	defs storage.DefinitionID
	lsn  source.LSN
	// parts says that there are batches that are not published.
	parts bool
}

var paddings = []int{0, 0, 0, 5, 1100}

func (d *driver) key(n int) string {
	i := d.rng.IntN(n)
	return fmt.Sprintf("%0*d", 1+paddings[i%len(paddings)], i)
}

func (d *driver) bucket() storage.BucketKey {
	return storage.BucketKey{Def: 1 + storage.DefinitionID(d.rng.IntN(int(d.defs))), Params: d.key(12)}
}

func (d *driver) lookup() storage.LookupKey {
	return storage.LookupKey{Def: 1 + storage.DefinitionID(d.rng.IntN(int(d.defs))), Key: d.key(12)}
}

func (d *driver) row() storage.RowRef {
	return storage.RowRef{Table: 1 + source.TableID(d.rng.IntN(2)), Key: source.RowKey(d.key(600))}
}

// step does one thing to all stores.
func (d *driver) step(t *testing.T, stores []storagetest.Store) {
	t.Helper()
	var do func(storagetest.Store) (any, error)
	switch n := d.rng.IntN(10); {
	case n == 0 && d.defs > 0:
		do = func(s storagetest.Store) (any, error) { return stripped(s.Recover(t.Context())) }
		d.parts = false
	case n == 2 && !d.parts:
		opts := storage.CompactOptions{Incremental: d.rng.IntN(2) == 0}
		do = func(s storagetest.Store) (any, error) {
			stats, err := s.(storagetest.Compacter).Compact(t.Context(), opts)
			return stats, err
		}
	case n == 1:
		reqs := []storage.WriteCheckpointRequest{{User: d.key(8), LSN: d.lsn}, {User: d.key(8), AtLeast: d.rng.Uint64N(50)}}
		do = func(s storagetest.Store) (any, error) { return s.RequestWriteCheckpoints(t.Context(), reqs) }
	default:
		b := d.batch()
		d.parts = !b.Publish
		do = func(s storagetest.Store) (any, error) { return nil, s.Commit(t.Context(), b) }
	}
	var first any
	for i, s := range stores {
		got, err := do(s)
		if err != nil {
			t.Fatalf("store %d: %v", i, err)
		}
		if i == 0 {
			first = got
		} else if diff := cmp.Diff(got, first, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("results differ (-pebble +ours):\n%s", diff)
		}
	}
}

// stripped hides what is drawn at random.
func stripped(r storage.Recovered, err error) (any, error) {
	r.Epoch, r.Secret = "", [32]byte{}
	return r, err
}

func (d *driver) batch() *storage.Batch {
	b := &storage.Batch{Publish: d.rng.IntN(3) > 0, NoSync: d.rng.IntN(2) == 0}
	if b.Publish {
		d.lsn += 10
		b.LSN = d.lsn
	}
	if d.defs < 3 {
		d.defs++
		b.Definitions = []storage.Definition{{ID: d.defs, Hash: fmt.Sprint(d.defs), State: storage.Serving}}
		b.Publish, b.LSN = true, d.lsn // so that it is never taken back
	}
	n := []int{0, 1, 7, 150, 700}[d.rng.IntN(5)]
	for range n {
		o := storage.BucketOp{Bucket: d.bucket(), Op: bucket.Op{ID: d.next, Kind: bucket.Put, ObjectType: "t", ObjectID: d.key(100), Checksum: bucket.Checksum(d.rng.Uint32())}}
		o.Op.Data = make([]byte, d.rng.IntN(3)*d.rng.IntN(400))
		b.Ops = append(b.Ops, o)
		d.next += bucket.OpID(1 + d.rng.IntN(2))
		w := storage.RowWrite{Ref: d.row()}
		if d.rng.IntN(5) > 0 {
			w.Record = &storage.RowRecord{Copies: int64(d.next), Memberships: []storage.Membership{{Bucket: o.Bucket, Op: o.Op.ID}}}
		}
		b.Rows = append(b.Rows, w)
		if d.rng.IntN(10) == 0 {
			l := storage.LookupWrite{Lookup: d.lookup(), Row: bucket.Subkey{byte(d.rng.IntN(3))}}
			if d.rng.IntN(3) > 0 {
				l.Values = []byte(d.key(1000))
			}
			b.Lookups = append(b.Lookups, l)
		}
	}
	return b
}

// ask reads much of a store.
func (d *driver) ask(t *testing.T, s storagetest.Store) string {
	t.Helper()
	sn, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer sn.Close()
	var out strings.Builder
	fmt.Fprintln(&out, sn.Checkpoint())
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var keys []storage.BucketKey
	for def := range d.defs + 1 {
		for i := range 12 {
			params := fmt.Sprintf("%0*d", 1+paddings[i%len(paddings)], i)
			keys = append(keys, storage.BucketKey{Def: def, Params: params})
			var values []string
			must(sn.Lookup(storage.LookupKey{Def: def, Key: params}, func(v []byte) error { values = append(values, string(v)); return nil }))
			slices.Sort(values)
			fmt.Fprintf(&out, "lookup %d %.8s %q\n", def, params, values)
		}
	}
	states := make([]bucket.State, len(keys))
	must(sn.BucketStates(keys, states))
	for i, k := range keys {
		fmt.Fprintf(&out, "bucket %d %.8s %+v", k.Def, k.Params, states[i])
		n := 0
		must(sn.Ops(k, states[i].Last/2, func(op *bucket.Op) bool {
			fmt.Fprintf(&out, " %d:%s:%d:%d", op.ID, op.ObjectID, op.Checksum, len(op.Data))
			n++
			return n < 200
		}))
		out.WriteByte('\n')
	}
	for table := source.TableID(1); table < 3; table++ {
		var rows []string
		must(s.RowsOf(table, func(k source.RowKey, rec *storage.RowRecord) error {
			rows = append(rows, fmt.Sprintf("row %d %s %d %d\n", table, k, rec.Copies, len(rec.Memberships)))
			return nil
		}))
		slices.Sort(rows)
		for _, r := range rows {
			out.WriteString(r)
		}
	}
	return out.String()
}
