package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-sync/millrace/internal/auth/keys"
	"github.com/millrace-sync/millrace/internal/config"
	"github.com/millrace-sync/millrace/internal/pgtest"
	"github.com/millrace-sync/millrace/protocol"
)

// patience is how long a test waits for what must come.
const patience = 60 * time.Second

// service under test: the whole of it, in this process, on a real Postgres.
type instance struct {
	t    *testing.T
	key  *keys.Pair
	dsn  string
	role Role
	// storage is the section of the configuration.
	storage map[string]any
	url     string
	log     *logBuffer
	stop    func()

	debugAPI bool
	metrics  int // the port; 0 for none
	// adapt changes what was read of the configuration; it may be nil.
	adapt func(*config.Config)
	choices

	mu      sync.Mutex
	config  *config.Config // as the file has it now
	hangups chan os.Signal
}

// logBuffer keeps the log for when a test fails.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logBuffer) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Reset()
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// newInstance prepares a service for a database; start runs it.
func newInstance(t *testing.T, dsn string) *instance {
	in := &instance{
		t: t, key: keys.NewSecret(), dsn: dsn, role: Unified, log: &logBuffer{},
		storage: map[string]any{"type": "pebble", "path": t.TempDir()}, choices: choices{200 * time.Millisecond, openStore},
	}
	t.Cleanup(func() {
		if in.stop != nil {
			in.stop()
		}
		if t.Failed() {
			t.Log("the service's log:\n" + in.log.String())
		}
	})
	return in
}

// inPostgres gives the service storage in a database.
func (in *instance) inPostgres(dsn string) *instance {
	in.storage = map[string]any{"type": "postgresql", "uri": dsn, "sslmode": "disable"}
	return in
}

// beside prepares another process of the same service.
func (in *instance) beside(role Role) *instance {
	other := newInstance(in.t, in.dsn)
	other.key, other.storage, other.role = in.key, in.storage, role
	return other
}

const adminToken = "admin-token"

// write writes the configuration, with a sync config or, if it is empty, without.
func (in *instance) write(syncConfig string) {
	in.t.Helper()
	secret, _ := in.key.Private.Key.([]byte)
	doc := map[string]any{
		"replication": map[string]any{"connections": []any{map[string]any{"type": "postgresql", "uri": in.dsn, "sslmode": "disable", "debug_api": in.debugAPI}}},
		"storage":     in.storage,
		"port":        0,
		"client_auth": map[string]any{
			"audience": []string{"powersync"},
			"jwks": map[string]any{"keys": []any{map[string]any{
				"kty": "oct", "alg": "HS256", "kid": in.key.Private.KeyID, "k": base64.RawURLEncoding.EncodeToString(secret),
			}}},
		},
		"api":         map[string]any{"tokens": []string{adminToken}},
		"healthcheck": map[string]any{"probes": map[string]any{"use_http": true}},
	}
	if in.metrics != 0 {
		doc["telemetry"] = map[string]any{"prometheus_port": in.metrics}
	}
	if syncConfig != "" {
		doc["sync_config"] = map[string]any{"content": syncConfig}
	}
	b, err := json.Marshal(doc)
	if err != nil {
		in.t.Fatal(err)
	}
	cfg, _, err := config.Load(config.Input{
		Base64:    base64.StdEncoding.EncodeToString(b),
		LookupEnv: func(string) (string, bool) { return "", false },
	})
	if err != nil {
		in.t.Fatal(err)
	}
	if in.adapt != nil {
		in.adapt(cfg)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.config = cfg
}

func (in *instance) load() (*config.Config, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.config, nil
}

// address is url, for other goroutines than the test's.
func (in *instance) address() string {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.url
}

// rewrite writes another sync config and tells the running service.
func (in *instance) rewrite(syncConfig string) {
	in.t.Helper()
	in.write(syncConfig)
	in.hangups <- syscall.SIGHUP
}

// start runs the service with a sync config until stop is called.
func (in *instance) start(syncConfig string) {
	in.t.Helper()
	in.write(syncConfig)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		in.t.Fatal(err)
	}
	in.mu.Lock()
	in.url = "http://" + listener.Addr().String()
	in.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	log := slog.New(slog.NewTextHandler(in.log, nil))
	in.hangups = make(chan os.Signal, 1)
	reload := Reload{Signals: in.hangups, Load: in.load}
	cfg := in.config
	go func() { done <- run(ctx, cfg, in.role, reload, log, listener, in.choices) }()
	in.stop = func() {
		in.stop = nil
		cancel()
		select {
		case err := <-done:
			if err != nil {
				in.t.Errorf("the service ended with %v", err)
			}
		case <-time.After(patience):
			in.t.Error("the service did not end")
		}
	}
}

// rows is what a client shows: object type and id to the row.
type rows map[string]map[string]any

