package expr

import (
	"math"
	"strconv"
	"strings"

	"github.com/millrace-sync/millrace/internal/source"
)

// appendText appends a valid element as JSON text.
func (j jsonb) appendText(dst []byte) []byte {
	body := j.body()
	switch j.kind() {
	case jsonbNull:
		return append(dst, "null"...)
	case jsonbTrue:
		return append(dst, "true"...)
	case jsonbFalse:
		return append(dst, "false"...)
	case jsonbInt, jsonbFloat:
		return append(dst, body...)
	case jsonbInt5:
		return appendHexNumber(dst, body)
	case jsonbFloat5:
		return appendFloat5(dst, body)
	case jsonbText, jsonbTextJ:
		dst = append(dst, '"')
		dst = append(dst, body...)
		return append(dst, '"')
	case jsonbText5:
		return appendText5(dst, body)
	case jsonbTextRaw:
		return appendTextRaw(dst, body)
	}
	object := j.kind() == jsonbObject
	open, closing := byte('['), byte(']')
	if object {
		open, closing = '{', '}'
	}
	dst = append(dst, open)
	rest := jsonb(body)
	for i := 0; rest != ""; i++ {
		if i > 0 {
			if object && i%2 == 1 {
				dst = append(dst, ':')
			} else {
				dst = append(dst, ',')
			}
		}
		var elem jsonb
		elem, rest = rest.next()
		dst = elem.appendText(dst)
	}
	return append(dst, closing)
}

func appendHexNumber(dst []byte, body string) []byte {
	digits := body
	if body[0] == '-' {
		dst = append(dst, '-')
		digits = body[1:]
	}
	n, err := strconv.ParseUint(digits[2:], 16, 64)
	if err != nil {
		return append(dst, "9.0e999"...)
	}
	return strconv.AppendUint(dst, n, 10)
}

// appendFloat5 adds the digits that JSON wants beside a point.
func appendFloat5(dst []byte, body string) []byte {
	if body[0] == '-' {
		dst = append(dst, '-')
		body = body[1:]
	}
	if body[0] == '.' {
		dst = append(dst, '0')
	}
	for k := range len(body) {
		dst = append(dst, body[k])
		if body[k] == '.' && (k+1 == len(body) || !isDigit(body[k+1])) {
			dst = append(dst, '0')
		}
	}
	return dst
}

// appendText5 turns the escapes of JSON5 to those of JSON.
func appendText5(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for s != "" {
		c := s[0]
		n := 1
		switch {
		case isPlain(c):
			dst = append(dst, c)
		case c == '"':
			dst = append(dst, '\\', '"')
		case c <= 0x1F:
			dst = appendEscape(dst, c)
		default:
			n = 2
			switch s[1] {
			case '\'':
				dst = append(dst, '\'')
			case 'v':
				dst = append(dst, `\u000b`...)
			case 'x':
				dst = append(append(dst, `\u00`...), s[2:4]...)
				n = 4
			case '0':
				dst = append(dst, `\u0000`...)
			case '\r':
				if len(s) > 2 && s[2] == '\n' {
					n = 3
				}
			case '\n':
			case 0xE2:
				n = 4
			default:
				dst = append(dst, s[:2]...)
			}
		}
		s = s[n:]
	}
	return append(dst, '"')
}

func appendTextRaw(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := range len(s) {
		if isPlain(s[i]) {
			dst = append(dst, s[i])
		} else {
			dst = appendEscape(dst, s[i])
		}
	}
	return append(dst, '"')
}

// value returns the SQL value of a valid element; false if it has none.
func (j jsonb) value() (source.Value, bool) {
	body := j.body()
	switch k := j.kind(); k {
	case jsonbNull:
		return source.Value{}, true
	case jsonbTrue:
		return source.Int(1), true
	case jsonbFalse:
		return source.Int(0), true
	case jsonbInt, jsonbInt5:
		return integerJSONB(body)
	case jsonbFloat, jsonbFloat5:
		f, form := parseFloatSQLite(body)
		return realOrNull(f), form == formInteger || form == formReal
	case jsonbText, jsonbTextRaw:
		return source.String(body), true
	case jsonbTextJ, jsonbText5:
		return source.String(unescapeAll(body)), true
	}
	return source.String(string(j.appendText(nil))), true
}

