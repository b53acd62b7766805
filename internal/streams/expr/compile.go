package expr

import (
	"errors"
	"fmt"
	"strings"

	"github.com/millrace-sync/millrace/internal/source"
)

// operand is a compiled sub-expression.
type operand struct {
	run      evalFunc
	value    source.Value // the result, if constant
	constant bool
	input    int      // the input's index, if the operand is just that; else -1
	aff      affinity // SQLite's affinity of the expression; only CAST has one
}

type compiler struct {
	Options
	inputs int
}

// Compile compiles an expression for evaluation. It fails with a *CallError for an
// unknown operator or function, a wrong number of arguments, or a call that is not
// deterministic, and with ErrLimit if the expression is too deep.
//
// Constant parts are evaluated now; if that fails, every evaluation that reaches
// the part fails.
func Compile(n Node, o Options) (*Program, error) {
	if n == nil {
		return nil, errors.New("compile expression: no expression")
	}
	if n.depth(MaxNodeDepth) > MaxNodeDepth {
		return nil, tooLarge("compile expression", "it is nested deeper than %d", MaxNodeDepth)
	}
	c := compiler{Options: o}
	op, err := c.compile(n)
	if err != nil {
		return nil, err
	}
	return &Program{run: op.run, inputs: c.inputs, node: op}, nil
}

func (c *compiler) compile(n Node) (operand, error) {
	switch n := n.(type) {
	case Const:
		v := n.Value
		if len(v.BigDigits()) > MaxDigits {
			return operand{}, tooLarge("compile expression", "a literal has more than %d digits", MaxDigits)
		}
		if c.Engine == SQLite {
			v = storableSQLite(v)
		}
		return constant(v), nil
	case Input:
		return c.compileInput(n)
	case Case:
		return c.compileCase(n)
	case Call:
		return c.compileCall(n)
	}
	return operand{}, fmt.Errorf("compile expression: unknown node %T", n)
}

func constant(v source.Value) operand {
	return operand{
		run:   func([]source.Value) (source.Value, error) { return v, nil },
		value: v, constant: true, input: -1,
	}
}

func (c *compiler) compileInput(n Input) (operand, error) {
	i := n.Index
	if i < 0 {
		return operand{}, fmt.Errorf("compile expression: input %d", i)
	}
	c.inputs = max(c.inputs, i+1)
	if c.Engine == SQLite {
		op := operand{run: func(in []source.Value) (source.Value, error) { return storableSQLite(in[i]), nil }, input: i}
		if n.Column {
			op.aff = affBlob
		}
		return op, nil
	}
	return operand{run: func(in []source.Value) (source.Value, error) { return in[i], nil }, input: i}, nil
}

// storableSQLite returns v as SQLite would hold it: integers beyond 64 bits are
// reals there, and NaN is NULL.
func storableSQLite(v source.Value) source.Value {
	switch v.Kind() {
	case source.KindInteger:
		if _, ok := v.Int(); !ok {
			return source.Real(toFloat(v))
		}
	case source.KindReal:
		return realOrNull(v.Real())
	}
	return v
}

func (c *compiler) compileAll(nodes []Node) ([]operand, error) {
	ops := make([]operand, len(nodes))
	for i, n := range nodes {
		if n == nil {
			return nil, errors.New("compile expression: missing argument")
		}
		var err error
		if ops[i], err = c.compile(n); err != nil {
			return nil, err
		}
	}
	return ops, nil
}

func (c *compiler) compileCall(n Call) (operand, error) {
	op := canonicalOp(n.Op)
	lo, hi, isOp := operatorArity(op)
	if isOp {
		if len(n.Args) < lo || (hi >= 0 && len(n.Args) > hi) {
			return operand{}, arityError(n.Op, lo, hi, len(n.Args))
		}
	} else {
		if err := Check(op, len(n.Args)); err != nil {
			return operand{}, err
		}
		if err := checkClock(op, n.Args); err != nil {
			return operand{}, err
		}
	}
	args, err := c.compileAll(n.Args)
	if err != nil {
		return operand{}, err
	}
	var res operand
	if isOp {
		res = c.operator(op, args)
	} else {
		res = c.function(op, args)
	}
	res.input = -1
	return fold(res, args...), nil
}

// fold evaluates an operand whose arguments are all constant.
func fold(res operand, args ...operand) operand {
	for _, a := range args {
		if !a.constant {
			return res
		}
	}
	v, err := res.run(nil)
	if err != nil {
		res.run = func([]source.Value) (source.Value, error) { return source.Value{}, err }
		return res
	}
	folded := constant(v)
	folded.aff = res.aff
	return folded
}

