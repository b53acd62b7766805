package replicate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// A backfill reads a table in chunks while the stream goes on. Each chunk is read
// between two watermarks: messages written into the source's log, which come back
// in the stream in their place among the transactions. When the high one arrives,
// the chunk's rows are applied, except those that the stream has changed since the
// low one: the stream's version is newer, or will be made newer by what follows.
//
// Several windows may be open at once, of one table or of several, each with its
// own changes: the chunks of one table share no row (see Reading).
//
// That leaves one gap: a transaction may be in the log, and so in the stream,
// before it is visible to the chunk's snapshot. The snapshot names the transactions
// that it did not see; if one of them came before the low watermark, the chunk is
// read again.
//
// Rows of a table without a key, told apart only by all their columns, cannot be
// matched one by one: equal rows are counted. Such a table is one chunk, changes
// between its watermarks wait, and those that the snapshot did not see are applied
// after it.

// maxWindow bounds the changes remembered between two watermarks, over all open
// windows; beyond it a chunk is read again, when the burst has passed.
const maxWindow = 1 << 20

// recentTxns is how many of the last transactions are remembered by id, to tell
// which of a snapshot's unseen ones have been applied. It has to exceed the number
// that can commit while one of them is written to the log but not yet visible,
// which is bounded by the source's connections.
const recentTxns = 1 << 14

type backfill struct {
	definitions []storage.Definition
	tables      map[source.TableID]*reading // that are, or were, being read
	readings    Reading                     // the last that was begun
	torn        map[source.TableID]struct{} // see tear
	windows     map[uint64]*window
	size        int // changes in all windows
	recent      [recentTxns]source.XID
	applied     uint64 // transactions so far; recent[applied%recentTxns] is the next place
}

// window is what happened to one table since a low watermark.
type window struct {
	table    source.TableID
	opened   uint64 // backfill.applied at the low watermark
	changed  map[source.RowKey]struct{}
	cleared  bool // truncated
	reshaped bool // the table's columns changed
	overflow bool
	waiting  []waitingChange
}

type waitingChange struct {
	xid    source.XID
	change source.Change
}

func newBackfill() backfill {
	return backfill{windows: map[uint64]*window{}, tables: map[source.TableID]*reading{}, torn: map[source.TableID]struct{}{}}
}

// Chunk is a part of a table read from the source, evaluated.
type Chunk struct {
	Table *Table
	// Reading is the reading of the table that the chunk is a part of.
	Reading Reading
	Rows    []*Row
	// Unseen and Next say which transactions the chunk's snapshot did not see: those
	// listed, and all from Next on. Next follows the last that had completed, so
	// transactions from there on may well have begun, and even be in the log.
	Unseen []source.XID
	Next   source.XID
	// After and Last are the identities between which the chunk has all rows, one text
	// for each key column: those that follow After, nil being the beginning, up to
	// Last. Done says that no rows follow.
	After, Last []string
	Done        bool
	// Sweep says that the chunk is not a part of the table but of the rows stored of
	// it: Gone are those that the snapshot did not have. Rows, After and Last are empty
	// then, and Done says that no stored rows follow.
	Sweep bool
	Gone  []source.RowKey
}

// sees reports whether the chunk's snapshot saw a transaction, which must be one of
// the last two billion.
func (c *Chunk) sees(xid source.XID) bool {
	return int32(xid-c.Next) < 0 && !slices.Contains(c.Unseen, xid)
}

// Backfill sets the live definitions, as stored, and the tables that there are.
// What a definition reads and does not hold in that version is to be read; a
// definition that waits for its backfill and has nothing to read is complete with
// the next Flush.
func (a *Applier) Backfill(defs []storage.Definition, tables []*source.Table, reads Reads) {
	clear(a.backfill.windows)
	a.backfill.size = 0
	a.backfill.definitions = slices.Clone(defs)
	for _, t := range tables {
		a.Reread(t, reads)
		a.align(t.ID)
		a.backfill.begin(t.ID)
	}
	for i := range a.backfill.definitions {
		if d := &a.backfill.definitions[i]; d.State != storage.Serving && complete(d) {
			d.State = storage.Serving
			a.batch.Definitions = append(a.batch.Definitions, *d)
		}
	}
}

