package streams

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/streams/expr"
)

// streamProgram is what a request runs for one stream.
type streamProgram struct {
	paths []*pathProgram
}

// pathProgram is a path with its expressions compiled.
type pathProgram struct {
	*path
	filter     []program
	scalars    []program
	components []componentProgram
	// live says after which step a variable is last needed: steps after it drop it.
	last []int
}

type componentProgram struct {
	each, filter, vars []program
}

func newPathProgram(p *path, o expr.Options) (*pathProgram, error) {
	pp := &pathProgram{path: p, last: make([]int, p.vars)}
	var err error
	if pp.filter, err = newPrograms(p.filter, o); err != nil {
		return nil, err
	}
	for _, s := range p.scalars {
		prog, err := newProgram(s.node, o)
		if err != nil {
			return nil, err
		}
		pp.scalars = append(pp.scalars, prog)
	}
	for _, c := range p.components {
		var cp componentProgram
		if cp.each, err = newPrograms(c.each, o); err != nil {
			return nil, err
		}
		if cp.filter, err = newPrograms(c.filter, o); err != nil {
			return nil, err
		}
		nodes := make([]expr.Node, len(c.vars))
		for i, v := range c.vars {
			nodes[i] = v.node
		}
		if cp.vars, err = newPrograms(nodes, o); err != nil {
			return nil, err
		}
		pp.components = append(pp.components, cp)
	}
	for i := range pp.last {
		pp.last[i] = -1
	}
	for i, s := range p.steps {
		for _, v := range s.key {
			pp.last[v] = i
		}
	}
	for _, v := range p.out {
		pp.last[v] = len(p.steps)
	}
	return pp, nil
}

// answer is one Buckets call.
type answer struct {
	plan    *Plan
	lookups Lookups
	limits  Limits
	set     *BucketSet
	index   map[bucketID]int
	read    map[LookupRead][][]string // results of lookups so far
	results int
	// values holds the accessors read so far; those of the subscription are
	// dropped with each.
	values map[accessor]source.Value
	caller caller
	inputs []source.Value
	key    []byte
}

type bucketID struct {
	def    int
	params string
}

// lookupFailure is an error of the store, as opposed to one of the parameters.
type lookupFailure struct{ err error }

func (e *lookupFailure) Error() string { return e.err.Error() }
func (e *lookupFailure) Unwrap() error { return e.err }

func (p *Plan) buckets(req *Request, l Lookups, limits Limits) (*BucketSet, error) {
	a := &answer{plan: p, lookups: l, limits: limits, set: &BucketSet{}, index: map[bucketID]int{}, read: map[LookupRead][][]string{}, values: map[accessor]source.Value{}}
	var tokenErr, connErr error
	if a.caller.token, tokenErr = newObject(req.Claims); tokenErr != nil {
		return nil, fmt.Errorf("evaluate request: the token's payload is not a JSON object: %w", tokenErr)
	}
	a.caller.connection, connErr = newObject(req.Parameters)
	bySubscription := map[string][]int{}
	for i := range req.Subscriptions {
		name := req.Subscriptions[i].Stream
		bySubscription[name] = append(bySubscription[name], i)
	}
	for i, s := range p.Streams {
		isDefault := s.AutoSubscribe && req.IncludeDefaults
		subs := bySubscription[s.Name]
		if !isDefault && len(subs) == 0 {
			continue
		}
		at := len(a.set.Streams)
		a.set.Streams = append(a.set.Streams, RequestedStream{Name: s.Name, Default: isDefault})
		evaluate := func(sub int, parameters []byte, priority *int) error {
			maps.DeleteFunc(a.values, func(acc accessor, _ source.Value) bool { return acc.origin == originSubscription })
			var err error
			if a.caller.subscription, err = newObject(parameters); err == nil {
				err = connErr
			}
			if err == nil {
				err = a.stream(i, at, sub, priority)
			}
			var limit *LimitError
			var store *lookupFailure
			switch {
			case err == nil:
			case errors.As(err, &limit):
				return limit
			case errors.As(err, &store):
				return fmt.Errorf("evaluate stream %s: %w", s.Name, store.err)
			default:
				a.set.Streams[at].Errors = append(a.set.Streams[at].Errors, StreamError{Subscription: sub, Message: err.Error()})
			}
			return nil
		}
		if isDefault {
			if err := evaluate(-1, nil, nil); err != nil {
				return nil, err
			}
		}
		for _, k := range subs {
			if err := evaluate(k, req.Subscriptions[k].Parameters, req.Subscriptions[k].Priority); err != nil {
				return nil, err
			}
		}
	}
	for r := range a.read {
		a.set.Reads = append(a.set.Reads, r)
	}
	return a.set, nil
}

