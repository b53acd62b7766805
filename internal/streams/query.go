package streams

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/millrace-sync/millrace/internal/streams/sql"
)

// flat is a query with its subqueries in FROM merged into it: what it ranges over
// and what must hold.
type flat struct {
	scope *scope
	exists
}

// flatten resolves the FROM and WHERE of a query.
func (b *builder) flatten(q *sql.Select, text *yaml.Node, parent *scope) (flat, bool) {
	f := flat{scope: &scope{parent: parent, text: text}}
	s := f.scope
	good := true
	if b.dialect == parameterDialect || b.dialect == dataDialect {
		if ok := b.simpleFrom(q, s); !ok {
			return f, false
		}
	}
	var conditions allOf
	for i := range q.From {
		from := &q.From[i]
		it, part, ok := b.from(from, s)
		if !ok {
			good = false
			continue
		}
		f.rels = append(f.rels, part.rels...)
		if part.body != nil {
			conditions = append(conditions, part.body)
		}
		if slices.ContainsFunc(s.items, func(o item) bool { return o.name == it.name }) && it.name != "" {
			b.errorAt(s.place(from.Span), fmt.Sprintf("the name %s is used twice in FROM", it.name), "give one of them an alias")
			good = false
		}
		s.items = append(s.items, it)
	}
	if len(f.rels) > maxRelations || b.relations > maxRelations*10 {
		b.errorAt(s.place(q.Span), fmt.Sprintf("the query ranges over more than %d tables, CTEs included", maxRelations), "simplify it")
		return f, false
	}
	if !good {
		return f, false
	}
	for i := range q.From {
		if q.From[i].On != nil {
			c, ok := b.condition(q.From[i].On, s, false)
			good = good && ok
			conditions = append(conditions, c)
		}
	}
	if q.Where != nil {
		c, ok := b.condition(q.Where, s, false)
		good = good && ok
		conditions = append(conditions, c)
	}
	f.body = conditions
	return f, good
}

// simpleFrom reports what bucket definitions do not have: more than one table, and
// queries in FROM.
func (b *builder) simpleFrom(q *sql.Select, s *scope) bool {
	const hint = "use sync streams (edition 3)"
	for i := range q.From {
		f := &q.From[i]
		switch {
		case i > 0:
			b.errorAt(s.place(f.Span), "joins are not supported in bucket definitions", hint)
		case f.Query != nil:
			b.errorAt(s.place(f.Span), "subqueries are not supported in bucket definitions", hint)
		case f.Call != nil && b.dialect == dataDialect:
			b.errorAt(s.place(f.Span), "a data query selects from a table", "")
		default:
			continue
		}
		return false
	}
	return true
}

// from resolves one item of a FROM clause.
func (b *builder) from(f *sql.From, s *scope) (item, exists, bool) {
	switch {
	case f.Query != nil:
		columns, q, ok := b.subquery(f.Query, s.parent.orEmpty(s.text))
		return item{name: f.Alias.Text, columns: columns}, q, ok
	case f.Call != nil:
		return b.fromCall(f, s)
	}
	name := f.Alias.Text
	if name == "" {
		name = f.Table.Text
	}
	if f.Schema.Text == "" {
		if c := b.cte(f.Table); c != nil && !b.expanding(c) {
			columns, q, ok := b.expand(c, s.place(f.Table.Span))
			return item{name: name, columns: columns}, q, ok
		}
	}
	pattern, ok := b.pattern(s, f.Schema, f.Table)
	if !ok {
		return item{}, exists{}, false
	}
	at := f.Table.Span
	if f.Schema.Text != "" {
		at = f.Schema.Span.To(f.Table.Span)
	}
	rel := b.newRelation(relation{pattern: pattern, alias: f.Alias.Text, place: s.place(at)})
	if rel == nil {
		return item{name: name}, exists{}, false
	}
	b.byRel[rel] = len(*b.refs)
	*b.refs = append(*b.refs, tableRef{stream: b.stream, pattern: pattern, place: rel.place})
	return item{name: name, rel: rel}, exists{rels: []*relation{rel}}, true
}

// orEmpty returns a scope for a query in the same text that sees only what s sees.
func (s *scope) orEmpty(text *yaml.Node) *scope {
	if s == nil {
		return &scope{text: text}
	}
	return &scope{parent: s, text: text}
}

// expanding reports whether c is the CTE whose own text is being resolved: there,
// as in SQL, its name means the table.
func (b *builder) expanding(c *cte) bool {
	return len(b.opening) > 0 && b.opening[len(b.opening)-1] == c
}

func (b *builder) fromCall(f *sql.From, s *scope) (item, exists, bool) {
	c := f.Call
	p := s.place(c.Span)
	if c.Schema.Text != "" || c.Name.Text != "json_each" {
		b.errorAt(s.place(c.Name.Span), fmt.Sprintf("%s is not a table function", c.Name.Text), "the only one is json_each")
		return item{}, exists{}, false
	}
	if len(c.Args) != 1 {
		b.errorAt(p, "json_each takes one argument", "write json_each(x), with the array or object itself as x")
		return item{}, exists{}, false
	}
	v, ok := b.lower(c.Args[0], s)
	if !ok {
		return item{}, exists{}, false
	}
	if !v.dom.pure() {
		b.mixed(v, "")
		return item{}, exists{}, false
	}
	each, ok := b.each(v, p, f.Alias.Text)
	if !ok {
		return item{}, exists{}, false
	}
	name := f.Alias.Text
	if name == "" {
		name = "json_each"
	}
	return item{name: name, rel: each}, exists{rels: []*relation{each}}, true
}

