package client

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-sync/millrace/client/internal/engine"
	"github.com/millrace-sync/millrace/client/internal/local"
	"github.com/millrace-sync/millrace/client/internal/oracle"
	"github.com/millrace-sync/millrace/protocol"
)

// twins is a database of ours and one of the official extension that get the same.
type twins struct {
	t      *testing.T
	o      *oracle.Oracle
	d      *DB
	e      *engine.Engine
	schema Schema
	now    int64
	log    []string
	// requests has both sides number their checkpoints themselves.
	requests bool
}

func newTwins(t *testing.T, schema Schema, ddl string) *twins {
	w := &twins{t: t, o: oracle.Open(t, filepath.Join(t.TempDir(), "official.db")), d: newDB(t, schema), schema: schema, now: 1_800_000_000_000_000}
	replaceSchema(t, w.o, schema)
	if ddl != "" {
		w.write(ddl)
	}
	return w
}

// write runs SQL on both sides, as a local write.
func (w *twins) write(sql string) {
	w.t.Helper()
	w.log = append(w.log, sql)
	raw(w.t, w.d, func(c *local.Conn) {
		w.o.Exec(sql)
		if err := c.Exec(sql); err != nil {
			w.t.Fatalf("%s: %v", sql, err)
		}
	})
}

// event gives both sides an event and compares whether they then close.
func (w *twins) event(op, payload string, ours func() (engine.Outcome, error)) (closed bool) {
	w.t.Helper()
	var arg any
	switch {
	case op == "line_binary":
		arg = oracle.Blob(payload)
		w.log = append(w.log, fmt.Sprintf("%s %x", op, payload))
	case payload != "":
		arg = payload
		fallthrough
	default:
		w.log = append(w.log, op+" "+payload)
	}
	want, wantErr := w.o.Control(op, arg)
	var got engine.Outcome
	var gotErr error
	err := w.d.exclusive(w.t.Context(), func(*local.Conn) error {
		w.now++
		got, gotErr = ours()
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if (wantErr == nil) != (gotErr == nil) {
		w.t.Fatalf("%s %s:\nofficial: %v\nours: %v", op, payload, wantErr, gotErr)
	}
	if wantErr != nil {
		return true
	}
	var instructions []map[string]json.RawMessage
	if err := json.Unmarshal([]byte(strings.TrimPrefix(want, "text ")), &instructions); err != nil {
		w.t.Fatal(err)
	}
	var wanted engine.Outcome
	for _, i := range instructions {
		if c, ok := i["CloseSyncStream"]; ok {
			wanted.Close, wanted.Again = true, strings.Contains(string(c), "true")
		}
		if c, ok := i["FetchCredentials"]; ok {
			wanted.Expired = strings.Contains(string(c), "true")
			wanted.Prefetch = !wanted.Expired
		}
		if d, ok := i["DidCompleteSync"]; ok {
			var done struct {
				Applied string `json:"applied_checkpoint_request_id"`
			}
			if err := json.Unmarshal(d, &done); err != nil {
				w.t.Fatal(err)
			}
			wanted.Completed = true
			if done.Applied != "" {
				if wanted.Applied, err = strconv.ParseInt(done.Applied, 10, 64); err != nil {
					w.t.Fatal(err)
				}
			}
		}
		if s, ok := i["UpdateSyncStatus"]; ok {
			w.status(s)
		}
	}
	got.Notes = nil
	if diff := cmp.Diff(wanted, got); diff != "" {
		w.t.Fatalf("%s %s (-official +ours):\n%s", op, payload, diff)
	}
	return got.Close
}

// status compares what both sides tell of the download.
func (w *twins) status(text json.RawMessage) {
	w.t.Helper()
	var official struct {
		Status struct {
			Downloading *struct {
				Buckets map[string]struct {
					Priority    int
					SinceLast   int64 `json:"since_last"`
					TargetCount int64 `json:"target_count"`
				}
			}
			PriorityStatus []struct{ Priority int } `json:"priority_status"`
			Streams        []struct {
				Name       string
				Parameters json.RawMessage
				Priority   *int
				Active     bool
				IsDefault  bool `json:"is_default"`
				Explicit   bool `json:"has_explicit_subscription"`
				Progress   struct{ Total, Downloaded int64 }
				LastSynced *int64 `json:"last_synced_at"`
			}
		}
	}
	if err := json.Unmarshal(text, &official); err != nil {
		w.t.Fatalf("%s: %v", text, err)
	}
	var want, got []string
	if p := official.Status.Downloading; p != nil {
		for _, b := range p.Buckets {
			want = append(want, fmt.Sprintf("progress %d: %d of %d", b.Priority, b.SinceLast, b.TargetCount))
		}
		want = append(want, "downloading")
	}
	for _, p := range official.Status.PriorityStatus {
		want = append(want, fmt.Sprintf("synced %d", p.Priority))
	}
	for _, s := range official.Status.Streams {
		priority := -1
		if s.Priority != nil {
			priority = *s.Priority
		}
		params := string(s.Parameters)
		if params == "null" {
			params = ""
		}
		want = append(want, fmt.Sprintln("stream", s.Name, params, priority, s.Active, s.IsDefault, s.Explicit, s.Progress, s.LastSynced != nil))
	}
	ours := w.e.Status()
	for _, p := range ours.Downloading() {
		got = append(got, fmt.Sprintf("progress %d: %d of %d", p.Priority, p.Downloaded, p.Total))
	}
	if ours.Downloading() != nil {
		got = append(got, "downloading")
	}
	for _, p := range ours.Priorities {
		got = append(got, fmt.Sprintf("synced %d", p.Priority))
	}
	for _, s := range ours.Streams {
		progress := struct{ Total, Downloaded int64 }{s.Progress.Total, s.Progress.Downloaded}
		got = append(got, fmt.Sprintln("stream", s.Name, s.Params, s.Priority, s.Active, s.Default, s.Explicit, progress, s.SyncedAt != 0))
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Errorf("status (-official +ours):\n%s", diff)
	}
}

// start begins a connection on both sides and compares the requests.
func (w *twins) start() {
	w.t.Helper()
	w.log = append(w.log, "start")
	payload := fmt.Sprintf(`{"parameters":{"p":1},"schema":%s,"include_defaults":true,"active_streams":[],"app_metadata":{"app":"test"},"checkpoint_mode":%q}`,
		official(w.t, w.schema), map[bool]string{false: "legacy", true: "requests"}[w.requests])
	answer, err := w.o.Control("start", payload)
	if err != nil {
		w.t.Fatal(err)
	}
	var instructions []struct {
		EstablishSyncStream struct {
			Request           map[string]any
			CheckpointRequest *struct {
				ID string `json:"checkpoint_request_id"`
			} `json:"checkpoint_request"`
		}
	}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(answer, "text ")), &instructions); err != nil {
		w.t.Fatal(err)
	}
	var want map[string]any
	first := ""
	for _, i := range instructions {
		if i.EstablishSyncStream.Request != nil {
			want = i.EstablishSyncStream.Request
		}
		if r := i.EstablishSyncStream.CheckpointRequest; r != nil {
			first = r.ID
		}
	}
	if w.requests {
		w.number(first, func() (int64, error) { return engine.FirstRequest(w.d.store) })
	}
	delete(want, "binary_data")
	want["client_id"] = "client"
	var request *protocol.Request
	err = w.d.exclusive(w.t.Context(), func(*local.Conn) (err error) {
		w.e, request, err = engine.Start(w.d.store, engine.Options{
			ClientID: "client", Parameters: []byte(`{"p":1}`), AppMetadata: map[string]string{"app": "test"},
			IncludeDefaults: true, RawTables: w.schema.raw(),
		}, w.now)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(request.AppendJSON(nil), &got); err != nil {
		w.t.Fatal(err)
	}
	// Subscriptions without parameters are null there and {} here; services take both.
	for _, r := range []map[string]any{want, got} {
		for _, s := range r["streams"].(map[string]any)["subscriptions"].([]any) {
			if s := s.(map[string]any); s["parameters"] == nil {
				s["parameters"] = map[string]any{}
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Fatalf("request (-official +ours):\n%s", diff)
	}
}

// number compares a number that the official extension gives with ours.
func (w *twins) number(want string, ours func() (int64, error)) {
	w.t.Helper()
	var got int64
	err := w.d.exclusive(w.t.Context(), func(*local.Conn) (err error) {
		got, err = ours()
		return err
	})
	if err != nil || fmt.Sprint(got) != strings.TrimPrefix(want, "int ") {
		w.t.Errorf("number %d, %v; officially %s", got, err, want)
	}
}

// control gives the official extension an event that answers with a number.
func (w *twins) control(op string, payload any) string {
	w.t.Helper()
	answer, err := w.o.Control(op, payload)
	if err != nil {
		w.t.Fatal(err)
	}
	return answer
}

func (w *twins) line(text string) (closed bool) {
	w.t.Helper()
	return w.event("line_text", text, func() (engine.Outcome, error) {
		line, err := protocol.JSONLines.DecodeLine([]byte(text))
		if err != nil {
			return engine.Outcome{}, err
		}
		return w.e.Line(line, len(text), w.now)
	})
}

// chunk sends a data line, as JSON text or as BSON.
func (w *twins) chunk(c *protocol.DataChunk, binary bool) {
	w.t.Helper()
	if !binary {
		w.line(strings.TrimSpace(string(protocol.JSONLines.AppendDataChunk(nil, c))))
		return
	}
	document := protocol.BSON.AppendDataChunk(nil, c)
	w.event("line_binary", string(document), func() (engine.Outcome, error) {
		line, err := protocol.BSON.DecodeLine(document)
		if err != nil {
			return engine.Outcome{}, err
		}
		return w.e.Line(line, len(document), w.now)
	})
}

// change gives both sides another schema, between connections.
func (w *twins) change(schema Schema) {
	w.t.Helper()
	w.log = append(w.log, "schema "+official(w.t, schema))
	if _, err := w.o.Control("stop", nil); err != nil {
		w.t.Fatal(err)
	}
	replaceSchema(w.t, w.o, schema)
	if err := w.d.UpdateSchema(w.t.Context(), schema); err != nil {
		w.t.Fatal(err)
	}
	w.schema = schema
}

// uploaded empties the queue on both sides, as a connector does, and sets the target.
func (w *twins) uploaded(target int64) (closed bool) {
	w.t.Helper()
	w.write(fmt.Sprintf(`DELETE FROM ps_crud;
INSERT OR REPLACE INTO ps_kv(key, value) VALUES ('target_checkpoint_request_id', %d)`, target))
	return w.event("completed_upload", "", func() (engine.Outcome, error) { return w.e.Uploaded(w.now) })
}

func (w *twins) subscribe(k engine.StreamKey, ttl int64, priority *int) {
	w.t.Helper()
	params := json.RawMessage("null")
	if k.Params != "" {
		params = json.RawMessage(k.Params)
	}
	payload, err := json.Marshal(map[string]any{"subscribe": map[string]any{
		"stream": map[string]any{"name": k.Name, "params": params}, "ttl": ttl, "priority": priority,
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.log = append(w.log, string(payload))
	if _, err := w.o.Control("subscriptions", string(payload)); err != nil {
		w.t.Fatal(err)
	}
	err = w.d.exclusive(w.t.Context(), func(*local.Conn) error {
		return engine.Subscribe(w.d.store, k, ttl, priority, w.now)
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *twins) unsubscribe(k engine.StreamKey) {
	w.t.Helper()
	payload := fmt.Sprintf(`{"unsubscribe":{"name":%q,"params":%s}}`, k.Name, orDefault(k.Params, "null"))
	w.log = append(w.log, payload)
	if _, err := w.o.Control("subscriptions", payload); err != nil {
		w.t.Fatal(err)
	}
	err := w.d.exclusive(w.t.Context(), func(*local.Conn) error { return engine.Unsubscribe(w.d.store, k) })
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *twins) compare() {
	w.t.Helper()
	compare(w.t, w.d, w.o)
	if w.t.Failed() {
		from := max(0, len(w.log)-40)
		w.t.Fatalf("after:\n%s", strings.Join(w.log[from:], "\n"))
	}
}

// The scripts in testdata/lines hold what a real service sent, and cases that need
// their own. A line is a protocol line, or a word and its argument.
func TestLines(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "lines", "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	schema := Schema{
		Tables: []Table{
			{Name: "notes", Columns: []Column{Text("owner"), Text("body"), Integer("n"), Real("price")}},
			{Name: "settings", Columns: []Column{Text("owner"), Text("val")}},
			{Name: "items", Columns: []Column{Text("list_id"), Text("name")}},
		},
		RawTables: []RawTable{{
			Name: "tags",
			Put: Statement{`INSERT INTO raw_tags(id, label, rest) VALUES (?, ?, ?)
ON CONFLICT (id) DO UPDATE SET label = excluded.label, rest = excluded.rest`, []Param{ID(), FromColumn("label"), Rest()}},
			Delete: Statement{`DELETE FROM raw_tags WHERE id = ?`, []Param{ID()}},
		}},
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			w := newTwins(t, schema, `CREATE TABLE raw_tags(id TEXT PRIMARY KEY, label TEXT, rest TEXT)`)
			for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
				word, arg, _ := strings.Cut(line, " ")
				switch word {
				case "#":
					continue
				case "start":
					w.start()
				case "write":
					w.write(arg)
				case "uploaded":
					target, err := strconv.ParseInt(arg, 10, 64)
					if err != nil {
						t.Fatal(err)
					}
					w.uploaded(target)
				case "subscribe":
					name, params, _ := strings.Cut(arg, " ")
					priority := 2
					w.subscribe(engine.StreamKey{Name: name, Params: params}, 3600, &priority)
				case "unsubscribe":
					name, params, _ := strings.Cut(arg, " ")
					w.unsubscribe(engine.StreamKey{Name: name, Params: params})
				case "closes":
					if !w.line(arg) {
						t.Fatalf("%s did not close the connection", arg)
					}
				default:
					if w.line(line) {
						t.Fatalf("%s closed the connection", line)
					}
				}
				w.compare()
			}
		})
	}
}

// Random histories of a service that writes, compacts, moves rows between buckets,
// breaks off and errs, with local writes between and versions of the app's schema, leave the
// same on both sides.
func TestRandomLines(t *testing.T) {
	for range 4 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) { randomLines(t, rand.New(rand.NewPCG(seed, 0))) })
	}
}

// simBucket is a bucket of the simulated service.
type simBucket struct {
	name     string
	priority int
	ops      []protocol.Op
	sent     int // how many ops this connection has sent
}

func (b *simBucket) sum() (sum uint32) {
	for i := range b.ops {
		sum += b.ops[i].Checksum
	}
	return sum
}

func randomLines(t *testing.T, r *rand.Rand) {
	a, b := Table{Name: "a", Columns: []Column{Text("v")}}, Table{Name: "b", Columns: []Column{Text("v")}}
	own := RawTable{Name: "own", Table: "raw_own"}
	// The app has versions: without b, without the raw table, with b kept on the device.
	local1 := b
	local1.LocalOnly = true
	schemas := []Schema{
		{Tables: []Table{a, b}, RawTables: []RawTable{own}}, {Tables: []Table{a}, RawTables: []RawTable{own}},
		{Tables: []Table{a, b}}, {Tables: []Table{local1, a}, RawTables: []RawTable{own}},
	}
	w := newTwins(t, schemas[0], `CREATE TABLE raw_own(id TEXT PRIMARY KEY, v TEXT)`)
	for _, event := range []string{"INSERT", "UPDATE", "DELETE"} {
		text, err := json.Marshal(officialRaw(&own))
		if err != nil {
			t.Fatal(err)
		}
		w.o.Query(`SELECT powersync_create_raw_table_crud_trigger(?, ?, ?)`, string(text), own.triggerName(event), event)
	}
	if err := w.d.CaptureWrites(t.Context(), "own"); err != nil {
		t.Fatal(err)
	}
	var op uint64
	var buckets []*simBucket
	names := 0
	streams := `[{"name":"s0","is_default":true,"errors":[]},{"name":"s1","is_default":false,"errors":[{"subscription":0,"message":"none"}]}]`
	entry := func(b *simBucket, err uint32) string {
		sub := `{"default":0}`
		if b.priority == 2 {
			sub = `{"sub":0}`
		}
		return fmt.Sprintf(`{"bucket":%q,"checksum":%d,"count":%d,"priority":%d,"subscriptions":[%s]}`, b.name, int32(b.sum()+err), len(b.ops), b.priority, sub)
	}
	change := func() {
		if len(buckets) == 0 || r.IntN(8) == 0 && len(buckets) < 6 {
			names++
			buckets = append(buckets, &simBucket{name: fmt.Sprintf("bucket[%d]", names), priority: r.IntN(4)})
		}
		b := buckets[r.IntN(len(buckets))]
		switch n := r.IntN(20); {
		case n == 0 && len(buckets) > 1:
			buckets = slices.DeleteFunc(buckets, func(x *simBucket) bool { return x == b })
		case n == 1 && len(b.ops) > 2 && b.sent < len(b.ops):
			// Compaction: what lies before becomes one CLEAR.
			cut := 1 + r.IntN(len(b.ops)-1)
			var sum uint32
			for _, o := range b.ops[:cut] {
				sum += o.Checksum
			}
			b.ops = append([]protocol.Op{{ID: b.ops[cut-1].ID, Kind: protocol.Clear, Checksum: sum}}, b.ops[cut:]...)
		case n == 2 && len(b.ops) > 0:
			o := &b.ops[r.IntN(len(b.ops))]
			if o.Kind == protocol.Put && o.ID > op-3 {
				*o = protocol.Op{ID: o.ID, Kind: protocol.Move, Checksum: o.Checksum}
			}
		default:
			op++
			o := protocol.Op{ID: op, Kind: protocol.Put, Checksum: r.Uint32(), ObjectType: []string{"a", "b", "untyped", "own"}[r.IntN(4)], ObjectID: fmt.Sprint(r.IntN(5))}
			if r.IntN(4) > 0 {
				o.Subkey = []byte(fmt.Sprint("k", r.IntN(2)))
			}
			if r.IntN(3) == 0 {
				o.Kind = protocol.Remove
			} else {
				o.Data = fmt.Appendf(nil, `{"id":%q,"v":"%d"}`, o.ObjectID, op)
			}
			b.ops = append(b.ops, o)
		}
	}
	local, writes := 0, int64(0)
	for range 12 {
		for _, b := range buckets {
			b.sent = 0
		}
		if r.IntN(2) == 0 {
			priority := r.IntN(4)
			w.subscribe(engine.StreamKey{Name: "s1", Params: fmt.Sprintf(`{"x":%d}`, r.IntN(2))}, 1000, &priority)
		} else if r.IntN(2) == 0 {
			w.unsubscribe(engine.StreamKey{Name: "s1", Params: `{"x":0}`})
		}
		if r.IntN(3) == 0 {
			w.change(schemas[r.IntN(len(schemas))])
			w.compare()
		}
		w.start()
		told := map[string]bool{} // in the last checkpoint
		closed := false
		for round := 0; round < 6 && !closed; round++ {
			for range r.IntN(12) {
				change()
			}
			if r.IntN(3) == 0 {
				local++
				table := []string{"a", "raw_own"}[r.IntN(2)]
				w.write(fmt.Sprintf(`INSERT OR REPLACE INTO %s(id, v) VALUES ('%d', 'local %d')`, table, r.IntN(5), local))
			}
			var bad uint32
			if r.IntN(12) == 0 {
				bad = 1
			}
			var list []string
			for i, b := range buckets {
				err := uint32(0)
				if i == 0 {
					err = bad
				}
				list = append(list, entry(b, err))
			}
			confirm := ""
			if writes > 0 && r.IntN(2) == 0 {
				confirm = fmt.Sprintf(`,"write_checkpoint":"%d"`, writes)
			}
			if round == 0 || r.IntN(3) == 0 {
				closed = w.line(fmt.Sprintf(`{"checkpoint":{"last_op_id":"%d"%s,"buckets":[%s],"streams":%s}}`, op, confirm, strings.Join(list, ","), streams))
			} else {
				var removed []string
				for name := range told {
					if !slices.ContainsFunc(buckets, func(b *simBucket) bool { return b.name == name }) {
						removed = append(removed, strconv.Quote(name))
					}
				}
				closed = w.line(fmt.Sprintf(`{"checkpoint_diff":{"last_op_id":"%d"%s,"removed_buckets":[%s],"updated_buckets":[%s]}}`, op, confirm, strings.Join(removed, ","), strings.Join(list, ",")))
			}
			clear(told)
			for _, b := range buckets {
				told[b.name] = true
			}
			w.compare()
			for priority := 0; priority < 4 && !closed; priority++ {
				for _, b := range buckets {
					for b.priority == priority && b.sent < len(b.ops) {
						n := 1 + r.IntN(len(b.ops)-b.sent)
						chunk := &protocol.DataChunk{Bucket: b.name, Ops: b.ops[b.sent : b.sent+n]}
						b.sent += n
						w.chunk(chunk, r.IntN(2) == 0)
					}
				}
				if r.IntN(10) == 0 {
					break // the connection breaks off, or the checkpoint is superseded
				}
				if priority < 3 && r.IntN(2) == 0 {
					closed = w.line(fmt.Sprintf(`{"partial_checkpoint_complete":{"last_op_id":"%d","priority":%d}}`, op, priority))
				}
				if priority == 3 && !closed {
					closed = w.line(fmt.Sprintf(`{"checkpoint_complete":{"last_op_id":"%d"}}`, op))
				}
				w.compare()
			}
			if !closed && r.IntN(3) == 0 {
				writes++
				closed = w.uploaded(writes)
				w.compare()
			}
			if !closed && r.IntN(4) == 0 {
				closed = w.line(fmt.Sprintf(`{"token_expires_in":%d}`, []int{0, 10, 30, 31, 3600}[r.IntN(5)]))
				w.compare()
			}
		}
	}
}
