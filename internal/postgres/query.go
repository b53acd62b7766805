package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// query runs a statement with text parameters and returns its rows as text; a
// NULL is a nil slice.
func query(ctx context.Context, conn *pgconn.PgConn, doing, sql string, args ...string) ([][][]byte, error) {
	params := make([][]byte, len(args))
	for i, a := range args {
		params[i] = []byte(a)
	}
	r := conn.ExecParams(ctx, sql, params, nil, nil, nil).Read()
	if r.Err != nil {
		return nil, failed(doing, r.Err)
	}
	return r.Rows, nil
}

// queryRow is query for a statement that gives exactly one row.
func queryRow(ctx context.Context, conn *pgconn.PgConn, doing, sql string, args ...string) ([]string, error) {
	rows, err := query(ctx, conn, doing, sql, args...)
	if err != nil {
		return nil, err
	}
	if len(rows) != 1 {
		return nil, &Error{Code: codeQuery, Kind: ErrTransient, Message: fmt.Sprintf("%s: %d rows, want one", doing, len(rows))}
	}
	return texts(rows[0]), nil
}

// texts gives a row as strings; NULL as "".
func texts(row [][]byte) []string {
	out := make([]string, len(row))
	for i, v := range row {
		out[i] = string(v)
	}
	return out
}

// quoteIdent quotes an SQL identifier.
func quoteIdent(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// quoteLiteral quotes an SQL string; standard_conforming_strings need not be on.
func quoteLiteral(s string) string {
	quoted := strings.ReplaceAll(s, "'", "''")
	if !strings.Contains(s, `\`) {
		return "'" + quoted + "'"
	}
	return " E'" + strings.ReplaceAll(quoted, `\`, `\\`) + "'"
}

// arrayLiteral gives the text form of a one-dimensional array.
func arrayLiteral(items []string) string {
	var b strings.Builder
	b.WriteByte('{')
	for i, s := range items {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('"')
		b.WriteString(strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s))
		b.WriteByte('"')
	}
	b.WriteByte('}')
	return b.String()
}
