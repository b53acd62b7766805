package server

import (
	"fmt"
	"maps"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-sync/millrace/internal/pgtest"
)

const (
	dropSlots = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()"
	// large is a value that Postgres keeps out of line, and leaves out of updates.
	large = "(SELECT string_agg(md5((i * %d)::text), '') FROM generate_series(1, 400) i)"
)

// outage is a database and a service with a client that is up to date.
type outage struct {
	*instance
	cluster *pgtest.Cluster
	client  *client
	conn    *pgx.Conn
}

// fill is what the tables hold at first: 3,000 notes of a user.
var fill = []string{
	"CREATE TABLE notes (id text PRIMARY KEY, owner text, body text, n integer)",
	"CREATE TABLE tags (a integer, b numeric, id text, PRIMARY KEY (a, b))",
	"INSERT INTO notes SELECT 'n'||i, 'u', 'body '||i, i FROM generate_series(1, 3000) i",
	"INSERT INTO notes VALUES ('large', 'u', " + fmt.Sprintf(large, 1) + ", 0)",
	"INSERT INTO tags SELECT i, i / 2.0, 't'||i FROM generate_series(1, 500) i",
}

func (o *outage) equal(what string) {
	o.t.Helper()
	o.client.untilEqual(what, o.conn, notesAndTagsOf("u"))
}

// missed is what happens while nobody listens, and how many operations it takes to
// tell a client of it.
var missed = []string{
	"DELETE FROM notes WHERE n BETWEEN 101 AND 110",                                     // 10 removed
	"INSERT INTO notes SELECT 'new'||i, 'u', 'x', i FROM generate_series(1, 10) i",      // 10 put
	"UPDATE notes SET body = upper(body) WHERE n BETWEEN 201 AND 210 AND id LIKE 'n2%'", // 10 put
	"UPDATE notes SET id = 'moved' WHERE id = 'n300'",                                   // 1 removed, 1 put
	"UPDATE notes SET owner = 'somebody' WHERE id = 'n301'",                             // 1 removed
	"UPDATE notes SET body = " + fmt.Sprintf(large, 2) + " WHERE id = 'large'",          // 1 put
	"DELETE FROM tags WHERE a = 7", "UPDATE tags SET b = 4.000 WHERE a = 8",             // 1 removed; equal as a number, another text: 1 put, 1 removed
}

const missedOps = 10 + 10 + 10 + 2 + 1 + 1 + 1 + 2

func newOutage(t *testing.T, c *pgtest.Cluster) *outage {
	dsn, conn := database(t, c, fill...)
	return beginOutage(&outage{instance: newInstance(t, dsn), cluster: c, conn: conn})
}

func beginOutage(o *outage) *outage {
	o.start(addedTags)
	o.client = o.connect("u")
	o.equal("first sync")
	return o
}

// reconcile has the service come back, and expects it to bring the client to the
// truth with as many operations as rows were changed, in the buckets that there are.
func (o *outage) reconcile(before map[string]int, changes int) {
	o.t.Helper()
	if o.stop == nil {
		o.start(addedTags)
	}
	o.equal("after the outage")
	after := o.client.received()
	if a, b := slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after)); !slices.Equal(a, b) {
		o.t.Errorf("buckets %v became %v", a, b)
	}
	got := 0
	for name, n := range after {
		got += n - before[name]
	}
	if got != changes {
		o.t.Errorf("%d operations were sent for %d changes", got, changes)
	}
	o.ready()
	exec(o.t, o.conn, "UPDATE notes SET n = n + 1 WHERE id IN ('n1', 'large')", "INSERT INTO tags VALUES (9000, 1, 'live')")
	o.equal("changes after the outage")
}

// ready waits for a probe that says so.
func (in *instance) ready() {
	in.t.Helper()
	status, body := 0, ""
	for deadline := time.Now().Add(patience); status != 200 && time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
		status, body = in.probe("readiness")
	}
	if status != 200 {
		in.t.Errorf("not ready: %s", body)
	}
}

