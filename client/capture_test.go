package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/millrace-sync/millrace/client/internal/local"
	"github.com/millrace-sync/millrace/protocol"
)

// rawTables is a schema of tables of the app's own, with what creates them.
func rawTables() (Schema, string) {
	wide := "CREATE TABLE raw_wide(id TEXT PRIMARY KEY"
	for i := range 60 {
		wide += fmt.Sprintf(", c%d", i)
	}
	return Schema{
			Tables: []Table{{Name: "notes", Columns: []Column{Text("body")}}},
			RawTables: []RawTable{
				{Name: "people", Table: "raw_people"},
				{
					Name: "tags", Table: `raw_"tags`, Columns: []string{"label", "n"}, IgnoreEmptyUpdates: true,
					Previous: &Previous{Columns: []string{"label"}, OnlyWhenChanged: true}, Clear: `DELETE FROM "raw_""tags"`,
				},
				{Name: "events", Table: "raw_events", InsertOnly: true},
				{Name: "wide", Table: "raw_wide", Previous: &Previous{}},
				{Name: "keys", Table: "raw_keys"},
			},
		}, `CREATE TABLE raw_people(id TEXT PRIMARY KEY, name TEXT NOT NULL, age INTEGER, height REAL);
CREATE TABLE "raw_""tags"(here_only, n INTEGER, label TEXT, id TEXT PRIMARY KEY);
CREATE TABLE raw_events(id TEXT PRIMARY KEY, what);
CREATE TABLE raw_keys(id TEXT PRIMARY KEY);
` + wide + ")"
}

