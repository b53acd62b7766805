package server

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-sync/millrace/internal/admin"
	"github.com/millrace-sync/millrace/internal/config"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/streams"
)

// untilCurrent waits until a client is served by the deploy whose stream it lists.
func (c *client) untilListed(stream string, listed bool) {
	c.t.Helper()
	c.until("a bucket of "+stream, func() bool {
		for name := range c.names {
			if strings.Contains(name, "#"+stream+"|") {
				return listed
			}
		}
		return !listed
	})
}

// A running service takes another sync config: what stands is not sent again, no
// stream is ended, what is new comes, what is gone goes.
func TestLiveDeploy(t *testing.T) {
	in, conn, c := serving(t,
		"CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)",
		"CREATE TABLE tags (id text PRIMARY KEY, name text)",
		"INSERT INTO notes SELECT 'n'||i, 'u', 'body '||i FROM generate_series(1, 1000) i",
		"INSERT INTO tags SELECT 't'||i, 'tag '||i FROM generate_series(1, 25000) i")
	before := c.received()

	in.rewrite(addedTags)
	both := notesAndTagsOf("u")
	c.untilEqual("added stream", conn, both)
	exec(t, conn, "UPDATE notes SET body = 'changed' WHERE id = 'n1'", "UPDATE tags SET name = 'changed' WHERE id = 't1'")
	c.untilEqual("changes after the deploy", conn, both)
	for name, n := range before {
		if again := c.received()[name]; again != n+1 {
			t.Errorf("bucket %s was sent again: %d operations, then %d", name, n, again)
		}
	}

	in.rewrite(strings.Replace(ownNotes, "SELECT *", "SELECT id, owner, upper(body) AS body", 1))
	c.untilEqual("changed and removed streams", conn, map[string]string{"notes": "SELECT id, owner, upper(body) AS body FROM notes WHERE owner = 'u'"})
	exec(t, conn, "DELETE FROM notes WHERE id <> 'n1'")
	c.untilEqual("changes after that", conn, map[string]string{"notes": "SELECT id, owner, upper(body) AS body FROM notes WHERE owner = 'u'"})
	if c.streams() != 1 {
		t.Errorf("the client was connected %d times, want once", c.streams())
	}

	in.stop()
	in.start(strings.Replace(ownNotes, "SELECT *", "SELECT id, owner, upper(body) AS body", 1))
	exec(t, conn, "INSERT INTO notes VALUES ('after', 'u', 'a restart')")
	c.untilEqual("after a restart", conn, map[string]string{"notes": "SELECT id, owner, upper(body) AS body FROM notes WHERE owner = 'u'"})
}

// A sync config that does not compile, or that names a table that is not there,
// leaves the one before serving; once the table is there the deploy goes on.
func TestBadDeploys(t *testing.T) {
	in, conn, c := serving(t,
		"CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)", "INSERT INTO notes VALUES ('a', 'u', 'one')")

	in.rewrite(strings.Replace(ownNotes, "SELECT *", "SELEC *", 1))
	in.untilLogged("a sync config is refused")
	exec(t, conn, "INSERT INTO notes VALUES ('b', 'u', 'two')")
	c.untilEqual("changes after one that does not compile", conn, notesOf("u"))

	in.rewrite(addedTags)
	in.untilLogged("public.tags")
	exec(t, conn, "INSERT INTO notes VALUES ('c', 'u', 'three')")
	c.untilEqual("changes after one that waits", conn, notesOf("u"))
	c.untilListed("tags", false)
	exec(t, conn, "CREATE TABLE tags (id text PRIMARY KEY, name text)", "INSERT INTO tags VALUES ('t', 'tag')")
	both := notesAndTagsOf("u")
	c.untilEqual("the table has come", conn, both)
}

