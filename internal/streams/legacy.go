package streams

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/millrace-sync/millrace/internal/streams/expr"
	"github.com/millrace-sync/millrace/internal/streams/sql"
)

// parameterQuery is one alternative of a bucket definition's parameter queries.
type parameterQuery struct {
	terms    []term
	heads    []value // in the order of the definition's parameters
	priority int     // -1 without _priority
	b        *builder
}

// bucket compiles one legacy bucket definition: its parameter queries are the ways
// from a request to parameters, its data queries the rows that share the buckets.
func (c *compiler) bucket(s *bucketConfig) {
	name := s.name.Value
	b := c.builder(name, parameterDialect)
	var params []string
	var queries []parameterQuery
	good := true
	for _, text := range s.parameters {
		q, names, ok := b.parameters(text)
		if !ok {
			good = false
			continue
		}
		if params == nil {
			params = names
		}
		if ok := b.sameParameters(text, &q, names, params); !ok {
			good = false
			continue
		}
		if !s.dangerous {
			for _, t := range q.terms {
				b.warnUntrusted(t, place{text, sql.Span{End: len(text.Value)}}, q.heads...)
			}
		}
		queries = append(queries, q)
	}
	d := c.builder(name, dataDialect)
	d.params = map[string]bool{}
	for _, p := range params {
		d.params[p] = true
	}
	var rows []*rowProgram
	known := good
	for _, text := range s.data {
		if !known {
			d.parse(text) // the parameters are not known: only its syntax can be checked
			continue
		}
		more, ok := d.data(text, params)
		good = good && ok
		rows = append(rows, more...)
	}
	if !good || len(rows) == 0 {
		return
	}
	def := c.define(BucketSource, mergeRows(rows), name)
	p := &streamPlan{Stream: Stream{Name: name, AutoSubscribe: true, Priority: s.priority}}
	if len(s.parameters) == 0 {
		p.paths = []*path{{def: def, priority: -1}}
	}
	for _, q := range queries {
		for _, t := range q.terms {
			r, vars := b.newRule(t, nil, q.heads)
			way, _ := r.compile(c, vars)
			way.def, way.priority = def, q.priority
			p.paths = append(p.paths, way)
		}
	}
	c.streams = append(c.streams, p)
}

// parameters resolves one parameter query and names what it selects.
func (b *builder) parameters(text *yaml.Node) (q parameterQuery, names []string, ok bool) {
	q = parameterQuery{priority: -1, b: b}
	parsed := b.parse(text)
	if parsed == nil {
		return q, nil, false
	}
	for i := range parsed.From {
		if f := &parsed.From[i]; f.Call == nil && f.Alias.Text != "" {
			b.errorAt(place{text, f.Alias.Span}, "a table in a parameters query cannot have an alias", fmt.Sprintf("use its own name, %s", f.Table.Text))
			return q, nil, false
		}
	}
	f, ok := b.flatten(parsed, text, nil)
	if f.scope == nil || !ok {
		return q, nil, false
	}
	columns, ok := b.columns(parsed, f.scope, true)
	if !ok {
		return q, nil, false
	}
	names = []string{}
	for _, col := range columns {
		switch {
		case col.star != nil:
			b.errorAt(col.place, "* is not supported in a parameters query", "name the columns that become bucket parameters")
			return q, nil, false
		case col.name == "_priority":
			v, isConst, ok := b.check(col.value)
			n, isInt := v.Int()
			if !ok || !isConst || !isInt || n < 0 || n > 3 {
				b.errorAt(col.place, "_priority must be a whole number from 0 to 3", "write SELECT 1 AS _priority, …")
				return q, nil, false
			}
			q.priority = int(n)
			continue
		case slices.Contains(names, col.name):
			b.errorAt(col.place, fmt.Sprintf("the parameter %s is selected twice", col.name), "give one of them another name")
			return q, nil, false
		case !col.value.dom.pure():
			b.mixed(col.value, "")
			return q, nil, false
		}
		names = append(names, col.name)
		q.heads = append(q.heads, col.value)
	}
	terms, ok := normalize(f.exists)
	if !ok {
		b.errorAt(place{text, parsed.Span}, fmt.Sprintf("the condition has more than %d alternatives when its ORs are multiplied out", maxTerms), "simplify it, or split it into several queries")
		return q, nil, false
	}
	q.terms = terms
	return q, names, true
}

