package sql

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

type tokenKind uint8

const (
	tokEnd    tokenKind = iota
	tokWord             // identifier or keyword; text is lower-cased
	tokQuoted           // quoted identifier; text is unescaped
	tokString           // text is unescaped
	tokInt
	tokReal
	tokOp // operator or punctuation
)

type token struct {
	Span
	kind tokenKind
	text string
}

// operators that are longer than one character, longest first.
var operators = []string{"->>", "#>>", "!~~*", "!~~", "~~*", "~~", "::", "->", "||", "&&", "<<", ">>", "<=", ">=", "<>", "!=", "#>", "@>", "<@", "!~", "~*", "..", ":=", "=>"}

type lexer struct {
	text string
	pos  int
}

func fail(start, end int, message, hint string) *Error {
	return &Error{Span: Span{start, end}, Message: message, Hint: hint}
}

// tokens cuts the whole text up; the last token is tokEnd.
func (l *lexer) tokens() ([]token, *Error) {
	if len(l.text) > MaxBytes {
		return nil, fail(0, 0, "query is longer than 256 KiB", "split it into several queries")
	}
	var out []token
	for {
		t, err := l.next()
		if err != nil {
			return nil, err
		}
		out = append(out, t)
		if t.kind == tokEnd {
			return out, nil
		}
		if len(out) > maxTokens {
			return nil, fail(t.Start, t.End, "query has more than 50000 words", "split it into several queries")
		}
	}
}

func (l *lexer) space() *Error {
	for l.pos < len(l.text) {
		rest := l.text[l.pos:]
		switch {
		case strings.HasPrefix(rest, "--"):
			if i := strings.IndexByte(rest, '\n'); i >= 0 {
				l.pos += i
			} else {
				l.pos = len(l.text)
			}
		case strings.HasPrefix(rest, "/*"):
			if err := l.blockComment(); err != nil {
				return err
			}
		default:
			r, n := utf8.DecodeRuneInString(rest)
			if !unicode.IsSpace(r) {
				return nil
			}
			l.pos += n
		}
	}
	return nil
}

// blockComment skips a comment; they nest, as in Postgres.
func (l *lexer) blockComment() *Error {
	start, depth := l.pos, 0
	for l.pos < len(l.text) {
		switch rest := l.text[l.pos:]; {
		case strings.HasPrefix(rest, "/*"):
			depth++
			l.pos += 2
		case strings.HasPrefix(rest, "*/"):
			depth--
			l.pos += 2
			if depth == 0 {
				return nil
			}
		default:
			l.pos++
		}
	}
	return fail(start, start+2, "comment is not closed", "end it with */")
}

func wordStart(r rune) bool {
	return r == '_' || unicode.IsLetter(r)
}

func wordPart(r rune) bool { return wordStart(r) || r == '$' || unicode.IsDigit(r) }

func (l *lexer) next() (token, *Error) {
	if err := l.space(); err != nil {
		return token{}, err
	}
	start := l.pos
	if start == len(l.text) {
		return token{Span: Span{start, start}, kind: tokEnd}, nil
	}
	rest := l.text[start:]
	r, n := utf8.DecodeRuneInString(rest)
	switch {
	case r == utf8.RuneError && n <= 1:
		return token{}, fail(start, start+1, "text is not valid UTF-8", "save the file as UTF-8")
	case r == '\'':
		return l.str(start, start+1, false)
	case (r == 'e' || r == 'E') && len(rest) > 1 && rest[1] == '\'':
		return l.str(start, start+2, true)
	case strings.ContainsRune("bBxXnN", r) && len(rest) > 1 && rest[1] == '\'':
		return token{}, fail(start, start+2, "bit, hex and national strings are not supported", "write an ordinary string in single quotes")
	case r == '"':
		return l.quoted()
	case r >= '0' && r <= '9', r == '.' && len(rest) > 1 && rest[1] >= '0' && rest[1] <= '9':
		return l.number()
	case r == '$':
		return token{}, fail(start, start+1, "SQL parameters such as $1 are not supported", "use auth.user_id(), auth.parameter('…'), connection.parameter('…') or subscription.parameter('…')")
	case r == '?':
		return token{}, fail(start, start+1, "SQL parameters such as ? are not supported", "use auth.user_id(), auth.parameter('…'), connection.parameter('…') or subscription.parameter('…')")
	case wordStart(r):
		for l.pos < len(l.text) {
			r, n := utf8.DecodeRuneInString(l.text[l.pos:])
			if !wordPart(r) {
				break
			}
			l.pos += n
		}
		return token{Span{start, l.pos}, tokWord, lower(l.text[start:l.pos])}, nil
	}
	for _, op := range operators {
		if strings.HasPrefix(rest, op) {
			l.pos += len(op)
			if op == "<>" {
				op = "!="
			}
			return token{Span{start, l.pos}, tokOp, op}, nil
		}
	}
	if strings.ContainsRune("+-*/%=<>(),.;[]&|^~#@!:", r) {
		l.pos += n
		return token{Span{start, l.pos}, tokOp, string(r)}, nil
	}
	switch r {
	case '`':
		return token{}, fail(start, start+1, "backquotes are not SQL", `write names in double quotes: "name"`)
	case '‘', '’', '“', '”':
		return token{}, fail(start, start+n, "typographic quote in SQL", "write strings in plain single quotes and names in plain double quotes")
	}
	return token{}, fail(start, start+n, "unexpected character "+string(r), "")
}

