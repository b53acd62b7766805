package streams

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/millrace-sync/millrace/internal/streams/sql"
)

// parameterSchemas are the names in front of parameter functions, by dialect.
func (b *builder) parameterSchemas() []string {
	switch b.dialect {
	case streamDialect:
		return []string{"auth", "connection", "subscription"}
	case alphaDialect:
		return []string{"auth", "connection", "subscription", "request", "token_parameters", "user_parameters"}
	case parameterDialect:
		return []string{"request", "token_parameters", "user_parameters"}
	case dataDialect:
		return []string{"bucket"}
	}
	return nil
}

// request makes the value of an accessor.
func (b *builder) request(a accessor, p place) value {
	return value{node: b.input(input{kind: inputRequest, accessor: a}, p), dom: domain{request: true}, place: p}
}

// legacy reports whether the dialect has token_parameters and request.
func (b *builder) legacy() bool { return b.dialect == parameterDialect || b.dialect == alphaDialect }

// parameterColumn resolves token_parameters.x, user_parameters.x and bucket.x, and
// the pseudo-column _table_suffix. found is false if the column is none of them.
func (b *builder) parameterColumn(s *scope, c *sql.Column) (v value, found, ok bool) {
	p := s.place(c.Span)
	name := c.Name.Text
	if name == "_table_suffix" && b.dialect == dataDialect {
		for i := range s.items {
			it := &s.items[i]
			if it.rel != nil && !it.rel.each && (c.Table.Text == "" || c.Table.Text == it.name) {
				return value{node: b.input(input{kind: inputTableSuffix, rel: it.rel}, p), dom: domain{tables: []*relation{it.rel}}, place: p}, true, true
			}
		}
	}
	if c.Table.Text == "" || s.find(c.Table.Text) != nil {
		return value{}, false, false
	}
	switch {
	case c.Table.Text == "token_parameters" && b.legacy():
		return b.request(accessor{origin: originTokenParams, key: name, asText: name == "user_id"}, p), true, true
	case c.Table.Text == "user_parameters" && b.legacy():
		return b.request(accessor{origin: originConnection, key: name}, p), true, true
	case c.Table.Text == "bucket" && b.dialect == dataDialect:
		if !b.params[name] {
			names := slices.Sorted(maps.Keys(b.params))
			hint := didYouMean(name, names)
			if len(names) == 0 {
				hint = "add a parameters query that selects it"
			} else if hint == "" {
				hint = fmt.Sprintf("the parameters queries select %s", strings.Join(names, ", "))
			}
			b.errorAt(p, fmt.Sprintf("there is no bucket parameter %s", name), hint)
			return value{}, true, false
		}
		return b.request(accessor{origin: originBucket, key: name}, p), true, true
	}
	return value{}, false, false
}

// misplacedSchema explains a parameter source that this kind of query does not have.
func (b *builder) misplacedSchema(name string) (message, hint string) {
	switch name {
	case "auth", "connection", "subscription":
		if b.dialect == parameterDialect || b.dialect == dataDialect {
			return name + " parameters are for sync streams, not for bucket definitions", "use request.user_id(), request.jwt() or request.parameters() in a parameters query"
		}
		return fmt.Sprintf("%s parameters cannot be used here", name), ""
	case "token_parameters", "user_parameters", "request":
		if b.dialect == streamDialect {
			return name + " is for bucket definitions, not for sync streams", "use auth.user_id(), auth.parameter('…') or connection.parameter('…')"
		}
		if b.dialect == dataDialect {
			return name + " cannot be used in a data query", "select it in a parameters query and use it as bucket.…"
		}
	case "bucket":
		return "bucket parameters are for data queries of bucket definitions only", "use auth.user_id(), auth.parameter('…') or subscription.parameter('…')"
	}
	return "", ""
}

// parameterCall resolves auth.user_id(), connection.parameter('k') and the like.
func (b *builder) parameterCall(c *sql.Call, s *scope) (value, bool) {
	p := s.place(c.Span)
	schema, name := c.Schema.Text, c.Name.Text
	// A widely used guide writes request.user_id() in streams too.
	if schema == "request" && name == "user_id" && b.dialect == streamDialect {
		schema = "auth"
	}
	if !slices.Contains(b.parameterSchemas(), schema) {
		message, hint := b.misplacedSchema(schema)
		if message == "" {
			message = fmt.Sprintf("unknown function %s.%s", schema, name)
			candidates := append(b.parameterSchemas(), s.names()...)
			if hint = didYouMean(schema, candidates); hint == "" && len(candidates) > 0 {
				hint = "known before a dot are " + strings.Join(candidates, ", ")
			}
		}
		b.errorAt(s.place(c.Schema.Span.To(c.Name.Span)), message, hint)
		return value{}, false
	}
	origins := map[string]origin{"auth": originToken, "connection": originConnection, "subscription": originSubscription}
	var a accessor
	var functions []string
	switch schema {
	case "request":
		functions = []string{"user_id", "jwt", "parameters", "parameter"}
		switch name {
		case "user_id":
			a = accessor{origin: originToken, key: "sub", asText: b.edition < 3}
		case "jwt":
			a = accessor{origin: originToken, whole: true}
		case "parameters":
			a = accessor{origin: originConnection, whole: true}
		case "parameter":
			a.origin = originConnection
		}
	default:
		functions = []string{"parameters", "parameter"}
		a.origin = origins[schema]
		switch {
		case name == "parameters":
			a.whole = true
		case schema == "auth":
			functions = append(functions, "user_id")
			if name == "user_id" {
				a.key = "sub"
			}
		}
	}
	if !slices.Contains(functions, name) {
		hint := didYouMean(name, functions)
		if hint == "" {
			hint = fmt.Sprintf("%s has %s", schema, strings.Join(functions, ", "))
		}
		b.errorAt(s.place(c.Schema.Span.To(c.Name.Span)), fmt.Sprintf("unknown function %s.%s", schema, name), hint)
		return value{}, false
	}
	if name != "parameter" {
		if len(c.Args) > 0 {
			b.errorAt(p, fmt.Sprintf("%s.%s takes no arguments", schema, name), "to read one value write parameter('name')")
			return value{}, false
		}
		return b.request(a, p), true
	}
	key, ok := (*sql.Literal)(nil), false
	if len(c.Args) == 1 {
		key, ok = c.Args[0].(*sql.Literal)
	}
	if !ok || key.Kind != sql.StringLiteral {
		b.errorAt(p, fmt.Sprintf("%s.parameter takes one string in single quotes", schema), fmt.Sprintf("write %s.parameter('name')", schema))
		return value{}, false
	}
	a.key = key.Text
	return b.request(a, p), true
}
