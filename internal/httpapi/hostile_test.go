package httpapi_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/millrace-sync/millrace/internal/httpapi"
	"github.com/millrace-sync/millrace/internal/rsocket"
)

// Whatever a client announces and does not send, it is answered and its connection
// ends in bounded time, also where no route reads the body.
func TestBodiesThatDoNotCome(t *testing.T) {
	const readTime = 30 * time.Second
	for _, c := range []struct {
		request string
		status  int
		after   time.Duration // the answer
	}{
		{"GET /write-checkpoint2.json HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n", 401, readTime},
		{"GET /write-checkpoint2.json HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 401, readTime},
		{"PUT /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{", 404, readTime},
		{"GET /probes/liveness HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n", 200, readTime},
		{"OPTIONS /sync/stream HTTP/1.1\r\nHost: x\r\nAccess-Control-Request-Method: POST\r\nContent-Length: 10\r\n\r\n", 204, readTime},
		{"POST /sync/stream HTTP/1.1\r\nHost: x\r\nContent-Type: text/xml\r\nContent-Length: 10\r\n\r\n", 415, 0},
		{"POST /sync/stream HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", 400, readTime},
		{"POST /sync/stream HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", 400, readTime},
		{"POST /sync/stream HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n", 400, 0},
		{"POST /sync/checkpoint-request HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{", 400, readTime},
	} {
		t.Run(c.request, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newService(t, nil)
				_, listener, stop := s.serve()
				defer stop()
				conn, err := listener.dial(context.Background(), "", "")
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				start := time.Now()
				if _, err := io.WriteString(conn, c.request); err != nil {
					t.Fatal(err)
				}
				r := bufio.NewReader(conn)
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if d := time.Since(start); resp.StatusCode != c.status || d != c.after {
					t.Errorf("status %d after %s, want %d after %s", resp.StatusCode, d, c.status, c.after)
				}
				_ = conn.SetReadDeadline(time.Now().Add(time.Hour))
				if _, err := io.Copy(io.Discard, r); err != nil || time.Since(start) > time.Minute {
					t.Errorf("the connection lasted for %s, %v", time.Since(start), err)
				}
			})
		})
	}
}

// endless is a body of text that counts what is read of it.
type endless struct{ read int }

func (e *endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	e.read += len(b)
	return len(b), nil
}

// A stranger cannot make the service hold a large body; who has a token can send one
// up to the limit.
func TestLargeBodies(t *testing.T) {
	s := newService(t, func(c *httpapi.Config) { c.Limits.Buckets = 10_000 })
	for _, c := range []struct {
		name, authorization string
		status              int
		code                string
		most                int // bytes read
	}{
		{"no token", "", 401, "PSYNC_S2106", 100 << 10},
		{"forged token", "Token " + sign(claims{"sub": "ann"}, make([]byte, 32), "k"), 401, "PSYNC_S2101", 100 << 10},
		{"token", "Token " + token(nil), 413, "FST_ERR_CTP_BODY_TOO_LARGE", 8 << 20},
	} {
		body := &endless{}
		r := httptest.NewRequest("POST", "/sync/stream", body)
		r.Header.Set("Content-Type", jsonType)
		r.Header.Set("Authorization", c.authorization)
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		if got := refused(t, w); got.Status != c.status || got.Code != c.code || body.read > c.most {
			t.Errorf("%s: %+v after %d bytes, want %d %s", c.name, got, body.read, c.status, c.code)
		}
	}
}

// notes is the bucket of a user's notes, as a client names it in JSON.
func notes(user string) string { return `e.1#notes|0[\"` + user + `\"]` }

