package expr

import (
	"strings"

	"github.com/millrace-sync/millrace/internal/source"
)

// jsonbOf returns the document in a value that is not NULL: a blob in JSONB, or the
// text of any other value. A scalar in a blob is checked when it is used.
func jsonbOf(op string, v source.Value) (jsonb, error) {
	if v.Kind() == source.KindBlob && looksLikeJSONB(v.Str()) {
		j := jsonb(v.Str())
		if j.kind() < jsonbArray || j.valid(1) {
			return j, nil
		}
		return "", badValue(op, "malformed JSONB")
	}
	j, _, ok := parseJSON5(textSQLite(v))
	if !ok {
		return "", badValue(op, "malformed JSON")
	}
	return j, nil
}

func valueJSONB(op string, j jsonb) (source.Value, error) {
	if j.kind() < jsonbArray && !j.valid(1) {
		return source.Value{}, badValue(op, "malformed JSONB")
	}
	v, ok := j.value()
	if !ok {
		return source.Value{}, badValue(op, "malformed JSON")
	}
	return v, nil
}

func textJSONB(op string, dst []byte, j jsonb) ([]byte, error) {
	if j.kind() < jsonbArray && !j.valid(1) {
		return dst, badValue(op, "malformed JSONB")
	}
	return j.appendText(dst), nil
}

func jsonEachSQLite(op string, v source.Value, yield func(key, value source.Value) bool) error {
	j, err := jsonbOf(op, v)
	if err != nil {
		return err
	}
	if j.kind() < jsonbArray {
		value, err := valueJSONB(op, j)
		if err == nil {
			yield(source.Value{}, value)
		}
		return err
	}
	object := j.kind() == jsonbObject
	rest := jsonb(j.body())
	for i := int64(0); rest != ""; i++ {
		var elem jsonb
		elem, rest = rest.next()
		key := source.Int(i)
		if object {
			if key, err = valueJSONB(op, elem); err != nil {
				return err
			}
			elem, rest = rest.next()
		}
		value, err := valueJSONB(op, elem)
		if err != nil {
			return err
		}
		if !yield(key, value) {
			return nil
		}
	}
	return nil
}

// lookup follows a path without its $. found is false for a path that leads
// nowhere, ok for one that is none.
func (j jsonb) lookup(path string) (elem jsonb, found, ok bool) {
	if path == "" {
		return j, true, true
	}
	switch path[0] {
	case '.':
		return j.lookupKey(path[1:])
	case '[':
		return j.lookupIndex(path[1:])
	}
	return "", false, false
}

func (j jsonb) lookupKey(path string) (elem jsonb, found, ok bool) {
	var key string
	raw := true
	if strings.HasPrefix(path, `"`) {
		i := 1
		for i < len(path) && path[i] != '"' {
			if path[i] == '\\' && i+1 < len(path) {
				i++
			}
			i++
		}
		if i >= len(path) {
			return "", false, false
		}
		key, path = path[1:i], path[i+1:]
		raw = strings.IndexByte(key, '\\') < 0
	} else {
		n := strings.IndexAny(path, ".[")
		if n < 0 {
			n = len(path)
		}
		if n == 0 {
			return "", false, false
		}
		key, path = path[:n], path[n:]
	}
	if j.kind() != jsonbObject {
		return "", false, true
	}
	rest := jsonb(j.body())
	for rest != "" {
		var label, value jsonb
		label, rest = rest.next()
		value, rest = rest.next()
		if sameLabel(key, raw, label.body(), label.kind().isRaw()) {
			return value.lookup(path)
		}
	}
	return "", false, true
}

func (j jsonb) lookupIndex(path string) (elem jsonb, found, ok bool) {
	if j.kind() != jsonbArray {
		return "", false, true
	}
	index, n := leadingUint32(path)
	if n == 0 || n >= len(path) || path[n] != ']' {
		if !strings.HasPrefix(path, "#") {
			return "", false, false
		}
		index, n = uint32(j.count()), 1
		if len(path) > 2 && path[1] == '-' && isDigit(path[2]) {
			back, digits := leadingUint32(path[2:])
			if back > index {
				return "", false, true
			}
			index, n = index-back, 2+digits
		}
		if n >= len(path) || path[n] != ']' {
			return "", false, false
		}
	}
	for rest := jsonb(j.body()); rest != ""; index-- {
		elem, rest = rest.next()
		if index == 0 {
			return elem.lookup(path[n+1:])
		}
	}
	return "", false, true
}

// leadingUint32 reads digits modulo 2³², as SQLite does.
func leadingUint32(s string) (v uint32, n int) {
	for n < len(s) && isDigit(s[n]) {
		v = v*10 + uint32(s[n]-'0')
		n++
	}
	return v, n
}

