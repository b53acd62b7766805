package expr

import (
	"slices"
)

// compactor writes checked JSON again in one pass, however deep it is.
type compactor struct {
	op  string
	s   string
	i   int // where the next value begins, or the last one ended
	dst []byte
}

// value writes the value at i.
func (c *compactor) value(i int) error {
	j := jsonText(c.s[i:])
	switch j[0] {
	case '[':
		return c.array(i)
	case '{':
		return c.object(i)
	}
	c.i = i + j.end(0)
	j = j[:c.i-i]
	switch j[0] {
	case 'n', 't', 'f':
		c.dst = append(c.dst, j...)
	case '"':
		c.dst = AppendString(c.dst, j.str())
	default:
		v, err := j.number(c.op)
		if err != nil {
			return err
		}
		c.dst, _ = AppendJSON(c.dst, v)
	}
	return nil
}

// next moves past white space and the comma before the next element, and reports
// whether there is one.
func (c *compactor) next(closing byte) bool {
	c.i = skipSpace(c.s, c.i)
	if c.s[c.i] == ',' {
		c.i = skipSpace(c.s, c.i+1)
	}
	return c.s[c.i] != closing
}

func (c *compactor) array(i int) error {
	c.dst = append(c.dst, '[')
	c.i = i + 1
	for first := true; c.next(']'); first = false {
		if !first {
			c.dst = append(c.dst, ',')
		}
		if err := c.value(c.i); err != nil {
			return err
		}
	}
	c.dst = append(c.dst, ']')
	c.i++
	return nil
}

// writtenMember is a member as it stands in the output, without commas.
type writtenMember struct {
	key        string
	start, end int
}

func (c *compactor) object(i int) error {
	c.dst = append(c.dst, '{')
	c.i = i + 1
	start := len(c.dst)
	var members []writtenMember
	indices := false
	for c.next('}') {
		end := skipString(c.s, c.i)
		m := writtenMember{key: jsonText(c.s[c.i:end]).str()}
		if len(members) > 0 {
			c.dst = append(c.dst, ',')
		}
		m.start = len(c.dst)
		c.dst = append(AppendString(c.dst, m.key), ':')
		if err := c.value(skipSpace(c.s, skipSpace(c.s, end)+1)); err != nil {
			return err
		}
		m.end = len(c.dst)
		if _, ok := arrayIndex(m.key); ok {
			indices = true
		}
		members = append(members, m)
	}
	inOrder := !indices || slices.IsSortedFunc(members, func(a, b writtenMember) int { return compareKeys(a.key, b.key) })
	if !inOrder || repeatsKey(members) {
		c.reorder(start, members)
	}
	c.dst = append(c.dst, '}')
	c.i++
	return nil
}

func repeatsKey(members []writtenMember) bool {
	if len(members) <= 8 {
		for i := range members {
			for j := range i {
				if members[i].key == members[j].key {
					return true
				}
			}
		}
		return false
	}
	seen := make(map[string]struct{}, len(members))
	for _, m := range members {
		seen[m.key] = struct{}{}
	}
	return len(seen) < len(members)
}

// reorder puts the members written since start into JavaScript's order: of a
// repeated key the last value, at the place of the first.
func (c *compactor) reorder(start int, members []writtenMember) {
	places := make(map[string]int, len(members))
	kept := members[:0:0]
	for _, m := range members {
		if i, ok := places[m.key]; ok {
			kept[i] = m
			continue
		}
		places[m.key] = len(kept)
		kept = append(kept, m)
	}
	slices.SortStableFunc(kept, func(a, b writtenMember) int { return compareKeys(a.key, b.key) })
	written := slices.Clone(c.dst[start:])
	c.dst = c.dst[:start]
	for i, m := range kept {
		if i > 0 {
			c.dst = append(c.dst, ',')
		}
		c.dst = append(c.dst, written[m.start-start:m.end-start]...)
	}
}
