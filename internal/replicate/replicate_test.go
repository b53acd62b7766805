package replicate

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/deploy"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/streams"
)

// text is a type whose values are their bytes.
type text struct{}

func (text) Name() string { return "text" }

func (text) Decode(d source.Datum, _ source.Form) (source.Value, error) {
	switch {
	case d.Encoding == source.Null:
		return source.Value{}, nil
	case string(d.Bytes) == "malformed":
		return source.Value{}, errors.New("malformed text")
	}
	return source.String(string(d.Bytes)), nil
}

// row makes a row of texts; "-" stands for null, "~" for a value left out.
func row(values ...string) []source.Datum {
	out := make([]source.Datum, len(values))
	for i, v := range values {
		switch v {
		case "-":
		case "~":
			out[i].Encoding = source.Unchanged
		default:
			out[i] = source.Datum{Encoding: source.Text, Bytes: []byte(v)}
		}
	}
	return out
}

func notes(identity source.Identity) *source.Table {
	whole := identity == source.IdentityFull
	return &source.Table{ID: 1, Schema: "public", Name: "notes", Identity: identity, Columns: []source.Column{
		{Name: "id", Type: text{}, Key: true}, {Name: "owner", Type: text{}, Key: whole}, {Name: "body", Type: text{}, Key: whole},
	}}
}

// bench is an Applier on a store in memory.
type bench struct {
	*Applier
	t       *testing.T
	rows    map[storage.RowRef]*storage.RowRecord
	table   *source.Table
	fresh   []source.Datum // what Refetch finds
	altered bool           // Refetch cannot read the table as it was
	after   source.XID     // what Refetch was last asked to show
	out     []string       // what was committed since the last look
	defs    []storage.Definition
	eval    *Evaluator
	commits int
}

const config = `
config: {edition: 3}
streams:
  own:
    query: SELECT id, body FROM notes WHERE owner = auth.user_id()
  friends:
    query: SELECT id FROM notes WHERE id IN (SELECT body FROM notes WHERE owner = auth.user_id())
`

func newBench(t *testing.T, table *source.Table) *bench {
	plan, diagnostics := streams.Compile(streams.Source{File: "test.yaml", Text: config})
	if plan == nil {
		t.Fatal(streams.Format(diagnostics))
	}
	b := &bench{t: t, rows: map[storage.RowRef]*storage.RowRecord{}, table: table}
	diff := deploy.Compare(nil, nil, plan, 1)
	b.defs = diff.Definitions
	b.eval = NewEvaluator([32]byte{1}, nil, deploy.New(plan, diff.Definitions, "test"))
	b.Applier = NewApplier(b, b.refetch, b.eval, 1, DefaultLimits)
	return b
}

func (b *bench) Row(ref storage.RowRef) (*storage.RowRecord, bool, error) {
	rec, ok := b.rows[ref]
	return rec, ok, nil
}

func (b *bench) Records(table source.TableID, keys []source.RowKey, found func(int, *storage.RowRecord)) error {
	if !slices.IsSorted(keys) {
		b.t.Errorf("records are asked for in the order %q", keys)
	}
	for i, k := range keys {
		if rec, ok := b.rows[storage.RowRef{Table: table, Key: k}]; ok {
			found(i, rec)
		}
	}
	return nil
}

