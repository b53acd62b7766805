package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace-sync/millrace/internal/source"
)

// Estimate returns how many rows the server thinks a table has. It reads none.
func Estimate(ctx context.Context, conn *pgconn.PgConn, t *source.Table) (int64, error) {
	doing := "estimate the rows of " + t.QualifiedName()
	row, err := queryRow(ctx, conn, doing, "EXPLAIN (FORMAT JSON) SELECT 1 FROM "+quoteIdent(t.Schema)+"."+quoteIdent(t.Name))
	if err != nil {
		return 0, err
	}
	var plan []struct {
		Plan struct {
			Rows float64 `json:"Plan Rows"`
		}
	}
	if err := json.Unmarshal([]byte(row[0]), &plan); err != nil || len(plan) != 1 {
		return 0, failed(doing, fmt.Errorf("the server's plan is not understood: %w", err))
	}
	return int64(plan[0].Plan.Rows), nil
}

// SchemaTable is a table of the database, as Schema lists it.
type SchemaTable struct {
	Schema, Name string
	Columns      []SchemaColumn
}

// SchemaColumn is a column of a SchemaTable.
type SchemaColumn struct {
	Name string
	// Type is the type in full, such as character varying(10); Base the name of the
	// type, or of a domain's base type, such as varchar.
	Type, Base string
}

// maxSchemaColumns bounds what Schema returns.
const maxSchemaColumns = 100_000

// Schema lists the tables and views of the database that are not the server's own,
// with their columns.
func Schema(ctx context.Context, conn *pgconn.PgConn) ([]SchemaTable, error) {
	rows, err := query(ctx, conn, "list the tables", `
		SELECT n.nspname, c.relname, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), coalesce(b.typname, t.typname)
		FROM pg_catalog.pg_class c
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
		LEFT JOIN pg_catalog.pg_type b ON t.typtype = 'd' AND b.oid = t.typbasetype
		WHERE c.relkind IN ('r', 'p', 'v', 'm') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
		ORDER BY n.nspname, c.relname, a.attnum LIMIT `+strconv.Itoa(maxSchemaColumns))
	if err != nil {
		return nil, err
	}
	var list []SchemaTable
	for _, r := range rows {
		row := texts(r)
		if n := len(list); n == 0 || list[n-1].Schema != row[0] || list[n-1].Name != row[1] {
			list = append(list, SchemaTable{Schema: row[0], Name: row[1]})
		}
		t := &list[len(list)-1]
		t.Columns = append(t.Columns, SchemaColumn{Name: row[2], Type: row[3], Base: row[4]})
	}
	return list, nil
}

// Result is what Execute returns. A NULL is a nil.
type Result struct {
	Columns []string
	Types   []uint32 // oids, parallel to Columns
	Rows    [][]*string
}

// The bounds of a Result.
const (
	maxResultRows  = 10_000
	maxResultBytes = 8 << 20
)

// Execute runs one statement that an operator wrote, with text parameters, in the
// connection's own transaction. What the server refuses, and a result that is too
// large, are errors; the statement may have had its effect in the latter case.
func Execute(ctx context.Context, conn *pgconn.PgConn, sql string, args []*string) (*Result, error) {
	params := make([][]byte, len(args))
	for i, a := range args {
		if a != nil {
			params[i] = []byte(*a)
		}
	}
	reader := conn.ExecParams(ctx, sql, params, nil, nil, nil)
	out, size := &Result{}, 0
	for _, f := range reader.FieldDescriptions() {
		out.Columns, out.Types = append(out.Columns, f.Name), append(out.Types, f.DataTypeOID)
	}
	var tooLarge error
	for reader.NextRow() {
		if tooLarge != nil {
			continue
		}
		row := make([]*string, len(reader.Values()))
		for i, v := range reader.Values() {
			if v != nil {
				text := strings.ToValidUTF8(string(v), "\uFFFD")
				row[i], size = &text, size+len(v)
			}
		}
		if out.Rows = append(out.Rows, row); len(out.Rows) > maxResultRows || size > maxResultBytes {
			tooLarge = fmt.Errorf("the result has more than %d rows or %d MiB: add a LIMIT", maxResultRows, maxResultBytes>>20)
			out.Rows = nil
		}
	}
	if _, err := reader.Close(); err != nil {
		return nil, failed("run the statement", err)
	}
	if tooLarge != nil {
		return nil, tooLarge
	}
	return out, nil
}
