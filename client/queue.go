package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"

	"github.com/millrace-sync/millrace/client/internal/engine"
	"github.com/millrace-sync/millrace/client/internal/local"
)

// Op is what an upload entry does.
type Op string

// The kinds of entry.
const (
	Put    Op = "PUT"    // insert or replace the row
	Patch  Op = "PATCH"  // set the columns in Data
	Delete Op = "DELETE" // delete the row
)

// Entry is a local write that has to be uploaded. Its JSON form is that of official clients.
type Entry struct {
	// ID grows with each entry of this database; the backend can tell by it what it
	// has seen.
	ID int64 `json:"op_id"`
	Op Op    `json:"op"`
	// Table and RowID say which row.
	Table string `json:"type"`
	RowID string `json:"id"`
	// Transaction is the number that the entries of a transaction share.
	Transaction int64 `json:"tx_id,omitempty"`
	// Data is a JSON object: of a Put the columns that are not null, of a Patch the
	// columns that changed, null where they were cleared. A Delete has none.
	Data json.RawMessage `json:"data,omitempty"`
	// Previous and Metadata are there if the table asks for them.
	Previous json.RawMessage `json:"old,omitempty"`
	Metadata string          `json:"metadata,omitempty"`
}

// Batch is the start of the upload queue.
type Batch struct {
	Entries []Entry
	// More says that the queue goes on.
	More bool
	db   *DB
}

// Transaction is a transaction in the upload queue.
type Transaction struct {
	ID      int64
	Entries []Entry
	db      *DB
}

// maxTransaction bounds the entries of a transaction that are held at once.
const maxTransaction = 1_000_000

// NextBatch returns up to limit entries from the start of the queue, whatever their
// transactions; nil if there are none. A limit of 0 is 100.
func (d *DB) NextBatch(ctx context.Context, limit int) (*Batch, error) {
	if limit < 0 {
		return nil, fmt.Errorf("read the upload queue: a limit of %d", limit)
	}
	limit = orDefault(limit, 100)
	entries, err := d.entries(ctx, `SELECT id, tx_id, data FROM ps_crud ORDER BY id LIMIT ?`, limit+1)
	if err != nil || len(entries) == 0 {
		return nil, err
	}
	n := min(limit, len(entries))
	return &Batch{Entries: entries[:n], More: len(entries) > n, db: d}, nil
}

// NextTransaction returns the oldest transaction in the queue; nil if there is none.
func (d *DB) NextTransaction(ctx context.Context) (*Transaction, error) {
	return d.transactionAfter(ctx, 0)
}

// Transactions yields the transactions in the queue, the oldest first. Completing one
// completes those before it, so several can be uploaded together.
func (d *DB) Transactions(ctx context.Context) iter.Seq2[*Transaction, error] {
	return func(yield func(*Transaction, error) bool) {
		var last int64
		for {
			t, err := d.transactionAfter(ctx, last)
			if err != nil {
				yield(nil, err)
				return
			}
			if t == nil || !yield(t, nil) {
				return
			}
			last = t.Entries[len(t.Entries)-1].ID
		}
	}
}

func (d *DB) transactionAfter(ctx context.Context, last int64) (*Transaction, error) {
	// An entry that somebody put there without a number stands alone.
	entries, err := d.entries(ctx, `
WITH first AS (SELECT id, tx_id FROM ps_crud WHERE id > ?1 ORDER BY id LIMIT 1)
SELECT c.id, c.tx_id, c.data FROM ps_crud c, first
WHERE c.id = first.id OR c.id > first.id AND c.tx_id = first.tx_id
ORDER BY c.id LIMIT ?2`, last, maxTransaction+1)
	if err != nil || len(entries) == 0 {
		return nil, err
	}
	if len(entries) > maxTransaction {
		return nil, fmt.Errorf("read the upload queue: transaction %d has more than %d entries; upload it with NextBatch", entries[0].Transaction, maxTransaction)
	}
	return &Transaction{ID: entries[0].Transaction, Entries: entries, db: d}, nil
}