// A deploy that waits, is replaced by another that waits, and is wanted again, holds what
// has changed in between.
func TestDeployWantedAgain(t *testing.T) {
	in, conn, c := serving(t,
		"CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)", "INSERT INTO notes VALUES ('a', 'u', 'one'), ('b', 'u', 'two')")
	upper := strings.Replace(addedTags, "SELECT *", "SELECT id, owner, upper(body) AS body", 1)
	in.log.clear()
	in.rewrite(upper)
	in.untilLogged("public.tags")
	in.untilLogged("table read")
	in.rewrite(ownNotes + "  others: {auto_subscribe: true, query: SELECT * FROM others}\n")
	in.untilLogged("public.others")
	exec(t, conn, "INSERT INTO notes VALUES ('c', 'u', 'three')", "UPDATE notes SET body = 'changed' WHERE id = 'a'", "DELETE FROM notes WHERE id = 'b'")
	c.untilEqual("changes while it is not wanted", conn, notesOf("u"))
	in.log.clear()
	in.rewrite(upper)
	in.untilLogged("public.tags")
	exec(t, conn, "CREATE TABLE tags (id text PRIMARY KEY, name text)")
	c.untilEqual("it is current", conn, map[string]string{"notes": "SELECT id, owner, upper(body) AS body FROM notes WHERE owner = 'u'", "tags": "SELECT * FROM tags"})
}

// refusing is a store that fails to take what is of one type of object.
type refusing struct {
	store
	typ    string
	broken *atomic.Bool
	tried  *atomic.Int32
}

func (r refusing) Commit(ctx context.Context, b *storage.Batch) error {
	if r.broken.Load() && slices.ContainsFunc(b.Ops, func(op storage.BucketOp) bool { return op.Op.ObjectType == r.typ }) {
		r.tried.Add(1)
		return errors.New("the store will have none of it")
	}
	return r.store.Commit(ctx, b)
}

// A sync config with which replication fails again and again, and not on account of the
// source, is given up: the one before is served, also after a restart, and the API says why.
func TestDeployThatFails(t *testing.T) {
	dsn, conn := database(t, shared.Cluster(t),
		"CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)", "INSERT INTO notes VALUES ('a', 'u', 'one')",
		"CREATE TABLE tags (id text PRIMARY KEY, name text)", "INSERT INTO tags VALUES ('t', 'tag')")
	in := newInstance(t, dsn)
	var broken atomic.Bool
	var tried atomic.Int32
	broken.Store(true)
	in.openStore = func(ctx context.Context, cfg *config.Config, r resources, log *slog.Logger) (store, error) {
		s, err := openStore(ctx, cfg, r, log)
		return refusing{s, "tags", &broken, &tried}, err
	}
	in.start("")
	deploy := func(text string) {
		t.Helper()
		in.mustAdmin("POST", "/api/sync-rules/v1/deploy", "application/yaml", text, nil)
	}
	deploy(ownNotes)
	c := in.connect("u")
	c.untilEqual("first sync", conn, notesOf("u"))
	before := c.received()

	const reason = "the store will have none of it"
	deploy(addedTags)
	in.untilStatus("the reason, while it is tried again", func(s *admin.Status) bool {
		return s.Deploying && !s.Ready && strings.Contains(s.Reason, reason) || s.Failed != ""
	})
	in.untilStatus("the end of it", func(s *admin.Status) bool { return !s.Deploying && strings.Contains(s.Failed, reason) })
	if n := tried.Load(); n != failuresToGiveUp {
		t.Errorf("it was tried %d times, want %d", n, failuresToGiveUp)
	}
	served := func(what string) {
		t.Helper()
		exec(t, conn, "INSERT INTO notes VALUES (md5(random()::text), 'u', 'more')")
		c.untilEqual(what, conn, notesOf("u"))
		in.ready()
		var d admin.Diagnostics
		in.mustAdmin("POST", "/api/admin/v1/diagnostics", "application/json", `{"sync_rules_content":true}`, &d)
		if d.Active == nil || d.Active.Content != ownNotes || d.Deploying != nil {
			t.Errorf("%s: diagnostics: %+v", what, d)
		}
		if d.Failed != nil && (d.Failed.Content != addedTags || !strings.Contains(d.Failed.Errors[0].Message, reason)) {
			t.Errorf("%s: diagnostics of what failed: %+v", what, d.Failed)
		}
	}
	served("after it was given up")
	in.untilStatus("the reason, for as long as no other was deployed", func(s *admin.Status) bool { return strings.Contains(s.Failed, reason) })
	if after := c.received(); len(after) != len(before) {
		t.Errorf("buckets %v became %v", before, after)
	}
	in.stop()
	in.start("")
	served("after a restart")
	if n := tried.Load(); n != failuresToGiveUp {
		t.Errorf("after a restart it was tried again: %d times in all", n)
	}

	// Deployed once more, it is tried once more.
	broken.Store(false)
	deploy(addedTags)
	both := notesAndTagsOf("u")
	c.untilEqual("when it is mended", conn, both)
	in.untilStatus("no reason any more", func(s *admin.Status) bool { return !s.Deploying && s.Failed == "" })
}

