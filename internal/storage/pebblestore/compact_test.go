package pebblestore

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/millrace-sync/millrace/internal/storage/storagetest"
)

func TestCompaction(t *testing.T) {
	storagetest.RunCompaction(t, func(t *testing.T) storagetest.Harness {
		return &memHarness{t: t, fs: vfs.NewCrashableMem()}
	})
}
