package expr

import (
	"github.com/millrace-sync/millrace/internal/source"
)

// comparison is = != < <= > >= IS or IS NOT.
func (c *compiler) comparison(op string, a, b operand) operand {
	if fast, ok := c.fastComparison(op, a, b); ok {
		return fast
	}
	return lift2(a, b, c.comparer(op, a.aff, b.aff))
}

// comparer returns the comparison of two values whose expressions have the given
// affinities.
func (c *compiler) comparer(op string, aff, bff affinity) func(x, y source.Value) (source.Value, error) {
	test := orderTest(op)
	if op == "IS" || op == "IS NOT" {
		return c.nullSafe(op, aff, bff)
	}
	if c.Engine == SQLite {
		convert := comparisonAffinity(aff, bff)
		return func(x, y source.Value) (source.Value, error) {
			if x.IsNull() || y.IsNull() {
				return source.Value{}, nil
			}
			x, y = convert.applyBoth(x, y)
			return source.Bool(test(compareSQLite(x, y))), nil
		}
	}
	null := source.Value{}
	if op == "!=" && !c.Legacy {
		null = source.Int(1)
	}
	return func(x, y source.Value) (source.Value, error) {
		if isNullReference(x) || isNullReference(y) {
			return null, nil
		}
		r, err := compareReference(x, y)
		if err != nil {
			return source.Value{}, err
		}
		return source.Bool(test(r)), nil
	}
}

// isNullReference treats NaN, which only a source can give, as NULL.
func isNullReference(v source.Value) bool {
	return v.IsNull() || (v.Kind() == source.KindReal && v.Real() != v.Real())
}

func (c *compiler) nullSafe(op string, aff, bff affinity) func(x, y source.Value) (source.Value, error) {
	equal := c.comparer("=", aff, bff)
	negated := op == "IS NOT"
	return func(x, y source.Value) (source.Value, error) {
		if x.IsNull() || y.IsNull() {
			return source.Bool((x.IsNull() && y.IsNull()) != negated), nil
		}
		v, err := equal(x, y)
		if err != nil {
			return source.Value{}, err
		}
		is, _ := v.Int()
		return source.Bool((is == 1) != negated), nil
	}
}

func orderTest(op string) func(int) bool {
	switch op {
	case "<":
		return func(r int) bool { return r < 0 }
	case "<=":
		return func(r int) bool { return r <= 0 }
	case ">":
		return func(r int) bool { return r > 0 }
	case ">=":
		return func(r int) bool { return r >= 0 }
	case "!=":
		return func(r int) bool { return r != 0 }
	}
	return func(r int) bool { return r == 0 }
}

// fastComparison covers what most filters are, an input beside a literal: the
// common kinds are compared in place, the rest goes the general way.
func (c *compiler) fastComparison(op string, a, b operand) (operand, bool) {
	if a.input < 0 || !b.constant || b.aff != affNone || op == "IS" || op == "IS NOT" {
		return operand{}, false
	}
	i, lit, general := a.input, b.value, c.comparer(op, a.aff, b.aff)
	input := a.run
	slow := func(in []source.Value) (source.Value, error) {
		x, err := input(in)
		if err != nil {
			return source.Value{}, err
		}
		return general(x, lit)
	}
	equality, negated := op == "=" || op == "!=", op == "!="
	switch lit.Kind() {
	case source.KindText:
		if !equality {
			return operand{}, false
		}
		want := lit.Str()
		return operand{run: func(in []source.Value) (source.Value, error) {
			if v := &in[i]; v.Kind() == source.KindText {
				return source.Bool((v.Str() == want) != negated), nil
			}
			return slow(in)
		}}, true
	case source.KindInteger:
		want, ok := lit.Int()
		if !ok {
			return operand{}, false
		}
		test := orderTest(op)
		return operand{run: func(in []source.Value) (source.Value, error) {
			if x, ok := in[i].Int(); ok {
				if equality {
					return source.Bool((x == want) != negated), nil
				}
				r := 0
				if x < want {
					r = -1
				} else if x > want {
					r = 1
				}
				return source.Bool(test(r)), nil
			}
			return slow(in)
		}}, true
	}
	return operand{}, false
}

// between is value BETWEEN low AND high. In the Reference engine it is NULL if any
// of the three is.
func (c *compiler) between(op string, a []operand) operand {
	atLeast, atMost := c.comparer(">=", a[0].aff, a[1].aff), c.comparer("<=", a[0].aff, a[2].aff)
	rx, rlo, rhi := a[0].run, a[1].run, a[2].run
	reference := c.Engine == Reference
	res := operand{run: func(in []source.Value) (source.Value, error) {
		x, err := rx(in)
		if err != nil {
			return source.Value{}, err
		}
		lo, err := rlo(in)
		if err != nil {
			return source.Value{}, err
		}
		hi, err := rhi(in)
		if err != nil {
			return source.Value{}, err
		}
		l, err := atLeast(x, lo)
		if err != nil {
			return source.Value{}, err
		}
		h, err := atMost(x, hi)
		if err != nil {
			return source.Value{}, err
		}
		if reference && (l.IsNull() || h.IsNull()) {
			return source.Value{}, nil
		}
		return and3(l, h), nil
	}}
	return c.negate(op, res)
}

// and3 is the three-valued AND of two results of comparisons.
func and3(l, h source.Value) source.Value {
	li, _ := l.Int()
	hi, _ := h.Int()
	switch {
	case !l.IsNull() && li == 0, !h.IsNull() && hi == 0:
		return source.Int(0)
	case l.IsNull() || h.IsNull():
		return source.Value{}
	}
	return source.Int(1)
}

// inList is value IN (a, b, …): 1 if an element equals the value, else NULL if the
// value or, in SQLite, an element is NULL, else 0.
func (c *compiler) inList(op string, a []operand) operand {
	equal := c.comparer("=", a[0].aff, affNone)
	value, sqlite := a[0].run, c.Engine == SQLite
	elems := make([]evalFunc, len(a)-1)
	for i := range elems {
		elems[i] = a[i+1].run
	}
	res := operand{run: func(in []source.Value) (source.Value, error) {
		x, err := value(in)
		if err != nil {
			return source.Value{}, err
		}
		if len(elems) == 0 {
			return source.Int(0), nil
		}
		null := false
		for _, elem := range elems {
			y, err := elem(in)
			if err != nil {
				return source.Value{}, err
			}
			v, err := equal(x, y)
			if err != nil {
				return source.Value{}, err
			}
			if v.IsNull() {
				null = true
			} else if is, _ := v.Int(); is == 1 {
				return v, nil
			}
		}
		if null && (sqlite || x.IsNull()) {
			return source.Value{}, nil
		}
		return source.Int(0), nil
	}}
	return c.negate(op, res)
}
