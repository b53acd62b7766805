package expr

import (
	"github.com/millrace-sync/millrace/internal/source"
)

// like is value LIKE pattern [ESCAPE character], in both engines as in SQLite: %
// stands for any text, _ for one character, ASCII letters match in either case.
func (c *compiler) like(op string, a []operand) operand {
	o, sqlite := c.Options, c.Engine == SQLite
	text := func(v source.Value) string { return textOf(o, v) }
	if sqlite {
		text = cText
	}
	match := func(v []source.Value) (source.Value, error) {
		escape := rune(-1)
		if len(v) == 3 {
			e := text(v[2])
			if e == "" || sizeSQLite(e) != len(e) {
				return source.Value{}, badValue("LIKE", "the ESCAPE text %s is not a single character", quoteShort(e))
			}
			escape, _ = readLike(e)
		}
		pattern := text(v[1])
		if len(pattern) > MaxLikePattern {
			return source.Value{}, tooLarge("LIKE", "the pattern is longer than %d bytes", MaxLikePattern)
		}
		is, err := matchLike(text(v[0]), pattern, escape)
		return source.Bool(is), err
	}
	res := operand{run: func(in []source.Value) (source.Value, error) {
		var values [3]source.Value
		null := false
		for i := range a {
			v, err := a[i].run(in)
			if err != nil {
				return source.Value{}, err
			}
			values[i] = v
			null = null || v.IsNull()
		}
		switch {
		case sqlite && (values[0].Kind() == source.KindBlob || values[1].Kind() == source.KindBlob):
			// As built with SQLITE_LIKE_DOESNT_MATCH_BLOBS, which SQLite recommends.
			return source.Int(0), nil
		case null:
			return source.Value{}, nil
		}
		return match(values[:len(a)])
	}}
	return c.negate(op, res)
}

// matchLike matches from the left; when it fails it goes back to the last % and
// lets that take one more character.
func matchLike(s, pattern string, escape rune) (bool, error) {
	i, p := 0, 0
	starI, starP := -1, -1
	for steps := 0; ; steps++ {
		if steps > MaxLikeSteps {
			return false, tooLarge("LIKE", "matching takes more than %d steps", MaxLikeSteps)
		}
		if p < len(pattern) {
			c, size := readLike(pattern[p:])
			if c == '%' && c != escape {
				p += size
				starI, starP = i, p
				continue
			}
			if i < len(s) && matchOne(s, pattern, escape, &i, &p) {
				continue
			}
		} else if i == len(s) {
			return true, nil
		}
		if starI < 0 || starI >= len(s) {
			return false, nil
		}
		_, size := readLike(s[starI:])
		starI += size
		i, p = starI, starP
	}
}

// matchOne matches one character of s against one of the pattern, which is no %.
func matchOne(s, pattern string, escape rune, i, p *int) bool {
	c, csize := readLike(s[*i:])
	w, wsize := readLike(pattern[*p:])
	if w == escape {
		n := *p + wsize
		if n >= len(pattern) {
			return false
		}
		var size int
		w, size = readLike(pattern[n:])
		wsize += size
	} else if w == '_' {
		w = c
	}
	if foldASCII(c) != foldASCII(w) {
		return false
	}
	*i += csize
	*p += wsize
	return true
}

func foldASCII(r rune) rune {
	if r >= 'A' && r <= 'Z' {
		return r + 32
	}
	return r
}

// readLike reads a character as SQLite does, whether or not it is UTF-8.
func readLike(s string) (r rune, size int) {
	if s[0] < 0xC0 {
		return rune(s[0]), 1
	}
	size = sizeSQLite(s)
	r, n := readLoose(s[:min(size, 4)])
	for ; n < size; n++ {
		r = r<<6 | rune(s[n]&0x3F)
	}
	if r < 0x80 || r&^0x7FF == 0xD800 || r&^1 == 0xFFFE {
		r = 0xFFFD
	}
	return r, size
}
