package pgtypes

import (
	"strings"

	"github.com/millrace-sync/millrace/internal/source"
)

// recordJSON appends the JSON object of a composite's text, such as (7,"a b",).
func (t *typ) recordJSON(dst []byte, s string, f source.Form, depth int) ([]byte, error) {
	if depth >= maxDepth {
		return dst, ErrTooDeep
	}
	if s == "" || s[0] != '(' {
		return dst, malformed("a composite does not begin with a parenthesis")
	}
	s = s[1:]
	dst = append(dst, '{')
	var scratch []byte
	for i := range t.fields {
		text, quoted, rest, err := item(s, ",)", &scratch)
		if err != nil {
			return dst, err
		}
		if last := i == len(t.fields)-1; last != (rest[0] == ')') {
			return dst, malformed("a composite does not have the %d fields of its type; "+
				"if the type was altered, restart replication so that it is read again", len(t.fields))
		}
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, t.fields[i].key...)
		if text == "" && !quoted {
			dst = append(dst, "null"...)
		} else if dst, err = t.fields[i].typ.appendJSON(dst, text, f, depth+1); err != nil {
			return dst, err
		}
		s = rest
		if s[0] == ',' {
			s = s[1:]
		}
	}
	if s != ")" {
		return dst, malformed("a composite does not end in a parenthesis")
	}
	return append(dst, '}'), nil
}

// emptyRange is the text of a range that contains nothing.
const emptyRange = "empty"

// rangeJSON appends the JSON of the range that s begins with, such as [1,10), and
// returns what follows it.
func (t *typ) rangeJSON(dst []byte, s string, f source.Form, depth int) ([]byte, string, error) {
	if rest, ok := strings.CutPrefix(s, emptyRange); ok {
		return source.AppendJSONString(dst, emptyRange), rest, nil
	}
	if depth >= maxDepth {
		return dst, "", ErrTooDeep
	}
	if s == "" || s[0] != '[' && s[0] != '(' {
		return dst, "", malformed("a range does not begin with a bracket")
	}
	lowerOpen := s[0] == '('
	var scratch []byte
	bound := func(key, stops string) (err error) {
		text, quoted, rest, err := item(s[1:], stops, &scratch)
		if err != nil {
			return err
		}
		s = rest
		dst = append(dst, key...)
		if text == "" && !quoted {
			dst = append(dst, "null"...)
			return nil
		}
		dst, err = t.part.appendJSON(dst, text, f, depth+1)
		return err
	}
	if err := bound(`{"lower":`, ","); err != nil {
		return dst, "", err
	}
	if err := bound(`,"upper":`, ")]"); err != nil {
		return dst, "", err
	}
	dst = append(dst, `,"lower_exclusive":`...)
	dst = append(dst, flag(lowerOpen))
	dst = append(dst, `,"upper_exclusive":`...)
	dst = append(dst, flag(s[0] == ')'))
	return append(dst, '}'), s[1:], nil
}

func flag(b bool) byte {
	if b {
		return '1'
	}
	return '0'
}

// multirangeJSON appends the JSON array of a multirange's text, such as {[1,2),[5,)}.
func (t *typ) multirangeJSON(dst []byte, s string, f source.Form, depth int) ([]byte, error) {
	if depth >= maxDepth {
		return dst, ErrTooDeep
	}
	if len(s) < 2 || s[0] != '{' || s[len(s)-1] != '}' {
		return dst, malformed("a multirange is not in braces")
	}
	dst = append(dst, '[')
	for s = s[1:]; s != "}"; {
		var err error
		if dst, s, err = t.part.rangeJSON(dst, s, f, depth+1); err != nil {
			return dst, err
		}
		switch {
		case strings.HasPrefix(s, ",") && s != ",}":
			dst = append(dst, ',')
			s = s[1:]
		case s != "}":
			return dst, malformed("ranges of a multirange are not separated by commas")
		}
	}
	return append(dst, ']'), nil
}