// client is a client that stays connected and keeps what it has when it is not.
type client struct {
	t       *testing.T
	in      *instance
	user    string
	buckets map[string]*held
	// ahead says that the client may hold what the service no longer does.
	ahead atomic.Bool

	mu      sync.Mutex
	visible rows
	synced  int                 // checkpoints completed
	opened  int                 // streams
	data    map[string]int      // operations received, by bucket
	write   uint64              // the newest write checkpoint seen
	changed chan struct{}       // closed and replaced when something changes
	names   map[string]struct{} // of the buckets in the checkpoint
	leave   func()              // ends the connection until comeBack
}

type held struct {
	last uint64
	sum  uint32
	rows map[string]heldRow
}

type heldRow struct {
	op      uint64
	key     string
	content map[string]any
}

// connect starts a client that reconnects until the test ends.
func (in *instance) connect(user string) *client {
	c := &client{
		t: in.t, in: in, user: user, buckets: map[string]*held{}, visible: rows{}, data: map[string]int{},
		changed: make(chan struct{}),
	}
	c.comeBack()
	return c
}

// comeBack connects a client that has left, with what it holds.
func (c *client) comeBack() {
	in, user := c.in, c.user
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := c.stream(ctx); err != nil && ctx.Err() == nil {
				in.log.Write([]byte("client " + user + ": " + err.Error() + "\n"))
			}
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	c.leave = func() {
		cancel()
		<-done
	}
	in.t.Cleanup(c.leave)
}

// logged counts the lines of the service's log that hold the text.
func (in *instance) logged(text string) int { return strings.Count(in.log.String(), text) }

func (in *instance) token(user string) string {
	now := time.Now()
	token, err := keys.Sign(in.key.Private, map[string]any{
		"sub": user, "aud": "powersync", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	})
	if err != nil {
		panic(err)
	}
	return token
}

func (c *client) stream(ctx context.Context) error {
	req := protocol.Request{RawData: true, ClientID: c.user, IncludeDefaults: true}
	for name, b := range c.buckets {
		req.Buckets = append(req.Buckets, protocol.BucketPosition{Name: name, After: b.last})
	}
	hr, err := http.NewRequestWithContext(ctx, "POST", c.in.address()+"/sync/stream", bytes.NewReader(req.AppendJSON(nil)))
	if err != nil {
		return err
	}
	hr.Header.Set("Authorization", "Token "+c.in.token(c.user))
	hr.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(hr)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	c.mu.Lock()
	c.opened++
	c.mu.Unlock()
	r := protocol.NewReader(resp.Body, protocol.JSONLines, 64<<20)
	target := map[string]protocol.Bucket{}
	var write uint64
	for {
		line, err := r.Next()
		if err != nil {
			return err
		}
		switch l := line.(type) {
		case *protocol.Checkpoint:
			clear(target)
			for _, b := range l.Buckets {
				target[b.Name] = b
			}
			maps.DeleteFunc(c.buckets, func(name string, _ *held) bool { _, ok := target[name]; return !ok })
			write = l.WriteCheckpoint
		case *protocol.CheckpointDiff:
			for _, b := range l.UpdatedBuckets {
				target[b.Name] = b
			}
			for _, name := range l.RemovedBuckets {
				delete(target, name)
				delete(c.buckets, name)
			}
			write = l.WriteCheckpoint
		case *protocol.DataChunk:
			c.store(l)
		case *protocol.CheckpointComplete:
			if !c.complete(target, l.LastOpID, write) {
				return errors.New("a bucket's sum differs: it is downloaded again")
			}
		}
	}
}

func (c *client) store(l *protocol.DataChunk) {
	b := c.buckets[l.Bucket]
	if b == nil {
		b = &held{rows: map[string]heldRow{}}
		c.buckets[l.Bucket] = b
	}
	c.mu.Lock()
	c.data[l.Bucket] += len(l.Ops)
	c.mu.Unlock()
	for i := range l.Ops {
		op := &l.Ops[i]
		key := op.ObjectType + "/" + op.ObjectID
		b.last, b.sum = op.ID, b.sum+op.Checksum
		switch op.Kind {
		case protocol.Put:
			var content map[string]any
			d := json.NewDecoder(bytes.NewReader(op.Data))
			d.UseNumber()
			if err := d.Decode(&content); err != nil {
				c.t.Errorf("row %s: %v", op.Data, err)
			}
			b.rows[key+"/"+string(op.Subkey)] = heldRow{op.ID, key, content}
		case protocol.Remove:
			delete(b.rows, key+"/"+string(op.Subkey))
		}
	}
}

