package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/millrace-sync/millrace/client/internal/local"
)

// The options reach the service.
func TestConnectOptions(t *testing.T) {
	scriptedWith(t, &user{}, &ConnectOptions{
		Parameters: map[string]any{"list": "a"}, AppMetadata: map[string]string{"version": "7"}, NoDefaultStreams: true,
		Header: http.Header{"X-Tenant": {"one"}, "User-Agent": {"app/7"}},
	}, func(t *testing.T, d *DB, p *peer) {
		s := <-p.streams
		if s.header.Get("X-Tenant") != "one" || s.header.Get("User-Agent") != "app/7" || s.header.Get("Accept") != accept {
			t.Errorf("headers %v", s.header)
		}
		for key, want := range map[string]string{
			"parameters": `{"list":"a"}`, "app_metadata": `{"version":"7"}`, "streams": `{"include_defaults":false,"subscriptions":[]}`,
			"buckets": `[]`, "raw_data": `true`, "include_checksum": `true`,
		} {
			if got, err := json.Marshal(s.request[key]); err != nil || string(got) != want {
				t.Errorf("%s is %s, want %s", key, got, want)
			}
		}
		if id, ok := s.request["client_id"].(string); !ok || len(id) != 36 {
			t.Errorf("client id %v", s.request["client_id"])
		}
	})
	d := newDB(t, todos)
	for _, o := range []*ConnectOptions{{RetryDelay: -1}, {UploadThrottle: -1}, {Parameters: map[string]any{"x": func() {}}}} {
		if err := d.Connect(&user{}, o); err == nil {
			t.Errorf("connected with %+v", o)
		}
	}
}

// A second Connect takes the place of the first; Disconnect ends it, whatever it was doing.
func TestConnectAgain(t *testing.T) {
	scripted(t, &user{}, func(t *testing.T, d *DB, p *peer) {
		first := <-p.streams
		first.send(t, oneBucket, oneRow, complete1)
		if err := d.Connect(&user{}, &ConnectOptions{Client: &http.Client{Transport: p}}); err != nil {
			t.Fatal(err)
		}
		second := <-p.streams
		if _, err := io.WriteString(first.out, "{}\n"); err == nil {
			t.Error("the first stream is still read")
		}
		if got := fmt.Sprint(second.request["buckets"]); got != "[map[after:1 name:b]]" {
			t.Errorf("the second stream begins at %s", got)
		}
		second.send(t, complete1) // before a checkpoint: an error, after which it waits
		d.Disconnect()
		if st := d.Status(); st.Connected || st.Connecting || st.Uploading {
			t.Errorf("status %+v", st)
		}
		d.Disconnect()
	})
}

// What is urgent is visible, and waited for, before the rest; progress is told by priority.
func TestPriorities(t *testing.T) {
	scripted(t, &user{}, func(t *testing.T, d *DB, p *peer) {
		waited := make(chan int, 3)
		for _, priority := range []int{0, 1, AllPriorities} {
			go func() {
				if err := d.WaitForFirstSync(t.Context(), priority); err == nil {
					waited <- priority
				}
			}()
		}
		s := <-p.streams
		row := func(bucket string, op int) string {
			return fmt.Sprintf(`{"data":{"bucket":"%s","data":[{"op_id":"%d","op":"PUT","object_type":"todos","object_id":"%s","checksum":%d,"data":"{\"title\":\"%s\"}"}]}}`, bucket, op, bucket, op, bucket)
		}
		check := func(wantTitles, wantProgress string, wantWaited ...int) {
			t.Helper()
			synctest.Wait()
			st := d.Status()
			if got := titles(t, d); got != wantTitles {
				t.Errorf("rows %q, want %q", got, wantTitles)
			}
			if got := fmt.Sprint(st.Download); got != wantProgress {
				t.Errorf("progress %s, want %s", got, wantProgress)
			}
			for _, want := range wantWaited {
				select {
				case got := <-waited:
					if got != want {
						t.Errorf("priority %d is there, want %d", got, want)
					}
				default:
					t.Errorf("priority %d is still waited for", want)
				}
			}
		}
		s.send(t, `{"checkpoint":{"last_op_id":"3","buckets":[{"bucket":"p0","checksum":1,"count":1,"priority":0},{"bucket":"p1","checksum":2,"count":1,"priority":1},{"bucket":"p3","checksum":3,"count":1}],"streams":[]}}`)
		check("", "[{0 1 0} {1 1 0} {3 1 0}]")
		s.send(t, row("p0", 1), `{"partial_checkpoint_complete":{"last_op_id":"3","priority":0}}`)
		check("p0", "[{0 1 1} {1 1 0} {3 1 0}]", 0)
		s.send(t, row("p1", 2), `{"partial_checkpoint_complete":{"last_op_id":"3","priority":1}}`)
		check("p0,p1", "[{0 1 1} {1 1 1} {3 1 0}]", 1)
		if st := d.Status(); st.HasSynced() || st.SyncedAt(1).IsZero() || !st.SyncedAt(2).IsZero() || st.Downloaded(1) != (Progress{1, 2, 2}) || st.Downloaded(AllPriorities).Total != 3 {
			t.Errorf("status %+v", st)
		}
		s.send(t, row("p3", 3), `{"checkpoint_complete":{"last_op_id":"3"}}`)
		check("p0,p1,p3", "[]", AllPriorities)
		if st := d.Status(); !st.HasSynced() || st.SyncedAt(0).IsZero() || len(st.Priorities) != 0 {
			t.Errorf("status %+v", st)
		}
	})
}