func (d *DB) entries(ctx context.Context, query string, args ...any) ([]Entry, error) {
	type row struct {
		ID   int64
		TxID *int64 `db:"tx_id"`
		Data []byte
	}
	rows, err := GetAll[row](ctx, d, query, args...)
	if err != nil {
		return nil, fmt.Errorf("read the upload queue: %w", err)
	}
	entries := make([]Entry, len(rows))
	for i, r := range rows {
		if err := json.Unmarshal(r.Data, &entries[i]); err != nil {
			return nil, fmt.Errorf("read the upload queue: entry %d is damaged: %w", r.ID, err)
		}
		entries[i].ID = r.ID
		if r.TxID != nil {
			entries[i].Transaction = *r.TxID
		}
	}
	return entries, nil
}

// Complete removes the batch from the queue: the backend has it.
func (b *Batch) Complete(ctx context.Context) error {
	return b.db.complete(ctx, b.Entries[len(b.Entries)-1].ID, 0)
}

// CompleteWith is Complete for backends that make write checkpoints themselves.
func (b *Batch) CompleteWith(ctx context.Context, writeCheckpoint int64) error {
	return b.db.completeWith(ctx, b.Entries[len(b.Entries)-1].ID, writeCheckpoint)
}

// Complete removes the transaction, and those before it, from the queue: the backend
// has them.
func (t *Transaction) Complete(ctx context.Context) error {
	return t.db.complete(ctx, t.Entries[len(t.Entries)-1].ID, 0)
}

// CompleteWith is Complete for backends that make write checkpoints themselves.
func (t *Transaction) CompleteWith(ctx context.Context, writeCheckpoint int64) error {
	return t.db.completeWith(ctx, t.Entries[len(t.Entries)-1].ID, writeCheckpoint)
}

func (d *DB) completeWith(ctx context.Context, last, writeCheckpoint int64) error {
	if writeCheckpoint <= 0 {
		return fmt.Errorf("complete an upload: write checkpoint %d is not above 0", writeCheckpoint)
	}
	return d.complete(ctx, last, writeCheckpoint)
}

// complete removes entries and, if none are left, has the gate wait for the write
// checkpoint. Without one the gate stays shut until the upload loop has asked for it.
func (d *DB) complete(ctx context.Context, last, writeCheckpoint int64) error {
	err := d.exclusive(ctx, func(*local.Conn) error {
		if err := d.store.Exec(`DELETE FROM ps_crud WHERE id <= ?`, last); err != nil {
			return err
		}
		if writeCheckpoint == 0 {
			return nil
		}
		first, err := firstEntry(d.store)
		if err != nil || first != 0 {
			return err
		}
		return engine.SetTarget(d.store, writeCheckpoint)
	})
	if err != nil {
		return fmt.Errorf("complete an upload: %w", err)
	}
	return nil
}

// firstEntry returns the id of the oldest entry in the queue, 0 if it is empty.
func firstEntry(s *store) (id int64, err error) {
	err = s.Query(`SELECT id FROM ps_crud ORDER BY id LIMIT 1`, func(r engine.Row) error {
		id = r.Int64(0)
		return nil
	})
	return id, err
}

// QueueStats is the size of the upload queue.
type QueueStats struct {
	Count int64
	Bytes int64 // of the entries, with 20 for each one's overhead
}

// UploadQueueStats returns the size of the upload queue.
func (d *DB) UploadQueueStats(ctx context.Context) (QueueStats, error) {
	s, err := Get[QueueStats](ctx, d, `SELECT count(*) AS count, coalesce(sum(20 + octet_length(data)), 0) AS bytes FROM ps_crud`)
	if err != nil {
		return QueueStats{}, fmt.Errorf("measure the upload queue: %w", err)
	}
	return s, nil
}

// ErrNotCompleted says that a connector's UploadData returned without completing
// what it uploaded.
var ErrNotCompleted = errors.New("UploadData returned no error, but the queue still starts with the same entry: call Complete on what was uploaded, or return an error")
