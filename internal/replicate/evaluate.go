package replicate

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/deploy"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/streams"
)

// Evaluator turns source rows into bucket entries and lookup entries for the
// definitions that are live: those of the current deploy and, while another one
// is being backfilled, those that are new in it. It is immutable and safe for
// concurrent use, so that backfill workers evaluate in parallel.
type Evaluator struct {
	secret [32]byte
	layers []layer
}

type layer struct {
	deploy *deploy.Deploy
	only   []int // positions evaluated; nil: all
}

// NewEvaluator evaluates all definitions of current, which may be nil, and those
// of next, which may be nil, that current lacks. secret keys the subkeys.
func NewEvaluator(secret [32]byte, current, next *deploy.Deploy) *Evaluator {
	e := &Evaluator{secret: secret}
	if current != nil {
		e.layers = append(e.layers, layer{deploy: current})
	}
	if next != nil {
		only := make([]int, 0, len(next.IDs))
		for i, id := range next.IDs {
			if current == nil || !current.Has(id) {
				only = append(only, i)
			}
		}
		e.layers = append(e.layers, layer{deploy: next, only: only})
	}
	return e
}

// live reports whether the definition is evaluated.
func (e *Evaluator) live(id storage.DefinitionID) bool {
	return slices.ContainsFunc(e.layers, func(l layer) bool { return l.deploy.Has(id) })
}

// Table is one version of a source table, bound to the definitions that read it.
type Table struct {
	*source.Table
	evaluator *Evaluator
	bound     []boundLayer
	toast     []int // columns whose values Postgres may store out of line
	wholeRow  bool
	warnings  []streams.Diagnostic
}

type boundLayer struct {
	eval *streams.TableEval
	ids  []storage.DefinitionID
}

// Bind prepares a table; nil if no live definition reads it.
func (e *Evaluator) Bind(t *source.Table) *Table {
	b := &Table{Table: t, evaluator: e, wholeRow: t.Identity == source.IdentityFull && allKeys(t)}
	for _, l := range e.layers {
		if l.only != nil && len(l.only) == 0 {
			continue
		}
		eval, warnings := l.deploy.Plan.Bind(t, l.only)
		b.warnings = append(b.warnings, warnings...)
		if eval != nil {
			b.bound = append(b.bound, boundLayer{eval, l.deploy.IDs})
		}
	}
	if len(b.bound) == 0 {
		return nil
	}
	b.toast = toastColumns(t)
	return b
}

// Warnings says what the queries want of the table and cannot have.
func (t *Table) Warnings() []streams.Diagnostic { return t.warnings }

// WholeRow reports whether rows of the table are told apart by all their columns
// only, so that several rows may be equal.
func (t *Table) WholeRow() bool { return t.wholeRow }

func allKeys(t *source.Table) bool {
	return !slices.ContainsFunc(t.Columns, func(c source.Column) bool { return !c.Key })
}

// Row is what one version of a source row evaluates to. It shares nothing with
// the scratch that it was made with.
type Row struct {
	Key     source.RowKey
	Subkey  bucket.Subkey
	Puts    []Put
	Lookups []Lookup
	Kept    []storage.Kept
	// Errors holds what did not evaluate, by the definition concerned.
	Errors []RowError

	// prior is what the store held of the row, nil if nothing, after so many commits of
	// the Applier; see prefetch.
	prior *storage.RowRecord
	asOf  uint64
}

// Put is one bucket entry of a Row.
type Put struct {
	Bucket     storage.BucketKey
	ObjectType string
	ObjectID   string
	Data       []byte
	Hash       uint64 // bucket.ContentHash
}

// Lookup is one lookup entry of a Row.
type Lookup struct {
	Key    storage.LookupKey
	Values []byte
	Hash   uint64
}

// RowError says that a definition could not be evaluated for a row.
type RowError struct {
	Definition storage.DefinitionID
	Message    string
}

// Scratch is reused memory for Evaluate; one per goroutine.
type Scratch struct {
	out   streams.Output
	key   []byte
	arena arena
}

