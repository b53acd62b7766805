package server

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-sync/millrace/internal/admin"
	"github.com/millrace-sync/millrace/internal/pgtest"
	"github.com/millrace-sync/millrace/protocol"
)

// Processes whose storage is down when they start say so, do not end, and go on once it
// is there. What keeps them from using it is told once for each reason.
func TestStorageDownAtStart(t *testing.T) {
	dsn, conn := database(t, shared.Cluster(t),
		"CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)", "INSERT INTO notes VALUES ('a', 'u', 'one')")
	kept := pgtest.Start(t, pgtest.WithPassword("secret"))
	to := kept.DSN("later")
	if err := kept.Stop(pgtest.Fast); err != nil {
		t.Fatal(err)
	}
	unified := newInstance(t, dsn).inPostgres(to)
	all := []*instance{unified, unified.beside(API), unified.beside(Sync)}
	for _, in := range all {
		in.start(ownNotes)
	}
	c := all[1].connect("u")
	for _, in := range all {
		in.untilProbe("readiness", 400, "check that the server runs")
		in.untilProbe("startup", 400, `"started":false`)
		in.untilProbe("liveness", 200, "")
		in.untilLogged("the storage cannot be used yet")
	}
	for _, in := range all[:2] {
		resp, err := http.Post(in.url+"/sync/stream", "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if e := protocol.DecodeError(resp.StatusCode, body); resp.StatusCode != 503 || e.Code != protocol.ShuttingDown {
			t.Errorf("a client of the %s process: %d %s", in.role, resp.StatusCode, body)
		}
	}
	if err := kept.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, in := range all {
		in.untilProbe("readiness", 400, "check the connection's database")
	}
	pgtest.Exec(t, kept.DSN("postgres"), "CREATE DATABASE later")
	for _, in := range all {
		in.untilProbe("readiness", 200, "")
		if n := in.logged("the storage cannot be used yet"); n < 2 || n > 3 { // it may be told that the server starts
			t.Errorf("the %s process tells %d times that it waits, want once for each reason", in.role, n)
		}
	}
	c.untilEqual("first sync", conn, notesOf("u"))
	exec(t, conn, "INSERT INTO notes VALUES ('b', 'u', 'two')")
	c.untilEqual("a change", conn, notesOf("u"))
}

// A process that waits for its storage ends at once when it is told to.
func TestStopWhileStorageIsDown(t *testing.T) {
	in := newInstance(t, "postgresql://u:p@127.0.0.1:1024/d").inPostgres("postgresql://u:p@127.0.0.1:1024/d")
	in.start(ownNotes)
	in.untilProbe("readiness", 400, "check that the server runs")
	in.stop()
}

// A wrong password is told as such.
func TestStorageRefusesTheUser(t *testing.T) {
	kept := pgtest.Start(t, pgtest.WithPassword("secret"))
	in := newInstance(t, "postgresql://u:p@127.0.0.1:1024/d").inPostgres(strings.Replace(kept.DSN("postgres"), ":secret@", ":guess@", 1))
	in.start(ownNotes)
	in.untilProbe("readiness", 400, "check the connection's username and password")
	if strings.Contains(in.log.String(), "guess") {
		t.Error("the log shows the password")
	}
}

// The storage's server goes away under running processes, in order and not, and stays
// away while the source changes. Readiness tells of it, liveness does not; clients end
// with what the source has, and uploads are confirmed again.
func TestStorageGoesAway(t *testing.T) {
	dsn, conn := database(t, shared.Cluster(t),
		"CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)",
		"INSERT INTO notes SELECT 'n'||i, 'u'||i%2, 'body '||i FROM generate_series(1, 2000) i")
	kept := pgtest.Start(t)
	unified := newInstance(t, dsn).inPostgres(withPassword(kept.NewDatabase(t)))
	front := unified.beside(API)
	unified.start(ownNotes)
	unified.untilProbe("readiness", 200, "")
	front.start(ownNotes)
	clients := []*client{unified.connect("u0"), front.connect("u1")}
	same := func(what string) {
		t.Helper()
		for _, c := range clients {
			c.untilEqual(what, conn, notesOf(c.user))
		}
	}
	same("first sync")
	for i, mode := range []pgtest.StopMode{pgtest.Fast, pgtest.Immediate, pgtest.Crash} {
		if err := kept.Stop(mode); err != nil {
			t.Fatal(err)
		}
		exec(t, conn,
			fmt.Sprintf("INSERT INTO notes SELECT 'm%d-'||i, 'u'||i%%2, 'more' FROM generate_series(1, 500) i", i),
			"UPDATE notes SET body = body || '!' WHERE id < 'n3'", fmt.Sprintf("DELETE FROM notes WHERE id LIKE 'n%d7%%'", i+1))
		for _, in := range []*instance{unified, front} {
			in.untilProbe("readiness", 400, "storage")
			in.untilProbe("liveness", 200, "")
		}
		exec(t, conn, fmt.Sprintf("INSERT INTO notes VALUES ('late%d', 'u1', 'while it was away')", i))
		if err := kept.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, in := range []*instance{unified, front} {
			in.untilProbe("readiness", 200, "")
		}
		same(fmt.Sprintf("after the storage was away (%d)", mode))
		exec(t, conn, fmt.Sprintf("INSERT INTO notes VALUES ('after%d', 'u1', 'x')", i))
		front.writeCheckpoint("u1")
		clients[1].until("its write checkpoint", func() bool { return clients[1].write == uint64(i+1) })
		same("a change after it came back")
	}
}

