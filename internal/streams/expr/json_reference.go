package expr

import (
	"strconv"
	"strings"

	"github.com/millrace-sync/millrace/internal/source"
)

// FromJSON returns the SQL value of a JSON value as request parameters and claims
// have it: digits alone are an integer of any size, other numbers reals, booleans 1
// and 0, objects and arrays compact JSON text, null NULL.
func FromJSON(raw []byte) (source.Value, error) {
	j, err := checkJSON("read JSON", string(raw))
	if err != nil {
		return source.Value{}, err
	}
	return j.value("read JSON")
}

// JSONEach calls yield with the key and value of each element of a JSON array or
// member of a JSON object, as the table function json_each does; keys are integers
// from 0 or texts. A JSON scalar is one element without a key, NULL has none. It
// stops if yield returns false. Text that is not JSON is an ErrValue, as is in the
// Reference engine any value that is not text.
func JSONEach(v source.Value, o Options, yield func(key, value source.Value) bool) error {
	return jsonEach("json_each", v, o, yield)
}

func jsonEach(op string, v source.Value, o Options, yield func(key, value source.Value) bool) error {
	if v.IsNull() {
		return nil
	}
	if o.Engine == SQLite {
		return jsonEachSQLite(op, v, yield)
	}
	j, err := jsonOf(op, v)
	if err != nil {
		return err
	}
	if !j.isContainer() {
		value, err := j.value(op)
		if err == nil {
			yield(source.Value{}, value)
		}
		return err
	}
	if j.isArray() {
		var i int64
		j.members(func(_, elem jsonText) bool {
			var value source.Value
			if value, err = elem.value(op); err != nil {
				return false
			}
			i++
			return yield(source.Int(i-1), value)
		})
		return err
	}
	for _, m := range j.object() {
		value, err := m.value.value(op)
		if err != nil {
			return err
		}
		if !yield(source.String(m.key), value) {
			break
		}
	}
	return nil
}

// jsonOf returns the document in a value that is not NULL.
func jsonOf(op string, v source.Value) (jsonText, error) {
	if v.Kind() != source.KindText {
		return "", badValue(op, "JSON text is wanted, not a value of type %s", Typeof(v))
	}
	return checkJSON(op, v.Str())
}

// arrow is -> or ->>.
func (c *compiler) arrow(op string, a, b operand) operand {
	if c.Engine == SQLite {
		return lift2(a, b, func(x, path source.Value) (source.Value, error) { return arrowSQLite(op, x, path) })
	}
	fixed := c.FixedJSONExtract
	return strict2(a, b, func(x, path source.Value) (source.Value, error) {
		j, err := jsonOf(op, x)
		if err != nil {
			return source.Value{}, err
		}
		found, ok := arrowPath(j, path, fixed)
		if !ok {
			return source.Value{}, nil
		}
		if op == "->" {
			b, err := found.appendCompact(op, nil)
			return source.String(string(b)), err
		}
		if found == "null" && !fixed {
			return source.String("null"), nil
		}
		return found.value(op)
	})
}

// arrowPath finds what the right side of -> or ->> names: an integer is an index of
// an array; a text is a path if it begins with $., else one key. Without fixed
// every text is a path.
func arrowPath(j jsonText, path source.Value, fixed bool) (jsonText, bool) {
	if path.Kind() == source.KindInteger {
		i, ok := path.Int()
		if !ok {
			return "", false
		}
		return step(j, strconv.FormatInt(i, 10))
	}
	p := textReference(path)
	if p == "$" {
		return j, true
	}
	rest, dollar := strings.CutPrefix(p, "$.")
	if fixed && !dollar {
		return step(j, p)
	}
	return walk(j, rest)
}

// walk follows the keys of a path, separated by dots.
func walk(j jsonText, path string) (jsonText, bool) {
	for more := true; more; {
		var key string
		key, path, more = strings.Cut(path, ".")
		var ok bool
		if j, ok = step(j, key); !ok {
			return "", false
		}
	}
	return j, true
}

// step returns a member of an object, or an element of an array by its index.
func step(j jsonText, key string) (jsonText, bool) {
	switch {
	case j.isObject():
		return j.member(key)
	case j.isArray():
		if i, ok := arrayIndex(key); ok {
			return j.element(int64(i))
		}
	}
	return "", false
}

// jsonPath resolves a path that must begin with $, as json_extract and
// json_array_length take it.
func jsonPath(op string, j jsonText, path source.Value) (jsonText, bool, error) {
	p := textReference(path)
	if p == "$" {
		return j, true, nil
	}
	rest, ok := strings.CutPrefix(p, "$.")
	if !ok {
		return "", false, badValue(op, "the path %s must begin with $.", quoteShort(p))
	}
	found, ok := walk(j, rest)
	return found, ok, nil
}

// jsonExtract is json_extract(x, path, …).
func jsonExtract(o Options, a []source.Value) (source.Value, error) {
	const op = "json_extract"
	if o.Engine == SQLite {
		return jsonExtractSQLite(op, a)
	}
	if a[0].IsNull() || a[1].IsNull() {
		return source.Value{}, nil
	}
	j, err := jsonOf(op, a[0])
	if err != nil {
		return source.Value{}, err
	}
	found, ok, err := jsonPath(op, j, a[1])
	if err != nil || !ok {
		return source.Value{}, err
	}
	return found.value(op)
}

// jsonArrayLength is json_array_length(x [, path]): 0 for what is no array.
func jsonArrayLength(o Options, a []source.Value) (source.Value, error) {
	const op = "json_array_length"
	if o.Engine == SQLite {
		return jsonArrayLengthSQLite(op, a)
	}
	if a[0].IsNull() || a[len(a)-1].IsNull() {
		return source.Value{}, nil
	}
	j, err := jsonOf(op, a[0])
	if err != nil {
		return source.Value{}, err
	}
	if len(a) == 2 {
		var ok bool
		if j, ok, err = jsonPath(op, j, a[1]); err != nil || !ok {
			return source.Value{}, err
		}
	}
	n := int64(0)
	if j.isArray() {
		j.members(func(_, _ jsonText) bool { n++; return true })
	}
	return source.Int(n), nil
}

// jsonKeys gives an object's keys as a JSON array. Anything else is an error.
func jsonKeys(_ Options, v source.Value) (source.Value, error) {
	const op = "json_keys"
	j, err := jsonOf(op, v)
	if err != nil {
		return source.Value{}, err
	}
	if !j.isObject() {
		return source.Value{}, badValue(op, "%s is not a JSON object", quoteShort(string(j)))
	}
	dst := []byte{'['}
	for i, m := range j.object() {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = AppendString(dst, m.key)
	}
	return source.String(string(append(dst, ']'))), nil
}

// jsonValid is json_valid(x [, flags]); the Reference engine takes no flags.
func jsonValid(o Options, a []source.Value) (source.Value, error) {
	const op = "json_valid"
	if o.Engine == SQLite {
		return jsonValidSQLite(op, a)
	}
	if len(a) == 2 {
		return source.Value{}, badValue(op, "the default expression engine takes no flags")
	}
	if a[0].IsNull() {
		return source.Value{}, nil
	}
	if a[0].Kind() != source.KindText {
		return source.Bool(a[0].Kind() == source.KindInteger || a[0].Kind() == source.KindReal), nil
	}
	_, err := checkJSON(op, a[0].Str())
	return source.Bool(err == nil), nil
}
