package client

import (
	"database/sql"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// three queues three transactions, of one, two and one entries.
func three(t *testing.T, d *DB) {
	t.Helper()
	mustExec(t, d, `INSERT INTO todos(id, title) VALUES ('a', 'x')`)
	if err := d.WriteTx(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.Exec(`INSERT INTO todos(id) VALUES ('b'); UPDATE todos SET title = NULL, done = 1 WHERE id = 'a'`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	mustExec(t, d, `DELETE FROM todos WHERE id = 'b'`)
}

// Batches are cut anywhere, transactions never; several can be completed together.
func TestQueue(t *testing.T) {
	d := newDB(t, todos)
	if b, err := d.NextBatch(t.Context(), 0); b != nil || err != nil {
		t.Errorf("of an empty queue: %v, %v", b, err)
	}
	if tx, err := d.NextTransaction(t.Context()); tx != nil || err != nil {
		t.Errorf("of an empty queue: %v, %v", tx, err)
	}
	if _, err := d.NextBatch(t.Context(), -1); err == nil {
		t.Error("a negative limit")
	}
	three(t, d)
	stats, err := d.UploadQueueStats(t.Context())
	if err != nil || stats.Count != 4 || stats.Bytes < 4*20+4*30 {
		t.Errorf("stats: %+v, %v", stats, err)
	}
	b, err := d.NextBatch(t.Context(), 2)
	if err != nil || len(b.Entries) != 2 || !b.More {
		t.Fatalf("batch %+v, %v", b, err)
	}
	if b, err := d.NextBatch(t.Context(), 4); err != nil || len(b.Entries) != 4 || b.More {
		t.Errorf("batch %+v, %v", b, err)
	}
	var got []string
	for tx, err := range d.Transactions(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range tx.Entries {
			got = append(got, fmt.Sprintf("%d %d %s %s %s", tx.ID, e.ID, e.Op, e.RowID, e.Data))
		}
	}
	want := []string{`1 1 PUT a {"title":"x"}`, `2 2 PUT b {}`, `2 3 PATCH a {"done":1,"title":null}`, `3 4 DELETE b `}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("queue (-want +got):\n%s", diff)
	}
	if err := b.Complete(t.Context()); err != nil {
		t.Fatal(err)
	}
	// What is left of a transaction is one still.
	var all []*Transaction
	for tx, err := range d.Transactions(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, tx)
	}
	if len(all) != 2 || len(all[0].Entries) != 1 || all[0].ID != 2 {
		t.Fatalf("transactions %+v", all)
	}
	if err := all[1].Complete(t.Context()); err != nil || queued(t, d) != "" {
		t.Errorf("queue %q, %v", queued(t, d), err)
	}
}

// A backend's own write checkpoint opens the gate only once the queue is empty.
func TestCompleteWith(t *testing.T) {
	d := newDB(t, todos)
	three(t, d)
	target := func(want int64) {
		t.Helper()
		got, err := Get[int64](t.Context(), d, `SELECT value FROM ps_kv WHERE key = 'target_checkpoint_request_id'`)
		if err != nil || got != want {
			t.Errorf("the gate waits for %d, %v; want %d", got, err, want)
		}
	}
	target(math.MaxInt64)
	tx, err := d.NextTransaction(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.CompleteWith(t.Context(), 0); err == nil {
		t.Error("a write checkpoint of 0")
	}
	if err := tx.CompleteWith(t.Context(), 5); err != nil {
		t.Fatal(err)
	}
	target(math.MaxInt64)
	b, err := d.NextBatch(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.CompleteWith(t.Context(), 6); err != nil {
		t.Fatal(err)
	}
	target(6)
}

// An entry that is no JSON is named, not skipped.
func TestDamagedEntry(t *testing.T) {
	d := newDB(t, todos)
	mustExec(t, d, `INSERT INTO ps_crud(id, data) VALUES (7, 'no JSON')`)
	if _, err := d.NextTransaction(t.Context()); err == nil || !strings.Contains(err.Error(), "entry 7 is damaged") {
		t.Errorf("got %v", err)
	}
}