// Without a sync config in its configuration a service serves what was deployed to it.
func TestDeployedConfigOutlivesRestart(t *testing.T) {
	dsn, conn := database(t, shared.Cluster(t),
		"CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)", "INSERT INTO notes VALUES ('a', 'u', 'one')")
	in := newInstance(t, dsn)
	in.start("")
	in.untilLogged("no sync config is deployed yet")
	c := in.connect("u")
	in.rewrite(ownNotes)
	c.untilEqual("first sync", conn, notesOf("u"))
	in.stop()
	in.start("")
	exec(t, conn, "INSERT INTO notes VALUES ('b', 'u', 'two')")
	c.untilEqual("after a restart", conn, notesOf("u"))
	if n := len(c.received()); n != 1 {
		t.Errorf("the client was sent %d buckets, want one", n)
	}
}

func TestPrepareGoesOn(t *testing.T) {
	compile := func(text string) *streams.Plan {
		plan, diagnostics := streams.Compile(streams.Source{Text: text})
		if plan == nil {
			t.Fatal(streams.Format(diagnostics))
		}
		return plan
	}
	first, second := compile(ownNotes), compile(addedTags)
	rec := storage.Recovered{Epoch: "e", NextDefinition: 1}
	s := prepare(rec, first, ownNotes)
	if s.record.ID != 1 || len(s.new) != 1 || s.current != nil || s.next == nil {
		t.Fatalf("nothing stored: %+v", s)
	}
	for i := range s.new {
		s.new[i].State = storage.Serving
	}
	s.record.State = storage.DeployServing
	rec.Definitions, rec.Deploys, rec.NextDefinition = s.new, []storage.Deploy{s.record}, s.nextID
	if s = prepare(rec, first, ownNotes); s.current == nil || s.next != nil {
		t.Fatalf("served: %+v", s)
	}
	// Begun and interrupted: it goes on by the same record.
	s = prepare(rec, second, addedTags)
	rec.Deploys = append(rec.Deploys, s.record)
	rec.Definitions, rec.NextDefinition = append(rec.Definitions, s.new...), s.nextID
	again := prepare(rec, second, addedTags)
	if again.record.ID != s.record.ID || len(again.new) != 1 || again.new[0].ID != s.new[0].ID || len(again.drop) != 0 {
		t.Errorf("begun: %+v", again)
	}
	// Another one takes its place: what it had begun goes.
	back := prepare(rec, first, ownNotes)
	if back.current == nil || back.next == nil || len(back.new) != 0 || len(back.drop) != 0 || !slices.Equal(back.abandoned, []storage.DefinitionID{s.new[0].ID}) {
		t.Errorf("gone back: %+v", back)
	}
	if got := storedTarget(rec, false); got == nil || got.source.Text != addedTags {
		t.Errorf("the newest is %+v", got)
	}
	if got := storedTarget(rec, true); got == nil || got.source.Text != ownNotes {
		t.Errorf("the current one is %+v", got)
	}
	rec.Deploys[1].State = storage.DeployFailed
	if got := storedTarget(rec, false); got == nil || got.source.Text != ownNotes {
		t.Errorf("the newest that did not fail is %+v", got)
	}
}

