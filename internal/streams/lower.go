package streams

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/streams/expr"
	"github.com/millrace-sync/millrace/internal/streams/sql"
)

// castTypes are the types that CAST and :: take; others say what to write.
var castTypes = map[string]bool{"text": true, "numeric": true, "integer": true, "real": true, "blob": true}

var castHints = map[string]string{
	"int": "write integer", "bigint": "write integer", "smallint": "write integer", "int4": "write integer", "int8": "write integer", "int2": "write integer",
	"varchar": "write text", "char": "write text", "uuid": "a uuid is text already", "string": "write text", "jsonb": "JSON is text already: use -> and ->>", "json": "JSON is text already: use -> and ->>",
	"float": "write real", "double": "write real", "double precision": "write real", "float8": "write real", "float4": "write real", "decimal": "write numeric",
	"bytea": "write blob", "boolean": "booleans are 1 and 0: write x = 1", "bool": "booleans are 1 and 0: write x = 1",
	"date": "dates are text: use substring(x, 1, 10)", "timestamp": "times are text: compare them as such", "timestamptz": "times are text: compare them as such",
}

// lower resolves an expression to a node. ok is false after an error was reported.
func (b *builder) lower(e sql.Expr, s *scope) (value, bool) {
	p := s.place(e.Pos())
	switch e := e.(type) {
	case *sql.Literal:
		return value{node: literal(e), place: p}, true
	case *sql.Column:
		if v, found, ok := b.parameterColumn(s, e); found {
			return v, ok
		}
		return b.resolve(s, e)
	case *sql.Call:
		return b.lowerCall(e, s)
	case *sql.Unary:
		return b.combine(p, e.Op, s, e.X)
	case *sql.Binary:
		if _, ok := e.R.(*sql.Subquery); ok && e.Op != "&&" {
			b.errorAt(s.place(e.R.Pos()), fmt.Sprintf("%s with a query is not supported", e.Op), "write x IN (SELECT …), or a join")
			return value{}, false
		}
		if e.Op == "AND" || e.Op == "OR" {
			return b.combine(p, e.Op, s, chain(e)...)
		}
		return b.combine(p, e.Op, s, e.L, e.R)
	case *sql.Between:
		return b.combine(p, negated(e.Not, "BETWEEN"), s, e.X, e.Lo, e.Hi)
	case *sql.Is:
		return b.combine(p, "IS "+negated(e.Not, e.What), s, e.X)
	case *sql.In:
		return b.lowerIn(e, s)
	case *sql.Cast:
		if !castTypes[e.Type.Text] {
			hint := castHints[e.Type.Text]
			if hint == "" {
				hint = "cast to text, numeric, integer, real or blob"
			}
			b.errorAt(s.place(e.Type.Span), fmt.Sprintf("there is no cast to %s", e.Type.Text), hint)
			return value{}, false
		}
		return b.combine(p, "CAST "+e.Type.Text, s, e.X)
	case *sql.Array:
		return b.combine(p, "ARRAY", s, e.Elems...)
	case *sql.Case:
		return b.lowerCase(e, s)
	case *sql.Subquery:
		b.errorAt(p, "a query is not supported here", "write x IN (SELECT …) as a condition of its own, or a join")
	default:
		b.errorAt(p, "this expression is not supported", "")
	}
	return value{}, false
}

// negated puts NOT before a word, as the evaluator names its operators: but after
// IS, where the caller has written it.
func negated(not bool, word string) string {
	if not {
		return "NOT " + word
	}
	return word
}