// operatorArity returns how many arguments an operator takes; hi < 0 means any number.
func operatorArity(op string) (lo, hi int, ok bool) {
	switch op {
	case "AND", "OR":
		return 2, -1, true
	case "NOT", "~", "NEG", "IS NULL", "IS NOT NULL", "IS TRUE", "IS NOT TRUE", "IS FALSE", "IS NOT FALSE",
		"CAST text", "CAST numeric", "CAST integer", "CAST real", "CAST blob":
		return 1, 1, true
	case "=", "!=", "<", "<=", ">", ">=", "IS", "IS NOT", "+", "-", "*", "/", "%", "&", "|", "<<", ">>", "||",
		"IN", "NOT IN", "&&", "->", "->>":
		return 2, 2, true
	case "BETWEEN", "NOT BETWEEN":
		return 3, 3, true
	case "IN LIST", "NOT IN LIST":
		return 1, -1, true
	case "LIKE", "NOT LIKE":
		return 2, 3, true
	case "ARRAY":
		return 0, -1, true
	}
	return 0, 0, false
}

func (c *compiler) operator(op string, a []operand) operand {
	switch op {
	case "AND", "OR":
		return c.logic(op, a)
	case "NOT":
		return c.not(a[0])
	case "=", "!=", "<", "<=", ">", ">=", "IS", "IS NOT":
		return c.comparison(op, a[0], a[1])
	case "+", "-", "*", "/", "%":
		return c.arithmetic(op, a[0], a[1])
	case "&", "|", "<<", ">>":
		return strict2(a[0], a[1], func(x, y source.Value) (source.Value, error) { return bitOp(op, x, y), nil })
	case "~":
		return strict1(a[0], func(x source.Value) (source.Value, error) { return source.Int(^toInt64(x)), nil })
	case "NEG":
		return c.arithmetic("-", constant(source.Int(0)), a[0])
	case "||":
		return c.concat(a[0], a[1])
	case "IS NULL":
		return lift1(a[0], func(x source.Value) (source.Value, error) { return source.Bool(x.IsNull()), nil })
	case "IS NOT NULL":
		return lift1(a[0], func(x source.Value) (source.Value, error) { return source.Bool(!x.IsNull()), nil })
	case "IS TRUE", "IS NOT TRUE", "IS FALSE", "IS NOT FALSE":
		return c.isTruth(op, a[0])
	case "BETWEEN", "NOT BETWEEN":
		return c.between(op, a)
	case "IN LIST", "NOT IN LIST":
		return c.inList(op, a)
	case "IN", "NOT IN":
		return c.inArray(op, a[0], a[1])
	case "&&":
		return c.overlap(a[0], a[1])
	case "ARRAY":
		return c.array(a)
	case "LIKE", "NOT LIKE":
		return c.like(op, a)
	case "->", "->>":
		return c.arrow(op, a[0], a[1])
	}
	return c.cast(strings.TrimPrefix(op, "CAST "), a[0])
}

func lift1(a operand, f func(source.Value) (source.Value, error)) operand {
	run := a.run
	return operand{run: func(in []source.Value) (source.Value, error) {
		v, err := run(in)
		if err != nil {
			return source.Value{}, err
		}
		return f(v)
	}}
}

func lift2(a, b operand, f func(x, y source.Value) (source.Value, error)) operand {
	ra, rb := a.run, b.run
	return operand{run: func(in []source.Value) (source.Value, error) {
		x, err := ra(in)
		if err != nil {
			return source.Value{}, err
		}
		y, err := rb(in)
		if err != nil {
			return source.Value{}, err
		}
		return f(x, y)
	}}
}

// strict1 and strict2 give NULL if an argument is NULL.
func strict1(a operand, f func(source.Value) (source.Value, error)) operand {
	return lift1(a, func(v source.Value) (source.Value, error) {
		if v.IsNull() {
			return source.Value{}, nil
		}
		return f(v)
	})
}

func strict2(a, b operand, f func(x, y source.Value) (source.Value, error)) operand {
	return lift2(a, b, func(x, y source.Value) (source.Value, error) {
		if x.IsNull() || y.IsNull() {
			return source.Value{}, nil
		}
		return f(x, y)
	})
}

func (c *compiler) truth() func(source.Value) bool {
	if c.Engine == SQLite {
		return truthSQLite
	}
	return truthReference
}

