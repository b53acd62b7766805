package streams

import (
	"fmt"
	"slices"
	"strings"

	"github.com/millrace-sync/millrace/internal/streams/expr"
)

// path is one way from a request to buckets of one definition: conditions on the
// request, values that it has, lookups from those to others, and which of all these
// are the bucket's parameters. Its programs read accessors first, then the key and
// value of each json_each of the component at hand.
type path struct {
	accessors  []accessor
	filter     []expr.Node
	scalars    []binding
	components []pathComponent
	steps      []step
	out        []int // the variable of each bucket parameter
	vars       int

	def      *definition
	priority int // overrides the stream's if ≥ 0

	// canonical tells instantiations apart: paths of one stream with the same one
	// give the same parameter values for every request.
	canonical string
}

// binding gives a variable the value of a program.
type binding struct {
	v    int
	node expr.Node
}

// pathComponent is one component: the inputs of its json_each, what must hold of
// their elements, and the variables that they give.
type pathComponent struct {
	each   []expr.Node
	filter []expr.Node
	vars   []binding
}

// step reads a lookup: for each combination of the key variables' values it gives
// values of the out variables.
type step struct {
	def      *definition
	key, out []int
}

// pathBuilder numbers a rule's request-side inputs and writes its canonical form.
type pathBuilder struct {
	r      *rule
	p      *path
	origin []string // by variable: where its value comes from, empty while unknown
}

// node translates a node that reads the request only.
func (pb *pathBuilder) node(n expr.Node, each []*relation) expr.Node {
	return replace(n, func(i int) expr.Node {
		in := pb.r.b.inputs[i]
		if in.rel != nil {
			k := 2 * slices.Index(each, in.rel)
			if in.kind == inputEachValue {
				k++
			}
			return inputNode(-1-k, in.kind) // resolved once all accessors are known
		}
		k := slices.Index(pb.p.accessors, in.accessor)
		if k < 0 {
			k = len(pb.p.accessors)
			pb.p.accessors = append(pb.p.accessors, in.accessor)
		}
		return inputNode(k, in.kind)
	})
}

// text is a canonical text of a node that reads the request only.
func (pb *pathBuilder) text(n expr.Node, each []*relation) string {
	return expr.Canonical(replace(n, func(i int) expr.Node {
		in := pb.r.b.inputs[i]
		if in.rel == nil {
			return call("request", text(in.accessor.canonical()))
		}
		name := "key"
		if in.kind == inputEachValue {
			name = "value"
		}
		return call(name, text(fmt.Sprint(slices.Index(each, in.rel))))
	}))
}

// finish shifts the inputs of json_each behind the accessors.
func (p *path) finish() {
	shift := func(n expr.Node) expr.Node {
		return replace(n, func(i int) expr.Node {
			if i < 0 {
				return inputNode(len(p.accessors)-1-i, inputEachValue)
			}
			return inputNode(i, inputRequest)
		})
	}
	for c := range p.components {
		pc := &p.components[c]
		for i := range pc.filter {
			pc.filter[i] = shift(pc.filter[i])
		}
		for i := range pc.vars {
			pc.vars[i].node = shift(pc.vars[i].node)
		}
	}
}

// compile turns a rule into a path. For a rule with an output table it returns the
// table's row program too, with one key for each bucket parameter; heads are the
// parameters' variables of a rule without one.
func (r *rule) compile(c *compiler, heads []int) (*path, *rowProgram) {
	pb := &pathBuilder{r: r, p: &path{vars: r.vars, priority: -1}, origin: make([]string, r.vars)}
	var out *side
	wanted := map[int]bool{}
	for _, v := range heads {
		wanted[v] = true
	}
	if r.out != nil {
		out = r.side(r.out)
		for v := range out.vars {
			wanted[v] = true
		}
	}
	canonical := pb.request()
	var sides []*side
	for _, t := range r.tables {
		sides = append(sides, r.side(t))
	}
	far := r.distance(sides, wanted)
	known := map[int]bool{}
	for v, o := range pb.origin {
		known[v] = o != ""
	}
	for len(sides) > 0 {
		s := choose(sides, known, far)
		sides = slices.DeleteFunc(sides, func(o *side) bool { return o == s })
		canonical = append(canonical, pb.lookup(c, s, known))
	}
	slices.Sort(canonical)
	var rows *rowProgram
	if out != nil {
		order := make([]int, 0, len(out.vars))
		for v := range out.vars {
			order = append(order, v)
		}
		// By where the values come from, so that queries that are reached alike can
		// share buckets.
		slices.SortFunc(order, func(a, b int) int {
			if d := strings.Compare(pb.origin[a], pb.origin[b]); d != 0 {
				return d
			}
			return strings.Compare(out.local.text(out.vars[a]), out.local.text(out.vars[b]))
		})
		rows = out.rows
		for _, v := range order {
			rows.keys = append(rows.keys, out.local.node(out.vars[v]))
		}
		rows.inputs = out.local.inputs
		heads = order
	}
	pb.p.out = heads
	parts := make([]string, len(heads))
	for i, v := range heads {
		parts[i] = pb.origin[v]
	}
	pb.p.canonical = strings.Join(canonical, "\n") + "\n→ " + strings.Join(parts, ", ")
	pb.p.finish()
	return pb.p, rows
}

