package streams

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/streams/expr"
)

// rowProgram is what one table's rows contribute to one definition: for every
// combination of elements of each that fulfils filter, an entry under keys, which
// is the row as output says (bucket sources) or the values of outs (lookups).
// Nodes read inputs by position.
type rowProgram struct {
	pattern TablePattern
	place   place
	inputs  []rowInput
	each    []expr.Node
	filter  []expr.Node
	keys    []expr.Node
	outs    []expr.Node
	output  *rowOutput // nil for lookups
}

// rowInput is one input of a row program: a column, something about the table, or
// the key or value of the element of each[index].
type rowInput struct {
	kind  inputKind
	name  string
	index int
	place place
}

// rowOutput is what a synced row consists of.
type rowOutput struct {
	objectType string // empty: the name of the table
	columns    []outputColumn
	// legacy merges columns of the same name as bucket definitions do.
	legacy bool
}

// outputColumn is one item of a select list; a nil node stands for all columns.
type outputColumn struct {
	name string
	node expr.Node
}

// localizer renumbers the inputs of one table's expressions.
type localizer struct {
	b      *builder
	table  *relation
	each   []*relation
	inputs []rowInput
	index  map[int]int // builder's input → ours
}

func newLocalizer(b *builder, table *relation, each []*relation) *localizer {
	l := &localizer{b: b, table: table, each: each, index: map[int]int{}}
	slices.SortStableFunc(l.each, func(a, b *relation) int { return strings.Compare(l.text(a.input), l.text(b.input)) })
	return l
}

func (l *localizer) describe(in input) rowInput {
	out := rowInput{kind: in.kind, name: in.column}
	if in.kind == inputEachKey || in.kind == inputEachValue {
		out.index = slices.Index(l.each, in.rel)
	}
	return out
}

// node translates a node of the builder to one of the row program.
func (l *localizer) node(n expr.Node) expr.Node {
	return replace(n, func(i int) expr.Node {
		k, ok := l.index[i]
		if !ok {
			k = len(l.inputs)
			l.index[i] = k
			in := l.describe(l.b.inputs[i])
			in.place = l.b.places[i]
			l.inputs = append(l.inputs, in)
		}
		return inputNode(k, l.inputs[k].kind)
	})
}

// text is a node's canonical text: names instead of positions.
func (l *localizer) text(n expr.Node) string {
	return expr.Canonical(replace(n, func(i int) expr.Node { return l.describe(l.b.inputs[i]).canonical() }))
}

// sorted returns nodes ordered by text, each once.
func (l *localizer) sorted(nodes []expr.Node) []expr.Node {
	texts := make(map[string]expr.Node, len(nodes))
	order := make([]string, 0, len(nodes))
	for _, n := range nodes {
		t := l.text(n)
		if _, ok := texts[t]; !ok {
			texts[t] = n
			order = append(order, t)
		}
	}
	slices.Sort(order)
	out := make([]expr.Node, len(order))
	for i, t := range order {
		out[i] = texts[t]
	}
	return out
}

// canonical is the node that stands for an input in canonical forms.
func (in rowInput) canonical() expr.Node {
	switch in.kind {
	case inputColumn:
		return call("column", text(in.name))
	case inputTableName:
		return call("table_name")
	case inputTableSuffix:
		return call("table_suffix")
	case inputSchema:
		return call("schema")
	case inputEachKey:
		return call("key", text(strconv.Itoa(in.index)))
	}
	return call("value", text(strconv.Itoa(in.index)))
}

// text is the canonical form of one of the program's nodes.
func (r *rowProgram) text(n expr.Node) string {
	return expr.Canonical(replace(n, func(i int) expr.Node { return r.inputs[i].canonical() }))
}

// canonical is the program's serialised form. It is what identifies a definition
// across versions: whoever changes it makes every client download everything
// again, so it only ever grows lines that are absent where they do not apply.
func (r *rowProgram) canonical() string {
	var b strings.Builder
	fmt.Fprintf(&b, "from %s.%s\n", strconv.Quote(r.pattern.Schema), strconv.Quote(r.pattern.Name))
	for _, part := range []struct {
		name  string
		nodes []expr.Node
	}{{"each", r.each}, {"where", r.filter}, {"key", r.keys}, {"value", r.outs}} {
		for _, n := range part.nodes {
			fmt.Fprintf(&b, "  %s %s\n", part.name, r.text(n))
		}
	}
	if o := r.output; o != nil {
		b.WriteString(r.outputText())
	}
	return b.String()
}

func (r *rowProgram) outputText() string {
	var b strings.Builder
	o := r.output
	if o.objectType != "" {
		fmt.Fprintf(&b, "  as %s\n", strconv.Quote(o.objectType))
	}
	if o.legacy {
		b.WriteString("  legacy columns\n")
	}
	for _, c := range o.columns {
		if c.node == nil {
			b.WriteString("  column *\n")
		} else {
			fmt.Fprintf(&b, "  column %s %s\n", strconv.Quote(c.name), r.text(c.node))
		}
	}
	return b.String()
}

// definition is a Definition being made, with its programs.
type definition struct {
	Definition
	rows []*rowProgram
	// index is its position in Plan.Definitions, once that is known.
	index int
}

// canonicalVersion is the version of the canonical form.
const canonicalVersion = 1

// canonicalForm serialises a definition.
func canonicalForm(kind DefinitionKind, rows []*rowProgram, form source.Form, options expr.Options) string {
	var b strings.Builder
	name := "bucket"
	if kind == LookupIndex {
		name = "lookup"
	}
	fmt.Fprintf(&b, "millrace %s %d\n", name, canonicalVersion)
	fmt.Fprintf(&b, "values iso=%t custom=%t precision=%d\n", form.ISOTimestamps, form.CustomTypes, form.Precision)
	fmt.Fprintf(&b, "expressions engine=%s fixed=%t legacy=%t\n", options.Engine, options.FixedJSONExtract, options.Legacy)
	texts := make([]string, len(rows))
	for i, r := range rows {
		texts[i] = r.canonical()
	}
	// The order of queries matters only where two may give the same entry.
	if !overlapping(rows) {
		slices.Sort(texts)
	}
	for _, t := range texts {
		b.WriteString(t)
	}
	return b.String()
}

// overlapping reports whether a row may be in the same bucket by two programs with
// different outputs.
func overlapping(rows []*rowProgram) bool {
	for i, a := range rows {
		for _, b := range rows[:i] {
			if a.output == nil || a.outputText() == b.outputText() || a.output.objectType != b.output.objectType {
				continue
			}
			if a.pattern == b.pattern || a.output.objectType != "" || strings.Contains(a.pattern.Schema+b.pattern.Schema+a.pattern.Name+b.pattern.Name, "%") {
				return true
			}
		}
	}
	return false
}

func hash(canonical string) string {
	h := sha256.Sum256([]byte(canonical))
	return hex.EncodeToString(h[:])
}
