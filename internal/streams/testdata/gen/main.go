// Command gen runs the conformance dataset and its steps on a private Postgres and
// writes the rows before and after them to testdata/rows.json, with the types that
// decode them. Run it from the package's directory: go run ./testdata/gen
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-sync/millrace/internal/pgtest"
	"github.com/millrace-sync/millrace/internal/postgres/pgtypes"
)

type column struct {
	Name string
	OID  uint32
	Key  bool `json:",omitempty"`
}

type table struct {
	Schema, Name         string
	RootSchema, RootName string `json:",omitempty"`
	Columns              []column
	Rows                 [][]*string
}

type file struct {
	Types         []pgtypes.Info
	Before, After []table
}

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "streams-gen-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// The server may have to run as another user.
	if err := os.Chmod(dir, 0o711); err != nil {
		return err
	}
	cluster, err := pgtest.New(filepath.Join(dir, "cluster"))
	if err != nil {
		return err
	}
	if err := cluster.Start(ctx); err != nil {
		return err
	}
	defer cluster.Stop(pgtest.Immediate)
	cfg, err := pgx.ParseConfig(cluster.DSN("postgres"))
	if err != nil {
		return err
	}
	for k, v := range pgtypes.Settings() {
		cfg.RuntimeParams[k] = v
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	script := func(name string) error {
		b, err := os.ReadFile(filepath.Join("testdata/conformance", name))
		if err != nil {
			return err
		}
		return conn.PgConn().Exec(ctx, string(b)).Close()
	}
	var out file
	if err := conn.PgConn().Exec(ctx, "CREATE ROLE powersync_role").Close(); err != nil {
		return err
	}
	if err := script("dataset.sql"); err != nil {
		return err
	}
	if err := conn.PgConn().Exec(ctx, "INSERT INTO marker VALUES ('m', 1)").Close(); err != nil {
		return err
	}
	oids := map[uint32]bool{}
	if out.Before, err = dump(ctx, conn, oids); err != nil {
		return err
	}
	if err := script("steps.sql"); err != nil {
		return fmt.Errorf("steps: %w", err)
	}
	if out.After, err = dump(ctx, conn, oids); err != nil {
		return err
	}
	var list []uint32
	for oid := range oids {
		list = append(list, oid)
	}
	rows, err := conn.Query(ctx, pgtypes.CatalogQuery, list)
	if err != nil {
		return err
	}
	for rows.Next() {
		info, err := pgtypes.ScanInfo(rows.Scan)
		if err != nil {
			return err
		}
		out.Types = append(out.Types, info)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	b, err := json.MarshalIndent(out, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile("testdata/rows.json", append(b, '\n'), 0o644)
}

const tables = `
SELECT n.nspname, c.relname, coalesce(rn.nspname, ''), coalesce(r.relname, ''), c.oid::int8
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_class r ON r.oid = pg_partition_root(c.oid) AND c.relispartition LEFT JOIN pg_namespace rn ON rn.oid = r.relnamespace
WHERE c.relkind = 'r' AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema' ORDER BY 1, 2`

const columns = `
SELECT a.attname, a.atttypid::int8, coalesce(a.attnum = ANY (i.indkey), c.relreplident = 'f')
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
WHERE a.attrelid = $1::int8::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`

func dump(ctx context.Context, conn *pgx.Conn, oids map[uint32]bool) ([]table, error) {
	rows, err := conn.Query(ctx, tables)
	if err != nil {
		return nil, err
	}
	var out []table
	var ids []int64
	for rows.Next() {
		var t table
		var id int64
		if err := rows.Scan(&t.Schema, &t.Name, &t.RootSchema, &t.RootName, &id); err != nil {
			return nil, err
		}
		out, ids = append(out, t), append(ids, id)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	for i := range out {
		t := &out[i]
		rows, err := conn.Query(ctx, columns, ids[i])
		if err != nil {
			return nil, err
		}
		list := ""
		for rows.Next() {
			var c column
			var oid int64
			if err := rows.Scan(&c.Name, &oid, &c.Key); err != nil {
				return nil, err
			}
			c.OID = uint32(oid)
			oids[c.OID] = true
			if list != "" {
				list += ", "
			}
			list += pgtypes.TextExpr(pgx.Identifier{c.Name}.Sanitize())
			t.Columns = append(t.Columns, c)
		}
		if err := rows.Err(); err != nil {
			return nil, err
		}
		r := conn.PgConn().ExecParams(ctx, "SELECT "+list+" FROM "+pgx.Identifier{t.Schema, t.Name}.Sanitize()+" ORDER BY 1, 2", nil, nil, nil, nil).Read()
		if r.Err != nil {
			return nil, r.Err
		}
		for _, row := range r.Rows {
			texts := make([]*string, len(row))
			for k, v := range row {
				if v != nil {
					s := string(v)
					texts[k] = &s
				}
			}
			t.Rows = append(t.Rows, texts)
		}
	}
	return out, nil
}
