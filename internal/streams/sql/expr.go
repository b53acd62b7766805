package sql

import "fmt"

// Binding powers, weakest first, as in Postgres' grammar.
const (
	powerOr = iota + 1
	powerAnd
	powerNot
	powerIs
	powerCompare
	powerIn
	powerOther
	powerAdd
	powerMultiply
	powerMinus
	powerCast
)

var infix = map[string]int{
	"=": powerCompare, "!=": powerCompare, "<": powerCompare, ">": powerCompare, "<=": powerCompare, ">=": powerCompare,
	"||": powerOther, "->": powerOther, "->>": powerOther, "&&": powerOther, "&": powerOther, "|": powerOther, "<<": powerOther, ">>": powerOther,
	"+": powerAdd, "-": powerAdd, "*": powerMultiply, "/": powerMultiply, "%": powerMultiply,
}

// foreign holds Postgres operators that are not supported, and what to use instead.
var foreign = map[string]string{
	"#>": "use ->", "#>>": "use ->>", "#": "use ->", "@>": "use IN or &&", "<@": "use IN or &&", "~": "use LIKE or =", "!~": "use NOT LIKE", "~*": "use lower(…) LIKE …",
	"~~": "use LIKE", "!~~": "use NOT LIKE", "~~*": "use lower(…) LIKE …", "!~~*": "use lower(…) NOT LIKE …", "^": "multiply instead", ":": "use ::", ":=": "use =", "=>": "use =", "@": "", "!": "use NOT",
}

// power returns the binding power of the operator that comes next, 0 if none does.
func (p *parser) power() int {
	t := p.peek()
	switch t.kind {
	case tokOp:
		if t.text == "::" || t.text == "[" {
			return powerCast
		}
		if _, ok := foreign[t.text]; ok {
			return powerOther
		}
		return infix[t.text]
	case tokWord:
		switch t.text {
		case "or":
			return powerOr
		case "and":
			return powerAnd
		case "is", "isnull", "notnull":
			return powerIs
		case "in", "between", "like", "ilike", "similar":
			return powerIn
		case "not":
			if n := p.ahead(1); n.kind == tokWord {
				switch n.text {
				case "in", "between", "like", "ilike", "similar":
					return powerIn
				}
			}
		case "collate", "at":
			return powerCast
		}
	}
	return 0
}

// expr reads an expression of operators that bind more strongly than least.
func (p *parser) expr(least int) Expr {
	start := p.peek().Span
	if !p.enter() {
		return &Literal{Span: start}
	}
	defer p.leave()
	left := p.prefix()
	for !p.failed {
		power := p.power()
		if power <= least {
			return left
		}
		left = p.infix(left, power)
	}
	return left
}

func (p *parser) prefix() Expr {
	t := p.peek()
	switch {
	case p.takeWord("not"):
		x := p.expr(powerNot - 1)
		return &Unary{t.Span.To(x.Pos()), "NOT", x}
	case p.isOp("-"):
		return p.minus()
	case p.takeOp("+"):
		return p.expr(powerMinus)
	}
	return p.primary()
}

func (p *parser) minus() Expr {
	at := p.take()
	if t := p.peek(); t.kind == tokInt || t.kind == tokReal {
		p.pos++
		kind := IntLiteral
		if t.kind == tokReal {
			kind = RealLiteral
		}
		return &Literal{at.Span.To(t.Span), kind, "-" + t.text}
	}
	x := p.expr(powerMinus)
	p.unsupported(at.Span, "a minus sign before an expression is not supported", "write 0 - x")
	return x
}

func (p *parser) infix(left Expr, power int) Expr {
	at := p.peek()
	to := func(right Expr) Span { return left.Pos().To(right.Pos()) }
	if at.kind == tokOp {
		p.pos++
		switch hint, bad := foreign[at.text]; {
		case at.text == "::":
			typ := p.typeName()
			return &Cast{left.Pos().To(typ.Span), left, typ}
		case at.text == "[":
			p.syntax(at.Span, "subscripts are not supported", "for an array column or JSON write x ->> 0")
			return left
		case bad:
			p.unsupported(at.Span, fmt.Sprintf("the operator %s is not supported", at.text), hint)
		}
		right := p.expr(power)
		if power == powerCompare && p.power() == powerCompare {
			p.syntax(p.peek().Span, "comparisons cannot be chained", "join them with AND, or use parentheses")
		}
		return &Binary{to(right), at.text, at.Span, left, right}
	}
	switch at.text {
	case "or", "and":
		p.pos++
		right := p.expr(power)
		return &Binary{to(right), upper(at.text), at.Span, left, right}
	case "is":
		p.pos++
		return p.is(left)
	case "isnull", "notnull":
		p.pos++
		return &Is{left.Pos().To(at.Span), at.text == "notnull", left, "NULL"}
	case "collate", "at":
		p.syntax(at.Span, upper(at.text)+" is not supported", "remove it: text compares by its characters, and times as they are stored")
		return left
	}
	not := p.takeWord("not")
	op := p.take()
	switch op.text {
	case "between":
		p.takeWord("symmetric")
		lo := p.expr(powerIn)
		p.wantWord("and")
		hi := p.expr(powerIn)
		return &Between{to(hi), not, left, lo, hi}
	case "in":
		right := p.inRight()
		return &In{to(right), not, left, right}
	case "like":
		right := p.expr(powerIn)
		name := "LIKE"
		if not {
			name = "NOT LIKE"
		}
		if p.isWord("escape") {
			p.syntax(p.peek().Span, "LIKE … ESCAPE is not supported", "use instr(…) or substring(…) to search for % and _")
		}
		return &Binary{to(right), name, op.Span, left, right}
	}
	p.syntax(op.Span, upper(op.text)+" is not supported", "use lower(a) LIKE lower(b)")
	return left
}

