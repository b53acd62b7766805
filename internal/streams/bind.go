package streams

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/streams/expr"
)

// TableEval evaluates the rows of one table. It is immutable; Output holds what
// changes from row to row.
type TableEval struct {
	table *source.Table
	form  source.Form
	// slots are the columns that are read: positions in table.Columns. The first
	// eager of them are decoded for every row, the others when a row is output.
	slots []int
	eager int
	// eaches is the number of values for elements of json_each, which come after
	// the slots.
	eaches      int
	programs    []boundProgram
	projections []*projection
	options     expr.Options
}

// boundProgram is a rowProgram for one table: its inputs are positions in the
// scratch's values, what does not change from row to row is a constant.
type boundProgram struct {
	def        int
	lookup     bool
	reads      []int // slots that filters, keys and values read
	each       []program
	filter     []program
	keys       []program
	outs       []program
	projection *projection
	objectType string
	// alone says that no other program of the definition reads this table, and
	// every row gives at most one entry: no need to look for equal ones.
	alone bool
}

// projection is one select list: programs that want the same share its result.
type projection struct {
	index   int
	reads   []int
	columns []boundColumn
	id      program
	hasID   bool
}

// boundColumn is one key of the row's JSON and what gives its value: the first of
// values that is not NULL, else the last. Only legacy stars have several.
type boundColumn struct {
	key    []byte // "name":
	values []program
}

// binding state while a table is bound
type binder struct {
	plan    *Plan
	table   *source.Table
	eval    *TableEval
	slot    map[int]int // column → slot, once numbered
	wanted  []int       // columns in the order in which they are first read
	diags   []Diagnostic
	missing map[string]bool
	outputs map[string]*projection
}

func (p *Plan) bind(t *source.Table, only []int) (*TableEval, []Diagnostic) {
	b := &binder{plan: p, table: t, slot: map[int]int{}, missing: map[string]bool{}, outputs: map[string]*projection{}}
	b.eval = &TableEval{table: t, form: p.Form, options: p.options}
	type match struct {
		def          *definition
		rows         *rowProgram
		schema, name string
	}
	var matches []match
	for _, d := range p.defs {
		if only != nil && !slices.Contains(only, d.index) {
			continue
		}
		for _, r := range slices.Backward(d.rows) {
			if schema, name, ok := r.pattern.match(t); ok {
				matches = append(matches, match{d, r, schema, name})
			}
		}
	}
	if len(matches) == 0 {
		return nil, nil
	}
	// What decides comes first, so that what is only output can wait.
	for _, m := range matches {
		for _, nodes := range [][]expr.Node{m.rows.each, m.rows.filter, m.rows.keys, m.rows.outs} {
			for _, n := range nodes {
				walk(n, func(i int) { b.want(m.rows, i) })
			}
		}
	}
	b.eval.eager = len(b.wanted)
	for _, m := range matches {
		b.wantOutput(m.rows)
	}
	b.eval.slots = b.wanted
	for _, m := range matches {
		b.eval.eaches = max(b.eval.eaches, 2*len(m.rows.each))
	}
	for _, m := range matches {
		bound, err := b.program(m.def, m.rows, m.schema, m.name)
		if err != nil {
			// Every expression compiled before, with inputs instead of constants.
			b.diags = append(b.diags, p.doc.diagnoseAt(Error, m.def.Label, m.rows.place, err.Error(), ""))
			continue
		}
		b.eval.programs = append(b.eval.programs, bound)
	}
	for i := range b.eval.programs {
		bp := &b.eval.programs[i]
		bp.alone = len(bp.each) == 0
		for j := range b.eval.programs {
			bp.alone = bp.alone && (i == j || b.eval.programs[j].def != bp.def)
		}
	}
	return b.eval, b.diags
}

func (b *binder) column(name string) int {
	return slices.IndexFunc(b.table.Columns, func(c source.Column) bool { return c.Name == name })
}

func (b *binder) wantColumn(c int) {
	if _, ok := b.slot[c]; !ok {
		b.slot[c] = len(b.wanted)
		b.wanted = append(b.wanted, c)
	}
}

// want gives the column that an input reads a slot; it reports one that is missing.
func (b *binder) want(r *rowProgram, i int) {
	in := r.inputs[i]
	if in.kind != inputColumn {
		return
	}
	c := b.column(in.name)
	if c >= 0 {
		b.wantColumn(c)
		return
	}
	if b.missing[in.name] {
		return
	}
	b.missing[in.name] = true
	names := make([]string, len(b.table.Columns))
	for i := range names {
		names[i] = b.table.Columns[i].Name
	}
	b.diags = append(b.diags, b.plan.doc.diagnoseAt(Warning, "", in.place, fmt.Sprintf("table %s has no column %s: it counts as NULL", b.table.QualifiedName(), in.name), didYouMean(in.name, names)))
}

func (b *binder) wantOutput(r *rowProgram) {
	if r.output == nil {
		return
	}
	for _, c := range r.output.columns {
		if c.node != nil {
			walk(c.node, func(i int) { b.want(r, i) })
			continue
		}
		for i := range b.table.Columns {
			b.wantColumn(i)
		}
	}
}

