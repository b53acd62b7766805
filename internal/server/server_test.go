package server

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-sync/millrace/internal/admin"
	"github.com/millrace-sync/millrace/internal/pgtest"
)

var shared = pgtest.Shared{}

func TestMain(m *testing.M) { os.Exit(shared.Main(m)) }

const ownNotes = `
config: {edition: 3}
streams:
  notes:
    auto_subscribe: true
    query: SELECT * FROM notes WHERE owner = auth.user_id()
`

func notesOf(user string) map[string]string {
	return map[string]string{"notes": fmt.Sprintf("SELECT * FROM notes WHERE owner = '%s'", user)}
}

// addedTags is ownNotes and a stream of tags for everybody, notesAndTagsOf what it gives.
const addedTags = ownNotes + `
  tags:
    auto_subscribe: true
    query: SELECT * FROM tags
`

func notesAndTagsOf(user string) map[string]string {
	both := notesOf(user)
	both["tags"] = "SELECT * FROM tags"
	return both
}

func TestChangesReachTheirOwners(t *testing.T) {
	dsn, conn := database(t, shared.Cluster(t),
		"CREATE TABLE notes (id text PRIMARY KEY, owner text, body text, n integer)",
		"INSERT INTO notes SELECT 'n'||i, 'u'||i%3, 'body '||i, i FROM generate_series(1, 25000) i")
	in := newInstance(t, dsn)
	in.start(ownNotes)
	u0, u1, none := in.connect("u0"), in.connect("u1"), in.connect("nobody")
	steps := []string{
		"", // what was there
		"INSERT INTO notes VALUES ('a', 'u1', 'new', 1)",
		"UPDATE notes SET body = upper(body) WHERE n < 50",
		"UPDATE notes SET owner = 'u0' WHERE owner = 'u1' AND n < 100",
		"UPDATE notes SET id = 'b' WHERE id = 'a'",
		"DELETE FROM notes WHERE n % 5 = 0",
		"BEGIN; INSERT INTO notes VALUES ('x', 'u0', 'rolled back', 1); ROLLBACK",
		"BEGIN; INSERT INTO notes VALUES ('y', 'u0', 'kept', 1); SAVEPOINT s; INSERT INTO notes VALUES ('z', 'u0', 'lost', 1); ROLLBACK TO s; COMMIT",
		"INSERT INTO notes VALUES ('big', 'u0', (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 400) i), 1)",
		"UPDATE notes SET n = 2 WHERE id = 'big'", // leaves the large value out
		"UPDATE notes SET owner = 'u1' WHERE id = 'big'",
		"INSERT INTO notes SELECT 'm'||i, 'u'||i%3, 'many '||i, i FROM generate_series(1, 30000) i", // more than a batch
		"TRUNCATE notes",
		"INSERT INTO notes VALUES ('last', 'u1', 'one', 1)",
	}
	for _, sql := range steps {
		if sql != "" {
			exec(t, conn, sql)
		}
		for _, c := range []*client{u0, u1, none} {
			c.untilEqual("after "+sql, conn, notesOf(c.user))
		}
	}
}

// Each paragraph of the script alters the tables in some way; after each, the
// client must show what the streams' SQL gives. In the second run the tables have been
// read to their end before, so that nothing but the alteration itself has them read; in
// the third the service is away meanwhile, so the catalog that it then reads is ahead of
// the stream.
func TestSchemaChanges(t *testing.T) {
	t.Run("serving", func(t *testing.T) { schemaChanges(t, false, false) })
	t.Run("settled", func(t *testing.T) { schemaChanges(t, true, false) })
	t.Run("away", func(t *testing.T) { schemaChanges(t, true, true) })
}

func schemaChanges(t *testing.T, settled, away bool) {
	const config = `
config: {edition: 3}
streams:
  notes: {auto_subscribe: true, query: SELECT * FROM notes}
  logs: {auto_subscribe: true, query: 'SELECT * FROM "logs_%" AS logs'}
  parts: {auto_subscribe: true, query: SELECT * FROM parts}
`
	script, err := os.ReadFile("testdata/schema_changes.sql")
	if err != nil {
		t.Fatal(err)
	}
	dsn, conn := database(t, shared.Cluster(t))
	steps := strings.Split(string(script), "\n\n")
	exec(t, conn, steps[0])
	in := newInstance(t, dsn)
	in.start(config)
	c := in.connect("u")
	for _, step := range steps {
		name, sql, _ := strings.Cut(step, "\n")
		if step != steps[0] {
			if settled {
				in.untilStatus("the end of all reading", func(s *admin.Status) bool { return len(s.Backfill) == 0 })
			}
			if away {
				in.stop()
			}
			if settled {
				execScript(t, conn, sql)
			} else {
				exec(t, conn, sql) // in one transaction
			}
			if away {
				in.start(config)
			}
		}
		queries := map[string]string{}
		for typ, pattern := range map[string]string{"notes": "notes", "logs": `logs\_%`, "parts": "parts"} {
			var tables []string
			err := conn.QueryRow(t.Context(), `SELECT coalesce(array_agg(relname::text ORDER BY relname), '{}') FROM pg_class
				WHERE relnamespace = 'public'::regnamespace AND relname LIKE $1 AND relkind IN ('r', 'p')`, pattern).Scan(&tables)
			if err != nil {
				t.Fatal(err)
			}
			if len(tables) > 0 {
				queries[typ] = "SELECT * FROM " + strings.Join(tables, " UNION ALL SELECT * FROM ")
			}
		}
		c.untilEqual(name, conn, queries)
	}
}

