package pebblestore

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// TestRecordsDenseAndSparse asks for keys that are close together and far apart, there
// and absent, and expects what Row says of each.
func TestRecordsDenseAndSparse(t *testing.T) {
	s := open(t, vfs.NewMem(), "s")
	const rows = 3000
	for part := range 3 {
		b := &storage.Batch{Publish: true, LSN: source.LSN(part + 1)}
		for i := part; i < rows; i += 3 {
			b.Rows = append(b.Rows, storage.RowWrite{Ref: storage.RowRef{Table: 1, Key: source.RowKey(fmt.Sprintf("%05d", 2*i))}, Record: &storage.RowRecord{Copies: int64(i)}})
		}
		if err := s.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.db.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, step := range []int{1, 2, 3, 7, 30, 200} {
		for _, from := range []int{0, 1, 500, 2*rows - 20, 2 * rows} {
			var keys []source.RowKey
			for k := from; len(keys) < 400; k += 1 + rand.IntN(step) {
				keys = append(keys, source.RowKey(fmt.Sprintf("%05d", k)))
			}
			var want, got []string
			for i, k := range keys {
				rec, ok, err := s.Row(storage.RowRef{Table: 1, Key: k})
				if err != nil {
					t.Fatal(err)
				}
				if ok {
					want = append(want, fmt.Sprint(i, " ", rec.Copies))
				}
			}
			if err := s.Records(1, keys, func(i int, rec *storage.RowRecord) { got = append(got, fmt.Sprint(i, " ", rec.Copies)) }); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, want) {
				t.Errorf("from %d in steps up to %d: %d records, want %d", from, step, len(got), len(want))
			}
		}
	}
}