// complete reports false if a bucket is not what was announced; it is then forgotten.
func (c *client) complete(target map[string]protocol.Bucket, at, write uint64) bool {
	whole := true
	names := map[string]struct{}{}
	for name, t := range target {
		names[name] = struct{}{}
		b := c.buckets[name]
		if b == nil {
			b = &held{rows: map[string]heldRow{}}
			c.buckets[name] = b
		}
		if b.sum != t.Checksum && c.ahead.Load() {
			delete(c.buckets, name)
			whole = false
			continue
		}
		if b.sum != t.Checksum {
			c.t.Errorf("client %s: bucket %s sums to %d, announced %d", c.user, name, b.sum, t.Checksum)
		}
		b.last = max(b.last, at)
	}
	if !whole {
		return false
	}
	newest := map[string]heldRow{}
	for _, b := range c.buckets {
		for _, r := range b.rows {
			if r.op > newest[r.key].op {
				newest[r.key] = r
			}
		}
	}
	visible := rows{}
	for key, r := range newest {
		visible[key] = r.content
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.visible, c.names = visible, names
	c.synced++
	c.write = max(c.write, write)
	close(c.changed)
	c.changed = make(chan struct{})
	return true
}

// streams returns how many streams were opened.
func (c *client) streams() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.opened
}

// untilLogged waits for a line of the service's log that holds the text.
func (in *instance) untilLogged(text string) {
	in.t.Helper()
	for deadline := time.Now().Add(patience); !strings.Contains(in.log.String(), text); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			in.t.Fatalf("the log does not say %q", text)
		}
	}
}

// until waits until the client's state is as wanted. The client's lock is held
// while ok runs.
func (c *client) until(what string, ok func() bool) {
	c.t.Helper()
	deadline := time.After(patience)
	for {
		c.mu.Lock()
		done, changed := ok(), c.changed
		c.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			c.mu.Lock()
			defer c.mu.Unlock()
			c.t.Fatalf("client %s: %s did not come; it shows %v", c.user, what, c.visible)
		}
	}
}

// untilEqual waits until the client shows exactly what the queries return.
// queries maps an object type to a query of its rows.
func (c *client) untilEqual(what string, conn *pgx.Conn, queries map[string]string) {
	c.t.Helper()
	want := rows{}
	for typ, query := range queries {
		maps.Copy(want, selectRows(c.t, conn, typ, query))
	}
	c.until(fmt.Sprintf("%s: %v", what, want), func() bool {
		return maps.EqualFunc(c.visible, want, func(a, b map[string]any) bool {
			return maps.EqualFunc(a, b, func(x, y any) bool { return fmt.Sprint(x) == fmt.Sprint(y) })
		})
	})
}

// selectRows returns a query's rows as clients get them. It serves types whose
// JSON is the same on both sides: text and numbers, and what is made of them, which
// clients get as JSON in a text.
func selectRows(t *testing.T, conn *pgx.Conn, typ, query string) rows {
	t.Helper()
	r, err := conn.Query(t.Context(), "SELECT row_to_json(q)::text FROM ("+query+") q")
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(r, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	out := rows{}
	for _, text := range list {
		var parts map[string]json.RawMessage
		if err := json.Unmarshal([]byte(text), &parts); err != nil {
			t.Fatal(err)
		}
		content := map[string]any{}
		for name, part := range parts {
			if part[0] == '{' || part[0] == '[' {
				content[name] = string(part)
				continue
			}
			var value any
			d := json.NewDecoder(bytes.NewReader(part))
			d.UseNumber()
			if err := d.Decode(&value); err != nil {
				t.Fatal(err)
			}
			content[name] = value
		}
		out[fmt.Sprintf("%s/%v", typ, content["id"])] = content
	}
	return out
}

func exec(t *testing.T, conn *pgx.Conn, sql ...string) {
	t.Helper()
	for _, s := range sql {
		if _, err := conn.Exec(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// execScript executes statements one by one, each in a transaction of its own
// unless the script says otherwise.
func execScript(t *testing.T, conn *pgx.Conn, script string) {
	t.Helper()
	for _, line := range strings.Split(script, "\n") {
		if line, _, _ = strings.Cut(line, "--"); strings.TrimSpace(line) == "" {
			continue
		}
		for statement := range strings.SplitSeq(line, ";") {
			if strings.TrimSpace(statement) != "" {
				exec(t, conn, statement)
			}
		}
	}
}

// database returns a database with a publication of all tables, and a connection.
func database(t *testing.T, c *pgtest.Cluster, sql ...string) (string, *pgx.Conn) {
	t.Helper()
	dsn := c.NewDatabase(t)
	conn := c.Conn(t, dsn)
	exec(t, conn, slices.Concat([]string{"CREATE PUBLICATION powersync FOR ALL TABLES"}, sql)...)
	return withPassword(dsn), conn
}

// serving returns a service of ownNotes on a database, and a client of user u that has
// synced.
func serving(t *testing.T, sql ...string) (*instance, *pgx.Conn, *client) {
	t.Helper()
	dsn, conn := database(t, shared.Cluster(t), sql...)
	in := newInstance(t, dsn)
	in.start(ownNotes)
	c := in.connect("u")
	c.untilEqual("first sync", conn, notesOf("u"))
	return in, conn, c
}

// withPassword adds the password that the configuration demands; the test server
// asks for none.
func withPassword(dsn string) string { return strings.Replace(dsn, "@", ":none@", 1) }
