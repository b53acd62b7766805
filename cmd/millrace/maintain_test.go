package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/pebblestore"
)

func openStore(t *testing.T, dir string) *pebblestore.Store {
	t.Helper()
	s, err := pebblestore.Open(t.Context(), pebblestore.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// bucketOps returns how many ops a bucket has.
func bucketOps(t *testing.T, s *pebblestore.Store, key storage.BucketKey) int64 {
	t.Helper()
	sn, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer sn.Close()
	states := make([]bucket.State, 1)
	if err := sn.BucketStates([]storage.BucketKey{key}, states); err != nil {
		t.Fatal(err)
	}
	return states[0].Count
}

// TestCompactAndBackup has the two commands work on a storage, and refuse what they
// must.
func TestCompactAndBackup(t *testing.T) {
	env := serviceEnv(t, "0")
	var dir string
	for _, v := range env {
		if d, ok := strings.CutPrefix(v, "PS_DATA="); ok {
			dir = d
		}
	}
	run := func(wantCode int, wantIn string, args ...string) {
		t.Helper()
		stdout, stderr, code := millrace(t, env, append(args, "-c", "good.yaml")...)
		if code != wantCode || !strings.Contains(stdout+stderr, wantIn) {
			t.Fatalf("millrace %s: exit code %d, want %d and %q\n%s%s", strings.Join(args, " "), code, wantCode, wantIn, stdout, stderr)
		}
	}
	backup := filepath.Join(t.TempDir(), "backup")
	run(1, "there is no storage in "+dir, "compact")
	run(1, "there is no storage in "+dir, "backup", backup)

	one, two := storage.BucketKey{Def: 1, Params: "[]"}, storage.BucketKey{Def: 1, Params: `["a","b"]`}
	s := openStore(t, dir)
	for id := bucket.OpID(1); id <= 400; id += 2 {
		op := bucket.Op{ID: id, Kind: bucket.Put, ObjectType: "t", ObjectID: "1", Data: fmt.Append(nil, id)}
		b := &storage.Batch{Publish: true, LSN: source.LSN(id), Ops: []storage.BucketOp{{Bucket: one, Op: op}, {Bucket: two, Op: op}}}
		b.Ops[1].Op.ID++
		if id == 1 {
			b.Definitions = []storage.Definition{{ID: 1, Hash: "h", Label: "todos|0", State: storage.Serving}}
		}
		if err := s.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	run(1, "A running service compacts by itself", "compact")
	run(1, "stop it for as long as that takes", "backup", backup)
	run(1, "Stop the service first", "teardown", "TEARDOWN")
	name := s.Recovered().Epoch + `.1#todos|0["a","b"]`
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	run(0, "as of checkpoint 400@0/18F", "backup", backup)
	run(1, "it exists already", "backup", backup)
	run(1, `there is no bucket "x"`, "compact", "-b", "x")
	run(0, "looked at 1 bucket, dropped 199 operations; the storage took ", "compact", "-b", name)
	s = openStore(t, dir)
	if a, b := bucketOps(t, s, one), bucketOps(t, s, two); a != 200 || b != 2 {
		t.Fatalf("%d and %d ops are left, want 200 and 2", a, b)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	run(0, "looked at 1 bucket, dropped 199 operations", "compact", "--incremental-only")
	run(0, "looked at 2 buckets, dropped nothing", "compact")

	run(150, "PSYNC_S0102", "teardown")
	run(150, "PSYNC_S0102", "teardown", "teardown")
	run(1, "PSYNC_S1", "teardown", "TEARDOWN") // without the source the slot cannot be dropped
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("the storage went before the slot: %v", err)
	}
	run(1, "PSYNC_S1", "test-connection")

	restored := openStore(t, backup)
	if a, b := bucketOps(t, restored, one), bucketOps(t, restored, two); a != 200 || b != 200 {
		t.Fatalf("%d and %d ops are in the backup, want 200 each", a, b)
	}
}
