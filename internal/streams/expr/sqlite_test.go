package expr

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/ncruces/go-sqlite3"

	"github.com/millrace-sync/millrace/internal/source"
)

// oracle asks a real SQLite what an expression gives.
type oracle struct {
	db *sqlite3.Conn
}

func newOracle(t testing.TB) *oracle {
	t.Helper()
	db, err := sqlite3.Open(":memory:")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return &oracle{db}
}

// evalRow evaluates SQL text with parameters ?1 to ?4 or, of the same values, the
// columns c1 to c4 of a table without types.
func (o *oracle) evalRow(t testing.TB, sql string, inputs []source.Value) (source.Value, error) {
	t.Helper()
	if !strings.Contains(sql, "c") {
		return o.eval(sql, inputs)
	}
	if err := o.db.Exec("CREATE TABLE IF NOT EXISTS r (c1, c2, c3, c4); DELETE FROM r"); err != nil {
		t.Fatal(err)
	}
	stmt, _, err := o.db.Prepare("INSERT INTO r VALUES (?1, ?2, ?3, ?4)")
	if err != nil {
		t.Fatal(err)
	}
	defer stmt.Close()
	for i, v := range inputs {
		if err := bind(stmt, i+1, v); err != nil {
			t.Fatal(err)
		}
	}
	if err := stmt.Exec(); err != nil {
		t.Fatal(err)
	}
	return o.eval(sql+" FROM r", inputs)
}

// eval evaluates SQL text with bound parameters ?1, ?2, ….
func (o *oracle) eval(sql string, inputs []source.Value) (source.Value, error) {
	stmt, _, err := o.db.Prepare("SELECT " + sql)
	if err != nil {
		return source.Value{}, fmt.Errorf("prepare: %w", err)
	}
	defer stmt.Close()
	for i, v := range inputs[:min(len(inputs), stmt.BindCount())] {
		if err := bind(stmt, i+1, v); err != nil {
			return source.Value{}, err
		}
	}
	if !stmt.Step() {
		return source.Value{}, stmt.Err()
	}
	return column(stmt, 0), nil
}

func bind(stmt *sqlite3.Stmt, i int, v source.Value) error {
	switch v.Kind() {
	case source.KindInteger:
		n, ok := v.Int()
		if !ok {
			return stmt.BindFloat(i, toFloat(v))
		}
		return stmt.BindInt64(i, n)
	case source.KindReal:
		return stmt.BindFloat(i, v.Real())
	case source.KindText:
		return stmt.BindText(i, v.Str())
	case source.KindBlob:
		return stmt.BindBlob(i, []byte(v.Str()))
	}
	return stmt.BindNull(i)
}

func column(stmt *sqlite3.Stmt, i int) source.Value {
	switch stmt.ColumnType(i) {
	case sqlite3.INTEGER:
		return source.Int(stmt.ColumnInt64(i))
	case sqlite3.FLOAT:
		return source.Real(stmt.ColumnFloat(i))
	case sqlite3.TEXT:
		return source.String(string(stmt.ColumnRawText(i)))
	case sqlite3.BLOB:
		return source.Blob(string(stmt.ColumnRawBlob(i)))
	}
	return source.Value{}
}

// sqlText renders an expression as SQL, inputs as numbered parameters.
func sqlText(n Node) string {
	var b strings.Builder
	writeSQL(&b, n)
	return b.String()
}

func writeSQL(b *strings.Builder, n Node) {
	arg := func(n Node) {
		b.WriteByte('(')
		writeSQL(b, n)
		b.WriteByte(')')
	}
	switch n := n.(type) {
	case Const:
		writeLiteral(b, n.Value)
	case Input:
		if n.Column {
			fmt.Fprintf(b, "c%d", n.Index+1)
		} else {
			fmt.Fprintf(b, "?%d", n.Index+1)
		}
	case Case:
		b.WriteString("CASE ")
		if n.Base != nil {
			arg(n.Base)
		}
		for _, w := range n.Whens {
			b.WriteString(" WHEN ")
			arg(w[0])
			b.WriteString(" THEN ")
			arg(w[1])
		}
		if n.Else != nil {
			b.WriteString(" ELSE ")
			arg(n.Else)
		}
		b.WriteString(" END")
	case Call:
		writeCall(b, n, arg)
	}
}

