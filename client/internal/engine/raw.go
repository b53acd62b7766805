package engine

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// RawTable is a table of the app's own that synced rows are written to.
type RawTable struct {
	Name        string // the service's
	Put, Delete Statement
}

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
