package pebblestore

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/storage"
)

func open(t *testing.T, fs vfs.FS, dir string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Options{Dir: dir, FS: fs, MemTableSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// refused opens a store and expects a kind of failure whose message has all words.
func refused(t *testing.T, fs vfs.FS, dir string, kind error, words ...string) {
	t.Helper()
	s, err := Open(t.Context(), Options{Dir: dir, FS: fs})
	if err == nil {
		_ = s.Close()
	}
	if !errors.Is(err, kind) {
		t.Fatalf("open: %v, want %v", err, kind)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("message %q does not contain %q", err, w)
		}
	}
}

// rewrite changes a closed store with Pebble alone.
func rewrite(t *testing.T, fs vfs.FS, dir string, change func(*pebble.DB) error) {
	t.Helper()
	db, err := pebble.Open(dir, &pebble.Options{FS: fs, Comparer: comparer(), Logger: newHealth(discard())})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(change(db), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// created makes a store with one bucket, row and lookup, and closes it.
func created(t *testing.T, fs vfs.FS, dir string) {
	t.Helper()
	s := open(t, fs, dir)
	err := s.Commit(t.Context(), &storage.Batch{
		Publish: true, LSN: 10,
		Definitions: []storage.Definition{{ID: 1, Hash: "h", State: storage.Serving}},
		Ops:         []storage.BucketOp{{Bucket: testBucket, Op: bucket.Op{ID: 1, Kind: bucket.Put, ObjectID: "1"}}},
		Rows:        []storage.RowWrite{{Ref: testRow, Record: &storage.RowRecord{}}},
		Lookups:     []storage.LookupWrite{{Lookup: testLookup, Values: []byte("v")}},
	})
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
}

var (
	testBucket = storage.BucketKey{Def: 1, Params: "[]"}
	testRow    = storage.RowRef{Table: 1, Key: "k"}
	testLookup = storage.LookupKey{Def: 1, Key: "k"}
)

func TestOtherFormatIsRefused(t *testing.T) {
	fs := vfs.NewMem()
	created(t, fs, "s")
	rewrite(t, fs, "s", func(db *pebble.DB) error {
		return db.Set([]byte(metaFormat), binary.BigEndian.AppendUint32(nil, storage.FormatVersion+1), pebble.Sync)
	})
	refused(t, fs, "s", storage.ErrFormat, "it is 2", "reads 1", "remove the folder")
}

func TestNewerPebbleFormatIsRefused(t *testing.T) {
	for _, version := range []pebble.FormatMajorVersion{pebble.FormatNewest, 1000} {
		fs := vfs.NewMem()
		created(t, fs, "s")
		if version == pebble.FormatNewest {
			rewrite(t, fs, "s", func(db *pebble.DB) error { return db.RatchetFormatMajorVersion(version) })
		} else {
			renameMarker(t, fs, "s", "marker.format-version.", "1000")
		}
		refused(t, fs, "s", storage.ErrFormat, "use th", "version", "folder")
	}
}

// renameMarker gives a Pebble marker file another value.
func renameMarker(t *testing.T, fs vfs.FS, dir, prefix, value string) {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, prefix) {
			parts := strings.SplitAfter(name, ".")
			parts[len(parts)-1] = value
			if err := fs.Rename(fs.PathJoin(dir, name), fs.PathJoin(dir, strings.Join(parts, ""))); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestForeignFoldersAreRefused(t *testing.T) {
	t.Run("a file", func(t *testing.T) {
		fs := vfs.NewMem()
		write(t, fs, "home", "thesis.txt")
		refused(t, fs, "home", storage.ErrFormat, `"thesis.txt"`, "empty folder")
	})
	t.Run("a database with another order", func(t *testing.T) {
		fs := vfs.NewMem()
		db, err := pebble.Open("db", &pebble.Options{FS: fs, Logger: newHealth(discard())})
		if err := errors.Join(err, db.Set([]byte("k"), nil, pebble.Sync), db.Close()); err != nil {
			t.Fatal(err)
		}
		refused(t, fs, "db", storage.ErrFormat, "another program")
	})
	t.Run("a database with our order", func(t *testing.T) {
		fs := vfs.NewMem()
		rewrite(t, fs, "db", func(db *pebble.DB) error { return db.Set([]byte("k"), nil, pebble.Sync) })
		refused(t, fs, "db", storage.ErrFormat, "another program")
	})
	t.Run("a disk's lost and found", func(t *testing.T) {
		fs := vfs.NewMem()
		if err := fs.MkdirAll("disk/lost+found", 0o700); err != nil {
			t.Fatal(err)
		}
		open(t, fs, "disk")
	})
	t.Run("no folder given", func(t *testing.T) {
		if _, err := Open(t.Context(), Options{}); err == nil {
			t.Fatal("opened nowhere")
		}
	})
	t.Run("a file in the way", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "store")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(t.Context(), Options{Dir: path})
		if err == nil {
			_ = s.Close()
		}
		if err == nil || errors.Is(err, storage.ErrLocked) || !strings.Contains(err.Error(), path) {
			t.Fatalf("open: %v", err)
		}
	})
}

func write(t *testing.T, fs vfs.FS, dir, name string) {
	t.Helper()
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := fs.Create(fs.PathJoin(dir, name), vfs.WriteCategoryUnspecified)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestCrashWhileCreating opens what is left when the very first open is cut off
// after any number of file operations.
func TestCrashWhileCreating(t *testing.T) {
	for n := 0; ; n++ {
		mem := vfs.NewCrashableMem()
		var left *vfs.MemFS
		ops := 0
		watched := onWrite(mem, func() error {
			if ops == n {
				left = mem.CrashClone(vfs.CrashCloneCfg{})
			}
			ops++
			return nil
		})
		s, err := Open(t.Context(), Options{Dir: "a/b/s", FS: watched})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if left == nil {
			if n < 10 {
				t.Fatalf("creating a store took %d file operations", n)
			}
			return
		}
		if err := open(t, left, "a/b/s").Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMissingMetaIsCorrupt(t *testing.T) {
	for _, key := range []string{metaIdentity, metaNext, metaCheckpoint} {
		for _, value := range [][]byte{nil, {1, 2, 3}} {
			fs := vfs.NewMem()
			created(t, fs, "s")
			rewrite(t, fs, "s", func(db *pebble.DB) error {
				if value == nil {
					return db.Delete([]byte(key), pebble.Sync)
				}
				return db.Set([]byte(key), value, pebble.Sync)
			})
			refused(t, fs, "s", storage.ErrCorrupt)
		}
	}
	for _, key := range []string{"d\x00", "d\x00\x00\x00\x02", "p\x01", "p\x00\x00\x00\x00\x00\x00\x00\x01", "u\x00\x00\x00\x00\x00\x00\x00\x01"} {
		fs := vfs.NewMem()
		created(t, fs, "s")
		rewrite(t, fs, "s", func(db *pebble.DB) error { return db.Set([]byte(key), []byte{0}, pebble.Sync) })
		refused(t, fs, "s", storage.ErrCorrupt)
	}
}

// TestBadValuesAreCorrupt spoils each kind of value: its reader says so, and the
// rest stays readable.
func TestBadValuesAreCorrupt(t *testing.T) {
	fs := vfs.NewMem()
	created(t, fs, "s")
	rewrite(t, fs, "s", func(db *pebble.DB) error {
		return errors.Join(
			db.Set(appendOpKey(nil, testBucket, 1), []byte{99}, nil),
			db.Set(appendBucket(nil, spaceState, testBucket), []byte{99}, nil),
			db.Set(appendRowKey(nil, testRow), []byte{99}, pebble.Sync),
		)
	})
	s := open(t, fs, "s")
	sn, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer sn.Close()
	_, _, rowErr := s.Row(testRow)
	for name, err := range map[string]error{
		"row":   rowErr,
		"rows":  s.RowsOf(1, nil),
		"ops":   sn.Ops(testBucket, 0, nil),
		"state": sn.BucketStates([]storage.BucketKey{testBucket}, make([]bucket.State, 1)),
		"commit": s.Commit(t.Context(), &storage.Batch{Publish: true, Ops: []storage.BucketOp{
			{Bucket: testBucket, Op: bucket.Op{ID: 2, Kind: bucket.Clear}}}}),
	} {
		if !errors.Is(err, storage.ErrCorrupt) {
			t.Errorf("%s: %v, want ErrCorrupt", name, err)
		}
	}
	if err := s.Commit(t.Context(), &storage.Batch{Publish: true, LSN: 20, Ops: []storage.BucketOp{
		{Bucket: storage.BucketKey{Def: 1, Params: "[1]"}, Op: bucket.Op{ID: 2, Kind: bucket.Clear}}}}); err != nil {
		t.Errorf("commit to a sound bucket: %v", err)
	}
	n := 0
	if err := sn.Lookup(testLookup, func([]byte) error { n++; return nil }); err != nil || n != 1 {
		t.Errorf("lookup: %d entries, %v", n, err)
	}
}

func TestRecoveredAfterOpen(t *testing.T) {
	fs := vfs.NewMem()
	created(t, fs, "s")
	s := open(t, fs, "s")
	now, err := s.Recover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(now, s.Recovered()); d != "" {
		t.Fatalf("Recovered differs from Recover (-Recover +Recovered):\n%s", d)
	}
}

const lockHelper = "MILLRACE_TEST_LOCK_HELPER"

// TestLockedByAnotherProcess runs itself as the other process.
func TestLockedByAnotherProcess(t *testing.T) {
	if dir := os.Getenv(lockHelper); dir != "" {
		s, err := Open(t.Context(), Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("open\n")
		_, _ = io.Copy(io.Discard, os.Stdin) // until the test is done
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		return
	}
	dir := filepath.Join(t.TempDir(), "store")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestLockedByAnotherProcess$")
	cmd.Env = append(os.Environ(), lockHelper+"="+dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "open\n" {
		t.Fatalf("other process said %q, %v", line, err)
	}
	refused(t, vfs.Default, dir, storage.ErrLocked, dir, "other millrace process", "another folder")
	_ = stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("other process: %v", err)
	}
	open(t, vfs.Default, dir)
}
