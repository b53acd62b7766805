package sql

import "fmt"

// parser reads tokens by recursive descent. A syntax error moves it to the end of
// the text, so that everything unwinds and only the first is reported; errors of
// meaning (a clause that is not supported) are collected and parsing goes on.
type parser struct {
	toks   []token
	pos    int
	depth  int
	errs   []*Error
	failed bool
}

func newParser(text string) (*parser, *Error) {
	l := lexer{text: text}
	toks, err := l.tokens()
	if err != nil {
		return nil, err
	}
	return &parser{toks: toks}, nil
}

func (p *parser) peek() token { return p.toks[p.pos] }

// ahead returns the token n after the next one.
func (p *parser) ahead(n int) token { return p.toks[min(p.pos+n, len(p.toks)-1)] }

func (p *parser) take() token {
	t := p.toks[p.pos]
	if t.kind != tokEnd {
		p.pos++
	}
	return t
}

// prev returns the span of the token taken last.
func (p *parser) prev() Span {
	if p.pos == 0 {
		return p.toks[0].Span
	}
	return p.toks[p.pos-1].Span
}

// unsupported reports something that is understood but not allowed.
func (p *parser) unsupported(at Span, message, hint string) {
	if !p.failed {
		p.errs = append(p.errs, fail(at.Start, at.End, message, hint))
	}
}

// syntax reports what cannot be read any further.
func (p *parser) syntax(at Span, message, hint string) {
	p.unsupported(at, message, hint)
	p.failed = true
	p.pos = len(p.toks) - 1
}

// expected reports that the next token is not what the grammar wants.
func (p *parser) expected(what string) {
	t := p.peek()
	switch {
	case t.kind == tokEnd:
		p.syntax(t.Span, "the query ends where "+what+" was expected", "")
	case t.kind == tokWord && clause[t.text]:
		p.syntax(t.Span, fmt.Sprintf("found %s where %s was expected", upper(t.text), what), fmt.Sprintf("write %s before %s", what, upper(t.text)))
	case t.kind == tokWord && reserved[t.text]:
		p.syntax(t.Span, fmt.Sprintf("found the keyword %s where %s was expected", upper(t.text), what),
			fmt.Sprintf(`to use it as a name, write it in double quotes: "%s"`, t.text))
	case t.kind == tokString:
		p.syntax(t.Span, fmt.Sprintf("found the string '%s' where %s was expected", t.text, what), "names are written in double quotes, strings in single quotes")
	default:
		p.syntax(t.Span, fmt.Sprintf("found %q where %s was expected", t.text, what), "")
	}
}

