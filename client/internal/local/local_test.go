package local_test

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/ncruces/go-sqlite3"

	"github.com/millrace-sync/millrace/client/internal/local"
	"github.com/millrace-sync/millrace/client/internal/oracle"
)

// open opens a file as package client does.
func open(t *testing.T, file string) *local.Conn {
	t.Helper()
	db, err := sqlite3.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	c, err := local.Attach(db)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Detach(); err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	exec(t, c, `PRAGMA journal_mode = WAL; PRAGMA recursive_triggers = TRUE`)
	return c
}

func exec(t *testing.T, c *local.Conn, sql string) {
	t.Helper()
	if err := c.Exec(sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func migrate(t *testing.T, c *local.Conn) {
	t.Helper()
	exec(t, c, `BEGIN IMMEDIATE`)
	if err := local.Migrate(c.Conn); err != nil {
		t.Fatal(err)
	}
	exec(t, c, `COMMIT`)
}

func query(t *testing.T, c *local.Conn, sql string) [][]string {
	t.Helper()
	s, _, err := c.Prepare(sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	defer s.Close()
	var rows [][]string
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
				t.Fatalf("%s: a blob", sql)
			}
		}
		rows = append(rows, row)
	}
	if err := s.Err(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return rows
}

// layout reads everything that makes up the format.
const layout = `SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name != 'sqlite_stat1' ORDER BY type, name`

// contents lists the queries whose results two databases must agree on.
var contents = []string{
	layout,
	`SELECT id, down_migrations FROM ps_migration ORDER BY id`,
	`SELECT id, current_tx, next_tx FROM ps_tx`,
	`SELECT id, data, tx_id FROM ps_crud ORDER BY id`,
	`SELECT key, value, typeof(value) FROM ps_kv WHERE key != 'client_id' ORDER BY key`,
	`SELECT row_type, row_id FROM ps_updated_rows ORDER BY 1, 2`,
}

func compare(t *testing.T, c *local.Conn, o *oracle.Oracle) {
	t.Helper()
	for _, sql := range contents {
		if d := cmp.Diff(o.Query(sql), query(t, c, sql), cmpopts.EquateEmpty()); d != "" {
			t.Errorf("%s (-official +ours):\n%s", sql, d)
		}
	}
}

// An empty database gets the tables that the official extension creates.
func TestLayout(t *testing.T) {
	dir := t.TempDir()
	o := oracle.Open(t, filepath.Join(dir, "official.db"))
	c := open(t, filepath.Join(dir, "ours.db"))
	migrate(t, c)
	compare(t, c, o)
	id := query(t, c, `SELECT powersync_client_id()`)[0][0]
	if len(id) != len("text 00000000-0000-4000-8000-000000000000") {
		t.Errorf("client id is %q", id)
	}
	// Once more changes nothing.
	migrate(t, c)
	compare(t, c, o)
}

// Files of the layouts that older official clients write are brought up to date.
func TestOldLayouts(t *testing.T) {
	for _, to := range []string{"8", "9", "10", "11", "12", "13"} {
		t.Run(to, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "old.db")
			o := oracle.Open(t, file)
			o.Exec(`INSERT INTO ps_sync_state VALUES (2147483647, 1700000000000000);
INSERT INTO ps_buckets(name, last_applied_op, last_op, add_checksum, op_checksum) VALUES ('b', 4, 5, 6, 7);
INSERT INTO ps_kv VALUES ('target_checkpoint_request_id', 9), ('last_seen_checkpoint_request_id', 8)`)
			o.Exec(`BEGIN; SELECT powersync_test_migration(` + to + `); COMMIT`)
			o.Close()

			c := open(t, file)
			migrate(t, c)
			got := []any{
				query(t, c, `SELECT name, last_applied_op, last_op, add_checksum, op_checksum FROM ps_buckets`),
				query(t, c, `SELECT key, value FROM ps_kv WHERE key != 'client_id' ORDER BY 1`),
				query(t, c, `SELECT * FROM ps_sync_state`),
			}
			want := []any{
				[][]string{{"text b", "int 4", "int 5", "int 6", "int 7"}},
				[][]string{{"text last_seen_checkpoint_request_id", "int 8"}, {"text target_checkpoint_request_id", "int 9"}},
				[][]string{{"int 2147483647", "int 1700000000000000"}},
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
			// The extension does the same from there.
			same := filepath.Join(dir, "same.db")
			o = oracle.Open(t, same)
			o.Exec(`BEGIN; SELECT powersync_test_migration(` + to + `); COMMIT; BEGIN; SELECT powersync_init(); COMMIT`)
			if d := cmp.Diff(o.Query(layout), query(t, c, layout)); d != "" {
				t.Errorf("layout (-official +ours):\n%s", d)
			}
			if d := cmp.Diff(o.Query(contents[1]), query(t, c, contents[1])); d != "" {
				t.Errorf("migrations (-official +ours):\n%s", d)
			}
		})
	}
}

