package streams

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
)

type streamCase struct {
	name    string
	ctes    [][2]string
	queries []string
}

// readCases reads "name | query ;; query" lines, where a query may be
// "cte: name := query".
func readCases(t testing.TB, path string) []streamCase {
	t.Helper()
	var out []streamCase
	for _, l := range strings.Split(readFile(t, path), "\n") {
		if l == "" || l[0] == '#' {
			continue
		}
		name, rest, _ := strings.Cut(l, " | ")
		c := streamCase{name: strings.TrimSpace(name)}
		for _, p := range strings.Split(rest, " ;; ") {
			if cte, ok := strings.CutPrefix(strings.TrimSpace(p), "cte: "); ok {
				n, q, _ := strings.Cut(cte, " := ")
				c.ctes = append(c.ctes, [2]string{n, q})
			} else {
				c.queries = append(c.queries, strings.TrimSpace(p))
			}
		}
		out = append(out, c)
	}
	return out
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(string(b))
}

const globalCTEs = `
with:
  g_orgs: SELECT org_id FROM org_members WHERE user_id = auth.user_id()
  g_projects: SELECT project_id FROM project_shares WHERE shared_with = auth.user_id()
`

// streamsConfig makes one stream of each case.
func streamsConfig(settings string, cases []streamCase) string {
	var b strings.Builder
	b.WriteString("config:\n  edition: 3\n" + settings + globalCTEs + "streams:\n")
	for _, c := range cases {
		fmt.Fprintf(&b, "  %s:\n    accept_potentially_dangerous_queries: true\n", c.name)
		if len(c.ctes) > 0 {
			b.WriteString("    with:\n")
			for _, t := range c.ctes {
				fmt.Fprintf(&b, "      %s: %s\n", t[0], quote(t[1]))
			}
		}
		b.WriteString("    queries:\n")
		for _, q := range c.queries {
			fmt.Fprintf(&b, "      - %s\n", quote(q))
		}
	}
	return b.String()
}

var conformanceUsers = []string{"u1", "u2", "u5", "nobody"}

// conformanceClaims are the token payloads of the conformance users.
func conformanceClaims(u string) []byte {
	base := map[string]any{"org": "o1", "nested": map[string]any{"org": "o2"}, "nul": nil, "role": "member", "flag": false, "n": 3, "nstr": "3",
		"project_ids": []string{"p1", "p3"}, "item_ids": []int{1, 4}, "empty": []string{}, "labels": []string{"l1", "zz"}, "email": "ADA@x.org", "pname": "Gamma", "tenant": "tenant_a"}
	switch u {
	case "u1":
		base["role"], base["flag"] = "admin", true
	case "u2":
		base["org"], base["n"], base["project_ids"] = "o2", 2, []string{"p5"}
	case "u5":
		base["org"], base["n"], base["tenant"] = "o4", 5.0, "tenant_b"
	}
	base["sub"] = u
	b, err := json.Marshal(base)
	if err != nil {
		panic(err)
	}
	return b
}

const (
	conformanceSubscription = `{"project_id":"p1","task_ids":["t1","t2","t6","nope"],"status":2,"one":"1","role":"admin","year":"2024"}`
	conformanceConnection   = `{"environment":"prod","level":2,"arr":["p1","p2"],"s":"eu"}`
)

