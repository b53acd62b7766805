package streams

import (
	"strings"
	"testing"

	"github.com/millrace-sync/millrace/internal/conformance"
)

const conformanceDir = "testdata/conformance/"

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
			expected := conformance.ReadExpected(t, conformanceDir+run.expected)
			var cases []conformance.Case
			for _, c := range conformance.ReadCases(t, conformanceDir+"streams.txt") {
				if expected[c.Name] != nil {
					cases = append(cases, c)
				}
			}
			if len(cases) != len(expected) || len(cases) < 100 {
				t.Fatalf("%d cases, %d expectations", len(cases), len(expected))
			}
			m := newModel(mustCompile(t, conformance.Config(run.settings, cases)))
			m.load(run.tables)
			for _, e := range m.errors {
				t.Logf("row error in %s: %s", m.plan.Definitions[e.Def].Label, e.Message)
			}
			for _, c := range cases {
				for _, u := range conformance.Users {
					req := &Request{Claims: conformance.Claims(u), Parameters: []byte(conformance.Connection), Subscriptions: []Subscription{{Stream: c.Name, Parameters: []byte(conformance.Subscription)}}}
					if d := diff(conformance.Without(run.expected, c.Name, expected[c.Name][u]), conformance.Without(run.expected, c.Name, m.rows(t, req, false))); d != "" {
						t.Errorf("%s for %s: %s\n%s", c.Name, u, strings.Join(c.Queries, " ;; "), d)
					}
				}
			}
		})
	}
}

// TestConformanceLegacy does the same for bucket definitions.
func TestConformanceLegacy(t *testing.T) {
	before, after := recordedRows(t)
	text := conformance.ReadFile(t, conformanceDir+"legacy.yaml")
	for _, run := range []struct {
		expected, settings string
		tables             []sourceTable
	}{
		{"legacy-before.json", "", before},
		{"legacy-after.json", "", after},
		{"legacy-edition2-before.json", "config: {edition: 2}\n", before},
	} {
		t.Run(strings.TrimSuffix(run.expected, ".json"), func(t *testing.T) {
			expected := conformance.ReadExpected(t, conformanceDir+run.expected)
			m := newModel(mustCompile(t, run.settings+text))
			m.load(run.tables)
			for _, u := range conformance.Users {
				req := &Request{Claims: conformance.Claims(u), Parameters: []byte(conformance.Connection), IncludeDefaults: true}
				if d := diff(conformance.Without(run.expected, "", expected[u]), conformance.Without(run.expected, "", m.rows(t, req, true))); d != "" {
					t.Errorf("for %s:\n%s", u, d)
				}
			}
		})
	}
}

// TestConformanceInvalid checks that every query that must be rejected is, with the
// place in the query and what to do instead.
func TestConformanceInvalid(t *testing.T) {
	cases := append(conformance.ReadCases(t, conformanceDir+"invalid.txt"), conformance.ReadCases(t, "testdata/rejected.txt")...)
	for _, c := range cases {
		text := conformance.Config("", []conformance.Case{c})
		p, diags := Compile(Source{File: "sync-config.yaml", Text: text})
		if p != nil {
			t.Errorf("%s is accepted: %s", c.Name, c.Queries)
			continue
		}
		for _, d := range diags {
			if d.Severity != Error {
				continue
			}
			if d.Hint == "" {
				t.Errorf("%s: no hint:\n%s", c.Name, d)
			}
			if i := strings.Index(d.Snippet, `- "`); i < 0 || d.Start.Column < i+4 {
				t.Errorf("%s: not in the query:\n%s", c.Name, d)
			}
		}
	}
}
