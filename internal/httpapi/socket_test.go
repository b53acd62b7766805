package httpapi_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/millrace-sync/millrace/internal/httpapi"
	"github.com/millrace-sync/millrace/internal/rsocket"
	"github.com/millrace-sync/millrace/protocol"
)

// peer is the client's end of a socket.
type peer struct {
	t    *testing.T
	conn *websocket.Conn
	resp *http.Response
}

func dial(t *testing.T, client *http.Client) *peer {
	t.Helper()
	conn, resp, err := websocket.Dial(t.Context(), "ws://test/any/path", &websocket.DialOptions{
		HTTPClient: client, CompressionMode: websocket.CompressionNoContextTakeover,
	})
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadLimit(64 << 20)
	return &peer{t, conn, resp}
}

func (p *peer) close() { _ = p.conn.CloseNow() }

func (p *peer) send(f rsocket.Frame) {
	p.t.Helper()
	if err := p.conn.Write(context.Background(), websocket.MessageBinary, f.Append(nil)); err != nil {
		p.t.Fatal(err)
	}
}

// setup sends a setup frame like those of JavaScript clients.
func (p *peer) setup(metadata string, change func(*rsocket.Frame)) {
	f := rsocket.Frame{
		Type: rsocket.Setup, Flags: rsocket.HasMetadata, Major: 1, KeepaliveInterval: 20_000, Lifetime: 90_000,
		MetadataType: rsocket.JSON, DataType: rsocket.JSON, Metadata: []byte(metadata),
	}
	if change != nil {
		change(&f)
	}
	p.send(f)
}

func authorized(changes claims) string {
	return fmt.Sprintf(`{"token":"Token %s","user_agent":"powersync-js/1.3.0"}`, token(changes))
}

func (p *peer) request(stream, n uint32, metadata, data string) {
	p.send(rsocket.Frame{Stream: stream, Type: rsocket.RequestStream, Flags: rsocket.HasMetadata, N: n, Metadata: []byte(metadata), Data: []byte(data)})
}

const syncPath = `{"path":"/sync/stream"}`

// next returns what comes next: a line's kind, or a frame.
func (p *peer) next() string {
	p.t.Helper()
	_, b, err := p.conn.Read(context.Background())
	if err != nil {
		return fmt.Sprintf("closed: %d", websocket.CloseStatus(err))
	}
	f, err := rsocket.Parse(b)
	if err != nil {
		p.t.Fatal(err)
	}
	switch {
	case f.Type == rsocket.Payload && f.Flags == rsocket.Next:
		line, err := protocol.BSON.DecodeLine(f.Data)
		if err != nil {
			p.t.Fatal(err)
		}
		if e, ok := line.(*protocol.TokenExpiresIn); ok {
			return fmt.Sprintf("%d: expires in %d", f.Stream, e.Seconds)
		}
		return fmt.Sprintf("%d: %s", f.Stream, strings.TrimPrefix(fmt.Sprintf("%T", line), "*protocol."))
	case f.Type == rsocket.Payload && f.Flags == rsocket.Complete:
		return fmt.Sprintf("%d: end", f.Stream)
	case f.Type == rsocket.Error:
		return fmt.Sprintf("%d: error %#x %s", f.Stream, f.Code, f.Data)
	case f.Type == rsocket.Keepalive:
		return fmt.Sprintf("keepalive %#x %d %s", f.Flags, f.Position, f.Data)
	}
	return fmt.Sprintf("%+v", f)
}

func (p *peer) want(prefixes ...string) {
	p.t.Helper()
	for _, prefix := range prefixes {
		if got := p.next(); !strings.HasPrefix(got, prefix) {
			p.t.Fatalf("got %s, want %s…", got, prefix)
		}
	}
}