// Reads reports whether a definition reads a table.
type Reads func(storage.DefinitionID, *source.Table) bool

func complete(d *storage.Definition) bool {
	return !slices.ContainsFunc(d.Tables, func(p storage.TableProgress) bool { return !p.Done })
}

// Definitions returns the live definitions as they now are.
func (a *Applier) Definitions() []storage.Definition { return a.backfill.definitions }

// Backfilled reports whether all definitions are complete.
func (a *Applier) Backfilled() bool {
	return !slices.ContainsFunc(a.backfill.definitions, func(d storage.Definition) bool { return d.State != storage.Serving })
}

// Reread notes that there is a table, in the version t. If a definition reads it
// and does not hold that version, because the table is new or has been altered, it
// is to be read whole, and Reread reports true.
func (a *Applier) Reread(t *source.Table, reads Reads) bool {
	shape, news := t.Shape(), false
	for i := range a.backfill.definitions {
		d := &a.backfill.definitions[i]
		at := slices.IndexFunc(d.Tables, func(p storage.TableProgress) bool { return p.Table == t.ID })
		if !reads(d.ID, t) || at >= 0 && d.Tables[at].Shape == shape {
			continue
		}
		d.Tables = slices.Clone(d.Tables)
		if fresh := (storage.TableProgress{Table: t.ID, Shape: shape}); at < 0 {
			d.Tables = append(d.Tables, fresh)
		} else {
			fresh.Sweep = true // for the same reason as after missed changes: see unswept
			d.Tables[at] = fresh
		}
		a.batch.Definitions = append(a.batch.Definitions, *d)
		news = true
	}
	if news {
		a.align(t.ID)
		a.backfill.begin(t.ID)
	}
	return news
}