func TestSlotDroppedWhileAway(t *testing.T) {
	for _, storage := range []string{"pebble", "postgresql"} {
		t.Run(storage, func(t *testing.T) {
			c := shared.Cluster(t)
			dsn, conn := database(t, c, fill...)
			o := &outage{instance: newInstance(t, dsn), cluster: c, conn: conn}
			if storage == "postgresql" {
				kept, _ := database(t, c)
				o.inPostgres(kept)
			}
			beginOutage(o)
			before := o.client.received()
			o.stop()
			exec(t, o.conn, dropSlots)
			exec(t, o.conn, missed...)
			o.reconcile(before, missedOps)
		})
	}
}

func TestSlotDroppedWhileConnected(t *testing.T) {
	o := newOutage(t, shared.Cluster(t))
	before := o.client.received()
	// In one statement block, so that the service cannot come back between.
	exec(t, o.conn, `DO $$ BEGIN
		PERFORM pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots WHERE database = current_database();
		PERFORM pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database();
	END $$`)
	exec(t, o.conn, missed...)
	o.reconcile(before, missedOps)
}

// Interrupted again and again, the comparison begins anew, and the old state goes on
// being served.
func TestInterruptedReconciliation(t *testing.T) {
	o := newOutage(t, shared.Cluster(t))
	before := o.client.received()
	o.stop()
	exec(t, o.conn, dropSlots)
	exec(t, o.conn, missed...)
	exec(t, o.conn, "SELECT pg_create_logical_replication_slot('powersync_1', 'pgoutput')",
		"BEGIN", "LOCK TABLE tags IN ACCESS EXCLUSIVE MODE") // it cannot be read to its end
	for range 2 {
		const read = `msg="table read" table=public.notes`
		n := o.logged(read)
		o.start(addedTags)
		for deadline := time.Now().Add(patience); o.logged(read) == n && time.Now().Before(deadline); <-time.After(10 * time.Millisecond) {
		}
		late := o.connect("late")
		late.until("the first checkpoint", func() bool { return late.synced > 0 })
		if status, body := o.probe("readiness"); status == 200 || !strings.Contains(body, "compared") {
			t.Errorf("readiness during the comparison: %d %s", status, body)
		}
		if got := o.client.received(); !maps.Equal(got, before) {
			t.Errorf("received %v in the middle of the comparison, had %v", got, before)
		}
		o.stop()
	}
	exec(t, o.conn, "ROLLBACK")
	o.reconcile(before, missedOps)
}

// The server may give up a slot that keeps too much of its log.
func TestSlotInvalidated(t *testing.T) {
	c := pgtest.Start(t, pgtest.WithSetting("max_slot_wal_keep_size", "1MB"), pgtest.WithSetting("min_wal_size", "32MB"))
	o := newOutage(t, c)
	before := o.client.received()
	o.stop()
	exec(t, o.conn, missed...)
	for range 4 {
		exec(t, o.conn, "SELECT pg_logical_emit_message(false, 'test', repeat('x', 1000000))", "SELECT pg_switch_wal()", "CHECKPOINT")
	}
	var status string
	if err := o.conn.QueryRow(t.Context(), "SELECT wal_status FROM pg_replication_slots").Scan(&status); err != nil || status != "lost" {
		t.Fatalf("wal_status is %s, %v; want lost", status, err)
	}
	o.reconcile(before, missedOps)
}

// An older copy of the storage is behind its slot. A client that was away since the
// copy was made gets what it lacks. (One that has seen more than the copy finds that
// its checksums do not fit, and downloads the buckets concerned again.)
func TestRestoredStorage(t *testing.T) {
	o := newOutage(t, shared.Cluster(t))
	before := o.client.received()
	o.client.leave()
	o.stop()
	older := filepath.Join(t.TempDir(), "older")
	if err := os.CopyFS(older, os.DirFS(o.storage["path"].(string))); err != nil {
		t.Fatal(err)
	}
	o.start(addedTags)
	exec(t, o.conn, missed...)
	o.untilConfirmed()
	o.stop()
	o.storage["path"] = older
	o.client.comeBack()
	o.reconcile(before, missedOps)
}

