package streams

import (
	"cmp"
	"slices"
	"strings"

	"github.com/millrace-sync/millrace/internal/streams/expr"
)

// rule is one term as a join: every relation of it holds tuples over variables,
// where a variable stands for values that must be equal. The output table's
// variables are the bucket's parameters; the request's are known when it comes;
// every other table becomes a lookup from variables that are known by then to
// variables that are wanted.
type rule struct {
	b    *builder
	term term
	out  *relation // the table whose rows are synced; nil in parameter queries

	ends  []endpoint // every side of every equality, once
	class []int      // position in ends → variable
	vars  int

	components []*component
	tables     []*relation // tables of the term, out excepted
}

// endpoint is one side of an equality.
type endpoint struct {
	node  expr.Node
	text  string
	table *relation  // nil for the request
	comp  *component // of the request; nil for a value that it has once
}

// component is a set of json_each over the request that conditions connect: it
// holds one tuple for each combination of elements that fulfils them.
type component struct {
	each   []*relation
	filter []expr.Node
}

// newRule prepares a term. heads are further values that get a variable each: the
// bucket parameters that a legacy parameter query selects.
func (b *builder) newRule(t term, out *relation, heads []value) (*rule, []int) {
	r := &rule{b: b, term: t, out: out}
	for _, rel := range t.rels {
		if !rel.each && rel != out {
			r.tables = append(r.tables, rel)
		}
	}
	r.components = r.connect(heads)
	parent := []int{}
	find := func(i int) int {
		for parent[i] != i {
			i = parent[i]
		}
		return i
	}
	index := map[string]int{}
	add := func(v value) int {
		e := r.endpoint(v)
		id := e.text
		if e.table != nil {
			id = "t" + e.text // request and row inputs have distinct indexes, constants do not
		}
		if i, ok := index[id]; ok {
			return i
		}
		i := len(r.ends)
		index[id] = i
		r.ends = append(r.ends, e)
		parent = append(parent, i)
		return i
	}
	for _, e := range t.edges {
		parent[find(add(e.l))] = find(add(e.r))
	}
	headEnds := make([]int, len(heads))
	for i, h := range heads {
		headEnds[i] = add(h)
	}
	// Variables are numbered as their first endpoint comes.
	number := map[int]int{}
	r.class = make([]int, len(r.ends))
	for i := range r.ends {
		root := find(i)
		n, ok := number[root]
		if !ok {
			n = len(number)
			number[root] = n
		}
		r.class[i] = n
	}
	r.vars = len(number)
	headVars := make([]int, len(heads))
	for i, e := range headEnds {
		headVars[i] = r.class[e]
	}
	return r, headVars
}

func (r *rule) endpoint(v value) endpoint {
	e := endpoint{node: v.node, text: expr.Canonical(v.node), table: v.dom.table()}
	if e.table == nil {
		e.comp = r.component(v.node)
	}
	return e
}

// eaches returns the json_each over the request that n reads.
func (r *rule) eaches(n expr.Node) []*relation {
	var out []*relation
	r.b.reads(n, func(in input) {
		if in.rel != nil && in.rel.each && in.rel.parent == nil && !slices.Contains(out, in.rel) {
			out = append(out, in.rel)
		}
	})
	return out
}

func (r *rule) component(n expr.Node) *component {
	if each := r.eaches(n); len(each) > 0 {
		for _, c := range r.components {
			if slices.Contains(c.each, each[0]) {
				return c
			}
		}
	}
	return nil
}

// connect groups the term's json_each over the request by the conditions that
// read more than one of them.
func (r *rule) connect(heads []value) []*component {
	var comps []*component
	for _, rel := range r.term.rels {
		if rel.each && rel.parent == nil {
			comps = append(comps, &component{each: []*relation{rel}})
		}
	}
	join := func(n expr.Node) {
		var first *component
		for _, rel := range r.eaches(n) {
			i := slices.IndexFunc(comps, func(c *component) bool { return slices.Contains(c.each, rel) })
			switch {
			case i < 0:
			case first == nil:
				first = comps[i]
			case comps[i] != first:
				first.each = append(first.each, comps[i].each...)
				comps = slices.Delete(comps, i, i+1)
			}
		}
	}
	for _, a := range r.term.atoms {
		join(a.node)
	}
	for _, e := range r.term.edges {
		join(e.l.node)
		join(e.r.node)
	}
	for _, h := range heads {
		join(h.node)
	}
	return comps
}

