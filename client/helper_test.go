package client

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/ncruces/go-sqlite3"

	"github.com/millrace-sync/millrace/client/internal/local"
	"github.com/millrace-sync/millrace/client/internal/oracle"
)

// newDB opens a database that the test closes.
func newDB(t testing.TB, schema Schema) *DB {
	t.Helper()
	return openDB(t, filepath.Join(t.TempDir(), "ours.db"), schema)
}

func openDB(t testing.TB, file string, schema Schema) *DB {
	t.Helper()
	d, err := Open(t.Context(), file, schema, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// official returns a schema as the official extension takes it.
func official(t testing.TB, s Schema) string {
	t.Helper()
	tables, raws := []any{}, []any{}
	for _, s := range s.Tables {
		columns, indexes := []any{}, []any{}
		types := map[string]ColumnType{}
		for _, c := range s.Columns {
			columns = append(columns, map[string]any{"name": c.Name, "type": c.Type})
			types[c.Name] = c.Type
		}
		for _, x := range s.Indexes {
			list := []any{}
			for _, c := range x.Columns {
				list = append(list, map[string]any{"name": c.Column, "ascending": !c.Descending, "type": types[c.Column]})
			}
			indexes = append(indexes, map[string]any{"name": x.Name, "columns": list})
		}
		table := map[string]any{
			"name": s.Name, "columns": columns, "indexes": indexes, "local_only": s.LocalOnly, "insert_only": s.InsertOnly,
			"include_metadata": s.Metadata, "ignore_empty_update": s.IgnoreEmptyUpdates,
		}
		if s.ViewName != "" {
			table["view_name"] = s.ViewName
		}
		if p := s.Previous; p != nil {
			table["include_old"] = true
			if p.Columns != nil {
				table["include_old"] = p.Columns
			}
			table["include_old_only_when_changed"] = p.OnlyWhenChanged
		}
		tables = append(tables, table)
	}
	for i := range s.RawTables {
		raws = append(raws, officialRaw(&s.RawTables[i]))
	}
	text, err := json.Marshal(map[string]any{"tables": tables, "raw_tables": raws})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func officialRaw(r *RawTable) map[string]any {
	raw := map[string]any{"name": r.Name, "insert_only": r.InsertOnly, "ignore_empty_update": r.IgnoreEmptyUpdates}
	for key, s := range map[string]Statement{"put": r.Put, "delete": r.Delete} {
		if s.SQL == "" {
			continue
		}
		params := []any{}
		for _, p := range s.Params {
			switch p.kind {
			case paramID:
				params = append(params, "Id")
			case paramRest:
				params = append(params, "Rest")
			case paramColumn:
				params = append(params, map[string]any{"Column": p.column})
			}
		}
		raw[key] = map[string]any{"sql": s.SQL, "params": params}
	}
	if r.Clear != "" {
		raw["clear"] = r.Clear
	}
	if r.Table != "" {
		raw["table_name"] = r.Table
	}
	if r.Columns != nil {
		raw["synced_columns"] = r.Columns
	}
	if p := r.Previous; p != nil {
		raw["include_old"] = true
		if p.Columns != nil {
			raw["include_old"] = p.Columns
		}
		raw["include_old_only_when_changed"] = p.OnlyWhenChanged
	}
	return raw
}

// replaceSchema gives the official extension a schema.
func replaceSchema(t testing.TB, o *oracle.Oracle, s Schema) {
	t.Helper()
	o.Exec("BEGIN IMMEDIATE")
	o.Query("SELECT powersync_replace_schema(?)", official(t, s))
	o.Exec("COMMIT")
}

// dump runs a query on our writer and shows its rows as the oracle does.
func dump(t testing.TB, d *DB, sql string) [][]string {
	t.Helper()
	var rows [][]string
	err := d.exclusive(t.Context(), func(c *local.Conn) error {
		s, _, err := c.Prepare(sql)
		if err != nil {
			return err
		}
		defer s.Close()
		for s.Step() {
			row := make([]string, s.ColumnCount())
			for i := range row {
				switch s.ColumnType(i) {
				case sqlite3.NULL:
					row[i] = "null"
				case sqlite3.INTEGER:
					row[i] = "int " + s.ColumnText(i)
				case sqlite3.FLOAT:
					row[i] = "real " + s.ColumnText(i)
				case sqlite3.TEXT:
					row[i] = "text " + s.ColumnText(i)
				default:
					return errors.New("a blob")
				}
			}
			rows = append(rows, row)
		}
		return s.Err()
	})
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return rows
}

// contents lists the queries by which two databases are compared. The times at which
// things happened are left out.
var contents = []string{
	`SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT GLOB 'sqlite_stat*' ORDER BY type, name`,
	`SELECT id, down_migrations FROM ps_migration ORDER BY id`,
	`SELECT id, name, last_applied_op, last_op, add_checksum, op_checksum, pending_delete, count_at_last, count_since_last, downloaded_size FROM ps_buckets ORDER BY id`,
	`SELECT bucket, op_id, row_type, row_id, key, data, hash FROM ps_oplog ORDER BY bucket, op_id`,
	`SELECT row_type, row_id FROM ps_updated_rows ORDER BY 1, 2`,
	`SELECT id, data, tx_id FROM ps_crud ORDER BY id`,
	`SELECT name, seq FROM sqlite_sequence ORDER BY 1`,
	`SELECT id, current_tx, next_tx FROM ps_tx`,
	`SELECT key, value, typeof(value) FROM ps_kv WHERE key != 'client_id' ORDER BY key`,
	`SELECT priority, last_synced_at > 0 FROM ps_sync_state ORDER BY 1`,
	`SELECT id, stream_name, active, is_default, local_priority, local_params, ttl, expires_at > 0, last_synced_at > 0 FROM ps_stream_subscriptions ORDER BY id`,
	`SELECT type, id, data FROM ps_untyped ORDER BY 1, 2`,
}

// compare holds our database against the official one, table by table.
func compare(t testing.TB, d *DB, o *oracle.Oracle) {
	t.Helper()
	queries := contents
	for _, row := range dump(t, d, `SELECT name FROM sqlite_master WHERE type = 'table' AND (name GLOB 'ps_data_*' OR name GLOB 'raw_*') ORDER BY 1`) {
		name := row[0][len("text "):]
		queries = append(queries, `SELECT * FROM `+quoteID(name)+` ORDER BY 1`)
	}
	for _, sql := range queries {
		if diff := cmp.Diff(o.Query(sql), dump(t, d, sql), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-official +ours):\n%s", sql, diff)
		}
	}
}