var redeployRows = flag.Int("redeploy-rows", 20_000, "rows of the table in TestRedeployReachesNobodyElse")

// Adding a stream to nine sends the clients of the nine no data, and ends none of
// their connections.
func TestRedeployReachesNobodyElse(t *testing.T) {
	config := func(streams int) string {
		text := "config: {edition: 3}\nstreams:\n"
		for i := range streams {
			text += fmt.Sprintf("  s%d: {auto_subscribe: true, query: SELECT * FROM items WHERE kind = %d AND auth.user_id() = 'u%d'}\n", i, i, i)
		}
		return text
	}
	const streams = 10
	dsn, conn := database(t, shared.Cluster(t), "CREATE TABLE items (id text PRIMARY KEY, kind integer, body text)",
		fmt.Sprintf("INSERT INTO items SELECT 'i'||i, i %% %d, 'body '||i FROM generate_series(1, %d) i", streams, *redeployRows))
	in := newInstance(t, dsn)
	in.start(config(streams - 1))
	clients := make([]*client, streams)
	operations := func(c *client) int {
		n := 0
		for _, ops := range c.received() {
			n += ops
		}
		return n
	}
	for i := range clients {
		clients[i] = in.connect(fmt.Sprintf("u%d", i))
		clients[i].until("first sync", func() bool { return clients[i].synced > 0 && (i == streams-1) == (len(clients[i].visible) == 0) })
	}
	before := make([]int, streams)
	for i, c := range clients {
		before[i] = operations(c)
	}
	start := time.Now()
	in.rewrite(config(streams))
	last := clients[streams-1]
	last.until("the added stream", func() bool { return len(last.visible) == *redeployRows/streams })
	t.Logf("the added stream came after %s", time.Since(start).Round(time.Millisecond))
	// A change after the deploy, so that whatever the deploy had for the others is there.
	exec(t, conn, "UPDATE items SET body = 'changed' WHERE id IN (SELECT DISTINCT ON (kind) id FROM items ORDER BY kind, id)")
	for i, c := range clients {
		c.until("the change", func() bool {
			for _, row := range c.visible {
				if row["body"] == "changed" {
					return true
				}
			}
			return false
		})
		if sent := operations(c) - before[i] - 1; i < streams-1 && sent != 0 {
			t.Errorf("client %d was sent %d operations again", i, sent)
		}
		if n := c.streams(); n != 1 {
			t.Errorf("client %d was connected %d times, want once", i, n)
		}
	}
}

// A deploy that is interrupted again and again goes on when the service starts again, and
// what was served before stays as it is.
func TestInterruptedDeploys(t *testing.T) {
	in, conn, c := serving(t,
		"CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)",
		"CREATE TABLE tags (id text PRIMARY KEY, name text)",
		"INSERT INTO notes SELECT 'n'||i, 'u', 'body '||i FROM generate_series(1, 200) i",
		"INSERT INTO tags SELECT 't'||i, 'tag '||i FROM generate_series(1, 40000) i")
	before := c.received()
	in.rewrite(addedTags)
	in.untilLogged("a sync config is to be deployed")
	for _, moment := range []string{"msg=serving", "msg=replicating", "msg=replicating"} {
		in.stop()
		in.log.clear()
		in.start(addedTags)
		in.untilLogged(moment)
	}
	in.stop()
	in.start(addedTags)
	both := notesAndTagsOf("u")
	c.untilEqual("the deploy in the end", conn, both)
	c.notSentAgain(before)
}
