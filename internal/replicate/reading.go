package replicate

import (
	"slices"

	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// Chunks of one table are read beside each other and merged in any order. What is
// stored of the progress is how far the table is read without a gap: a chunk that
// is merged ahead of others counts once they are, and after a crash is read again.
// Merging a row twice changes nothing, so the order in which chunks end is nobody's
// concern. How much may be read again whoever reads decides, by how far ahead of the
// first gap it lets chunks be read.

// Reading names one reading of a table: it ends, and another begins, when the table
// is to be read anew. Chunks of one reading share no row.
type Reading uint64

// reading is a table that is being read.
type reading struct {
	id    Reading
	ahead []span // merged, beyond what is read without a gap
}

// span is what a merged chunk covers.
type span struct {
	after, last []string
	rows        int64
	done        bool
}

// begin makes what is read of a table from now on another reading.
func (b *backfill) begin(table source.TableID) {
	b.readings++
	b.tables[table] = &reading{id: b.readings}
}

// Reading returns which reading of a table is under way, how far it has come without
// a gap, and whether the stored rows are to be swept after it; false if the table is
// read.
func (a *Applier) Reading(table source.TableID) (Reading, storage.TableProgress, bool) {
	p, ok := a.Progress(table)
	if !ok {
		return 0, p, false
	}
	p.Sweep = a.unswept(table)
	return a.backfill.tables[table].id, p, true
}

// wants reports whether a chunk is of the present reading of its table.
func (b *backfill) wants(c *Chunk) bool {
	r := b.tables[c.Table.ID]
	return r != nil && r.id == c.Reading && slices.ContainsFunc(b.definitions, func(d storage.Definition) bool {
		return slices.ContainsFunc(d.Tables, func(p storage.TableProgress) bool {
			return p.Table == c.Table.ID && !p.Done && (p.Sweep || !c.Sweep)
		})
	})
}

// progress notes what a merged chunk completes.
func (a *Applier) progress(c *Chunk) {
	if c.Sweep {
		if c.Done {
			a.advance(c.Table.ID, func(p *storage.TableProgress) { p.Sweep, p.Done = false, true })
		}
		return
	}
	r := a.backfill.tables[c.Table.ID]
	r.ahead = append(r.ahead, span{c.After, c.Last, int64(len(c.Rows)), c.Done})
	for {
		p, pending := a.Progress(c.Table.ID)
		if !pending {
			return
		}
		next := slices.IndexFunc(r.ahead, func(s span) bool { return slices.Equal(s.after, p.After) })
		if next < 0 {
			return
		}
		s := r.ahead[next]
		r.ahead = slices.Delete(r.ahead, next, next+1)
		a.advance(c.Table.ID, func(p *storage.TableProgress) {
			// Whole rows were counted against all that is stored.
			p.Sweep = p.Sweep && !(s.done && c.Table.wholeRow)
			p.After, p.Done = s.last, s.done && !p.Sweep
			p.Rows += s.rows
		})
		if s.done {
			return
		}
	}
}

// advance brings the definitions that read a table forward: they go on together (see
// align).
func (a *Applier) advance(table source.TableID, change func(*storage.TableProgress)) {
	for i := range a.backfill.definitions {
		d := &a.backfill.definitions[i]
		concerned := false
		d.Tables = slices.Clone(d.Tables)
		for j := range d.Tables {
			if p := &d.Tables[j]; p.Table == table && !p.Done {
				change(p)
				concerned = true
			}
		}
		if complete(d) {
			d.State = storage.Serving
		}
		if concerned {
			a.batch.Definitions = append(a.batch.Definitions, *d)
		}
	}
}
