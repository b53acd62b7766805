package expr

import (
	"math"
	"strconv"

	"github.com/millrace-sync/millrace/internal/source"
)

// inArray is value IN array, where array is JSON text: as value IN (SELECT value
// FROM json_each(array)).
func (c *compiler) inArray(op string, a, b operand) operand {
	o := c.Options
	equal := c.comparer("=", a.aff, affBlob) // a column without a type has the affinity blob
	const name = "IN"
	search := func(x source.Value, each func(yield func(key, value source.Value) bool) error) (source.Value, error) {
		found, null := false, false
		var failed error
		err := each(func(_, y source.Value) bool {
			v, err := equal(x, y)
			if err != nil {
				failed = err
				return false
			}
			if v.IsNull() {
				null = true
			} else if is, _ := v.Int(); is == 1 {
				found = true
			}
			return !found
		})
		switch {
		case err != nil:
			return source.Value{}, err
		case failed != nil:
			return source.Value{}, failed
		case found:
			return source.Int(1), nil
		case null && (o.Engine == SQLite || x.IsNull()):
			return source.Value{}, nil
		}
		return source.Int(0), nil
	}
	var res operand
	if b.constant && !b.value.IsNull() {
		var values []source.Value
		err := jsonEach(name, b.value, o, func(_, v source.Value) bool { values = append(values, v); return true })
		res = lift1(a, func(x source.Value) (source.Value, error) {
			if err != nil {
				return source.Value{}, err
			}
			return search(x, func(yield func(key, value source.Value) bool) error {
				for _, v := range values {
					if !yield(source.Value{}, v) {
						break
					}
				}
				return nil
			})
		})
	} else {
		res = lift2(a, b, func(x, array source.Value) (source.Value, error) {
			if array.IsNull() && o.Engine == Reference {
				return source.Value{}, nil
			}
			return search(x, func(yield func(key, value source.Value) bool) error { return jsonEach(name, array, o, yield) })
		})
	}
	return c.negate(op, res)
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
