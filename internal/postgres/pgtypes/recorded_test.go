package pgtypes

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace-sync/millrace/internal/source"
)

// The forms of edition 1, and of editions 2 and 3.
var (
	oldForm = source.Form{}
	newForm = source.Form{ISOTimestamps: true, CustomTypes: true}
)

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// registryOf returns a registry with the types that a catalog query recorded.
func registryOf(t *testing.T, path string) *Registry {
	t.Helper()
	var infos []Info
	readJSON(t, path, &infos)
	r := NewRegistry()
	for _, i := range infos {
		r.Add(i)
	}
	return r
}

type recordedTable struct {
	Columns []struct {
		Name string
		OID  uint32
	}
	Rows [][]struct{ Text, Send *string }
}

// TestRecorded decodes the rows of the conformance dataset, from text and from
// binary, and compares with what the reference service gave its clients.
func TestRecorded(t *testing.T) {
	var tables map[string]recordedTable
	readJSON(t, "testdata/rows.json", &tables)
	var recorded struct{ New, Old map[string]string }
	readJSON(t, "testdata/recorded.json", &recorded)
	r := registryOf(t, "testdata/rowtypes.json")

	for _, edition := range []struct {
		name string
		form source.Form
		want map[string]string
	}{{"new", newForm, recorded.New}, {"old", oldForm, recorded.Old}} {
		if len(edition.want) == 0 {
			t.Fatalf("nothing recorded of the %s form", edition.name)
		}
		seen := 0
		for name, table := range tables {
			for _, row := range table.Rows {
				want, ok := edition.want[name+"/"+*row[0].Text]
				if !ok {
					continue
				}
				seen++
				for _, encoding := range []source.Encoding{source.Text, source.Binary} {
					var parts []string
					for i, c := range table.Columns {
						typ := r.Type(c.OID)
						d := source.Datum{}
						switch {
						case row[i].Text == nil:
						case encoding == source.Binary && r.BinaryReadable(c.OID):
							b, err := hex.DecodeString(*row[i].Send)
							if err != nil {
								t.Fatal(err)
							}
							d = source.Datum{Bytes: b, Encoding: source.Binary}
						default:
							d = source.Datum{Bytes: []byte(*row[i].Text), Encoding: source.Text}
						}
						v, err := typ.Decode(d, edition.form)
						if err != nil {
							t.Fatalf("%s %s.%s: %v", edition.name, name, c.Name, err)
						}
						if v.Kind() != source.KindBlob {
							parts = append(parts, string(v.AppendJSON([]byte(strconv.Quote(c.Name)+":"))))
						}
					}
					if got := "{" + strings.Join(parts, ",") + "}"; got != want {
						t.Errorf("%s form from encoding %d:\n got %s\nwant %s", edition.name, encoding, got, want)
					}
				}
			}
		}
		if seen != len(edition.want) {
			t.Errorf("%s form: compared %d rows of %d recorded", edition.name, seen, len(edition.want))
		}
	}
}
