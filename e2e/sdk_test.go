package e2e

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// An sdkPair is an SDK and how it syncs.
type sdkPair struct {
	name      string
	host      []string // arguments of node
	transport string
	options   object // of connect
	// legacy clients parse lines in JavaScript and know no subscriptions.
	legacy bool
}

var sdkPairs = []sdkPair{
	{name: "web-http", host: []string{"web.js"}, transport: "http", options: object{"checkpointMode": "requests"}},
	{name: "web-websocket", host: []string{"web.js"}, transport: "websocket"},
	{name: "node-http", host: []string{"node.js", "@powersync/node", "better-sqlite3"}, transport: "http"},
	{name: "node-websocket", host: []string{"node.js", "@powersync/node", "better-sqlite3"}, transport: "websocket", options: object{"checkpointMode": "requests"}},
	{name: "node-0.21-http", host: []string{"node.js", "powersync-node-0.21", "node:sqlite"}, transport: "http"},
	{name: "node-0.21-websocket", host: []string{"node.js", "powersync-node-0.21", "node:sqlite"}, transport: "websocket"},
	{name: "node-0.17-http", host: []string{"node.js", "powersync-node-0.17", "better-sqlite3"}, transport: "http", options: object{"clientImplementation": "JAVASCRIPT"}, legacy: true},
	{name: "node-0.17-websocket", host: []string{"node.js", "powersync-node-0.17", "better-sqlite3"}, transport: "websocket", options: object{"clientImplementation": "JAVASCRIPT"}, legacy: true},
}

// bulkRows is what every client downloads at first.
const bulkRows = 50_000

// TestSDKs takes every official SDK that can run here, over every transport that it
// has, through what an app does.
func TestSDKs(t *testing.T) {
	a := newSDKApp(t)
	a.exec(t, "INSERT INTO bulk SELECT 'b' || n, repeat('x', 80) || n FROM generate_series(1, $1::int) n", bulkRows)
	for _, p := range sdkPairs {
		t.Run(p.name, func(t *testing.T) { p.run(t, a) })
	}
}

const (
	listsSQL = "SELECT id, owner, name FROM lists ORDER BY id"
	itemsSQL = "SELECT id, list, body, size FROM items ORDER BY id"
	extraSQL = "SELECT id, body FROM extras ORDER BY id"
	countSQL = "SELECT count(*) AS n FROM bulk"
)

func (p *sdkPair) run(t *testing.T, a *testApp) {
	ctx := t.Context()
	user := p.name
	host := p.host
	if host[0] == "web.js" {
		host = append(slices.Clone(host), t.TempDir())
	}
	step := time.Now()
	done := func(what string) {
		t.Helper()
		t.Logf("%6.2f s  %s", time.Since(step).Seconds(), what)
		step = time.Now()
	}
	c := startSDK(t, host...)
	file := "client.db"
	if p.host[0] == "node.js" {
		file = filepath.Join(t.TempDir(), "client.db")
	}
	lists := func(what string) {
		t.Helper()
		c.until(what, listsSQL, a.rows(ctx, t, "SELECT id, owner, name FROM lists WHERE owner = $1 ORDER BY id", user))
	}
	connect := func() {
		t.Helper()
		c.call("connect", object{"backend": a.backend.url, "user": user, "transport": p.transport, "params": object{"bulk": "all"}, "options": p.options}, nil)
	}
	a.backend.set(10*time.Minute, false)
	c.call("open", object{"file": file}, nil)
	done("start")

	// The first sync: priority 1 is whole before the many rows of priority 3.
	a.exec(t, "INSERT INTO lists SELECT $1 || ':' || n, $1, 'list ' || n FROM generate_series(1, 3) n", user)
	a.exec(t, "INSERT INTO items SELECT $1 || ':' || l || ':' || n, $1 || ':' || l, 'item ' || n, n FROM generate_series(1, 3) l, generate_series(1, 10) n", user)
	connect()
	lists("the first lists are there")
	c.count("all rows are there", countSQL, bulkRows)
	c.count("they are the right ones", "SELECT sum(length(body)) AS n FROM bulk", 80*bulkRows+9+2*90+3*900+4*9000+5*40001)
	if seen := c.history(); !slices.ContainsFunc(seen, func(s sdkStatus) bool { return s.First && !s.Last && !s.Synced }) {
		t.Errorf("priority 1 was not complete before priority 3: %+v", seen)
	}
	done("first sync")

	// Increments, one transaction each.
	a.exec(t, "UPDATE lists SET name = upper(name) WHERE owner = $1", user)
	lists("an update arrives")
	a.exec(t, "DELETE FROM lists WHERE id = $1 || ':2'", user)
	lists("a delete arrives")
	a.exec(t, "INSERT INTO lists VALUES ($1 || ':4', $1, E'quotes '' \" and \\u2028 é 𝄞')", user)
	lists("an insert arrives")
	done("increments")

	if !p.legacy {
		p.subscriptions(t, a, c, connect)
		done("subscriptions")
	}

	// Writes while offline show at once, and stay when they have gone around.
	c.call("disconnect", nil, nil)
	a.exec(t, "UPDATE lists SET name = 'meanwhile' WHERE id = $1 || ':4'", user)
	c.call("execute", object{"sql": "INSERT INTO lists (id, owner, name) VALUES (?, ?, ?)", "args": []string{user + ":own", user, "written offline"}}, nil)
	c.call("execute", object{"sql": "UPDATE lists SET name = ? WHERE id = ?", "args": []string{"renamed offline", user + ":1"}}, nil)
	c.call("execute", object{"sql": "DELETE FROM lists WHERE id = ?", "args": []string{user + ":3"}}, nil)
	c.count("writes show at once", "SELECT count(*) AS n FROM lists WHERE name LIKE '%offline'", 2)
	c.count("they wait", "SELECT count(*) AS n FROM ps_crud", 3)
	connect()
	c.count("they are uploaded", "SELECT count(*) AS n FROM ps_crud", 0)
	lists("they have come back")
	var mine int
	if err := a.db.QueryRow(ctx, "SELECT count(*) FROM lists WHERE owner = $1 AND name LIKE '%offline'", user).Scan(&mine); err != nil || mine != 2 {
		t.Errorf("%d of the 2 writes are in Postgres, %v", mine, err)
	}
	done("offline writes")

	// Another start of the app goes on where the last one ended.
	c.call("close", nil, nil)
	a.exec(t, "UPDATE lists SET name = 'while closed' WHERE id = $1 || ':1'", user)
	c.call("open", object{"file": file}, nil)
	c.count("the database is there", countSQL, bulkRows)
	connect()
	lists("what changed meanwhile arrives")
	done("another start")

	p.tokens(t, a, c, connect, lists)
	done("tokens")

	// The service restarts with another sync config: what stands is not sent again.
	a.exec(t, "INSERT INTO extras VALUES ($1, 'more')", user)
	a.stop(t)
	a.exec(t, "UPDATE lists SET name = 'while stopped' WHERE id = $1 || ':1'", user)
	with := a.sync + "\n  extras:\n    auto_subscribe: true\n    query: SELECT * FROM extras WHERE id = auth.user_id()\n"
	a.start(t, with)
	lists("what changed while it was stopped arrives")
	c.until("the new stream arrives", extraSQL, a.rows(ctx, t, "SELECT id, body FROM extras WHERE id = $1", user))
	c.count("the old ones are whole", countSQL, bulkRows)
	a.stop(t)
	a.start(t, a.sync)
	c.until("the new stream is gone", extraSQL, []byte("[]"))
	c.call("disconnect", nil, nil)
	done("restarts")
}

