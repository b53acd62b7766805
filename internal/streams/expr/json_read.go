package expr

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/millrace-sync/millrace/internal/source"
)

// This file reads JSON as JavaScript does, for the Reference engine, for request
// parameters and for token claims. Nothing is built in memory: a document is
// checked once as a whole, then walked as text.

// jsonText is JSON that has been checked, without white space around it.
type jsonText string

// checkJSON returns the document s, or an error of kind ErrValue or ErrLimit.
func checkJSON(op, s string) (jsonText, error) {
	start := skipSpace(s, 0)
	end, err := scanJSON(op, s, start, 0)
	if err != nil {
		return "", err
	}
	if skipSpace(s, end) != len(s) {
		return "", notJSON(op, s)
	}
	return jsonText(s[start:end]), nil
}

func notJSON(op, s string) error { return badValue(op, "%s is not JSON", quoteShort(s)) }

func skipSpace(s string, i int) int {
	for i < len(s) && (s[i] == ' ' || s[i] == '\t' || s[i] == '\n' || s[i] == '\r') {
		i++
	}
	return i
}

// scanJSON returns the end of the value that begins at i.
func scanJSON(op, s string, i, depth int) (int, error) {
	if i >= len(s) {
		return 0, notJSON(op, s)
	}
	switch c := s[i]; c {
	case '{', '[':
		if depth >= MaxJSONDepth {
			return 0, tooLarge(op, "the JSON is nested deeper than %d", MaxJSONDepth)
		}
		return scanContainer(op, s, i, depth, c+2) // the closing bracket follows by two in ASCII
	case '"':
		if end := scanString(s, i); end > 0 {
			return end, nil
		}
	case 't':
		if strings.HasPrefix(s[i:], "true") {
			return i + 4, nil
		}
	case 'f':
		if strings.HasPrefix(s[i:], "false") {
			return i + 5, nil
		}
	case 'n':
		if strings.HasPrefix(s[i:], "null") {
			return i + 4, nil
		}
	default:
		if end, _ := scanJSONNumber(s, i); end > 0 {
			return end, nil
		}
	}
	return 0, notJSON(op, s)
}

func scanContainer(op, s string, i, depth int, closing byte) (int, error) {
	i = skipSpace(s, i+1)
	if i < len(s) && s[i] == closing {
		return i + 1, nil
	}
	for {
		if closing == '}' {
			if i = scanString(s, i); i < 0 {
				return 0, notJSON(op, s)
			}
			if i = skipSpace(s, i); i >= len(s) || s[i] != ':' {
				return 0, notJSON(op, s)
			}
			i = skipSpace(s, i+1)
		}
		end, err := scanJSON(op, s, i, depth+1)
		if err != nil {
			return 0, err
		}
		if i = skipSpace(s, end); i >= len(s) {
			return 0, notJSON(op, s)
		}
		switch s[i] {
		case closing:
			return i + 1, nil
		case ',':
			i = skipSpace(s, i+1)
		default:
			return 0, notJSON(op, s)
		}
	}
}

// scanString returns the end of the string that begins at i, or -1.
func scanString(s string, i int) int {
	if i >= len(s) || s[i] != '"' {
		return -1
	}
	for i++; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return i + 1
		case c < 0x20:
			return -1
		case c == '\\':
			i++
			if i >= len(s) {
				return -1
			}
			switch s[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				if _, ok := hex4(s, i+1); !ok {
					return -1
				}
				i += 4
			default:
				return -1
			}
		}
	}
	return -1
}

// scanJSONNumber returns the end of the number that begins at i, or -1, and whether
// it has a fraction or an exponent.
func scanJSONNumber(s string, i int) (end int, real bool) {
	if i < len(s) && s[i] == '-' {
		i++
	}
	digits := func() bool {
		start := i
		for i < len(s) && isDigit(s[i]) {
			i++
		}
		return i > start
	}
	if i < len(s) && s[i] == '0' {
		i++
	} else if !digits() {
		return -1, false
	}
	if i < len(s) && s[i] == '.' {
		i++
		if real = true; !digits() {
			return -1, false
		}
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		i++
		if i < len(s) && (s[i] == '+' || s[i] == '-') {
			i++
		}
		if real = true; !digits() {
			return -1, false
		}
	}
	return i, real
}

func hex4(s string, i int) (rune, bool) {
	if i+4 > len(s) {
		return 0, false
	}
	var r rune
	for _, c := range []byte(s[i : i+4]) {
		d, ok := hexValue(c)
		if !ok {
			return 0, false
		}
		r = r<<4 | rune(d)
	}
	return r, true
}