func TestSocket(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		s.commit("ann", 2, strings.Repeat("x", 2000))
		p := dial(t, client)
		defer p.close()
		if got := p.resp.Header.Get("Sec-WebSocket-Extensions"); !strings.HasPrefix(got, "permessage-deflate") {
			t.Errorf("extensions %q", got)
		}
		p.setup(authorized(nil), nil)
		p.request(1, 1, syncPath, `{"buckets":[],"raw_data":true,"client_id":"c"}`)
		p.want("1: Checkpoint")
		s.idle()
		// One line for each credit; what has to wait is sent first, then the news.
		p.send(rsocket.Frame{Type: rsocket.Keepalive, Flags: rsocket.Respond, Position: 5, Data: []byte("12345678")})
		p.want("keepalive 0x0 0 12345678")
		s.commit("ann", 1, "")
		s.idle()
		p.send(rsocket.Frame{Stream: 1, Type: rsocket.RequestN, N: 1})
		p.want("1: DataChunk")
		p.send(rsocket.Frame{Stream: 1, Type: rsocket.RequestN, N: 9})
		p.want("1: CheckpointComplete", "1: CheckpointDiff", "1: DataChunk", "1: CheckpointComplete")
		s.idle()
		// Another stream on the same socket, and the end of the first.
		p.request(3, 10, syncPath, `{}`)
		p.want("3: Checkpoint", "3: DataChunk", "3: CheckpointComplete")
		p.send(rsocket.Frame{Stream: 1, Type: rsocket.Cancel})
		s.idle()
		s.commit("ann", 1, "")
		p.want("3: CheckpointDiff", "3: DataChunk", "3: CheckpointComplete")
		close(s.drain)
		p.want("3: end", "closed: 1001")
	})
}

func TestSocketBSON(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		marshal := func(v any) string {
			b, err := bson.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
		p := dial(t, client)
		defer p.close()
		p.setup(marshal(bson.M{"token": "Bearer " + token(nil)}), func(f *rsocket.Frame) { f.MetadataType, f.DataType = rsocket.BSON, rsocket.BSON })
		p.request(1, 10, marshal(bson.M{"path": "/sync/stream"}), marshal(bson.M{"buckets": bson.A{}, "raw_data": true}))
		p.want("1: Checkpoint", "1: CheckpointComplete")
		p.request(3, 10, marshal(bson.M{"path": "/sync/stream"}), marshal(bson.M{"buckets": 7}))
		p.want("3: error 0x201 [PSYNC_S2001]")
		p.request(5, 10, marshal(bson.M{"path": "/sync/stream"}), "{}")
		p.want("5: error 0x201 [PSYNC_S2001]")
	})
}

func TestSocketRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		metadata string
		change   func(*rsocket.Frame)
		want     string
	}{
		"no scheme":   {`{"token":"x"}`, nil, "0: error 0x3 [PSYNC_S2106]"},
		"no token":    {`{}`, nil, "0: error 0x3 [PSYNC_S2106]"},
		"bad token":   {`{"token":"Token x"}`, nil, "0: error 0x3 [PSYNC_S2101]"},
		"expired":     {authorized(claims{"iat": 1, "exp": 2}), nil, "0: error 0x3 [PSYNC_S2103]"},
		"no metadata": {"", func(f *rsocket.Frame) { f.Flags = 0 }, "0: error 0x3 [PSYNC_S2101]"},
		"garbage":     {"{", nil, "0: error 0x3 [PSYNC_S2101]"},
		"media type":  {authorized(nil), func(f *rsocket.Frame) { f.DataType = "text/plain" }, "0: error 0x3 [PSYNC_S2004]"},
		"version":     {authorized(nil), func(f *rsocket.Frame) { f.Major = 2 }, "0: error 0x2 "},
		"no setup":    {authorized(nil), func(f *rsocket.Frame) { f.Type = rsocket.Cancel }, "0: error 0x1 "},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *service, client *http.Client) {
				p := dial(t, client)
				defer p.close()
				p.setup(c.metadata, c.change)
				p.want(c.want, "closed: 1000")
			})
		})
	}
	t.Run("connections", func(t *testing.T) {
		inBubble(t, func(t *testing.T, s *service, client *http.Client) {
			for i := range 4 {
				p := dial(t, client)
				defer p.close()
				p.setup(authorized(claims{"sub": fmt.Sprint("user", i)}), nil)
			}
			synctest.Wait()
			p := dial(t, client)
			defer p.close()
			p.setup(authorized(nil), nil)
			p.want("0: error 0x3 [PSYNC_S2304]", "closed: 1000")
		})
	})
	t.Run("text", func(t *testing.T) {
		inBubble(t, func(t *testing.T, s *service, client *http.Client) {
			p := dial(t, client)
			defer p.close()
			if err := p.conn.Write(t.Context(), websocket.MessageText, []byte("hello")); err != nil {
				t.Fatal(err)
			}
			p.want("0: error 0x101 ", "closed: 1000")
		})
	})
	t.Run("stopping", func(t *testing.T) {
		s := newService(t, nil)
		close(s.drain)
		w := s.call("GET", "/sync/stream", "", "Upgrade", "websocket", "Connection", "Upgrade")
		if got := refused(t, w); got.Status != 503 {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("no handshake", func(t *testing.T) {
		s := newService(t, nil)
		if w := s.call("GET", "/sync/stream", "", "Upgrade", "websocket", "Connection", "Upgrade"); w.Code != 400 {
			t.Errorf("status %d", w.Code)
		}
	})
}

// A request that cannot be served ends, and the socket goes on.
func TestSocketRequests(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		p := dial(t, client)
		defer p.close()
		p.setup(authorized(nil), nil)
		p.request(1, 10, `{"path":"/nothing"}`, `{}`)
		p.want("1: error 0x201 [PSYNC_S2002]")
		p.request(3, 10, syncPath, `{"parameters":null}`)
		p.want("3: error 0x201 [PSYNC_S2001]")
		p.request(5, 10, "", `{}`)
		p.want("5: error 0x201 [PSYNC_S2001]")
		current, _ := s.Current()
		s.redeploy(nil)
		p.request(7, 10, syncPath, `{}`)
		p.want("7: error 0x201 [PSYNC_S2302]")
		s.redeploy(current)
		p.request(9, 10, syncPath, `{}`)
		p.want("9: Checkpoint", "9: CheckpointComplete")
		s.redeploy(s.compile(strings.Replace(syncConfig, "SELECT *", "SELECT id", 1)))
		p.want("9: CheckpointDiff", "9: CheckpointComplete")
		s.redeploy(current)
		p.want("9: CheckpointDiff", "9: CheckpointComplete")
		p.send(rsocket.Frame{Stream: 9, Type: rsocket.Cancel})
		synctest.Wait()
		p.request(11, 10, syncPath, `{}`)
		p.want("11: Checkpoint", "11: CheckpointComplete")
		s.store.mu.Lock()
		s.store.fail = fmt.Errorf("the disk is on fire")
		s.store.mu.Unlock()
		s.commit("ann", 1, "")
		p.want("11: error 0x201 [PSYNC_S2001]")
		p.send(rsocket.Frame{Type: 0x20})
		p.want("0: error 0x101 ", "closed: 1000")
	})
}

// Sockets are told of the end of a token, and have no lines to keep them alive.
func TestSocketExpiry(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		start := time.Now()
		p := dial(t, client)
		defer p.close()
		p.setup(authorized(claims{"exp": start.Unix() + 60}), nil)
		p.request(1, 10, syncPath, `{}`)
		p.want("1: Checkpoint", "1: CheckpointComplete", "1: expires in 20")
		if d := time.Since(start); d != 40*time.Second {
			t.Errorf("told after %s", d)
		}
		p.want("1: expires in 0", "1: end")
		if d := time.Since(start); d != 60*time.Second {
			t.Errorf("ended after %s", d)
		}
	})
}