// subscriptions uses a stream with parameters, twice, and streams that are not there.
func (p *sdkPair) subscriptions(t *testing.T, a *testApp, c *sdkClient, connect func()) {
	ctx, user := t.Context(), p.name
	items := func(what string, lists ...string) {
		t.Helper()
		for i := range lists {
			lists[i] = user + ":" + lists[i]
		}
		c.until(what, itemsSQL, a.rows(ctx, t, "SELECT id, list, body, size FROM items WHERE list = ANY($1) ORDER BY id", lists))
	}
	subscribe := func(list string, ttl int, priority any) {
		t.Helper()
		args := object{"handle": list, "stream": "items", "params": object{"list": user + ":" + list}, "ttl": ttl}
		if priority != nil {
			args["priority"] = priority
		}
		c.call("subscribe", args, nil)
	}
	subscribe("1", 3600, nil)
	items("a subscription's rows arrive", "1")
	subscribe("4", 1, 0)
	a.exec(t, "INSERT INTO items VALUES ($1 || ':4:1', $1 || ':4', 'late', 1)", user)
	items("another one's too", "1", "4")
	c.call("subscribe", object{"handle": "none", "stream": "no_such_stream", "ttl": 1}, nil)
	// One that is not allowed has no rows.
	c.call("subscribe", object{"handle": "alien", "stream": "items", "params": object{"list": "not mine"}, "ttl": 1}, nil)
	a.exec(t, "UPDATE items SET body = 'changed' WHERE list = $1 || ':1' AND size < 4", user)
	items("changes arrive", "1", "4")
	for _, handle := range []string{"1", "4", "none", "alien"} {
		c.call("unsubscribe", object{"handle": handle}, nil)
	}
	// The SDK looks at their time to live when it connects.
	left := a.rows(ctx, t, "SELECT id, list, body, size FROM items WHERE list = $1 ORDER BY id", user+":1")
	eventually(t, "rows go when their subscription's time to live is over, and the others stay", func() (bool, string) {
		c.call("disconnect", nil, nil)
		connect()
		seen := c.look(itemsSQL, left, 500*time.Millisecond)
		return seen.OK, string(seen.Rows)
	})
	a.exec(t, "UPDATE items SET body = 'changed again' WHERE list = $1 || ':1' AND size > 6", user)
	items("and go on", "1")
}

// tokens lets tokens near their end, and end.
func (p *sdkPair) tokens(t *testing.T, a *testApp, c *sdkClient, connect func(), lists func(string)) {
	user := p.name
	// Near its end a token is replaced, without an error.
	a.backend.set(15*time.Second, false)
	c.call("disconnect", nil, nil)
	before := a.backend.issued()
	connect()
	eventually(t, "the token is replaced", func() (bool, string) {
		return a.backend.issued() >= before+2, ""
	})
	a.backend.set(3*time.Second, false)
	c.call("disconnect", nil, nil)
	c.history()
	connect()
	a.exec(t, "UPDATE lists SET name = 'with a short token' WHERE id = $1 || ':1'", user)
	lists("a short token is good enough")
	// There are no others: the stream ends, and goes on when there are.
	a.backend.set(3*time.Second, true)
	eventually(t, "the connection is lost", func() (bool, string) {
		return !c.status().Connected, ""
	})
	a.exec(t, "UPDATE lists SET name = 'after the token' WHERE id = $1 || ':1'", user)
	a.backend.set(10*time.Minute, false)
	lists("another token arrives")
	for _, s := range c.history() {
		if s.DownloadError != nil && strings.Contains(*s.DownloadError, "checksum") {
			t.Errorf("download error: %s", *s.DownloadError)
		}
	}
}
