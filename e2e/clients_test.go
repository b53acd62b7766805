package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/millrace-sync/millrace/internal/rsocket"
	"github.com/millrace-sync/millrace/protocol"
)

// A clientCase is a request as an SDK that cannot run here sends it, and what it must get.
type clientCase struct {
	Name     string
	Header   map[string]string
	Body     json.RawMessage
	Type     string // the answer's content type, which clients compare as it is
	Encoding string
	Data     string // how rows come: text or object
	Buckets  int    // in the checkpoint
	Agent    string // for the log
}

// TestOtherSDKs replays the requests of SDKs for other languages.
func TestOtherSDKs(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "clients.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []clientCase
	if err := json.Unmarshal(text, &cases); err != nil {
		t.Fatal(err)
	}
	a := newSDKApp(t)
	// Lists come last, as it is they that are waited for: nothing may change after.
	a.exec(t, "INSERT INTO items VALUES ('i1', 'l1', 'item', 1)")
	a.exec(t, "INSERT INTO lists VALUES ('l1', 'ann', 'one'), ('l2', 'ann', 'two')")
	token, _, err := a.backend.sign("ann")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the rows are replicated", func() (bool, string) {
		got := a.download(t, token)
		return strings.Contains(got, `"object_id":"l2"`), got
	})
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) { c.run(t, a, token) })
	}
	t.Run("kotlin over RSocket", func(t *testing.T) { kotlinSocket(t, a, token) })
}

// newSDKApp starts an app with the sync config that SDKs are tested with.
func newSDKApp(t *testing.T) *testApp {
	t.Helper()
	sync, err := os.ReadFile(filepath.Join(sdkFolder, "sync.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return newApp(t, string(sync), "")
}

// post opens a stream. Nothing is added to the header.
func (a *testApp) post(t *testing.T, header map[string]string, body []byte) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(patient(t), http.MethodPost, a.url()+"/sync/stream", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range header {
		req.Header.Set(name, value)
	}
	client := http.Client{Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}}
	answer, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { answer.Body.Close() })
	return answer
}

// download returns the lines of a first sync up to its end.
func (a *testApp) download(t *testing.T, token string) string {
	t.Helper()
	answer := a.post(t, map[string]string{"Authorization": "Token " + token, "Content-Type": "application/json"}, []byte(`{"raw_data":true}`))
	defer answer.Body.Close()
	var all strings.Builder
	buffer := make([]byte, 4096)
	for !strings.Contains(all.String(), `"checkpoint_complete"`) {
		n, err := answer.Body.Read(buffer)
		all.Write(buffer[:n])
		if err != nil {
			t.Fatalf("%v after %s", err, all.String())
		}
	}
	return all.String()
}