func upper(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'a' && c <= 'z' {
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
}

func (p *parser) isWord(words ...string) bool {
	t := p.peek()
	if t.kind != tokWord {
		return false
	}
	for _, w := range words {
		if t.text == w {
			return true
		}
	}
	return false
}

func (p *parser) isOp(op string) bool {
	t := p.peek()
	return t.kind == tokOp && t.text == op
}

func (p *parser) takeWord(word string) bool {
	if p.isWord(word) {
		p.pos++
		return true
	}
	return false
}

func (p *parser) takeOp(op string) bool {
	if p.isOp(op) {
		p.pos++
		return true
	}
	return false
}

func (p *parser) wantOp(op string) {
	if !p.takeOp(op) {
		p.expected(fmt.Sprintf("%q", op))
	}
}

func (p *parser) wantWord(word string) {
	if !p.takeWord(word) {
		p.expected(upper(word))
	}
}

// enter counts a level of nesting; it reports false beyond the bound.
func (p *parser) enter() bool {
	p.depth++
	if p.depth > maxDepth {
		p.syntax(p.peek().Span, "the query is nested too deeply", "simplify it, or name a part of it under with:")
		return false
	}
	return true
}

func (p *parser) leave() { p.depth-- }

// name reads an identifier that is not a reserved word.
func (p *parser) name(what string) Name {
	t := p.peek()
	if t.kind == tokQuoted || t.kind == tokWord && !reserved[t.text] {
		p.pos++
		return Name{t.Span, t.text, t.kind == tokQuoted}
	}
	p.expected(what)
	return Name{Span: t.Span}
}

// label reads an identifier after a dot or AS, where most keywords are allowed.
func (p *parser) label(what string) Name {
	t := p.peek()
	if t.kind == tokQuoted || t.kind == tokWord {
		p.pos++
		return Name{t.Span, t.text, t.kind == tokQuoted}
	}
	p.expected(what)
	return Name{Span: t.Span}
}

// query reads the whole text as one SELECT.
func (p *parser) query() *Select {
	if t := p.peek(); t.kind == tokEnd {
		p.syntax(t.Span, "the query is empty", "write SELECT … FROM …")
		return nil
	}
	q := p.selectQuery()
	if p.isOp(";") {
		at := p.take()
		if next := p.peek(); next.kind != tokEnd {
			p.syntax(at.Span, "a query holds one statement, here another one follows", "list several queries under queries:")
		}
	}
	if t := p.peek(); t.kind != tokEnd {
		if p.isOp(")") {
			p.syntax(t.Span, "closing parenthesis without an opening one", "remove it")
		} else {
			p.misspelt()
			p.expected("the end of the query")
		}
	}
	return q
}

// misspelt reports that the word before the next one was taken for an alias and
// looks like a keyword.
func (p *parser) misspelt() {
	if p.pos == 0 || p.failed {
		return
	}
	word := p.toks[p.pos-1]
	for _, k := range []string{"from", "where", "join", "inner", "and", "or", "on", "in", "is", "as", "between", "like", "group", "order", "limit"} {
		if word.kind == tokWord && near(word.text, k) {
			p.syntax(word.Span, fmt.Sprintf("%s was taken for a name here", word.text), fmt.Sprintf("did you mean %s?", upper(k)))
			return
		}
	}
}

// near reports whether a becomes b by one letter that is left out, added, replaced
// or swapped with the next.
func near(a, b string) bool {
	if a == b || len(b) < 3 {
		return false
	}
	i, j := 0, 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	for j < len(a)-i && j < len(b)-i && a[len(a)-1-j] == b[len(b)-1-j] {
		j++
	}
	x, y := a[i:len(a)-j], b[i:len(b)-j]
	return len(x)+len(y) > 0 && len(x) <= 1 && len(y) <= 1 || len(x) == 2 && len(y) == 2 && x[0] == y[1] && x[1] == y[0]
}

func (p *parser) selectQuery() *Select {
	start := p.peek().Span
	q := &Select{Span: start}
	if !p.enter() {
		return q
	}
	defer p.leave()
	switch {
	case p.isWord("with"):
		p.syntax(start, "WITH is not supported inside a query", "name the query under with: in the sync config, and use its name here")
		return q
	case p.isWord("insert", "update", "delete", "merge", "truncate", "create", "alter", "drop", "values", "table"):
		p.syntax(start, upper(p.peek().text)+" is not supported", "write a SELECT")
		return q
	}
	p.wantWord("select")
	if p.takeWord("distinct") && p.isWord("on") {
		p.syntax(p.peek().Span, "DISTINCT ON is not supported", "rows are told apart by their id")
	} else {
		p.takeWord("all")
	}
	if !p.isWord("from", "where") && p.peek().kind != tokEnd && !p.isOp(")") {
		for {
			q.Columns = append(q.Columns, p.output())
			if !p.takeOp(",") {
				break
			}
		}
	}
	if p.isWord("into") {
		p.syntax(p.peek().Span, "SELECT INTO is not supported", "remove it")
	}
	if p.takeWord("from") {
		p.from(q)
	}
	if p.takeWord("where") {
		q.Where = p.expr(0)
	}
	p.clauses()
	q.End = max(p.prev().End, start.End)
	return q
}

// clauses reports the clauses that come after WHERE, none of which is supported,
// and skips them.
func (p *parser) clauses() {
	t := p.peek()
	var what, hint string
	switch {
	case p.isWord("group"):
		what, hint = "GROUP BY is not supported", "select the rows themselves and aggregate on the client, or keep the totals in a table"
	case p.isWord("having"):
		what, hint = "HAVING is not supported", "filter rows with WHERE"
	case p.isWord("window"):
		what, hint = "WINDOW is not supported", "number rows on the client"
	case p.isWord("order"):
		what, hint = "ORDER BY is not supported", "remove it and order on the client: what is synced is a set of rows"
	case p.isWord("limit", "offset", "fetch"):
		what, hint = upper(t.text)+" is not supported", "filter with WHERE; which rows come first would change with every write"
	case p.isWord("for"):
		what, hint = "FOR … is not supported", "remove it: nothing is locked"
	case p.isWord("union", "intersect", "except"):
		what, hint = upper(t.text)+" is not supported", "list the queries under queries:, or join the conditions with OR or AND"
	default:
		return
	}
	p.unsupported(t.Span, what, hint)
	for depth := 0; ; p.take() {
		switch t := p.peek(); {
		case t.kind == tokEnd, t.kind == tokOp && t.text == ";":
			return
		case t.kind == tokOp && t.text == "(":
			depth++
		case t.kind == tokOp && t.text == ")":
			if depth == 0 {
				return
			}
			depth--
		}
	}
}

func (p *parser) output() Output {
	start := p.peek().Span
	if p.isOp("*") {
		p.pos++
		return Output{Span: start, Star: true}
	}
	if t := p.peek(); (t.kind == tokWord || t.kind == tokQuoted) && p.ahead(1).text == "." && p.ahead(1).kind == tokOp && p.ahead(2).text == "*" && p.ahead(2).kind == tokOp {
		table := p.label("a table name")
		p.pos += 2
		return Output{Span: start.To(p.prev()), Star: true, Table: table}
	}
	o := Output{Expr: p.expr(0)}
	o.Alias = p.alias("a column name")
	o.Span = start.To(p.prev())
	return o
}

// alias reads [AS] name; it returns an empty Name if there is none.
func (p *parser) alias(what string) Name {
	if p.takeWord("as") {
		if t := p.peek(); t.kind == tokString {
			p.syntax(t.Span, fmt.Sprintf("found the string '%s' where %s was expected", t.text, what), fmt.Sprintf(`write the name in double quotes: "%s"`, t.text))
			return Name{}
		}
		return p.label(what)
	}
	if t := p.peek(); t.kind == tokQuoted || t.kind == tokWord && !reserved[t.text] && !follows[t.text] {
		return p.name(what)
	}
	return Name{}
}

func (p *parser) from(q *Select) {
	q.From = append(q.From, p.fromItem())
	for !p.failed {
		t := p.peek()
		switch {
		case p.takeOp(","):
			q.From = append(q.From, p.fromItem())
		case p.isWord("left", "right", "full", "natural"):
			hint := "use an inner JOIN; for rows without a partner add a second query under queries:"
			if t.text == "natural" {
				hint = "write JOIN … ON a.x = b.x"
			}
			p.syntax(t.Span, upper(t.text)+" JOIN is not supported", hint)
		case p.isWord("join", "inner", "cross"):
			if p.isWord("inner", "cross") {
				p.pos++
			}
			p.wantWord("join")
			item := p.fromItem()
			if p.takeWord("on") {
				item.On = p.expr(0)
				item.End = p.prev().End
			} else if p.isWord("using") {
				p.syntax(p.peek().Span, "JOIN … USING is not supported", "write JOIN … ON a.x = b.x")
			}
			q.From = append(q.From, item)
		default:
			return
		}
	}
}

func (p *parser) fromItem() From {
	start := p.peek().Span
	var f From
	if p.isWord("lateral") {
		p.syntax(start, "LATERAL is not supported", "write the condition in WHERE")
	}
	if p.takeWord("only") {
		p.unsupported(start, "ONLY is not supported", "remove it: a partitioned table stands for all its partitions")
	}
	switch {
	case p.takeOp("("):
		if p.isWord("select", "with", "values") {
			f.Query = p.selectQuery()
			p.wantOp(")")
		} else {
			p.syntax(start, "joins in parentheses are not supported", "list the joins one after another")
		}
	default:
		f.Table = p.name("a table")
		if p.takeOp(".") {
			f.Schema, f.Table = f.Table, p.label("a table name")
			if p.isOp(".") {
				p.syntax(p.peek().Span, "a table name has at most two parts", "write schema.table")
			}
		}
		if p.isOp("(") {
			f.Call = p.call(f.Schema, f.Table)
			f.Schema, f.Table = Name{}, Name{}
		}
	}
	f.Alias = p.alias("a table alias")
	if f.Alias.Text != "" && p.isOp("(") {
		p.syntax(p.peek().Span, "a list of column names after a table alias is not supported", "name the columns with AS in the query itself")
	}
	if p.isWord("tablesample") {
		p.syntax(p.peek().Span, "TABLESAMPLE is not supported", "filter with WHERE")
	}
	f.Span = start.To(p.prev())
	return f
}

// reserved holds the words that Postgres does not allow as column or table names
// without quotes, as far as they can occur here.
var reserved = words("all analyse analyze and any array as asc asymmetric between both case cast check collate column constraint create",
	"cross current_catalog current_date current_role current_time current_timestamp current_user default deferrable desc distinct do else end except",
	"exists extract false fetch for foreign from full grant group having ilike in initially inner intersect into is isnull join lateral leading left like",
	"limit localtime localtimestamp natural not notnull null offset on only or order outer overlaps placing primary references returning right",
	"row select session_user similar some symmetric table tablesample then to trailing true union unique user using variadic when where window with")

// clause holds the words that begin or join parts of a query: before them something
// is missing, rather than that they are meant as names.
var clause = words("and as from full group having inner join left limit offset on or order right then union using where")

// follows holds the words that may come after an item and are then no alias.
var follows = words("set values limit offset over filter within escape at")

func words(lists ...string) map[string]bool {
	m := map[string]bool{}
	for _, l := range lists {
		start := 0
		for i := 0; i <= len(l); i++ {
			if i == len(l) || l[i] == ' ' {
				m[l[start:i]] = true
				start = i + 1
			}
		}
	}
	return m
}
