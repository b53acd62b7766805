package expr

import (
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/millrace-sync/millrace/internal/source"
)

// parseExpr reads an SQL expression for tests: enough SQL to write the cases in
// testdata and in the documentation as people write them. Names are inputs, numbered
// in the order in which they first occur.
func parseExpr(sql string) (n Node, names []string, err error) {
	p := &testParser{sql: sql}
	for _, m := range testToken.FindAllString(sql, -1) {
		if strings.TrimSpace(m) != "" {
			p.tokens = append(p.tokens, m)
		}
	}
	defer func() {
		if e, ok := recover().(parseError); ok {
			err = fmt.Errorf("parse %s: %s", sql, string(e))
		}
	}()
	n = p.binary(0)
	if p.at < len(p.tokens) {
		p.fail("unexpected %s", p.peek())
	}
	return n, p.names, nil
}

type parseError string

var testToken = regexp.MustCompile(`(?i)x'[0-9a-f]*'|'(?:[^']|'')*'|\d+\.?\d*(?:e[+-]?\d+)?|\.\d+|\w+|->>|->|<<|>>|<=|>=|<>|!=|==|\|\||&&|::|\s+|.`)

type testParser struct {
	sql    string
	tokens []string
	at     int
	names  []string
}

func (p *testParser) fail(format string, args ...any) {
	panic(parseError(fmt.Sprintf(format, args...)))
}

func (p *testParser) peek() string {
	if p.at < len(p.tokens) {
		return strings.ToUpper(p.tokens[p.at])
	}
	return ""
}

func (p *testParser) accept(words ...string) bool {
	if p.at+len(words) > len(p.tokens) {
		return false
	}
	for i, w := range words {
		if !strings.EqualFold(p.tokens[p.at+i], w) {
			return false
		}
	}
	p.at += len(words)
	return true
}

func (p *testParser) expect(word string) {
	if !p.accept(word) {
		p.fail("want %s, found %s", word, p.peek())
	}
}

// testLevels holds the binary operators by rising precedence.
var testLevels = [][]string{
	{"OR"}, {"AND"}, {"NOT"}, {"=", "==", "!=", "<>", "IS", "IN", "LIKE", "BETWEEN", "&&"}, {"<", "<=", ">", ">="},
	{"&", "|", "<<", ">>"}, {"+", "-"}, {"*", "/", "%"}, {"||", "->", "->>"},
}

func (p *testParser) binary(level int) Node {
	switch {
	case level == len(testLevels):
		return p.unary()
	case testLevels[level][0] == "NOT":
		if p.accept("NOT") {
			return Call{"NOT", []Node{p.binary(level)}}
		}
		return p.binary(level + 1)
	}
	left := p.binary(level + 1)
	for {
		start := p.at
		not := testLevels[level][0] == "=" && p.accept("NOT")
		op := ""
		for _, o := range testLevels[level] {
			if p.accept(o) {
				op = o
			}
		}
		if op == "" {
			p.at = start
			return left
		}
		if not {
			left = p.operator("NOT "+op, left, level)
		} else {
			left = p.operator(op, left, level)
		}
	}
}

func (p *testParser) operator(op string, left Node, level int) Node {
	switch strings.TrimPrefix(op, "NOT ") {
	case "IS":
		for _, word := range []string{"NULL", "TRUE", "FALSE"} {
			if p.accept("NOT", word) {
				return Call{"IS NOT " + word, []Node{left}}
			}
			if p.accept(word) {
				return Call{"IS " + word, []Node{left}}
			}
		}
		if p.accept("NOT") {
			op = "IS NOT"
		}
	case "BETWEEN":
		lo := p.binary(level + 1)
		p.expect("AND")
		return Call{op, []Node{left, lo, p.binary(level + 1)}}
	case "LIKE":
		args := []Node{left, p.binary(level + 1)}
		if p.accept("ESCAPE") {
			args = append(args, p.binary(level+1))
		}
		return Call{op, args}
	case "IN":
		if p.accept("(") {
			return Call{op + " LIST", append([]Node{left}, p.list(")")...)}
		}
	}
	return Call{op, []Node{left, p.binary(level + 1)}}
}

