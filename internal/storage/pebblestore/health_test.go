package pebblestore

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// onWrite calls f before each file operation that changes something.
func onWrite(fs vfs.FS, f func() error) vfs.FS {
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && op.Kind != errorfs.OpLock {
			return f()
		}
		return nil
	}))
}

// breaking is a disk on which the files of some kind can no longer be written.
func breaking(mem *vfs.MemFS, suffix string, cause error, broken *atomic.Bool) vfs.FS {
	return errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpFileWrite, errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo, errorfs.OpCreate, errorfs.OpReuseForWrite, errorfs.OpFilePreallocate:
			if broken.Load() && strings.Contains(op.Path, suffix) {
				return cause
			}
		}
		return nil
	}))
}

// TestMediumFails breaks the disk in the middle of commits, and expects an error
// that says so, no hanging, reads that go on, and every acknowledged batch after
// the next start.
func TestMediumFails(t *testing.T) {
	for _, test := range []struct {
		suffix string // of the files that cannot be written
		cause  error
		remedy string
		ingest int // Options.IngestSize
	}{
		{".log", syscall.EIO, "check the disk", 0},
		{".sst", syscall.EIO, "check the disk", 0},
		{"MANIFEST", syscall.EIO, "check the disk", 0},
		{"", syscall.EIO, "check the disk", 0},
		{"batch.", syscall.EIO, "check the disk", 1},
		{"MANIFEST", syscall.EIO, "check the disk", 1},
		{"", syscall.EIO, "check the disk", 1},
	} {
		for healthy := range 3 {
			t.Run(fmt.Sprintf("%s %v %d after %d", test.suffix, test.cause, test.ingest, healthy*40), func(t *testing.T) {
				mediumFails(t, test.suffix, test.cause, test.remedy, test.ingest, healthy*40)
			})
		}
	}
}

func mediumFails(t *testing.T, suffix string, cause error, remedy string, ingest, healthy int) {
	mem := vfs.NewCrashableMem()
	var broken atomic.Bool
	s, err := Open(t.Context(), Options{Dir: "s", FS: breaking(mem, suffix, cause, &broken), MemTableSize: 64 << 10, IngestSize: ingest})
	if err != nil {
		t.Fatal(err)
	}
	batch := func(i int) *storage.Batch {
		b := &storage.Batch{Publish: true, LSN: source.LSN(i + 1), Ops: []storage.BucketOp{{
			Bucket: testBucket,
			Op:     bucket.Op{ID: bucket.OpID(i + 1), Kind: bucket.Put, Data: noise(i)},
		}}}
		if i == 0 {
			b.Definitions = []storage.Definition{{ID: 1}}
		}
		return b
	}
	acknowledged := 0
	var failure error
	for i := 0; failure == nil && i < 2000; i++ {
		broken.Store(i > healthy)
		if failure = s.Commit(t.Context(), batch(i)); failure == nil {
			acknowledged++
		}
	}
	if !errors.Is(failure, storage.ErrFailed) || !errors.Is(failure, cause) || !strings.Contains(failure.Error(), remedy) {
		t.Fatalf("commit failed with %v, want ErrFailed because of %v and %q", failure, cause, remedy)
	}
	select {
	case <-s.Failed():
	default:
		t.Error("Failed is not closed")
	}
	if err := s.Err(); !errors.Is(err, storage.ErrFailed) {
		t.Errorf("Err is %v", err)
	}
	broken.Store(false) // too late
	if err := s.Commit(t.Context(), batch(5000)); !errors.Is(err, storage.ErrFailed) {
		t.Errorf("second commit: %v, want ErrFailed", err)
	}
	if _, err := s.RequestWriteCheckpoints(t.Context(), []storage.WriteCheckpointRequest{{User: "u"}}); !errors.Is(err, storage.ErrFailed) {
		t.Errorf("request: %v, want ErrFailed", err)
	}
	sn, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := sn.Ops(testBucket, 0, func(*bucket.Op) bool { n++; return true }); err != nil || n != acknowledged {
		t.Errorf("read %d ops of %d after the failure: %v", n, acknowledged, err)
	}
	sn.Close()
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}

	again := open(t, mem.CrashClone(vfs.CrashCloneCfg{}), "s")
	got := int(again.Recovered().Checkpoint.Op)
	if got != acknowledged && got != acknowledged+1 {
		t.Fatalf("%d batches after a restart, %d were acknowledged", got, acknowledged)
	}
	if err := again.Commit(t.Context(), batch(got)); err != nil {
		t.Fatalf("commit after a restart: %v", err)
	}
}

// noise returns data that does not compress, of which a memtable holds 20.
func noise(seed int) []byte {
	rng := rand.New(rand.NewPCG(uint64(seed), 0))
	b := make([]byte, 3000)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// TestOpenOnFullDisk expects an error, not a wait, from an open that cannot write.
func TestOpenOnFullDisk(t *testing.T) {
	mem := vfs.NewMem()
	created(t, mem, "s")
	for n := 0; ; n++ {
		ops := 0
		fs := onWrite(mem, func() error {
			if ops++; ops > n {
				return syscall.ENOSPC
			}
			return nil
		})
		s, err := Open(t.Context(), Options{Dir: "s", FS: fs})
		if err == nil {
			_ = s.Close()
			if n < 3 {
				t.Fatalf("opening a store took %d file operations", n)
			}
			return
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("open on a full disk: %v", err)
		}
		mem = copyOf(t, mem)
	}
}

// copyOf returns the files as another process would find them, unlocked.
func copyOf(t *testing.T, mem *vfs.MemFS) *vfs.MemFS {
	t.Helper()
	out := vfs.NewMem()
	if ok, err := vfs.Clone(mem, out, "s", "s"); !ok || err != nil {
		t.Fatal(ok, err)
	}
	return out
}