// A changed sync config backfills what is new while the old one serves, and only
// what changed is sent again.
func TestDeployKeepsWhatStands(t *testing.T) {
	in, conn, c := serving(t,
		"CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)",
		"CREATE TABLE tags (id text PRIMARY KEY, name text)",
		"INSERT INTO notes SELECT 'n'||i, 'u', 'body '||i FROM generate_series(1, 1000) i",
		"INSERT INTO tags SELECT 't'||i, 'tag '||i FROM generate_series(1, 1000) i")
	before := c.received()

	in.stop()
	in.start(addedTags)
	both := notesAndTagsOf("u")
	c.untilEqual("added stream", conn, both)
	c.notSentAgain(before)

	in.stop()
	in.start(strings.Replace(ownNotes, "SELECT *", "SELECT id, owner, upper(body) AS body", 1))
	c.untilEqual("changed stream", conn, map[string]string{"notes": "SELECT id, owner, upper(body) AS body FROM notes WHERE owner = 'u'"})
	exec(t, conn, "DELETE FROM notes WHERE id <> 'n1'")
	c.untilEqual("after the change", conn, map[string]string{"notes": "SELECT id, owner, upper(body) AS body FROM notes WHERE owner = 'u'"})
}

// notSentAgain expects that nothing came in buckets since before, which received gave.
func (c *client) notSentAgain(before map[string]int) {
	c.t.Helper()
	after := c.received()
	for name, n := range before {
		if after[name] != n {
			c.t.Errorf("bucket %s was sent again: %d operations, then %d", name, n, after[name])
		}
	}
}

// received returns the number of operations received, by bucket.
func (c *client) received() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.data)
}

func TestLostConnectionAndSlot(t *testing.T) {
	in, conn, c := serving(t,
		"CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)",
		"INSERT INTO notes SELECT 'n'||i, 'u', 'body '||i FROM generate_series(1, 2000) i")

	for range 3 {
		exec(t, conn, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active_pid IS NOT NULL AND database = current_database()",
			"UPDATE notes SET body = body || '!' WHERE id IN ('n1', 'n2')")
		c.untilEqual("after a lost connection", conn, notesOf("u"))
	}

	// Without the slot changes are missed; they must come all the same.
	in.stop()
	exec(t, conn, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()",
		"DELETE FROM notes WHERE id < 'n2'", "INSERT INTO notes VALUES ('new', 'u', 'while nobody listened')")
	in.start(ownNotes)
	c.untilEqual("after a lost slot", conn, notesOf("u"))
	exec(t, conn, "UPDATE notes SET body = 'live' WHERE id = 'new'")
	c.untilEqual("changes after a lost slot", conn, notesOf("u"))
}

// A client's write checkpoint is announced once its write is in view, also when
// nothing else happens on the source.
func TestWriteCheckpoint(t *testing.T) {
	in, conn, c := serving(t, "CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)")
	for i := range uint64(5) {
		if i%2 == 0 {
			exec(t, conn, fmt.Sprintf("INSERT INTO notes VALUES ('n%d', 'u', 'x')", i))
		}
		if got := in.writeCheckpoint("u"); got != fmt.Sprintf(`{"data":{"write_checkpoint":"%d"}}`, i+1) {
			t.Fatalf("answer %s, want write checkpoint %d", got, i+1)
		}
		c.until("its write checkpoint", func() bool { return c.write == i+1 })
		c.untilEqual("its write", conn, notesOf("u"))
	}
}

func (in *instance) writeCheckpoint(user string) string {
	in.t.Helper()
	req, err := http.NewRequestWithContext(in.t.Context(), "GET", in.url+"/write-checkpoint2.json?client_id="+user, nil)
	if err != nil {
		in.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+in.token(user))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		in.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		in.t.Fatal(err)
	}
	return string(b)
}