// each makes a relation over the elements of a JSON array or object.
func (b *builder) each(v value, p place, alias string) (*relation, bool) {
	nested := false
	b.reads(v.node, func(in input) { nested = nested || in.kind == inputEachKey || in.kind == inputEachValue })
	if nested {
		b.errorAt(p, "the elements of json_each cannot be expanded once more", "keep nested arrays in a table of their own")
		return nil, false
	}
	if _, _, ok := b.check(v); !ok {
		return nil, false
	}
	r := b.newRelation(relation{each: true, input: v.node, parent: v.dom.table(), alias: alias, place: p})
	return r, r != nil
}

// subquery resolves a query in parentheses: its columns, and what it ranges over.
func (b *builder) subquery(q *sql.Select, parent *scope) ([]column, exists, bool) {
	f, ok := b.flatten(q, parent.text, parent)
	if !ok {
		return nil, exists{}, false
	}
	columns, ok := b.columns(q, f.scope, false)
	return columns, f.exists, ok
}

// expand resolves one use of a CTE.
func (b *builder) expand(c *cte, p place) ([]column, exists, bool) {
	c.used = true
	if slices.Contains(b.opening, c) {
		b.errorAt(p, fmt.Sprintf("the query %s refers to itself, by way of others", c.name.Value), "break the circle")
		return nil, exists{}, false
	}
	if c.query == nil {
		return nil, exists{}, false // reported where it stands
	}
	if b.relations > maxRelations*10 {
		b.errorAt(p, fmt.Sprintf("the query ranges over more than %d tables, CTEs included", maxRelations), "simplify it")
		return nil, exists{}, false
	}
	b.opening = append(b.opening, c)
	local := b.local
	if c.global {
		b.local = nil // a global CTE does not see those of a stream
	}
	columns, q, ok := b.subquery(c.query, &scope{text: c.text})
	b.local = local
	b.opening = b.opening[:len(b.opening)-1]
	return columns, q, ok
}

// columns resolves a select list. Stars are only for a query's own output.
func (b *builder) columns(q *sql.Select, s *scope, output bool) ([]column, bool) {
	var out []column
	good := true
	for i := range q.Columns {
		o := &q.Columns[i]
		if o.Star {
			cols, ok := b.star(o, s, output)
			good = good && ok
			out = append(out, cols...)
			continue
		}
		v, ok := b.lower(o.Expr, s)
		if ok {
			_, _, ok = b.check(v)
		}
		if !ok {
			good = false
			continue
		}
		name := o.Alias.Text
		if name == "" {
			name = impliedName(o.Expr)
			if _, plain := o.Expr.(*sql.Column); !plain && output {
				b.unnamed(o, s, name)
			}
		}
		out = append(out, column{name: name, value: v, place: s.place(o.Span)})
	}
	if len(q.Columns) == 0 && b.dialect != parameterDialect {
		b.errorAt(s.place(sql.Span{Start: q.Start, End: q.Start + len("select")}), "the query selects no columns", "write SELECT * or name the columns")
		good = false
	}
	return out, good
}

// unnamed reports an output expression without alias: an error in bucket
// definitions, as in the reference.
func (b *builder) unnamed(o *sql.Output, s *scope, name string) {
	hint := "add AS and a name"
	if b.dialect == dataDialect || b.dialect == parameterDialect {
		b.errorAt(s.place(o.Span), "an expression in the select list needs a name", hint)
		return
	}
	b.warnAt(s.place(o.Span), fmt.Sprintf("this column has no name and becomes %q", name), hint)
}

// impliedName is what Postgres calls a column without alias.
func impliedName(e sql.Expr) string {
	switch e := e.(type) {
	case *sql.Column:
		return e.Name.Text
	case *sql.Call:
		return e.Name.Text
	case *sql.Cast:
		if name := impliedName(e.X); name != "?column?" {
			return name
		}
		return e.Type.Text
	case *sql.Case:
		return "case"
	case *sql.Array:
		return "array"
	}
	return "?column?"
}

// star resolves * and t.*.
func (b *builder) star(o *sql.Output, s *scope, output bool) ([]column, bool) {
	p := s.place(o.Span)
	if !output {
		b.errorAt(p, "* is not supported in a subquery or CTE", "name the columns")
		return nil, false
	}
	var it *item
	switch {
	case o.Table.Text != "":
		if it = s.find(o.Table.Text); it == nil {
			b.unknownTable(s, o.Table)
			return nil, false
		}
	case len(s.items) == 1:
		it = &s.items[0]
	default:
		names := make([]string, len(s.items))
		for i := range s.items {
			names[i] = s.items[i].name + ".*"
		}
		b.errorAt(p, "* would select from several tables, and rows come from one", "write "+strings.Join(names, " or "))
		return nil, false
	}
	if it.rel == nil {
		return it.columns, true
	}
	if it.rel.each {
		b.errorAt(p, "the elements of json_each cannot be synced as rows", "select from the table, and use json_each in a condition")
		return nil, false
	}
	return []column{{star: it.rel, place: p, value: value{dom: domain{tables: []*relation{it.rel}}}}}, true
}
