package expr

import (
	"testing"

	"github.com/millrace-sync/millrace/internal/source"
)

// benchRow is a row as streams typically filter it.
var benchInputs = []source.Value{
	source.String("u1"), source.Int(3), source.Real(1.5), source.String(`["red","blue"]`), {},
	source.String("2024-02-29T12:34:56.789012Z"), source.String("Task 1"),
}

func BenchmarkEval(b *testing.B) {
	cases := []struct{ name, expr string }{
		{"TextEquals", "a = 'u1'"},
		{"IntCompare", "b > 2"},
		{"TwoInputs", "a = g"},
		{"DateCompare", "f > '2024-03-15'"},
		{"IsNull", "e IS NULL"},
		{"And", "a = 'u1' AND b > 2"},
		{"OrNot", "NOT (b = 1 OR c = 2)"},
		{"Between", "b BETWEEN 1 AND 5"},
		{"InList", "b IN (7, 8, 3)"},
		{"Add", "b + 1"},
		{"AddReal", "c * 2"},
		{"Lower", "lower(a) = 'u1'"},
		{"InArray", "'blue' IN d"},
		{"Arrow", "d ->> 1"},
		{"Concat", "a || '-' || g"},
		{"Unixepoch", "unixepoch(f)"},
		{"CastText", "CAST(b AS text)"},
	}
	for _, e := range []Engine{Reference, SQLite} {
		b.Run(e.String(), func(b *testing.B) {
			for _, c := range cases {
				b.Run(c.name, func(b *testing.B) {
					p := benchProgram(b, c.expr, Options{Engine: e, FixedJSONExtract: true})
					b.ReportAllocs()
					for b.Loop() {
						if _, err := p.Eval(benchInputs); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		})
	}
}

// benchProgram compiles an expression over the inputs a, b, c, ….
func benchProgram(t testing.TB, expr string, o Options) *Program {
	t.Helper()
	n, names, err := parseExpr(expr)
	if err != nil {
		t.Fatal(err)
	}
	var rename func(n Node) Node
	rename = func(n Node) Node {
		switch n := n.(type) {
		case Input:
			return Input{Index: int(names[n.Index][0] - 'a')}
		case Call:
			args := make([]Node, len(n.Args))
			for i := range args {
				args[i] = rename(n.Args[i])
			}
			return Call{n.Op, args}
		}
		return n
	}
	p, err := Compile(rename(n), o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestEvalAllocations keeps what filters are mostly made of free of allocations.
func TestEvalAllocations(t *testing.T) {
	for _, expr := range []string{
		"a = 'u1'", "a != g", "b > 2", "f > '2024-03-15'", "e IS NULL", "a = 'u1' AND b > 2 OR NOT (c < 1)",
		"b BETWEEN 1 AND 5", "b IN (1, 2, 3)", "b + 1", "c * 2 > 1", "length(g)", "typeof(a)", "ifnull(e, b)", "iif(b, 1, 2)",
		"CASE b WHEN 3 THEN 'x' END", "substring(g, 1, 4)", "'blue' IN d", "g LIKE 't%'",
	} {
		for _, e := range []Engine{Reference, SQLite} {
			if e == SQLite && expr == "'blue' IN d" {
				continue // parses to JSONB
			}
			p := benchProgram(t, expr, Options{Engine: e})
			if n := testing.AllocsPerRun(100, func() {
				if _, err := p.Eval(benchInputs); err != nil {
					t.Fatal(err)
				}
			}); n > 0 {
				t.Errorf("%s: %s: %v allocations", e, expr, n)
			}
		}
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	row := []source.Value{
		source.String("22222222-2222-2222-2222-222222222222"), source.String("Write the benchmark that shows it"), source.Int(3),
		source.Int(9007199254740993), source.Real(1.5), {}, source.String(`["red","blue"]`), source.String("2024-02-29T12:34:56.789012Z"),
	}
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		buf = buf[:0]
		for _, v := range row {
			buf, _ = AppendJSON(buf, v)
		}
	}
	b.SetBytes(int64(len(buf)))
}

func BenchmarkFromJSON(b *testing.B) {
	raw := []byte(`{"org":"o1","nested":{"org":"o2"},"project_ids":["p1","p3"],"n":3}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := FromJSON(raw); err != nil {
			b.Fatal(err)
		}
	}
}