// A process that waits for its storage to answer a commit is alive.
func TestWaitingForStorageIsAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var touched []time.Duration
		begun := time.Now()
		w := writing{touch: func(now time.Time) { touched = append(touched, now.Sub(begun)) }}
		done := w.waiting()
		time.Sleep(3500 * time.Millisecond)
		done()
		time.Sleep(time.Minute)
		if want := []time.Duration{time.Second, 2 * time.Second, 3 * time.Second}; !slices.Equal(touched, want) {
			t.Errorf("signs of life after %v, want %v", touched, want)
		}
	})
}

// The admin API does the same at every process: at one that serves, at one that waits
// for its turn, and at the one that replicates.
func TestDeployAtAnyProcess(t *testing.T) {
	dsn, conn := database(t, shared.Cluster(t),
		"CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)", "CREATE TABLE tags (id text PRIMARY KEY, name text)",
		"INSERT INTO notes SELECT 'n'||i, 'u', 'body '||i FROM generate_series(1, 300) i", "INSERT INTO tags VALUES ('t', 'tag')")
	kept, _ := database(t, shared.Cluster(t))
	leader := newInstance(t, dsn).inPostgres(kept)
	leader.role = Sync
	waiting, front := leader.beside(Unified), leader.beside(API)
	front.start("")
	if e := front.admin("GET", "/api/millrace/v1/status", "", "", nil); e == nil || e.Code != protocol.ShuttingDown || e.Status != 503 {
		t.Errorf("the status while no process replicates: %+v", e)
	}
	leader.start("")
	leader.untilProbe("readiness", 400, "no sync config is deployed yet")
	waiting.start("")
	waiting.untilProbe("startup", 400, "")
	c := front.connect("u")

	config := ownNotes
	for i, in := range []*instance{front, waiting, leader} {
		e := in.admin("POST", "/api/sync-rules/v1/deploy", "application/yaml", "streams: {", nil)
		if e == nil || e.Code != protocol.SyncConfigInvalid || e.Details == "" || e.Status != 422 {
			t.Errorf("a sync config with mistakes, at the %s process: %+v", in.role, e)
		}
		if i > 0 {
			config += fmt.Sprintf("  tags%d: {auto_subscribe: true, query: 'SELECT id, name AS name%d FROM tags'}\n", i, i)
		}
		var dry admin.DryRun
		in.mustAdmin("POST", "/api/millrace/v1/dry-run", "application/yaml", config, &dry)
		if dry.New != 1 || dry.Keep != i {
			t.Errorf("a dry run at the %s process: %+v", in.role, dry)
		}
		var slot admin.Slot
		in.mustAdmin("POST", "/api/sync-rules/v1/deploy", "application/yaml", config, &slot)
		if slot.SlotName != "powersync_1" {
			t.Errorf("slot %q at the %s process", slot.SlotName, in.role)
		}
		in.untilStatus("the deploy", func(s *admin.Status) bool { return !s.Deploying && s.Failed == "" })
		var now admin.Current
		in.mustAdmin("GET", "/api/sync-rules/v1/current", "", "", &now)
		if now.Current == nil || now.Current.Content != config || now.Next != nil {
			t.Errorf("current at the %s process after its deploy: %+v", in.role, now)
		}
		var d admin.Diagnostics
		in.mustAdmin("POST", "/api/admin/v1/diagnostics", "application/json", `{"sync_rules_content": true}`, &d)
		if d.Active == nil || len(d.Active.Connections[0].Tables) == 0 {
			t.Errorf("diagnostics at the %s process: %+v", in.role, d)
		}
		if i == 0 {
			c.untilEqual("the first deploy", conn, notesOf("u"))
		}
	}
	c.until("the streams of all deploys", func() bool { return len(c.names) == 3 })
	front.mustAdmin("POST", "/api/admin/v1/reprocess", "application/json", "{}", nil)
	front.untilStatus("the reprocessing", func(s *admin.Status) bool { return !s.Deploying })
	if e := front.admin("POST", "/api/millrace/v1/reload", "", "", nil); e != nil {
		t.Errorf("reload where nothing has changed: %v", e)
	}

	// What is asked while nobody replicates is done by who takes over.
	leader.stop()
	waiting.untilProbe("readiness", 200, "")
	waiting.stop()
	front.untilProbe("readiness", 200, "no process replicates")
	done := make(chan *protocol.Error)
	go func() { done <- front.admin("POST", "/api/sync-rules/v1/deploy", "application/yaml", ownNotes, nil) }()
	leader.start("")
	if e := <-done; e != nil {
		t.Errorf("a deploy while nobody replicates: %v", e)
	}
	c.until("one stream again", func() bool { return len(c.names) == 1 })
	leader.stop()

	// Where the configuration has the sync config, the process that replicates says so.
	leader.start(ownNotes)
	leader.untilProbe("readiness", 200, "")
	if e := front.admin("POST", "/api/sync-rules/v1/deploy", "application/yaml", config, nil); e == nil || e.Code != protocol.DeployDisabled {
		t.Errorf("a deploy beside the configuration's: %v", e)
	}
	leader.write(config)
	front.mustAdmin("POST", "/api/millrace/v1/reload", "", "", nil)
	c.until("the configuration's streams", func() bool { return len(c.names) == 3 })
	// Clients are served elsewhere.
	resp, err := http.Post(leader.url+"/sync/stream", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 404 {
		t.Errorf("a client of a process that serves none: %d", resp.StatusCode)
	}
}