// A subscription made without a connection is asked for after a restart, with its priority.
func TestSubscriptionsSurvive(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.db")
	d := openDB(t, file, todos)
	two := 2
	if _, err := d.Stream("list", map[string]any{"id": 7}).Subscribe(t.Context(), &SubscribeOptions{Priority: &two}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Stream("other", nil).Subscribe(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := d.Stream("other", nil).Unsubscribe(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		d, err := Open(t.Context(), file, todos, &Options{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		if st := d.Status(); len(st.Streams) != 2 || st.Streams[0].Stream != "list" || !st.Streams[0].Subscribed || st.Streams[1].Subscribed {
			t.Errorf("streams %+v", st.Streams)
		}
		p := &peer{t: t, streams: make(chan *peerStream)}
		if err := d.Connect(&user{}, &ConnectOptions{Client: &http.Client{Transport: p}}); err != nil {
			t.Fatal(err)
		}
		s := <-p.streams
		got, err := json.Marshal(s.request["streams"])
		if want := `{"include_defaults":true,"subscriptions":[{"override_priority":2,"parameters":{"id":7},"stream":"list"}]}`; err != nil || string(got) != want {
			t.Errorf("streams %s, want %s", got, want)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
}

// Clearing leaves what the official extension leaves.
func TestClear(t *testing.T) {
	schema := Schema{
		Tables: []Table{{Name: "notes", Columns: []Column{Text("body")}}, {Name: "drafts", Columns: []Column{Text("body")}, LocalOnly: true}},
		RawTables: []RawTable{{
			Name: "tags", Table: "raw_tags", Clear: "DELETE FROM raw_tags WHERE id != 'kept'",
		}},
	}
	for flags, clear := range map[int]Clear{0: {}, 1: {Local: true}, 2: {Soft: true}, 3: {Local: true, Soft: true}} {
		t.Run(fmt.Sprint(flags), func(t *testing.T) {
			w := newTwins(t, schema, `CREATE TABLE raw_tags(id TEXT PRIMARY KEY, label TEXT); INSERT INTO raw_tags(id) VALUES ('kept')`)
			w.start()
			for _, line := range []string{
				`{"checkpoint":{"last_op_id":"3","buckets":[{"bucket":"b","checksum":6,"count":3,"subscriptions":[{"default":0}]}],"streams":[{"name":"s","is_default":true,"errors":[]}]}}`,
				`{"data":{"bucket":"b","data":[{"op_id":"1","op":"PUT","object_type":"notes","object_id":"n","checksum":1,"data":"{\"body\":\"x\"}"},{"op_id":"2","op":"PUT","object_type":"tags","object_id":"t","checksum":2,"data":"{\"label\":\"x\"}"},{"op_id":"3","op":"PUT","object_type":"unknown","object_id":"u","checksum":3,"data":"{}"}]}}`,
				`{"checkpoint_complete":{"last_op_id":"3"}}`,
			} {
				w.line(line)
			}
			w.write(`INSERT INTO notes(id, body) VALUES ('mine', 'x'); INSERT INTO drafts(id, body) VALUES ('d', 'x')`)
			if _, err := w.o.Control("stop", nil); err != nil {
				t.Fatal(err)
			}
			w.o.Exec("BEGIN IMMEDIATE")
			w.o.Query(`SELECT powersync_clear(?)`, flags)
			w.o.Exec("COMMIT")
			if err := w.d.DisconnectAndClear(t.Context(), clear); err != nil {
				t.Fatal(err)
			}
			w.compare()
			raw(t, w.d, func(c *local.Conn) { both(t, c, w.o, `INSERT INTO notes(id, body) VALUES ('next', 'x')`) })
			w.compare()
		})
	}
}

// Whoever waits is told when the database closes, and when their context ends.
func TestWaitEnds(t *testing.T) {
	d := newDB(t, todos)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.WaitForFirstSync(ctx, AllPriorities); err == nil || !strings.Contains(err.Error(), "canceled") {
		t.Errorf("got %v", err)
	}
	done := make(chan error)
	go func() { done <- d.WaitForFirstSync(t.Context(), AllPriorities) }()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != ErrClosed {
		t.Errorf("got %v", err)
	}
	if err := d.Connect(&user{}, nil); err == nil || !strings.Contains(err.Error(), ErrClosed.Error()) {
		t.Errorf("connect: %v", err)
	}
}
