package streams

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/streams/expr"
	"github.com/millrace-sync/millrace/internal/streams/sql"
)

// Bounds on what one query may become; each is reported where it is exceeded.
const (
	maxTerms       = 100 // of the disjunctive normal form
	maxDefinitions = 100 // buckets of one stream
	maxRelations   = 100 // occurrences of tables, CTEs expanded
)

// relation is one occurrence of a table, or of json_each, in a query.
type relation struct {
	id    int
	place place
	// A table: its pattern, and what it is called in the query.
	pattern TablePattern
	alias   string // empty without one
	// json_each: its input, and the table that the input comes from, nil for a
	// request or a constant.
	each   bool
	input  expr.Node
	parent *relation
}

// display is what messages call r.
func (r *relation) display() string {
	switch {
	case r.alias != "":
		return r.alias
	case r.each:
		return "json_each"
	}
	return r.pattern.Name
}

// inputKind says what an input of an expression is read from.
type inputKind uint8

const (
	inputColumn inputKind = iota
	inputTableName
	inputTableSuffix
	inputSchema
	inputEachKey
	inputEachValue
	inputRequest
)

// input is one thing that expressions read: of a row, of an element of json_each,
// or of a request. It is comparable.
type input struct {
	kind     inputKind
	rel      *relation
	column   string
	accessor accessor
}

// domain says what a value depends on: rows of tables, the request, or nothing.
type domain struct {
	tables  []*relation
	request bool
}

func (d domain) union(o domain) domain {
	d.request = d.request || o.request
	for _, t := range o.tables {
		if !slices.Contains(d.tables, t) {
			d.tables = append(slices.Clip(d.tables), t)
		}
	}
	return d
}

// pure reports whether the value depends on at most one row, or on the request alone.
func (d domain) pure() bool {
	return len(d.tables) == 0 || len(d.tables) == 1 && !d.request
}

func (d domain) constant() bool { return len(d.tables) == 0 && !d.request }

// table returns the one table of a pure domain, nil if it is the request or none.
func (d domain) table() *relation {
	if len(d.tables) == 1 {
		return d.tables[0]
	}
	return nil
}

func (d domain) describe() string {
	var parts []string
	for _, t := range d.tables {
		parts = append(parts, fmt.Sprintf("rows of %s", t.display()))
	}
	if d.request {
		parts = append(parts, "the request's parameters")
	}
	return strings.Join(parts, " and ")
}

// value is an expression with names resolved.
type value struct {
	node  expr.Node
	dom   domain
	place place
}

// dialect is the set of parameter functions that a query may use.
type dialect uint8

const (
	streamDialect    dialect = iota // auth, connection, subscription
	alphaDialect                    // edition 2 streams: the same and request
	parameterDialect                // legacy parameter queries: request, token_parameters, user_parameters
	dataDialect                     // legacy data queries: bucket
	eventDialect                    // event payloads: rows only
)

// builder resolves one stream's or bucket definition's queries. Input.Index of the
// nodes it makes is a position in inputs, whatever query they belong to.
type builder struct {
	doc     *document
	stream  string
	options expr.Options
	dialect dialect
	edition int

	inputs    []input
	places    []place // of each input's first mention
	index     map[input]int
	relations int

	global  map[string]*cte
	local   map[string]*cte
	opening []*cte            // CTEs being expanded, innermost last
	refs    *[]tableRef       // every table that is named, for CheckTables
	byRel   map[*relation]int // position in refs
	params  map[string]bool   // of a legacy bucket definition
}

// cte is a named query of a with section.
type cte struct {
	name   *yaml.Node
	text   *yaml.Node
	query  *sql.Select // nil if it does not parse
	used   bool
	global bool
}

// tableRef is a mention of a table, kept to check it against the database.
type tableRef struct {
	stream  string
	pattern TablePattern
	place   place
	columns []columnRef
	// output says that rows of the table are synced, rather than only looked up.
	output bool
}

