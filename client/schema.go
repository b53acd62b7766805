package client

import (
	"errors"
	"fmt"
	"slices"

	"github.com/millrace-sync/millrace/client/internal/engine"
)

// Schema declares the tables of a database. The service sends rows of any shape;
// the schema says which of them an app sees, and as what. It may differ between
// versions of an app: nothing is downloaded again because of it.
type Schema struct {
	Tables    []Table
	RawTables []RawTable
}

// Table is a view over synced rows, writable like a table. Every table has a text
// column id besides those declared.
type Table struct {
	// Name is the table's name to the service and in upload entries.
	Name    string
	Columns []Column
	Indexes []Index

	// ViewName is the name in SQL, if it is not Name.
	ViewName string
	// LocalOnly keeps rows on this device: nothing is synced or uploaded.
	LocalOnly bool
	// InsertOnly queues inserts for upload and stores nothing.
	InsertOnly bool
	// Previous adds a row's earlier values to the entries of updates and deletes.
	Previous *Previous
	// Metadata adds the columns _metadata, which travels with the entry, and
	// _deleted, to delete a row with metadata: UPDATE t SET _deleted = TRUE, _metadata = ….
	Metadata bool
	// IgnoreEmptyUpdates leaves out entries of updates that change nothing.
	IgnoreEmptyUpdates bool
}

// Previous says which earlier values upload entries carry.
type Previous struct {
	// Columns names them; nil is all.
	Columns []string
	// OnlyWhenChanged leaves out values that the update did not change.
	OnlyWhenChanged bool
}

// Column is a column of a table. [Text], [Integer] and [Real] make one.
type Column struct {
	Name string
	Type ColumnType
}

// ColumnType is what values of a column are cast to when they are read.
type ColumnType string

// The column types.
const (
	TypeText    ColumnType = "text"
	TypeInteger ColumnType = "integer"
	TypeReal    ColumnType = "real"
)

// Text returns a text column.
func Text(name string) Column { return Column{name, TypeText} }

// Integer returns a column of 64-bit integers. Booleans are 0 and 1.
func Integer(name string) Column { return Column{name, TypeInteger} }

// Real returns a column of doubles.
func Real(name string) Column { return Column{name, TypeReal} }

// Index speeds up queries by its columns, in order.
type Index struct {
	Name    string
	Columns []IndexColumn
}

// IndexColumn is a column of an index.
type IndexColumn struct {
	Column     string
	Descending bool
}

// RawTable syncs rows into a table that the app itself creates, with whatever
// constraints it likes. [DB.CaptureWrites] has what the app writes there uploaded.
type RawTable struct {
	// Name is the table's name to the service and in upload entries.
	Name string
	// Table is the app's table. It has a text column id that is unique. It may be left out
	// where Put and Delete are given and nothing is captured.
	Table string
	// Columns names the columns that are synced, besides id; nil is all of the table.
	Columns []string
	// Put stores a row, Delete removes one. Without SQL they are made from the table's
	// columns as they are at the time: Put inserts a row or updates the one of the same id.
	Put, Delete Statement
	// Clear empties the table, for [DB.DisconnectAndClear]. Without it all rows of Table go.
	Clear string

	// InsertOnly, Previous and IgnoreEmptyUpdates are for captured writes as those of
	// [Table]; updates and deletes of an InsertOnly table fail.
	InsertOnly         bool
	Previous           *Previous
	IgnoreEmptyUpdates bool
}

// Statement is SQL with the sources of its parameters, in order.
type Statement struct {
	SQL    string
	Params []Param
}

// Param is where the value of a statement's parameter comes from: [ID], [Rest], or
// a column of the synced row by [FromColumn].
type Param struct {
	kind   paramKind
	column string
}

type paramKind uint8

const (
	paramID paramKind = iota + 1
	paramRest
	paramColumn
)

// ID returns the parameter that is the row's id.
func ID() Param { return Param{kind: paramID} }

// Rest returns the parameter that is a JSON object of the columns which no other
// parameter takes, or null if there are none.
func Rest() Param { return Param{kind: paramRest} }

// FromColumn returns the parameter that is a column of the synced row.
func FromColumn(name string) Param { return Param{kind: paramColumn, column: name} }

// maxColumns is SQLite's limit of columns in a view, less the id.
const maxColumns = 1999

