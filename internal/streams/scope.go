package streams

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/millrace-sync/millrace/internal/streams/sql"
)

// scope resolves the names of one SELECT. Names that it does not have are looked
// for in parent: the query around a subquery.
type scope struct {
	parent *scope
	text   *yaml.Node // the scalar that the SELECT stands in
	items  []item
}

// item is one entry of a FROM clause.
type item struct {
	name string // alias, or the table's name
	// rel is a table or json_each; nil for a subquery or CTE, whose columns are known.
	rel     *relation
	columns []column
}

// column is one output column of a query.
type column struct {
	name  string
	value value
	place place
	star  *relation // t.*: all columns of the table; value is then unset
}

func (s *scope) place(span sql.Span) place { return place{s.text, span} }

// find returns the item that a name in front of a dot means.
func (s *scope) find(name string) *item {
	for ; s != nil; s = s.parent {
		for i := range s.items {
			if s.items[i].name == name {
				return &s.items[i]
			}
		}
	}
	return nil
}

// names lists the names that find knows, innermost first.
func (s *scope) names() []string {
	var out []string
	for ; s != nil; s = s.parent {
		for i := range s.items {
			if !slices.Contains(out, s.items[i].name) {
				out = append(out, s.items[i].name)
			}
		}
	}
	return out
}

// lookup returns an item's column by name; ok is false if it has none such.
func (b *builder) lookup(it *item, name string, p place) (value, bool) {
	if it.rel == nil {
		for _, c := range it.columns {
			if c.name == name {
				v := c.value
				v.place = p
				return v, true
			}
		}
		return value{}, false
	}
	if it.rel.each && name != "key" && name != "value" {
		return value{}, false
	}
	return b.column(it.rel, name, p), true
}

// resolve finds what a column reference means.
func (b *builder) resolve(s *scope, c *sql.Column) (value, bool) {
	p := s.place(c.Span)
	if c.Table.Text != "" {
		it := s.find(c.Table.Text)
		if it == nil && slices.Contains(b.parameterSchemas(), c.Table.Text) {
			hint := fmt.Sprintf("write %s.parameter('%s')", c.Table.Text, c.Name.Text)
			if c.Name.Text == "user_id" || c.Name.Text == "parameters" || c.Name.Text == "jwt" {
				hint = fmt.Sprintf("write %s.%s(), with parentheses", c.Table.Text, c.Name.Text)
			}
			b.errorAt(p, fmt.Sprintf("%s is not a table", c.Table.Text), hint)
			return value{}, false
		}
		if it == nil {
			b.unknownTable(s, c.Table)
			return value{}, false
		}
		v, ok := b.lookup(it, c.Name.Text, p)
		if !ok {
			b.unknownColumn(s, it, c)
		}
		return v, ok
	}
	for at := s; at != nil; at = at.parent {
		v, found, ok := b.unqualified(at, c, p)
		if found {
			return v, ok
		}
	}
	if len(s.names()) == 0 {
		b.errorAt(p, fmt.Sprintf("column %s has no table: the query has no FROM", c.Name.Text), "add FROM and the table")
		return value{}, false
	}
	b.errorAt(p, fmt.Sprintf("there is no column %s here", c.Name.Text), "the query has "+strings.Join(s.names(), ", "))
	return value{}, false
}

// unqualified looks for a column in one SELECT's own items.
func (b *builder) unqualified(s *scope, c *sql.Column, p place) (v value, found, ok bool) {
	var known, tables []*item
	for i := range s.items {
		it := &s.items[i]
		switch {
		case it.rel != nil && !it.rel.each:
			tables = append(tables, it)
		case it.rel != nil && (c.Name.Text == "key" || c.Name.Text == "value"):
			known = append(known, it)
		case it.rel == nil && slices.ContainsFunc(it.columns, func(col column) bool { return col.name == c.Name.Text }):
			known = append(known, it)
		}
	}
	switch {
	case len(known) == 1:
		v, ok = b.lookup(known[0], c.Name.Text, p)
		return v, true, ok
	case len(known) == 0 && len(tables) == 1:
		v, ok = b.lookup(tables[0], c.Name.Text, p)
		return v, true, ok
	case len(known) == 0 && len(tables) == 0:
		return value{}, false, false
	}
	names := make([]string, 0, len(s.items))
	for _, it := range append(known, tables...) {
		if name := it.name + "." + c.Name.Text; !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	b.errorAt(p, fmt.Sprintf("column %s could belong to several tables", c.Name.Text), "write "+strings.Join(names, " or "))
	return value{}, true, false
}

func (b *builder) unknownTable(s *scope, name sql.Name) {
	hint := didYouMean(name.Text, s.names())
	for at := s; at != nil && hint == ""; at = at.parent {
		for i := range at.items {
			if r := at.items[i].rel; r != nil && r.alias != "" && r.pattern.Name == name.Text {
				hint = fmt.Sprintf("the table is called %s in this query", r.alias)
			}
		}
	}
	if names := s.names(); hint == "" && len(names) > 0 {
		hint = "this query has " + strings.Join(names, ", ")
	}
	message := fmt.Sprintf("there is no table or alias %s in this query", name.Text)
	if m, h := b.misplacedSchema(name.Text); m != "" {
		message, hint = m, h
	}
	b.errorAt(s.place(name.Span), message, hint)
}

func (b *builder) unknownColumn(s *scope, it *item, c *sql.Column) {
	var names []string
	if it.rel != nil {
		names = []string{"key", "value"}
	}
	for _, col := range it.columns {
		names = append(names, col.name)
	}
	hint := didYouMean(c.Name.Text, names)
	if hint == "" {
		hint = fmt.Sprintf("%s has %s", it.name, strings.Join(names, ", "))
	}
	b.errorAt(s.place(c.Name.Span), fmt.Sprintf("%s has no column %s", it.name, c.Name.Text), hint)
}

// cte returns the named query that a table name means, nil if it means a table.
func (b *builder) cte(name sql.Name) *cte {
	if c := b.local[name.Text]; c != nil {
		return c
	}
	return b.global[name.Text]
}

// pattern returns the tables that a table name in a query means.
func (b *builder) pattern(s *scope, schema, table sql.Name) (TablePattern, bool) {
	p := TablePattern{Schema: "public", Name: table.Text}
	if schema.Text != "" {
		p.Schema = schema.Text
		// A connection's tag may stand in front: "tag.schema".table.
		if i := strings.IndexByte(p.Schema, '.'); i >= 0 && schema.Quoted {
			p.Schema = p.Schema[i+1:]
		}
	}
	ok := true
	for _, part := range []struct {
		name sql.Name
		text string
	}{{schema, p.Schema}, {table, p.Name}} {
		if i := strings.IndexByte(part.text, '%'); i >= 0 && i < len(part.text)-1 {
			b.errorAt(s.place(part.name.Span), fmt.Sprintf("in the name %q the wildcard %% is not at the end", part.text), `write it last, as in "logs_%"`)
			ok = false
		}
	}
	if strings.HasSuffix(p.Schema, "%") && b.edition < 3 {
		b.errorAt(s.place(schema.Span), "wildcard schemas need edition 3", "name the schema, or set edition: 3")
		ok = false
	}
	return p, ok
}