// The same for storage in Postgres: a dump that was made while everything ran.
func TestRestoredDump(t *testing.T) {
	dir, err := pgtest.Binaries("")
	if err != nil {
		t.Fatal(err)
	}
	dump := filepath.Join(dir, "pg_dump")
	if _, err := os.Stat(dump); err != nil {
		t.Skip(err)
	}
	dsn, conn := database(t, shared.Cluster(t), fill...)
	kept, storage := database(t, shared.Cluster(t))
	o := beginOutage(&outage{instance: newInstance(t, dsn).inPostgres(kept), cluster: shared.Cluster(t), conn: conn})
	before := o.client.received()
	o.client.leave()
	older := filepath.Join(t.TempDir(), "older")
	uri := strings.Replace(kept, ":none@", "@", 1)
	if err := command(dump, "--dbname", uri, "--schema=millrace", "--format=custom", "--file", older); err != nil {
		t.Fatal(err)
	}
	exec(t, o.conn, missed...)
	o.untilConfirmed()
	o.stop()
	exec(t, storage, "DROP SCHEMA millrace CASCADE")
	if err := command(filepath.Join(dir, "pg_restore"), "--dbname", uri, older); err != nil {
		t.Fatal(err)
	}
	o.client.comeBack()
	o.reconcile(before, missedOps)
}

// untilConfirmed waits until the slot has moved to the end of the log.
func (o *outage) untilConfirmed() {
	o.t.Helper()
	var at string
	if err := o.conn.QueryRow(o.t.Context(), "SELECT pg_current_wal_lsn()::text").Scan(&at); err != nil {
		o.t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
		var done bool
		err := o.conn.QueryRow(o.t.Context(), "SELECT bool_and(confirmed_flush_lsn >= $1::text::pg_lsn) FROM pg_replication_slots WHERE database = current_database()", at).Scan(&done)
		if err != nil {
			o.t.Fatal(err)
		}
		if done {
			return
		}
	}
	o.t.Fatal("the slot does not advance")
}

// A standby that takes over, and a server that is restored, may lack the last
// transactions: those that clients have already seen are taken back.
func TestSourceWithAnotherPast(t *testing.T) {
	for _, promote := range []bool{true, false} {
		t.Run(fmt.Sprintf("promoted=%t", promote), func(t *testing.T) {
			c := pgtest.Start(t)
			o := newOutage(t, c)
			o.untilConfirmed()
			o.stop()
			o.conn.Close(t.Context())
			data := filepath.Join(c.Dir(), "data")
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			must(c.Stop(pgtest.Fast))
			must(command("cp", "-a", data, data+".copy"))
			must(c.Start(t.Context()))
			o.conn = c.Conn(t, strings.Replace(o.dsn, ":none@", "@", 1))
			o.start(addedTags)
			exec(t, o.conn, missed...)
			o.equal("what is to be lost")
			before := o.client.received()
			o.untilConfirmed()
			o.stop()
			o.conn.Close(t.Context())
			must(c.Stop(pgtest.Immediate))
			must(os.Rename(data, data+".old"))
			must(os.Rename(data+".copy", data))
			if promote {
				must(c.MarkStandby())
			}
			must(c.Start(t.Context()))
			o.conn = c.Conn(t, strings.Replace(o.dsn, ":none@", "@", 1))
			if promote {
				exec(t, o.conn, "SELECT pg_promote()")
				// The new primary gets ahead of where the old one was.
				for range 3 {
					exec(t, o.conn, "SELECT pg_switch_wal()", "CHECKPOINT")
				}
			}
			o.reconcile(before, missedOps)
		})
	}
}

func command(name string, args ...string) error {
	if out, err := osexec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}