// inRight reads what comes after IN: a query or list in parentheses, or an
// expression, which is what the reference reads there too.
func (p *parser) inRight() Expr {
	start := p.peek().Span
	if !p.isOp("(") {
		return p.expr(powerIn)
	}
	mark := p.pos
	p.pos++
	if p.isWord("select", "with", "values") {
		p.pos = mark
		return p.primary()
	}
	if p.isOp(")") {
		p.syntax(start.To(p.peek().Span), "the list after IN is empty", "write at least one value")
		return &Array{Span: start}
	}
	list := &Array{Elems: p.list(")")}
	list.Span = start.To(p.prev())
	return list
}

func (p *parser) is(left Expr) Expr {
	not := p.takeWord("not")
	if p.isWord("null", "true", "false") {
		t := p.take()
		return &Is{left.Pos().To(t.Span), not, left, upper(t.text)}
	}
	if p.isWord("distinct") {
		p.syntax(p.peek().Span, "IS DISTINCT FROM is not supported", "write a = b OR (a IS NULL AND b IS NULL)")
	} else {
		p.syntax(p.peek().Span, "after IS comes NULL, TRUE or FALSE", "to compare with anything else, write =")
	}
	return left
}

// list reads expressions separated by commas and the closing token.
func (p *parser) list(closing string) []Expr {
	var out []Expr
	if p.takeOp(closing) {
		return out
	}
	for !p.failed {
		out = append(out, p.expr(0))
		if !p.takeOp(",") {
			break
		}
	}
	p.wantOp(closing)
	return out
}

func (p *parser) typeName() Name {
	name := p.label("a type name")
	if p.isOp("(") {
		p.syntax(p.peek().Span, "type modifiers are not supported", "cast to text, numeric, integer, real or blob")
	}
	if p.isOp("[") {
		p.syntax(p.peek().Span, "array types are not supported", "cast to text, numeric, integer, real or blob")
	}
	if name.Text == "double" && p.isWord("precision") {
		name.Span, name.Text = name.Span.To(p.take().Span), "double precision"
	}
	return name
}

func (p *parser) primary() Expr {
	t := p.peek()
	switch t.kind {
	case tokInt:
		p.pos++
		return &Literal{t.Span, IntLiteral, t.text}
	case tokReal:
		p.pos++
		return &Literal{t.Span, RealLiteral, t.text}
	case tokString:
		p.pos++
		return &Literal{t.Span, StringLiteral, t.text}
	case tokOp:
		if t.text == "(" {
			return p.parenthesis()
		}
	case tokQuoted:
		return p.reference()
	case tokWord:
		if !reserved[t.text] {
			return p.reference()
		}
		return p.keyword(t)
	}
	p.expected("an expression")
	return &Literal{Span: t.Span}
}

func (p *parser) keyword(t token) Expr {
	switch t.text {
	case "null":
		p.pos++
		return &Literal{t.Span, NullLiteral, ""}
	case "true", "false":
		p.pos++
		return &Literal{t.Span, BoolLiteral, t.text}
	case "case":
		return p.caseExpr()
	case "cast":
		return p.castExpr()
	case "array":
		p.pos++
		if p.takeOp("[") {
			a := &Array{Elems: p.list("]")}
			a.Span = t.Span.To(p.prev())
			return a
		}
		p.syntax(t.Span, "only ARRAY[…] is supported", "to use the results of a query, write x IN (SELECT …)")
		return &Literal{Span: t.Span}
	case "row":
		p.pos++
		p.wantOp("(")
		a := &Array{Elems: p.list(")")}
		a.Span = t.Span.To(p.prev())
		return a
	case "exists":
		p.syntax(t.Span, "EXISTS is not supported", "write x IN (SELECT y FROM …) or a join")
	case "current_timestamp", "current_date", "current_time", "localtime", "localtimestamp":
		p.syntax(t.Span, upper(t.text)+" is not supported: rows are evaluated when they change, not as time passes", "send the time as a parameter, or filter on the client")
	case "current_user", "session_user", "user", "current_role":
		p.syntax(t.Span, upper(t.text)+" is the database's user here", fmt.Sprintf(`for the column write "%s", for the client's user auth.user_id()`, t.text))
	case "extract":
		p.syntax(t.Span, "EXTRACT is not supported", "use substring(…) on the text of the time, or unixepoch(…)")
	case "any", "some", "all":
		p.syntax(t.Span, upper(t.text)+" is not supported", "write x IN y")
	case "select":
		p.syntax(t.Span, "a query inside an expression needs parentheses", "write x IN (SELECT …)")
	default:
		p.expected("an expression")
	}
	return &Literal{Span: t.Span}
}

