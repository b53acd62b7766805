package pgtypes

import "strings"

// item reads one element of a container's text: up to one of the stop bytes
// outside quotes. In quotes a backslash escapes any byte and a doubled quote is a
// quote. The text may lie in scratch, which holds it until the next call; quoted
// tells "" from nothing and "NULL" from NULL. rest begins with the stop byte.
//
// Arrays, composites and ranges quote differently, but what this reads includes
// what each of their output functions writes.
func item(s, stops string, scratch *[]byte) (text string, quoted bool, rest string, err error) {
	// The common cases need no unescaping: plain text, and plain text in quotes.
	n := strings.IndexAny(s, stops)
	if n < 0 {
		return "", false, "", malformed("an element is not ended")
	}
	if plain := s[:n]; strings.IndexByte(plain, '"') < 0 && strings.IndexByte(plain, '\\') < 0 {
		return plain, false, s[n:], nil
	}
	if s[0] == '"' {
		if n := strings.IndexByte(s[1:], '"'); n >= 0 {
			plain, after := s[1:1+n], s[n+2:]
			if after != "" && strings.IndexByte(stops, after[0]) >= 0 && strings.IndexByte(plain, '\\') < 0 {
				return plain, true, after, nil
			}
		}
	}
	b := (*scratch)[:0]
	inside := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			i++
			if i == len(s) {
				return "", false, "", malformed("an element ends in a backslash")
			}
			b = append(b, s[i])
		case c == '"' && inside && i+1 < len(s) && s[i+1] == '"':
			i++
			b = append(b, '"')
		case c == '"':
			inside = !inside
			quoted = true
		case !inside && strings.IndexByte(stops, c) >= 0:
			*scratch = b
			return share(b), quoted, s[i:], nil
		default:
			b = append(b, c)
		}
	}
	return "", false, "", malformed("an element is not ended")
}
