package streams

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-sync/millrace/internal/conformance"
	"github.com/millrace-sync/millrace/internal/source"
)

// incremental keeps buckets and lookups up to date row by row: a change takes back
// what the row gave before and adds what it gives now.
type incremental struct {
	plan    *Plan
	evals   []*TableEval
	out     Output // reused throughout, as replication does
	rows    map[string]contribution
	buckets map[bucketID]map[string]modelRow // by source row
	lookups map[LookupRead]map[string]string // by source row
	changed map[LookupRead]bool              // since the last answer
}

type contribution struct {
	puts    []bucketID
	lookups []LookupRead
}

func newIncremental(p *Plan, tables []sourceTable) *incremental {
	inc := &incremental{plan: p, rows: map[string]contribution{}, buckets: map[bucketID]map[string]modelRow{}, lookups: map[LookupRead]map[string]string{}, changed: map[LookupRead]bool{}}
	for _, t := range tables {
		e, _ := p.Bind(t.table, nil)
		inc.evals = append(inc.evals, e)
	}
	return inc
}

// apply makes row the content of the source row id; nil deletes it.
func (inc *incremental) apply(table int, id string, row []source.Datum) {
	for _, b := range inc.rows[id].puts {
		delete(inc.buckets[b], id)
		if len(inc.buckets[b]) == 0 {
			delete(inc.buckets, b)
		}
	}
	for _, l := range inc.rows[id].lookups {
		inc.changed[l] = true
		delete(inc.lookups[l], id)
		if len(inc.lookups[l]) == 0 {
			delete(inc.lookups, l)
		}
	}
	delete(inc.rows, id)
	if row == nil || inc.evals[table] == nil {
		return
	}
	inc.evals[table].Row(row, &inc.out)
	var c contribution
	for _, p := range inc.out.Puts {
		b := bucketID{p.Def, p.Params}
		if inc.buckets[b] == nil {
			inc.buckets[b] = map[string]modelRow{}
		}
		inc.buckets[b][id] = modelRow{p.ObjectType, p.ObjectID, string(p.Data)}
		c.puts = append(c.puts, b)
	}
	for _, l := range inc.out.Lookups {
		k := LookupRead{l.Def, l.Key}
		if inc.lookups[k] == nil {
			inc.lookups[k] = map[string]string{}
		}
		inc.lookups[k][id] = string(l.Values)
		inc.changed[k] = true
		c.lookups = append(c.lookups, k)
	}
	inc.rows[id] = c
}

func (inc *incremental) Lookup(def int, key string, yield func([]byte) error) error {
	for _, v := range inc.lookups[LookupRead{def, key}] {
		if err := yield([]byte(v)); err != nil {
			return err
		}
	}
	return nil
}

// TestIncremental applies random changes one by one: after each, the buckets that
// were kept up to date equal those computed from scratch, the user's rows are what
// SQLite gives, and as long as no lookup that an answer read has changed, neither
// has the answer.
func TestIncremental(t *testing.T) {
	quiet := 0
	for seed := *firstSeed; seed < *firstSeed+uint64(*seeds)/3; seed++ {
		w := newWorld(t, rand.New(rand.NewPCG(seed, 1)), true)
		q := w.query()
		p, _ := Compile(Source{File: "s.yaml", Text: fmt.Sprintf("config: {edition: 3, unstable_sqlite_expression_engine: true}\nstreams:\n  s:\n    query: %s\n", conformance.Quote(q.ours))})
		if p == nil {
			continue
		}
		inc := newIncremental(p, w.tables)
		for i := range w.tables {
			for k, row := range w.tables[i].rows {
				inc.apply(i, w.values[i][k][0].Str(), row)
			}
		}
		var last *BucketSet
		for step := range 40 {
			w.change(t, inc)
			fresh := newModel(p)
			fresh.load(w.tables)
			if d := cmp.Diff(fresh.asSets(), inc.asSets()); d != "" {
				t.Fatalf("seed %d, step %d: %s\n%s", seed, step, q.ours, d)
			}
			req := w.request()
			set, err := p.Buckets(req, inc, Limits{})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, b := range set.Buckets {
				for _, r := range inc.buckets[bucketID{b.Def, b.Params}] {
					got = append(got, r.data)
				}
			}
			slices.Sort(got)
			got = slices.Compact(got)
			if want := w.ask(t, q.lite); !slices.Equal(want, got) {
				t.Fatalf("seed %d, step %d: %s\nwant %v\n got %v", seed, step, q.lite, want, got)
			}
			if last != nil && !slices.ContainsFunc(last.Reads, func(r LookupRead) bool { return inc.changed[r] }) {
				quiet++
				if d := cmp.Diff(bucketIDs(last), bucketIDs(set)); d != "" {
					t.Fatalf("seed %d, step %d: %s: the buckets changed and no lookup that was read did:\n%s", seed, step, q.ours, d)
				}
			}
			last = set
			clear(inc.changed)
		}
	}
	if quiet == 0 {
		t.Error("no answer ever stood")
	}
}

// change inserts, updates or deletes a random row.
func (w *world) change(t testing.TB, inc *incremental) {
	table := w.IntN(len(w.tables))
	at := -1
	if n := len(w.values[table]); n > 0 {
		at = w.IntN(n)
	}
	switch op := w.IntN(3); {
	case op == 0 || at < 0:
		w.insert(t, table)
		at = len(w.values[table]) - 1
	case op == 1:
		w.put(t, table, at, w.randomRow(w.values[table][at][0]))
	default:
		inc.apply(table, w.values[table][at][0].Str(), nil)
		w.delete(t, table, at)
		return
	}
	inc.apply(table, w.values[table][at][0].Str(), w.tables[table].rows[at])
}

// sets is the content of a store, in a form that compares.
type sets struct {
	Buckets map[string][]string
	Lookups map[string][]string
}

func (m *model) asSets() sets {
	s := sets{map[string][]string{}, map[string][]string{}}
	for b, rows := range m.buckets {
		for _, r := range rows {
			s.Buckets[fmt.Sprint(b)] = append(s.Buckets[fmt.Sprint(b)], fmt.Sprint(r))
		}
		slices.Sort(s.Buckets[fmt.Sprint(b)])
	}
	for l, values := range m.lookups {
		for _, v := range values {
			s.Lookups[fmt.Sprint(l)] = append(s.Lookups[fmt.Sprint(l)], fmt.Sprintf("%q", v))
		}
		slices.Sort(s.Lookups[fmt.Sprint(l)])
	}
	return s
}

func (inc *incremental) asSets() sets {
	m := newModel(inc.plan)
	for b, rows := range inc.buckets {
		m.buckets[b] = slices.Collect(maps.Values(rows))
	}
	for l, values := range inc.lookups {
		for _, v := range values {
			m.lookups[l] = append(m.lookups[l], []byte(v))
		}
	}
	return m.asSets()
}

func bucketIDs(s *BucketSet) []string {
	var out []string
	for _, b := range s.Buckets {
		out = append(out, fmt.Sprint(b.Def, b.Params))
	}
	slices.Sort(out)
	return out
}
