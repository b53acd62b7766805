package streams

import (
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/millrace-sync/millrace/internal/conformance"
	"github.com/millrace-sync/millrace/internal/source"
)

// FuzzCompile reads arbitrary texts as sync configs: every diagnostic must lie in
// the text, and what compiles must bind, describe itself and answer.
func FuzzCompile(f *testing.F) {
	for _, pattern := range []string{"testdata/diagnostics/queries.yaml", "testdata/diagnostics/places.yaml", "testdata/plans/streams.yaml", "testdata/plans/legacy.yaml", "testdata/conformance/legacy.yaml"} {
		f.Add(conformance.ReadFile(f, pattern))
	}
	f.Add("config: {edition: 3}\nstreams: {s: {query: SELECT * FROM t0 q WHERE q.a IN (SELECT b FROM t1 WHERE c = auth.user_id()) AND arr && auth.parameter('x')}}")
	f.Add("x: &a [*a]\nstreams: *a")
	f.Add("config: !!binary 3\nstreams: {? [a] : b, <<: {}}\n---\n")
	table := &source.Table{Schema: "public", Name: "t0", Columns: []source.Column{{Name: "id", Type: tagged{}, Key: true}, {Name: "a", Type: tagged{}}, {Name: "arr", Type: tagged{}}}}
	row := []source.Datum{datumOf(source.String("r1")), datumOf(source.Int(1)), datumOf(source.String(`["x",1]`))}
	f.Fuzz(func(t *testing.T, text string) {
		p, diags := Compile(Source{File: "f.yaml", Text: text, Line: 5, Column: 3, Indent: 2})
		Format(diags)
		for _, d := range diags {
			if d.Start.Line < 5 || d.Start.Column < 1 {
				t.Fatalf("%v", d)
			}
		}
		if p == nil {
			return
		}
		p.Describe()
		p.CheckTables([]*source.Table{table})
		e, _ := p.Bind(table, nil)
		var out Output
		if e != nil {
			e.Row(row, &out)
			e.Row(row, &out)
		}
		m := newModel(p)
		m.load([]sourceTable{{table, [][]source.Datum{row}}})
		subs := []Subscription{}
		for _, s := range p.Streams {
			subs = append(subs, Subscription{Stream: s.Name, Parameters: []byte(`{"a":1}`)})
		}
		if _, err := p.Buckets(&Request{Claims: []byte(`{"sub":"u","x":["x"]}`), IncludeDefaults: true, Subscriptions: subs}, m, Limits{100, 100}); err != nil {
			if _, ok := err.(*LimitError); !ok {
				t.Fatal(err)
			}
		}
	})
}

// FuzzAlign checks that every byte of a scalar's value gets an offset in the text.
func FuzzAlign(f *testing.F) {
	f.Add("a: 'it''s'\nb: \"x\\n\\u00e9\\\n  y\"\nc: |\n  l1\n\n   l2\nd: >-\n  f1\n  f2\ne: !!str &x plain\n   more\n")
	f.Fuzz(func(t *testing.T, text string) {
		d := newDocument(Source{Text: text})
		top := d.parse()
		if top == nil {
			return
		}
		for _, n := range top.Content {
			if n.Kind != yaml.ScalarNode {
				continue
			}
			at := d.align(n)
			if len(at) != len(n.Value)+1 {
				t.Fatalf("%d offsets of %q", len(at), n.Value)
			}
			for i, off := range at {
				if off < 0 || off > len(text) {
					t.Fatalf("byte %d of %q at %d", i, n.Value, off)
				}
			}
		}
	})
}

// FuzzResults decodes arbitrary bytes as the values of a lookup entry.
func FuzzResults(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x03\"a\"\x00\x00\x00\x011"), 2)
	f.Add([]byte("\xff\xff\xff\xff"), 1)
	f.Add([]byte{}, 0)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		if n < 0 || n > 100 {
			return
		}
		size := 0
		err := eachResult(b, n, func(result []string) error {
			for _, v := range result {
				size += 4 + len(v)
			}
			return nil
		})
		if err == nil && size != len(b) {
			t.Fatalf("%d of %d bytes were read", size, len(b))
		}
	})
}
