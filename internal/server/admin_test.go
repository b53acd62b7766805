package server

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/millrace-sync/millrace/internal/admin"
	"github.com/millrace-sync/millrace/protocol"
)

// admin calls the admin API and returns the answer's data, or the error.
func (in *instance) admin(method, path, contentType, body string, into any) *protocol.Error {
	in.t.Helper()
	req, err := http.NewRequestWithContext(in.t.Context(), method, in.url+path, strings.NewReader(body))
	if err != nil {
		in.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+adminToken)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		in.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		in.t.Fatal(err)
	}
	if resp.StatusCode != 200 {
		return protocol.DecodeError(resp.StatusCode, b)
	}
	answer := struct{ Data any }{into}
	if err := json.Unmarshal(b, &answer); err != nil {
		in.t.Fatalf("%s %s: %v in %s", method, path, err, b)
	}
	return nil
}

func (in *instance) mustAdmin(method, path, contentType, body string, into any) {
	in.t.Helper()
	if e := in.admin(method, path, contentType, body, into); e != nil {
		in.t.Fatalf("%s %s: %v", method, path, e)
	}
}

func (in *instance) untilStatus(what string, ok func(*admin.Status) bool) {
	in.t.Helper()
	for deadline := time.Now().Add(patience); ; <-time.After(20 * time.Millisecond) {
		var s admin.Status
		in.mustAdmin("GET", "/api/millrace/v1/status", "", "", &s)
		if ok(&s) {
			return
		}
		if time.Now().After(deadline) {
			in.t.Fatalf("%s did not come: %+v", what, s)
		}
	}
}

// The admin API deploys, tells what it would do and what it did, and has everything
// read again.
func TestAdminDeploys(t *testing.T) {
	dsn, conn := database(t, shared.Cluster(t),
		"CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)",
		"INSERT INTO notes SELECT 'n'||i, 'u', 'body '||i FROM generate_series(1, 500) i", "ANALYZE notes")
	in := newInstance(t, dsn)
	in.start("")
	if e := in.admin("POST", "/api/sync-rules/v1/reprocess", "", "", nil); e == nil || e.Code != protocol.NothingToReprocess {
		t.Errorf("reprocess without a sync config: %v", e)
	}
	var slot admin.Slot
	in.mustAdmin("POST", "/api/sync-rules/v1/deploy", "application/yaml", ownNotes, &slot)
	if slot.SlotName != "powersync_1" {
		t.Errorf("slot %q", slot.SlotName)
	}
	c := in.connect("u")
	c.untilEqual("first sync", conn, notesOf("u"))
	before := c.received()

	// One with mistakes, one that has to wait, and one that goes.
	e := in.admin("POST", "/api/sync-rules/v1/deploy", "application/yaml", "streams: {", nil)
	if e == nil || e.Code != protocol.SyncConfigInvalid || e.Details == "" {
		t.Errorf("a sync config with mistakes: %+v", e)
	}
	var dry admin.DryRun
	in.mustAdmin("POST", "/api/millrace/v1/dry-run", "application/yaml", addedTags, &dry)
	if dry.Keep != 1 || dry.New != 1 || len(dry.Waits) != 1 || !strings.Contains(dry.Waits[0], "public.tags") {
		t.Errorf("dry run without the table: %+v", dry)
	}
	in.mustAdmin("POST", "/api/sync-rules/v1/deploy", "application/json", `{"content":`+quoted(addedTags)+`}`, &slot)
	in.untilStatus("the wait for a table", func(s *admin.Status) bool { return s.Deploying && len(s.Waits) == 1 })
	if e := in.admin("POST", "/api/admin/v1/reprocess", "application/json", "{}", nil); e == nil || e.Code != protocol.DeployBusy {
		t.Errorf("reprocess while another is on its way: %v", e)
	}
	var diagnostics admin.Diagnostics
	in.mustAdmin("POST", "/api/admin/v1/diagnostics", "application/json", `{"sync_rules_content":true}`, &diagnostics)
	if d := diagnostics.Deploying; d == nil || d.Content != addedTags || len(d.Errors) != 1 || d.Errors[0].Level != admin.Fatal || len(d.Connections[0].Tables) != 2 {
		t.Errorf("diagnostics of the one on its way: %+v", d)
	}
	if a := diagnostics.Active; a == nil || a.Content != ownNotes || len(a.Connections[0].Tables) != 1 || a.Connections[0].LagBytes == nil || a.Connections[0].LastLSN == "" {
		t.Errorf("diagnostics of the current one: %+v", a)
	} else if table := a.Connections[0].Tables[0]; table.Name != "notes" || !table.DataQueries || table.ParameterQueries || len(table.ReplicationID) != 1 {
		t.Errorf("diagnostics of the table: %+v", table)
	}
	exec(t, conn, "CREATE TABLE tags (id text PRIMARY KEY, name text)", "INSERT INTO tags VALUES ('t', 'tag')")
	both := notesAndTagsOf("u")
	c.untilEqual("the table has come", conn, both)
	in.untilStatus("the end of the deploy", func(s *admin.Status) bool { return !s.Deploying && s.Failed == "" })
	c.notSentAgain(before)
	var current admin.Current
	in.mustAdmin("GET", "/api/sync-rules/v1/current", "", "", &current)
	if current.Current == nil || current.Current.Content != addedTags || !current.Current.Valid || len(current.Current.Streams) != 2 || current.Next != nil {
		t.Errorf("current: %+v", current)
	}

	in.mustAdmin("POST", "/api/millrace/v1/dry-run", "application/yaml", strings.Replace(ownNotes, "SELECT *", "SELECT id", 1), &dry)
	if want := (admin.StreamFate{Name: "notes", Fate: "resent"}); dry.New != 1 || dry.Drop != 2 || len(dry.Reads) != 1 || dry.Reads[0].Rows != 500 || dry.Streams[0] != want {
		t.Errorf("dry run of a change: %+v", dry)
	}

	// Everything anew: other buckets, the same rows.
	in.mustAdmin("POST", "/api/sync-rules/v1/reprocess", "", "", &slot)
	in.untilStatus("the end of reprocessing", func(s *admin.Status) bool { return !s.Deploying })
	c.untilEqual("after reprocessing", conn, both)
	c.until("other buckets", func() bool {
		for name := range before {
			if _, still := c.names[name]; still {
				return false
			}
		}
		return true
	})
	exec(t, conn, "DELETE FROM notes WHERE id = 'n1'")
	c.untilEqual("changes after reprocessing", conn, both)
}

