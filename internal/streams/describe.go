package streams

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/streams/expr"
)

// Describe prints the plan for people: for each stream the ways from a request to
// its buckets, the rows in them, and the lookups on the way.
func (p *Plan) Describe() string {
	var b strings.Builder
	for i, s := range p.Streams {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "stream %s: priority %d", s.Name, s.Priority)
		if s.AutoSubscribe {
			b.WriteString(", subscribed by default")
		}
		b.WriteByte('\n')
		var shown []*definition
		for _, path := range p.streams[i].paths {
			d := path.def
			fmt.Fprintf(&b, "  bucket %s", d.Label)
			names := path.describe(&b)
			if !slices.Contains(shown, d) {
				shown = append(shown, d)
				for _, r := range d.rows {
					r.describe(&b, names)
				}
			}
		}
	}
	if len(p.Streams) == 0 {
		b.WriteString("no streams\n")
	}
	b.WriteString("\ndefinitions\n")
	for _, d := range p.defs {
		kind := "bucket"
		if d.Kind == LookupIndex {
			kind = "lookup"
		}
		tables := make([]string, len(d.Tables))
		for i, t := range d.Tables {
			tables[i] = t.String()
		}
		fmt.Fprintf(&b, "  %s %s  %s  reads %s\n", d.Hash[:12], kind, d.Label, strings.Join(tables, ", "))
	}
	return b.String()
}

// describe prints a path and returns what each bucket parameter is called.
func (p *pathProgram) describe(b *strings.Builder) []string {
	names := make([]string, p.vars)
	inputs := func(c *pathComponent) func(int) string {
		return func(i int) string {
			if i < len(p.accessors) {
				return p.accessors[i].canonical()
			}
			i -= len(p.accessors)
			return "json_each(" + render(c.each[i/2], func(i int) string { return p.accessors[i].canonical() }) + ")." + [...]string{"key", "value"}[i%2]
		}
	}
	request := inputs(nil)
	for _, s := range p.path.scalars {
		names[s.v] = render(s.node, request)
	}
	for i := range p.path.components {
		c := &p.path.components[i]
		for _, v := range c.vars {
			if names[v.v] == "" {
				names[v.v] = "each of " + render(v.node, inputs(c))
			}
		}
	}
	var lines []string
	for _, n := range p.path.filter {
		lines = append(lines, "if "+render(n, request))
	}
	for i := range p.path.components {
		c := &p.path.components[i]
		for _, n := range c.filter {
			lines = append(lines, "if "+render(n, inputs(c)))
		}
	}
	for _, s := range p.steps {
		r := s.def.rows[0]
		keys := make([]string, len(s.key))
		for i, v := range s.key {
			keys[i] = render(r.keys[i], r.display) + " = " + names[v]
		}
		outs := make([]string, len(s.out))
		for i, v := range s.out {
			names[v] = r.pattern.Name + "." + render(r.outs[i], r.display)
			outs[i] = render(r.outs[i], r.display)
		}
		line := "look up " + r.pattern.String()
		if len(keys) > 0 {
			line += " by " + strings.Join(keys, " and ")
		}
		for i, n := range r.filter {
			line += [...]string{" where ", " and "}[min(i, 1)] + render(n, r.display)
		}
		if len(outs) > 0 {
			line += " for " + strings.Join(outs, ", ")
		}
		lines = append(lines, line+fmt.Sprintf("  [%s]", s.def.Hash[:12]))
	}
	out := make([]string, len(p.out))
	for i, v := range p.out {
		out[i] = names[v]
	}
	fmt.Fprintf(b, " [%s]\n", strings.Join(out, ", "))
	for _, l := range lines {
		fmt.Fprintf(b, "    %s\n", l)
	}
	return out
}

