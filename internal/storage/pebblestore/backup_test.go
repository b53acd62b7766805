package pebblestore

import (
	"errors"
	"os"
	"path/filepath"
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

// TestBackup copies a store while it is written, in the middle of a transaction
// and of a compaction: the copy opens at a checkpoint from then, serves, and goes
// on by itself.
func TestBackup(t *testing.T) {
	dir := t.TempDir()
	s := open(t, vfs.Default, filepath.Join(dir, "store"))
	put := func(id bucket.OpID) storage.BucketOp {
		return storage.BucketOp{Bucket: testBucket, Op: bucket.Op{ID: id, Kind: bucket.Put, ObjectID: "1", Data: []byte("{}"), Checksum: bucket.Checksum(id)}}
	}
	commit := func(s *Store, id bucket.OpID, publish bool) error {
		b := &storage.Batch{Publish: publish, LSN: source.LSN(id), Ops: []storage.BucketOp{put(id)}}
		if id == 1 {
			b.Definitions = []storage.Definition{{ID: 1, State: storage.Serving}}
		}
		return s.Commit(t.Context(), b)
	}
	for id := range bucket.OpID(100) {
		if err := commit(s, id+1, true); err != nil {
			t.Fatal(err)
		}
	}
	if err := commit(s, 101, false); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan error)
	go func() {
		id := bucket.OpID(102)
		for ; ; id++ {
			if err := commit(s, id, true); err != nil {
				done <- err
				return
			}
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
		}
	}()
	backup := filepath.Join(dir, "backups", "monday")
	if err := s.Backup(t.Context(), backup); err != nil {
		t.Fatal(err)
	}
	if err := s.Backup(t.Context(), backup); !errors.Is(err, ErrBackupExists) {
		t.Errorf("second backup to one folder: %v, want ErrBackupExists", err)
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(backup); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the backup's folder: %v, %v; want it private", info, err)
	}
	// The copy shares nothing that changes: both go on.
	if _, err := s.Compact(t.Context(), storage.CompactOptions{}); err != nil {
		t.Fatal(err)
	}
	restored := open(t, vfs.Default, backup)
	rec := restored.Recovered()
	if rec.Checkpoint.Op < 100 || rec.Epoch != s.epoch || rec.Secret != s.secret {
		t.Fatalf("restored at %s of epoch %s", rec.Checkpoint, rec.Epoch)
	}
	sn, err := restored.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer sn.Close()
	var sum bucket.Checksum
	n := 0
	if err := sn.Ops(testBucket, 0, func(op *bucket.Op) bool { n++; sum += op.Checksum; return true }); err != nil {
		t.Fatal(err)
	}
	states := make([]bucket.State, 1)
	if err := sn.BucketStates([]storage.BucketKey{testBucket}, states); err != nil {
		t.Fatal(err)
	}
	if states[0].Last != rec.Checkpoint.Op || states[0].Count != int64(n) || states[0].Checksum != sum || n != int(rec.Checkpoint.Op) {
		t.Fatalf("%d ops sum to %d at %s, state %+v", n, sum, rec.Checkpoint, states[0])
	}
	if err := commit(restored, rec.NextOp, true); err != nil {
		t.Fatal(err)
	}
}

// TestBackupToFullDisk expects a backup that fails, at any point, to harm neither
// the store nor the next backup.
func TestBackupToFullDisk(t *testing.T) {
	for n := 0; ; n++ {
		mem := vfs.NewMem()
		var left atomic.Int64
		var during atomic.Bool
		s := open(t, errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			switch {
			case op.Kind == errorfs.OpRemove, op.Kind == errorfs.OpRemoveAll, op.Kind.ReadOrWrite() != errorfs.OpIsWrite:
			case strings.HasPrefix(op.Path, "other") && during.Load() && left.Add(-1) < 0:
				return syscall.ENOSPC
			}
			return nil
		})), "disk/store")
		if err := s.Commit(t.Context(), &storage.Batch{
			Definitions: []storage.Definition{{ID: 1}}, Publish: true, LSN: 1,
			Ops: []storage.BucketOp{{Bucket: testBucket, Op: bucket.Op{ID: 1, Kind: bucket.Put, Data: noise(1)}}},
		}); err != nil {
			t.Fatal(err)
		}
		if err := s.db.Flush(); err != nil {
			t.Fatal(err)
		}
		left.Store(int64(n))
		during.Store(true)
		err := s.Backup(t.Context(), "other/backup")
		during.Store(false)
		if err == nil {
			if n < 5 {
				t.Fatalf("a backup took %d writes", n)
			}
			return
		}
		if !errors.Is(err, syscall.ENOSPC) || s.Err() != nil {
			t.Fatalf("after %d writes: %v; the store: %v", n, err, s.Err())
		}
		if err := s.Backup(t.Context(), "other/backup"); err != nil {
			t.Fatalf("second backup, after %d writes of the first: %v", n, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
