package server

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-sync/millrace/internal/chaos"
	"github.com/millrace-sync/millrace/internal/config"
)

// throughProxy has the service reach its source through a proxy, and bear its silence
// for so long.
func (in *instance) throughProxy(silence time.Duration) *chaos.Proxy {
	in.t.Helper()
	u, err := url.Parse(in.dsn)
	if err != nil {
		in.t.Fatal(err)
	}
	p, err := chaos.Listen(u.Host)
	if err != nil {
		in.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	in.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			in.t.Error(err)
		}
	})
	at, err := netip.ParseAddrPort(p.Addr())
	if err != nil {
		in.t.Fatal(err)
	}
	in.adapt = func(c *config.Config) {
		c.Connection.Host, c.Connection.Port, c.Connection.SnapshotTimeout = at.Addr().String(), int(at.Port()), silence
	}
	return p
}

// awaitQuery waits until the service has a query under way that begins like this.
func awaitQuery(t *testing.T, conn *pgx.Conn, like string) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-time.After(5 * time.Millisecond) {
		var n int
		err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'millrace' AND state = 'active' AND query LIKE $1`, like).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			return
		}
	}
	t.Fatalf("no query like %s", like)
}

// awaitLog waits until the service's log holds a text once more than before.
func (in *instance) awaitLog(text string, before int, within time.Duration) {
	in.t.Helper()
	for deadline := time.Now().Add(within); time.Now().Before(deadline); <-time.After(5 * time.Millisecond) {
		if in.logged(text) > before {
			return
		}
	}
	in.t.Fatalf("the log does not hold %q within %v", text, within)
}

// A link to the source that passes nothing any more, in the middle of a chunk and while
// nothing is read, is noticed, told of, and replaced.
func TestHalfOpenSource(t *testing.T) {
	const silence = 2 * time.Second
	dsn, conn := database(t, shared.Cluster(t),
		"CREATE TABLE notes (id text PRIMARY KEY, owner text, body text, n integer)",
		"INSERT INTO notes SELECT 'n'||i, 'u', repeat('body ', 30), i FROM generate_series(1, 30000) i")
	// Its walsender would otherwise wait a minute for the end of the link that it is on.
	exec(t, conn, fmt.Sprintf("ALTER DATABASE %s SET wal_sender_timeout = '3s'", conn.Config().Database))
	in := newInstance(t, dsn)
	p := in.throughProxy(silence)
	p.Delay(15 * time.Millisecond) // a chunk takes seconds
	in.start(ownNotes)
	awaitQuery(t, conn, "COPY (SELECT % FROM ONLY \"public\".\"notes\"%")
	p.Silence()
	p.Heal()
	// One more patience for what the link held, and whatever the machine is busy with.
	in.awaitLog("nothing has passed for "+silence.String(), 0, 2*silence+5*time.Second)
	if log := in.log.String(); !strings.Contains(log, "replication stopped; trying again") || !strings.Contains(log, "backfill of table public.notes") {
		t.Error("the log does not say what was going on")
	}
	c := in.connect("u")
	c.untilEqual("the backfill", conn, notesOf("u"))

	before := in.logged("nothing has passed")
	p.Silence()
	p.Heal()
	in.awaitLog("nothing has passed", before, 2*silence+5*time.Second) // the catalog is looked at often
	exec(t, conn, "UPDATE notes SET body = 'after' WHERE n = 7")
	c.untilEqual("after the second", conn, notesOf("u"))
	in.ready()
}

// A table that somebody keeps locked is read when it no longer is. Nobody else has to
// wait for that.
func TestLockedTable(t *testing.T) {
	in, conn, c := serving(t, "CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)", "INSERT INTO notes VALUES ('a', 'u', 'one')",
		"CREATE TABLE tags (id text PRIMARY KEY, name text)", "INSERT INTO tags VALUES ('t', 'tag')")
	other := shared.Cluster(t).Conn(t, strings.Replace(in.dsn, ":none@", "@", 1))
	exec(t, other, "BEGIN", "LOCK TABLE tags IN ACCESS EXCLUSIVE MODE")
	in.rewrite(addedTags)
	in.awaitLog("a table is locked", 0, patience)
	exec(t, conn, "INSERT INTO notes VALUES ('b', 'u', 'two')")
	c.untilEqual("another table meanwhile", conn, notesOf("u"))
	exec(t, other, "COMMIT")
	c.untilEqual("the table in the end", conn, notesAndTagsOf("u"))
	if in.logged("replication stopped") > 0 {
		t.Error("replication was interrupted")
	}
}
