package expr

import (
	"cmp"
	"strings"

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
	holds := ordersOf(op)
	if op == "IS" || op == "IS NOT" {
		return c.nullSafe(op, aff, bff)
	}
	if c.Engine == SQLite {
		convert := comparisonAffinity(aff, bff)
		return func(x, y source.Value) (source.Value, error) {
			if x.IsNull() || y.IsNull() {
				return source.Value{}, nil
			}
			if convert > affBlob {
				x, y = convert.applyBoth(x, y)
			}
			if x.Kind() == source.KindText && y.Kind() == source.KindText {
				return holds.text(x.Str(), y.Str(), strings.Compare), nil
			}
			return holds.value(compareSQLite(x, y)), nil
		}
	}
	null := source.Value{}
	if op == "!=" && !c.Legacy {
		null = source.Int(1)
	}
	return func(x, y source.Value) (source.Value, error) {
		if x.Kind() == source.KindText && y.Kind() == source.KindText {
			return holds.text(x.Str(), y.Str(), compareUTF16), nil
		}
		if isNullReference(x) || isNullReference(y) {
			return null, nil
		}
		r, err := compareReference(x, y)
		if err != nil {
			return source.Value{}, err
		}
		return holds.value(r), nil
	}
}

// orders is the set of results of a three-way comparison for which an operator
// holds: bit 0 for less, 1 for equal, 2 for greater.
type orders uint8

func ordersOf(op string) orders {
	switch op {
	case "<":
		return 1
	case "<=":
		return 1 | 2
	case ">":
		return 4
	case ">=":
		return 4 | 2
	case "!=":
		return 1 | 4
	}
	return 2
}

func (o orders) value(r int) source.Value { return source.Int(int64(o >> (r + 1) & 1)) }

// text compares two texts; equality needs no order.
func (o orders) text(x, y string, compare func(x, y string) int) source.Value {
	switch o {
	case 2:
		return source.Bool(x == y)
	case 1 | 4:
		return source.Bool(x != y)
	}
	return o.value(compare(x, y))
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
	holds := ordersOf(op)
	switch lit.Kind() {
	case source.KindText:
		want, compare := lit.Str(), compareUTF16
		if c.Engine == SQLite {
			compare = strings.Compare
		}
		return operand{run: func(in []source.Value) (source.Value, error) {
			if v := &in[i]; v.Kind() == source.KindText {
				return holds.text(v.Str(), want, compare), nil
			}
			return slow(in)
		}}, true
	case source.KindInteger:
		want, ok := lit.Int()
		if !ok {
			return operand{}, false
		}
		return operand{run: func(in []source.Value) (source.Value, error) {
			if x, ok := in[i].Int(); ok {
				return holds.value(cmp.Compare(x, want)), nil
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
	o := c.Options
	equal := c.comparer("=", a[0].aff, affNone)
	value := a[0].run
	elems := make([]evalFunc, len(a)-1)
	for i := range elems {
		elems[i] = a[i+1].run
	}
	return c.negate(op, operand{run: func(in []source.Value) (source.Value, error) {
		x, err := value(in)
		if err != nil {
			return source.Value{}, err
		}
		s := search{x: x, equal: equal}
		for _, elem := range elems {
			y, err := elem(in)
			if err != nil {
				return source.Value{}, err
			}
			if !s.visit(y) {
				break
			}
		}
		return s.result(o)
	}})
}
