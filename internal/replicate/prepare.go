package replicate

import (
	"slices"
	"strings"

	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// Preparer evaluates the rows of transactions ahead of the Applier, which then only
// has to compare them with what is stored. It belongs to one goroutine.
type Preparer struct {
	eval    *Evaluator
	tables  map[*source.Table]*Table // nil: not read
	scratch Scratch
}

// NewPreparer returns a Preparer for what e evaluates.
func NewPreparer(e *Evaluator) *Preparer {
	return &Preparer{eval: e, tables: map[*source.Table]*Table{}}
}

// Evaluator returns what it was made for.
func (p *Preparer) Evaluator() *Evaluator { return p.eval }

// Prepared is a transaction, or a part of one, with its rows evaluated as far as that
// can be done without knowing what is stored.
type Prepared struct {
	*source.Txn
	eval *Evaluator
	rows []*Row // of Changes, at the same places; nil if there is none
}

// maxPreparedTables bounds the versions of tables that are remembered.
const maxPreparedTables = 10_000

// Prepare evaluates a transaction's rows.
func (p *Preparer) Prepare(tx *source.Txn) *Prepared {
	out := &Prepared{Txn: tx, eval: p.eval, rows: make([]*Row, len(tx.Changes))}
	for i := range tx.Changes {
		ch := &tx.Changes[i]
		if ch.New == nil || slices.ContainsFunc(ch.New, unchanged) {
			continue
		}
		if t := p.bind(ch.Table); t != nil {
			// What fails is evaluated again, and reported, when it is applied.
			if r, err := t.Evaluate(ch.New, &p.scratch); err == nil {
				out.rows[i] = r
			}
		}
	}
	return out
}

func (p *Preparer) bind(t *source.Table) *Table {
	bound, known := p.tables[t]
	if !known {
		if len(p.tables) == maxPreparedTables {
			clear(p.tables)
		}
		bound = p.eval.Bind(t)
		p.tables[t] = bound
	}
	return bound
}

// prefetchLeast is the least number of rows that are worth looking up together.
const prefetchLeast = 64

// prefetch looks up what is stored of the rows of a large transaction, in the order
// of their keys, which is several times faster than in that of their changes. What it
// finds holds until the next commit: later changes of a row are found in the batch.
func (a *Applier) prefetch(tx *Prepared) error {
	for from := 0; from < len(tx.rows); {
		table := tx.Changes[from].Table.ID
		a.looked = a.looked[:0]
		to := from
		for ; to < len(tx.rows) && tx.Changes[to].Table.ID == table; to++ {
			if r := tx.rows[to]; r != nil {
				a.looked = append(a.looked, r)
			}
		}
		from = to
		if len(a.looked) < prefetchLeast {
			continue
		}
		if err := a.lookUp(table, a.looked); err != nil {
			return err
		}
	}
	clear(a.looked[:cap(a.looked)])
	return nil
}

// lookUp sorts rows and notes what is stored of each.
func (a *Applier) lookUp(table source.TableID, rows []*Row) error {
	slices.SortFunc(rows, func(x, y *Row) int { return strings.Compare(string(x.Key), string(y.Key)) })
	keys := make([]source.RowKey, 0, len(rows))
	for i, r := range rows {
		r.prior, r.asOf = nil, a.commits
		if i == 0 || r.Key != rows[i-1].Key {
			keys = append(keys, r.Key)
		}
	}
	at := 0
	return a.rows.Records(table, keys, func(i int, rec *storage.RowRecord) {
		for rows[at].Key != keys[i] {
			at++
		}
		for ; at < len(rows) && rows[at].Key == keys[i]; at++ {
			rows[at].prior = rec
		}
	})
}