// input returns what an input of a row program is for this table.
func (b *binder) input(r *rowProgram, i int, schema, name string) expr.Node {
	in := r.inputs[i]
	switch in.kind {
	case inputColumn:
		if c := b.column(in.name); c >= 0 {
			return inputNode(b.slot[c], in.kind)
		}
		return expr.Const{}
	case inputTableName:
		return text(name)
	case inputTableSuffix:
		return text(r.pattern.suffix(name))
	case inputSchema:
		return text(schema)
	case inputEachKey:
		return inputNode(len(b.wanted)+2*in.index, in.kind)
	}
	return inputNode(len(b.wanted)+2*in.index+1, in.kind)
}

func (b *binder) program(d *definition, r *rowProgram, schema, name string) (boundProgram, error) {
	bp := boundProgram{def: d.index, lookup: d.Kind == LookupIndex}
	translate := func(n expr.Node) expr.Node {
		return replace(n, func(i int) expr.Node { return b.input(r, i, schema, name) })
	}
	reads := map[int]bool{}
	for _, part := range []struct {
		from []expr.Node
		to   *[]program
	}{{r.each, &bp.each}, {r.filter, &bp.filter}, {r.keys, &bp.keys}, {r.outs, &bp.outs}} {
		for _, n := range part.from {
			n = translate(n)
			walk(n, func(i int) { reads[i] = true })
			p, err := newProgram(n, b.eval.options)
			if err != nil {
				return bp, err
			}
			*part.to = append(*part.to, p)
		}
	}
	bp.reads = b.slots(reads)
	if r.output == nil {
		return bp, nil
	}
	bp.objectType = r.output.objectType
	if bp.objectType == "" {
		bp.objectType = name
	}
	var err error
	bp.projection, err = b.projection(r, translate, schema+"."+name)
	return bp, err
}

// slots lists those of the given inputs that are columns.
func (b *binder) slots(reads map[int]bool) []int {
	var out []int
	for i := range reads {
		if i < len(b.wanted) {
			out = append(out, i)
		}
	}
	slices.Sort(out)
	return out
}

// projection prepares a select list for the table; equal ones are one.
func (b *binder) projection(r *rowProgram, translate func(expr.Node) expr.Node, as string) (*projection, error) {
	o := *r.output
	o.objectType = ""
	bare := *r
	bare.output = &o
	id := as + "\n" + bare.outputText()
	if p := b.outputs[id]; p != nil {
		return p, nil
	}
	merged := b.merge(&o, translate)
	p := &projection{index: len(b.eval.projections)}
	reads := map[int]bool{}
	for _, c := range merged {
		bc := boundColumn{key: append(expr.AppendString(nil, c.name), ':')}
		for _, n := range c.values {
			walk(n, func(i int) { reads[i] = true })
			prog, err := newProgram(n, b.eval.options)
			if err != nil {
				return nil, err
			}
			bc.values = append(bc.values, prog)
		}
		p.columns = append(p.columns, bc)
		if c.name == "id" {
			p.hasID = true
			node := c.values[len(c.values)-1]
			if len(c.values) > 1 {
				node = call("ifnull", c.values...)
			}
			prog, err := newProgram(call("CAST text", node), b.eval.options)
			if err != nil {
				return nil, err
			}
			p.id = prog
		}
	}
	p.reads = b.slots(reads)
	b.eval.projections = append(b.eval.projections, p)
	b.outputs[id] = p
	return p, nil
}

type mergedColumn struct {
	name   string
	values []expr.Node
}

// merge expands stars and joins columns of the same name. In streams a later one
// replaces the value and keeps the place; in bucket definitions a star leaves out
// names that begin with _ and gives way to a value that is there already.
func (b *binder) merge(o *rowOutput, translate func(expr.Node) expr.Node) []mergedColumn {
	var out []mergedColumn
	at := map[string]int{}
	add := func(name string, n expr.Node, star bool) {
		i, ok := at[name]
		switch {
		case !ok:
			at[name] = len(out)
			out = append(out, mergedColumn{name, []expr.Node{n}})
		case o.legacy && star:
			out[i].values = append(out[i].values, n)
		default:
			out[i].values = []expr.Node{n}
		}
	}
	for _, c := range o.columns {
		if c.node != nil {
			add(c.name, translate(c.node), false)
			continue
		}
		for i := range b.table.Columns {
			name := b.table.Columns[i].Name
			if o.legacy && name[:min(1, len(name))] == "_" {
				continue
			}
			add(name, inputNode(b.slot[i], inputColumn), true)
		}
	}
	// JavaScript puts names that are array indexes first, in their order.
	slices.SortStableFunc(out, func(a, b mergedColumn) int {
		x, xok := arrayIndex(a.name)
		y, yok := arrayIndex(b.name)
		switch {
		case xok && yok:
			return int(int64(x) - int64(y))
		case xok:
			return -1
		case yok:
			return 1
		}
		return 0
	})
	return out
}

// arrayIndex reports whether a property name is one of JavaScript's array indexes.
func arrayIndex(name string) (uint32, bool) {
	n, err := strconv.ParseUint(name, 10, 32)
	if err != nil || n == 1<<32-1 || strconv.FormatUint(n, 10) != name {
		return 0, false
	}
	return uint32(n), true
}
