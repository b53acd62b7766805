package streams

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/streams/expr"
)

// maxEntries bounds what json_each may make of one row: the combinations of
// elements that are tried for one query.
const maxEntries = 100_000

// scratch is what an Output keeps from row to row, so that evaluation allocates
// only what it hands out.
type scratch struct {
	values  []source.Value
	errs    []error // of decoding, by slot; nil if there is none
	data    [][]byte
	ready   []bool // by projection: data and id are of this row
	ids     []string
	dataErr []error
	buf     []byte // backs data
	key     []byte
	value   []byte
	row     []source.Datum
	late    bool // the slots that can wait are decoded
	// recent holds the parameters made last by each program: often the next row has
	// the same ones.
	recent []string
	owner  *TableEval
	tried  int
	seen   map[entryID]int
}

type entryID struct {
	def          int
	key, typ, id string
}

var errTooMany = fmt.Errorf("the row's arrays have more than %d elements, or combinations of elements", maxEntries)

// reset empties out for a row of e.
func (out *Output) reset(e *TableEval, row []source.Datum) {
	out.Puts, out.Lookups, out.Errors = out.Puts[:0], out.Lookups[:0], out.Errors[:0]
	s := &out.scratch
	if s.owner != e {
		s.owner = e
		s.values = sized(s.values, len(e.slots)+e.eaches)
		s.data = sized(s.data, len(e.projections))
		s.ready = sized(s.ready, len(e.projections))
		s.ids = sized(s.ids, len(e.projections))
		s.dataErr = sized(s.dataErr, len(e.projections))
		s.recent = sized(s.recent, len(e.programs))
	}
	clear(s.ready)
	s.errs = nil
	s.row = row
	s.late = false
	s.buf = s.buf[:0]
	clear(s.seen)
}

// sized returns a slice of n zero values, in the memory of s if that is enough.
func sized[T any](s []T, n int) []T {
	s = slices.Grow(s[:0], n)[:n]
	clear(s)
	return s
}

func (e *TableEval) row(row []source.Datum, out *Output) {
	out.reset(e, row)
	if len(row) != len(e.table.Columns) {
		for i := range e.programs {
			out.fail(&e.programs[i], fmt.Errorf("row of %d columns, want %d", len(row), len(e.table.Columns)))
		}
		return
	}
	e.decode(out, 0, e.eager)
	for i := range e.programs {
		p := &e.programs[i]
		puts, lookups := len(out.Puts), len(out.Lookups)
		if err := e.run(i, p, out); err != nil {
			// Nothing of this program. Entries of others it left as they were.
			out.Puts = slices.Delete(out.Puts, puts, len(out.Puts))
			out.Lookups = slices.Delete(out.Lookups, lookups, len(out.Lookups))
			out.fail(p, err)
		}
	}
}

func (out *Output) fail(p *boundProgram, err error) {
	for _, e := range out.Errors {
		if e.Def == p.def && e.Message == err.Error() {
			return
		}
	}
	out.Errors = append(out.Errors, RowError{Def: p.def, Message: err.Error()})
}

// decode decodes slots from lo to hi.
func (e *TableEval) decode(out *Output, lo, hi int) {
	s := &out.scratch
	for i := lo; i < hi; i++ {
		c := e.slots[i]
		v, err := e.table.Columns[c].Type.Decode(s.row[c], e.form)
		if err == nil && s.row[c].Encoding == source.Unchanged {
			err = errors.New("its value was not sent")
		}
		if err != nil {
			if s.errs == nil {
				s.errs = make([]error, len(e.slots))
			}
			s.errs[i] = fmt.Errorf("column %s: %w", e.table.Columns[c].Name, err)
			v = source.Value{}
		}
		s.values[i] = v
	}
}

// broken returns the error of the first of slots that could not be decoded.
func (s *scratch) broken(slots []int) error {
	if s.errs == nil {
		return nil
	}
	for _, i := range slots {
		if s.errs[i] != nil {
			return s.errs[i]
		}
	}
	return nil
}

// run evaluates one program for the row.
func (e *TableEval) run(index int, p *boundProgram, out *Output) error {
	s := &out.scratch
	if err := s.broken(p.reads); err != nil {
		return err
	}
	s.tried = 0
	if len(p.each) == 0 {
		return e.emit(index, p, out)
	}
	return e.expand(index, p, out, 0)
}

// expand runs the rest of a program for every element of each[k] and those after it.
func (e *TableEval) expand(index int, p *boundProgram, out *Output, k int) error {
	s := &out.scratch
	if k == len(p.each) {
		return e.emit(index, p, out)
	}
	list, err := p.each[k].eval(s.values)
	if err != nil {
		return err
	}
	at := len(e.slots) + 2*k
	var inner error
	err = expr.JSONEach(list, e.options, func(key, value source.Value) bool {
		if s.tried++; s.tried > maxEntries {
			inner = errTooMany
			return false
		}
		s.values[at], s.values[at+1] = key, value
		inner = e.expand(index, p, out, k+1)
		return inner == nil
	})
	if inner != nil {
		return inner
	}
	return err
}

// emit adds the entry for the present elements, if the filters let it through.
func (e *TableEval) emit(index int, p *boundProgram, out *Output) error {
	s := &out.scratch
	for i := range p.filter {
		v, err := p.filter[i].eval(s.values)
		if err != nil {
			return err
		}
		if !expr.Truth(v, e.options) {
			return nil
		}
	}
	key, ok, err := appendKey(s.key[:0], p.keys, s.values)
	s.key = key
	if err != nil || !ok {
		return err
	}
	if s.recent[index] != string(key) {
		s.recent[index] = string(key)
	}
	if p.lookup {
		return e.emitLookup(p, s.recent[index], out)
	}
	return e.emitPut(p, s.recent[index], out)
}

