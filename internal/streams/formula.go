package streams

import (
	"fmt"
	"strings"

	"github.com/millrace-sync/millrace/internal/streams/expr"
	"github.com/millrace-sync/millrace/internal/streams/sql"
)

// formula is a condition with names resolved: a tree of allOf and anyOf whose
// leaves are conditions on one row or on the request alone (atom), equalities
// between two of those (edge), and queries that must have a row (exists).
type formula interface{ isFormula() }

type (
	allOf    []formula
	anyOf    []formula
	constant bool
	atom     struct{ value }
	edge     struct {
		l, r  value
		place place
	}
	exists struct {
		rels []*relation
		body formula
	}
)

func (allOf) isFormula()    {}
func (anyOf) isFormula()    {}
func (constant) isFormula() {}
func (atom) isFormula()     {}
func (edge) isFormula()     {}
func (exists) isFormula()   {}

// condition resolves an expression used as a condition; not negates it.
func (b *builder) condition(e sql.Expr, s *scope, not bool) (formula, bool) {
	p := s.place(e.Pos())
	switch e := e.(type) {
	case *sql.Unary:
		return b.condition(e.X, s, !not)
	case *sql.Binary:
		switch e.Op {
		case "AND", "OR":
			return b.junction(e, s, not)
		case "=":
			if _, ok := e.R.(*sql.Subquery); ok {
				break
			}
			l, lok := b.lower(e.L, s)
			r, rok := b.lower(e.R, s)
			if !lok || !rok {
				return nil, false
			}
			return b.equal(l, r, p, not)
		case "&&":
			return b.overlap(e, s, not)
		}
	case *sql.In:
		return b.in(e, s, not != e.Not)
	case *sql.Is:
		// Only for conditions that mix sources does it matter that x IS TRUE is x.
		if e.What == "TRUE" && !e.Not && !not {
			return b.condition(e.X, s, false)
		}
	}
	v, ok := b.lower(e, s)
	if !ok {
		return nil, false
	}
	return b.atom(v, not)
}

// atom makes a leaf of a condition on one row or the request.
func (b *builder) atom(v value, not bool) (formula, bool) {
	if !v.dom.pure() {
		b.mixed(v, "")
		return nil, false
	}
	if not {
		v.node = call("NOT", v.node)
	}
	c, isConst, ok := b.check(v)
	if !ok {
		return nil, false
	}
	if isConst && v.dom.constant() {
		return constant(expr.Truth(c, b.options)), true
	}
	return atom{v}, true
}

// mixed reports an expression that depends on more than one row or on a row and
// the request, and is no equality.
func (b *builder) mixed(v value, why string) {
	hint := "compare them with = or IN, each side by itself; anything else cannot be a bucket's key"
	if len(v.dom.tables) > 1 {
		hint = "compare them with = or IN, each side by itself; anything else cannot be looked up"
	}
	message := fmt.Sprintf("this expression mixes %s", v.dom.describe())
	if why != "" {
		message = why
	}
	b.errorAt(v.place, message, hint)
}

// junction resolves a chain of ANDs or ORs. What is on one row alone stays one
// leaf, so that it does not multiply the terms of the normal form.
func (b *builder) junction(e *sql.Binary, s *scope, not bool) (formula, bool) {
	all := (e.Op == "AND") != not
	var kids []formula
	good := true
	for _, x := range chain(e) {
		f, ok := b.condition(x, s, not)
		good = good && ok
		if !ok {
			continue
		}
		if c, isConst := f.(constant); isConst {
			if bool(c) != all {
				// false AND x, true OR x: x is still resolved, for its mistakes.
				kids = append(kids, c)
			}
			continue
		}
		kids = append(kids, f)
	}
	if !good {
		return nil, false
	}
	for _, k := range kids {
		if c, isConst := k.(constant); isConst {
			return c, true
		}
	}
	switch {
	case len(kids) == 0:
		return constant(all), true
	case len(kids) == 1:
		return kids[0], true
	case all:
		return allOf(kids), true
	}
	return mergeAny(kids), true
}

