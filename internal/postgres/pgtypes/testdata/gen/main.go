// Command gen asks a Postgres server for the text and binary forms of many values
// of every type, and for the rows of the conformance dataset, and writes them to
// this package's testdata. Run it from the package's directory:
//
//	go run ./testdata/gen -dsn postgres://postgres@127.0.0.1:5432/postgres [-dataset dataset.sql]
//
// It works in a schema of its own that it drops, and with -dataset in a database
// of its own that it leaves. Values are the same in every run, but oids of user
// types, which the files record, differ.
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace-sync/millrace/internal/postgres/pgtypes"
)

func main() {
	dsn := flag.String("dsn", "", "connection string of a server on which schemas and databases may be made")
	dataset := flag.String("dataset", "", "the conformance dataset's SQL; leave out to keep its rows as they are")
	dir := flag.String("dir", "testdata", "where to write")
	flag.Parse()
	ctx := context.Background()
	if err := writeValues(ctx, *dsn, *dir); err != nil {
		fail(err)
	}
	if *dataset != "" {
		if err := writeRows(ctx, *dsn, *dataset, *dir); err != nil {
			fail(err)
		}
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "gen:", err)
	os.Exit(1)
}

func connect(ctx context.Context, dsn, database string) (*pgconn.PgConn, error) {
	c, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	if database != "" {
		c.Database = database
	}
	for k, v := range pgtypes.Settings() {
		c.RuntimeParams[k] = v
	}
	return pgconn.ConnectConfig(ctx, c)
}

const setup = `
DROP SCHEMA IF EXISTS pgtypes_gen CASCADE;
CREATE SCHEMA pgtypes_gen;
SET search_path = pgtypes_gen, pg_catalog;
CREATE EXTENSION citext SCHEMA pgtypes_gen;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'very "happy"', '', 'NULL', 'a,b', '{x}');
CREATE DOMAIN d_real AS real;
CREATE DOMAIN d_double AS double precision;
CREATE DOMAIN d_text AS text;
CREATE DOMAIN d_mood AS mood;
CREATE DOMAIN d_stamp AS timestamptz;
CREATE DOMAIN d_bytea AS bytea;
CREATE DOMAIN d_ints AS integer[];
CREATE DOMAIN d_deep AS d_text;
CREATE DOMAIN d_box AS box;
CREATE TYPE pair AS (n integer, "the ""label"" é" text);
CREATE TYPE many AS (p pair, ps pair[], r int4range, mr nummultirange, j jsonb, b bytea, ts timestamptz, f real, m mood, ms mood[], d d_real, da d_ints, x boolean, bx box[]);
CREATE TYPE nothing AS ();
CREATE DOMAIN d_pair AS pair;
CREATE TYPE floatrange AS RANGE (subtype = float8, multirange_type_name = floatmultirange);
CREATE TYPE textrange AS RANGE (subtype = text, multirange_type_name = textmultirange);
CREATE TYPE pairrange AS RANGE (subtype = pair, multirange_type_name = pairmultirange);
`

