package expr

import (
	"strings"
)

// jsonbParser translates JSON text, with SQLite's extensions by JSON5, to JSONB.
type jsonbParser struct {
	s        string
	out      []byte
	standard bool // nothing beyond RFC 8259 has been met
}

// parseJSON5 returns a text in JSONB, and whether it is JSON in the strict sense.
func parseJSON5(s string) (j jsonb, standard, ok bool) {
	s, _, _ = strings.Cut(s, "\x00")
	p := jsonbParser{s: s, out: make([]byte, 0, len(s)+len(s)/4+8), standard: true}
	i := p.value(p.space(0), 0)
	if i < 0 {
		return "", false, false
	}
	if p.space(i) != len(s) {
		return "", false, false
	}
	return jsonb(p.out), p.standard, true
}

// at returns a byte of the text, 0 beyond its end.
func (p *jsonbParser) at(i int) byte {
	if i < len(p.s) {
		return p.s[i]
	}
	return 0
}

// space returns the end of the white space at i.
func (p *jsonbParser) space(i int) int {
	for {
		switch p.at(i) {
		case ' ', '\t', '\n', '\r':
			i++
			continue
		}
		n := space5(p.s[i:])
		if n == 0 {
			return i
		}
		p.standard = false
		i += n
	}
}

// space5 returns the length of the one piece of JSON5 white space or comment that s
// begins with.
func space5(s string) int {
	if s == "" {
		return 0
	}
	switch s[0] {
	case '\t', '\n', '\v', '\f', '\r', ' ':
		return 1
	case '/':
		if strings.HasPrefix(s, "/*") {
			if end := strings.Index(s[2:], "*/"); end >= 0 {
				return end + 4
			}
			return 0
		}
		if strings.HasPrefix(s, "//") {
			for i := 2; i < len(s); i++ {
				switch {
				case s[i] == '\n' || s[i] == '\r':
					return i + 1
				case strings.HasPrefix(s[i:], "\u2028") || strings.HasPrefix(s[i:], "\u2029"):
					return i + 3
				}
			}
			return len(s)
		}
		return 0
	case 0xC2:
		if strings.HasPrefix(s, "\u00a0") {
			return 2
		}
	case 0xE1, 0xE2, 0xE3, 0xEF:
		if len(s) < 3 {
			return 0
		}
		switch c := s[:3]; {
		case c == "\u1680", c >= "\u2000" && c <= "\u200a", c == "\u2028", c == "\u2029", c == "\u202f", c == "\u205f", c == "\u3000", c == "\ufeff":
			return 3
		}
	}
	return 0
}

// value translates the value at i, where no white space is, and returns its end, or
// -1. depth counts the containers around it.
func (p *jsonbParser) value(i, depth int) int {
	switch c := p.at(i); {
	case c == '{':
		return p.object(i, depth)
	case c == '[':
		return p.array(i, depth)
	case c == '"' || c == '\'':
		return p.text(i)
	case c == '-' || c == '+' || c == '.' || isDigit(c):
		return p.number(i)
	case c == 't':
		return p.word(i, "true", jsonbTrue)
	case c == 'f':
		return p.word(i, "false", jsonbFalse)
	case c == 'n' && p.wordAt(i, "null"):
		return p.word(i, "null", jsonbNull)
	}
	return p.notFinite(i)
}

func isAlnum(c byte) bool { return isDigit(c) || c|0x20-'a' < 26 }

func (p *jsonbParser) wordAt(i int, word string) bool {
	return strings.HasPrefix(p.s[i:], word) && !isAlnum(p.at(i+len(word)))
}

func (p *jsonbParser) word(i int, word string, k jsonbKind) int {
	if !p.wordAt(i, word) {
		return -1
	}
	p.out = append(p.out, byte(k))
	return i + len(word)
}