// ErrSchema is the kind of every mistake in a schema.
var ErrSchema = errors.New("invalid schema")

// validate returns all mistakes together.
func (s *Schema) validate() error {
	var mistakes []error
	mistake := func(format string, args ...any) {
		mistakes = append(mistakes, fmt.Errorf("%w: %w", ErrSchema, fmt.Errorf(format, args...)))
	}
	names, views := map[string]bool{}, map[string]bool{}
	for i := range s.Tables {
		t := &s.Tables[i]
		if t.Name == "" {
			mistake("table %d has no name", i+1)
			continue
		}
		if names[t.Name] {
			mistake("two tables are named %q", t.Name)
		}
		if views[t.view()] {
			mistake("two views are named %q; give one another ViewName", t.view())
		}
		names[t.Name], views[t.view()] = true, true
		t.validate(func(format string, args ...any) {
			mistake("table %q: %w", t.Name, fmt.Errorf(format, args...))
		})
	}
	for i := range s.RawTables {
		r := &s.RawTables[i]
		if r.Name == "" {
			mistake("raw table %d has no name", i+1)
			continue
		}
		if names[r.Name] {
			mistake("two tables are named %q", r.Name)
		}
		names[r.Name] = true
		if r.Table == "" && (r.Put.SQL == "" || r.Delete.SQL == "") {
			mistake("raw table %q: both Put and Delete need SQL, or Table a name", r.Name)
		}
		if r.Previous != nil && r.Columns != nil {
			for _, c := range r.Previous.Columns {
				if !slices.Contains(r.Columns, c) {
					mistake("raw table %q: Previous: column %q is not among Columns", r.Name, c)
				}
			}
		}
		for _, p := range slices.Concat(r.Put.Params, r.Delete.Params) {
			if p.kind == 0 {
				mistake("raw table %q: a parameter is the zero Param; use ID, Rest or FromColumn", r.Name)
			}
		}
		for _, p := range r.Delete.Params {
			if p.kind != paramID {
				mistake("raw table %q: Delete can only use ID, for a deleted row has no columns", r.Name)
			}
		}
	}
	return errors.Join(mistakes...)
}

func (t *Table) validate(mistake func(string, ...any)) {
	if t.LocalOnly && t.InsertOnly {
		mistake("it cannot be both LocalOnly and InsertOnly")
	}
	if len(t.Columns) > maxColumns {
		mistake("%d columns; SQLite allows %d", len(t.Columns), maxColumns)
	}
	columns := map[string]bool{}
	for _, c := range t.Columns {
		switch {
		case c.Name == "":
			mistake("a column has no name")
		case c.Name == "id":
			mistake("column id is always there; do not declare it")
		case columns[c.Name]:
			mistake("two columns are named %q", c.Name)
		}
		columns[c.Name] = true
		if c.Type != TypeText && c.Type != TypeInteger && c.Type != TypeReal {
			mistake("column %q has type %q; use Text, Integer or Real", c.Name, c.Type)
		}
	}
	indexes := map[string]bool{}
	for _, x := range t.Indexes {
		if x.Name == "" || indexes[x.Name] {
			mistake("index names must be distinct and not empty, but one is %q", x.Name)
		}
		indexes[x.Name] = true
		if len(x.Columns) == 0 {
			mistake("index %q has no columns", x.Name)
		}
		for _, c := range x.Columns {
			if !columns[c.Column] {
				mistake("index %q: there is no column %q", x.Name, c.Column)
			}
		}
	}
	if t.Previous != nil {
		for _, c := range t.Previous.Columns {
			if !columns[c] {
				mistake("Previous: there is no column %q", c)
			}
		}
	}
}

// raw returns the raw tables as the sync engine takes them.
func (s *Schema) raw() []engine.RawTable {
	statement := func(s Statement) engine.Statement {
		e := engine.Statement{SQL: s.SQL}
		for _, p := range s.Params {
			e.Params = append(e.Params, engine.Param{ID: p.kind == paramID, Rest: p.kind == paramRest, Column: p.column})
		}
		return e
	}
	tables := make([]engine.RawTable, len(s.RawTables))
	for i, r := range s.RawTables {
		tables[i] = engine.RawTable{
			Name: r.Name, Table: r.Table, Columns: r.Columns, Put: statement(r.Put), Delete: statement(r.Delete),
		}
	}
	return tables
}