func quoted(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// Where the configuration has the sync config, it is changed there.
func TestAdminReload(t *testing.T) {
	in, conn, c := serving(t,
		"CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)", "CREATE TABLE tags (id text PRIMARY KEY, name text)",
		"INSERT INTO notes VALUES ('a', 'u', 'one')", "INSERT INTO tags VALUES ('t', 'tag')")
	if e := in.admin("POST", "/api/sync-rules/v1/deploy", "application/yaml", addedTags, nil); e == nil || e.Code != protocol.DeployDisabled {
		t.Errorf("deployed beside the configuration: %v", e)
	}
	in.write(addedTags)
	var dry admin.DryRun
	in.mustAdmin("POST", "/api/millrace/v1/dry-run", "", "", &dry)
	if dry.Unchanged || dry.New != 1 || len(dry.Reads) != 1 {
		t.Errorf("dry run: %+v", dry)
	}
	in.mustAdmin("POST", "/api/millrace/v1/reload", "", "", nil)
	both := notesAndTagsOf("u")
	c.untilEqual("after a reload", conn, both)
	in.mustAdmin("POST", "/api/millrace/v1/reload", "", "", nil) // nothing has changed
}

func TestAdminAsksTheSource(t *testing.T) {
	dsn, _ := database(t, shared.Cluster(t),
		"CREATE TABLE notes (id text PRIMARY KEY, owner varchar(10), n int8, f float8, b bytea)",
		"CREATE TABLE bare (x integer)", "INSERT INTO notes VALUES ('a', 'u', 5, 1.5, '\\x00')")
	in := newInstance(t, dsn)
	in.start(ownNotes)
	var schema admin.Schema
	in.mustAdmin("POST", "/api/admin/v1/schema", "application/json", "{}", &schema)
	got, err := json.Marshal(schema)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"connections":[{"id":"default","tag":"default","schemas":[{"name":"public","tables":[` +
		`{"name":"bare","columns":[{"name":"x","sqlite_type":4,"internal_type":"integer","type":"int4","pg_type":"int4"}]},` +
		`{"name":"notes","columns":[{"name":"id","sqlite_type":2,"internal_type":"text","type":"text","pg_type":"text"},` +
		`{"name":"owner","sqlite_type":2,"internal_type":"character varying(10)","type":"varchar","pg_type":"varchar"},` +
		`{"name":"n","sqlite_type":4,"internal_type":"bigint","type":"int8","pg_type":"int8"},` +
		`{"name":"f","sqlite_type":8,"internal_type":"double precision","type":"float8","pg_type":"float8"},` +
		`{"name":"b","sqlite_type":1,"internal_type":"bytea","type":"bytea","pg_type":"bytea"}]}]}]}],"defaultConnectionTag":"default","defaultSchema":"public"}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}

	const query = `{"sql":{"query":"SELECT id, n, f, $1::int + 1 AS m, NULL AS nothing FROM notes","args":[41]}}`
	var result admin.SQLResult
	in.mustAdmin("POST", "/api/admin/v1/execute-sql", "application/json", query, &result)
	if result.Success || result.Error == nil || !strings.Contains(result.Error.Message, "debug_api") {
		t.Errorf("SQL without debug_api: %+v", result)
	}
	in.stop()
	in.debugAPI = true
	in.start(ownNotes)
	in.mustAdmin("POST", "/api/admin/v1/execute-sql", "application/json", query, &result)
	if text, _ := json.Marshal(result.Results); !result.Success || string(text) != `{"columns":["id","n","f","m","nothing"],"rows":[["a",5,1.5,42,null]]}` {
		t.Errorf("SQL: %s %+v", text, result)
	}
	in.mustAdmin("POST", "/api/admin/v1/execute-sql", "application/json", `{"sql":{"query":"SELECT 1/0","args":[]}}`, &result)
	if result.Success || result.Error == nil || !strings.Contains(result.Error.Message, "division by zero") {
		t.Errorf("SQL that fails: %+v", result)
	}

	var state admin.SyncConfig
	in.mustAdmin("POST", "/api/admin/v1/validate", "application/json",
		`{"sync_rules":"config: {edition: 3}\nstreams:\n  bare: {query: SELECT * FROM bare}\n  gone: {query: SELECT * FROM gone}\n"}`, &state)
	fatal := 0
	for _, table := range state.Connections[0].Tables {
		for _, p := range table.Errors {
			if p.Level == admin.Fatal {
				fatal++
			}
		}
	}
	if fatal != 2 {
		t.Errorf("validate found %d mistakes, want a table without identity and one that is not there: %+v", fatal, state)
	}
	in.mustAdmin("POST", "/api/admin/v1/validate", "application/json", `{"sync_rules":"streams: {a: {query: SELEC}}"}`, &state)
	if len(state.Errors) == 0 || state.Errors[0].Level != admin.Fatal || state.Errors[0].Location == nil {
		t.Errorf("validate of a mistake: %+v", state)
	}
}
