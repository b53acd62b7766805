package postgres_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace-sync/millrace/internal/postgres"
	"github.com/millrace-sync/millrace/internal/source"
)

// Rows are looked up again by the texts that their stored keys give, of whatever
// type their key is.
func TestRowsAreLookedUpByTheirStoredKeys(t *testing.T) {
	w := newWorld(t, "CREATE TYPE mood AS ENUM ('ok')", "CREATE TYPE pair AS (a integer, b text)", "CREATE DOMAIN positive AS integer CHECK (value > 0)")
	for _, c := range []struct {
		types  string // of the key columns
		values []string
	}{
		{"integer", []string{"1", "-5", "2147483647"}},
		{"bigint", []string{"-9223372036854775808", "7"}},
		{"text", []string{"''", "'a'", "'it''s \"quoted\" {with, commas} \\ and more'", "'NULL'", "E'line\\nbreak'", "'ü'"}},
		{"varchar(5)", []string{"'abcde'", "'  b '"}},
		{"char(4)", []string{"'a'", "'ab '"}},
		{"uuid", []string{"'00000000-0000-0000-0000-0000000000ff'"}},
		{"boolean", []string{"true", "false"}},
		{"numeric", []string{"1.50", "'NaN'", "123456789012345678901234567890.123"}},
		{"double precision", []string{"0.1", "1e300", "'-Infinity'", "'NaN'"}},
		{"real", []string{"0.5", "3.4e38"}},
		{"bytea", []string{`'\x00ff'`, `'\x'`}},
		{"date", []string{"'2024-02-29'", "'infinity'", "'4713-01-01 BC'"}},
		{"timestamp", []string{"'2024-02-29 12:34:56.789'", "'-infinity'"}},
		{"timestamptz", []string{"'2024-02-29 12:34:56.789+02'", "'0044-03-15 00:00:00 BC'"}},
		{"time", []string{"'24:00:00'"}},
		{"interval", []string{"'1 year -2 days'"}},
		{"inet", []string{"'10.0.0.1/8'"}},
		{"oid", []string{"4294967295"}},
		{"integer[]", []string{"'{1,2}'", "'{}'"}},
		{"text[]", []string{`'{"a,b",NULL}'`}},
		{"int4range", []string{"'[1,5)'", "'empty'"}},
		{"pair", []string{"ROW(1,'x')::pair"}},
		{"mood", []string{"'ok'"}},
		{"positive", []string{"5"}},
		{"text, integer", []string{"'a', 1", "'a', 2", "'b', 1"}},
	} {
		t.Run(c.types, func(t *testing.T) {
			kinds := strings.Split(c.types, ", ")
			var columns, names []string
			for i, kind := range kinds {
				columns, names = append(columns, fmt.Sprintf("k%d %s", i, kind)), append(names, fmt.Sprintf("k%d", i))
			}
			w.exec("DROP TABLE IF EXISTS t", fmt.Sprintf("CREATE TABLE t (body text, %s, PRIMARY KEY (%s))", strings.Join(columns, ", "), strings.Join(names, ", ")))
			for _, v := range c.values {
				w.exec(fmt.Sprintf("INSERT INTO t VALUES ('x', %s)", v))
			}
			table := w.table("t")
			rows, _ := w.pages(t, table, 100)
			stored := keysOf(t, table, rows)
			asked := make([][]string, 0, len(stored))
			for key := range stored {
				texts, err := key.Texts()
				if err != nil {
					t.Fatal(err)
				}
				asked = append(asked, texts)
			}
			if got := w.lookUp(t, table, asked); len(got) != len(c.values) {
				t.Errorf("%d rows of %d found: %q", len(got), len(c.values), asked)
			} else {
				for key := range got {
					if !stored[key] {
						t.Errorf("found %q, which is none of the stored keys", key)
					}
				}
			}
			w.exec("DELETE FROM t WHERE (" + strings.Join(names, ", ") + ") = (" + c.values[0] + ")")
			if got := w.lookUp(t, table, asked); len(got) != len(c.values)-1 {
				t.Errorf("%d rows found after one of %d was deleted", len(got), len(c.values))
			}
		})
	}
}

func keysOf(t *testing.T, table *source.Table, rows [][]source.Datum) map[source.RowKey]bool {
	t.Helper()
	out := map[source.RowKey]bool{}
	for _, row := range rows {
		key, err := source.AppendRowKey(nil, table, row)
		if err != nil {
			t.Fatal(err)
		}
		out[source.RowKey(key)] = true
	}
	return out
}

func (w *world) lookUp(t *testing.T, table *source.Table, keys [][]string) map[source.RowKey]bool {
	t.Helper()
	c, err := postgres.ReadChunk(t.Context(), w.conn, w.registry, postgres.ChunkRequest{Table: table, Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return keysOf(t, table, c.Rows)
}