// What a client says of its positions is believed no further than it harms nobody: it
// gets what it lacks, and what comes later.
func TestPositions(t *testing.T) {
	mine := `{"name":"` + notes("ann") + `","after":"%s"}`
	many := strings.Repeat(`{"name":"e.1#notes|0[\"00000000-0000-0000-0000-000000000000\"]","after":"12345678"},`, 10_000)
	for name, c := range map[string]struct {
		buckets string
		first   string // the data line that comes first, if any
	}{
		"none":               {``, `{"data":{"bucket":"` + notes("ann") + `","after":"0"`},
		"behind":             {fmt.Sprintf(mine, "1"), `{"data":{"bucket":"` + notes("ann") + `","after":"1"`},
		"there":              {fmt.Sprintf(mine, "3"), ``},
		"ahead":              {fmt.Sprintf(mine, "4"), ``},
		"largest":            {fmt.Sprintf(mine, "9223372036854775807"), ``},
		"twice":              {fmt.Sprintf(mine+","+mine, "1", "1"), `{"data":{"bucket":"` + notes("ann") + `","after":"1"`},
		"unknown":            {`{"name":"gone","after":"7"},{"name":"","after":"0"}`, `{"data":{"bucket":"` + notes("ann") + `","after":"0"`},
		"of another":         {`{"name":"` + notes("bob") + `","after":"2"}`, `{"data":{"bucket":"` + notes("ann") + `","after":"0"`},
		"as many as allowed": {many + fmt.Sprintf(mine, "2"), `{"data":{"bucket":"` + notes("ann") + `","after":"2"`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newService(t, func(c *httpapi.Config) { c.Limits.Buckets = 10_000 })
				client, _, stop := s.serve()
				defer stop()
				s.commit("ann", 3, "")
				l := stream(t, client, token(nil), `{"buckets":[`+c.buckets+`]}`)
				defer l.resp.Body.Close()
				l.want(`{"checkpoint":{"last_op_id":"3","buckets":[{"bucket":"` + notes("ann") + `"`)
				if c.first != "" {
					l.want(c.first)
				}
				l.want(`{"checkpoint_complete":{"last_op_id":"3"}}`)
				s.commit("ann", 1, "later")
				l.want(`{"checkpoint_diff":`, `{"data":{"bucket":"`+notes("ann")+`","after":"3"`, `{"checkpoint_complete":{"last_op_id":"4"}}`)
			})
		})
	}
}

// deep is an object in so many others.
func deep(levels int) string {
	return strings.Repeat(`{"a":`, levels) + "1" + strings.Repeat("}", levels)
}

// Parameters of any depth are refused or served.
func TestDeepParameters(t *testing.T) {
	s := newService(t, nil)
	subscription := func(parameters string) string {
		return `{"streams":{"include_defaults":true,"subscriptions":[{"stream":"all","parameters":` + parameters + `,"override_priority":null}]}}`
	}
	for _, body := range []string{
		`{"parameters":` + deep(150_000) + `}`, `{"parameters":{"a":` + strings.Repeat("[", 500_000) + `}}`, subscription(deep(1000)),
	} {
		w := s.call("POST", "/sync/stream", body, "Authorization", "Token "+token(nil), "Content-Type", jsonType)
		if got := refused(t, w); got.Status != 400 {
			t.Errorf("%.100s: %+v", body, got)
		}
	}
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		l := stream(t, client, token(nil), `{"parameters":`+deep(90)+`}`)
		defer l.resp.Body.Close()
		l.want(`{"checkpoint":`, `{"checkpoint_complete":`)
	})
}

// What a client calls itself does not fill the log, and the key that is kept for it
// is short.
func TestLogIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := newService(t, func(c *httpapi.Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
		client, _, stop := s.serve()
		defer stop()
		long := strings.Repeat("x", 40_000)
		check := func(what string, lines int) {
			t.Helper()
			synctest.Wait()
			if n := strings.Count(log.String(), "\n"); n != lines || log.Len() > 12_000 {
				t.Errorf("%s: %d lines of %d bytes, want %d lines: %.1000s", what, n, log.Len(), lines, log.String())
			}
			log.Reset()
		}
		s.call("POST", "/sync/stream", "{}", "X-User-Agent", long, "Content-Type", jsonType)
		check("a user agent", 1)
		p := dial(t, client)
		defer p.close()
		p.setup(`{"token":"Token x","user_agent":"`+long+`"}`, nil)
		p.want("0: error 0x3 [PSYNC_S2101]")
		check("a socket's user agent", 1)
		var metadata []string
		for i := range 100 {
			metadata = append(metadata, fmt.Sprintf(`"key %d":%q`, i, strings.Repeat("y", 5000)))
		}
		l := stream(t, client, token(nil), `{"client_id":"`+long+`","app_metadata":{`+strings.Join(metadata, ",")+`}}`)
		l.want(`{"checkpoint":`, `{"checkpoint_complete":`)
		l.resp.Body.Close()
		check("a client's id and metadata", 1)
		s.call("POST", "/sync/checkpoint-request", `{"client_id":"`+long+`","checkpoint_request_id":"7"}`, "Authorization", "Token "+token(nil), "Content-Type", jsonType)
		for user := range s.store.writes {
			if len(user) > 300 {
				t.Errorf("a key of %d bytes is kept", len(user))
			}
		}
		l = stream(t, client, token(nil), `{"client_id":"`+long+`"}`)
		defer l.resp.Body.Close()
		l.want(`{"checkpoint":{"last_op_id":"0","write_checkpoint":"7"`)
	})
}

