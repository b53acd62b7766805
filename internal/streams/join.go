package streams

import (
	"slices"
	"strings"
)

// maxTuples bounds the tuples of one part of a join, whatever the limits say.
const maxTuples = 100_000

// tuples is a relation over variables: distinct rows of values, in the form that
// keys have.
type tuples struct {
	vars []int
	rows [][]string
	seen map[string]bool
}

func relationOf(vars []int) *tuples { return &tuples{vars: vars, seen: map[string]bool{}} }

// add adds a row that is not there yet.
func (t *tuples) add(row []string) {
	// Values never hold a zero byte: they are JSON.
	id := strings.Join(row, "\x00")
	if !t.seen[id] {
		t.seen[id] = true
		t.rows = append(t.rows, row)
	}
}

// project keeps the columns of the given variables.
func (t *tuples) project(keep func(v int) bool) *tuples {
	var at []int
	out := relationOf(nil)
	for i, v := range t.vars {
		if keep(v) {
			at = append(at, i)
			out.vars = append(out.vars, v)
		}
	}
	if len(at) == len(t.vars) {
		return t
	}
	for _, row := range t.rows {
		short := make([]string, len(at))
		for i, k := range at {
			short[i] = row[k]
		}
		out.add(short)
	}
	return out
}

// join holds the tuples found so far as parts that share no variable: their product
// is only formed when a step needs variables of several. Variables that nothing
// needs any more are dropped, so that what only has to exist does not multiply.
type join struct {
	parts []*tuples
	last  []int // by variable: the last step that needs it
	limit int
}

func (j *join) empty() bool {
	return slices.ContainsFunc(j.parts, func(t *tuples) bool { return len(t.rows) == 0 })
}

// gather takes the parts that hold any of vars out of the join, as one.
func (j *join) gather(vars []int) (*tuples, error) {
	out := relationOf(nil)
	out.add(nil)
	rest := j.parts[:0:0]
	for _, t := range j.parts {
		if !slices.ContainsFunc(t.vars, func(v int) bool { return slices.Contains(vars, v) }) {
			rest = append(rest, t)
			continue
		}
		var err error
		if out, err = j.combine(out, t); err != nil {
			return nil, err
		}
	}
	j.parts = rest
	return out, nil
}

// merge adds a part that may share variables with others.
func (j *join) merge(t *tuples) error {
	shared, err := j.gather(t.vars)
	if err != nil {
		return err
	}
	if t, err = j.combine(shared, t); err != nil {
		return err
	}
	j.parts = append(j.parts, t)
	return nil
}

// combine returns the natural join of two relations.
func (j *join) combine(a, b *tuples) (*tuples, error) {
	if len(a.vars) == 0 && len(a.rows) == 1 {
		return b, nil
	}
	var sharedA, sharedB, extra []int
	for i, v := range b.vars {
		if k := slices.Index(a.vars, v); k >= 0 {
			sharedA, sharedB = append(sharedA, k), append(sharedB, i)
		} else {
			extra = append(extra, i)
		}
	}
	pick := func(row []string, at []int) string {
		parts := make([]string, len(at))
		for i, k := range at {
			parts[i] = row[k]
		}
		return strings.Join(parts, "\x00")
	}
	byKey := map[string][][]string{}
	for _, row := range b.rows {
		k := pick(row, sharedB)
		byKey[k] = append(byKey[k], row)
	}
	out := relationOf(slices.Clone(a.vars))
	for _, i := range extra {
		out.vars = append(out.vars, b.vars[i])
	}
	for _, row := range a.rows {
		for _, other := range byKey[pick(row, sharedA)] {
			full := slices.Clone(row)
			for _, i := range extra {
				full = append(full, other[i])
			}
			out.add(full)
			if len(out.rows) > maxTuples {
				return nil, &LimitError{What: "parameter query results", Limit: j.limit}
			}
		}
	}
	return out, nil
}

// trim drops the variables that no step after the given one needs.
func (j *join) trim(step int) {
	for i, t := range j.parts {
		j.parts[i] = t.project(func(v int) bool { return j.last[v] > step })
	}
}

// params returns the distinct values of the out variables as JSON arrays.
func (j *join) params(out []int, limit int) ([]string, error) {
	t, err := j.gather(out)
	if err != nil {
		return nil, err
	}
	if limit > 0 && len(t.rows) > limit {
		return nil, &LimitError{What: "buckets", Limit: limit}
	}
	at := make([]int, len(out))
	for i, v := range out {
		at[i] = slices.Index(t.vars, v)
	}
	var b strings.Builder
	params := make([]string, 0, len(t.rows))
	for _, row := range t.rows {
		b.Reset()
		b.WriteByte('[')
		for i, k := range at {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(row[k])
		}
		b.WriteByte(']')
		params = append(params, b.String())
	}
	return params, nil
}