// A file from a later version is led back by the steps that it holds; one from
// before our oldest is refused, unchanged.
func TestOtherVersions(t *testing.T) {
	c := open(t, filepath.Join(t.TempDir(), "later.db"))
	migrate(t, c)
	exec(t, c, `CREATE TABLE ps_later(x);
CREATE VIEW gone AS SELECT 1;
INSERT INTO ps_migration VALUES (15, '[{"sql":"DROP TABLE ps_later"},{"sql":"SELECT powersync_drop_view(''gone'')"},{"sql":"DELETE FROM ps_migration WHERE id >= 15"}]')`)
	migrate(t, c)
	if got := query(t, c, `SELECT name FROM sqlite_master WHERE name IN ('ps_later', 'gone')`); got != nil {
		t.Errorf("%v is still there", got)
	}

	exec(t, c, `INSERT INTO ps_migration VALUES (15, '[]')`)
	if err := local.Migrate(c.Conn); err == nil || !strings.Contains(err.Error(), "led nowhere") {
		t.Errorf("a way back that leads nowhere: %v", err)
	}
	exec(t, c, `DELETE FROM ps_migration WHERE id > 5`)
	if err := local.Migrate(c.Conn); !errors.Is(err, local.ErrTooOld) {
		t.Errorf("migration 5: %v", err)
	}
}

// Changes are reported once they are committed, and not when they are not.
func TestTrack(t *testing.T) {
	c := open(t, filepath.Join(t.TempDir(), "a.db"))
	exec(t, c, `CREATE TABLE a(id INTEGER PRIMARY KEY, x UNIQUE); CREATE TABLE b(id TEXT PRIMARY KEY) WITHOUT ROWID`)
	var got []string
	c.Track(func(tables []string, _ int) error { got = append(got, tables...); return nil })
	for _, tc := range []struct {
		sql  string
		want []string
	}{
		{`INSERT INTO a VALUES (1, 1)`, []string{"a"}},
		{`BEGIN; INSERT INTO a VALUES (2, 2); INSERT INTO b VALUES ('x'); INSERT INTO a VALUES (3, 3)`, nil},
		{`COMMIT`, []string{"a", "b"}},
		{`BEGIN; INSERT INTO a VALUES (4, 4); ROLLBACK`, nil},
		{`INSERT INTO b VALUES ('y')`, []string{"b"}},
		{`DELETE FROM a`, []string{"a"}}, // all rows at once
		{`SELECT * FROM b`, nil},
	} {
		got = nil
		exec(t, c, tc.sql)
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: reported %v, want %v", tc.sql, got, tc.want)
		}
	}
	got = nil
	c.Quiet(true)
	exec(t, c, `INSERT INTO a VALUES (9, 9)`)
	c.Quiet(false)
	if got != nil {
		t.Errorf("reported %v while quiet", got)
	}
}