// chain flattens a AND b AND c, however long, without recursion on its length.
func chain(e *sql.Binary) []sql.Expr {
	var out []sql.Expr
	op := e.Op
	var left sql.Expr = e
	for {
		b, ok := left.(*sql.Binary)
		if !ok || b.Op != op {
			out = append(out, left)
			break
		}
		out = append(out, b.R)
		left = b.L
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out
}

func literal(l *sql.Literal) expr.Node {
	switch l.Kind {
	case sql.BoolLiteral:
		return expr.Const{Value: source.Bool(l.Text == "true")}
	case sql.IntLiteral:
		sign, digits := "", l.Text
		if strings.HasPrefix(digits, "-") {
			sign, digits = "-", digits[1:]
		}
		digits = strings.TrimLeft(digits, "0")
		if digits == "" {
			sign, digits = "", "0"
		}
		return expr.Const{Value: source.BigInt(sign + digits)}
	case sql.RealLiteral:
		f, _ := strconv.ParseFloat(l.Text, 64) // out of range gives infinity, as in SQLite
		return expr.Const{Value: source.Real(f)}
	case sql.StringLiteral:
		return text(l.Text)
	}
	return expr.Const{}
}

// combine lowers the arguments of an operator or function.
func (b *builder) combine(p place, op string, s *scope, args ...sql.Expr) (value, bool) {
	v := value{place: p}
	nodes := make([]expr.Node, len(args))
	good := true
	for i, a := range args {
		arg, ok := b.lower(a, s)
		good = good && ok
		nodes[i] = arg.node
		v.dom = v.dom.union(arg.dom)
	}
	if !good {
		return value{}, false
	}
	v.node = call(op, nodes...)
	return v, true
}

func (b *builder) lowerCase(e *sql.Case, s *scope) (value, bool) {
	v := value{place: s.place(e.Span)}
	good := true
	one := func(x sql.Expr) expr.Node {
		if x == nil {
			return nil
		}
		arg, ok := b.lower(x, s)
		good = good && ok
		v.dom = v.dom.union(arg.dom)
		return arg.node
	}
	out := expr.Case{Base: one(e.Operand)}
	for _, w := range e.Whens {
		out.Whens = append(out.Whens, [2]expr.Node{one(w.If), one(w.Then)})
	}
	out.Else = one(e.Else)
	v.node = out
	return v, good
}

// lowerIn resolves an IN that stands inside an expression, where a query cannot.
func (b *builder) lowerIn(e *sql.In, s *scope) (value, bool) {
	p := s.place(e.Span)
	switch r := e.Right.(type) {
	case *sql.Array:
		return b.combine(p, negated(e.Not, "IN LIST"), s, append([]sql.Expr{e.X}, r.Elems...)...)
	case *sql.Subquery:
		b.errorAt(s.place(r.Span), "IN (SELECT …) is not supported inside another expression", "make it a condition of its own, joined to others with AND or OR")
		return value{}, false
	case *sql.Column:
		if c := b.cteOf(r); c != nil {
			c.used = true
			b.errorAt(s.place(r.Span), fmt.Sprintf("IN %s is not supported inside another expression", r.Name.Text), "make it a condition of its own, joined to others with AND or OR")
			return value{}, false
		}
	}
	return b.combine(p, negated(e.Not, "IN"), s, e.X, e.Right)
}

// cteOf returns the CTE that a bare name on the right of IN means, nil if none.
func (b *builder) cteOf(e sql.Expr) *cte {
	if c, ok := e.(*sql.Column); ok && c.Table.Text == "" {
		return b.cte(c.Name)
	}
	return nil
}

func (b *builder) lowerCall(c *sql.Call, s *scope) (value, bool) {
	if c.Schema.Text != "" {
		if it := s.find(c.Schema.Text); it != nil {
			return b.metadata(c, s, it)
		}
		return b.parameterCall(c, s)
	}
	name := c.Name.Text
	if name == "json_each" {
		b.errorAt(s.place(c.Span), "json_each is a table, not a value", "write x IN (SELECT value FROM json_each(…)), or add it to FROM")
		return value{}, false
	}
	v, ok := b.combine(s.place(c.Span), name, s, c.Args...)
	if err := expr.Check(name, len(c.Args)); err != nil {
		b.callError(s.place(c.Name.Span), err)
		return value{}, false
	}
	return v, ok
}

// callError reports what the evaluator says about a call.
func (b *builder) callError(p place, err error) {
	var e *expr.CallError
	if errors.As(err, &e) {
		hint := e.Hint
		if hint == "" && errors.Is(err, expr.ErrUnknown) {
			hint = "the functions are those of SQLite that docs/compatibility.md lists; there are no aggregates"
		}
		if hint == "" && errors.Is(err, expr.ErrArity) {
			hint = "see docs/compatibility.md for what it takes"
		}
		b.errorAt(p, e.Message, hint)
		return
	}
	b.errorAt(p, err.Error(), "")
}

// metadata resolves t.schema(), t.table_name() and t.table_suffix().
func (b *builder) metadata(c *sql.Call, s *scope, it *item) (value, bool) {
	kinds := map[string]inputKind{"schema": inputSchema, "table_name": inputTableName, "table_suffix": inputTableSuffix}
	kind, ok := kinds[c.Name.Text]
	p := s.place(c.Span)
	switch {
	case !ok:
		hint := didYouMean(c.Name.Text, []string{"schema", "table_name", "table_suffix"})
		if hint == "" {
			hint = "tables have schema(), table_name() and table_suffix()"
		}
		b.errorAt(p, fmt.Sprintf("unknown function %s.%s", it.name, c.Name.Text), hint)
	case len(c.Args) > 0:
		b.errorAt(p, fmt.Sprintf("%s.%s takes no arguments", it.name, c.Name.Text), "")
	case it.rel == nil || it.rel.each:
		b.errorAt(p, fmt.Sprintf("%s is not a table", it.name), "")
	default:
		return value{node: b.input(input{kind: kind, rel: it.rel}, p), dom: domain{tables: []*relation{it.rel}}, place: p}, true
	}
	return value{}, false
}

// check compiles an expression once, so that what the evaluator rejects is
// reported with its place. It returns the value if it is the same for all inputs.
func (b *builder) check(v value) (constant source.Value, isConst, ok bool) {
	prog, err := expr.Compile(v.node, b.options)
	if err != nil {
		b.callError(v.place, err)
		return source.Value{}, false, false
	}
	constant, isConst = prog.Constant()
	return constant, isConst, true
}