// single returns a formula as one expression if it depends on one row or on the
// request alone.
func single(f formula) (value, bool) {
	switch f := f.(type) {
	case atom:
		return f.value, true
	case allOf:
		var v value
		nodes := make([]expr.Node, len(f))
		for i, k := range f {
			kv, ok := single(k)
			if !ok {
				return value{}, false
			}
			if i == 0 {
				v = kv
			}
			v.dom = v.dom.union(kv.dom)
			nodes[i] = kv.node
		}
		v.node = call("AND", nodes...)
		return v, v.dom.pure()
	}
	return value{}, false
}

// mergeAny makes one leaf of the alternatives that depend on the same row.
func mergeAny(kids []formula) formula {
	var out anyOf
	for _, k := range kids {
		v, ok := single(k)
		if ok {
			ok = false
			for i, o := range out {
				a, isAtom := o.(atom)
				if !isAtom || a.dom.table() != v.dom.table() {
					continue
				}
				if c, isCall := a.node.(expr.Call); isCall && c.Op == "OR" && len(c.Args) < 1000 {
					a.node = call("OR", append(c.Args[:len(c.Args):len(c.Args)], v.node)...)
				} else {
					a.node = call("OR", a.node, v.node)
				}
				out[i], ok = a, true
				break
			}
			if !ok {
				out = append(out, atom{v})
			}
			continue
		}
		out = append(out, k)
	}
	if len(out) == 1 {
		return out[0]
	}
	return out
}

// equal makes the condition l = r.
func (b *builder) equal(l, r value, p place, not bool) (formula, bool) {
	v := value{node: call("=", l.node, r.node), dom: l.dom.union(r.dom), place: p}
	if v.dom.pure() {
		return b.atom(v, not)
	}
	for _, side := range []value{l, r} {
		if !side.dom.pure() {
			b.mixed(side, "")
			return nil, false
		}
	}
	if not {
		b.mixed(v, fmt.Sprintf("a negated comparison of %s is not supported", v.dom.describe()))
		return nil, false
	}
	for _, side := range []value{l, r} {
		if _, _, ok := b.check(side); !ok {
			return nil, false
		}
	}
	if b.options.Engine == expr.SQLite {
		l.node, r.node = affine(l.node, r.node), affine(r.node, l.node)
	}
	return edge{l, r, p}, true
}

// affine returns n as SQLite converts it for a comparison with other: there a CAST
// imposes its type on an operand that has none. The sides of an edge are evaluated
// apart, so each does it for itself.
func affine(n, other expr.Node) expr.Node {
	mine, its := affinity(n), affinity(other)
	switch {
	case its == "numeric" && mine != "numeric":
		number := call("CAST numeric", n)
		// Text equals its number, and is converted, only if it is all number.
		return expr.Case{Whens: [][2]expr.Node{{call("AND", call("=", call("typeof", n), text("text")), call("=", n, number)), number}}, Else: n}
	case its == "text" && mine == "":
		return expr.Case{Whens: [][2]expr.Node{{call("IN LIST", call("typeof", n), text("integer"), text("real")), call("CAST text", n)}}, Else: n}
	}
	return n
}

// affinity is what a CAST imposes: "numeric", "text" or "blob"; "" for anything else.
func affinity(n expr.Node) string {
	if in, ok := n.(expr.Input); ok && in.Column {
		return "blob" // as a column without type has it
	}
	c, ok := n.(expr.Call)
	if !ok {
		return ""
	}
	switch c.Op {
	case "CAST integer", "CAST real", "CAST numeric":
		return "numeric"
	case "CAST text":
		return "text"
	case "CAST blob":
		return "blob"
	}
	return ""
}

