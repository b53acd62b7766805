package pebblestore

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/millrace-sync/millrace/internal/storage/storagetest"
)

func TestContract(t *testing.T) {
	// Batches of the suite are written by the log, as tables, or either way by size.
	for _, test := range []struct {
		name             string
		ingestSize       int
		rounds, crashing uint64
	}{
		{"both", 2000, 12, 20},
		{"log", math.MaxInt, 2, 4},
		{"tables", 1, 4, 6},
	} {
		t.Run(test.name, func(t *testing.T) {
			fresh := func(t *testing.T) storagetest.Harness {
				return &memHarness{t: t, fs: vfs.NewCrashableMem(), ingestSize: test.ingestSize}
			}
			storagetest.RunRounds(t, fresh, test.rounds, test.crashing)
		})
	}
}

// memHarness keeps a store in memory that forgets what was not synced.
type memHarness struct {
	t          *testing.T
	fs         *vfs.MemFS
	ingestSize int
}

// asStore gives Store the suite's interface.
type asStore struct{ *Store }

func (s asStore) Snapshot() (storagetest.Snapshot, error) {
	sn, err := s.Store.Snapshot()
	if err != nil {
		return nil, err
	}
	return sn, nil
}

func (h *memHarness) Open() (storagetest.Store, error) {
	s, err := Open(h.t.Context(), Options{Dir: "data/store", FS: h.fs, MemTableSize: 64 << 10, IngestSize: h.ingestSize})
	if err != nil {
		return nil, err
	}
	h.t.Cleanup(func() {
		if err := s.Close(); err != nil {
			h.t.Errorf("close at the end: %v", err)
		}
	})
	return asStore{s}, nil
}

func (h *memHarness) Crash(rng *rand.Rand) {
	percent := []int{0, 30, 100}[rng.IntN(3)]
	h.fs = h.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
}

func BenchmarkStore(b *testing.B) {
	storagetest.Bench(b, func(b *testing.B) storagetest.Store {
		s, err := Open(b.Context(), Options{Dir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = s.Close() })
		return asStore{s}
	})
}
