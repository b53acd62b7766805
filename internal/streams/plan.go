package streams

import (
	"fmt"
	"slices"
	"strings"

	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/streams/expr"
)

// plan finishes compilation: it orders the definitions and compiles the programs
// that requests run.
func (c *compiler) plan() (*Plan, error) {
	p := &Plan{Form: c.config.form, compiled: compiled{doc: c.doc, options: c.config.options, refs: c.refs}}
	// Only what a stream still uses: a query with a mistake elsewhere may have left more.
	used := map[*definition]bool{}
	for _, s := range c.streams {
		for _, path := range s.paths {
			used[path.def] = true
			for _, st := range path.steps {
				used[st.def] = true
			}
		}
	}
	for d := range used {
		p.defs = append(p.defs, d)
	}
	slices.SortFunc(p.defs, func(a, b *definition) int { return strings.Compare(a.Hash, b.Hash) })
	for i, d := range p.defs {
		d.index = i
		p.Definitions = append(p.Definitions, &d.Definition)
	}
	for _, s := range c.streams {
		stream := s.Stream
		p.Streams = append(p.Streams, &stream)
		sp := &streamProgram{}
		for _, path := range s.paths {
			pp, err := newPathProgram(path, p.options)
			if err != nil {
				return nil, fmt.Errorf("stream %s: %w", s.Name, err)
			}
			sp.paths = append(sp.paths, pp)
		}
		p.streams = append(p.streams, sp)
	}
	return p, nil
}

// program evaluates an expression; one that is just an input is read directly.
type program struct {
	input int // -1 if prog is to be run
	prog  *expr.Program
}

func newProgram(n expr.Node, o expr.Options) (program, error) {
	if in, ok := n.(expr.Input); ok {
		return program{input: in.Index}, nil
	}
	p, err := expr.Compile(n, o)
	return program{-1, p}, err
}

func newPrograms(nodes []expr.Node, o expr.Options) ([]program, error) {
	out := make([]program, len(nodes))
	for i, n := range nodes {
		var err error
		if out[i], err = newProgram(n, o); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (p *program) eval(inputs []source.Value) (source.Value, error) {
	if p.input >= 0 {
		return inputs[p.input], nil
	}
	return p.prog.Eval(inputs)
}

// suffix returns what the wildcard of p stands for in a table's name; "" without one.
func (p TablePattern) suffix(name string) string {
	if prefix, ok := strings.CutSuffix(p.Name, "%"); ok {
		return strings.TrimPrefix(name, prefix)
	}
	return ""
}

// match returns the name under which p matches a table: its own, or that of the
// partitioned table that it is a part of.
func (p TablePattern) match(t *source.Table) (schema, name string, ok bool) {
	if wild(p.Schema, t.Schema) && wild(p.Name, t.Name) && p.allows(t.Schema) {
		return t.Schema, t.Name, true
	}
	if t.RootName != "" && wild(p.Schema, t.RootSchema) && wild(p.Name, t.RootName) && p.allows(t.RootSchema) {
		return t.RootSchema, t.RootName, true
	}
	return "", "", false
}

// Matches reports whether the pattern names the table, or the partitioned table
// that it is a part of.
func (p TablePattern) Matches(t *source.Table) bool {
	_, _, ok := p.match(t)
	return ok
}

// allows keeps wildcards out of the source's own schemas.
func (p TablePattern) allows(schema string) bool {
	return !strings.HasSuffix(p.Schema, "%") || schema != "information_schema" && !strings.HasPrefix(schema, "pg_")
}

func wild(pattern, name string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "%"); ok {
		return strings.HasPrefix(name, prefix)
	}
	return pattern == name
}

// String returns schema.name.
func (p TablePattern) String() string { return p.Schema + "." + p.Name }

// DefinitionsOf returns the positions in Definitions of what a stream consists of: the
// bucket sources that its clients download, and the lookup indexes that lead to them.
// stream is a position in Streams.
func (p *Plan) DefinitionsOf(stream int) (buckets, lookups []int) {
	for _, path := range p.streams[stream].paths {
		if i := path.def.index; !slices.Contains(buckets, i) {
			buckets = append(buckets, i)
		}
		for _, st := range path.steps {
			if i := st.def.index; !slices.Contains(lookups, i) {
				lookups = append(lookups, i)
			}
		}
	}
	slices.Sort(buckets)
	slices.Sort(lookups)
	return buckets, lookups
}