// in resolves x IN right; not says that it is negated.
func (b *builder) in(e *sql.In, s *scope, not bool) (formula, bool) {
	p := s.place(e.Span)
	c := b.cteOf(e.Right)
	sub, isQuery := e.Right.(*sql.Subquery)
	if c != nil || isQuery {
		if b.dialect == parameterDialect || b.dialect == dataDialect {
			b.errorAt(p, "subqueries are not supported in bucket definitions", "select the values in a parameters query, or use sync streams (edition 3)")
			return nil, false
		}
		if not {
			if c != nil {
				c.used = true
			}
			b.errorAt(p, "NOT IN with a query is not supported: rows would have to appear when others vanish", "store the fact in a column of the row itself, or select what is in")
			return nil, false
		}
		x, ok := b.lower(e.X, s)
		var set []column
		var q exists
		var qok bool
		if c != nil {
			set, q, qok = b.expand(c, s.place(e.Right.Pos()))
		} else {
			set, q, qok = b.subquery(sub.Query, s)
		}
		if !ok || !qok {
			return nil, false
		}
		if !b.oneColumn(set, s.place(e.Right.Pos()), c) {
			return nil, false
		}
		eq, ok := b.equal(x, set[0].value, p, false)
		if !ok {
			return nil, false
		}
		q.body = allOf{q.body, eq}
		return q, true
	}
	if list, ok := e.Right.(*sql.Array); ok {
		return b.inList(e, list, s, not)
	}
	x, xok := b.lower(e.X, s)
	right, rok := b.lower(e.Right, s)
	if !xok || !rok {
		return nil, false
	}
	v := value{node: call("IN", x.node, right.node), dom: x.dom.union(right.dom), place: p}
	if v.dom.pure() {
		return b.atom(v, not)
	}
	if not {
		b.mixed(v, fmt.Sprintf("NOT IN between %s is not supported", v.dom.describe()))
		return nil, false
	}
	each, ok := b.each(right, s.place(e.Right.Pos()), "")
	if !ok {
		return nil, false
	}
	eq, ok := b.equal(x, b.column(each, "value", right.place), p, false)
	if !ok {
		return nil, false
	}
	return exists{[]*relation{each}, eq}, true
}

// inList resolves x IN (a, b, …): one leaf if it is all on one row, otherwise the
// alternatives x = a, x = b, ….
func (b *builder) inList(e *sql.In, list *sql.Array, s *scope, not bool) (formula, bool) {
	p := s.place(e.Span)
	x, good := b.lower(e.X, s)
	v := value{dom: x.dom, place: p}
	nodes := []expr.Node{x.node}
	elems := make([]value, len(list.Elems))
	for i, el := range list.Elems {
		var ok bool
		elems[i], ok = b.lower(el, s)
		good = good && ok
		v.dom = v.dom.union(elems[i].dom)
		nodes = append(nodes, elems[i].node)
	}
	if !good {
		return nil, false
	}
	if v.dom.pure() {
		v.node = call("IN LIST", nodes...)
		return b.atom(v, not)
	}
	if not {
		b.mixed(v, fmt.Sprintf("NOT IN between %s is not supported", v.dom.describe()))
		return nil, false
	}
	var kids []formula
	for _, el := range elems {
		eq, ok := b.equal(x, el, el.place, false)
		if !ok {
			return nil, false
		}
		kids = append(kids, eq)
	}
	return mergeAny(kids), true
}

// overlap resolves a && b: the arrays, or the results of a query, have an element
// in common.
func (b *builder) overlap(e *sql.Binary, s *scope, not bool) (formula, bool) {
	p := s.place(e.Span)
	isSet := func(x sql.Expr) bool {
		_, ok := x.(*sql.Subquery)
		return ok || b.cteOf(x) != nil
	}
	if !isSet(e.L) && !isSet(e.R) {
		v, ok := b.combine(p, "&&", s, e.L, e.R)
		if !ok {
			return nil, false
		}
		if v.dom.pure() {
			return b.atom(v, not)
		}
	}
	if not {
		b.errorAt(p, "NOT (a && b) is only supported on the columns of one row", "select what overlaps")
		return nil, false
	}
	var q exists
	var sides [2]value
	var body allOf
	for i, x := range []sql.Expr{e.L, e.R} {
		v, part, ok := b.elements(x, s)
		if !ok {
			return nil, false
		}
		q.rels = append(q.rels, part.rels...)
		if part.body != nil {
			body = append(body, part.body)
		}
		sides[i] = v
	}
	eq, ok := b.equal(sides[0], sides[1], p, false)
	if !ok {
		return nil, false
	}
	q.body = append(body, eq)
	return q, true
}

