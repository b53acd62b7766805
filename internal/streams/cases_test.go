package streams

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/millrace-sync/millrace/internal/conformance"
	"github.com/millrace-sync/millrace/internal/source"
)

// caseFile is a config with rows and requests; what they give is its golden file.
type caseFile struct {
	Config string
	Limits Limits
	Tables []struct {
		Schema, Name, RootSchema, RootName string
		Columns                            []string
		Rows                               [][]any
	}
	Requests []struct {
		Claims, Parameters map[string]any
		NoDefaults         bool `yaml:"no_defaults"`
		Subscriptions      []struct {
			Stream     string
			Parameters map[string]any
			Priority   *int
		}
	}
}

func valueOf(t *testing.T, v any) source.Value {
	switch v := v.(type) {
	case nil:
		return source.Value{}
	case bool:
		return source.Bool(v)
	case int:
		return source.Int(int64(v))
	case float64:
		return source.Real(v)
	case string:
		return source.String(v)
	}
	t.Fatalf("value %v of type %T", v, v)
	return source.Value{}
}

func jsonOf(t *testing.T, m map[string]any) []byte {
	if m == nil {
		return nil
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestCases prints, for each file, what every row gives and what every request gets.
func TestCases(t *testing.T) {
	for _, path := range inputs(t, "testdata/cases/*.yaml") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			var c caseFile
			if err := yaml.Unmarshal([]byte(conformance.ReadFile(t, path)), &c); err != nil {
				t.Fatal(err)
			}
			p, diags := Compile(Source{File: "config", Text: c.Config})
			if p == nil {
				t.Fatal(Format(diags))
			}
			var b strings.Builder
			b.WriteString(Format(diags))
			m := newModel(p)
			var out Output
			for _, tb := range c.Tables {
				st := sourceTable{table: &source.Table{Schema: tb.Schema, Name: tb.Name, RootSchema: tb.RootSchema, RootName: tb.RootName}}
				if st.table.Schema == "" {
					st.table.Schema = "public"
				}
				for _, name := range tb.Columns {
					st.table.Columns = append(st.table.Columns, source.Column{Name: name, Type: tagged{}, Key: name == "id"})
				}
				e, diags := p.Bind(st.table, nil)
				b.WriteString(Format(diags))
				if e == nil {
					fmt.Fprintf(&b, "%s is not read\n", st.table.QualifiedName())
					continue
				}
				for _, r := range tb.Rows {
					var row []source.Datum
					for _, v := range r {
						row = append(row, datumOf(valueOf(t, v)))
					}
					e.Row(row, &out)
					fmt.Fprintf(&b, "%s %v\n%s", st.table.QualifiedName(), r, printOutput(p, &out))
					st.rows = append(st.rows, row)
				}
				m.load([]sourceTable{st})
			}
			for _, r := range c.Requests {
				req := &Request{Claims: jsonOf(t, r.Claims), Parameters: jsonOf(t, r.Parameters), IncludeDefaults: !r.NoDefaults}
				for _, s := range r.Subscriptions {
					req.Subscriptions = append(req.Subscriptions, Subscription{s.Stream, jsonOf(t, s.Parameters), s.Priority})
				}
				m.reads = nil
				set, err := p.Buckets(req, m, c.Limits)
				fmt.Fprintf(&b, "\nrequest %s %s %d subscriptions\n", req.Claims, req.Parameters, len(req.Subscriptions))
				if err != nil {
					fmt.Fprintf(&b, "  error: %v\n", err)
					continue
				}
				b.WriteString(printSet(p, set))
			}
			golden(t, path, b.String())
		})
	}
}

func printOutput(p *Plan, out *Output) string {
	var lines []string
	for _, x := range out.Puts {
		lines = append(lines, fmt.Sprintf("  %s%s %s/%s %s\n", p.Definitions[x.Def].Label, x.Params, x.ObjectType, x.ObjectID, x.Data))
	}
	for _, x := range out.Lookups {
		lines = append(lines, fmt.Sprintf("  %s%s = %q\n", p.Definitions[x.Def].Label, x.Key, x.Values))
	}
	for _, x := range out.Errors {
		lines = append(lines, fmt.Sprintf("  error in %s: %s\n", p.Definitions[x.Def].Label, x.Message))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

func printSet(p *Plan, set *BucketSet) string {
	var lines []string
	for _, x := range set.Buckets {
		lines = append(lines, fmt.Sprintf("  %s%s priority %d defaults %v subscriptions %v\n", p.Definitions[x.Def].Label, x.Params, x.Priority, x.Defaults, x.Subscriptions))
	}
	slices.Sort(lines)
	var reads []string
	for _, x := range set.Reads {
		reads = append(reads, fmt.Sprintf("  read %s%s\n", p.Definitions[x.Def].Label, x.Key))
	}
	slices.Sort(reads)
	for _, x := range set.Streams {
		lines = append(lines, fmt.Sprintf("  stream %s default %t errors %v\n", x.Name, x.Default, x.Errors))
	}
	return strings.Join(append(lines, reads...), "")
}
