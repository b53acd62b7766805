package streams

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-sync/millrace/internal/postgres/pgtypes"
	"github.com/millrace-sync/millrace/internal/source"
)

// sourceTable is a table with its rows, as a test's database has it.
type sourceTable struct {
	table *source.Table
	rows  [][]source.Datum
}

// recordedRows reads testdata/rows.json: the conformance database before and after
// its steps.
func recordedRows(t testing.TB) (before, after []sourceTable) {
	t.Helper()
	var file struct {
		Types         []pgtypes.Info
		Before, After []struct {
			Schema, Name, RootSchema, RootName string
			Columns                            []struct {
				Name string
				OID  uint32
				Key  bool
			}
			Rows [][]*string
		}
	}
	b, err := os.ReadFile("testdata/rows.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	types := pgtypes.NewRegistry()
	for _, i := range file.Types {
		types.Add(i)
	}
	for i, tables := range [][]struct {
		Schema, Name, RootSchema, RootName string
		Columns                            []struct {
			Name string
			OID  uint32
			Key  bool
		}
		Rows [][]*string
	}{file.Before, file.After} {
		var out []sourceTable
		for _, tb := range tables {
			st := sourceTable{table: &source.Table{Schema: tb.Schema, Name: tb.Name, RootSchema: tb.RootSchema, RootName: tb.RootName}}
			for _, c := range tb.Columns {
				st.table.Columns = append(st.table.Columns, source.Column{Name: c.Name, Type: types.Type(c.OID), Key: c.Key})
			}
			for _, r := range tb.Rows {
				row := make([]source.Datum, len(r))
				for k, v := range r {
					if v != nil {
						row[k] = source.Datum{Bytes: []byte(*v), Encoding: source.Text}
					}
				}
				st.rows = append(st.rows, row)
			}
			out = append(out, st)
		}
		if i == 0 {
			before = out
		} else {
			after = out
		}
	}
	return before, after
}

// model is the simplest store there can be: what every row evaluates to.
type model struct {
	plan    *Plan
	buckets map[bucketID][]modelRow
	lookups map[LookupRead][][]byte
	errors  []RowError
	reads   []LookupRead
}

type modelRow struct{ typ, id, data string }

func newModel(p *Plan) *model {
	return &model{plan: p, buckets: map[bucketID][]modelRow{}, lookups: map[LookupRead][][]byte{}}
}

func (m *model) load(tables []sourceTable) {
	var out Output
	for _, t := range tables {
		eval, _ := m.plan.Bind(t.table, nil)
		if eval == nil {
			continue
		}
		for _, r := range t.rows {
			eval.Row(r, &out)
			for _, p := range out.Puts {
				id := bucketID{p.Def, p.Params}
				m.buckets[id] = append(m.buckets[id], modelRow{p.ObjectType, p.ObjectID, string(p.Data)})
			}
			for _, l := range out.Lookups {
				k := LookupRead{Def: l.Def, Key: l.Key}
				m.lookups[k] = append(m.lookups[k], l.Values)
			}
			m.errors = append(m.errors, out.Errors...)
		}
	}
}

func (m *model) Lookup(def int, key string, yield func([]byte) error) error {
	m.reads = append(m.reads, LookupRead{def, key})
	for _, v := range m.lookups[LookupRead{def, key}] {
		if err := yield(v); err != nil {
			return err
		}
	}
	return nil
}

// rows returns what a request gets: "type/id" to the distinct contents, prefixed
// with the definition's label if labels is set.
func (m *model) rows(t testing.TB, req *Request, labels bool) any {
	t.Helper()
	set, err := m.plan.Buckets(req, m, Limits{Buckets: 1000, LookupResults: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range set.Streams {
		if len(s.Errors) > 0 {
			return "error: stream errors"
		}
	}
	out := map[string]any{}
	texts := map[string][]string{}
	for _, b := range set.Buckets {
		for _, r := range m.buckets[bucketID{b.Def, b.Params}] {
			k := r.typ + "/" + r.id
			if labels {
				k = m.plan.Definitions[b.Def].Label + ": " + k
			}
			texts[k] = append(texts[k], r.data)
		}
	}
	for k, v := range texts {
		slices.Sort(v)
		list := []any{}
		for _, s := range slices.Compact(v) {
			list = append(list, s)
		}
		out[k] = list
	}
	return out
}

func mustCompile(t testing.TB, text string) *Plan {
	t.Helper()
	p, diags := Compile(Source{File: "sync-config.yaml", Text: text})
	if p == nil {
		t.Fatalf("config does not compile:\n%s\n%s", text, Format(diags))
	}
	return p
}

// diff describes how two answers differ, "" if they do not.
func diff(want, got any) string {
	w, wok := want.(map[string]any)
	g, gok := got.(map[string]any)
	if !wok || !gok {
		if fmt.Sprint(want) != fmt.Sprint(got) {
			return fmt.Sprintf("want %.300v\n got %.300v", want, got)
		}
		return ""
	}
	var b strings.Builder
	for k := range w {
		if _, ok := g[k]; !ok {
			fmt.Fprintf(&b, "missing %s %v\n", k, w[k])
		} else if x, y := fmt.Sprint(w[k]), fmt.Sprint(g[k]); x != y {
			fmt.Fprintf(&b, "%s\n want %s\n  got %s\n", k, x, y)
		}
	}
	for k := range g {
		if _, ok := w[k]; !ok {
			fmt.Fprintf(&b, "extra %s %v\n", k, g[k])
		}
	}
	return b.String()
}
