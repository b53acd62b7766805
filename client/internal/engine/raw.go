package engine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// RawTable is a table of the app's own that synced rows are written to.
type RawTable struct {
	Name string // the service's
	// Table and Columns tell what statements without SQL write: the columns named, or if
	// nil all.
	Table       string
	Columns     []string
	Put, Delete Statement
}

// RawColumns returns the columns of a table that are synced, in its order: those wanted,
// or if nil all, but for id, which it must have.
func RawColumns(s Store, table string, wanted []string) ([]string, error) {
	var columns []string
	hasID := false
	err := s.Query(`SELECT name FROM pragma_table_info(?)`, func(r Row) error {
		switch name := r.Text(0); {
		case name == "id":
			hasID = true
		case wanted == nil || slices.Contains(wanted, name):
			columns = append(columns, name)
		}
		return nil
	}, table)
	switch {
	case err != nil:
	case !hasID && columns == nil:
		err = fmt.Errorf("there is no table %q: create it before rows are synced", table)
	case !hasID:
		err = fmt.Errorf("table %q has no column id", table)
	}
	return columns, err
}

// inferred returns the table with the SQL of both statements. It looks at the columns
// each time: the app may have altered them.
func (t *RawTable) inferred(s Store) (*RawTable, error) {
	if t.Put.SQL != "" && t.Delete.SQL != "" {
		return t, nil
	}
	columns, err := RawColumns(s, t.Table, t.Columns)
	if err != nil {
		return nil, fmt.Errorf("raw table %s: %w", t.Name, err)
	}
	whole := *t
	if whole.Put.SQL == "" {
		whole.Put = insertOrUpdate(t.Table, columns)
	}
	if whole.Delete.SQL == "" {
		whole.Delete = Statement{"DELETE FROM " + quote(t.Table) + " WHERE id = ?", []Param{{ID: true}}}
	}
	return &whole, nil
}

// insertOrUpdate leaves columns that are not synced as they are.
func insertOrUpdate(table string, columns []string) Statement {
	names, values, params := []string{"id"}, []string{"?1"}, []Param{{ID: true}}
	var set []string
	for i, c := range columns {
		n := fmt.Sprint("?", i+2)
		names, values, set = append(names, quote(c)), append(values, n), append(set, quote(c)+" = "+n)
		params = append(params, Param{Column: c})
	}
	then := "NOTHING"
	if len(set) > 0 {
		then = "UPDATE SET " + strings.Join(set, ", ")
	}
	return Statement{fmt.Sprintf("INSERT INTO %s(%s) VALUES (%s) ON CONFLICT (id) DO %s",
		quote(table), strings.Join(names, ", "), strings.Join(values, ", "), then), params}
}

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// Statement is SQL with the sources of its parameters.
type Statement struct {
	SQL    string
	Params []Param
}

// Param is where a parameter comes from: the row's id, a column, or what no other
// parameter of the statement takes.
type Param struct {
	Column   string
	ID, Rest bool
}

func (t *RawTable) put(s Store, id, data []byte) error {
	if err := t.tryPut(s, id, data); err != nil {
		return fmt.Errorf("raw table %s: put row %s: %w", t.Name, id, err)
	}
	return nil
}

func (t *RawTable) tryPut(s Store, id, data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var row map[string]any
	if err := d.Decode(&row); err != nil {
		return fmt.Errorf("its data is not a JSON object: %w", err)
	}
	args := make([]any, len(t.Put.Params))
	rest := -1
	for i, p := range t.Put.Params {
		switch {
		case p.ID:
			args[i] = id
		case !p.Rest:
			args[i] = scalar(row[p.Column])
		}
	}
	for i, p := range t.Put.Params {
		if !p.Rest {
			continue
		}
		if rest >= 0 {
			args[i] = args[rest]
			continue
		}
		rest = i
		for _, p := range t.Put.Params {
			if p.ID {
				p.Column = "id"
			}
			delete(row, p.Column)
		}
		if len(row) > 0 {
			var text bytes.Buffer
			e := json.NewEncoder(&text)
			e.SetEscapeHTML(false)
			if err := e.Encode(row); err != nil {
				return err
			}
			args[i] = bytes.TrimSpace(text.Bytes())
		}
	}
	return s.Exec(t.Put.SQL, args...)
}

// scalar returns a JSON value as the store takes it. Objects and lists do not occur:
// the service sends them as text.
func scalar(v any) any {
	switch v := v.(type) {
	case bool:
		if v {
			return int64(1)
		}
		return int64(0)
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
		return v.String()
	case string:
		return v
	}
	return nil
}

func (t *RawTable) remove(s Store, id []byte) error {
	args := make([]any, len(t.Delete.Params))
	for i := range args {
		args[i] = id
	}
	if err := s.Exec(t.Delete.SQL, args...); err != nil {
		return fmt.Errorf("raw table %s: delete row %s: %w", t.Name, id, err)
	}
	return nil
}