func writeCall(b *strings.Builder, n Call, arg func(Node)) {
	list := func(nodes []Node) {
		b.WriteByte('(')
		for i, a := range nodes {
			if i > 0 {
				b.WriteByte(',')
			}
			writeSQL(b, a)
		}
		b.WriteByte(')')
	}
	typ, isCast := strings.CutPrefix(n.Op, "CAST ")
	switch op := n.Op; {
	case isCast:
		b.WriteString("CAST(")
		writeSQL(b, n.Args[0])
		b.WriteString(" AS " + typ + ")")
	case op == "NOT" || op == "~":
		b.WriteString(op + " ")
		arg(n.Args[0])
	case op == "NEG":
		b.WriteString("- ")
		arg(n.Args[0])
	case strings.HasPrefix(op, "IS ") && op != "IS NOT":
		arg(n.Args[0])
		b.WriteString(" " + op)
	case strings.HasSuffix(op, "BETWEEN"):
		arg(n.Args[0])
		b.WriteString(" " + op + " ")
		arg(n.Args[1])
		b.WriteString(" AND ")
		arg(n.Args[2])
	case op == "IN LIST" || op == "NOT IN LIST":
		arg(n.Args[0])
		b.WriteString(" " + strings.TrimSuffix(op, " LIST") + " ")
		list(n.Args[1:])
	case op == "IN" || op == "NOT IN":
		arg(n.Args[0])
		b.WriteString(" " + op + " (SELECT value FROM json_each")
		list(n.Args[1:])
		b.WriteByte(')')
	case strings.HasSuffix(op, "LIKE"):
		arg(n.Args[0])
		b.WriteString(" " + op + " ")
		arg(n.Args[1])
		if len(n.Args) == 3 {
			b.WriteString(" ESCAPE ")
			arg(n.Args[2])
		}
	default:
		if _, _, isOp := operatorArity(canonicalOp(op)); !isOp {
			b.WriteString(op)
			list(n.Args)
			return
		}
		for i, a := range n.Args {
			if i > 0 {
				b.WriteString(" " + op + " ")
			}
			arg(a)
		}
	}
}

func writeLiteral(b *strings.Builder, v source.Value) {
	switch v.Kind() {
	case source.KindNull:
		b.WriteString("NULL")
	case source.KindInteger:
		i, _ := v.Int()
		if i == math.MinInt64 {
			b.WriteString("(-9223372036854775807-1)")
			return
		}
		b.WriteString(strconv.FormatInt(i, 10))
	case source.KindReal:
		switch f := v.Real(); {
		case math.IsInf(f, 1):
			b.WriteString("9e999")
		case math.IsInf(f, -1):
			b.WriteString("-9e999")
		default:
			b.WriteString(strconv.FormatFloat(f, 'e', -1, 64))
		}
	case source.KindText:
		b.WriteString("'" + strings.ReplaceAll(v.Str(), "'", "''") + "'")
	case source.KindBlob:
		fmt.Fprintf(b, "x'%x'", v.Str())
	}
}

// show prints a value with its kind, so that 1, 1.0 and '1' differ.
func show(v source.Value) string {
	var b strings.Builder
	if v.Kind() == source.KindReal {
		return "real " + strconv.FormatFloat(v.Real(), 'g', -1, 64)
	}
	canonicalValue(&b, v)
	return b.String()
}

// same compares kind and content; 0.0 and -0.0 are the same, as SQLite prints them.
func same(a, b source.Value) bool {
	return a == b || (a.Kind() == source.KindReal && b.Kind() == source.KindReal && a.Real() == b.Real())
}
