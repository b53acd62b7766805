package client

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-sync/millrace/client/internal/local"
)

var greetings = Schema{Tables: []Table{
	{Name: "greeting", Columns: []Column{Text("owner"), Text("message"), Text("author"), Text("created_at")}},
	{Name: "setting", Columns: []Column{Text("owner"), Text("val")}},
	{Name: "message", Columns: []Column{Text("room"), Text("body")}},
}}

// patient returns a context that ends with the test, or when patience does.
func patient(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// until waits until a query for a text gives want, looking again after each change.
func until(t testing.TB, d *DB, want, query string, args ...any) {
	t.Helper()
	ctx := patient(t)
	changes := d.changes.subscribe()
	defer changes.cancel()
	for {
		got, err := Get[sql.NullString](ctx, d, query, args...)
		if err != nil && !errors.Is(err, ErrNoRow) {
			t.Fatal(err)
		}
		if got.String == want {
			return
		}
		select {
		case <-changes.ready:
		case <-ctx.Done():
			status := d.Status()
			t.Fatalf("%s is %q, want %q; status %+v", query, got.String, want, status)
		}
	}
}

func connect(t testing.TB, d *DB, c Connector) {
	t.Helper()
	err := d.Connect(c, &ConnectOptions{UploadThrottle: time.Millisecond, RetryDelay: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
}

// Two clients and somebody who writes in Postgres see each other's rows, our service between.
func TestService(t *testing.T) {
	s := newService(t,
		`INSERT INTO greeting(owner, message) SELECT 'ann', 'row ' || n FROM generate_series(1, 500) n`,
		`INSERT INTO greeting(owner, message) VALUES ('bob', 'not for ann')`,
		`INSERT INTO setting VALUES ('s', 'ann', 'dark')`,
		`INSERT INTO message VALUES ('m1', 'red', 'hello'), ('m2', 'blue', 'hidden')`)
	file := filepath.Join(t.TempDir(), "one.db")
	one, two := openDB(t, file, greetings), newDB(t, greetings)
	for _, d := range []*DB{one, two} {
		connect(t, d, connectorOf{s, "ann"})
		if err := d.WaitForFirstSync(patient(t), AllPriorities); err != nil {
			t.Fatal(err)
		}
		until(t, d, "500 row 500", `SELECT count(*) || ' ' || (SELECT message FROM greeting WHERE message = 'row 500') FROM greeting`)
		until(t, d, "dark", `SELECT val FROM setting`)
	}

	// A write goes up, and comes back to both.
	if err := one.WriteTx(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.Exec(`INSERT INTO greeting(id, owner, message) VALUES (uuid(), 'ann', 'from one')`)
		if err == nil {
			_, err = tx.Exec(`UPDATE setting SET val = 'light'`)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	until(t, two, "from one", `SELECT message FROM greeting WHERE message = 'from one' AND author = ''`)
	until(t, two, "light", `SELECT val FROM setting`)
	until(t, one, "", `SELECT data FROM ps_crud`)
	// Its defaults come from Postgres, so they show that the gate has opened again.
	until(t, one, "yes", `SELECT 'yes' FROM greeting WHERE message = 'from one' AND created_at IS NOT NULL`)

	// So does one in Postgres, and a deletion.
	s.exec(`DELETE FROM greeting WHERE message LIKE 'row %'`)
	s.exec(`INSERT INTO greeting(owner, message) VALUES ('ann', 'from postgres')`)
	for _, d := range []*DB{one, two} {
		until(t, d, "2", `SELECT count(*) FROM greeting WHERE (SELECT count(*) FROM greeting WHERE message = 'from postgres') = 1`)
	}

	// A stream with parameters comes when it is subscribed to.
	sub, err := one.Stream("room", map[string]any{"room": "red"}).Subscribe(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.Wait(patient(t)); err != nil {
		t.Fatal(err)
	}
	until(t, one, "m1", `SELECT group_concat(id) FROM message`)
	if st := sub.stream.Status(); st == nil || !st.Active || !st.Subscribed || st.ExpiresAt.Before(time.Now()) {
		t.Errorf("status of the stream: %+v", st)
	}
	if err := sub.stream.Unsubscribe(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, one, "", `SELECT group_concat(id) FROM message`)

	// Writes made without a service arrive when there is one again.
	s.stop()
	mustExec(t, one, `UPDATE greeting SET message = 'offline' WHERE message = 'from one'`)
	if _, err := one.WaitForStatus(patient(t), func(s Status) bool {
		return s.UploadError != nil && s.DownloadError != nil && !s.Connected
	}); err != nil {
		t.Fatal(err)
	}
	if stats, err := one.UploadQueueStats(t.Context()); err != nil || stats.Bytes < 0 {
		t.Errorf("queue: %+v, %v", stats, err)
	}
	bin, err := millrace()
	if err != nil {
		t.Fatal(err)
	}
	s.start(bin)
	until(t, two, "offline", `SELECT message FROM greeting WHERE message = 'offline'`)
	if _, err := one.WaitForStatus(patient(t), func(s Status) bool { return s.UploadError == nil && s.DownloadError == nil && s.Connected }); err != nil {
		t.Fatal(err)
	}

	// The file goes on where it was.
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	one = openDB(t, file, greetings)
	if status := one.Status(); !status.HasSynced() || status.Connected {
		t.Errorf("status after opening: %+v", status)
	}
	connect(t, one, connectorOf{s, "ann"})
	s.exec(`INSERT INTO greeting(owner, message) VALUES ('ann', 'later')`)
	until(t, one, "later", `SELECT message FROM greeting WHERE message = 'later'`)

	// Signing out leaves nothing; somebody else's rows come next.
	if err := one.DisconnectAndClear(t.Context(), Clear{}); err != nil {
		t.Fatal(err)
	}
	until(t, one, "0", `SELECT count(*) FROM greeting`)
	connect(t, one, connectorOf{s, "bob"})
	until(t, one, "not for ann", `SELECT group_concat(message) FROM greeting`)
}

// A soft clear hides rows without having to download them again.
func TestSoftClear(t *testing.T) {
	s := newService(t, `INSERT INTO greeting(owner, message) SELECT 'ann', 'row ' || n FROM generate_series(1, 10) n`)
	d := newDB(t, greetings)
	connect(t, d, connectorOf{s, "ann"})
	until(t, d, "10", `SELECT count(*) FROM greeting`)
	if err := d.DisconnectAndClear(t.Context(), Clear{Soft: true}); err != nil {
		t.Fatal(err)
	}
	until(t, d, "0 10", `SELECT (SELECT count(*) FROM greeting) || ' ' || (SELECT count(*) FROM ps_oplog)`)
	if status := d.Status(); status.HasSynced() {
		t.Errorf("status: %+v", status)
	}
	connect(t, d, connectorOf{s, "ann"})
	until(t, d, "10", `SELECT count(*) FROM greeting`)
	size, err := Get[int](t.Context(), d, `SELECT sum(downloaded_size) FROM ps_buckets`)
	if err != nil {
		t.Fatal(err)
	}
	if size > 10*1000 {
		t.Errorf("downloaded %d bytes: more than once", size)
	}
}

// BenchmarkFirstSync syncs 100,000 rows of some 150 bytes from our service into a new file.
func BenchmarkFirstSync(b *testing.B) {
	const rows = 100_000
	s := newService(b, fmt.Sprintf(`INSERT INTO greeting(owner, message, author)
SELECT 'ann', 'message number ' || n || ' with some more text in it', 'author ' || n %% 10 FROM generate_series(1, %d) n`, rows))
	var spent time.Duration
	for b.Loop() {
		d := newDB(b, greetings)
		begin := time.Now()
		connect(b, d, connectorOf{s, "ann"})
		if err := d.WaitForFirstSync(patient(b), AllPriorities); err != nil {
			b.Fatal(err)
		}
		spent += time.Since(begin)
		if n, err := Get[int](b.Context(), d, `SELECT count(*) FROM greeting`); err != nil || n != rows {
			b.Fatalf("%d rows, %v", n, err)
		}
		if err := d.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(rows)*float64(b.N)/spent.Seconds(), "rows/s")
}

// BenchmarkWrite inserts a row in a transaction of its own.
func BenchmarkWrite(b *testing.B) {
	d := newDB(b, greetings)
	var took []time.Duration
	for b.Loop() {
		begin := time.Now()
		if _, err := d.ExecContext(b.Context(), `INSERT INTO greeting(id, owner, message) VALUES (uuid(), ?, ?)`, "ann", "hello"); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2])/1e6, "median-ms")
}

// Nothing goes on running once a database is closed, whatever it was doing: syncing, moving
// its log, telling of changes.
func TestNothingOutlivesClose(t *testing.T) {
	began := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		fmt.Fprintln(w, `{"token_expires_in":3600}`)
		_ = http.NewResponseController(w).Flush() // the client sees the line or is gone
		close(began)
		<-r.Context().Done()
	}))
	defer server.Close()
	d := newDB(t, greetings)
	raw(t, d, func(*local.Conn) { d.softLog = 100 })
	var ended sync.WaitGroup
	watches := make(chan struct{}, 1)
	ended.Go(func() {
		for range Watch[int](t.Context(), d, nil, `SELECT count(*) FROM greeting`) {
			wake(watches)
		}
	})
	ended.Go(func() {
		for range d.Changes(t.Context()) {
		}
	})
	ended.Go(func() {
		for range d.StatusChanges(t.Context()) {
		}
	})
	<-watches
	connect(t, d, &user{fetch: func(int) (Credentials, error) { return Credentials{server.URL, "token"}, nil }, upload: func(ctx context.Context, _ *DB) error {
		<-ctx.Done() // a backend that does not answer
		return ctx.Err()
	}})
	<-began
	// Beyond softLog.
	mustExec(t, d, `INSERT INTO greeting(id, message) SELECT 'g' || value, hex(zeroblob(200000)) FROM json_each('[1, 2]')`)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); ended.Wait() }()
	ctx := patient(t)
	select {
	case <-done:
	case <-ctx.Done():
		t.Fatal("an iterator goes on after Close")
	}
	// Idle connections end a moment after they are told to.
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		left := leftRunning()
		if left == "" {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("still running:\n%s", left)
		}
	}
}

// leftRunning returns the stack of a goroutine of the client's.
func leftRunning() string {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for _, g := range strings.Split(string(stacks), "\n\n") {
		if strings.Contains(g, "testing.tRunner") {
			continue // a test of ours
		}
		for _, ours := range []string{"millrace/client.(*", "millrace/client.read", "net/http.(*persistConn)", "database/sql.(*DB)"} {
			if strings.Contains(g, ours) {
				return g
			}
		}
	}
	return ""
}