// appendKey appends the values as a JSON array; ok is false if one of them matches
// nothing.
func appendKey(dst []byte, keys []program, values []source.Value) (out []byte, ok bool, err error) {
	dst = append(dst, '[')
	for i := range keys {
		if i > 0 {
			dst = append(dst, ',')
		}
		v, err := keys[i].eval(values)
		if err != nil {
			return dst, false, err
		}
		if dst, ok = expr.AppendParam(dst, v); !ok {
			return dst, false, nil
		}
	}
	return append(dst, ']'), true, nil
}

func (e *TableEval) emitPut(p *boundProgram, params string, out *Output) error {
	s := &out.scratch
	pr := p.projection
	if !s.ready[pr.index] {
		if !s.late {
			e.decode(out, e.eager, len(e.slots))
			s.late = true
		}
		s.dataErr[pr.index] = e.project(pr, s)
		s.ready[pr.index] = true
	}
	if err := s.dataErr[pr.index]; err != nil {
		return err
	}
	put := Put{Def: p.def, Params: params, ObjectType: p.objectType, ObjectID: s.ids[pr.index], Data: s.data[pr.index]}
	if !p.alone {
		id := entryID{p.def, params, put.ObjectType, put.ObjectID}
		if i, ok := s.find(id); ok && i < len(out.Puts) && out.Puts[i].is(id) {
			return nil // programs run last query first: a later query's columns win
		}
		s.seen[id] = len(out.Puts)
	}
	out.Puts = append(out.Puts, put)
	return nil
}

func (p *Put) is(id entryID) bool {
	return p.Def == id.def && p.Params == id.key && p.ObjectType == id.typ && p.ObjectID == id.id
}

func (s *scratch) find(id entryID) (int, bool) {
	if s.seen == nil {
		s.seen = map[entryID]int{}
	}
	i, ok := s.seen[id]
	return i, ok
}

func (e *TableEval) emitLookup(p *boundProgram, key string, out *Output) error {
	s := &out.scratch
	value := s.value[:0]
	for i := range p.outs {
		v, err := p.outs[i].eval(s.values)
		if err != nil {
			return err
		}
		mark := len(value)
		text, ok := expr.AppendParam(append(value, 0, 0, 0, 0), v)
		if !ok {
			s.value = text
			return nil // NULL equals nothing: it leads nowhere
		}
		binary.BigEndian.PutUint32(text[mark:], uint32(len(text)-mark-4))
		value = text
	}
	s.value = value
	if !p.alone {
		// The key stands once, with all its results; each result once.
		id := entryID{def: p.def, key: key}
		i, ok := s.find(id)
		if ok && i < len(out.Lookups) && out.Lookups[i].Def == p.def && out.Lookups[i].Key == key {
			result := entryID{p.def, key, "=", string(value)}
			if _, twice := s.seen[result]; !twice {
				s.seen[result] = 0
				out.Lookups[i].Values = append(out.Lookups[i].Values, value...)
			}
			return nil
		}
		s.seen[id] = len(out.Lookups)
		s.seen[entryID{p.def, key, "=", string(value)}] = 0
	}
	out.Lookups = append(out.Lookups, Entry{Def: p.def, Key: key, Values: append([]byte(nil), value...)})
	return nil
}

// project makes the JSON and the id of the row.
func (e *TableEval) project(p *projection, s *scratch) error {
	if err := s.broken(p.reads); err != nil {
		return err
	}
	start := len(s.buf)
	buf := append(s.buf, '{')
	for i := range p.columns {
		c := &p.columns[i]
		var v source.Value
		for k := range c.values {
			var err error
			if v, err = c.values[k].eval(s.values); err != nil {
				return fmt.Errorf("column %s: %w", c.key[:len(c.key)-1], err)
			}
			if !v.IsNull() {
				break
			}
		}
		mark := len(buf)
		if mark > start+1 {
			buf = append(buf, ',')
		}
		var ok bool
		if buf, ok = expr.AppendJSON(append(buf, c.key...), v); !ok {
			buf = buf[:mark]
		}
	}
	buf = append(buf, '}')
	s.ids[p.index] = ""
	if p.hasID {
		v, err := p.id.eval(s.values)
		if err != nil {
			return fmt.Errorf("column id: %w", err)
		}
		s.ids[p.index] = v.Str()
	}
	// Growing moves the buffer; what was handed out stays where it was.
	s.buf = buf
	s.data[p.index] = buf[start:len(buf):len(buf)]
	return nil
}

// eachResult calls yield with the values of every result in an Entry's Values: n
// of them, each in the form that keys have. It fails on bytes that are no Values.
func eachResult(values []byte, n int, yield func(result []string) error) error {
	if n == 0 {
		if len(values) > 0 {
			return errors.New("lookup values: unexpected content")
		}
		return yield(nil)
	}
	result := make([]string, n)
	for first := true; len(values) > 0 || first; first = false {
		for i := range result {
			if len(values) < 4 {
				return errors.New("lookup values: cut short")
			}
			size := binary.BigEndian.Uint32(values)
			values = values[4:]
			if uint64(size) > uint64(len(values)) {
				return errors.New("lookup values: cut short")
			}
			result[i] = string(values[:size])
			values = values[size:]
		}
		if err := yield(result); err != nil {
			return err
		}
	}
	return nil
}
