package streams

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/millrace-sync/millrace/internal/streams/expr"
	"github.com/millrace-sync/millrace/internal/streams/sql"
)

// compiler makes one Plan of one config.
type compiler struct {
	doc     *document
	config  *config
	defs    map[string]*definition // by hash
	streams []*streamPlan
	refs    []tableRef
	global  map[string]*cte
}

// streamPlan is one stream's ways to its buckets.
type streamPlan struct {
	Stream
	paths []*path
}

// compiled is what a Plan holds besides its description.
type compiled struct {
	doc     *document
	options expr.Options
	defs    []*definition
	streams []*streamProgram
	refs    []tableRef
}

// Compile reads a sync config. The plan is nil if any Diagnostic is an Error. All
// mistakes are reported in one run, ordered by their place.
func Compile(src Source) (*Plan, []Diagnostic) {
	doc := newDocument(src)
	config, ok := doc.readConfig()
	if !ok {
		return nil, doc.diags
	}
	c := &compiler{doc: doc, config: config, defs: map[string]*definition{}, global: map[string]*cte{}}
	c.compile()
	diags := doc.sorted()
	if slices.ContainsFunc(diags, func(d Diagnostic) bool { return d.Severity == Error }) {
		return nil, diags
	}
	plan, err := c.plan()
	if err != nil {
		doc.report(Error, "", 0, 0, err.Error(), "")
		return nil, doc.sorted()
	}
	return plan, diags
}

// sorted returns the diagnostics by place, each once: a CTE that is used twice
// would report its mistakes twice.
func (d *document) sorted() []Diagnostic {
	slices.SortStableFunc(d.diags, func(a, b Diagnostic) int {
		return cmp.Or(cmp.Compare(a.Start.Line, b.Start.Line), cmp.Compare(a.Start.Column, b.Start.Column), cmp.Compare(b.Severity, a.Severity), strings.Compare(a.Message, b.Message))
	})
	return slices.CompactFunc(d.diags, func(a, b Diagnostic) bool {
		return a.Start == b.Start && a.Message == b.Message
	})
}

func (c *compiler) compile() {
	c.ctes(c.config.with, "", true, c.global)
	names := map[string]bool{}
	for i := range c.config.streams {
		s := &c.config.streams[i]
		names[s.name.Value] = true
		c.stream(s)
	}
	for i := range c.config.buckets {
		b := &c.config.buckets[i]
		if names[b.name.Value] {
			c.doc.reportNode(Error, b.name, b.name.Value, fmt.Sprintf("there is a stream called %s already", b.name.Value), "give the bucket definition another name")
		}
		c.bucket(b)
	}
	for i := range c.config.events {
		c.event(&c.config.events[i])
	}
	for _, t := range slices.SortedFunc(maps.Values(c.global), func(a, b *cte) int { return strings.Compare(a.name.Value, b.name.Value) }) {
		if !t.used {
			c.unusedCTE(t, c.builder("", streamDialect))
		}
	}
}

func (c *compiler) builder(stream string, d dialect) *builder {
	return &builder{
		doc: c.doc, stream: stream, options: c.config.options, dialect: d, edition: c.config.edition,
		index: map[input]int{}, global: c.global, refs: &c.refs, byRel: map[*relation]int{},
	}
}

// ctes parses the queries of a with section.
func (c *compiler) ctes(with []namedQuery, stream string, global bool, into map[string]*cte) {
	b := c.builder(stream, streamDialect)
	for _, w := range with {
		if !global && c.global[w.name.Value] != nil {
			c.doc.reportNode(Warning, w.name, stream, fmt.Sprintf("%s hides the query of the same name that is declared for all streams", w.name.Value), "give it another name")
		}
		into[w.name.Value] = &cte{name: w.name, text: w.query, query: b.parse(w.query), global: global}
	}
}

// unusedCTE warns about a CTE that nothing uses, and reports its mistakes all the same.
func (c *compiler) unusedCTE(t *cte, b *builder) {
	c.doc.reportNode(Warning, t.name, b.stream, fmt.Sprintf("the query %s is not used", t.name.Value), "use it as x IN "+t.name.Value+", or remove it")
	refs := len(c.refs)
	b.expand(t, place{node: t.name})
	c.refs = c.refs[:refs]
}

// define returns the definition of the row programs; equal ones are one.
func (c *compiler) define(kind DefinitionKind, rows []*rowProgram, label string) *definition {
	canonical := canonicalForm(kind, rows, c.config.form, c.config.options)
	h := hash(canonical)
	if d := c.defs[h]; d != nil {
		return d
	}
	d := &definition{rows: rows, Definition: Definition{Kind: kind, Hash: h, Canonical: canonical, Label: label}}
	for _, r := range rows {
		if !slices.Contains(d.Tables, r.pattern) {
			d.Tables = append(d.Tables, r.pattern)
		}
	}
	c.defs[h] = d
	return d
}

// instantiation is the rows of one stream that one way from the request leads to:
// they share buckets.
type instantiation struct {
	path *path
	rows []*rowProgram
}