// sameParameters orders a query's parameters as the first query has them; it
// reports a query that selects others.
func (b *builder) sameParameters(text *yaml.Node, q *parameterQuery, names, params []string) bool {
	heads := make([]value, len(params))
	for i, p := range params {
		k := slices.Index(names, p)
		if k < 0 || len(names) != len(params) {
			list := func(n []string) string {
				if len(n) == 0 {
					return "none"
				}
				return strings.Join(n, ", ")
			}
			b.errorAt(place{text, sql.Span{End: len(text.Value)}}, fmt.Sprintf("all parameters queries must select the same parameters: this one has %s, the first one %s", list(names), list(params)), "")
			return false
		}
		heads[i] = q.heads[k]
	}
	if len(names) != len(params) {
		b.errorAt(place{text, sql.Span{End: len(text.Value)}}, "all parameters queries must select the same parameters: this one has "+strings.Join(names, ", ")+", the first one none", "")
		return false
	}
	q.heads = heads
	return true
}

// data resolves one data query: a row program for each alternative, with a key for
// each of params.
func (b *builder) data(text *yaml.Node, params []string) ([]*rowProgram, bool) {
	q := b.parse(text)
	if q == nil {
		return nil, false
	}
	f, ok := b.flatten(q, text, nil)
	if f.scope == nil || !ok && len(f.scope.items) < len(q.From) {
		return nil, false
	}
	columns, cok := b.columns(q, f.scope, true)
	if !ok || !cok {
		return nil, false
	}
	out, ok := b.outputTable(q, f, columns)
	if !ok {
		return nil, false
	}
	output, ok := b.output(q, f.scope, out, columns)
	if !ok {
		return nil, false
	}
	terms, ok := normalize(f.exists)
	if !ok {
		b.errorAt(place{text, q.Span}, fmt.Sprintf("the condition has more than %d alternatives when its ORs are multiplied out", maxTerms), "simplify it, or split it into several queries")
		return nil, false
	}
	var rows []*rowProgram
	for _, t := range terms {
		r, ok := b.dataTerm(t, out, params, place{text, q.Span})
		if !ok {
			return nil, false
		}
		r.output = output(r)
		rows = append(rows, r)
	}
	return rows, true
}

// dataTerm makes the row program of one alternative of a data query, in which every
// bucket parameter must be compared with one expression of the row.
func (b *builder) dataTerm(t term, out *relation, params []string, p place) (*rowProgram, bool) {
	expanding := 0
	for _, rel := range t.rels {
		switch {
		case rel.each && rel.parent == nil:
			b.errorAt(rel.place, "a bucket parameter cannot be expanded in a data query", "expand it in the parameters query: SELECT value AS x FROM json_each(…)")
			return nil, false
		case rel.each:
			if expanding++; expanding > 1 {
				b.errorAt(rel.place, "only one array can be expanded in a data query", "keep one of them in a table of its own")
				return nil, false
			}
		}
	}
	for _, a := range t.atoms {
		if a.dom.request {
			b.errorAt(a.place, "a bucket parameter must be compared with a column", "put conditions on parameters alone into the parameters query")
			return nil, false
		}
	}
	r, _ := b.newRule(t, out, nil)
	nodes := make([]expr.Node, len(params))
	for i, e := range r.ends {
		if e.table != nil {
			continue
		}
		in, ok := e.node.(expr.Input)
		if !ok {
			b.errorAt(p, "a bucket parameter must be compared as it is, without operators or functions around it", "compute the value in the parameters query")
			return nil, false
		}
		k := slices.Index(params, b.inputs[in.Index].accessor.key)
		held := r.of(r.class[i], func(e endpoint) bool { return e.table == out })
		if len(held) != 1 {
			b.errorAt(p, fmt.Sprintf("bucket.%s must be compared with one expression of the row, here it is with %d", params[k], len(held)), "")
			return nil, false
		}
		nodes[k] = held[0]
	}
	for k, n := range nodes {
		if n == nil {
			hint := fmt.Sprintf("add %s = bucket.%s to the condition", "a column", params[k])
			if len(t.edges) > 0 || len(t.atoms) > 0 {
				hint += ", in every branch of an OR"
			}
			b.errorAt(p, fmt.Sprintf("the data query does not use bucket.%s: its rows would belong to no bucket in particular", params[k]), hint)
			return nil, false
		}
	}
	s := r.side(out)
	for _, n := range nodes {
		s.rows.keys = append(s.rows.keys, s.local.node(n))
	}
	s.rows.inputs = s.local.inputs
	return s.rows, true
}