// lower folds an identifier as Postgres does with a multi-byte encoding: ASCII only.
func lower(s string) string {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c >= 'A' && c <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if c := b[i]; c >= 'A' && c <= 'Z' {
					b[i] = c + 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

func (l *lexer) quoted() (token, *Error) {
	start := l.pos
	var b strings.Builder
	for i := start + 1; i < len(l.text); i++ {
		if l.text[i] != '"' {
			b.WriteByte(l.text[i])
			continue
		}
		if i+1 < len(l.text) && l.text[i+1] == '"' {
			b.WriteByte('"')
			i++
			continue
		}
		l.pos = i + 1
		if b.Len() == 0 {
			return token{}, fail(start, l.pos, "empty name", "write a name between the double quotes")
		}
		return l.valid(token{Span{start, l.pos}, tokQuoted, b.String()})
	}
	return token{}, fail(start, start+1, "quoted name is not closed", `end it with "`)
}

func (l *lexer) valid(t token) (token, *Error) {
	if !utf8.ValidString(t.text) {
		return token{}, fail(t.Start, t.End, "text is not valid UTF-8", "save the file as UTF-8")
	}
	return t, nil
}

// str reads a string whose content starts at pos.
func (l *lexer) str(start, pos int, escapes bool) (token, *Error) {
	var b strings.Builder
	for i := pos; i < len(l.text); i++ {
		c := l.text[i]
		switch {
		case c == '\'' && i+1 < len(l.text) && l.text[i+1] == '\'':
			b.WriteByte('\'')
			i++
		case c == '\'':
			l.pos = i + 1
			return l.valid(token{Span{start, l.pos}, tokString, b.String()})
		case c == '\\' && escapes && i+1 < len(l.text):
			i++
			k := strings.IndexByte("ntrbf", l.text[i])
			switch {
			case k >= 0:
				b.WriteByte("\n\t\r\b\f"[k])
			case strings.IndexByte("xuU01234567", l.text[i]) >= 0:
				return token{}, fail(i-1, i+1, "numeric escapes in strings are not supported", "write the character itself")
			default:
				b.WriteByte(l.text[i])
			}
		default:
			b.WriteByte(c)
		}
	}
	return token{}, fail(start, start+1, "string is not closed", "end it with a single quote; a quote inside a string is written twice")
}

func (l *lexer) number() (token, *Error) {
	start, kind := l.pos, tokInt
	digits := func() {
		for l.pos < len(l.text) && l.text[l.pos] >= '0' && l.text[l.pos] <= '9' {
			l.pos++
		}
	}
	digits()
	if l.pos < len(l.text) && l.text[l.pos] == '.' {
		kind = tokReal
		l.pos++
		digits()
	}
	if l.pos < len(l.text) && (l.text[l.pos] == 'e' || l.text[l.pos] == 'E') {
		mark := l.pos
		l.pos++
		if l.pos < len(l.text) && (l.text[l.pos] == '+' || l.text[l.pos] == '-') {
			l.pos++
		}
		if first := l.pos; true {
			if digits(); l.pos == first {
				l.pos = mark
			} else {
				kind = tokReal
			}
		}
	}
	if r, n := utf8.DecodeRuneInString(l.text[l.pos:]); n > 0 && wordStart(r) {
		return token{}, fail(start, l.pos+n, "number runs into a name", "put a space between them, or write a name that begins with a digit in double quotes")
	}
	return token{Span{start, l.pos}, kind, l.text[start:l.pos]}, nil
}