func TestProbesTellWhatIsWrong(t *testing.T) {
	t.Run("pebble", func(t *testing.T) { probesTell(t, false) })
	t.Run("postgresql", func(t *testing.T) { probesTell(t, true) })
}

func probesTell(t *testing.T, inPostgres bool) {
	dsn, conn := database(t, shared.Cluster(t), "CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)")
	exec(t, conn, "DROP PUBLICATION powersync")
	in := newInstance(t, dsn)
	if inPostgres {
		in.inPostgres(dsn)
	}
	in.start(ownNotes)
	status, body := in.probe("readiness")
	for deadline := time.Now().Add(patience); !strings.Contains(body, "PSYNC_S1141") && time.Now().Before(deadline); {
		<-time.After(50 * time.Millisecond)
		status, body = in.probe("readiness")
	}
	if status != 400 || !strings.Contains(body, "CREATE PUBLICATION") {
		t.Errorf("readiness without publication: %d %s, want 400 and the remedy", status, body)
	}
	if status, body := in.probe("liveness"); status != 200 {
		t.Errorf("liveness without publication: %d %s, want 200: a restart mends nothing", status, body)
	}
	exec(t, conn, "CREATE PUBLICATION powersync FOR ALL TABLES")
	for _, name := range []string{"startup", "readiness", "liveness"} {
		status, body := 0, ""
		for deadline := time.Now().Add(patience); status != 200 && time.Now().Before(deadline); <-time.After(50 * time.Millisecond) {
			status, body = in.probe(name)
		}
		if status != 200 {
			t.Errorf("%s after the repair: %d %s", name, status, body)
		}
	}
}

func (in *instance) probe(name string) (int, string) {
	in.t.Helper()
	resp, err := http.Get(in.url + "/probes/" + name)
	if err != nil {
		in.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		in.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// A table without a key is told apart by whole rows: equal ones are counted.
func TestTableWithoutKey(t *testing.T) {
	dsn, conn := database(t, shared.Cluster(t),
		"CREATE TABLE notes (id text, owner text, body text)", "ALTER TABLE notes REPLICA IDENTITY FULL",
		"INSERT INTO notes VALUES ('a', 'u', 'twice'), ('a', 'u', 'twice'), ('b', 'u', 'once')")
	in := newInstance(t, dsn)
	in.start(ownNotes)
	c := in.connect("u")
	const one = "DELETE FROM notes WHERE ctid IN (SELECT ctid FROM notes WHERE id = 'a' LIMIT 1)"
	for _, sql := range []string{"", one, "UPDATE notes SET body = 'changed' WHERE id = 'b'", one, "INSERT INTO notes VALUES ('a', 'u', 'again')"} {
		if sql != "" {
			exec(t, conn, sql)
		}
		c.untilEqual("after "+sql, conn, map[string]string{"notes": "SELECT DISTINCT * FROM notes WHERE owner = 'u'"})
	}
	if !slices.Contains([]int{1, 2}, len(c.received())) {
		t.Errorf("buckets %v", c.received())
	}
}

// Storage of one database is of no use with another: everything is read anew.
func TestAnotherDatabase(t *testing.T) {
	cluster := shared.Cluster(t)
	dsn, conn := database(t, cluster,
		"CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)", "INSERT INTO notes VALUES ('a', 'u', 'of the first')")
	in := newInstance(t, dsn)
	in.start(ownNotes)
	c := in.connect("u")
	c.untilEqual("first database", conn, notesOf("u"))
	in.stop()
	exec(t, conn, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()")

	in.dsn, conn = database(t, cluster,
		"CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)", "INSERT INTO notes VALUES ('b', 'u', 'of the second')",
		"SELECT pg_create_logical_replication_slot('powersync_1', 'pgoutput')")
	in.start(ownNotes)
	c.untilEqual("second database", conn, notesOf("u"))
	exec(t, conn, "INSERT INTO notes VALUES ('c', 'u', 'live')")
	c.untilEqual("changes of the second database", conn, notesOf("u"))
}

// A service is ready as soon as it follows the source, which may have nothing to say
// for half a minute then.
func TestReadyAfterRestart(t *testing.T) {
	dsn, conn := database(t, shared.Cluster(t),
		"CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)", "INSERT INTO notes VALUES ('a', 'u', 'one')")
	in := newInstance(t, dsn)
	in.start(ownNotes)
	in.connect("u").untilEqual("first sync", conn, notesOf("u"))
	in.stop()
	in.lookEvery = time.Hour
	in.start(ownNotes)
	start := time.Now()
	in.ready()
	if took := time.Since(start); took > 8*time.Second {
		t.Errorf("ready after %s", took)
	}
}