// request translates what concerns the request alone.
func (pb *pathBuilder) request() []string {
	r, p := pb.r, pb.p
	var canonical []string
	textOf := func(n expr.Node) string { return pb.text(n, nil) }
	vars, filter := r.held(func(e endpoint) bool { return e.table == nil && e.comp == nil }, textOf)
	for _, a := range r.term.atoms {
		if a.dom.table() == nil {
			if comp := r.component(a.node); comp != nil {
				comp.filter = append(comp.filter, a.node)
			} else {
				filter = append(filter, a.node)
			}
		}
	}
	for _, n := range filter {
		p.filter = append(p.filter, pb.node(n, nil))
		canonical = append(canonical, "if "+textOf(n))
	}
	for v := range r.vars {
		if n, ok := vars[v]; ok {
			p.scalars = append(p.scalars, binding{v, pb.node(n, nil)})
			pb.origin[v] = textOf(n)
		}
	}
	for _, comp := range r.components {
		slices.SortStableFunc(comp.each, func(a, b *relation) int { return strings.Compare(textOf(a.input), textOf(b.input)) })
		var pc pathComponent
		var head strings.Builder
		head.WriteString("each")
		for _, rel := range comp.each {
			pc.each = append(pc.each, pb.node(rel.input, nil))
			head.WriteString(" " + textOf(rel.input))
		}
		inside := func(n expr.Node) string { return pb.text(n, comp.each) }
		vars, filter := r.held(func(e endpoint) bool { return e.comp == comp }, inside)
		filter = append(filter, comp.filter...)
		texts := make([]string, len(filter))
		for i, n := range filter {
			pc.filter = append(pc.filter, pb.node(n, comp.each))
			texts[i] = inside(n)
		}
		slices.Sort(texts)
		for _, t := range texts {
			head.WriteString(" if " + t)
		}
		name := head.String()
		for v := range r.vars {
			if n, ok := vars[v]; ok {
				pc.vars = append(pc.vars, binding{v, pb.node(n, comp.each)})
				if pb.origin[v] == "" {
					pb.origin[v] = name + "." + inside(n)
				} else {
					canonical = append(canonical, pb.origin[v]+" = "+name+"."+inside(n))
				}
			}
		}
		canonical = append(canonical, name)
		p.components = append(p.components, pc)
	}
	return canonical
}

// lookup adds the step that reads s, of which the variables in known are the key.
func (pb *pathBuilder) lookup(c *compiler, s *side, known map[int]bool) string {
	key, keyNodes := s.keyed(func(v int) bool { return known[v] })
	out, outNodes := s.keyed(func(v int) bool { return !known[v] })
	rows := s.rows
	rows.keys, rows.outs, rows.inputs = keyNodes, outNodes, s.local.inputs
	def := c.define(LookupIndex, []*rowProgram{rows}, fmt.Sprintf("%s.%s", pb.r.b.stream, s.table.pattern.Name))
	pb.p.steps = append(pb.p.steps, step{def: def, key: key, out: out})
	origins := make([]string, len(key))
	for i, v := range key {
		origins[i] = pb.origin[v]
	}
	name := fmt.Sprintf("lookup %s(%s)", def.Hash, strings.Join(origins, ", "))
	for i, v := range out {
		pb.origin[v] = fmt.Sprintf("%s.%d", name, i)
		known[v] = true
	}
	return name
}