// logic is AND or OR of two or more operands, evaluated from the left and only as
// far as needed. The Reference engine is two-valued.
func (c *compiler) logic(op string, args []operand) operand {
	truth, twoValued := c.truth(), c.Engine == Reference
	deciding := op == "OR" // the truth of an operand that settles the result
	runs := make([]evalFunc, len(args))
	for i, a := range args {
		runs[i] = a.run
	}
	return operand{run: func(in []source.Value) (source.Value, error) {
		null := false
		for _, run := range runs {
			v, err := run(in)
			if err != nil {
				return source.Value{}, err
			}
			if !twoValued && v.IsNull() {
				null = true
			} else if truth(v) == deciding {
				return source.Bool(deciding), nil
			}
		}
		if null {
			return source.Value{}, nil
		}
		return source.Bool(!deciding), nil
	}}
}

func (c *compiler) not(a operand) operand {
	truth := c.truth()
	if c.Engine == SQLite {
		return strict1(a, func(v source.Value) (source.Value, error) { return source.Bool(!truth(v)), nil })
	}
	return lift1(a, func(v source.Value) (source.Value, error) { return source.Bool(!truth(v)), nil })
}

// negate is NOT of the result of another operator, for the NOT forms of operators.
func (c *compiler) negate(op string, res operand) operand {
	if !strings.HasPrefix(op, "NOT ") {
		return res
	}
	if c.Engine == Reference && c.Legacy {
		return strict1(res, func(v source.Value) (source.Value, error) { return source.Bool(!truthReference(v)), nil })
	}
	return c.not(res)
}

func (c *compiler) isTruth(op string, a operand) operand {
	truth := c.truth()
	want := strings.HasSuffix(op, "TRUE")
	negated := strings.Contains(op, "NOT")
	return lift1(a, func(v source.Value) (source.Value, error) {
		is := !v.IsNull() && truth(v) == want
		return source.Bool(is != negated), nil
	})
}

func (c *compiler) arithmetic(op string, a, b operand) operand {
	f := arithmetic(op, c.Engine)
	ra, rb := a.run, b.run
	sym := op[0]
	return operand{run: func(in []source.Value) (source.Value, error) {
		x, err := ra(in)
		if err != nil {
			return source.Value{}, err
		}
		y, err := rb(in)
		if err != nil {
			return source.Value{}, err
		}
		if i, ok := x.Int(); ok {
			if j, ok := y.Int(); ok {
				if r, ok := intArith(sym, i, j); ok {
					return r, nil
				}
			}
		}
		if x.IsNull() || y.IsNull() {
			return source.Value{}, nil
		}
		return f(x, y)
	}}
}

func (c *compiler) compileCase(n Case) (operand, error) {
	if len(n.Whens) == 0 {
		return operand{}, errors.New("compile expression: CASE without WHEN")
	}
	var all []operand
	conds := make([]operand, len(n.Whens))
	thens := make([]evalFunc, len(n.Whens))
	var base operand
	if n.Base != nil {
		var err error
		if base, err = c.compile(n.Base); err != nil {
			return operand{}, err
		}
		all = append(all, base)
	}
	for i, w := range n.Whens {
		ops, err := c.compileAll(w[:])
		if err != nil {
			return operand{}, err
		}
		all = append(all, ops...)
		conds[i], thens[i] = ops[0], ops[1].run
	}
	last := constant(source.Value{})
	if n.Else != nil {
		var err error
		if last, err = c.compile(n.Else); err != nil {
			return operand{}, err
		}
		all = append(all, last)
	}
	res := c.caseOperand(n.Base != nil, base, conds, thens, last.run)
	res.input = -1
	return fold(res, all...), nil
}

func (c *compiler) caseOperand(hasBase bool, base operand, conds []operand, thens []evalFunc, last evalFunc) operand {
	truth := c.truth()
	if !hasBase {
		return operand{run: func(in []source.Value) (source.Value, error) {
			for i := range conds {
				v, err := conds[i].run(in)
				if err != nil {
					return source.Value{}, err
				}
				if !v.IsNull() && truth(v) {
					return thens[i](in)
				}
			}
			return last(in)
		}}
	}
	equal := make([]func(x, y source.Value) (source.Value, error), len(conds))
	for i := range conds {
		equal[i] = c.comparer("=", base.aff, conds[i].aff)
	}
	return operand{run: func(in []source.Value) (source.Value, error) {
		x, err := base.run(in)
		if err != nil {
			return source.Value{}, err
		}
		for i := range conds {
			y, err := conds[i].run(in)
			if err != nil {
				return source.Value{}, err
			}
			v, err := equal[i](x, y)
			if err != nil {
				return source.Value{}, err
			}
			if is, _ := v.Int(); is == 1 {
				return thens[i](in)
			}
		}
		return last(in)
	}}
}