// describe prints which rows a program puts into a bucket.
func (r *rowProgram) describe(b *strings.Builder, params []string) {
	fmt.Fprintf(b, "    rows of %s", r.pattern)
	if r.output.objectType != "" {
		fmt.Fprintf(b, " as %s", r.output.objectType)
	}
	conditions := make([]string, 0, len(r.keys)+len(r.filter))
	for i, k := range r.keys {
		conditions = append(conditions, render(k, r.display)+" = "+params[i])
	}
	for _, f := range r.filter {
		conditions = append(conditions, render(f, r.display))
	}
	for i, c := range conditions {
		b.WriteString([...]string{" where ", " and "}[min(i, 1)] + c)
	}
	columns := make([]string, len(r.output.columns))
	for i, c := range r.output.columns {
		columns[i] = "*"
		if c.node != nil {
			columns[i] = render(c.node, r.display)
			if columns[i] != c.name {
				columns[i] += " AS " + c.name
			}
		}
	}
	fmt.Fprintf(b, "\n      columns %s\n", strings.Join(columns, ", "))
}

// display is what an input is called in printed plans.
func (r *rowProgram) display(i int) string {
	in := r.inputs[i]
	switch in.kind {
	case inputColumn:
		return in.name
	case inputTableName:
		return "table_name()"
	case inputTableSuffix:
		return "table_suffix()"
	case inputSchema:
		return "schema()"
	}
	return "json_each(" + render(r.each[in.index], r.display) + ")." + map[inputKind]string{inputEachKey: "key", inputEachValue: "value"}[in.kind]
}

// render prints an expression as SQL, for people.
func render(n expr.Node, input func(int) string) string {
	switch n := n.(type) {
	case expr.Input:
		return input(n.Index)
	case expr.Const:
		return renderValue(n.Value)
	case expr.Case:
		var b strings.Builder
		b.WriteString("CASE")
		if n.Base != nil {
			b.WriteString(" " + render(n.Base, input))
		}
		for _, w := range n.Whens {
			b.WriteString(" WHEN " + render(w[0], input) + " THEN " + render(w[1], input))
		}
		if n.Else != nil {
			b.WriteString(" ELSE " + render(n.Else, input))
		}
		return b.String() + " END"
	case expr.Call:
		return renderCall(n, input)
	}
	return "NULL"
}

func renderCall(n expr.Call, input func(int) string) string {
	args := make([]string, len(n.Args))
	for i, a := range n.Args {
		args[i] = render(a, input)
		if c, ok := a.(expr.Call); ok && isOperator(c.Op) && isOperator(n.Op) {
			args[i] = "(" + args[i] + ")"
		}
	}
	switch {
	case strings.HasPrefix(n.Op, "CAST "):
		return "CAST(" + args[0] + " AS " + n.Op[5:] + ")"
	case n.Op == "ARRAY":
		return "ARRAY[" + strings.Join(args, ", ") + "]"
	case strings.HasSuffix(n.Op, "IN LIST"):
		return args[0] + " " + strings.TrimSuffix(n.Op, " LIST") + " (" + strings.Join(args[1:], ", ") + ")"
	case strings.HasSuffix(n.Op, "BETWEEN"):
		return args[0] + " " + n.Op + " " + args[1] + " AND " + args[2]
	case !isOperator(n.Op):
		return n.Op + "(" + strings.Join(args, ", ") + ")"
	case n.Op == "NOT":
		return "NOT " + args[0]
	case len(args) == 1:
		return args[0] + " " + n.Op
	}
	return strings.Join(args, " "+n.Op+" ")
}

func isOperator(op string) bool {
	return op != "" && (op[0] < 'a' || op[0] > 'z') && !strings.HasPrefix(op, "CAST ") && op != "ARRAY"
}

func renderValue(v source.Value) string {
	switch v.Kind() {
	case source.KindText:
		return "'" + strings.ReplaceAll(v.Str(), "'", "''") + "'"
	case source.KindInteger, source.KindReal:
		out, _ := expr.AppendJSON(nil, v)
		return string(out)
	case source.KindBlob:
		return "blob " + strconv.Quote(v.Str())
	}
	return "NULL"
}
