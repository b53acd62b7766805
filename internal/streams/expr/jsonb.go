package expr

import (
	"encoding/binary"
	"strings"
)

// SQLite's JSON functions work on its binary form, JSONB: text is translated to it
// (jsonb_parse.go) and blobs in that form are taken as they are. Doing the same
// makes the many corners of its JSON5 dialect come out alike.

// jsonbKind is the type of a JSONB element, the low half of its first byte.
type jsonbKind byte

const (
	jsonbNull    jsonbKind = iota
	jsonbTrue              //
	jsonbFalse             //
	jsonbInt               // digits as in JSON
	jsonbInt5              // hexadecimal
	jsonbFloat             // as in JSON
	jsonbFloat5            // with no digits on one side of the point
	jsonbText              // content without escapes
	jsonbTextJ             // content with the escapes of JSON
	jsonbText5             // content with the escapes of JSON5
	jsonbTextRaw           // content that would need escapes
	jsonbArray             // elements in a row
	jsonbObject            // labels and values by turns
)

func (k jsonbKind) isText() bool { return k >= jsonbText && k <= jsonbTextRaw }

// isRaw says that a text's content has no escapes.
func (k jsonbKind) isRaw() bool { return k == jsonbText || k == jsonbTextRaw }

// jsonb is one element, or what follows one, in JSONB.
type jsonb string

func (j jsonb) kind() jsonbKind { return jsonbKind(j[0] & 0x0F) }

// split returns the element that j begins with: the length of its head and its
// content. It fails if j is too short.
func (j jsonb) split() (head int, body string, ok bool) {
	if j == "" {
		return 0, "", false
	}
	var size uint64
	switch x := j[0] >> 4; {
	case x <= 11:
		head, size = 1, uint64(x)
	default:
		n := 1 << (x - 12)
		if len(j) < 1+n {
			return 0, "", false
		}
		head = 1 + n
		for _, c := range []byte(j[1:head]) {
			if size>>24 != 0 {
				return 0, "", false
			}
			size = size<<8 | uint64(c)
		}
	}
	if uint64(len(j)) < uint64(head)+size {
		return 0, "", false
	}
	return head, string(j[head : uint64(head)+size]), true
}

// body returns the content of a valid element.
func (j jsonb) body() string {
	_, body, _ := j.split()
	return body
}

// size returns the length of a valid element that j begins with.
func (j jsonb) size() int {
	head, body, _ := j.split()
	return head + len(body)
}

// next returns the first element of a valid sequence and what follows it.
func (j jsonb) next() (first, rest jsonb) {
	n := j.size()
	return j[:n], j[n:]
}

// count returns the number of elements of a valid array.
func (j jsonb) count() int {
	n := 0
	for rest := jsonb(j.body()); rest != ""; n++ {
		_, rest = rest.next()
	}
	return n
}

// appendHead appends the head of an element whose content has size bytes.
func appendHead(dst []byte, k jsonbKind, size int) []byte {
	switch {
	case size <= 11:
		return append(dst, byte(k)|byte(size)<<4)
	case size <= 0xFF:
		return append(dst, byte(k)|0xC0, byte(size))
	case size <= 0xFFFF:
		return append(dst, byte(k)|0xD0, byte(size>>8), byte(size))
	}
	return binary.BigEndian.AppendUint32(append(dst, byte(k)|0xE0), uint32(size))
}

// looksLikeJSONB reports whether a blob is taken for JSONB rather than for JSON
// text: the size of the outermost element fits, and it is valid where it is so
// short that it might be text.
func looksLikeJSONB(s string) bool {
	j := jsonb(s)
	if s == "" || j.kind() > jsonbObject {
		return false
	}
	head, body, ok := j.split()
	if !ok || head+len(body) != len(s) || (j.kind() <= jsonbFalse && body != "") {
		return false
	}
	if c := s[0]; len(body) > 7 || (c != '{' && c != '[' && !isDigit(c)) {
		return true
	}
	return j.valid(1)
}

// valid checks an element, which ends where j ends, in full.
func (j jsonb) valid(depth int) bool {
	if depth > MaxJSONDepth || j == "" {
		return false
	}
	head, body, ok := j.split()
	if !ok || head+len(body) != len(j) {
		return false
	}
	switch k := j.kind(); k {
	case jsonbNull, jsonbTrue, jsonbFalse:
		return len(j) == 1
	case jsonbInt:
		digits := strings.TrimPrefix(body, "-")
		return digits != "" && allBytes(digits, isDigit)
	case jsonbInt5:
		digits := strings.TrimPrefix(body, "-")
		return len(digits) >= 3 && digits[0] == '0' && digits[1]|0x20 == 'x' && allBytes(digits[2:], isHexDigit)
	case jsonbFloat, jsonbFloat5:
		return validFloat(body, k == jsonbFloat5)
	case jsonbText:
		return allBytes(body, isPlain)
	case jsonbTextJ, jsonbText5:
		return validEscapes(body, k == jsonbText5)
	case jsonbTextRaw:
		return true
	case jsonbArray, jsonbObject:
		return validElements(jsonb(body), k == jsonbObject, depth)
	}
	return false
}

func validElements(rest jsonb, object bool, depth int) bool {
	label := false
	for rest != "" {
		head, body, ok := rest.split()
		if !ok {
			return false
		}
		elem := rest[:head+len(body)]
		if label = object && !label; label && !elem.kind().isText() {
			return false
		}
		if !elem.valid(depth + 1) {
			return false
		}
		rest = rest[len(elem):]
	}
	return !label
}

func validFloat(s string, json5 bool) bool {
	s = strings.TrimPrefix(s, "-")
	if len(s) < 2 {
		return false
	}
	point, exp := false, false
	j := 0
	switch {
	case s[0] == '.':
		if !json5 || !isDigit(s[1]) {
			return false
		}
		j, point = 2, true
	case s[0] == '0' && !json5:
		if len(s) < 3 || (s[1] != '.' && s[1]|0x20 != 'e') {
			return false
		}
		j = 1
	}
	for ; j < len(s); j++ {
		switch c := s[j]; {
		case isDigit(c):
		case c == '.':
			if point || exp || (!json5 && (j == len(s)-1 || !isDigit(s[j+1]))) {
				return false
			}
			point = true
		case c|0x20 == 'e':
			if exp || j == len(s)-1 {
				return false
			}
			if s[j+1] == '+' || s[j+1] == '-' {
				if j++; j == len(s)-1 {
					return false
				}
			}
			exp = true
		default:
			return false
		}
	}
	return point || exp
}

func validEscapes(s string, json5 bool) bool {
	for j := 0; j < len(s); j++ {
		c := s[j]
		switch {
		case isPlain(c):
		case c == '"' || c <= 0x1F:
			if !json5 {
				return false
			}
		case j+1 >= len(s):
			return false
		case strings.IndexByte("\"\\/bfnrt\x00", s[j+1]) >= 0: // SQLite lets the NUL pass
			j++
		case s[j+1] == 'u':
			if _, ok := hex4(s, j+2); !ok {
				return false
			}
			j++
		case !json5:
			return false
		default:
			r, n := unescape(s[j:])
			if r == invalidEscape {
				return false
			}
			j += n - 1
		}
	}
	return true
}

func allBytes(s string, f func(byte) bool) bool {
	for i := range len(s) {
		if !f(s[i]) {
			return false
		}
	}
	return true
}

func isHexDigit(c byte) bool {
	_, ok := hexValue(c)
	return ok
}

// isPlain says that a byte stands for itself in a JSON string.
func isPlain(c byte) bool { return c >= 0x20 && c != '"' && c != '\\' }
