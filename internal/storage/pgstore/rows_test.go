package pgstore

import (
	"errors"
	"fmt"
	"testing"

	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// records returns a batch that stores n rows of table 1, with Copies as given.
func records(n int, copies int64, publish bool) *storage.Batch {
	b := &storage.Batch{Publish: publish}
	for i := range n {
		b.Rows = append(b.Rows, storage.RowWrite{Ref: rowRecord(i), Record: &storage.RowRecord{Copies: copies}})
	}
	return b
}

func rowRecord(i int) storage.RowRef {
	return storage.RowRef{Table: 1, Key: source.RowKey(fmt.Sprintf("%06d", i))}
}

func copiesOf(t *testing.T, s *Store, i int) int64 {
	t.Helper()
	rec, ok, err := s.Row(rowRecord(i))
	if err != nil {
		t.Fatal(err)
	}
	if !ok {
		return -1
	}
	return rec.Copies
}

// What is fetched ahead is found without the database, is never older than the
// last commit, and is forgotten when parts are taken back.
func TestPrefetch(t *testing.T) {
	opts := at(t, shared.Cluster(t), freshSchema())
	s := open(t, opts)
	commit(t, s, records(10, 1, true))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, opts)
	var refs []storage.RowRef
	for i := range 20 {
		refs = append(refs, rowRecord(i))
	}
	if err := s.Prefetch(t.Context(), refs); err != nil {
		t.Fatal(err)
	}
	conns := s.writes.Stat().AcquireCount()
	for i, want := range map[int]int64{0: 1, 9: 1, 10: -1, 19: -1, 1000: -1} {
		if got := copiesOf(t, s, i); got != want {
			t.Errorf("row %d has %d copies, want %d", i, got, want)
		}
	}
	if got := s.writes.Stat().AcquireCount(); got != conns {
		t.Errorf("%d queries for what was fetched ahead", got-conns)
	}
	rec, _, err := s.Row(rowRecord(0))
	if err != nil {
		t.Fatal(err)
	}
	rec.Copies = 77 // is the caller's

	// A part adds many rows that are known to be absent, and changes the others.
	commit(t, s, records(10+2*bulk, 2, false))
	if got := copiesOf(t, s, 0) + copiesOf(t, s, 9+2*bulk); got != 4 {
		t.Errorf("after a part, rows have %d copies together, want 4", got)
	}
	if _, err := s.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a, b := copiesOf(t, s, 0), copiesOf(t, s, 9+2*bulk); a != 1 || b != -1 {
		t.Errorf("after the part is taken back, rows have %d and %d copies, want 1 and none", a, b)
	}
	if got := count(t, s, "row_record"); got != 10 {
		t.Errorf("%d row records, want 10", got)
	}
}

// Listing rows ends early without reading the rest, and the store goes on.
func TestRowsOfEndsEarly(t *testing.T) {
	s := open(t, at(t, shared.Cluster(t), freshSchema()))
	commit(t, s, records(50_000, 1, true))
	stop := errors.New("stop")
	for range 2 * writeConnections {
		n := 0
		err := s.RowsOf(1, func(source.RowKey, *storage.RowRecord) error {
			if n++; n == 3 {
				return stop
			}
			return nil
		})
		if !errors.Is(err, stop) || n != 3 {
			t.Fatalf("listed %d rows, %v; want 3 and what yield returned", n, err)
		}
	}
	commit(t, s, records(1, 2, true))
}

// The record cache forgets what does not fit, and still knows what is stored.
func TestRecordCacheIsBounded(t *testing.T) {
	var c recordCache
	c.init()
	rows := map[storage.RowRef]rowWrite{}
	big := make([]byte, recordCacheBytes/4)
	for i := range 64 {
		clear(rows)
		rows[rowRecord(i)] = rowWrite{record: big}
		c.committed(rows)
		if held := len(c.newer) + len(c.older); held > 8 {
			t.Fatalf("%d records of a quarter of the bound are held", held)
		}
		if got, known := c.get(rowRecord(i)); !known || len(got) != len(big) {
			t.Fatal("what was just written is not known")
		}
	}
	if _, known := c.get(rowRecord(0)); known {
		t.Error("the first record is still held")
	}
}
