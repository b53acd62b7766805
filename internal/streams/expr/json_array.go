package expr

import (
	"math"
	"strconv"

	"github.com/millrace-sync/millrace/internal/source"
)

// inArray is value IN array, where array is JSON text: as value IN (SELECT value
// FROM json_each(array)).
func (c *compiler) inArray(op string, a, b operand) operand {
	const name = "IN"
	o := c.Options
	equal := c.comparer("=", a.aff, affBlob) // a column without a type has the affinity blob
	if b.constant && !b.value.IsNull() {
		var values []source.Value
		err := jsonEach(name, b.value, o, func(_, v source.Value) bool { values = append(values, v); return true })
		return c.negate(op, lift1(a, func(x source.Value) (source.Value, error) {
			if err != nil {
				return source.Value{}, err
			}
			s := search{x: x, equal: equal}
			for _, v := range values {
				if !s.visit(v) {
					break
				}
			}
			return s.result(o)
		}))
	}
	return c.negate(op, lift2(a, b, func(x, array source.Value) (source.Value, error) {
		if array.IsNull() && o.Engine == Reference {
			return source.Value{}, nil
		}
		s := search{x: x, equal: equal}
		if err := jsonEach(name, array, o, func(_, v source.Value) bool { return s.visit(v) }); err != nil {
			return source.Value{}, err
		}
		return s.result(o)
	}))
}

// search looks for a value among the elements of a list.
type search struct {
	x     source.Value
	equal func(x, y source.Value) (source.Value, error)
	found bool
	null  bool // an element, or x, is NULL
	err   error
}

// visit looks at one element and reports whether to go on.
func (s *search) visit(y source.Value) bool {
	v, err := s.equal(s.x, y)
	if err != nil {
		s.err = err
		return false
	}
	if v.IsNull() {
		s.null = true
	} else if is, _ := v.Int(); is == 1 {
		s.found = true
	}
	return !s.found
}

// result is the value of IN: in the Reference engine NULL elements do not matter.
func (s *search) result(o Options) (source.Value, error) {
	switch {
	case s.err != nil:
		return source.Value{}, s.err
	case s.found:
		return source.Int(1), nil
	case s.null && (o.Engine == SQLite || s.x.IsNull()):
		return source.Value{}, nil
	}
	return source.Int(0), nil
}

// overlap is a && b: whether two JSON arrays have an element in common. NULL
// elements equal nothing.
func (c *compiler) overlap(a, b operand) operand {
	o := c.Options
	return strict2(a, b, func(x, y source.Value) (source.Value, error) {
		seen := make(map[string]bool)
		var buf []byte
		err := jsonEach("&&", x, o, func(_, v source.Value) bool {
			if buf = appendKey(buf[:0], v); len(buf) > 0 {
				seen[string(buf)] = true
			}
			return true
		})
		if err != nil {
			return source.Value{}, err
		}
		found := false
		err = jsonEach("&&", y, o, func(_, v source.Value) bool {
			buf = appendKey(buf[:0], v)
			found = seen[string(buf)]
			return !found
		})
		return source.Bool(found), err
	})
}

// appendKey appends a text that two values have in common exactly if they are equal
// without conversions; nothing for NULL and NaN.
func appendKey(dst []byte, v source.Value) []byte {
	switch v.Kind() {
	case source.KindInteger:
		return append(append(dst, 'n'), integerDigits(v)...)
	case source.KindReal:
		f := v.Real()
		switch {
		case f != f:
			return dst
		case f == 0:
			return append(dst, "n0"...)
		case f == math.Trunc(f) && !math.IsInf(f, 0):
			return strconv.AppendFloat(append(dst, 'n'), f, 'f', 0, 64)
		}
		return strconv.AppendFloat(append(dst, 'n'), f, 'g', -1, 64)
	case source.KindText:
		return append(append(dst, 't'), v.Str()...)
	case source.KindBlob:
		return append(append(dst, 'b'), v.Str()...)
	}
	return dst
}

// array is ARRAY[…] as JSON array text.
func (c *compiler) array(a []operand) operand {
	return operand{run: func(in []source.Value) (source.Value, error) {
		dst := []byte{'['}
		for i := range a {
			v, err := a[i].run(in)
			if err != nil {
				return source.Value{}, err
			}
			if i > 0 {
				dst = append(dst, ',')
			}
			var ok bool
			if dst, ok = AppendJSON(dst, v); !ok {
				return source.Value{}, badValue("ARRAY", "a blob has no JSON form")
			}
			if len(dst) > MaxText {
				return source.Value{}, tooLarge("ARRAY", "the result is longer than %d bytes", MaxText)
			}
		}
		return source.String(string(append(dst, ']'))), nil
	}}
}
