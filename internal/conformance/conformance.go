// Package conformance reads the recorded conformance cases: sync configs and
// requests, and what clients must end up with on a given database. It serves the
// tests of the compiler, which evaluates recorded rows, and of the whole service,
// which has a real database.
package conformance

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
)

// Case is one stream.
type Case struct {
	Name    string
	CTEs    [][2]string // name and query
	Queries []string
}

// ReadCases reads "name | query ;; query" lines, where a query may be
// "cte: name := query".
func ReadCases(t testing.TB, path string) []Case {
	t.Helper()
	var out []Case
	for _, l := range strings.Split(ReadFile(t, path), "\n") {
		if l == "" || l[0] == '#' {
			continue
		}
		name, rest, _ := strings.Cut(l, " | ")
		c := Case{Name: strings.TrimSpace(name)}
		for _, p := range strings.Split(rest, " ;; ") {
			if cte, ok := strings.CutPrefix(strings.TrimSpace(p), "cte: "); ok {
				n, q, _ := strings.Cut(cte, " := ")
				c.CTEs = append(c.CTEs, [2]string{n, q})
			} else {
				c.Queries = append(c.Queries, strings.TrimSpace(p))
			}
		}
		out = append(out, c)
	}
	return out
}

// ReadFile returns a file's content.
func ReadFile(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Quote returns s as a YAML string in double quotes.
func Quote(s string) string {
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

// Config returns a sync config that makes one stream of each case.
func Config(settings string, cases []Case) string {
	var b strings.Builder
	b.WriteString("config:\n  edition: 3\n" + settings + globalCTEs + "streams:\n")
	for _, c := range cases {
		fmt.Fprintf(&b, "  %s:\n    accept_potentially_dangerous_queries: true\n", c.Name)
		if len(c.CTEs) > 0 {
			b.WriteString("    with:\n")
			for _, t := range c.CTEs {
				fmt.Fprintf(&b, "      %s: %s\n", t[0], Quote(t[1]))
			}
		}
		b.WriteString("    queries:\n")
		for _, q := range c.Queries {
			fmt.Fprintf(&b, "      - %s\n", Quote(q))
		}
	}
	return b.String()
}

// Users are the users that the cases are recorded for.
var Users = []string{"u1", "u2", "u5", "nobody"}

// Claims returns a user's token payload, but for aud, iat and exp.
func Claims(u string) []byte {
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

// The parameters of every request and subscription.
const (
	Subscription = `{"project_id":"p1","task_ids":["t1","t2","t6","nope"],"status":2,"one":"1","role":"admin","year":"2024"}`
	Connection   = `{"environment":"prod","level":2,"arr":["p1","p2"],"s":"eu"}`
)

// ReadExpected reads a file of recorded results: case or user, to user or row, to
// row texts.
func ReadExpected(t testing.TB, path string) map[string]map[string]any {
	t.Helper()
	var out map[string]map[string]any
	if err := json.Unmarshal([]byte(ReadFile(t, path)), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// beyond names results that record how rows got there instead of what they are:
// "file case-or-definition: key".
var beyond = map[string]string{
	"streams-after.json t_keyless: keyless/x":  "deleting one of two equal rows took both from the reference's clients",
	"legacy-after.json global_types: types/y1": "edition 1 gives a domain as text once its row was streamed, as its base type before",
}

// Without removes the results that the project deliberately does not give: what the
// service recorded there contradicts the streams' SQL, or itself.
func Without(file, name string, rows any) any {
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
