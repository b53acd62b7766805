package pebblestore

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace-sync/millrace/internal/storage/storagetest"
)

// killed keeps stores in folders; small tables, so that they are written and merged
// while the process is killed.
var killed = storagetest.Kill{
	Open: func(ctx context.Context, dir string) (storagetest.Store, error) {
		s, err := Open(ctx, Options{Dir: dir, MemTableSize: 64 << 10})
		if err != nil {
			return nil, err
		}
		return asStore{s}, nil
	},
	Fresh: func(t *testing.T) string { return filepath.Join(t.TempDir(), "store") },
}

func TestMain(m *testing.M) {
	killed.Child()
	os.Exit(m.Run())
}

// TestKillInCommit: whatever moment a process is killed at, its store opens, and holds
// a published state with all that was durable.
func TestKillInCommit(t *testing.T) { killed.Run(t, 20) }