// stream compiles one sync stream.
func (c *compiler) stream(s *streamConfig) {
	name := s.name.Value
	d := streamDialect
	if c.config.edition == 2 {
		d = alphaDialect
		c.doc.reportNode(Warning, s.name, name, "sync streams of edition 2 were an alpha version", "set edition: 3 when your clients can download their data anew")
	}
	b := c.builder(name, d)
	b.local = map[string]*cte{}
	c.ctes(s.with, name, false, b.local)
	var groups []*instantiation
	for _, text := range s.queries {
		groups = c.streamQuery(b, s, text, groups)
	}
	for _, w := range s.with {
		if t := b.local[w.name.Value]; !t.used {
			c.unusedCTE(t, b)
		}
	}
	p := &streamPlan{Stream: Stream{Name: name, AutoSubscribe: s.autoSubscribe, Priority: s.priority}}
	numbers := map[string]bool{}
	for _, g := range groups {
		def := c.define(BucketSource, mergeRows(g.rows), fmt.Sprintf("%s|%d", name, len(numbers)))
		numbers[def.Hash] = true
		g.path.def = def
		p.paths = append(p.paths, g.path)
	}
	if len(numbers) > maxDefinitions {
		c.doc.reportNode(Error, s.name, name, fmt.Sprintf("the stream has %d kinds of bucket, at most %d are possible", len(numbers), maxDefinitions), "split it into several streams")
	}
	c.streams = append(c.streams, p)
}

// streamQuery compiles one query of a stream into groups.
func (c *compiler) streamQuery(b *builder, s *streamConfig, text *yaml.Node, groups []*instantiation) []*instantiation {
	q := b.parse(text)
	if q == nil {
		return groups
	}
	f, ok := b.flatten(q, text, nil)
	if f.scope == nil || !ok && len(f.scope.items) < len(q.From) {
		return groups
	}
	columns, cok := b.columns(q, f.scope, true)
	if !ok || !cok {
		return groups
	}
	out, ok := b.outputTable(q, f, columns)
	if !ok {
		return groups
	}
	output, ok := b.output(q, f.scope, out, columns)
	if !ok {
		return groups
	}
	terms, ok := normalize(f.exists)
	if !ok {
		b.errorAt(place{text, q.Span}, fmt.Sprintf("the condition has more than %d alternatives when its ORs are multiplied out", maxTerms), "split it into several queries, or simplify it")
		return groups
	}
	if len(terms) == 0 {
		b.warnAt(place{text, q.Span}, "the condition is never true: the query selects nothing", "")
	}
	for _, t := range terms {
		if !s.dangerous {
			b.warnUntrusted(t, place{text, q.Span})
		}
		r, _ := b.newRule(t, out, nil)
		path, rows := r.compile(c, nil)
		rows.output = output(rows)
		groups = addInstantiation(groups, path, rows)
	}
	return groups
}

func addInstantiation(groups []*instantiation, p *path, rows *rowProgram) []*instantiation {
	for _, g := range groups {
		if g.path.canonical == p.canonical {
			g.rows = append(g.rows, rows)
			return groups
		}
	}
	return append(groups, &instantiation{path: p, rows: []*rowProgram{rows}})
}

// mergeRows joins programs that differ in their filters only: those are
// alternatives.
func mergeRows(rows []*rowProgram) []*rowProgram {
	var out []*rowProgram
	seen := map[string]int{}
	for _, r := range rows {
		bare := *r
		bare.filter = nil
		key := bare.canonical()
		i, ok := seen[key]
		if !ok {
			seen[key] = len(out)
			merged := *r
			out = append(out, &merged)
			continue
		}
		m := out[i]
		if len(m.filter) == 0 || len(r.filter) == 0 {
			m.filter = nil
			continue
		}
		// The other program's inputs may be numbered otherwise.
		filter := make([]expr.Node, len(r.filter))
		for k, n := range r.filter {
			filter[k] = replace(n, func(i int) expr.Node { return inputNode(m.inputOf(r.inputs[i]), r.inputs[i].kind) })
		}
		alternatives := []expr.Node{conjunction(m.filter), conjunction(filter)}
		slices.SortFunc(alternatives, func(a, b expr.Node) int { return strings.Compare(m.text(a), m.text(b)) })
		if m.text(alternatives[0]) == m.text(alternatives[1]) {
			continue
		}
		m.filter = []expr.Node{call("OR", alternatives...)}
	}
	return out
}

// inputOf returns the position of an input, which it adds if need be.
func (r *rowProgram) inputOf(in rowInput) int {
	i := slices.IndexFunc(r.inputs, func(o rowInput) bool {
		return o.kind == in.kind && o.name == in.name && o.index == in.index
	})
	if i < 0 {
		i = len(r.inputs)
		r.inputs = append(r.inputs[:i:i], in)
	}
	return i
}

func conjunction(nodes []expr.Node) expr.Node {
	if len(nodes) == 1 {
		return nodes[0]
	}
	return call("AND", nodes...)
}

