package pebblestore

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

var updates = flag.Int("space.updates", 40_000, "updates of a thousand rows whose space is measured")

// TestSpaceStaysBounded updates a thousand rows again and again, but for a few that
// never change and so stand in the way of what could be cleared, with incremental
// compactions as a service makes them. What a new client gets stays near to the
// rows there are, and so does what is on the disk, but for what Pebble holds
// whatever there is: logs and memtables.
func TestSpaceStaysBounded(t *testing.T) {
	const rows, cold, batch = 1000, 10, 50
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dir := filepath.Join(t.TempDir(), "store")
	s := open(t, vfs.Default, dir)
	live := map[int]int{} // row → bytes
	next := bucket.OpID(1)
	update := func(b *storage.Batch, row int) {
		data, err := json.Marshal(map[string]any{"id": row, "n": next, "title": fmt.Sprint("row ", rng.Uint64()), "body": fmt.Sprintf("%x", noise(int(next))[:30])})
		if err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprint(row)
		hash := bucket.ContentHash("rows", id, data)
		b.Ops = append(b.Ops, storage.BucketOp{Bucket: testBucket, Op: bucket.Op{
			ID: next, Kind: bucket.Put, Checksum: bucket.PutChecksum(hash), Subkey: bucket.SubkeyFor(s.secret, 1, id),
			ObjectType: "rows", ObjectID: id, Data: data,
		}})
		b.Rows = append(b.Rows, storage.RowWrite{Ref: storage.RowRef{Table: 1, Key: source.RowKey(id)}, Record: &storage.RowRecord{
			Memberships: []storage.Membership{{Bucket: testBucket, ObjectType: "rows", ObjectID: id, Op: next, Hash: hash}},
		}})
		live[row] = len(data)
		next++
	}
	commit := func(b *storage.Batch) {
		b.Publish, b.LSN = true, source.LSN(next)
		if err := s.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	b := &storage.Batch{Definitions: []storage.Definition{{ID: 1, State: storage.Serving, Tables: []storage.TableProgress{{Table: 1, Done: true}}}}}
	for row := range rows {
		update(b, row)
	}
	commit(b)
	var stats storage.CompactStats
	var compacting time.Duration
	var most uint64
	var mostOps int64
	for i := 0; i < *updates; i += batch {
		b := &storage.Batch{}
		for range batch {
			update(b, cold+rng.IntN(rows-cold))
		}
		commit(b)
		if i%10_000 != 0 {
			continue
		}
		start := time.Now()
		did, err := s.Compact(t.Context(), storage.CompactOptions{Incremental: true})
		if err != nil {
			t.Fatal(err)
		}
		compacting += time.Since(start)
		stats.Add(did.Compacted)
		size, err := s.Size()
		if err != nil {
			t.Fatal(err)
		}
		most, mostOps = max(most, size), max(mostOps, stateOf(t, s).Count)
	}
	if mostOps > 25*rows {
		t.Errorf("there were up to %d ops after a compaction, for %d rows", mostOps, rows)
	}
	if _, err := s.Compact(t.Context(), storage.CompactOptions{}); err != nil {
		t.Fatal(err)
	}
	state := stateOf(t, s)
	bytes := 0
	for _, n := range live {
		bytes += n
	}
	if state.Bytes != int64(bytes) || state.Count > rows+1 {
		t.Errorf("after a full compaction %d ops have %d bytes, want %d rows with %d", state.Count, state.Bytes, rows, bytes)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	tables := tablesSize(t, dir)
	t.Logf("%d updates: live JSON %d bytes; while serving at most %d ops after a compaction and %d bytes on the disk; after a full compaction %d bytes of tables; %v of compaction, %+v",
		*updates, bytes, mostOps, most, tables, compacting, stats.Compacted)
	// They hold the row records too.
	if tables > 3*uint64(bytes) {
		t.Errorf("after a full compaction the tables have %d bytes, for %d of live data", tables, bytes)
	}
	// Up to four memtables' logs, and as much again that a flush is about to replace.
	if most > uint64(20*bytes)+32<<20 {
		t.Errorf("up to %d bytes were on the disk, for %d of live data", most, bytes)
	}
}

func stateOf(t *testing.T, s *Store) bucket.State {
	t.Helper()
	sn, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer sn.Close()
	states := make([]bucket.State, 1)
	if err := sn.BucketStates([]storage.BucketKey{testBucket}, states); err != nil {
		t.Fatal(err)
	}
	return states[0]
}

// tablesSize returns the bytes of the store's sorted tables.
func tablesSize(t *testing.T, dir string) uint64 {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil || len(names) == 0 {
		t.Fatalf("%d tables, %v", len(names), err)
	}
	var n uint64
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		n += uint64(info.Size())
	}
	return n
}