// Evaluate evaluates one complete row: a datum for each column, none Unchanged.
func (t *Table) Evaluate(row []source.Datum, s *Scratch) (*Row, error) {
	var err error
	if s.key, err = source.AppendRowKey(s.key[:0], t.Table, row); err != nil {
		return nil, err
	}
	r := s.arena.row()
	r.Key = source.RowKey(s.arena.text(s.key))
	r.Subkey = bucket.SubkeyFor(t.evaluator.secret, uint32(t.ID), string(r.Key))
	for _, b := range t.bound {
		b.eval.Row(row, &s.out)
		r.take(&s.out, b.ids, &s.arena)
	}
	r.Kept = t.keep(row)
	return r, nil
}

// take copies what out holds: its memory is reused for the next row.
func (r *Row) take(out *streams.Output, ids []storage.DefinitionID, a *arena) {
	if r.Puts == nil {
		r.Puts = a.room(len(out.Puts))
	}
	for i := range out.Puts {
		p := &out.Puts[i]
		put := Put{
			Bucket:     storage.BucketKey{Def: ids[p.Def], Params: p.Params},
			ObjectType: p.ObjectType,
			ObjectID:   p.ObjectID,
		}
		// Entries of one row in several buckets mostly share their data.
		if i > 0 && sameBytes(p.Data, out.Puts[i-1].Data) {
			last := &r.Puts[len(r.Puts)-1]
			put.Data = last.Data
			if last.ObjectType == put.ObjectType && last.ObjectID == put.ObjectID {
				put.Hash = last.Hash
			}
		}
		if put.Data == nil {
			put.Data = a.copy(p.Data)
		}
		if put.Hash == 0 {
			put.Hash = bucket.ContentHash(put.ObjectType, put.ObjectID, put.Data)
		}
		r.Puts = append(r.Puts, put)
	}
	for i := range out.Lookups {
		l := &out.Lookups[i]
		h := sha256.Sum256(l.Values)
		r.Lookups = append(r.Lookups, Lookup{
			Key:    storage.LookupKey{Def: ids[l.Def], Key: l.Key},
			Values: append([]byte{}, l.Values...), // never nil: that would withdraw it
			Hash:   binary.LittleEndian.Uint64(h[:8]),
		})
	}
	for _, e := range out.Errors {
		r.Errors = append(r.Errors, RowError{ids[e.Def], e.Message})
	}
}

// sameBytes reports whether a and b are the same memory.
func sameBytes(a, b []byte) bool {
	return len(a) > 0 && len(a) == len(b) && &a[0] == &b[0]
}

// The least size of a value that can be moved out of line, and the size of a row
// from which Postgres starts to move values: toast_tuple_target, about 2 kB. A
// row's size on disk is estimated from its text, doubled, because some types
// (jsonb, numeric arrays) take more room than their text.
const (
	toastValueMin = 24
	toastRowMin   = 2000
)

// toastColumns returns the columns of types with variable length. Types are
// recognised by name: what is not known to be of fixed size counts as variable.
func toastColumns(t *source.Table) []int {
	var cols []int
	for i := range t.Columns {
		switch t.Columns[i].Type.Name() {
		case "bool", "int2", "int4", "int8", "oid", "float4", "float8", "uuid", "date", "time", "timetz",
			"timestamp", "timestamptz", "interval", "money", "pg_lsn", "macaddr", "macaddr8", "point":
		default:
			cols = append(cols, i)
		}
	}
	return cols
}

// keep returns the values that a later update may leave out. Rows that fit into
// a page's share are never split up, so nothing of them needs keeping.
func (t *Table) keep(row []source.Datum) []storage.Kept {
	if len(t.toast) == 0 || t.Identity == source.IdentityFull {
		return nil // FULL: the source repeats the old row with every update
	}
	size := 16 * len(row)
	for i := range row {
		size += 2 * len(row[i].Bytes)
	}
	if size < toastRowMin {
		return nil
	}
	var kept []storage.Kept
	for _, c := range t.toast {
		if d := row[c]; len(d.Bytes) >= toastValueMin {
			kept = append(kept, storage.Kept{Column: t.Columns[c].Name, Datum: d})
		}
	}
	return kept
}