type columnRef struct {
	name  string
	place place
}

func (b *builder) report(s Severity, p place, message, hint string) {
	b.doc.reportAt(s, b.stream, p, message, hint)
}

func (b *builder) errorAt(p place, message, hint string) { b.report(Error, p, message, hint) }

func (b *builder) warnAt(p place, message, hint string) { b.report(Warning, p, message, hint) }

// parse reads a query; nil after reporting what is wrong with it.
func (b *builder) parse(text *yaml.Node) *sql.Select {
	q, errs := sql.Parse(text.Value)
	for _, e := range errs {
		b.errorAt(place{text, e.Span}, e.Message, e.Hint)
	}
	return q
}

// input returns the node that reads in, which p mentions.
func (b *builder) input(in input, p place) expr.Node {
	i, ok := b.index[in]
	if !ok {
		i = len(b.inputs)
		b.inputs = append(b.inputs, in)
		b.places = append(b.places, p)
		b.index[in] = i
	}
	return inputNode(i, in.kind)
}

// inputNode reads input i. Columns of tables and of json_each are columns to SQLite;
// what belongs to a request stands for a bound parameter.
func inputNode(i int, kind inputKind) expr.Node {
	return expr.Input{Index: i, Column: kind == inputColumn || kind == inputEachKey || kind == inputEachValue}
}

// newRelation counts an occurrence; it returns nil beyond the bound.
func (b *builder) newRelation(r relation) *relation {
	b.relations++
	if b.relations > maxRelations*10 {
		return nil
	}
	r.id = b.relations
	return &r
}

// column returns the value of a column of r.
func (b *builder) column(r *relation, name string, p place) value {
	if r.each {
		kind := inputEachValue
		if name == "key" {
			kind = inputEachKey
		}
		v := value{node: b.input(input{kind: kind, rel: r}, p), place: p}
		if r.parent != nil {
			v.dom.tables = []*relation{r.parent}
		} else {
			v.dom.request = true
		}
		return v
	}
	if i, ok := b.byRel[r]; ok {
		(*b.refs)[i].columns = append((*b.refs)[i].columns, columnRef{name, p})
	}
	return value{node: b.input(input{kind: inputColumn, rel: r, column: name}, p), dom: domain{tables: []*relation{r}}, place: p}
}

// reads calls visit for every input that a node reads.
func (b *builder) reads(n expr.Node, visit func(input)) {
	walk(n, func(i int) { visit(b.inputs[i]) })
}

// walk calls visit for every Input.Index in n.
func walk(n expr.Node, visit func(int)) {
	switch n := n.(type) {
	case expr.Input:
		visit(n.Index)
	case expr.Call:
		for _, a := range n.Args {
			walk(a, visit)
		}
	case expr.Case:
		walk(n.Base, visit)
		for _, w := range n.Whens {
			walk(w[0], visit)
			walk(w[1], visit)
		}
		walk(n.Else, visit)
	}
}

// replace returns n with every Input replaced by what with gives for its index.
func replace(n expr.Node, with func(int) expr.Node) expr.Node {
	switch n := n.(type) {
	case expr.Input:
		return with(n.Index)
	case expr.Call:
		args := make([]expr.Node, len(n.Args))
		for i, a := range n.Args {
			args[i] = replace(a, with)
		}
		return expr.Call{Op: n.Op, Args: args}
	case expr.Case:
		out := expr.Case{Whens: make([][2]expr.Node, len(n.Whens))}
		if n.Base != nil {
			out.Base = replace(n.Base, with)
		}
		for i, w := range n.Whens {
			out.Whens[i] = [2]expr.Node{replace(w[0], with), replace(w[1], with)}
		}
		if n.Else != nil {
			out.Else = replace(n.Else, with)
		}
		return out
	}
	return n
}

func call(op string, args ...expr.Node) expr.Node { return expr.Call{Op: op, Args: args} }

func text(s string) expr.Node { return expr.Const{Value: source.String(s)} }
