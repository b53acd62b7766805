package client

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-sync/millrace/client/internal/oracle"
)

// everything is a schema that uses every option.
func everything() Schema {
	var wide []Column
	for i := range 105 {
		wide = append(wide, Text(fmt.Sprintf("c%d", i)))
	}
	ab := []Column{Text("a"), Integer("b"), Real("c")}
	return Schema{Tables: []Table{
		{Name: "notes", Columns: []Column{Text("body"), Integer("n"), Real("price"), Text("owner")}, Indexes: []Index{
			{Name: "by_n", Columns: []IndexColumn{{Column: "n"}, {Column: "body", Descending: true}}},
			{Name: "by_price", Columns: []IndexColumn{{Column: "price"}}},
		}},
		{Name: "local", Columns: ab, LocalOnly: true, Indexes: []Index{{Name: "x", Columns: []IndexColumn{{Column: "a"}}}}},
		{Name: "local_metadata", Columns: ab, LocalOnly: true, Metadata: true},
		{Name: "log", Columns: ab, InsertOnly: true},
		{Name: "log_metadata", Columns: ab, InsertOnly: true, Metadata: true},
		{Name: "old", Columns: ab, Previous: &Previous{}, Metadata: true},
		{Name: "old_some", Columns: ab, Previous: &Previous{Columns: []string{"c", "a"}, OnlyWhenChanged: true}, IgnoreEmptyUpdates: true, ViewName: "renamed"},
		{Name: "old_changed", Columns: ab, Previous: &Previous{OnlyWhenChanged: true}, Metadata: true, IgnoreEmptyUpdates: true},
		{Name: `qu"o'te`, Columns: []Column{Text(`a"b'c`), Integer("order")}, Indexes: []Index{{Name: `i"x`, Columns: []IndexColumn{{Column: `a"b'c`}}}}},
		{Name: "empty"},
		{Name: "fifty", Columns: wide[:50]},
		{Name: "fifty_one", Columns: wide[:51], Previous: &Previous{}},
		{Name: "wide", Columns: wide},
	}}
}

// Tables, indexes, views and triggers are those of the official extension.
func TestSchemaSQL(t *testing.T) {
	o := oracle.Open(t, filepath.Join(t.TempDir(), "official.db"))
	replaceSchema(t, o, everything())
	d := newDB(t, everything())
	compare(t, d, o)
}

// A schema that changes leaves rows, tables and views as the official extension does.
func TestSchemaChanges(t *testing.T) {
	dir := t.TempDir()
	o := oracle.Open(t, filepath.Join(dir, "official.db"))
	a, b, c := Text("a"), Integer("b"), Real("c")
	index := func(columns ...IndexColumn) []Index { return []Index{{Name: "i", Columns: columns}} }
	steps := []Schema{
		{Tables: []Table{{Name: "x", Columns: []Column{a}}, {Name: "y", Columns: []Column{a}}, {Name: "l", LocalOnly: true, Columns: []Column{a}}}},
		{Tables: []Table{{Name: "x", Columns: []Column{a, b}, Indexes: index(IndexColumn{Column: "b"})}, {Name: "l", Columns: []Column{a}}}},
		{Tables: []Table{{Name: "y", Columns: []Column{a, c}, Metadata: true}, {Name: "x", Columns: []Column{a, b}, Indexes: index(IndexColumn{Column: "a", Descending: true})}}},
		{Tables: []Table{{Name: "x", Columns: []Column{a}, ViewName: "y"}, {Name: "y", Columns: []Column{a}, ViewName: "x"}}},
		{Tables: []Table{{Name: "y", Columns: []Column{a}, InsertOnly: true}, {Name: "x", Columns: []Column{a}, LocalOnly: true}}},
		{},
		everything(),
	}
	d := newDB(t, Schema{})
	for i, s := range steps {
		replaceSchema(t, o, s)
		if err := d.UpdateSchema(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		for _, table := range s.Tables {
			if table.InsertOnly || len(table.Columns) > 3 {
				continue
			}
			sql := fmt.Sprintf(`INSERT OR REPLACE INTO %s(id, a) VALUES ('%d', 'v')`, quoteID(table.view()), i)
			if !slices.ContainsFunc(table.Columns, func(c Column) bool { return c.Name == "a" }) {
				continue
			}
			o.Exec(sql)
			if _, err := d.ExecContext(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
		compare(t, d, o)
		if t.Failed() {
			t.Fatalf("in step %d", i)
		}
	}
}

// Files move between the official extension and us, writes in the queue included.
func TestFilesMove(t *testing.T) {
	file := filepath.Join(t.TempDir(), "moving.db")
	schema := everything()
	const sql = `INSERT INTO notes(id, body, n) VALUES ('%s', 'text', 1)`
	for _, turn := range []string{"official", "ours", "official 2", "ours 2"} {
		insert := fmt.Sprintf(sql, turn)
		if strings.HasPrefix(turn, "official") {
			o := oracle.Open(t, file)
			replaceSchema(t, o, schema)
			o.Exec(insert)
			o.Close()
			continue
		}
		before := ""
		d, err := Open(t.Context(), file, schema, nil)
		if err != nil {
			t.Fatal(err)
		}
		before = fmt.Sprint(dump(t, d, `PRAGMA schema_version`))
		if err := d.UpdateSchema(t.Context(), schema); err != nil {
			t.Fatal(err)
		}
		if after := fmt.Sprint(dump(t, d, `PRAGMA schema_version`)); after != before {
			t.Error("applying the same schema changed the database")
		}
		if _, err := d.ExecContext(t.Context(), insert); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	o := oracle.Open(t, file)
	got := fmt.Sprint(o.Query(`SELECT tx_id, data ->> 'id' FROM ps_crud ORDER BY id`))
	if want := "[[int 1 text official] [int 2 text ours] [int 3 text official 2] [int 4 text ours 2]]"; got != want {
		t.Errorf("queue: got %s, want %s", got, want)
	}
}

func TestSchemaMistakes(t *testing.T) {
	bad := Schema{
		Tables: []Table{
			{},
			{Name: "t", LocalOnly: true, InsertOnly: true, Columns: []Column{Text("id"), Text(""), Text("a"), Text("a"), {Name: "b", Type: "blob"}}},
			{Name: "t", Indexes: []Index{{Name: "i"}, {Name: "i", Columns: []IndexColumn{{Column: "z"}}}}},
			{Name: "u", ViewName: "t", Previous: &Previous{Columns: []string{"z"}}},
			{Name: "v", Columns: make([]Column, 2000)},
		},
		RawTables: []RawTable{{}, {Name: "t"}, {Name: "r", Put: Statement{"x", []Param{{}}}, Delete: Statement{"x", []Param{Rest()}}}},
	}
	_, err := Open(t.Context(), filepath.Join(t.TempDir(), "a.db"), bad, nil)
	if !errors.Is(err, ErrSchema) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{
		"table 1 has no name", "both LocalOnly and InsertOnly", "column id is always there", "a column has no name", `two columns are named "a"`,
		`has type "blob"`, `two tables are named "t"`, `index "i" has no columns`, "index names must be distinct", `index "i": there is no column "z"`,
		`two views are named "t"`, `Previous: there is no column "z"`, "2000 columns", "raw table 1 has no name", "both Put and Delete need SQL, or Table a name",
		"the zero Param", "Delete can only use ID",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("nothing of %q in:\n%v", want, err)
		}
	}
}