// A silent client is gone, and gives its place back.
func TestSocketLifetime(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		start := time.Now()
		p := dial(t, client)
		defer p.close()
		p.setup(authorized(nil), nil)
		p.request(1, 10, syncPath, `{}`)
		p.want("1: Checkpoint", "1: CheckpointComplete", "closed: ")
		if d := time.Since(start); d != 90*time.Second {
			t.Errorf("closed after %s", d)
		}
		silent := dial(t, client)
		defer silent.close()
		start = time.Now()
		silent.want("closed: ")
		if d := time.Since(start); d != 10*time.Second {
			t.Errorf("one that sends no setup is closed after %s", d)
		}
		if err := s.handler.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A client that is there and asks for nothing is cut off in the end; one that reads
// nothing too.
func TestSocketNeverAsking(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		s.commit("ann", 50_000, strings.Repeat("x", 100))
		start := time.Now()
		p := dial(t, client)
		defer p.close()
		p.setup(authorized(nil), nil)
		p.request(1, 2, syncPath, `{}`)
		p.want("1: Checkpoint", "1: DataChunk")
		s.idle()
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				time.Sleep(20 * time.Second) // of the bubble's time
				s.commit("ann", 1, "news wins it no time")
				nothing := rsocket.Frame{Stream: 1, Type: rsocket.RequestN}
				_ = p.conn.Write(context.Background(), websocket.MessageBinary, nothing.Append(nil)) // the next fails too
				f := rsocket.Frame{Type: rsocket.Keepalive, Flags: rsocket.Respond}
				if p.conn.Write(context.Background(), websocket.MessageBinary, f.Append(nil)) != nil {
					return
				}
			}
		}()
		p.want("keepalive", "keepalive")
		for got := p.next(); !strings.HasPrefix(got, "closed"); got = p.next() {
			if !strings.HasPrefix(got, "keepalive") {
				t.Fatalf("got %s", got)
			}
		}
		if d := time.Since(start); d != 60*time.Second {
			t.Errorf("closed after %s", d)
		}
		<-done
	})
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		s.commit("ann", 50_000, strings.Repeat("x", 100))
		p := dial(t, client)
		defer p.close()
		p.setup(authorized(nil), nil)
		p.request(1, 1000, syncPath, `{}`)
		time.Sleep(100 * time.Second) // of the bubble's time
		s.idle()
		if err := s.handler.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// Sockets that do not end by themselves are cut by Shutdown, and end in time.
func TestShutdown(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		p := dial(t, client)
		defer p.close()
		p.setup(authorized(nil), nil)
		p.request(1, 10, syncPath, `{}`)
		p.want("1: Checkpoint", "1: CheckpointComplete")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.handler.Shutdown(ctx); err != context.DeadlineExceeded {
			t.Errorf("got %v", err)
		}
		p.want("closed: ")
		s.idle()
		if _, _, err := websocket.Dial(t.Context(), "ws://test/", &websocket.DialOptions{HTTPClient: client}); err == nil {
			t.Error("a socket was opened after the end")
		}
	})
}

// A refusal is one line in the log, with what the token said and without the token.
func TestRefusalLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := newService(t, func(c *httpapi.Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
		client, _, stop := s.serve()
		defer stop()
		expired := token(claims{"sub": "eve", "iat": 1, "exp": 2})
		p := dial(t, client)
		defer p.close()
		p.setup(`{"token":"Token `+expired+`","user_agent":"app/1"}`, nil)
		p.want("0: error 0x3 [PSYNC_S2103]", "closed: 1000")
		synctest.Wait()
		check := func(where string) {
			t.Helper()
			text := log.String()
			if strings.Count(text, "\n") != 1 || !strings.Contains(text, "PSYNC_S2103") || !strings.Contains(text, "eve") || !strings.Contains(text, "app/1") {
				t.Errorf("%s: the log is %s", where, text)
			}
			if strings.Contains(text, expired[len(expired)-20:]) {
				t.Errorf("%s: the token is in the log", where)
			}
			log.Reset()
		}
		check("socket")
		s.call("POST", "/sync/stream", "{}", "Authorization", "Token "+expired, "User-Agent", "other/2", "X-User-Agent", "app/1")
		check("stream")
	})
}