func (c *clientCase) run(t *testing.T, a *testApp, token string) {
	header := map[string]string{}
	for name, value := range c.Header {
		header[name] = strings.ReplaceAll(value, "{{token}}", token)
	}
	mark := len(a.service.output())
	answer := a.post(t, header, c.Body)
	if answer.StatusCode != 200 || answer.Header.Get("Content-Type") != c.Type || answer.Header.Get("Content-Encoding") != c.Encoding {
		t.Fatalf("status %d, header %v", answer.StatusCode, answer.Header)
	}
	for name, want := range map[string]string{"X-Accel-Buffering": "no", "Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "Content-Type"} {
		if got := answer.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	var body io.Reader = answer.Body
	var err error
	switch c.Encoding {
	case "gzip":
		body, err = gzip.NewReader(body)
	case "zstd":
		body, err = zstd.NewReader(body, zstd.WithDecoderConcurrency(1))
	}
	if err != nil {
		t.Fatal(err)
	}
	codec := protocol.JSONLines
	switch {
	case c.Type == protocol.BSONStreamType:
		codec = protocol.BSON
	case c.Data == "object":
		codec = protocol.JSONLinesEmbedded
	}
	var seen checkedLines
	for lines := protocol.NewReader(body, codec, 1<<20); !seen.complete; {
		line, err := lines.Next()
		if err != nil {
			t.Fatal(err)
		}
		seen.take(t, line)
	}
	if len(seen.sums) != c.Buckets {
		t.Errorf("%d buckets, want %d", len(seen.sums), c.Buckets)
	}
	answer.Body.Close()
	eventually(t, "the end is logged with the user agent", func() (bool, string) {
		log := a.service.output()[mark:]
		return matches(log, "stream ended.*user=ann") && strings.Contains(log, c.Agent), log
	})
}

// checkedLines is a first sync, with its sums checked as clients do.
type checkedLines struct {
	target   map[string]uint32
	sums     map[string]uint32
	complete bool
}

func (l *checkedLines) take(t *testing.T, line protocol.Line) {
	t.Helper()
	if _, first := line.(*protocol.Checkpoint); first != (l.target == nil) {
		t.Fatalf("got %T", line)
	}
	switch line := line.(type) {
	case *protocol.Checkpoint:
		l.target, l.sums = map[string]uint32{}, map[string]uint32{}
		for _, b := range line.Buckets {
			l.target[b.Name], l.sums[b.Name] = b.Checksum, 0
		}
	case *protocol.DataChunk:
		for _, op := range line.Ops {
			l.sums[line.Bucket] += op.Checksum
		}
	case *protocol.CheckpointComplete:
		l.complete = true
		if fmt.Sprint(l.target) != fmt.Sprint(l.sums) {
			t.Errorf("sums %v, want %v", l.sums, l.target)
		}
	}
}

// kotlinSocket talks as the Kotlin SDK does on engines without back-pressure.
func kotlinSocket(t *testing.T, a *testApp, token string) {
	ctx := patient(t)
	conn, _, err := websocket.Dial(ctx, strings.Replace(a.url(), "http", "ws", 1)+"/sync/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseNow() }()
	send := func(f rsocket.Frame) {
		t.Helper()
		if err := conn.Write(ctx, websocket.MessageBinary, f.Append(nil)); err != nil {
			t.Fatal(err)
		}
	}
	receive := func() rsocket.Frame {
		t.Helper()
		_, message, err := conn.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		f, err := rsocket.Parse(message)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	send(rsocket.Frame{Type: rsocket.Setup, Flags: rsocket.HasMetadata, Major: 1, KeepaliveInterval: 20_000, Lifetime: 30_000,
		MetadataType: rsocket.JSON, DataType: rsocket.JSON,
		Metadata: []byte(`{"token":"Bearer ` + token + `","user_agent":"powersync-kotlin/1.13.0 ios/17"}`), Data: []byte("{}")})
	send(rsocket.Frame{Stream: 1, Type: rsocket.RequestStream, Flags: rsocket.HasMetadata, N: 1, Metadata: []byte(`{"path":"/sync/stream"}`),
		Data: []byte(`{"buckets":[],"include_checksum":true,"raw_data":true,"client_id":"k","parameters":{},"streams":{"include_defaults":true,"subscriptions":[]}}`)})
	var seen checkedLines
	for !seen.complete {
		f := receive()
		if f.Type != rsocket.Payload || f.Flags != rsocket.Next || f.Stream != 1 {
			t.Fatalf("got %+v", f)
		}
		line, err := protocol.BSON.DecodeLine(f.Data)
		if err != nil {
			t.Fatal(err)
		}
		seen.take(t, line)
		send(rsocket.Frame{Stream: 1, Type: rsocket.RequestN, N: 1})
	}
	send(rsocket.Frame{Type: rsocket.Keepalive, Flags: rsocket.Respond, Data: make([]byte, 8)})
	if f := receive(); f.Type != rsocket.Keepalive || f.Flags != 0 || len(f.Data) != 8 {
		t.Errorf("got %+v", f)
	}
}