// found is a bucket that a stream's evaluation came to.
type found struct {
	id       bucketID
	priority int
}

// stream evaluates one stream for one subscription: all of it or, if anything
// fails, nothing.
func (a *answer) stream(i, at, sub int, priority *int) error {
	s := a.plan.Streams[i]
	var buckets []found
	for _, p := range a.plan.streams[i].paths {
		level := s.Priority
		if p.priority >= 0 {
			level = p.priority
		}
		if priority != nil {
			level = *priority
		}
		rows, err := a.run(p)
		if err != nil {
			return err
		}
		for _, params := range rows {
			buckets = append(buckets, found{bucketID{p.def.index, params}, level})
		}
		if len(buckets) > 2*a.limits.Buckets+1000 && a.limits.Buckets > 0 {
			// Even if every bucket came twice there would be too many.
			distinct := map[bucketID]bool{}
			for _, b := range buckets {
				distinct[b.id] = true
			}
			if len(distinct) > a.limits.Buckets {
				return &LimitError{What: "buckets", Limit: a.limits.Buckets}
			}
		}
	}
	for _, b := range buckets {
		k, ok := a.index[b.id]
		if !ok {
			k = len(a.set.Buckets)
			if a.limits.Buckets > 0 && k >= a.limits.Buckets {
				return &LimitError{What: "buckets", Limit: a.limits.Buckets}
			}
			a.index[b.id] = k
			a.set.Buckets = append(a.set.Buckets, RequestedBucket{Def: b.id.def, Params: b.id.params, Priority: b.priority})
		}
		r := &a.set.Buckets[k]
		r.Priority = min(r.Priority, b.priority)
		if sub < 0 {
			if !slices.Contains(r.Defaults, at) {
				r.Defaults = append(r.Defaults, at)
			}
		} else if !slices.Contains(r.Subscriptions, sub) {
			r.Subscriptions = append(r.Subscriptions, sub)
		}
	}
	return nil
}

// value reads an accessor, once for a caller.
func (a *answer) value(acc accessor) (source.Value, error) {
	if v, ok := a.values[acc]; ok {
		return v, nil
	}
	v, err := a.caller.read(acc)
	if err == nil {
		a.values[acc] = v
	}
	return v, err
}

// run evaluates a path; it returns the parameters of the buckets it leads to.
func (a *answer) run(p *pathProgram) ([]string, error) {
	a.inputs = a.inputs[:0]
	for _, acc := range p.accessors {
		v, err := a.value(acc)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", acc.canonical(), err)
		}
		a.inputs = append(a.inputs, v)
	}
	if ok, err := a.holds(p.filter); !ok || err != nil {
		return nil, err
	}
	j := &join{last: p.last, limit: a.limits.LookupResults}
	scalars := relationOf(nil)
	row := []string{}
	for i, s := range p.path.scalars {
		text, ok, err := a.text(&p.scalars[i])
		if !ok || err != nil {
			return nil, err
		}
		scalars.vars = append(scalars.vars, s.v)
		row = append(row, text)
	}
	scalars.add(row)
	j.parts = append(j.parts, scalars)
	for i := range p.components {
		part, err := a.component(p, i)
		if err != nil {
			return nil, err
		}
		if err := j.merge(part); err != nil {
			return nil, err
		}
		if j.empty() {
			return nil, nil
		}
	}
	j.trim(-1)
	for i, s := range p.steps {
		if err := a.step(j, &s); err != nil {
			return nil, err
		}
		if j.empty() {
			return nil, nil
		}
		j.trim(i)
	}
	return j.params(p.out, a.limits.Buckets)
}