// The write checkpoints of one user are not those of another, whatever ids clients
// give themselves.
func TestUsersAreApart(t *testing.T) {
	s := newService(t, nil)
	seen := map[string]string{}
	for _, c := range [][2]string{{"a", ""}, {"a", "b"}, {"a/b", ""}, {"a", "b/c"}, {"a/b", "c"}, {"a%2Fb", ""}, {"a%2Fb", "c"}} {
		body := fmt.Sprintf(`{"client_id":%q,"checkpoint_request_id":1}`, c[1])
		before := len(s.store.writes)
		if w := s.call("POST", "/sync/checkpoint-request", body, "Authorization", "Token "+token(claims{"sub": c[0]}), "Content-Type", jsonType); w.Code != 200 {
			t.Fatal(w.Body)
		}
		if len(s.store.writes) == before {
			t.Errorf("user %q with client %q shares a numbering: %v", c[0], c[1], seen)
		}
		seen[c[0]] = c[1]
	}
}

// A socket that sends what it must not is closed, once in the log, and others go on.
func TestHostileSockets(t *testing.T) {
	write := func(p *peer, b []byte) {
		go func() { _ = p.conn.Write(context.Background(), websocket.MessageBinary, b) }()
	}
	zeros := rsocket.Frame{Stream: 1, Type: rsocket.RequestStream, N: 1, Data: make([]byte, 64<<20)}
	for name, c := range map[string]struct {
		attack func(p *peer)
		want   []string
		within time.Duration
	}{
		// What is sent is a hundred kilobytes.
		"inflating message": {func(p *peer) {
			p.setup(authorized(nil), nil)
			write(p, zeros.Append(nil))
		}, []string{"closed: 1009"}, 0},
		"large setup": {func(p *peer) {
			f := rsocket.Frame{Type: rsocket.Setup, Flags: rsocket.HasMetadata, Major: 1, KeepaliveInterval: 20_000, Lifetime: 90_000,
				MetadataType: rsocket.JSON, DataType: rsocket.JSON, Metadata: make([]byte, 1<<20)}
			write(p, f.Append(nil))
		}, []string{"closed: 1009"}, 0},
		"metadata longer than the frame": {func(p *peer) {
			p.setup(authorized(nil), nil)
			write(p, []byte{0, 0, 0, 1, 0x19, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff})
		}, []string{"0: error 0x101 ", "closed: 1000"}, 0},
		"request before setup": {func(p *peer) { p.request(1, 1, syncPath, `{}`) }, []string{"0: error 0x1 ", "closed: 1000"}, 0},
		"setup twice": {func(p *peer) {
			p.setup(authorized(nil), nil)
			p.setup(authorized(nil), nil)
		}, []string{"0: error 0x101 ", "closed: 1000"}, 0},
		"stream again": {func(p *peer) {
			p.setup(authorized(nil), nil)
			p.request(1, 10, syncPath, `{}`)
			p.want("1: Checkpoint", "1: CheckpointComplete")
			p.request(1, 10, syncPath, `{}`)
		}, []string{"0: error 0x101 ", "closed: 1000"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				s := newService(t, func(c *httpapi.Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
				client, _, stop := s.serve()
				defer stop()
				other := stream(t, client, token(claims{"sub": "bob"}), `{}`)
				defer other.resp.Body.Close()
				other.want(`{"checkpoint":`, `{"checkpoint_complete":`)
				p := dial(t, client)
				defer p.close()
				start := time.Now()
				c.attack(p)
				p.want(c.want...)
				if d := time.Since(start); d > c.within {
					t.Errorf("closed after %s", d)
				}
				s.commit("bob", 1, "")
				other.want(`{"checkpoint_diff":`, `{"data":`, `{"checkpoint_complete":`)
				s.idle()
				if n := strings.Count(log.String(), "socket failed"); n != 1 {
					t.Errorf("logged %d times: %s", n, log.String())
				}
			})
		})
	}
}