func integerJSONB(body string) (source.Value, bool) {
	digits, negative := strings.CutPrefix(body, "-")
	if len(digits) > 2 && digits[1]|0x20 == 'x' {
		n, err := strconv.ParseUint(digits[2:], 16, 64)
		switch {
		case err != nil:
			return source.Value{}, false
		case n > math.MaxInt64:
			f := float64(n)
			if negative {
				f = -f
			}
			return source.Real(f), true
		case negative:
			return source.Int(-int64(n)), true
		}
		return source.Int(int64(n)), true
	}
	if i, state := parseIntSQLite(body); state != intOverflow {
		return source.Int(i), state == intExact
	}
	f, _ := parseFloatSQLite(body)
	return source.Real(f), true
}

// invalidEscape is what unescape gives for an escape that is none.
const invalidEscape = 0x99999

// unescapeAll resolves the escapes of a text's content.
func unescapeAll(s string) string {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); {
		if s[i] != '\\' {
			out = append(out, s[i])
			i++
			continue
		}
		r, n := unescape(s[i:])
		if r != invalidEscape {
			out = appendLoose(out, r)
		}
		i += n
	}
	return string(out)
}

// unescape decodes the escape that s begins with, and returns how long it is. A
// backslash before the end of a line joins the lines, so the character after it is
// the result.
func unescape(s string) (r rune, n int) {
	if len(s) < 2 {
		return invalidEscape, len(s)
	}
	switch c := s[1]; c {
	case 'u':
		if len(s) < 6 {
			return invalidEscape, len(s)
		}
		r := looseHex4(s[2:6])
		if r&0xFC00 == 0xD800 && len(s) >= 12 && s[6] == '\\' && s[7] == 'u' {
			if lo := looseHex4(s[8:12]); lo&0xFC00 == 0xDC00 {
				return (r&0x3FF)<<10 + lo&0x3FF + 0x10000, 12
			}
		}
		return r, 6
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'v':
		return '\v', 2
	case '0':
		if len(s) > 2 && isDigit(s[2]) {
			return invalidEscape, 2
		}
		return 0, 2
	case '\'', '"', '/', '\\':
		return rune(c), 2
	case 'x':
		if len(s) < 4 {
			return invalidEscape, len(s)
		}
		return rune(looseHex(s[2])<<4 | looseHex(s[3])), 4
	case 0xE2, '\r', '\n':
		return joinLines(s)
	}
	return invalidEscape, 2
}

// looseHex is the value that SQLite gives a hexadecimal digit, or in damaged JSONB
// any byte.
func looseHex(c byte) byte { return (c + 9*(c>>6&1)) & 0xF }

func looseHex4(s string) rune {
	var r rune
	for i := range 4 {
		r = r<<4 | rune(looseHex(s[i]))
	}
	return r
}

func joinLines(s string) (r rune, n int) {
	skip := 0
	for {
		switch rest := s[skip:]; {
		case strings.HasPrefix(rest, "\\\n"):
			skip += 2
			continue
		case strings.HasPrefix(rest, "\\\r\n"):
			skip += 3
			continue
		case strings.HasPrefix(rest, "\\\r"):
			skip += 2
			continue
		case strings.HasPrefix(rest, "\\\u2028"), strings.HasPrefix(rest, "\\\u2029"):
			skip += 4
			continue
		}
		break
	}
	switch {
	case skip == 0:
		return invalidEscape, len(s)
	case skip == len(s):
		return 0, len(s)
	case s[skip] == '\\':
		r, n = unescape(s[skip:])
		return r, skip + n
	}
	r, n = readLoose(s[skip:])
	return r, skip + n
}

// appendLoose appends what readLoose reads, surrogates and more than Unicode too.
func appendLoose(b []byte, r rune) []byte {
	if r <= 0x10FFFF {
		return appendRune(b, r)
	}
	return append(b, byte(0xF0|r>>18), 0x80|byte(r>>12&0x3F), 0x80|byte(r>>6&0x3F), 0x80|byte(r&0x3F))
}

// readLoose reads a character as SQLite does, whether or not it is UTF-8.
func readLoose(s string) (r rune, n int) {
	c := s[0]
	if c < 0xC0 {
		return rune(c), 1
	}
	switch {
	case c < 0xE0:
		r = rune(c & 0x1F)
	case c < 0xF0:
		r = rune(c & 0x0F)
	case c < 0xF8:
		r = rune(c & 0x07)
	case c < 0xFC:
		r = rune(c & 0x03)
	case c < 0xFE:
		r = rune(c & 0x01)
	}
	n = 1
	for n < len(s) && n < 4 && s[n]&0xC0 == 0x80 {
		r = r<<6 | rune(s[n]&0x3F)
		n++
	}
	return r, n
}
