package storagetest

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// generator draws batches that fit a model. Few keys, so that they meet often;
// awkward ones, so that encodings are put to the test.
type generator struct {
	rng *rand.Rand
	lsn source.LSN
}

var (
	someParams = []string{`[]`, `["a"]`, `["a","b"]`, `["a"`, ``, `["ÿ\u0000"]`, "\xff", "\x01"}
	someKeys   = []string{"", "k", "k\x00", "k\x00\x01", "k\x01", "k\x01\x02", "\xff\x00\xff", "kk"}
	someTables = []source.TableID{1, 2, 0x0100, 1<<32 - 1}
)

func pick[T any](rng *rand.Rand, from []T) T { return from[rng.IntN(len(from))] }

// allBuckets returns every bucket that a generator can name, of definitions up to
// and without next.
func allBuckets(next storage.DefinitionID) []storage.BucketKey {
	var out []storage.BucketKey
	for def := range next {
		for _, p := range someParams {
			out = append(out, storage.BucketKey{Def: def, Params: p})
		}
	}
	return out
}

func allLookups(next storage.DefinitionID) []storage.LookupKey {
	var out []storage.LookupKey
	for def := range next {
		for _, k := range someKeys {
			out = append(out, storage.LookupKey{Def: def, Key: k})
		}
	}
	return out
}

func allRows() []storage.RowRef {
	var out []storage.RowRef
	for _, table := range someTables {
		for _, k := range someKeys {
			out = append(out, storage.RowRef{Table: table, Key: source.RowKey(k)})
		}
	}
	return out
}

// batch draws a batch for the state that m is in.
func (g *generator) batch(m *model, publish bool) *storage.Batch {
	rng := g.rng
	b := &storage.Batch{Publish: publish, NoSync: rng.IntN(3) == 0}
	if publish {
		g.lsn += source.LSN(1 + rng.IntN(1<<20))
		b.LSN = g.lsn
	}
	if len(m.defs) == 0 || rng.IntN(8) == 0 {
		b.Definitions = append(b.Definitions, g.definition(m.nextDef+storage.DefinitionID(rng.IntN(2))))
	}
	var ids []storage.DefinitionID
	for _, d := range m.sortedDefs() {
		ids = append(ids, d.ID)
		if rng.IntN(16) == 0 {
			d.Tables = g.definition(d.ID).Tables
			b.Definitions = append(b.Definitions, d)
		} else if publish && rng.IntN(24) == 0 {
			b.Drop = append(b.Drop, d.ID)
			ids = ids[:len(ids)-1]
		}
	}
	if n := len(b.Definitions); n > 0 && !slices.Contains(ids, b.Definitions[n-1].ID) {
		ids = append(ids, b.Definitions[n-1].ID)
	}
	if rng.IntN(10) == 0 {
		b.Deploy = &storage.Deploy{
			ID: uint64(1 + rng.IntN(5)), SyncConfig: fmt.Sprint("config ", rng.IntN(100)),
			Definitions: slices.Clone(ids), State: storage.DeployState(1 + rng.IntN(3)),
		}
	}
	if rng.IntN(6) == 0 || len(ids) == 0 {
		return b // hardly more than an LSN
	}
	id := m.nextOp + bucket.OpID(rng.IntN(3))
	for range rng.IntN(12) {
		b.Ops = append(b.Ops, storage.BucketOp{
			Bucket: storage.BucketKey{Def: pick(rng, ids), Params: pick(rng, someParams)},
			Op:     g.op(id),
		})
		id += bucket.OpID(1 + rng.IntN(300))
	}
	for range rng.IntN(8) {
		w := storage.RowWrite{Ref: pick(rng, allRows())}
		if rng.IntN(4) > 0 {
			w.Record = g.record(ids)
		}
		b.Rows = append(b.Rows, w)
	}
	for range rng.IntN(6) {
		w := storage.LookupWrite{Lookup: storage.LookupKey{Def: pick(rng, ids), Key: pick(rng, someKeys)}}
		w.Row[0] = byte(rng.IntN(3)) // few rows, 0x00 bytes
		if rng.IntN(4) > 0 {
			w.Values = []byte(fmt.Sprint(rng.IntN(1000)))[:rng.IntN(2)+1]
		}
		b.Lookups = append(b.Lookups, w)
	}
	return b
}

func (g *generator) op(id bucket.OpID) bucket.Op {
	rng := g.rng
	object := fmt.Sprint(rng.IntN(20))
	switch rng.IntN(8) {
	case 0:
		return bucket.Op{ID: id, Kind: bucket.Clear, Checksum: bucket.Checksum(rng.Uint32())}
	case 1:
		return bucket.Op{ID: id, Kind: bucket.Move, Checksum: bucket.Checksum(rng.Uint32())}
	case 2, 3:
		return remove(id, object)
	}
	op := put(id, object, fmt.Sprintf(`{"n":%d,"s":"%s"}`, rng.IntN(1000), make([]byte, rng.IntN(200))))
	if rng.IntN(3) == 0 {
		op.ObjectType = pick(rng, []string{"", "lists", "a type with a long name, longer than 127 bytes: " + fmt.Sprint(make([]byte, 64))})
	}
	return op
}

func (g *generator) definition(id storage.DefinitionID) storage.Definition {
	rng := g.rng
	d := definition(id)
	d.State = storage.DefinitionState(1 + rng.IntN(2))
	for range rng.IntN(3) {
		p := storage.TableProgress{Table: pick(rng, someTables), Rows: rng.Int64N(1 << 40), Done: rng.IntN(2) == 0, Sweep: rng.IntN(2) == 0}
		if rng.IntN(2) == 0 {
			p.After = []string{pick(rng, someKeys), "7"}[:1+rng.IntN(2)]
		}
		d.Tables = append(d.Tables, p)
	}
	return d
}

func (g *generator) record(ids []storage.DefinitionID) *storage.RowRecord {
	rng := g.rng
	rec := &storage.RowRecord{Copies: rng.Int64N(3)}
	for range rng.IntN(3) {
		rec.Memberships = append(rec.Memberships, storage.Membership{
			Bucket:     storage.BucketKey{Def: pick(rng, ids), Params: pick(rng, someParams)},
			ObjectType: "notes", ObjectID: pick(rng, someKeys),
			Op: bucket.OpID(rng.Uint64() >> 1), Hash: rng.Uint64(),
		})
	}
	for range rng.IntN(3) {
		rec.Lookups = append(rec.Lookups, storage.Contribution{
			Lookup: storage.LookupKey{Def: pick(rng, ids), Key: pick(rng, someKeys)}, Hash: rng.Uint64(),
		})
	}
	for range rng.IntN(2) {
		rec.Kept = append(rec.Kept, storage.Kept{
			Column: "body", Datum: source.Datum{Encoding: source.Text, Bytes: make([]byte, rng.IntN(300))},
		})
	}
	return rec
}