// writeValues writes values.tsv (type oid, output text as a Go string, send form
// in hex or "-", expected JSON or "-") and types.json (the catalog's Infos of those
// and of all built-in types).
func writeValues(ctx context.Context, dsn, dir string) (err error) {
	conn, err := connect(ctx, dsn, "")
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if err := conn.Exec(ctx, setup).Close(); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	out, err := os.Create(filepath.Join(dir, "values.tsv"))
	if err != nil {
		return err
	}
	defer out.Close()
	w := bufio.NewWriter(out)
	oids := map[uint32]bool{}
	for _, set := range sets() {
		fmt.Fprintf(w, "# %s\n", set.typ)
		for _, literal := range set.literals {
			v, err := ask(ctx, conn, set, literal)
			if err != nil {
				return fmt.Errorf("%s %q: %w", set.typ, literal, err)
			}
			oids[v.oid] = true
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\n", v.oid, strconv.Quote(v.text), v.send, v.want)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	r := conn.ExecParams(ctx, "SELECT oid::int8 FROM pg_type WHERE oid < 10000 AND typtype IN ('b', 'r', 'm')", nil, nil, nil, nil).Read()
	if r.Err != nil {
		return r.Err
	}
	for _, row := range r.Rows {
		oid, err := strconv.ParseUint(string(row[0]), 10, 32)
		if err != nil {
			return err
		}
		oids[uint32(oid)] = true
	}
	if err := writeInfos(ctx, conn, oids, filepath.Join(dir, "types.json")); err != nil {
		return err
	}
	return conn.Exec(ctx, "DROP SCHEMA pgtypes_gen CASCADE").Close()
}

type answer struct {
	oid        uint32
	text       string
	send, want string
}

// ask has the server print the literal's value as text and as binary. It checks on
// the way that TextExpr gives the text.
func ask(ctx context.Context, conn *pgconn.PgConn, s set, literal string) (answer, error) {
	want := "NULL"
	if s.want != "" {
		want = s.want
	}
	from := fmt.Sprintf(" FROM (SELECT $1::%s) t(v)", s.typ)
	query := fmt.Sprintf("SELECT v, %s, %s", pgtypes.TextExpr("v"), want) + from
	r := conn.ExecParams(ctx, query, [][]byte{[]byte(literal)}, []uint32{25}, nil, []int16{0, 0, 0}).Read()
	if r.Err != nil {
		return answer{}, r.Err
	}
	a := answer{oid: r.FieldDescriptions[0].DataTypeOID, text: string(r.Rows[0][0]), send: "-", want: "-"}
	if got := string(r.Rows[0][1]); got != a.text {
		return answer{}, fmt.Errorf("TextExpr gives %q, the output function %q", got, a.text)
	}
	if b := r.Rows[0][2]; b != nil {
		a.want = string(b)
	}
	// A result's type is that of a domain's base, unlike a COPY column's.
	q := conn.ExecParams(ctx, "SELECT $1::regtype::oid::int8", [][]byte{[]byte(s.typ)}, []uint32{25}, nil, nil).Read()
	if q.Err != nil {
		return answer{}, q.Err
	}
	oid, err := strconv.ParseUint(string(q.Rows[0][0]), 10, 32)
	if err != nil {
		return answer{}, err
	}
	a.oid = uint32(oid)
	r = conn.ExecParams(ctx, "SELECT v"+from, [][]byte{[]byte(literal)}, []uint32{25}, nil, []int16{1}).Read()
	var refused *pgconn.PgError
	if errors.As(r.Err, &refused) && refused.Code == "42883" { // no binary output function
		return a, nil
	}
	if r.Err != nil {
		return answer{}, r.Err
	}
	a.send = hex.EncodeToString(r.Rows[0][0])
	return a, nil
}

func writeInfos(ctx context.Context, conn *pgconn.PgConn, oids map[uint32]bool, path string) error {
	var list []string
	for oid := range oids {
		list = append(list, fmt.Sprint(oid))
	}
	r := conn.ExecParams(ctx, pgtypes.CatalogQuery, [][]byte{[]byte("{" + strings.Join(list, ",") + "}")}, nil, nil, nil).Read()
	if r.Err != nil {
		return fmt.Errorf("catalog: %w", r.Err)
	}
	var infos []pgtypes.Info
	for _, row := range r.Rows {
		i, err := pgtypes.ScanInfo(func(dest ...any) error {
			*dest[0].(*string) = string(row[0])
			return nil
		})
		if err != nil {
			return err
		}
		infos = append(infos, i)
	}
	lines := make([]string, len(infos))
	for i := range infos {
		b, err := json.Marshal(infos[i])
		if err != nil {
			return err
		}
		lines[i] = string(b)
	}
	return os.WriteFile(path, []byte("[\n"+strings.Join(lines, ",\n")+"\n]\n"), 0o644)
}

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// table is one table's rows as output texts and send forms in hex, nil for NULL.
type table struct {
	Columns []column
	Rows    [][]datum
}

type column struct {
	Name string
	OID  uint32
}

type datum struct{ Text, Send *string }

// writeRows writes rows.json, some of the dataset's tables, and rowtypes.json.
func writeRows(ctx context.Context, dsn, dataset, dir string) error {
	sql, err := os.ReadFile(dataset)
	if err != nil {
		return err
	}
	const database = "pgtypes_gen"
	conn, err := connect(ctx, dsn, "")
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, q := range []string{"DROP DATABASE IF EXISTS " + database, "CREATE DATABASE " + database} {
		if err := conn.Exec(ctx, q).Close(); err != nil {
			return fmt.Errorf("%s: %w", q, err)
		}
	}
	data, err := connect(ctx, dsn, database)
	if err != nil {
		return err
	}
	defer data.Close(ctx)
	if err := data.Exec(ctx, string(sql)).Close(); err != nil {
		return fmt.Errorf("%s: %w", dataset, err)
	}
	tables := map[string]*table{}
	oids := map[uint32]bool{}
	for _, name := range []string{"types", "users", "items"} {
		t, err := readTable(ctx, data, name)
		if err != nil {
			return fmt.Errorf("table %s: %w", name, err)
		}
		tables[name] = t
		for _, c := range t.Columns {
			oids[c.OID] = true
		}
	}
	if err := writeJSON(filepath.Join(dir, "rows.json"), tables); err != nil {
		return err
	}
	return writeInfos(ctx, data, oids, filepath.Join(dir, "rowtypes.json"))
}

func readTable(ctx context.Context, conn *pgconn.PgConn, name string) (*table, error) {
	r := conn.ExecParams(ctx, "SELECT attname, atttypid::int8 FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 ORDER BY attnum",
		[][]byte{[]byte(name)}, []uint32{25}, nil, nil).Read()
	if r.Err != nil {
		return nil, r.Err
	}
	t := &table{}
	for _, row := range r.Rows {
		oid, err := strconv.ParseUint(string(row[1]), 10, 32)
		if err != nil {
			return nil, err
		}
		t.Columns = append(t.Columns, column{Name: string(row[0]), OID: uint32(oid)})
	}
	for _, format := range []int16{0, 1} {
		r := conn.ExecParams(ctx, "SELECT * FROM "+name+" ORDER BY id", nil, nil, nil, []int16{format}).Read()
		if r.Err != nil {
			return nil, r.Err
		}
		for i, row := range r.Rows {
			if format == 0 {
				t.Rows = append(t.Rows, make([]datum, len(row)))
			}
			for j, b := range row {
				if b == nil {
					continue
				}
				s := string(b)
				if format == 0 {
					t.Rows[i][j].Text = &s
				} else {
					s = hex.EncodeToString(b)
					t.Rows[i][j].Send = &s
				}
			}
		}
	}
	return t, nil
}
