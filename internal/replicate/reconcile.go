package replicate

import (
	"slices"

	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// A store that has missed changes (its slot was lost, the source is another one or
// was set back) is reconciled: every table is read as by a backfill and compared
// with what is stored. Rows that are equal cost nothing; the others give operations
// in the buckets that there are. Rows that are stored and no longer there are found
// by a sweep, once a table is read: the stored rows are looked up in the source,
// between watermarks like any chunk.
//
// Until all is compared the store is a mixture. So nothing is published meanwhile:
// readers see the old state, and then, at one transaction's end, the new one. A
// crash takes everything back to the old state, and the reconciliation begins anew.

// Consistent reports whether what is stored once lsn has been applied is of one point in
// time, and may be published: it is not while stored definitions are compared with the
// source, nor before the stream has come to where rows were read again, those of an
// altered table too: a row that is ahead is a part of a transaction that is to come.
// Nor is it while changes of a table without a key wait for its chunk (see hold), or a
// change could not be applied (see tear), if something that is served has the table: the
// rest of their transactions is applied.
func (a *Applier) Consistent(lsn source.LSN) bool {
	return lsn >= a.ahead && !a.Reconciling() && !a.holding() && !a.Torn()
}

// holding reports whether changes wait that concern what is served.
func (a *Applier) holding() bool {
	for _, w := range a.backfill.windows {
		if len(w.waiting) == 0 {
			continue
		}
		if a.served(func(p storage.TableProgress) bool { return p.Table == w.table }) {
			return true
		}
	}
	return false
}

// served reports whether ok holds for a table of a definition that is served.
func (a *Applier) served(ok func(storage.TableProgress) bool) bool {
	return slices.ContainsFunc(a.backfill.definitions, func(d storage.Definition) bool {
		return d.State == storage.Serving && slices.ContainsFunc(d.Tables, ok)
	})
}

// tear notes that a change of a table could not be applied: a value that the source left
// out of it is not known, and cannot be read any more, as the table has been altered
// since. Whatever has been read of the table, it is read anew in the version that is to
// come; until then the change's transaction is incomplete.
func (a *Applier) tear(table source.TableID) {
	news := false
	for i := range a.backfill.definitions {
		d := &a.backfill.definitions[i]
		at := slices.IndexFunc(d.Tables, func(p storage.TableProgress) bool { return p.Table == table })
		if at < 0 || d.Tables[at].Shape == "" && !d.Tables[at].Done {
			continue
		}
		d.Tables = slices.Clone(d.Tables)
		d.Tables[at] = storage.TableProgress{Table: table, Sweep: true}
		a.batch.Definitions = append(a.batch.Definitions, *d)
		news = true
	}
	if news {
		a.backfill.begin(table)
	}
	a.backfill.torn[table] = struct{}{}
}

// Torn reports whether some transaction of what is served is incomplete until a table
// that was altered has been read.
func (a *Applier) Torn() bool {
	for table := range a.backfill.torn {
		if a.served(func(p storage.TableProgress) bool { return p.Table == table && !p.Done }) {
			return true
		}
		delete(a.backfill.torn, table) // it is read, or nobody wants it any more
	}
	return false
}

// Resumed tells that the source's log had come to lsn when this life began. Rows of a
// table that was being read again may have been read ahead of the stream, in the life
// before, up to there.
func (a *Applier) Resumed(lsn source.LSN) {
	for i := range a.backfill.definitions {
		if d := &a.backfill.definitions[i]; d.State == storage.Serving && !complete(d) {
			a.ahead = max(a.ahead, lsn)
		}
	}
}

// Distrust returns the definitions as they are once changes were missed: what is
// served is stale, every table is to be read again from its beginning, and swept.
func Distrust(defs []storage.Definition) []storage.Definition {
	out := slices.Clone(defs)
	for i := range out {
		d := &out[i]
		if d.State == storage.Serving {
			d.State = storage.Stale
		}
		d.Tables = slices.Clone(d.Tables)
		for j := range d.Tables {
			p := &d.Tables[j]
			*p = storage.TableProgress{Table: p.Table, Shape: p.Shape, Sweep: true}
		}
	}
	return out
}

// Reconciling reports whether some definition that is served is still to be compared
// with the source: nothing may be published.
func (a *Applier) Reconciling() bool {
	return slices.ContainsFunc(a.backfill.definitions, func(d storage.Definition) bool { return d.State == storage.Stale })
}

// GiveUp gives the tables up for now that are served and cannot be read any more: what
// is stored of them stays as it is, so that they do not keep everything else from being
// compared. They are read anew, and swept, when they can be. It returns which they are.
func (a *Applier) GiveUp(unreadable func(source.TableID) bool) (given []source.TableID) {
	for i := range a.backfill.definitions {
		d := &a.backfill.definitions[i]
		if d.State == storage.Backfilling {
			continue // nothing of it is served before it is complete
		}
		d.Tables = slices.Clone(d.Tables)
		news := false
		for j := range d.Tables {
			if p := &d.Tables[j]; (p.Shape != "" || !p.Done) && unreadable(p.Table) {
				*p = storage.TableProgress{Table: p.Table, Done: true, Sweep: true}
				given, news = append(given, p.Table), true
			}
		}
		if !news {
			continue
		}
		if complete(d) {
			d.State = storage.Serving
		}
		a.batch.Definitions = append(a.batch.Definitions, *d)
	}
	slices.Sort(given)
	return slices.Compact(given)
}

// unswept reports whether what is stored of a table may be out of date: it was altered,
// or changes were missed, and it is still to be read. A value that was kept is then not
// to be trusted; a change that comes while its row is being read would make it last.
func (a *Applier) unswept(table source.TableID) bool {
	return slices.ContainsFunc(a.backfill.definitions, func(d storage.Definition) bool {
		return slices.ContainsFunc(d.Tables, func(p storage.TableProgress) bool { return p.Table == table && p.Sweep && !p.Done })
	})
}

// sweep takes back stored rows that are gone, except those that the stream has
// changed since the low watermark.
func (a *Applier) sweep(w *window, c *Chunk, lsn source.LSN, commit CommitFunc) error {
	if w.cleared {
		return nil
	}
	for _, key := range c.Gone {
		if _, ok := w.changed[key]; ok {
			continue
		}
		if err := a.remove(c.Table, storage.RowRef{Table: c.Table.ID, Key: key}); err != nil {
			return err
		}
		if !a.full() {
			continue
		}
		if err := a.Flush(lsn, commit); err != nil {
			return err
		}
	}
	return nil
}

// replace replaces a row's record, unless it stays as it is.
func (a *Applier) replace(ref storage.RowRef, had found, rec *storage.RowRecord) {
	if had.rec != nil && sameRecord(had.rec, rec) {
		return
	}
	a.set(ref, had, rec)
}

func sameRecord(a, b *storage.RowRecord) bool {
	return a.Copies == b.Copies && slices.Equal(a.Memberships, b.Memberships) && slices.Equal(a.Lookups, b.Lookups) &&
		slices.EqualFunc(a.Kept, b.Kept, func(x, y storage.Kept) bool {
			return x.Column == y.Column && x.Datum.Encoding == y.Datum.Encoding && string(x.Datum.Bytes) == string(y.Datum.Bytes)
		})
}