func (b *bench) RowsOf(table source.TableID, yield func(source.RowKey, *storage.RowRecord) error) error {
	var keys []source.RowKey
	for ref := range b.rows {
		if ref.Table == table {
			keys = append(keys, ref.Key)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		if err := yield(k, b.rows[storage.RowRef{Table: table, Key: k}]); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) refetch(_ *source.Table, _ []source.Datum, after source.XID) (Refetched, error) {
	b.after = after
	return Refetched{Row: b.fresh, Altered: b.altered}, nil
}

func (b *bench) commit(batch *storage.Batch) error {
	b.commits++
	for i := range batch.Ops {
		o := &batch.Ops[i]
		b.out = append(b.out, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", o.Op.Kind, o.Bucket.Params, o.Op.ObjectID, o.Op.Data)))
	}
	for _, l := range batch.Lookups {
		if l.Values == nil {
			b.out = append(b.out, "withdraw lookup")
		} else {
			b.out = append(b.out, "lookup")
		}
	}
	for _, r := range batch.Rows {
		if r.Record == nil {
			delete(b.rows, r.Ref)
		} else {
			rec := *r.Record
			rec.Memberships = slices.Clone(rec.Memberships)
			b.rows[r.Ref] = &rec
		}
	}
	return nil
}

// apply applies changes as one transaction and returns what it committed.
func (b *bench) apply(xid source.XID, changes ...source.Change) []string {
	b.t.Helper()
	for i := range changes {
		changes[i].Table = b.table
	}
	if err := b.Apply(&source.Txn{XID: xid, Commit: source.LSN(xid), Changes: changes}, b.commit); err != nil {
		b.t.Fatal(err)
	}
	return b.flush(source.LSN(xid))
}

func (b *bench) flush(lsn source.LSN) []string {
	b.t.Helper()
	if err := b.Flush(lsn, b.commit); err != nil {
		b.t.Fatal(err)
	}
	out := b.out
	b.out = nil
	slices.Sort(out)
	return out
}

func (b *bench) want(what string, got []string, want ...string) {
	b.t.Helper()
	slices.Sort(want)
	if !slices.Equal(got, want) {
		b.t.Errorf("%s: committed\n  %s\nwant\n  %s", what, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func insert(values ...string) source.Change {
	return source.Change{Kind: source.Insert, New: row(values...)}
}

func update(values ...string) source.Change {
	return source.Change{Kind: source.Update, New: row(values...)}
}

func TestOnlyWhatChangesIsSent(t *testing.T) {
	b := newBench(t, notes(source.IdentityDefault))
	b.want("insert", b.apply(1, insert("a", "ann", "x")),
		`PUT ["ann"] a {"id":"a","body":"x"}`, `PUT ["a"] a {"id":"a"}`, "lookup")
	b.want("update that changes nothing", b.apply(2, update("a", "ann", "x")))
	b.want("update", b.apply(3, update("a", "ann", "y")),
		`PUT ["ann"] a {"id":"a","body":"y"}`, "lookup")
	b.want("move to another bucket", b.apply(4, update("a", "bob", "y")),
		`REMOVE ["ann"] a`, `PUT ["bob"] a {"id":"a","body":"y"}`, "lookup", "withdraw lookup")
	b.want("key that matches nothing", b.apply(5, update("a", "-", "y")), `REMOVE ["bob"] a`, "withdraw lookup")
	b.want("two versions in one transaction", b.apply(6, update("a", "cem", "1"), update("a", "cem", "2")),
		`PUT ["cem"] a {"id":"a","body":"1"}`, `PUT ["cem"] a {"id":"a","body":"2"}`, "lookup", "lookup")
	b.want("delete", b.apply(7, source.Change{Kind: source.Delete, Old: row("a", "-", "-")}),
		`REMOVE ["cem"] a`, `REMOVE ["a"] a`, "withdraw lookup")
	b.want("delete of what is not there", b.apply(8, source.Change{Kind: source.Delete, Old: row("a", "-", "-")}))
	if len(b.rows) != 0 {
		t.Errorf("records left: %v", b.rows)
	}
}

func TestChangedIdentity(t *testing.T) {
	b := newBench(t, notes(source.IdentityDefault))
	b.apply(1, insert("a", "ann", "x"))
	b.want("update of the key", b.apply(2, source.Change{Kind: source.Update, Old: row("a", "-", "-"), New: row("b", "ann", "x")}),
		`REMOVE ["ann"] a`, `REMOVE ["a"] a`, `PUT ["ann"] b {"id":"b","body":"x"}`, `PUT ["b"] b {"id":"b"}`, "lookup", "withdraw lookup")
}

func TestValuesLeftOut(t *testing.T) {
	long := strings.Repeat("long ", 1000)
	b := newBench(t, notes(source.IdentityDefault))
	b.apply(1, insert("a", "ann", long))
	b.want("kept value", b.apply(2, update("a", "bob", "~")),
		`REMOVE ["ann"] a`, `PUT ["bob"] a {"id":"a","body":"`+long+`"}`, "lookup", "withdraw lookup")

	// Short values are not kept: should one be left out, the source is asked.
	b.apply(3, insert("c", "ann", "short"))
	b.fresh = row("c", "cem", "short")
	b.want("fetched value", b.apply(4, update("c", "cem", "~")),
		`REMOVE ["ann"] c`, `PUT ["cem"] c {"id":"c","body":"short"}`, "lookup", "withdraw lookup")
	b.fresh = nil
	b.want("row gone meanwhile", b.apply(5, update("c", "dia", "~")), `REMOVE ["c"] c`, `REMOVE ["cem"] c`, "withdraw lookup")
}

// Where a table was altered, and once more since, a row can neither be trusted nor read
// again. What its transaction changed is not left out all the same.
func TestValuesLeftOutOfAnAlteredTable(t *testing.T) {
	b := newBench(t, notes(source.IdentityDefault))
	reads := func(storage.DefinitionID, *source.Table) bool { return true }
	b.Backfill(b.defs, []*source.Table{b.table}, reads)
	long := strings.Repeat("long ", 1000)
	b.apply(1, insert("a", "ann", long), insert("b", "ann", "short"))
	altered := *b.table
	altered.Columns = append(slices.Clone(b.table.Columns), source.Column{Name: "extra", Type: text{}})
	b.table = &altered
	if !b.Reread(b.table, reads) {
		t.Fatal("the altered table is not read")
	}
	b.fresh = row("a", "bob", "new", "-")
	b.want("altered", b.apply(2, update("a", "bob", "~", "-")),
		`REMOVE ["ann"] a`, `PUT ["bob"] a {"id":"a","body":"new"}`, "lookup", "withdraw lookup")
	if b.after != 2 {
		t.Errorf("the row was asked for as transaction %d left it, want 2", b.after)
	}
	b.apply(3, update("a", "bob", long, "-"))
	b.fresh, b.altered = nil, true
	b.want("and again", b.apply(4, update("a", "cem", "~", "-")),
		`REMOVE ["bob"] a`, `PUT ["cem"] a {"id":"a","body":"`+long+`"}`, "lookup", "withdraw lookup")
	b.want("nothing kept", b.apply(5, update("b", "cem", "~", "-")))
	b.want("nothing kept, and another key", b.apply(6, source.Change{Kind: source.Update, Old: row("b", "-", "-", "-"), New: row("c", "cem", "~", "-")}),
		`REMOVE ["ann"] b`, `REMOVE ["b"] b`, "withdraw lookup")
}

// A change that cannot be completed, as its table has been altered since, keeps its
// transaction from being published until the table is read, in whatever version: it may
// have got back the columns that it had.
func TestTornTransactionHoldsPublicationUp(t *testing.T) {
	reads := func(storage.DefinitionID, *source.Table) bool { return true }
	for _, state := range []storage.DefinitionState{storage.Backfilling, storage.Serving} {
		b := newBench(t, notes(source.IdentityDefault))
		for i := range b.defs {
			b.defs[i].State = state
			b.defs[i].Tables = []storage.TableProgress{{Table: b.table.ID, Shape: b.table.Shape(), Done: state == storage.Serving}}
		}
		b.begin()
		b.Low(1, b.table.ID)
		early := b.chunk(row("a", "ann", "before"))
		early.Reading = b.backfill.readings
		b.altered = true
		b.apply(2, update("a", "bob", "~"))
		if got, want := b.Consistent(2), state != storage.Serving; got != want {
			t.Errorf("state %d: with a torn transaction Consistent is %t, want %t", state, got, want)
		}
		if err := b.Merge(1, early, 3, b.commit); !errors.Is(err, ErrWindow) {
			t.Errorf("state %d: the chunk that was being read gave %v, want %v", state, err, ErrWindow)
		}
		if !b.Reread(b.table, reads) {
			t.Fatalf("state %d: the table is not read again", state)
		}
		b.Low(2, b.table.ID)
		c := b.chunk(row("a", "bob", "after"))
		if err := b.Merge(2, c, 4, b.commit); err != nil {
			t.Fatal(err)
		}
		if got, want := b.Consistent(4), state != storage.Serving; got != want {
			t.Errorf("state %d: before the sweep Consistent is %t, want %t", state, got, want)
		}
		b.Low(3, b.table.ID)
		c = b.chunk()
		c.Sweep = true
		if err := b.Merge(3, c, 5, b.commit); err != nil {
			t.Fatal(err)
		}
		if !b.Consistent(5) || b.Torn() {
			t.Errorf("state %d: the table is read, and nothing may be published", state)
		}
		b.want("the row", b.flush(5), `PUT ["bob"] a {"id":"a","body":"after"}`, `PUT ["a"] a {"id":"a"}`, "lookup")
	}
}

func TestBadRowConcernsItselfOnly(t *testing.T) {
	b := newBench(t, notes(source.IdentityDefault))
	got := b.apply(1, insert("malformed", "ann", "x"), insert("b", "ann", "x"))
	b.want("the other row", got, `PUT ["ann"] b {"id":"b","body":"x"}`, `PUT ["b"] b {"id":"b"}`, "lookup")
	if list, _ := b.Problems(); len(list) == 0 || !strings.Contains(list[0].Message, "malformed text") || list[0].Table != "public.notes" {
		t.Errorf("problems %+v, want the row's, with its table", list)
	}
}

func TestTruncateTakesEverythingBack(t *testing.T) {
	b := newBench(t, notes(source.IdentityDefault))
	b.apply(1, insert("a", "ann", "x"), insert("b", "bob", "x"))
	got := b.apply(2, insert("c", "cem", "x"), source.Change{Kind: source.Truncate}, insert("d", "dia", "x"))
	for _, want := range []string{`REMOVE ["ann"] a`, `REMOVE ["bob"] b`, `REMOVE ["cem"] c`, `PUT ["dia"] d {"id":"d","body":"x"}`} {
		if !slices.Contains(got, want) {
			t.Errorf("no %s in %v", want, got)
		}
	}
	if len(b.rows) != 1 {
		t.Errorf("%d records, want the one inserted last", len(b.rows))
	}
}

// A transaction beyond the limits is committed in parts, and published at its end.
func TestLargeTransactionsComeInParts(t *testing.T) {
	b := newBench(t, notes(source.IdentityDefault))
	b.limits = Limits{Ops: 10, Bytes: 1 << 20}
	published := 0
	commit := func(batch *storage.Batch) error {
		if batch.Publish {
			published++
		}
		return b.commit(batch)
	}
	tx := &source.Txn{XID: 1, Commit: 1}
	for i := range 100 {
		ch := insert(fmt.Sprint(i), "ann", "x")
		ch.Table = b.table
		tx.Changes = append(tx.Changes, ch)
	}
	if err := b.Apply(tx, commit); err != nil {
		t.Fatal(err)
	}
	if published != 0 || b.commits < 20 {
		t.Errorf("%d commits, %d published before the end", b.commits, published)
	}
	if err := b.Flush(1, commit); err != nil {
		t.Fatal(err)
	}
	if published != 1 || len(b.rows) != 100 {
		t.Errorf("%d published, %d records; want 1 and 100", published, len(b.rows))
	}
}

// chunk evaluates a chunk of the table.
func (b *bench) chunk(rows ...[]source.Datum) *Chunk {
	c := &Chunk{Table: b.Bind(b.table), Next: 1 << 20, Done: true}
	c.Reading, _, _ = b.Reading(b.table.ID)
	var s Scratch
	for _, r := range rows {
		e, err := c.Table.Evaluate(r, &s)
		if err != nil {
			b.t.Fatal(err)
		}
		c.Rows = append(c.Rows, e)
	}
	return c
}

func (b *bench) begin() {
	b.Backfill(b.defs, []*source.Table{b.table}, func(storage.DefinitionID, *source.Table) bool { return true })
}

// A definition that is new is read from the beginning, also where another has come past a
// part of the table in which there were no rows.
func TestNewDefinitionIsReadFromTheBeginning(t *testing.T) {
	b := newBench(t, notes(source.IdentityDefault))
	b.defs[0].Tables = []storage.TableProgress{{Table: b.table.ID, Shape: b.table.Shape(), After: []string{"m"}}}
	b.begin()
	for _, d := range b.Definitions() {
		if p := d.Tables[0]; p.After != nil || p.Done {
			t.Errorf("definition %d goes on with %+v", d.ID, p)
		}
	}
}

func TestStreamWinsOverChunk(t *testing.T) {
	b := newBench(t, notes(source.IdentityDefault))
	b.begin()
	b.Low(1, b.table.ID)
	b.apply(2, update("a", "ann", "newer"), source.Change{Kind: source.Delete, Old: row("b", "-", "-")})
	if err := b.Merge(1, b.chunk(row("a", "ann", "older"), row("b", "bob", "deleted"), row("c", "cem", "x")), 3, b.commit); err != nil {
		t.Fatal(err)
	}
	b.want("merge", b.flush(3), `PUT ["cem"] c {"id":"c","body":"x"}`, `PUT ["c"] c {"id":"c"}`, "lookup")
	if !b.Backfilled() {
		t.Error("the backfill is not complete")
	}
	if n := b.Applier.backfill.size; n != 0 {
		t.Errorf("%d changes still remembered", n)
	}
}

func TestChunksThatMustBeReadAgain(t *testing.T) {
	for name, spoil := range map[string]func(*bench, *Chunk){
		"unseen transaction before the low watermark": func(_ *bench, c *Chunk) { c.Unseen = []source.XID{1} },
		"transaction beyond the snapshot's end":       func(_ *bench, c *Chunk) { c.Next = 1 },
		"table altered":                               func(b *bench, _ *Chunk) { altered := *b.table; altered.Columns = altered.Columns[:2]; b.Bind(&altered) },
		"table read anew":                             func(b *bench, _ *Chunk) { b.begin(); b.Low(1, b.table.ID) },
		"sync config changed": func(b *bench, _ *Chunk) {
			e := *b.eval
			b.SetEvaluator(&e, func(storage.DefinitionID) bool { return true })
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, notes(source.IdentityDefault))
			b.begin()
			b.apply(1, insert("z", "ann", "before the low watermark"))
			b.Low(1, b.table.ID)
			c := b.chunk(row("a", "ann", "x"))
			spoil(b, c)
			if err := b.Merge(1, c, 2, b.commit); !errors.Is(err, ErrWindow) {
				t.Fatalf("merge gave %v, want ErrWindow", err)
			}
			b.want("merge", b.flush(2))
		})
	}
	b := newBench(t, notes(source.IdentityDefault))
	if err := b.Merge(7, b.chunk(), 1, b.commit); !errors.Is(err, ErrWindow) {
		t.Errorf("merge without low watermark gave %v, want ErrWindow", err)
	}
}

// Chunks may be merged in any order; what is stored of the progress has no gap.
func TestChunksMergedInAnyOrder(t *testing.T) {
	b := newBench(t, notes(source.IdentityDefault))
	b.begin()
	chunk := func(id uint64, after, last string, rows ...[]source.Datum) *Chunk {
		b.Low(id, b.table.ID)
		c := b.chunk(rows...)
		if after != "" {
			c.After = []string{after}
		}
		c.Last, c.Done = []string{last}, last == ""
		return c
	}
	first := chunk(1, "", "b", row("a", "ann", "x"), row("b", "ann", "x"))
	second := chunk(2, "b", "c", row("c", "ann", "x"))
	third := chunk(3, "c", "")
	for _, step := range []struct {
		id    uint64
		chunk *Chunk
		after []string
		rows  int64
	}{
		{2, second, nil, 0}, {1, first, []string{"c"}, 3},
	} {
		if err := b.Merge(step.id, step.chunk, 1, b.commit); err != nil {
			t.Fatal(err)
		}
		p, pending := b.Progress(b.table.ID)
		if !pending || !slices.Equal(p.After, step.after) || p.Rows != step.rows {
			t.Errorf("chunk %d: read up to %q, %d rows; want %q and %d", step.id, p.After, p.Rows, step.after, step.rows)
		}
	}
	if err := b.Merge(3, third, 1, b.commit); err != nil {
		t.Fatal(err)
	}
	if !b.Backfilled() || len(b.rows) != 3 {
		t.Errorf("complete: %t, with %d rows; want 3", b.Backfilled(), len(b.rows))
	}
}

func TestEqualRowsAreCounted(t *testing.T) {
	b := newBench(t, notes(source.IdentityFull))
	b.begin()
	b.apply(1, insert("a", "ann", "seen by the chunk"))
	b.Low(1, b.table.ID)
	del := source.Change{Kind: source.Delete, Old: row("a", "ann", "x")}
	b.apply(2, del)                     // the snapshot saw it
	b.apply(9, insert("b", "bob", "y")) // it did not see this
	c := b.chunk(row("a", "ann", "x"), row("a", "ann", "x"), row("a", "ann", "seen by the chunk"))
	c.Next = 9
	if err := b.Merge(1, c, 10, b.commit); err != nil {
		t.Fatal(err)
	}
	b.flush(10)
	b.want("delete of one of two", b.apply(11, del))
	b.want("delete of the other", b.apply(12, del), `REMOVE ["ann"] a`, `REMOVE ["a"] a`, "withdraw lookup")
	if _, ok := b.rows[storage.RowRef{Table: 1, Key: b.chunk(row("b", "bob", "y")).Rows[0].Key}]; !ok {
		t.Error("the row inserted between the watermarks is missing")
	}
}

// While changes of a table without a key wait for its chunk, the rest of their
// transactions is applied: a definition that is served would show a mixture.
func TestWaitingChangesHoldPublicationUp(t *testing.T) {
	for _, state := range []storage.DefinitionState{storage.Backfilling, storage.Serving} {
		b := newBench(t, notes(source.IdentityFull))
		for i := range b.defs {
			b.defs[i].State = state
			b.defs[i].Tables = []storage.TableProgress{{Table: b.table.ID, Shape: "another"}}
		}
		b.begin()
		b.Low(1, b.table.ID)
		if !b.Consistent(1) {
			t.Errorf("state %d: nothing waits, and nothing may be published", state)
		}
		b.apply(2, insert("a", "ann", "x"))
		if got, want := b.Consistent(2), state != storage.Serving; got != want {
			t.Errorf("state %d: with a change that waits Consistent is %t, want %t", state, got, want)
		}
		c := b.chunk(row("a", "ann", "x"))
		if err := b.Merge(1, c, 3, b.commit); err != nil {
			t.Fatal(err)
		}
		if !b.Consistent(3) {
			t.Errorf("state %d: the chunk is merged, and nothing may be published", state)
		}
	}
}

func TestForgottenTable(t *testing.T) {
	b := newBench(t, notes(source.IdentityDefault))
	b.begin()
	b.Low(1, b.table.ID)
	if err := b.Merge(1, b.chunk(row("a", "ann", "x")), 1, b.commit); err != nil {
		t.Fatal(err)
	}
	b.flush(1)
	if err := b.Forget(b.table.ID, b.commit); err != nil {
		t.Fatal(err)
	}
	b.want("forget", b.flush(2), `REMOVE ["ann"] a`, `REMOVE ["a"] a`, "withdraw lookup")
	if list := b.Tables(); len(list) != 0 {
		t.Errorf("tables %v, want none", list)
	}
}

// Op ids grow by one with each operation and are given out once.
func TestOpIDs(t *testing.T) {
	b := newBench(t, notes(source.IdentityDefault))
	var ids []bucket.OpID
	commit := func(batch *storage.Batch) error {
		for i := range batch.Ops {
			ids = append(ids, batch.Ops[i].Op.ID)
		}
		return b.commit(batch)
	}
	for i := range 20 {
		ch := insert(fmt.Sprint(i%7), "ann", fmt.Sprint(i))
		ch.Table = b.table
		if err := b.Apply(&source.Txn{XID: source.XID(i), Commit: source.LSN(i), Changes: []source.Change{ch}}, commit); err != nil {
			t.Fatal(err)
		}
		if err := b.Flush(source.LSN(i), commit); err != nil {
			t.Fatal(err)
		}
	}
	for i, id := range ids {
		if id != bucket.OpID(i+1) {
			t.Fatalf("op ids %v, want 1, 2, 3, …", ids)
		}
	}
}

// remote is a store that is to be told which rows it will be asked for.
type remote struct {
	*bench
	strict bool
	told   map[storage.RowRef]bool
}

func (r *remote) Prefetch(refs []storage.RowRef) error {
	for _, ref := range refs {
		r.told[ref] = true
	}
	return nil
}

func (r *remote) Row(ref storage.RowRef) (*storage.RowRecord, bool, error) {
	if r.strict && !r.told[ref] {
		r.t.Errorf("row %q is asked for without notice", ref.Key)
	}
	return r.bench.Row(ref)
}

func TestRowsArePrefetched(t *testing.T) {
	b := newBench(t, notes(source.IdentityDefault))
	store := &remote{bench: b, told: map[storage.RowRef]bool{}}
	b.Applier = NewApplier(store, b.refetch, b.eval, 1, DefaultLimits)
	b.apply(1, insert("a", "ann", "x")) // makes the table known
	store.strict = true
	renamed := update("c", "ann", "z")
	renamed.Old = row("b", "", "")
	b.apply(2, insert("b", "ann", "y"), update("a", "bob", "x"), renamed, source.Change{Kind: source.Delete, Old: row("a", "", "")})
	if len(store.told) != 3 {
		t.Errorf("%d rows were announced, want 3", len(store.told))
	}
	clear(store.told)
	b.apply(3, update("c", "ann", "z"), update("d", "ann", "z"))
	if len(store.told) != 2 {
		t.Errorf("%d rows were announced, want 2", len(store.told))
	}
}