// Tables returns the tables that some live definition holds rows of, or is to read.
func (a *Applier) Tables() []source.TableID {
	var list []source.TableID
	for _, d := range a.backfill.definitions {
		for _, p := range d.Tables {
			list = append(list, p.Table)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// Forget takes back all rows of a table that is gone, or that no definition reads
// any more.
func (a *Applier) Forget(table source.TableID, commit CommitFunc) error {
	for i := range a.backfill.definitions {
		d := &a.backfill.definitions[i]
		at := slices.IndexFunc(d.Tables, func(p storage.TableProgress) bool { return p.Table == table })
		if at < 0 {
			continue
		}
		d.Tables = slices.Delete(slices.Clone(d.Tables), at, at+1)
		if complete(d) {
			d.State = storage.Serving
		}
		a.batch.Definitions = append(a.batch.Definitions, *d)
	}
	a.backfill.reshape(table)
	delete(a.backfill.tables, table)
	delete(a.tables, table)
	if err := a.removeAll(table, commit); err != nil {
		return fmt.Errorf("forget table %d: %w", table, err)
	}
	return nil
}

// align makes the definitions that are reading a table go on together, from where
// the one furthest behind is: a chunk is read once for all of them.
func (a *Applier) align(table source.TableID) {
	var least *storage.TableProgress
	each := func(f func(*storage.Definition, *storage.TableProgress)) {
		for i := range a.backfill.definitions {
			d := &a.backfill.definitions[i]
			for j := range d.Tables {
				if p := &d.Tables[j]; p.Table == table && !p.Done {
					f(d, p)
				}
			}
		}
	}
	each(func(_ *storage.Definition, p *storage.TableProgress) {
		// One that has not begun is behind one that has come past a part without rows.
		if least == nil || p.After == nil || least.After != nil && p.Rows < least.Rows {
			least = p
		}
	})
	if least == nil {
		return
	}
	from := *least
	each(func(d *storage.Definition, p *storage.TableProgress) {
		p.After, p.Rows = from.After, from.Rows
	})
}

// Progress returns how far the reading of a table has come; false if it is read.
func (a *Applier) Progress(table source.TableID) (storage.TableProgress, bool) {
	for _, d := range a.backfill.definitions {
		for _, p := range d.Tables {
			if p.Table == table && !p.Done {
				return p, true
			}
		}
	}
	return storage.TableProgress{}, false
}

// Low opens a chunk's window: its low watermark has come in the stream.
func (a *Applier) Low(id uint64, table source.TableID) {
	a.backfill.windows[id] = &window{table: table, opened: a.backfill.applied, changed: map[source.RowKey]struct{}{}}
}

// Abandon closes a window whose chunk will not come.
func (a *Applier) Abandon(id uint64) {
	if w := a.backfill.windows[id]; w != nil {
		a.backfill.size -= len(w.changed) + len(w.waiting)
		delete(a.backfill.windows, id)
	}
}

// Merge applies a chunk: its high watermark has come in the stream, in the
// transaction that ends at lsn, and all before it has been applied. It publishes
// both. It returns ErrWindow if the chunk has to be read again.
//
// A chunk that fills a batch is published on the way: its rows are not served
// before the backfill is complete, and an interrupted one is merged again.
func (a *Applier) Merge(id uint64, c *Chunk, lsn source.LSN, commit CommitFunc) error {
	w := a.backfill.windows[id]
	if w == nil {
		return fmt.Errorf("chunk %d of %s: no low watermark: %w", id, c.Table.QualifiedName(), ErrWindow)
	}
	a.Abandon(id)
	why := a.backfill.spoilt(w, c)
	if why == "" && (c.Table.evaluator != a.eval || !a.current(c.Table)) {
		why = "the sync config or the table has changed since it was read"
	}
	if why == "" && !a.backfill.wants(c) {
		why = "the table is read anew"
	}
	if why != "" {
		if err := a.applyWaiting(w, func(source.XID) bool { return true }, commit); err != nil {
			return err
		}
		return fmt.Errorf("chunk %d of %s: %s: %w", id, c.Table.QualifiedName(), why, ErrWindow)
	}
	var err error
	switch {
	case c.Sweep:
		err = a.sweep(w, c, lsn, commit)
	case c.Table.wholeRow:
		err = a.replaceWholeRows(w, c, commit)
	default:
		err = a.mergeRows(w, c, lsn, commit)
	}
	if err != nil {
		return fmt.Errorf("merge chunk %d of %s: %w", id, c.Table.QualifiedName(), err)
	}
	a.progress(c)
	return a.Flush(lsn, commit)
}

// spoilt says why a chunk cannot be used; "" if it can.
func (b *backfill) spoilt(w *window, c *Chunk) string {
	switch {
	case w.overflow:
		return fmt.Sprintf("more than %d changes between its watermarks", maxWindow)
	case w.reshaped:
		return "the table was altered between its watermarks"
	}
	for n := w.opened; n > 0 && n+recentTxns > w.opened; n-- {
		if !c.sees(b.recent[(n-1)%recentTxns]) {
			return "a transaction before its low watermark was not yet visible to it"
		}
	}
	return ""
}

// current reports whether a chunk's table is in the version that the stream has.
func (a *Applier) current(t *Table) bool {
	had, known := a.tables[t.ID]
	return !known || had.bound != nil && had.table.Shape() == t.Shape()
}

// mergePiece is how many rows of a chunk are looked up in the store at once.
const mergePiece = 4096

// mergeRows makes the chunk's rows, but for those that the stream has changed since,
// the present versions. They become batches of their own, so that they need not be
// found again among what waits.
func (a *Applier) mergeRows(w *window, c *Chunk, lsn source.LSN, commit CommitFunc) error {
	if w.cleared {
		return nil // all that the chunk saw is gone
	}
	if a.Pending() {
		if err := a.Flush(lsn, commit); err != nil {
			return err
		}
	}
	rows := c.Rows
	if len(w.changed) > 0 {
		rows = slices.DeleteFunc(slices.Clone(rows), func(r *Row) bool { _, ok := w.changed[r.Key]; return ok })
	}
	// The source's order is mostly that of the keys, but for texts.
	if byKey := func(x, y *Row) int { return strings.Compare(string(x.Key), string(y.Key)) }; !slices.IsSortedFunc(rows, byKey) {
		rows = slices.SortedFunc(slices.Values(rows), byKey)
	}
	keys := make([]source.RowKey, 0, min(len(rows), mergePiece))
	priors := make([]*storage.RowRecord, min(len(rows), mergePiece))
	for piece := range slices.Chunk(rows, mergePiece) {
		keys = keys[:0]
		for _, r := range piece {
			keys = append(keys, r.Key)
		}
		clear(priors)
		err := a.rows.Records(c.Table.ID, keys, func(i int, rec *storage.RowRecord) { priors[i] = rec })
		if err != nil {
			return err
		}
		for i, r := range piece {
			a.mergeRow(c.Table, r, priors[i])
			if !a.full() {
				continue
			}
			if err := a.Flush(lsn, commit); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *Applier) mergeRow(t *Table, r *Row, prior *storage.RowRecord) {
	a.reportErrors(t, r)
	rec := a.diff(prior, r)
	if prior != nil && sameRecord(prior, rec) {
		return
	}
	a.batch.Rows = append(a.batch.Rows, storage.RowWrite{Ref: storage.RowRef{Table: t.ID, Key: r.Key}, Record: rec, New: prior == nil})
}

// replaceWholeRows makes the stored rows of a keyless table those of the chunk,
// which is the whole table, and then applies what the chunk had not seen.
func (a *Applier) replaceWholeRows(w *window, c *Chunk, commit CommitFunc) error {
	count := make(map[source.RowKey]int64, len(c.Rows))
	for _, r := range c.Rows {
		count[r.Key]++
	}
	if a.Pending() {
		if err := a.commit(commit); err != nil {
			return err
		}
	}
	err := a.rows.RowsOf(c.Table.ID, func(key source.RowKey, rec *storage.RowRecord) error {
		if count[key] == 0 {
			a.removeRecord(storage.RowRef{Table: c.Table.ID, Key: key}, found{rec: rec, at: -1})
		}
		return a.commitIfFull(commit)
	})
	if err != nil {
		return err
	}
	for _, r := range c.Rows {
		n := count[r.Key]
		if n == 0 {
			continue // an equal row came before
		}
		count[r.Key] = 0
		ref := storage.RowRef{Table: c.Table.ID, Key: r.Key}
		had, err := a.find(ref)
		if err != nil {
			return err
		}
		rec := a.diff(had.rec, r)
		rec.Copies = n - 1
		a.replace(ref, had, rec)
		if err := a.commitIfFull(commit); err != nil {
			return err
		}
	}
	return a.applyWaiting(w, func(xid source.XID) bool { return !c.sees(xid) }, commit)
}

func (a *Applier) applyWaiting(w *window, unseen func(source.XID) bool, commit CommitFunc) error {
	for i := range w.waiting {
		q := &w.waiting[i]
		if t := a.Bind(q.change.Table); t != nil && unseen(q.xid) {
			if err := a.change(t, &q.change, nil, commit); err != nil {
				return err
			}
		}
	}
	return nil
}

// touch notes that the stream has changed a row.
func (b *backfill) touch(ref storage.RowRef) {
	for _, w := range b.windows {
		if w.table != ref.Table || w.overflow {
			continue
		}
		if b.size >= maxWindow {
			b.spill(w)
			continue
		}
		if _, ok := w.changed[ref.Key]; !ok {
			w.changed[ref.Key] = struct{}{}
			b.size++
		}
	}
}

// spill gives a window up: its chunk will be read again.
func (b *backfill) spill(w *window) {
	b.size -= len(w.changed)
	w.overflow, w.changed = true, nil
}

// touchAll notes that the stream has emptied a table.
func (b *backfill) touchAll(table source.TableID) {
	for _, w := range b.windows {
		if w.table == table {
			w.cleared = true
		}
	}
}

// reshape notes that a table's columns have changed.
func (b *backfill) reshape(table source.TableID) {
	for _, w := range b.windows {
		if w.table == table {
			w.reshaped = true
		}
	}
}

// hold keeps a change of a keyless table until the chunk that is being read of it
// is merged, and reports whether it did.
func (b *backfill) hold(t *Table, xid source.XID, ch *source.Change) bool {
	if !t.wholeRow {
		return false
	}
	for _, w := range b.windows {
		if w.table != t.ID || w.overflow {
			continue
		}
		if b.size >= maxWindow {
			return false
		}
		w.waiting = append(w.waiting, waitingChange{xid, *ch})
		b.size++
		return true
	}
	return false
}

// committed notes that a transaction has been applied.
func (b *backfill) committed(xid source.XID) {
	b.recent[b.applied%recentTxns] = xid
	b.applied++
}
