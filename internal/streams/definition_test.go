package streams

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-sync/millrace/internal/conformance"
	"github.com/millrace-sync/millrace/internal/source"
)

func hashes(p *Plan) []string {
	var out []string
	for _, d := range p.Definitions {
		out = append(out, d.Hash)
	}
	return out
}

func streamConfigOf(queries ...string) string {
	var b strings.Builder
	b.WriteString("config: {edition: 3}\nstreams:\n")
	for i, q := range queries {
		fmt.Fprintf(&b, "  s%d:\n    accept_potentially_dangerous_queries: true\n    query: %s\n", i, conformance.Quote(q))
	}
	return b.String()
}

// TestHashStands holds what a definition's hash does not depend on.
func TestHashStands(t *testing.T) {
	base := `SELECT id, name FROM t WHERE a = 1 AND b = auth.user_id() AND c IN (SELECT d FROM u WHERE e = auth.user_id() AND f > 2)`
	want := hashes(mustCompile(t, streamConfigOf(base)))
	for name, text := range map[string]string{
		"layout":          streamConfigOf("select  ID ,NAME\n from PUBLIC.t -- c\n where (a=1) and b=auth.user_id() /* x */ and c in (select d from u where e=auth.user_id() and f>2)"),
		"order":           streamConfigOf(`SELECT id, name FROM t WHERE c IN (SELECT d FROM u WHERE f > 2 AND auth.user_id() = e) AND auth.user_id() = b AND a = 1`),
		"request side":    streamConfigOf(`SELECT id, name FROM t WHERE a = 1 AND b = subscription.parameter('b') AND c IN (SELECT d FROM u WHERE e = connection.parameter('e') AND f > 2)`),
		"spelling":        streamConfigOf(`SELECT t.id AS id, name name FROM t WHERE a = 1 AND b = request.user_id() AND c IN (SELECT x.d FROM u AS x WHERE x.e = auth.user_id() AND x.f > 2)`),
		"twice":           streamConfigOf(base, base),
		"join":            streamConfigOf(`SELECT t.id, t.name FROM t JOIN u ON u.d = t.c WHERE t.a = 1 AND t.b = auth.user_id() AND u.e = auth.user_id() AND u.f > 2`),
		"name, priority":  strings.ReplaceAll(streamConfigOf(base), "s0:", "other:\n    priority: 0\n    auto_subscribe: true"),
		"cte":             "config: {edition: 3}\nwith: {mine: SELECT d FROM u WHERE e = auth.user_id() AND f > 2}\nstreams: {s: {query: SELECT id|COMMA| name FROM t WHERE a = 1 AND b = auth.user_id() AND c IN mine}}",
		"storage_version": strings.Replace(streamConfigOf(base), "edition: 3", "edition: 3, storage_version: 2, versioned_bucket_ids: false", 1),
	} {
		text = strings.ReplaceAll(strings.ReplaceAll(text, "{query: SELECT id|COMMA|", `{query: "SELECT id,`), "IN mine}", `IN mine"}`)
		if got := hashes(mustCompile(t, text)); !slices.Equal(want, got) {
			t.Errorf("%s: %v, want %v\n%s", name, got, want, text)
		}
	}
	// A neighbour leaves the others as they are.
	more := hashes(mustCompile(t, streamConfigOf("SELECT * FROM other", base, "SELECT * FROM another")))
	for _, h := range want {
		if !slices.Contains(more, h) {
			t.Errorf("hash %s is gone with more streams around it", h)
		}
	}
}

