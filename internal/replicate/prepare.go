package replicate

import (
	"slices"

	"github.com/millrace-sync/millrace/internal/source"
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
