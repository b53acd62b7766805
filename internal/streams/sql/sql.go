// Package sql parses the queries of a sync config: the part of Postgres' SELECT
// that streams, CTEs and legacy parameter and data queries are written in.
//
// The streams package calls Parse with one query's text and maps the byte spans
// of what it gets back to places in the YAML file. It knows no names: which
// columns, functions and tables exist is the caller's to decide.
//
// Invariants:
//   - Parse never panics and its time and memory are linear in the text, whose
//     length, tokens and nesting are bounded.
//   - Every node and every error has a Span inside the text.
//   - Identifiers come out as Postgres reads them: lower-cased unless quoted.
package sql

import "fmt"

// Bounds on one query.
const (
	MaxBytes  = 256 << 10 // length of its text
	maxTokens = 50_000
	maxDepth  = 150 // nesting of expressions and subqueries
)

// Span is a range of byte offsets in the parsed text.
type Span struct{ Start, End int }

// To returns the span from the start of s to the end of t.
func (s Span) To(t Span) Span { return Span{s.Start, t.End} }

// Error is a mistake in the text: what is wrong and, in Hint, what to write
// instead.
type Error struct {
	Span
	Message, Hint string
}

func (e *Error) Error() string {
	if e.Hint == "" {
		return fmt.Sprintf("offset %d: %s", e.Start, e.Message)
	}
	return fmt.Sprintf("offset %d: %s; %s", e.Start, e.Message, e.Hint)
}

// Name is an identifier and its place.
type Name struct {
	Span
	Text   string
	Quoted bool
}

// Select is one query.
type Select struct {
	Span
	Columns []Output
	From    []From
	Where   Expr // nil without WHERE
}

// Output is one item of a select list: an expression, or * or table.*.
type Output struct {
	Span
	Expr  Expr // nil for a star
	Star  bool
	Table Name // of table.*, else empty
	Alias Name // empty without one
}

// From is one item of a FROM clause: exactly one of Table.Text, Query and Call is set.
type From struct {
	Span
	Schema, Table Name
	Query         *Select
	Call          *Call
	Alias         Name
	// On is the condition of an inner join with the items before; nil for the first
	// item, a comma, a cross join, or a join without condition.
	On Expr
}

// Expr is an expression.
type Expr interface{ Pos() Span }

// Pos returns the span itself, so that nodes that embed one are Exprs.
func (s Span) Pos() Span { return s }

// LiteralKind tells literals apart.
type LiteralKind uint8

// The kinds of Literal.
const (
	NullLiteral LiteralKind = iota
	BoolLiteral
	IntLiteral
	RealLiteral
	StringLiteral
)

// The expressions.
type (
	// Literal is a constant. Text is its content: digits with an optional sign,
	// the unescaped string, or "true" or "false".
	Literal struct {
		Span
		Kind LiteralKind
		Text string
	}
	// Column is a column reference, or the name of a CTE on the right of IN.
	Column struct {
		Span
		Table Name // empty if unqualified
		Name  Name
	}
	// Call is name(args) or schema.name(args).
	Call struct {
		Span
		Schema Name // empty if unqualified
		Name   Name
		Args   []Expr
	}
	// Unary is NOT x.
	Unary struct {
		Span
		Op string
		X  Expr
	}
	// Binary is l op r; Op is in upper case and "!=" stands for <> too.
	Binary struct {
		Span
		Op     string
		OpSpan Span
		L, R   Expr
	}
	// Between is x [NOT] BETWEEN lo AND hi.
	Between struct {
		Span
		Not       bool
		X, Lo, Hi Expr
	}
	// In is x [NOT] IN right. Right is a *Subquery, an *Array for a written list, or
	// another expression: the name of a CTE, or a JSON array.
	In struct {
		Span
		Not   bool
		X     Expr
		Right Expr
	}
	// Is is x IS [NOT] NULL, TRUE or FALSE; What is the word in upper case.
	Is struct {
		Span
		Not  bool
		X    Expr
		What string
	}
	// Case is CASE [operand] WHEN … THEN … [ELSE …] END.
	Case struct {
		Span
		Operand Expr
		Whens   []When
		Else    Expr
	}
	// When is one branch of a Case.
	When struct{ If, Then Expr }
	// Cast is CAST(x AS type) or x::type.
	Cast struct {
		Span
		X    Expr
		Type Name
	}
	// Array is ARRAY[…], ROW(…) or the list of IN (…).
	Array struct {
		Span
		Elems []Expr
	}
	// Subquery is a query in parentheses.
	Subquery struct {
		Span
		Query *Select
	}
)

// Parse reads one query. It returns nil if there is any error.
func Parse(text string) (*Select, []*Error) {
	p, err := newParser(text)
	if err != nil {
		return nil, []*Error{err}
	}
	q := p.query()
	if len(p.errs) > 0 {
		return nil, p.errs
	}
	return q, nil
}