// TestHashChanges holds what it does depend on: everything that a bucket's content does.
func TestHashChanges(t *testing.T) {
	seen := map[string]string{}
	for name, text := range map[string]string{
		"base":       streamConfigOf(`SELECT id, name FROM t WHERE b = auth.user_id()`),
		"columns":    streamConfigOf(`SELECT id, title FROM t WHERE b = auth.user_id()`),
		"order":      streamConfigOf(`SELECT name, id FROM t WHERE b = auth.user_id()`),
		"alias":      streamConfigOf(`SELECT id, name AS title FROM t WHERE b = auth.user_id()`),
		"type":       streamConfigOf(`SELECT id, name FROM t AS x WHERE b = auth.user_id()`),
		"table":      streamConfigOf(`SELECT id, name FROM u WHERE b = auth.user_id()`),
		"schema":     streamConfigOf(`SELECT id, name FROM s.t WHERE b = auth.user_id()`),
		"filter":     streamConfigOf(`SELECT id, name FROM t WHERE b = auth.user_id() AND c = 1`),
		"value":      streamConfigOf(`SELECT id, name FROM t WHERE b = auth.user_id() AND c = '1'`),
		"key":        streamConfigOf(`SELECT id, name FROM t WHERE c = auth.user_id()`),
		"expression": streamConfigOf(`SELECT id, name FROM t WHERE lower(b) = auth.user_id()`),
		"form":       strings.Replace(streamConfigOf(`SELECT id, name FROM t WHERE b = auth.user_id()`), "edition: 3", "edition: 3, timestamps_iso8601: false", 1),
		"precision":  strings.Replace(streamConfigOf(`SELECT id, name FROM t WHERE b = auth.user_id()`), "edition: 3", "edition: 3, timestamp_max_precision: seconds", 1),
		"engine":     strings.Replace(streamConfigOf(`SELECT id, name FROM t WHERE b = auth.user_id()`), "edition: 3", "edition: 3, unstable_sqlite_expression_engine: true", 1),
		"json":       strings.Replace(streamConfigOf(`SELECT id, name FROM t WHERE b = auth.user_id()`), "edition: 3", "edition: 3, fixed_json_extract: false", 1),
		"edition":    "config: {edition: 2}\nbucket_definitions: {s: {parameters: SELECT request.user_id() AS u, data: ['SELECT id, name FROM t WHERE b = bucket.u']}}",
	} {
		h := hashes(mustCompile(t, text))
		if len(h) != 1 {
			t.Fatalf("%s: %d definitions", name, len(h))
		}
		if other, ok := seen[h[0]]; ok {
			t.Errorf("%s has the hash of %s", name, other)
		}
		seen[h[0]] = name
	}
}

// TestEmbedded checks positions of a config that stands inside another file.
func TestEmbedded(t *testing.T) {
	// powersync.yaml: two lines, then "  content: |" and the text indented by 4.
	_, diags := Compile(Source{File: "powersync.yaml", Text: "config: {edition: 3}\nstreams: {s: {query: SELECT nope() FROM a}}\n", Line: 4, Column: 5, Indent: 4})
	if len(diags) != 1 || diags[0].Start != (Position{"powersync.yaml", 5, 33}) {
		t.Fatal(Format(diags))
	}
	if line, caret := diags[0].snippet(); !strings.HasPrefix(line, "    streams:") || line[strings.IndexByte(caret, '^'):][:4] != "nope" {
		t.Errorf("%s\n%s", line, caret)
	}
}

// TestCheckTables compares a plan with a database.
func TestCheckTables(t *testing.T) {
	p := mustCompile(t, streamConfigOf(
		`SELECT id, titel FROM tasks WHERE owner = auth.user_id() AND project_id IN (SELECT id FROM project WHERE org = 'x')`,
		`SELECT * FROM Mixed`, `SELECT * FROM metrics`, `SELECT * FROM "log_%"`, `SELECT * FROM keyless`, `SELECT * FROM orders`))
	table := func(schema, name string, key bool, columns ...string) *source.Table {
		t := &source.Table{Schema: schema, Name: name}
		for i, c := range columns {
			t.Columns = append(t.Columns, source.Column{Name: c, Type: tagged{}, Key: key && i == 0})
		}
		return t
	}
	part := table("public", "metrics_1", true, "id")
	part.RootSchema, part.RootName = "public", "metrics"
	got := Format(p.CheckTables([]*source.Table{
		table("public", "tasks", true, "id", "title", "owner", "project_id"), table("public", "projects", true, "id"), table("public", "Mixed", true, "id"),
		part, table("public", "keyless", false, "a"), table("shop", "orders", true, "id"),
	}))
	for _, want := range []string{
		"table public.tasks has no column titel: it counts as NULL", "did you mean title?",
		"there is no table public.project\n", "did you mean projects?",
		"there is no table public.mixed\n", `did you mean "Mixed", in double quotes?`,
		"there is no table public.log_%\n",
		"error: s4: table public.keyless has no primary key", "ALTER TABLE public.keyless REPLICA IDENTITY FULL",
		"there is no table public.orders\n", "did you mean shop.orders?",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("not reported: %s", want)
		}
	}
	if n := strings.Count(got, "sync-config.yaml:"); n != 6 {
		t.Errorf("%d reports, want 6:\n%s", n, got)
	}
}

// TestTooMany checks that the number of diagnostics is bounded, and that errors
// are not lost among warnings.
func TestTooMany(t *testing.T) {
	var queries []string
	for range 2 * maxDiagnostics {
		queries = append(queries, "SELECT name FROM a")
	}
	p, diags := Compile(Source{Text: streamConfigOf(append(queries, "SELECT nope() FROM a", "SELECT nope() FROM a")...)})
	if p != nil || len(diags) != maxDiagnostics+1 || diags[len(diags)-1].Severity != Error {
		t.Errorf("%d diagnostics, the last %v", len(diags), diags[len(diags)-1])
	}
}