// elements returns one side of && as a value that runs over its elements.
func (b *builder) elements(x sql.Expr, s *scope) (value, exists, bool) {
	p := s.place(x.Pos())
	c := b.cteOf(x)
	sub, isQuery := x.(*sql.Subquery)
	if c == nil && !isQuery {
		v, ok := b.lower(x, s)
		if !ok {
			return value{}, exists{}, false
		}
		if !v.dom.pure() {
			b.mixed(v, "")
			return value{}, exists{}, false
		}
		each, ok := b.each(v, p, "")
		if !ok {
			return value{}, exists{}, false
		}
		return b.column(each, "value", p), exists{rels: []*relation{each}}, true
	}
	var set []column
	var q exists
	var ok bool
	if c != nil {
		set, q, ok = b.expand(c, p)
	} else {
		set, q, ok = b.subquery(sub.Query, s)
	}
	if !ok || !b.oneColumn(set, p, c) {
		return value{}, exists{}, false
	}
	return set[0].value, q, true
}

func (b *builder) oneColumn(set []column, p place, c *cte) bool {
	if len(set) == 1 {
		return true
	}
	names := make([]string, len(set))
	for i := range set {
		names[i] = set[i].name
	}
	if c != nil {
		b.errorAt(p, fmt.Sprintf("%s has %d columns (%s), one is needed here", c.name.Value, len(set), strings.Join(names, ", ")),
			fmt.Sprintf("write IN (SELECT %s FROM %s)", names[0], c.name.Value))
	} else {
		b.errorAt(p, fmt.Sprintf("the query has %d columns, one is needed here", len(set)), "select the one column to compare with")
	}
	return false
}

// term is one alternative of a query's disjunctive normal form: all of it must
// hold for some choice of a row of each relation.
type term struct {
	rels  []*relation
	atoms []value
	edges []edge
}

func (t term) and(o term) term {
	return term{
		rels:  append(t.rels[:len(t.rels):len(t.rels)], o.rels...),
		atoms: append(t.atoms[:len(t.atoms):len(t.atoms)], o.atoms...),
		edges: append(t.edges[:len(t.edges):len(t.edges)], o.edges...),
	}
}

// normalize returns the alternatives of f; ok is false if there are too many.
func normalize(f formula) (terms []term, ok bool) {
	switch f := f.(type) {
	case nil:
		return []term{{}}, true
	case constant:
		if f {
			return []term{{}}, true
		}
		return nil, true
	case atom:
		return []term{{atoms: []value{f.value}}}, true
	case edge:
		return []term{{edges: []edge{f}}}, true
	case exists:
		terms, ok = normalize(f.body)
		for i := range terms {
			terms[i].rels = append(f.rels[:len(f.rels):len(f.rels)], terms[i].rels...)
		}
		return terms, ok
	case anyOf:
		for _, k := range f {
			kt, ok := normalize(k)
			if !ok || len(terms)+len(kt) > maxTerms {
				return nil, false
			}
			terms = append(terms, kt...)
		}
		return terms, true
	case allOf:
		terms = []term{{}}
		for _, k := range f {
			kt, ok := normalize(k)
			if !ok || len(terms)*len(kt) > maxTerms {
				return nil, false
			}
			next := make([]term, 0, len(terms)*len(kt))
			for _, a := range terms {
				for _, c := range kt {
					next = append(next, a.and(c))
				}
			}
			terms = next
		}
		return terms, true
	}
	return nil, false
}