// capturing returns twins whose raw tables have the official triggers and ours.
func capturing(t *testing.T) *twins {
	t.Helper()
	schema, ddl := rawTables()
	w := newTwins(t, schema, ddl)
	for i := range schema.RawTables {
		r := &schema.RawTables[i]
		text, err := json.Marshal(officialRaw(r))
		if err != nil {
			t.Fatal(err)
		}
		for _, event := range []string{"INSERT", "UPDATE", "DELETE"} {
			w.o.Query(`SELECT powersync_create_raw_table_crud_trigger(?, ?, ?)`, string(text), r.triggerName(event), event)
		}
		if err := w.d.CaptureWrites(t.Context(), r.Name); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// Triggers have the texts, and queue the entries, that the official ones have; rows are
// synced into the tables without being queued.
func TestRawTables(t *testing.T) {
	w := capturing(t)
	w.compare()
	raw(t, w.d, func(c *local.Conn) {
		for _, sql := range strings.Split(`INSERT INTO raw_people(id, name, age, height) VALUES ('a', 'Ann', 30, 1.5), ('b', 'Bob', NULL, 2)
INSERT INTO raw_people(id, name) VALUES ('a', 'again')
INSERT INTO raw_people(id) VALUES ('no name')
UPDATE raw_people SET age = age + 1
UPDATE raw_people SET age = age WHERE id = 'a'
UPDATE raw_people SET id = 'c' WHERE id = 'a'
INSERT OR REPLACE INTO raw_people(id, name) VALUES ('b', 'Bert')
INSERT INTO raw_people(id, name) VALUES ('b', 'Bea') ON CONFLICT (id) DO UPDATE SET name = excluded.name
DELETE FROM raw_people WHERE id = 'a'
INSERT INTO "raw_""tags"(id, label, n, here_only) VALUES ('t', 'red', 1, 'x')
UPDATE "raw_""tags" SET here_only = 'y'
UPDATE "raw_""tags" SET n = 2
UPDATE "raw_""tags" SET label = 'blue', n = 3
UPDATE "raw_""tags" SET label = 'blue'
DELETE FROM "raw_""tags"
BEGIN
INSERT INTO raw_events(id, what) VALUES ('e', 'start')
INSERT INTO notes(id, body) VALUES ('n', 'with it')
COMMIT
UPDATE raw_events SET what = 'stop'
DELETE FROM raw_events
INSERT INTO raw_wide(id, c0, c59) VALUES ('w', 1, 'x')
UPDATE raw_wide SET c59 = 'y', c0 = NULL
DELETE FROM raw_wide
INSERT INTO raw_keys(id) VALUES ('k')
DELETE FROM raw_keys`, "\n") {
			both(t, c, w.o, sql)
		}
	})
	w.compare()
	w.uploaded1(5)
	w.start()
	for _, line := range strings.Split(`{"checkpoint":{"last_op_id":"4","write_checkpoint":"5","buckets":[{"bucket":"b","checksum":10,"count":4}],"streams":[]}}
{"data":{"bucket":"b","data":[{"op_id":"1","op":"PUT","object_type":"people","object_id":"b","checksum":1,"subkey":"1","data":"{\"id\":\"b\",\"name\":\"Berta\",\"age\":7,\"unknown\":1}"},{"op_id":"2","op":"PUT","object_type":"tags","object_id":"t","checksum":2,"subkey":"2","data":"{\"id\":\"t\",\"label\":\"green\",\"here_only\":\"no\"}"},{"op_id":"3","op":"PUT","object_type":"wide","object_id":"w","checksum":3,"subkey":"3","data":"{\"c3\":\"x\"}"},{"op_id":"4","op":"PUT","object_type":"people","object_id":"d","checksum":4,"subkey":"4","data":"{\"name\":\"Dora\"}"}]}}
{"checkpoint_complete":{"last_op_id":"4"}}
{"checkpoint_diff":{"last_op_id":"6","write_checkpoint":"5","updated_buckets":[{"bucket":"b","checksum":21,"count":6}],"removed_buckets":[]}}
{"data":{"bucket":"b","data":[{"op_id":"5","op":"REMOVE","object_type":"people","object_id":"d","checksum":5,"subkey":"4"},{"op_id":"6","op":"PUT","object_type":"tags","object_id":"t","checksum":6,"subkey":"2","data":"{\"label\":null,\"n\":5}"}]}}
{"checkpoint_complete":{"last_op_id":"6"}}`, "\n") {
		w.line(line)
		w.compare()
	}
	if got := fmt.Sprint(dump(t, w.d, `SELECT id, name FROM raw_people WHERE id IN ('b', 'd')`)); got != "[[text b text Berta]]" {
		t.Errorf("synced rows: %s", got)
	}
}

// uploaded1 empties the queue on both sides without an iteration of the engine.
func (w *twins) uploaded1(target int64) {
	w.t.Helper()
	w.write(fmt.Sprintf(`DELETE FROM ps_crud; INSERT OR REPLACE INTO ps_kv(key, value) VALUES ('target_checkpoint_request_id', %d)`, target))
}

// Triggers follow the table's columns; a table that is missing is named, and the sync
// goes on when it is there.
func TestCaptureWrites(t *testing.T) {
	d := newDB(t, Schema{RawTables: []RawTable{{Name: "people", Table: "raw_people"}, {Name: "x", Put: Statement{SQL: "SELECT 1"}, Delete: Statement{SQL: "SELECT 1"}}}})
	for name, want := range map[string]string{"people": `no table "raw_people"`, "absent": "has none of this name", "x": "does not say which Table"} {
		if err := d.CaptureWrites(t.Context(), name); !errors.Is(err, ErrRawTable) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
	mustExec(t, d, `CREATE TABLE raw_people(name)`)
	if err := d.CaptureWrites(t.Context(), "people"); !errors.Is(err, ErrRawTable) || !strings.Contains(err.Error(), "no column id") {
		t.Errorf("got %v", err)
	}
	mustExec(t, d, `ALTER TABLE raw_people ADD COLUMN id TEXT`)
	for _, step := range []struct{ sql, want string }{
		{`INSERT INTO raw_people(id, name) VALUES ('1', 'a')`, `{"op":"PUT","id":"1","type":"people","data":{"name":"a"}}`},
		{`ALTER TABLE raw_people ADD COLUMN age`, ""},
		{`UPDATE raw_people SET age = 5`, `{"op":"PATCH","id":"1","type":"people","data":{"age":5}}`},
	} {
		if err := d.CaptureWrites(t.Context(), "people"); err != nil {
			t.Fatal(err)
		}
		mustExec(t, d, `DELETE FROM ps_crud`)
		mustExec(t, d, step.sql)
		got, err := GetOptional[string](t.Context(), d, `SELECT data FROM ps_crud`)
		if err != nil || got == nil && step.want != "" || got != nil && *got != step.want {
			t.Errorf("%s queued %v, %v; want %q", step.sql, got, err, step.want)
		}
		if err := d.CaptureWrites(t.Context(), "people"); err != nil {
			t.Fatal(err)
		}
	}
	before := fmt.Sprint(dump(t, d, `PRAGMA schema_version`))
	if err := d.CaptureWrites(t.Context(), "people"); err != nil || fmt.Sprint(dump(t, d, `PRAGMA schema_version`)) != before {
		t.Errorf("capturing again changed the schema, %v", err)
	}
	// Signing out empties the table and queues nothing.
	mustExec(t, d, `INSERT INTO raw_people(id, name) VALUES ('2', 'b')`)
	if err := d.DisconnectAndClear(t.Context(), Clear{}); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(dump(t, d, `SELECT (SELECT count(*) FROM raw_people), (SELECT count(*) FROM ps_crud)`)); got != "[[int 0 int 0]]" {
		t.Errorf("after clearing: %s", got)
	}
}

// A raw table that the app has not created yet holds up the download, says so, and
// does not lose anything.
func TestRawTableMissing(t *testing.T) {
	w := newTwins(t, Schema{RawTables: []RawTable{{Name: "people", Table: "raw_people"}}}, "")
	w.start()
	w.line(`{"checkpoint":{"last_op_id":"1","buckets":[{"bucket":"b","checksum":1,"count":1}],"streams":[]}}`)
	w.line(`{"data":{"bucket":"b","data":[{"op_id":"1","op":"PUT","object_type":"people","object_id":"b","checksum":1,"subkey":"1","data":"{\"name\":\"Bea\"}"}]}}`)
	err := w.d.exclusive(t.Context(), func(*local.Conn) error {
		_, err := w.e.Line(&protocol.CheckpointComplete{LastOpID: 1}, 1, w.now)
		return err
	})
	if err == nil || !strings.Contains(err.Error(), `no table "raw_people"`) {
		t.Errorf("got %v", err)
	}
}