// Credit beyond what the protocol can count, and for streams that are not there,
// does no harm.
func TestSocketCredit(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		p := dial(t, client)
		defer p.close()
		p.setup(authorized(nil), nil)
		p.request(1, 1<<31-1, syncPath, `{}`)
		p.want("1: Checkpoint", "1: CheckpointComplete")
		for range 5 {
			p.send(rsocket.Frame{Stream: 1, Type: rsocket.RequestN, N: 1<<31 - 1})
			p.send(rsocket.Frame{Stream: 7, Type: rsocket.RequestN, N: 1<<31 - 1})
			p.send(rsocket.Frame{Stream: 7, Type: rsocket.Cancel})
		}
		synctest.Wait()
		s.commit("ann", 1, "")
		p.want("1: CheckpointDiff", "1: DataChunk", "1: CheckpointComplete")
	})
}

// A socket that is kept alive by pings alone, or sends a frame a byte at a time, is
// closed all the same.
func TestSocketTrickle(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		start := time.Now()
		p := dial(t, client)
		defer p.close()
		p.setup(authorized(nil), nil)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for p.conn.Ping(context.Background()) == nil {
				time.Sleep(time.Second) // of the bubble's time
			}
		}()
		p.want("closed: ")
		if d := time.Since(start); d > 3*time.Minute {
			t.Errorf("pings alone kept it for %s", d)
		}
		p.close()
		<-done
	})
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		_, listener, stop := s.serve()
		defer stop()
		conn, err := listener.dial(context.Background(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		go func() { _, _ = io.Copy(io.Discard, conn) }()
		opening := openSocket(false)
		if _, err := conn.Write(opening[:len(opening)-40]); err != nil { // the last frame is not whole
			t.Fatal(err)
		}
		start := time.Now()
		for {
			time.Sleep(20 * time.Second) // of the bubble's time
			if _, err := conn.Write([]byte{0}); err != nil {
				break
			}
			if time.Since(start) > 10*time.Minute {
				t.Fatal("a frame that came a byte at a time kept the socket")
			}
		}
		s.idle()
	})
}

// What a body may call itself, and that plain text is taken and not looked at.
func TestBodyTypes(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		for _, c := range []struct {
			contentType, body string
			status            int
		}{
			{"application/json", `{}`, 200},
			{"application/json; charset=utf-8", `{}`, 200},
			{"Application/JSON ;charset=UTF-8", `{}`, 200},
			{"", `{}`, 200},
			{"text/plain", `not JSON`, 200},
			{"text/plain;charset=UTF-8", `{"buckets":7}`, 200},
			{"text/plain", ``, 200},
			{"application/json", ``, 400},
			{"application/yaml", `{}`, 415},
			{"application/x-www-form-urlencoded", `a=b`, 415},
			{"application/jsonp", `{}`, 415},
		} {
			req, err := http.NewRequest("POST", "http://test/sync/stream", strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+token(nil))
			if c.contentType != "" {
				req.Header.Set("Content-Type", c.contentType)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != c.status {
				t.Errorf("%q with %q: status %d, want %d", c.contentType, c.body, resp.StatusCode, c.status)
			}
			if resp.StatusCode == 200 {
				l := &lines{t, resp, bufio.NewReader(resp.Body)}
				l.want(`{"checkpoint":`, `{"checkpoint_complete":`)
			}
			resp.Body.Close()
			synctest.Wait()
		}
	})
}
