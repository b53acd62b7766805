// Package storagetest is the suite of the storage contract: what package storage
// promises of every implementation, each promise a test, and random histories of
// writes, crashes and reads compared with a model that is too simple to be wrong.
//
// An implementation's own tests call Run, and Bench for its figures.
package storagetest

import (
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// Store is what an implementation offers; see pebblestore.Store for what each
// method means.
type Store interface {
	Row(storage.RowRef) (*storage.RowRecord, bool, error)
	Records(source.TableID, []source.RowKey, func(int, *storage.RowRecord)) error
	RowsOf(source.TableID, func(source.RowKey, *storage.RowRecord) error) error
	Commit(context.Context, *storage.Batch) error
	Recover(context.Context) (storage.Recovered, error)
	DurableLSN() source.LSN
	Snapshot() (Snapshot, error)
	WriteCheckpoint(user string) (storage.WriteCheckpoint, bool, error)
	RequestWriteCheckpoints(context.Context, []storage.WriteCheckpointRequest) ([]uint64, error)
	ResetWriteCheckpoints(context.Context, source.LSN) error
	ForgetCheckpointRequests(context.Context, time.Time) (int64, error)
	Close() error
}

// Snapshot is a reader's view of a Store.
type Snapshot interface {
	Checkpoint() storage.Checkpoint
	BucketStates(keys []storage.BucketKey, out []bucket.State) error
	Ops(key storage.BucketKey, after bucket.OpID, yield func(*bucket.Op) bool) error
	Lookup(key storage.LookupKey, yield func(values []byte) error) error
	Close()
}

// Harness is what outlives a process: the medium of one store.
type Harness interface {
	// Open opens the store on the medium, making it if the medium is fresh.
	Open() (Store, error)
	// Crash puts the medium into a state in which a sudden loss of power may leave
	// it now, and forgets the store that is open: it may be in the middle of a
	// Commit, and is closed by the harness when the test ends. Rng decides what of
	// the unsynced data is left.
	Crash(rng *rand.Rand)
}

// Run runs the suite, with a fresh medium for each test.
func Run(t *testing.T, fresh func(t *testing.T) Harness) {
	RunRounds(t, fresh, 12, 20)
}

// RunRounds is Run with another number of random histories and of crashes in the
// middle of a commit, for stores that take long for them.
func RunRounds(t *testing.T, fresh func(t *testing.T) Harness, histories, crashes uint64) {
	for _, test := range contract {
		t.Run(test.name, func(t *testing.T) { test.run(newTester(t, fresh(t))) })
	}
	t.Run("RandomHistory", func(t *testing.T) {
		base := seed(t)
		for i := range histories {
			t.Run(strconv.FormatUint(base+i, 10), func(t *testing.T) {
				randomHistory(newTester(t, fresh(t)), base+i)
			})
		}
	})
	t.Run("CrashInCommit", func(t *testing.T) {
		base := seed(t)
		for i := range crashes {
			t.Run(strconv.FormatUint(base+i, 10), func(t *testing.T) {
				crashInCommit(newTester(t, fresh(t)), base+i)
			})
		}
	})
}

// seed returns the first seed to use, another one in every run, and prints it.
// STORAGETEST_SEED in the environment repeats a run.
func seed(t *testing.T) uint64 {
	if s := os.Getenv("STORAGETEST_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("STORAGETEST_SEED: %v", err)
		}
		return n
	}
	n := uint64(rand.Uint32())
	t.Logf("STORAGETEST_SEED=%d repeats this run", n)
	return n
}

// tester holds a test's store and its model, with the checks that compare them.
type tester struct {
	*testing.T
	harness Harness
	store   Store
}

func newTester(t *testing.T, h Harness) *tester {
	tt := &tester{T: t, harness: h}
	tt.open()
	t.Cleanup(func() {
		if tt.store != nil {
			if err := tt.store.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		}
	})
	return tt
}