// notFinite is infinity, or a NaN, which is null.
func (p *jsonbParser) notFinite(i int) int {
	for _, w := range [...]struct {
		word string
		null bool
	}{{"inf", false}, {"infinity", false}, {"nan", true}, {"qnan", true}, {"snan", true}} {
		n := len(w.word)
		if len(p.s) < i+n || !strings.EqualFold(p.s[i:i+n], w.word) || isAlnum(p.at(i+n)) {
			continue
		}
		p.standard = false
		if w.null {
			p.out = append(p.out, byte(jsonbNull))
		} else {
			p.element(jsonbFloat, "9e999")
		}
		return i + n
	}
	return -1
}

func (p *jsonbParser) element(k jsonbKind, body string) {
	p.out = append(appendHead(p.out, k, len(body)), body...)
}

// wrap makes what was written since start the content of a container.
func (p *jsonbParser) wrap(k jsonbKind, start int) {
	var buf [5]byte
	head := appendHead(buf[:0], k, len(p.out)-start)
	p.out = append(p.out, head...)
	copy(p.out[start+len(head):], p.out[start:len(p.out)-len(head)])
	copy(p.out[start:], head)
}

func (p *jsonbParser) array(i, depth int) int {
	if depth >= MaxJSONDepth {
		return -1
	}
	start := len(p.out)
	for i = p.space(i + 1); ; i = p.space(i + 1) {
		if p.at(i) == ']' {
			if len(p.out) != start {
				p.standard = false // a comma before it
			}
			break
		}
		if i = p.value(i, depth+1); i < 0 {
			return -1
		}
		if i = p.space(i); p.at(i) == ']' {
			break
		}
		if p.at(i) != ',' {
			return -1
		}
	}
	p.wrap(jsonbArray, start)
	return i + 1
}

func (p *jsonbParser) object(i, depth int) int {
	if depth >= MaxJSONDepth {
		return -1
	}
	start := len(p.out)
	for i = p.space(i + 1); ; i = p.space(i + 1) {
		if p.at(i) == '}' {
			if len(p.out) != start {
				p.standard = false
			}
			break
		}
		if i = p.label(i); i < 0 {
			return -1
		}
		if i = p.space(i); p.at(i) != ':' {
			return -1
		}
		if i = p.value(p.space(i+1), depth+1); i < 0 {
			return -1
		}
		if i = p.space(i); p.at(i) == '}' {
			break
		}
		if p.at(i) != ',' {
			return -1
		}
	}
	p.wrap(jsonbObject, start)
	return i + 1
}

// label is a string, or in JSON5 an identifier that is no other value.
func (p *jsonbParser) label(i int) int {
	c := p.at(i)
	if c == '"' || c == '\'' {
		return p.text(i)
	}
	mark, standard := len(p.out), p.standard
	if end := p.value(i, MaxJSONDepth); end >= 0 {
		return -1
	}
	p.out, p.standard = p.out[:mark], standard
	kind := jsonbText
	escape := func(i int) bool {
		if p.at(i) != '\\' || p.at(i+1) != 'u' {
			return false
		}
		_, ok := hex4(p.s, i+2)
		if ok {
			kind = jsonbTextJ
		}
		return ok
	}
	if !isIdentifier(c, false) && !escape(i) {
		return -1
	}
	k := i + 1
	for (isIdentifier(p.at(k), true) && space5(p.s[k:]) == 0) || escape(k) {
		k++
	}
	p.standard = false
	p.element(kind, p.s[i:k])
	return k
}

func isIdentifier(c byte, digits bool) bool {
	return c == '_' || c == '$' || c >= 0x80 || c|0x20-'a' < 26 || (digits && isDigit(c))
}

// text is a string in either kind of quotes.
func (p *jsonbParser) text(i int) int {
	quote := p.s[i]
	kind := jsonbText
	if quote == '\'' {
		p.standard = false
	}
	for j := i + 1; j < len(p.s); j++ {
		c := p.s[j]
		switch {
		case c == quote:
			p.element(kind, p.s[i+1:j])
			return j + 1
		case c == '\\':
			j++
			n, standard := p.escape(j)
			if n < 0 {
				return -1
			}
			if standard {
				kind = max(kind, jsonbTextJ)
			} else {
				kind, p.standard = jsonbText5, false
			}
			j += n
		case c <= 0x1F:
			kind, p.standard = jsonbText5, false
		case c == '"':
			kind = jsonbText5
		}
	}
	return -1
}

