package pebblestore

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// filling is a disk that has no room, while full, for files of some kind.
func filling(mem *vfs.MemFS, suffix string, full *atomic.Bool) vfs.FS {
	return errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpFileWrite, errorfs.OpCreate, errorfs.OpReuseForWrite, errorfs.OpFilePreallocate, errorfs.OpRename:
			if full.Load() && strings.Contains(op.Path, suffix) {
				return syscall.ENOSPC
			}
		}
		return nil
	}))
}

func opBatch(i int) *storage.Batch {
	b := &storage.Batch{Publish: true, LSN: source.LSN(i + 1), Ops: []storage.BucketOp{{
		Bucket: testBucket,
		Op:     bucket.Op{ID: bucket.OpID(i + 1), Kind: bucket.Put, Data: noise(i)},
	}}}
	if i == 0 {
		b.Definitions = []storage.Definition{{ID: 1}}
	}
	return b
}

// A full disk holds writes up and nothing else; they go on by themselves when there
// is room, and nothing that was acknowledged is lost.
func TestFullDisk(t *testing.T) {
	for _, c := range []struct {
		suffix string
		ingest int // Options.IngestSize
	}{{".log", 0}, {".sst", 0}, {"MANIFEST", 0}, {"", 0}, {"batch.", 1}, {"MANIFEST", 1}, {"", 1}} {
		t.Run(fmt.Sprintf("no room for %s, ingest %d", c.suffix, c.ingest), func(t *testing.T) {
			mem := vfs.NewCrashableMem()
			var full atomic.Bool
			s, err := Open(t.Context(), Options{Dir: "s", FS: filling(mem, c.suffix, &full), MemTableSize: 64 << 10, IngestSize: c.ingest, roomPause: time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			commits := make(chan error)
			next := 0
			for round := range 3 {
				full.Store(true)
				go func() {
					for {
						err := s.Commit(t.Context(), opBatch(next))
						if next++; err != nil || s.Waiting() == nil && !full.Load() && next%50 == 0 {
							commits <- err
							return
						}
					}
				}()
				for deadline := time.Now().Add(20 * time.Second); s.Waiting() == nil; <-time.After(time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatalf("round %d: nothing waits for room", round)
					}
				}
				if err := s.Waiting(); !errors.Is(err, storage.ErrFull) || !errors.Is(err, syscall.ENOSPC) {
					t.Errorf("waiting: %v", err)
				}
				sn, err := s.Snapshot()
				if err != nil {
					t.Fatal(err)
				}
				if err := sn.Ops(testBucket, 0, func(*bucket.Op) bool { return true }); err != nil {
					t.Errorf("read on a full disk: %v", err)
				}
				sn.Close()
				full.Store(false)
				if err := <-commits; err != nil {
					t.Fatalf("commit once there was room: %v", err)
				}
			}
			if err := s.Err(); err != nil {
				t.Errorf("the store has failed: %v", err)
			}
			again := open(t, mem.CrashClone(vfs.CrashCloneCfg{}), "s")
			if got := int(again.Recovered().Checkpoint.Op); got != next {
				t.Errorf("%d batches after a crash, %d were acknowledged", got, next)
			}
			if err := s.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
}

// A process that is to end does not wait for room.
func TestEndOnFullDisk(t *testing.T) {
	for _, end := range []struct {
		name string
		f    func(*Store)
	}{{"Close", func(s *Store) { _ = s.Close() }}, {"Impatient", (*Store).Impatient}} {
		t.Run(end.name, func(t *testing.T) {
			mem := vfs.NewCrashableMem()
			var full atomic.Bool
			s, err := Open(t.Context(), Options{Dir: "s", FS: filling(mem, "", &full), MemTableSize: 64 << 10, roomPause: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			full.Store(true)
			failed := make(chan error)
			acknowledged := 0
			go func() {
				for {
					if err := s.Commit(t.Context(), opBatch(acknowledged)); err != nil {
						failed <- err
						return
					}
					acknowledged++
				}
			}()
			for s.Waiting() == nil {
				<-time.After(time.Millisecond)
			}
			end.f(s)
			if err := <-failed; !errors.Is(err, storage.ErrFailed) || !strings.Contains(fmt.Sprint(err), "make room") {
				t.Errorf("commit failed with %v", err)
			}
			_ = s.Close()
			again := open(t, mem.CrashClone(vfs.CrashCloneCfg{}), "s")
			if got := int(again.Recovered().Checkpoint.Op); got != acknowledged && got != acknowledged+1 {
				t.Errorf("%d batches after a restart, %d were acknowledged", got, acknowledged)
			}
		})
	}
}
