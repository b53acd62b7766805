package replicate

import (
	"fmt"
	"testing"

	"github.com/millrace-sync/millrace/internal/deploy"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/streams"
)

// nothing is a store that holds no rows and forgets what it is given.
type nothing struct{}

func (nothing) Row(storage.RowRef) (*storage.RowRecord, bool, error) { return nil, false, nil }
func (nothing) Records(source.TableID, []source.RowKey, func(int, *storage.RowRecord)) error {
	return nil
}
func (nothing) RowsOf(source.TableID, func(source.RowKey, *storage.RowRecord) error) error {
	return nil
}

// benchRows is how many rows each step of a benchmark has.
const benchRows = 4096

// newBenchmark returns an applier for rows of about 150 bytes in one bucket each, and
// such rows.
func newBenchmark(b *testing.B) (*Applier, *source.Table, [][]source.Datum) {
	plan, diagnostics := streams.Compile(streams.Source{File: "bench.yaml", Text: `
config: {edition: 3}
streams:
  greetings: {query: SELECT * FROM greeting WHERE owner = auth.user_id()}
`})
	if plan == nil {
		b.Fatal(streams.Format(diagnostics))
	}
	table := &source.Table{ID: 1, Schema: "public", Name: "greeting"}
	for _, name := range []string{"id", "owner", "message", "author", "created_at"} {
		table.Columns = append(table.Columns, source.Column{Name: name, Type: text{}, Key: name == "id"})
	}
	rows := make([][]source.Datum, benchRows)
	for i := range rows {
		rows[i] = row(fmt.Sprintf("%08x-9b1d-4a57-8c35-0de0a1b2c3d4", i), fmt.Sprint("user", i%100),
			fmt.Sprintf("hello %d f899139df5e1059396431415e770c6dd", i), "bench", "2026-11-29 09:30:00.123456Z")
	}
	diff := deploy.Compare(nil, nil, plan, 1)
	eval := NewEvaluator([32]byte{1}, nil, deploy.New(plan, diff.Definitions, "bench"))
	a := NewApplier(nothing{}, nil, eval, 1, DefaultLimits)
	a.Backfill(diff.Definitions, []*source.Table{table}, func(storage.DefinitionID, *source.Table) bool { return true })
	return a, table, rows
}

func perRow(b *testing.B) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchRows, "ns/row")
}

// BenchmarkEvaluate measures what a reader does with each row.
func BenchmarkEvaluate(b *testing.B) {
	a, table, rows := newBenchmark(b)
	t := a.Bind(table)
	b.ReportAllocs()
	for b.Loop() {
		var s Scratch
		for _, r := range rows {
			if _, err := t.Evaluate(r, &s); err != nil {
				b.Fatal(err)
			}
		}
	}
	perRow(b)
}

// BenchmarkApply measures what the follower does with each row of a transaction, but
// for the store's part.
func BenchmarkApply(b *testing.B) {
	a, table, rows := newBenchmark(b)
	tx := &source.Txn{Changes: make([]source.Change, len(rows))}
	for i := range rows {
		tx.Changes[i] = source.Change{Kind: source.Insert, Table: table, New: rows[i]}
	}
	prepared := NewPreparer(a.eval).Prepare(tx)
	commit := func(*storage.Batch) error { return nil }
	b.ReportAllocs()
	for b.Loop() {
		if err := a.ApplyPrepared(prepared, commit); err != nil {
			b.Fatal(err)
		}
		if err := a.Flush(1, commit); err != nil {
			b.Fatal(err)
		}
	}
	perRow(b)
}

// BenchmarkMerge measures what the follower does with each row of a chunk, but for
// the store's part.
func BenchmarkMerge(b *testing.B) {
	a, table, rows := newBenchmark(b)
	t := a.Bind(table)
	reading, _, _ := a.Reading(table.ID)
	c := &Chunk{Table: t, Reading: reading, Next: 1 << 20, Last: []string{"x"}}
	var s Scratch
	for _, r := range rows {
		e, err := t.Evaluate(r, &s)
		if err != nil {
			b.Fatal(err)
		}
		c.Rows = append(c.Rows, e)
	}
	commit := func(*storage.Batch) error { return nil }
	b.ReportAllocs()
	for b.Loop() {
		c.After = c.Last // beyond what is read without a gap
		a.Low(1, table.ID)
		if err := a.Merge(1, c, 1, commit); err != nil {
			b.Fatal(err)
		}
		a.backfill.tables[table.ID].ahead = nil
	}
	perRow(b)
}