func readExpected(t testing.TB, name string) map[string]map[string]any {
	t.Helper()
	var out map[string]map[string]any
	if err := json.Unmarshal([]byte(readFile(t, "testdata/conformance/"+name)), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// beyond names expectations that no evaluation of the present rows can meet, since
// they record how the rows got there: "file case-or-definition: key".
var beyond = map[string]string{
	"streams-after.json t_keyless: keyless/x":  "deleting one of two equal rows took both from the reference's clients",
	"legacy-after.json global_types: types/y1": "edition 1 gives a domain as text once its row was streamed, as its base type before",
}

// without removes the keys that beyond names.
func without(file, name string, rows any) any {
	m, ok := rows.(map[string]any)
	if !ok {
		return rows
	}
	out := map[string]any{}
	for k, v := range m {
		id := file + " " + k
		if name != "" {
			id = file + " " + name + ": " + k
		}
		if beyond[id] == "" {
			out[k] = v
		}
	}
	return out
}

// TestConformanceStreams holds every shared stream case against what the reference
// gave its clients, on the database before and after the steps.
func TestConformanceStreams(t *testing.T) {
	before, after := recordedRows(t)
	for _, run := range []struct {
		expected, settings string
		tables             []sourceTable
	}{
		{"streams-before.json", "", before},
		{"streams-after.json", "", after},
		{"streams-sqlite.json", "  unstable_sqlite_expression_engine: true\n", before},
	} {
		t.Run(strings.TrimSuffix(run.expected, ".json"), func(t *testing.T) {
			expected := readExpected(t, run.expected)
			var cases []streamCase
			for _, c := range readCases(t, "testdata/conformance/streams.txt") {
				if expected[c.name] != nil {
					cases = append(cases, c)
				}
			}
			if len(cases) != len(expected) || len(cases) < 100 {
				t.Fatalf("%d cases, %d expectations", len(cases), len(expected))
			}
			m := newModel(mustCompile(t, streamsConfig(run.settings, cases)))
			m.load(run.tables)
			for _, e := range m.errors {
				t.Logf("row error in %s: %s", m.plan.Definitions[e.Def].Label, e.Message)
			}
			for _, c := range cases {
				for _, u := range conformanceUsers {
					req := &Request{Claims: conformanceClaims(u), Parameters: []byte(conformanceConnection), Subscriptions: []Subscription{{Stream: c.name, Parameters: []byte(conformanceSubscription)}}}
					if d := diff(without(run.expected, c.name, expected[c.name][u]), without(run.expected, c.name, m.rows(t, req, false))); d != "" {
						t.Errorf("%s for %s: %s\n%s", c.name, u, strings.Join(c.queries, " ;; "), d)
					}
				}
			}
		})
	}
}

// TestConformanceLegacy does the same for bucket definitions.
func TestConformanceLegacy(t *testing.T) {
	before, after := recordedRows(t)
	text := readFile(t, "testdata/conformance/legacy.yaml")
	for _, run := range []struct {
		expected, settings string
		tables             []sourceTable
	}{
		{"legacy-before.json", "", before},
		{"legacy-after.json", "", after},
		{"legacy-edition2-before.json", "config: {edition: 2}\n", before},
	} {
		t.Run(strings.TrimSuffix(run.expected, ".json"), func(t *testing.T) {
			expected := readExpected(t, run.expected)
			m := newModel(mustCompile(t, run.settings+text))
			m.load(run.tables)
			for _, u := range conformanceUsers {
				req := &Request{Claims: conformanceClaims(u), Parameters: []byte(conformanceConnection), IncludeDefaults: true}
				if d := diff(without(run.expected, "", expected[u]), without(run.expected, "", m.rows(t, req, true))); d != "" {
					t.Errorf("for %s:\n%s", u, d)
				}
			}
		})
	}
}

// TestConformanceInvalid checks that every query that must be rejected is, with the
// place in the query and what to do instead.
func TestConformanceInvalid(t *testing.T) {
	cases := append(readCases(t, "testdata/conformance/invalid.txt"), readCases(t, "testdata/rejected.txt")...)
	for _, c := range cases {
		text := streamsConfig("", []streamCase{c})
		p, diags := Compile(Source{File: "sync-config.yaml", Text: text})
		if p != nil {
			t.Errorf("%s is accepted: %s", c.name, c.queries)
			continue
		}
		for _, d := range diags {
			if d.Severity != Error {
				continue
			}
			if d.Hint == "" {
				t.Errorf("%s: no hint:\n%s", c.name, d)
			}
			if i := strings.Index(d.Snippet, `- "`); i < 0 || d.Start.Column < i+4 {
				t.Errorf("%s: not in the query:\n%s", c.name, d)
			}
		}
	}
}