func (p *testParser) list(closing string) []Node {
	var nodes []Node
	for !p.accept(closing) {
		if len(nodes) > 0 {
			p.expect(",")
		}
		nodes = append(nodes, p.binary(0))
	}
	return nodes
}

func (p *testParser) unary() Node {
	switch {
	case p.accept("~"):
		return Call{"~", []Node{p.unary()}}
	case p.accept("-"):
		literal := p.at < len(p.tokens) && isDigit(p.tokens[p.at][0])
		n := p.unary()
		c, ok := n.(Const)
		if !ok || !literal {
			return Call{"NEG", []Node{n}}
		}
		if c.Value.Kind() == source.KindReal {
			return Const{source.Real(-c.Value.Real())}
		}
		return Const{source.BigInt("-" + integerDigits(c.Value))}
	}
	n := p.primary()
	for p.accept("::") {
		n = Call{"CAST " + strings.ToLower(p.next()), []Node{n}}
	}
	return n
}

func (p *testParser) next() string {
	if p.at >= len(p.tokens) {
		p.fail("unexpected end")
	}
	p.at++
	return p.tokens[p.at-1]
}

func (p *testParser) primary() Node {
	tok := p.next()
	switch up := strings.ToUpper(tok); {
	case tok == "(":
		n := p.binary(0)
		p.expect(")")
		return n
	case up == "NULL":
		return Const{}
	case up == "TRUE" || up == "FALSE":
		return Const{source.Bool(up == "TRUE")}
	case tok[0] == '\'':
		return Const{source.String(strings.ReplaceAll(tok[1:len(tok)-1], "''", "'"))}
	case strings.HasPrefix(up, "X'"):
		b, err := hex.DecodeString(tok[2 : len(tok)-1])
		if err != nil {
			p.fail("%v", err)
		}
		return Const{source.Blob(string(b))}
	case isDigit(tok[0]) || tok[0] == '.':
		if allBytes(tok, isDigit) {
			return Const{source.BigInt(tok)}
		}
		f, err := strconv.ParseFloat(tok, 64)
		if err != nil && f == 0 {
			p.fail("%v", err)
		}
		return Const{source.Real(f)}
	case up == "CAST":
		p.expect("(")
		n := p.binary(0)
		p.expect("AS")
		typ := p.next()
		p.expect(")")
		return Call{"CAST " + strings.ToLower(typ), []Node{n}}
	case up == "CASE":
		return p.caseNode()
	case up == "ARRAY":
		p.expect("[")
		return Call{"ARRAY", p.list("]")}
	case p.accept("("):
		return Call{strings.ToLower(tok), p.list(")")}
	}
	for i, name := range p.names {
		if name == tok {
			return Input{Index: i}
		}
	}
	p.names = append(p.names, tok)
	return Input{Index: len(p.names) - 1}
}

func (p *testParser) caseNode() Node {
	var c Case
	if p.peek() != "WHEN" {
		c.Base = p.binary(0)
	}
	for p.accept("WHEN") {
		cond := p.binary(0)
		p.expect("THEN")
		c.Whens = append(c.Whens, [2]Node{cond, p.binary(0)})
	}
	if p.accept("ELSE") {
		c.Else = p.binary(0)
	}
	p.expect("END")
	return c
}

// withoutConstants turns the literals of an expression to inputs, so that what is
// evaluated at run time is tested as well as what is folded.
func withoutConstants(n Node, inputs *[]source.Value) Node {
	all := func(nodes []Node) []Node {
		out := make([]Node, len(nodes))
		for i, a := range nodes {
			out[i] = withoutConstants(a, inputs)
		}
		return out
	}
	switch n := n.(type) {
	case Const:
		*inputs = append(*inputs, n.Value)
		return Input{Index: len(*inputs) - 1}
	case Call:
		return Call{n.Op, all(n.Args)}
	case Case:
		c := Case{}
		if n.Base != nil {
			c.Base = withoutConstants(n.Base, inputs)
		}
		for _, w := range n.Whens {
			c.Whens = append(c.Whens, [2]Node(all(w[:])))
		}
		if n.Else != nil {
			c.Else = withoutConstants(n.Else, inputs)
		}
		return c
	}
	return n
}