func (t *tester) open() {
	t.Helper()
	s, err := t.harness.Open()
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.store = s
}

// reopen closes the store in order and opens it again.
func (t *tester) reopen() {
	t.Helper()
	if err := t.store.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	t.store = nil
	t.open()
}

// crash loses what is not durable and opens what is left.
func (t *tester) crash(rng *rand.Rand) {
	t.Helper()
	t.harness.Crash(rng)
	t.store = nil
	t.open()
}

func (t *tester) commit(b *storage.Batch) {
	t.Helper()
	if err := t.store.Commit(t.Context(), b); err != nil {
		t.Fatalf("commit: %v", err)
	}
}

// recover takes back what is not published and returns what is left.
func (t *tester) recover() storage.Recovered {
	t.Helper()
	r, err := t.store.Recover(t.Context())
	if err != nil {
		t.Fatalf("recover: %v", err)
	}
	return r
}

func (t *tester) snapshot() Snapshot {
	t.Helper()
	sn, err := t.store.Snapshot()
	if err != nil {
		t.Fatalf("snapshot: %v", err)
	}
	return sn
}

// ops reads a bucket's ops after an id, with copies of what is valid only briefly.
func (t *tester) ops(sn Snapshot, key storage.BucketKey, after bucket.OpID) []bucket.Op {
	t.Helper()
	var out []bucket.Op
	err := sn.Ops(key, after, func(op *bucket.Op) bool {
		out = append(out, cloneOp(op))
		return true
	})
	if err != nil {
		t.Fatalf("ops of %v after %s: %v", key, after, err)
	}
	return out
}

func (t *tester) state(sn Snapshot, key storage.BucketKey) bucket.State {
	t.Helper()
	var out [1]bucket.State
	if err := sn.BucketStates([]storage.BucketKey{key}, out[:]); err != nil {
		t.Fatalf("state of %v: %v", key, err)
	}
	return out[0]
}

func (t *tester) lookup(sn Snapshot, key storage.LookupKey) []string {
	t.Helper()
	var out []string
	err := sn.Lookup(key, func(values []byte) error {
		out = append(out, string(values))
		return nil
	})
	if err != nil {
		t.Fatalf("lookup %v: %v", key, err)
	}
	return out
}

// define stores definitions with the given ids, which serve.
func (t *tester) define(ids ...storage.DefinitionID) {
	t.Helper()
	b := &storage.Batch{Publish: true, LSN: t.snapshotLSN()}
	for _, id := range ids {
		b.Definitions = append(b.Definitions, definition(id))
	}
	t.commit(b)
}

func (t *tester) snapshotLSN() source.LSN {
	sn := t.snapshot()
	defer sn.Close()
	return sn.Checkpoint().LSN
}

func definition(id storage.DefinitionID) storage.Definition {
	name := strconv.FormatUint(uint64(id), 10)
	return storage.Definition{ID: id, Hash: "hash" + name, Label: "stream|" + name, State: storage.Serving}
}

// put returns a PUT with the right checksum.
func put(id bucket.OpID, objectID, data string) bucket.Op {
	return bucket.Op{
		ID: id, Kind: bucket.Put, ObjectType: "notes", ObjectID: objectID, Data: []byte(data),
		Subkey:   bucket.SubkeyFor([32]byte{}, 1, objectID),
		Checksum: bucket.PutChecksum(bucket.ContentHash("notes", objectID, []byte(data))),
	}
}

func remove(id bucket.OpID, objectID string) bucket.Op {
	sub := bucket.SubkeyFor([32]byte{}, 1, objectID)
	return bucket.Op{
		ID: id, Kind: bucket.Remove, ObjectType: "notes", ObjectID: objectID, Subkey: sub,
		Checksum: bucket.RemoveChecksum(sub),
	}
}

func cloneOp(op *bucket.Op) bucket.Op {
	c := *op
	c.Data = append([]byte(nil), op.Data...)
	return c
}
