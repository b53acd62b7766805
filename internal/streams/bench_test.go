package streams

import (
	"fmt"
	"strings"
	"testing"
	"unsafe"

	"github.com/millrace-sync/millrace/internal/conformance"
	"github.com/millrace-sync/millrace/internal/source"
)

// BenchmarkCompile compiles a config of 170 streams: the conformance cases, and
// once more as many as are missing.
func BenchmarkCompile(b *testing.B) {
	cases := conformance.ReadCases(b, "testdata/conformance/streams.txt")
	for i := 0; len(cases) < 170; i++ {
		c := cases[i]
		c.Name += "_again"
		cases = append(cases, c)
	}
	text := conformance.Config("", cases[:170])
	b.ReportAllocs()
	for b.Loop() {
		if p, diags := Compile(Source{File: "s.yaml", Text: text}); p == nil {
			b.Fatal(Format(diags))
		}
	}
}

// shared decodes text without copying it, and integers, as the real types do.
type shared struct{ integer bool }

func (shared) Name() string { return "text" }

func (s shared) Decode(d source.Datum, _ source.Form) (source.Value, error) {
	switch {
	case d.Encoding == source.Null:
		return source.Value{}, nil
	case s.integer:
		n := int64(0)
		for _, c := range d.Bytes {
			n = 10*n + int64(c-'0')
		}
		return source.Int(n), nil
	}
	return source.String(unsafe.String(unsafe.SliceData(d.Bytes), len(d.Bytes))), nil
}

// typicalStreams are ten streams over one table, of the kinds that applications have.
const typicalStreams = `
config: {edition: 3}
streams:
  mine: {query: "SELECT * FROM tasks WHERE assignee = auth.user_id()"}
  project: {query: "SELECT * FROM tasks WHERE project_id = subscription.parameter('project_id') AND project_id IN (SELECT project_id FROM shares WHERE user_id = auth.user_id())"}
  org: {query: "SELECT id, title, status FROM tasks WHERE project_id IN (SELECT id FROM projects WHERE org_id IN (SELECT org_id FROM members WHERE user_id = auth.user_id()))"}
  open: {query: "SELECT * FROM tasks WHERE assignee = auth.user_id() AND status = 0"}
  done: {query: "SELECT id, title FROM tasks WHERE status = 3 AND owner = auth.user_id()"}
  urgent: {query: "SELECT * FROM tasks WHERE priority > 2 AND owner = auth.user_id()"}
  named: {query: "SELECT id, upper(title) AS title, status + 1 AS next FROM tasks WHERE lower(title) = 'never'"}
  either: {query: "SELECT * FROM tasks WHERE assignee = auth.user_id() OR owner = auth.user_id()"}
  recent: {query: "SELECT id, title, due FROM tasks WHERE due > '2099-01-01'"}
  labelled: {query: "SELECT * FROM tasks WHERE status IN (7, 8, 9) AND owner = auth.user_id()"}
`

func typicalTable() (*source.Table, [][]source.Datum) {
	t := &source.Table{Schema: "public", Name: "tasks"}
	for _, c := range []string{"id", "project_id", "assignee", "owner", "title", "status", "priority", "due"} {
		t.Columns = append(t.Columns, source.Column{Name: c, Type: shared{c == "status" || c == "priority"}, Key: c == "id"})
	}
	var rows [][]source.Datum
	for i := range 64 {
		var row []source.Datum
		for _, s := range []string{fmt.Sprintf("22222222-2222-2222-2222-%012d", i), fmt.Sprintf("p%d", i/4), fmt.Sprintf("user-%d", i/4), fmt.Sprintf("user-%d", i%8), "Write the benchmark that shows it", fmt.Sprint(1 + i%2), fmt.Sprint(i % 3), "2024-02-29"} {
			row = append(row, source.Datum{Bytes: []byte(s), Encoding: source.Text})
		}
		rows = append(rows, row)
	}
	return t, rows
}

// BenchmarkRow evaluates rows of one table against ten streams.
func BenchmarkRow(b *testing.B) {
	p := mustCompile(b, typicalStreams)
	table, rows := typicalTable()
	e, _ := p.Bind(table, nil)
	var out Output
	puts := 0
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		e.Row(rows[i%len(rows)], &out)
		puts += len(out.Puts) + len(out.Lookups)
		if len(out.Errors) > 0 {
			b.Fatal(out.Errors)
		}
		i++
	}
	b.ReportMetric(float64(i)/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(float64(puts)/float64(i), "ops/row")
}

// TestRowAllocations holds the promise that evaluation allocates at most three
// times for each operation that it produces.
func TestRowAllocations(t *testing.T) {
	p := mustCompile(t, typicalStreams)
	table, rows := typicalTable()
	e, _ := p.Bind(table, nil)
	var out Output
	ops := 0
	for _, r := range rows {
		e.Row(r, &out)
		ops += len(out.Puts) + len(out.Lookups)
	}
	i := 0
	perRow := testing.AllocsPerRun(10*len(rows), func() { e.Row(rows[i%len(rows)], &out); i++ })
	perOp := perRow * float64(len(rows)) / float64(ops)
	t.Logf("%.2f allocations for each of %.1f operations a row", perOp, float64(ops)/float64(len(rows)))
	if perOp > 3 || ops < 2*len(rows) {
		t.Errorf("%.2f allocations an operation, %d operations of %d rows", perOp, ops, len(rows))
	}
}

// BenchmarkRequest evaluates a request over ten streams, most with lookups.
func BenchmarkRequest(b *testing.B) {
	p := mustCompile(b, strings.ReplaceAll(typicalStreams, "{query:", "{auto_subscribe: true, query:"))
	m := newModel(p)
	req := &Request{Claims: []byte(`{"sub":"user-1","org":"o1","exp":1}`), IncludeDefaults: true}
	b.ReportAllocs()
	for b.Loop() {
		m.reads = m.reads[:0]
		if _, err := p.Buckets(req, m, Limits{1000, 1000}); err != nil {
			b.Fatal(err)
		}
	}
}