func (p *parser) parenthesis() Expr {
	start := p.take().Span
	if p.isWord("select", "with", "values") {
		q := p.selectQuery()
		p.wantOp(")")
		return &Subquery{start.To(p.prev()), q}
	}
	x := p.expr(0)
	if p.isOp(",") {
		p.syntax(start, "lists in parentheses are only supported after IN", "compare one column at a time")
		return x
	}
	p.wantOp(")")
	return x
}

func (p *parser) caseExpr() Expr {
	start := p.take().Span
	c := &Case{}
	if !p.isWord("when") {
		c.Operand = p.expr(0)
	}
	for p.takeWord("when") {
		cond := p.expr(0)
		p.wantWord("then")
		c.Whens = append(c.Whens, When{cond, p.expr(0)})
	}
	if len(c.Whens) == 0 {
		p.expected("WHEN")
	}
	if p.takeWord("else") {
		c.Else = p.expr(0)
	}
	p.wantWord("end")
	c.Span = start.To(p.prev())
	return c
}

func (p *parser) castExpr() Expr {
	start := p.take().Span
	p.wantOp("(")
	x := p.expr(0)
	p.wantWord("as")
	typ := p.typeName()
	p.wantOp(")")
	return &Cast{start.To(p.prev()), x, typ}
}

// reference reads what begins with a name: a column, a call, or table.column.
func (p *parser) reference() Expr {
	first := p.name("a name")
	if p.isOp("(") {
		return p.call(Name{}, first)
	}
	if p.peek().kind == tokString && !first.Quoted {
		p.syntax(first.Span.To(p.peek().Span), fmt.Sprintf("typed constants such as %s '…' are not supported", first.Text), "write the string alone: dates and times are text")
	}
	if !p.takeOp(".") {
		return &Column{Span: first.Span, Name: first}
	}
	if p.isOp("*") {
		p.syntax(first.Span.To(p.peek().Span), "a star is only supported as an item of its own in a select list", "name the columns")
	}
	second := p.label("a column name")
	if p.isOp("(") {
		return p.call(first, second)
	}
	if p.isOp(".") {
		p.syntax(p.peek().Span, "a column name has at most two parts here", "write table.column, or give the table an alias")
	}
	return &Column{first.Span.To(second.Span), first, second}
}

// call reads the arguments of a function.
func (p *parser) call(schema, name Name) *Call {
	c := &Call{Schema: schema, Name: name}
	start := name.Span
	if schema.Text != "" {
		start = schema.Span
	}
	if !p.enter() {
		return c
	}
	defer p.leave()
	p.wantOp("(")
	switch {
	case p.isOp("*"):
		p.take()
		p.unsupported(start.To(p.peek().Span), fmt.Sprintf("%s(*) is not supported: there are no aggregates", name.Text), "select the rows themselves and aggregate on the client, or keep the totals in a table")
		p.wantOp(")")
	case p.isWord("distinct"):
		p.syntax(p.peek().Span, "DISTINCT is not supported in a call", "remove it")
	case name.Text == "substring" && schema.Text == "" && !p.isOp(")"):
		p.substring(c)
	case (name.Text == "trim" || name.Text == "ltrim" || name.Text == "rtrim") && p.isWord("both", "leading", "trailing", "from"):
		p.syntax(p.peek().Span, "TRIM(… FROM …) is not supported", "write trim(x), ltrim(x) or rtrim(x), with the characters as second argument")
	default:
		c.Args = p.list(")")
	}
	c.Span = start.To(p.prev())
	if p.isWord("over", "filter", "within") && (p.ahead(1).text == "(" || p.ahead(1).text == "group") {
		at := p.take()
		p.syntax(at.Span, upper(at.text)+" is not supported: there are no aggregates and window functions", "select the rows themselves and compute on the client")
	}
	return c
}

// substring reads substring(x, n[, m]) and substring(x FROM n [FOR m]) alike.
func (p *parser) substring(c *Call) {
	c.Args = append(c.Args, p.expr(0))
	if p.takeWord("from") {
		c.Args = append(c.Args, p.expr(0))
		if p.takeWord("for") {
			c.Args = append(c.Args, p.expr(0))
		}
		p.wantOp(")")
		return
	}
	if p.isWord("for") {
		p.syntax(p.peek().Span, "substring(x FOR n) is not supported", "write substring(x, 1, n)")
		return
	}
	if p.takeOp(",") {
		c.Args = append(c.Args, p.list(")")...)
		return
	}
	p.wantOp(")")
}