func hexValue(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// end returns the end of the value at i of a checked document.
func (j jsonText) end(i int) int {
	s := string(j)
	switch s[i] {
	case '{', '[':
		depth := 0
		for {
			switch s[i] {
			case '"':
				i = skipString(s, i)
				continue
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
			i++
		}
	case '"':
		return skipString(s, i)
	}
	for i < len(s) && s[i] != ',' && s[i] != ']' && s[i] != '}' && s[i] != ' ' && s[i] != '\t' && s[i] != '\n' && s[i] != '\r' {
		i++
	}
	return i
}

// skipString returns the end of a checked string.
func skipString(s string, i int) int {
	for i++; s[i] != '"'; i++ {
		if s[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// members calls yield with each member of an object or element of an array; key is
// the raw string of a member, empty for an element. It stops if yield returns false.
func (j jsonText) members(yield func(key, value jsonText) bool) {
	s := string(j)
	object := s[0] == '{'
	for i := skipSpace(s, 1); s[i] != ']' && s[i] != '}'; {
		var key jsonText
		if object {
			end := skipString(s, i)
			key = j[i:end]
			i = skipSpace(s, skipSpace(s, end)+1)
		}
		end := j.end(i)
		if !yield(key, j[i:end]) {
			return
		}
		if i = skipSpace(s, end); s[i] == ',' {
			i = skipSpace(s, i+1)
		}
	}
}

func (j jsonText) isArray() bool     { return j[0] == '[' }
func (j jsonText) isObject() bool    { return j[0] == '{' }
func (j jsonText) isContainer() bool { return j[0] == '[' || j[0] == '{' }

// str returns the content of a string.
func (j jsonText) str() string { return decodeString(string(j[1 : len(j)-1])) }

// decodeString resolves the escapes of a checked string's content. Escaped halves
// of a surrogate pair become one character, a lone one stays as three bytes.
func decodeString(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b = append(b, s[i])
			continue
		}
		i++
		switch c := s[i]; c {
		case 'b':
			b = append(b, '\b')
		case 'f':
			b = append(b, '\f')
		case 'n':
			b = append(b, '\n')
		case 'r':
			b = append(b, '\r')
		case 't':
			b = append(b, '\t')
		case 'u':
			r, _ := hex4(s, i+1)
			i += 4
			if r >= 0xD800 && r < 0xDC00 && strings.HasPrefix(s[i+1:], "\\u") {
				if lo, _ := hex4(s, i+3); lo >= 0xDC00 && lo < 0xE000 {
					r = 0x10000 + (r-0xD800)<<10 + (lo - 0xDC00)
					i += 6
				}
			}
			b = appendRune(b, r)
		default:
			b = append(b, c)
		}
	}
	return string(b)
}

// appendRune appends r; a surrogate as the three bytes that UTF-8 would use.
func appendRune(b []byte, r rune) []byte {
	if r >= 0xD800 && r < 0xE000 {
		return append(b, 0xED, 0x80|byte(r>>6&0x3F), 0x80|byte(r&0x3F))
	}
	return utf8.AppendRune(b, r)
}

// value returns the SQL value of a JSON value: booleans are 1 and 0, objects and
// arrays compact JSON text.
func (j jsonText) value(op string) (source.Value, error) {
	switch j[0] {
	case 'n':
		return source.Value{}, nil
	case 't':
		return source.Int(1), nil
	case 'f':
		return source.Int(0), nil
	case '"':
		return source.String(j.str()), nil
	case '{', '[':
		b, err := j.appendCompact(op, nil)
		if err != nil {
			return source.Value{}, err
		}
		return source.String(string(b)), nil
	}
	return j.number(op)
}

// number returns a number: digits alone are an integer of any size, anything else a
// real.
func (j jsonText) number(op string) (source.Value, error) {
	if _, real := scanJSONNumber(string(j), 0); real {
		f, _ := strconv.ParseFloat(string(j), 64)
		return source.Real(f), nil
	}
	if len(j) > MaxDigits {
		return source.Value{}, tooLarge(op, "an integer has more than %d digits", MaxDigits)
	}
	return source.BigInt(string(j)), nil
}

// appendCompact appends the value as JavaScript would write it again: without white
// space, an object's integer-like keys first and each key once, numbers and strings
// in their shortest form.
func (j jsonText) appendCompact(op string, dst []byte) ([]byte, error) {
	c := compactor{op: op, s: string(j), dst: dst}
	if err := c.value(0); err != nil {
		return dst, err
	}
	return c.dst, nil
}