// escape checks the escape whose backslash is before i and returns how many bytes
// beyond i are surely part of it.
func (p *jsonbParser) escape(i int) (n int, standard bool) {
	switch c := p.at(i); c {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 0, true
	case 'u':
		if _, ok := hex4(p.s, i+1); ok {
			return 0, true
		}
	case '\'', 'v', '\n':
		return 0, false
	case '0':
		if !isDigit(p.at(i + 1)) {
			return 0, false
		}
	case 'x':
		if isHexDigit(p.at(i+1)) && isHexDigit(p.at(i+2)) {
			return 0, false
		}
	case '\r':
		if p.at(i+1) == '\n' {
			return 1, false
		}
		return 0, false
	case 0xE2:
		if p.at(i+1) == 0x80 && (p.at(i+2) == 0xA8 || p.at(i+2) == 0xA9) {
			return 0, false
		}
	}
	return -1, false
}

// number is a number of JSON or JSON5.
func (p *jsonbParser) number(i int) int {
	json5, point, exp := false, false, false
	c := p.s[i]
	switch {
	case c == '.':
		if !isDigit(p.at(i + 1)) {
			return -1
		}
		json5, point = true, true
		p.standard = false
	case c == '+' || c == '-':
		if c == '+' {
			p.standard = false
		}
		switch next := p.at(i + 1); {
		case next == '.':
			json5 = true
			p.standard = false
		case !isDigit(next):
			return p.signedInfinity(i)
		case next == '0':
			if isDigit(p.at(i + 2)) {
				return -1
			}
			if p.at(i+2)|0x20 == 'x' && isHexDigit(p.at(i+3)) {
				return p.hexNumber(i, i+4)
			}
		}
	case c == '0':
		if p.at(i+1)|0x20 == 'x' && isHexDigit(p.at(i+2)) {
			return p.hexNumber(i, i+3)
		}
		if isDigit(p.at(i + 1)) {
			return -1
		}
	}
	// A point must have a digit beside it; one on the left only is JSON5.
	bare := func(j int) bool {
		if p.s[j-1] != '.' || j-2 < i || !isDigit(p.s[j-2]) {
			return false
		}
		json5, p.standard = true, false
		return true
	}
	j := i + 1
	for ; ; j++ {
		c := p.at(j)
		switch {
		case isDigit(c):
			continue
		case c == '.':
			if point || exp {
				return -1
			}
			point = true
			continue
		case c == 'e' || c == 'E':
			if (p.s[j-1] < '0' && !bare(j)) || exp {
				return -1
			}
			exp = true
			if n := p.at(j + 1); n == '+' || n == '-' {
				j++
			}
			if !isDigit(p.at(j + 1)) {
				return -1
			}
			continue
		}
		break
	}
	if p.s[j-1] < '0' && !bare(j) {
		return -1
	}
	kind := jsonbInt
	if point || exp {
		kind = jsonbFloat
	}
	if json5 {
		kind++
	}
	if c == '+' {
		i++
	}
	p.element(kind, p.s[i:j])
	return j
}

func (p *jsonbParser) hexNumber(i, j int) int {
	p.standard = false
	for isHexDigit(p.at(j)) {
		j++
	}
	if p.s[i] == '+' {
		i++
	}
	p.element(jsonbInt5, p.s[i:j])
	return j
}

func (p *jsonbParser) signedInfinity(i int) int {
	rest := p.s[i+1:]
	n := 0
	switch {
	case len(rest) >= 8 && strings.EqualFold(rest[:8], "infinity"):
		n = 9
	case len(rest) >= 3 && strings.EqualFold(rest[:3], "inf"):
		n = 4
	default:
		return -1
	}
	p.standard = false
	if p.s[i] == '-' {
		p.element(jsonbFloat, "-9e999")
	} else {
		p.element(jsonbFloat, "9e999")
	}
	return i + n
}