// sameLabel compares two labels, of which each may have escapes.
func sameLabel(a string, aRaw bool, b string, bRaw bool) bool {
	if aRaw && bRaw {
		return a == b
	}
	for {
		x, n := labelRune(a, aRaw)
		y, m := labelRune(b, bRaw)
		if x != y {
			return false
		}
		if x == 0 {
			return true
		}
		a, b = a[n:], b[m:]
	}
}

func labelRune(s string, raw bool) (r rune, n int) {
	switch {
	case s == "":
		return 0, 0
	case raw || s[0] != '\\':
		return readLoose(s)
	}
	return unescape(s)
}

func badPath(op, path string) error { return badValue(op, "bad JSON path: %s", quoteShort(path)) }

// cText returns the text of a value up to the first NUL, where SQLite's path
// functions stop.
func cText(v source.Value) string {
	s, _, _ := strings.Cut(textSQLite(v), "\x00")
	return s
}

func arrowSQLite(op string, x, path source.Value) (source.Value, error) {
	if x.IsNull() {
		return source.Value{}, nil
	}
	j, err := jsonbOf(op, x)
	if err != nil || path.IsNull() {
		return source.Value{}, err
	}
	p := cText(path)
	step := ""
	switch {
	case strings.HasPrefix(p, "$"):
		step = p[1:]
	case path.Kind() == source.KindInteger && p[0] == '-':
		step = "[#" + p + "]"
	case path.Kind() == source.KindInteger:
		step = "[" + p + "]"
	case allBytes(p, func(c byte) bool { return isAlnum(c) || c == '_' }):
		step = "." + p
	case len(p) >= 3 && p[0] == '[' && p[len(p)-1] == ']':
		step = p
	default:
		step = `."` + p + `"`
	}
	elem, found, ok := j.lookup(step)
	switch {
	case !ok:
		return source.Value{}, badPath(op, p)
	case !found:
		return source.Value{}, nil
	case op == "->":
		text, err := textJSONB(op, nil, elem)
		if err != nil {
			return source.Value{}, err
		}
		return source.String(string(text)), nil
	}
	return valueJSONB(op, elem)
}

func jsonExtractSQLite(op string, a []source.Value) (source.Value, error) {
	if a[0].IsNull() {
		return source.Value{}, nil
	}
	j, err := jsonbOf(op, a[0])
	if err != nil {
		return source.Value{}, err
	}
	dst := []byte{'['}
	for i, path := range a[1:] {
		if path.IsNull() {
			return source.Value{}, nil
		}
		p := cText(path)
		if !strings.HasPrefix(p, "$") {
			return source.Value{}, badPath(op, p)
		}
		elem, found, ok := j.lookup(p[1:])
		if !ok {
			return source.Value{}, badPath(op, p)
		}
		if len(a) == 2 {
			if !found {
				return source.Value{}, nil
			}
			return valueJSONB(op, elem)
		}
		if i > 0 {
			dst = append(dst, ',')
		}
		if !found {
			dst = append(dst, "null"...)
		} else if dst, err = textJSONB(op, dst, elem); err != nil {
			return source.Value{}, err
		}
		if len(dst) > MaxText {
			return source.Value{}, tooLarge(op, "the result is longer than %d bytes", MaxText)
		}
	}
	return source.String(string(append(dst, ']'))), nil
}

func jsonArrayLengthSQLite(op string, a []source.Value) (source.Value, error) {
	if a[0].IsNull() {
		return source.Value{}, nil
	}
	j, err := jsonbOf(op, a[0])
	if err != nil {
		return source.Value{}, err
	}
	if len(a) == 2 {
		if a[1].IsNull() {
			return source.Value{}, nil
		}
		p := cText(a[1])
		step, dollar := strings.CutPrefix(p, "$")
		elem, found, ok := j.lookup(step)
		switch {
		case !dollar || !ok:
			return source.Value{}, badPath(op, p)
		case !found:
			return source.Value{}, nil
		}
		j = elem
	}
	if j.kind() != jsonbArray {
		return source.Int(0), nil
	}
	return source.Int(int64(j.count())), nil
}

func jsonValidSQLite(op string, a []source.Value) (source.Value, error) {
	flags := int64(1)
	if len(a) == 2 {
		if flags = toInt64(a[1]); flags < 1 || flags > 15 {
			return source.Value{}, badValue(op, "the flags must be between 1 and 15")
		}
	}
	v := a[0]
	if v.IsNull() {
		return source.Value{}, nil
	}
	if v.Kind() == source.KindBlob && looksLikeJSONB(v.Str()) {
		return source.Bool(flags&4 != 0 || (flags&8 != 0 && jsonb(v.Str()).valid(1))), nil
	}
	if flags&3 == 0 {
		return source.Int(0), nil
	}
	_, standard, ok := parseJSON5(textSQLite(v))
	return source.Bool(ok && (standard || flags&2 != 0)), nil
}