// of returns the nodes that hold variable v in one domain, which the caller picks.
func (r *rule) of(v int, in func(endpoint) bool) []expr.Node {
	var out []endpoint
	for i, e := range r.ends {
		if r.class[i] == v && in(e) {
			out = append(out, e)
		}
	}
	nodes := make([]expr.Node, len(out))
	for i, e := range out {
		nodes[i] = e.node
	}
	return nodes
}

// held returns for every variable that a domain holds one node, and conditions
// that further nodes for it are equal.
func (r *rule) held(in func(endpoint) bool, text func(expr.Node) string) (vars map[int]expr.Node, filter []expr.Node) {
	vars = map[int]expr.Node{}
	for v := range r.vars {
		nodes := r.of(v, in)
		if len(nodes) == 0 {
			continue
		}
		slices.SortStableFunc(nodes, func(a, b expr.Node) int { return strings.Compare(text(a), text(b)) })
		vars[v] = nodes[0]
		for _, n := range nodes[1:] {
			filter = append(filter, call("=", nodes[0], n))
		}
	}
	return vars, filter
}

// side is what one table contributes to a rule: its row program without keys, and
// the nodes that hold variables.
type side struct {
	table *relation
	local *localizer
	rows  *rowProgram
	vars  map[int]expr.Node
	text  string // of all conditions, to order tables by
}

// side collects what the term says about the rows of table.
func (r *rule) side(table *relation) *side {
	var each []*relation
	for _, rel := range r.term.rels {
		if rel.each && rel.parent == table {
			each = append(each, rel)
		}
	}
	local := newLocalizer(r.b, table, each)
	s := &side{table: table, local: local, rows: &rowProgram{pattern: table.pattern, place: table.place}}
	vars, filter := r.held(func(e endpoint) bool { return e.table == table }, local.text)
	for _, a := range r.term.atoms {
		if a.dom.table() == table {
			filter = append(filter, a.node)
		}
	}
	s.vars = vars
	for _, rel := range local.each {
		s.rows.each = append(s.rows.each, local.node(rel.input))
	}
	filter = local.sorted(filter)
	for _, n := range filter {
		s.rows.filter = append(s.rows.filter, local.node(n))
	}
	var b strings.Builder
	b.WriteString(table.pattern.Schema + "." + table.pattern.Name)
	for _, n := range filter {
		b.WriteString(" " + local.text(n))
	}
	for _, n := range local.sorted(values(vars)) {
		b.WriteString(" =" + local.text(n))
	}
	s.text = b.String()
	return s
}

// keyed returns the variables of vars that pass keep, ordered by their text on
// this side, and their nodes for its row program.
func (s *side) keyed(keep func(v int) bool) (order []int, nodes []expr.Node) {
	for v := range s.vars {
		if keep(v) {
			order = append(order, v)
		}
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(strings.Compare(s.local.text(s.vars[a]), s.local.text(s.vars[b])), cmp.Compare(a, b))
	})
	for _, v := range order {
		nodes = append(nodes, s.local.node(s.vars[v]))
	}
	return order, nodes
}

func values(m map[int]expr.Node) []expr.Node {
	out := make([]expr.Node, 0, len(m))
	for _, n := range m {
		out = append(out, n)
	}
	return out
}

// distance returns how many equalities each table is away from the output.
func (r *rule) distance(sides []*side, wanted map[int]bool) map[*side]int {
	far := map[*side]int{}
	reached := map[int]bool{}
	for v := range wanted {
		reached[v] = true
	}
	for d := 1; ; d++ {
		var next []*side
		for _, s := range sides {
			if _, done := far[s]; done {
				continue
			}
			for v := range s.vars {
				if reached[v] {
					next = append(next, s)
					break
				}
			}
		}
		if len(next) == 0 {
			return far
		}
		for _, s := range next {
			far[s] = d
			for v := range s.vars {
				reached[v] = true
			}
		}
	}
}

// choose picks the table to look up next: one whose variables are all known (it
// only narrows), else the one with the most known, else, when nothing leads from
// the request to any, the one furthest from the output.
func choose(sides []*side, known map[int]bool, far map[*side]int) *side {
	type rank struct{ full, known, far int }
	rate := func(s *side) rank {
		n := 0
		for v := range s.vars {
			if known[v] {
				n++
			}
		}
		full := 0
		if n == len(s.vars) && n > 0 {
			full = 1
		}
		return rank{full, n, far[s]}
	}
	return slices.MaxFunc(sides, func(a, b *side) int {
		x, y := rate(a), rate(b)
		return cmp.Or(cmp.Compare(x.full, y.full), cmp.Compare(x.known, y.known), cmp.Compare(x.far, y.far), strings.Compare(b.text, a.text))
	})
}