// outputTable returns the one table whose rows a query selects.
func (b *builder) outputTable(q *sql.Select, f flat, columns []column) (*relation, bool) {
	if len(q.From) == 0 {
		b.errorAt(f.scope.place(q.Span), "the query has no FROM", "name the table whose rows are synced")
		return nil, false
	}
	var out *relation
	for _, c := range columns {
		v := c.value
		v.place = c.place
		if v.dom.request {
			b.errorAt(c.place, "a column cannot depend on the request's parameters: rows are the same for everyone who shares a bucket", "use the parameter in WHERE")
			return nil, false
		}
		each := false
		if c.star == nil {
			b.reads(v.node, func(in input) { each = each || in.rel.each })
		}
		if each {
			b.errorAt(c.place, "the elements of json_each cannot be synced", "select columns of the table, and use json_each in a condition")
			return nil, false
		}
		for _, t := range v.dom.tables {
			if out != nil && out != t {
				b.errorAt(c.place, fmt.Sprintf("the columns come from several tables, %s and %s; a row comes from one", out.display(), t.display()), fmt.Sprintf("select from %s only, and add a second query under queries: for %s", out.display(), t.display()))
				return nil, false
			}
			out = t
		}
	}
	if out == nil {
		var tables []*relation
		for _, r := range f.rels {
			if !r.each {
				tables = append(tables, r)
			}
		}
		if len(tables) != 1 {
			b.errorAt(f.scope.place(q.Span), "it is not clear which table's rows are synced", "select at least one of its columns")
			return nil, false
		}
		out = tables[0]
	}
	return out, true
}

// output prepares the select list of a query; the result translates it for a row program.
func (b *builder) output(q *sql.Select, s *scope, out *relation, columns []column) (func(*rowProgram) *rowOutput, bool) {
	legacy := b.dialect == dataDialect
	hasID, star := false, false
	seen := map[string]bool{}
	for _, c := range columns {
		if c.star != nil {
			if len(seen) > 0 && !legacy {
				b.warnAt(c.place, "* after named columns takes their values back where names are equal", "write * first")
			}
			star = true
			continue
		}
		seen[c.name] = true
		hasID = hasID || c.name == "id"
	}
	if !hasID && !star {
		if legacy {
			b.errorAt(s.place(q.Span), "the query selects no id", "select the row's unique text as id, as in SELECT uuid AS id, …")
			return nil, false
		}
		b.warnAt(s.place(q.Span), "the query selects no id: clients tell rows apart by it", "select the row's unique text as id, as in SELECT uuid AS id, …")
	}
	tables := 0
	for _, it := range s.items {
		if it.rel == nil || !it.rel.each {
			tables++
		}
	}
	if out.alias != "" && tables > 1 && !legacy {
		b.warnAt(out.place, fmt.Sprintf("the alias renames the table on clients: its rows are synced as %s", out.alias), fmt.Sprintf("write the table's own name %s instead of an alias", out.pattern.Name))
	}
	if i, ok := b.byRel[out]; ok {
		(*b.refs)[i].output = true
	}
	return func(rows *rowProgram) *rowOutput {
		o := &rowOutput{objectType: out.alias, legacy: legacy}
		for _, c := range columns {
			if c.star != nil {
				o.columns = append(o.columns, outputColumn{})
				continue
			}
			node := replace(c.value.node, func(i int) expr.Node {
				in := b.inputs[i]
				return inputNode(rows.inputOf(rowInput{kind: in.kind, name: in.column, place: b.places[i]}), in.kind)
			})
			o.columns = append(o.columns, outputColumn{name: c.name, node: node})
		}
		return o
	}, true
}

// warnUntrusted warns about an alternative that only what the client sends restricts.
func (b *builder) warnUntrusted(t term, p place, heads ...value) {
	trusted, untrusted := false, false
	visit := func(n expr.Node) {
		b.reads(n, func(in input) {
			if in.kind == inputRequest {
				trusted = trusted || in.accessor.origin.trusted()
				untrusted = untrusted || !in.accessor.origin.trusted()
			}
		})
	}
	for _, a := range t.atoms {
		visit(a.node)
	}
	for _, e := range t.edges {
		visit(e.l.node)
		visit(e.r.node)
	}
	for _, r := range t.rels {
		if r.each {
			visit(r.input)
		}
	}
	for _, h := range heads {
		visit(h.node)
	}
	if untrusted && !trusted {
		trusted := "auth.user_id() or auth.parameter('…')"
		if b.dialect == parameterDialect {
			trusted = "request.user_id() or request.jwt()"
		}
		b.warnAt(p, "potentially dangerous: only parameters that the client chooses decide who gets these rows", fmt.Sprintf("add a condition on %s, or set accept_potentially_dangerous_queries: true if everyone may read them", trusted))
	}
}

// event checks the payload queries of an event definition; nothing evaluates them.
func (c *compiler) event(e *eventConfig) {
	b := c.builder(e.name.Value, eventDialect)
	refs := len(c.refs)
	for _, text := range e.payloads {
		if q := b.parse(text); q != nil {
			if f, ok := b.flatten(q, text, nil); ok {
				b.columns(q, f.scope, true)
			}
		}
	}
	c.refs = c.refs[:refs]
	c.doc.reportNode(Warning, e.name, e.name.Value, "event definitions have no effect", "")
}