func (a *answer) holds(filter []program) (bool, error) {
	for i := range filter {
		v, err := filter[i].eval(a.inputs)
		if err != nil {
			return false, err
		}
		if !expr.Truth(v, a.plan.options) {
			return false, nil
		}
	}
	return true, nil
}

// text evaluates a program to the form that keys have; ok is false for what
// matches nothing.
func (a *answer) text(p *program) (string, bool, error) {
	v, err := p.eval(a.inputs)
	if err != nil {
		return "", false, err
	}
	var ok bool
	a.key, ok = expr.AppendParam(a.key[:0], v)
	return string(a.key), ok, nil
}

// component evaluates the json_each of a component.
func (a *answer) component(p *pathProgram, i int) (*tuples, error) {
	c, prog := &p.path.components[i], &p.components[i]
	out := relationOf(nil)
	for _, b := range c.vars {
		out.vars = append(out.vars, b.v)
	}
	base := len(p.accessors)
	a.inputs = append(a.inputs[:base], make([]source.Value, 2*len(c.each))...)
	tried := 0
	var visit func(k int) error
	visit = func(k int) error {
		if k == len(c.each) {
			if ok, err := a.holds(prog.filter); !ok || err != nil {
				return err
			}
			row := make([]string, len(c.vars))
			for v := range prog.vars {
				text, ok, err := a.text(&prog.vars[v])
				if !ok || err != nil {
					return err
				}
				row[v] = text
			}
			out.add(row)
			return nil
		}
		list, err := prog.each[k].eval(a.inputs)
		if err != nil {
			return err
		}
		var inner error
		err = expr.JSONEach(list, a.plan.options, func(key, value source.Value) bool {
			if tried++; tried > maxEntries {
				inner = fmt.Errorf("the parameters' arrays have more than %d elements, or combinations of elements", maxEntries)
				return false
			}
			a.inputs[base+2*k], a.inputs[base+2*k+1] = key, value
			inner = visit(k + 1)
			return inner == nil
		})
		if inner != nil {
			return inner
		}
		return err
	}
	return out, visit(0)
}

// step joins a lookup: each tuple of the key variables is replaced by as many as
// the lookup has results for it.
func (a *answer) step(j *join, s *step) error {
	part, err := j.gather(s.key)
	if err != nil {
		return err
	}
	at := make([]int, len(s.key))
	for i, v := range s.key {
		at[i] = slices.Index(part.vars, v)
	}
	out := relationOf(append(slices.Clone(part.vars), s.out...))
	for _, row := range part.rows {
		a.key = append(a.key[:0], '[')
		for i, k := range at {
			if i > 0 {
				a.key = append(a.key, ',')
			}
			a.key = append(a.key, row[k]...)
		}
		results, err := a.lookup(LookupRead{Def: s.def.index, Key: string(append(a.key, ']'))}, len(s.out))
		if err != nil {
			return err
		}
		for _, r := range results {
			out.add(append(slices.Clone(row), r...))
			if len(out.rows) > maxTuples {
				return &LimitError{What: "parameter query results", Limit: a.limits.LookupResults}
			}
		}
	}
	j.parts = append(j.parts, out)
	return nil
}

// errEnough ends a lookup of which only the existence matters.
var errEnough = errors.New("enough")

// lookup reads one key, once for a request: the distinct results of n values each.
func (a *answer) lookup(r LookupRead, n int) ([][]string, error) {
	if results, ok := a.read[r]; ok {
		return results, nil
	}
	set := relationOf(make([]int, n))
	err := a.lookups.Lookup(r.Def, r.Key, func(values []byte) error {
		err := eachResult(values, n, func(result []string) error {
			set.add(slices.Clone(result))
			return nil
		})
		if err == nil && n == 0 {
			return errEnough
		}
		if a.limits.LookupResults > 0 && a.results+len(set.rows) > a.limits.LookupResults {
			return &LimitError{What: "parameter query results", Limit: a.limits.LookupResults}
		}
		return err
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, &lookupFailure{err}
	}
	if n > 0 {
		a.results += len(set.rows)
	}
	a.read[r] = set.rows
	return set.rows, nil
}
