package server

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// untilProbe waits until a probe answers with a status and a text.
func (in *instance) untilProbe(name string, want int, text string) {
	in.t.Helper()
	status, body := in.probe(name)
	for deadline := time.Now().Add(patience); (status != want || !strings.Contains(body, text)) && time.Now().Before(deadline); {
		<-time.After(20 * time.Millisecond)
		status, body = in.probe(name)
	}
	if status != want || !strings.Contains(body, text) {
		in.t.Fatalf("%s of the %s process: %d %s, want %d and %q", name, in.role, status, body, want, text)
	}
}

// Several processes on one storage: one replicates, another waits for its turn, two
// serve. Clients of both see every change, their own write checkpoints, and the next
// deploy, whichever process replicates.
func TestSeveralProcesses(t *testing.T) {
	cluster := shared.Cluster(t)
	dsn, conn := database(t, cluster,
		"CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)", "CREATE TABLE tags (id text PRIMARY KEY, name text)",
		"INSERT INTO notes SELECT 'n'||i, 'u'||i%2, 'body '||i FROM generate_series(1, 3000) i", "INSERT INTO tags VALUES ('t', 'tag')")
	kept, _ := database(t, cluster)
	first := newInstance(t, dsn).inPostgres(kept)
	first.role = Sync
	second, front, other := first.beside(Sync), first.beside(API), first.beside(API)

	front.start(ownNotes)
	front.untilProbe("readiness", 400, "no sync config")
	front.untilProbe("liveness", 200, "")
	first.start(ownNotes)
	other.start(ownNotes)
	first.untilProbe("readiness", 200, "")
	front.untilProbe("readiness", 200, "")
	second.start(ownNotes)
	second.untilProbe("readiness", 200, "another process replicates")

	clients := []*client{front.connect("u0"), other.connect("u1")}
	same := func(what string) {
		t.Helper()
		for _, c := range clients {
			c.untilEqual(what, conn, notesOf(c.user))
		}
	}
	same("first sync")
	exec(t, conn, "UPDATE notes SET body = upper(body) WHERE id < 'n2'")
	same("a change")
	for i := range uint64(3) {
		exec(t, conn, fmt.Sprintf("INSERT INTO notes VALUES ('w%d', 'u1', 'x')", i))
		other.writeCheckpoint("u1")
		clients[1].until("its write checkpoint", func() bool { return clients[1].write == i+1 })
		same("its write")
	}
	// One asked for at another process than the client is connected to.
	front.writeCheckpoint("u1")
	clients[1].until("a write checkpoint of another process", func() bool { return clients[1].write == 4 })

	first.stop()
	second.untilProbe("readiness", 200, `"touched_at"`)
	exec(t, conn, "UPDATE notes SET body = 'by the second' WHERE id = 'n1' OR id = 'n2'")
	same("a change after the first has stopped")

	before := clients[0].received()
	first.start(addedTags)
	first.untilProbe("readiness", 200, "another process replicates")
	second.stop()
	for _, c := range clients {
		c.untilEqual("another deploy", conn, notesAndTagsOf(c.user))
	}
	clients[0].notSentAgain(before)
	first.stop()
	front.untilProbe("readiness", 200, "no process replicates")
}

// Two processes that do everything: one replicates, and the other serves until it
// takes over.
func TestTwoUnifiedProcesses(t *testing.T) {
	dsn, conn := database(t, shared.Cluster(t),
		"CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)", "INSERT INTO notes VALUES ('a', 'u', 'one')")
	first := newInstance(t, dsn).inPostgres(dsn)
	second := first.beside(Unified)
	first.start(ownNotes)
	first.untilProbe("readiness", 200, "")
	second.start(ownNotes)
	second.untilProbe("readiness", 200, "another process replicates")
	c := second.connect("u")
	c.untilEqual("first sync", conn, notesOf("u"))
	exec(t, conn, "INSERT INTO notes VALUES ('b', 'u', 'two')")
	c.untilEqual("a change", conn, notesOf("u"))
	first.stop()
	exec(t, conn, "INSERT INTO notes VALUES ('c', 'u', 'three')")
	c.untilEqual("a change that it replicated itself", conn, notesOf("u"))
	second.writeCheckpoint("u")
	c.until("its write checkpoint", func() bool { return c.write == 1 })
}
