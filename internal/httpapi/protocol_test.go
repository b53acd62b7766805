package httpapi_test

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/klauspost/compress/zstd"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/millrace-sync/millrace/internal/httpapi"
	"github.com/millrace-sync/millrace/internal/rsocket"
	"github.com/millrace-sync/millrace/protocol"
)

// Small facts of routes other than the stream, and of refusals, each with the whole
// answer.
func TestAnswers(t *testing.T) {
	s := newService(t, nil)
	good := "Bearer " + token(nil)
	sized := func(size int) string { // a request of so many bytes
		const start, end = `{"client_id":"c","checkpoint_request_id":"9","more":"`, `"}`
		return start + strings.Repeat("x", size-len(start)-len(end)) + end
	}
	for _, c := range []struct {
		name, method, path, contentType, body string
		status                                int
		want                                  string // the body, or its beginning if it ends with …
	}{
		{"the largest body", "POST", "/sync/checkpoint-request", jsonType, sized(1 << 20), 200, `{"data":{"checkpoint_request_id":"9"}}`},
		{"a byte more", "POST", "/sync/checkpoint-request", jsonType, sized(1<<20 + 1), 413,
			`{"error":{"code":"FST_ERR_CTP_BODY_TOO_LARGE","status":413,"description":"Request body is too large: the limit is 1048576 bytes","name":"FastifyError"}}`},
		{"a lower number", "POST", "/sync/checkpoint-request", jsonType, `{"checkpoint_request_id":1,"client_id":"c"}`, 200, `{"data":{"checkpoint_request_id":"9"}}`},
		{"the shared numbering", "GET", "/write-checkpoint2.json?client_id=c", "", "", 200, `{"data":{"write_checkpoint":"10"}}`},
		{"another client", "GET", "/write-checkpoint2.json?client_id=d&client_id=c&x=1", "", "", 200, `{"data":{"write_checkpoint":"1"}}`},
		{"no client", "GET", "/write-checkpoint2.json", "", "", 200, `{"data":{"write_checkpoint":"1"}}`},
		{"an empty client", "GET", "/write-checkpoint2.json?client_id=", "", "", 200, `{"data":{"write_checkpoint":"2"}}`},
		{"a body where none is read", "GET", "/write-checkpoint2.json?client_id=e", jsonType, "{", 200, `{"data":{"write_checkpoint":"1"}}`},
		{"nothing to catch up with", "GET", "/write-checkpoint.json", "", "", 200, `{"data":{"checkpoint":"0"}}`},
		{"plain text has no members", "POST", "/sync/checkpoint-request", "text/plain", `{"client_id":"c","checkpoint_request_id":"1"}`, 400,
			`{"error":{"code":"PSYNC_S2001","status":400,"description":"Request does not have the form it must have; see the details",` +
				`"details":"[\" must have required property 'client_id'\",\" must have required property 'checkpoint_request_id'\"]","name":"ValidationError"}}`},
		{"an unknown path", "POST", "/nothing", jsonType, "{}", 404,
			`{"error":{"code":"PSYNC_S2002","status":404,"description":"The path does not exist on this server","details":"The path /nothing was not found for method POST","severity":"info","name":"RouteNotFound"}}`},
		{"an unknown method", "DELETE", "/sync/stream", "", "", 404, `{"error":{"code":"PSYNC_S2002",…`},
		{"an unknown method of a probe", "POST", "/probes/liveness", "", "", 404, `{"error":{"code":"PSYNC_S2002",…`},
		{"metrics elsewhere", "GET", "/metrics", "", "", 404, `{"error":{"code":"PSYNC_S2002",…`},
		{"a probe", "GET", "/probes/startup", "", "", 200, `{"ready":true,"started":true,"touched_at":"…`},
		{"no JSON", "POST", "/sync/stream", jsonType, "{", 400, `{"error":{"code":"FST_ERR_CTP_INVALID_JSON_BODY","status":400,"description":"Body is not valid JSON but content-type is set to 'application/json'",…`},
		{"nothing", "POST", "/sync/stream", jsonType, "", 400, `{"error":{"code":"FST_ERR_CTP_EMPTY_JSON_BODY","status":400,"description":"Body cannot be empty when content-type is set to 'application/json'","name":"FastifyError"}}`},
		{"another type", "POST", "/sync/stream", "application/xml", "<x/>", 415, `{"error":{"code":"FST_ERR_CTP_INVALID_MEDIA_TYPE","status":415,"description":"Unsupported Media Type: application/xml; send application/json","name":"FastifyError"}}`},
	} {
		w := s.call(c.method, c.path, c.body, "Authorization", good, "Content-Type", c.contentType)
		want, part := strings.CutSuffix(c.want, "…")
		if got := w.Body.String(); w.Code != c.status || !part && got != want || !strings.HasPrefix(got, want) {
			t.Errorf("%s: status %d %s\nwant %d %s", c.name, w.Code, got, c.status, c.want)
		}
		if got := w.Header().Get("Content-Type"); got != "application/json; charset=utf-8" {
			t.Errorf("%s: content type %q", c.name, got)
		}
	}
}

// Browsers may read every answer, whatever it is.
func TestCrossOrigin(t *testing.T) {
	full := newService(t, func(c *httpapi.Config) { c.Connections = 0 })
	stopping := newService(t, nil)
	close(stopping.drain)
	plain := newService(t, nil)
	ask := []string{"Origin", "http://app.example", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,content-type,x-user-agent"}
	for _, c := range []struct {
		name, method, path string
		s                  *service
		header             []string
		status             int
	}{
		{"refused", "POST", "/sync/stream", plain, nil, 400},
		{"served", "GET", "/probes/startup", plain, nil, 200},
		{"too many", "POST", "/sync/stream", full, []string{"Authorization", "Token " + token(nil), "Content-Type", "text/plain"}, 429},
		{"stopping", "POST", "/sync/stream", stopping, nil, 503},
		{"unknown", "GET", "/nothing", plain, nil, 404},
		{"preflight", "OPTIONS", "/sync/stream", plain, ask, 204},
		{"preflight of anything", "OPTIONS", "/nothing", plain, ask, 204},
		{"preflight while stopping", "OPTIONS", "/sync/stream", stopping, ask, 204},
		{"no preflight", "OPTIONS", "/sync/stream", plain, []string{"Origin", "http://app.example"}, 400},
	} {
		w := c.s.call(c.method, c.path, "", c.header...)
		if w.Code != c.status || w.Header().Get("Access-Control-Allow-Origin") != "*" || w.Header().Get("Access-Control-Expose-Headers") != "Content-Type" {
			t.Errorf("%s: status %d, header %v", c.name, w.Code, w.Header())
		}
		if c.status == 429 && w.Body.Len() != 0 {
			t.Errorf("%s: body %q", c.name, w.Body)
		}
	}
}

// open sends a request for a stream with the given header besides a good token.
func open(t *testing.T, client *http.Client, path, body string, header map[string]string) *http.Response {
	t.Helper()
	req, err := http.NewRequest("POST", "http://test"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Token "+token(nil))
	req.Header.Set("Content-Type", jsonType)
	for name, value := range header {
		req.Header.Set(name, value)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// Every form of lines in every compression, and rows in the form asked for.
func TestForms(t *testing.T) {
	const asText, asObject = `"data":"{\"id\":\"1\",\"body\":\"x\"}"`, `"data":{"id":"1","body":"x"}`
	for accept, contentType := range map[string]string{
		"": protocol.NDJSONType, "*/*": protocol.NDJSONType, protocol.NDJSONType: protocol.NDJSONType, "text/html": protocol.NDJSONType,
		protocol.BSONStreamType: protocol.BSONStreamType,
		protocol.BSONStreamType + ";q=0.9," + protocol.NDJSONType + ";q=0.8": protocol.BSONStreamType,
	} {
		for acceptEncoding, encoding := range map[string]string{"": "", "br": "", "gzip, deflate": "gzip", "gzip, zstd": "zstd", "*": "zstd", "zstd;q=0.5, gzip": "gzip"} {
			for raw, want := range map[string]string{`{"raw_data":true}`: asText, `{"raw_data":false}`: asObject, `{}`: asObject} {
				t.Run(strings.Join([]string{accept, acceptEncoding, raw}, " "), func(t *testing.T) {
					inBubble(t, func(t *testing.T, s *service, client *http.Client) {
						s.commit("ann", 1, "x")
						// A query changes nothing.
						resp := open(t, client, "/sync/stream?raw_data=true&buckets=x", raw, map[string]string{"Accept": accept, "Accept-Encoding": acceptEncoding})
						defer resp.Body.Close()
						for name, want := range map[string]string{
							"Content-Type": contentType, "Content-Encoding": encoding, "X-Accel-Buffering": "no", "Vary": "",
							"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "Content-Type",
						} {
							if got := resp.Header.Get(name); got != want {
								t.Errorf("%s: %q, want %q", name, got, want)
							}
						}
						var body io.Reader = resp.Body
						var err error
						switch encoding {
						case "gzip":
							body, err = gzip.NewReader(body)
						case "zstd":
							body, err = zstd.NewReader(body, zstd.WithDecoderConcurrency(1))
						}
						if err != nil {
							t.Fatal(err)
						}
						if contentType == protocol.BSONStreamType {
							bsonRow(t, bufio.NewReader(body))
							return
						}
						l := &lines{t, resp, bufio.NewReader(body)}
						l.want(`{"checkpoint":`)
						if got := l.next(); !strings.Contains(got, want) {
							t.Errorf("got %s, want %s", got, want)
						}
						l.want(`{"checkpoint_complete":`)
					})
				})
			}
		}
	}
}

// bsonRow reads documents by a library of its own: the first two have one key each, and
// the row is text.
func bsonRow(t *testing.T, r *bufio.Reader) {
	t.Helper()
	for _, want := range []string{"checkpoint", "data", "checkpoint_complete"} {
		size, err := r.Peek(4)
		if err != nil {
			t.Fatal(err)
		}
		doc := make([]byte, binary.LittleEndian.Uint32(size))
		if _, err := io.ReadFull(r, doc); err != nil {
			t.Fatal(err)
		}
		elements, err := bson.Raw(doc).Elements()
		if err != nil || len(elements) != 1 || elements[0].Key() != want {
			t.Fatalf("got %s, %v, want %s", bson.Raw(doc), err, want)
		}
		if want != "data" {
			continue
		}
		row, err := bson.Raw(doc).LookupErr("data", "data", "0", "data")
		if text, ok := row.StringValueOK(); err != nil || !ok || text != `{"id":"1","body":"x"}` {
			t.Errorf("the row is %s, %v", row, err)
		}
	}
}

// A data line ends at 1,000 operations, and with the operation that reaches 1 MiB.
func TestChunkSizes(t *testing.T) {
	for name, c := range map[string]struct {
		rows, size int
		want       []int // operations in each line
	}{
		"many":      {2500, 10, []int{1000, 1000, 500}},
		"just many": {1000, 10, []int{1000}},
		"large":     {5, 600 << 10, []int{2, 2, 1}},
		"huge":      {3, 3 << 20, []int{1, 1, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *service, client *http.Client) {
				s.commit("ann", c.rows, strings.Repeat("x", c.size))
				resp := open(t, client, "/sync/stream", `{"raw_data":true}`, nil)
				defer resp.Body.Close()
				r := protocol.NewReader(resp.Body, protocol.JSONLines, 64<<20)
				var got []int
				var after uint64
				for {
					line, err := r.Next()
					if err != nil {
						t.Fatal(err)
					}
					if data, ok := line.(*protocol.DataChunk); ok {
						got = append(got, len(data.Ops))
						if more := len(got) < len(c.want); data.HasMore != more || data.After != after || data.NextAfter != data.Ops[len(data.Ops)-1].ID {
							t.Errorf("line %d: has_more %v, after %d, next_after %d", len(got), data.HasMore, data.After, data.NextAfter)
						}
						after = data.NextAfter
					}
					if _, ok := line.(*protocol.CheckpointComplete); ok {
						break
					}
				}
				if fmt.Sprint(got) != fmt.Sprint(c.want) {
					t.Errorf("lines of %v operations, want %v", got, c.want)
				}
			})
		})
	}
}

// Of several write checkpoints that a client asks for while the source lags, it is told
// of the newest when that is reached, and of those with numbers of its own likewise.
func TestWriteCheckpointsInStream(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		ask := func(path, body string) {
			t.Helper()
			method := "GET"
			if body != "" {
				method = "POST"
			}
			if w := s.call(method, path, body, "Authorization", "Token "+token(nil), "Content-Type", jsonType); w.Code != 200 {
				t.Fatal(w.Body)
			}
		}
		mine, other := stream(t, client, token(nil), `{"client_id":"c"}`), stream(t, client, token(nil), `{"client_id":"other"}`)
		defer mine.resp.Body.Close()
		defer other.resp.Body.Close()
		for _, l := range []*lines{mine, other} {
			l.want(`{"checkpoint":{"last_op_id":"0","buckets"`, `{"checkpoint_complete":`)
		}
		s.lag = 1
		ask("/write-checkpoint2.json?client_id=c", "")
		s.lag = 2
		ask("/write-checkpoint2.json?client_id=c", "")
		s.commit("bob", 1, "")
		s.idle()
		s.commit("bob", 1, "")
		mine.want(`{"checkpoint_diff":{"last_op_id":"2","write_checkpoint":"2","removed_buckets":[],"updated_buckets":[]}}`, `{"checkpoint_complete":`)
		s.lag = 0
		ask("/sync/checkpoint-request", `{"client_id":"c","checkpoint_request_id":"70"}`)
		mine.want(`{"checkpoint_diff":{"last_op_id":"2","write_checkpoint":"70",`, `{"checkpoint_complete":`)
		s.commit("ann", 1, "")
		mine.want(`{"checkpoint_diff":{"last_op_id":"3","write_checkpoint":"70",`, `{"data":`, `{"checkpoint_complete":`)
		other.want(`{"checkpoint_diff":{"last_op_id":"3","removed_buckets"`, `{"data":`, `{"checkpoint_complete":`)
	})
}

// What a client says of itself is in the line of the log that tells of its end.
func TestMetadataIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := newService(t, func(c *httpapi.Config) { c.Log = slog.New(slog.NewJSONHandler(&log, nil)) })
		client, _, stop := s.serve()
		defer stop()
		resp := open(t, client, "/sync/stream", `{"client_id":"c","app_metadata":{"version":"7"}}`, map[string]string{"User-Agent": "library/1", "X-User-Agent": "app/2"})
		l := &lines{t, resp, bufio.NewReader(resp.Body)}
		l.want(`{"checkpoint":`, `{"checkpoint_complete":`)
		resp.Body.Close()
		synctest.Wait()
		var entry struct {
			Msg, User   string
			ClientID    string            `json:"client_id"`
			UserAgent   string            `json:"user_agent"`
			AppMetadata map[string]string `json:"app_metadata"`
		}
		if err := json.Unmarshal(log.Bytes(), &entry); err != nil {
			t.Fatalf("%v: %s", err, log.String())
		}
		if entry.Msg != "stream ended" || entry.User != "ann" || entry.ClientID != "c" || entry.UserAgent != "app/2" || entry.AppMetadata["version"] != "7" {
			t.Errorf("the log is %s", log.String())
		}
	})
}

// A client that comes to need too much while it is connected is told so where there is
// a way, and cut off where there is none.
func TestLimitWhileConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, func(c *httpapi.Config) { c.Limits.Buckets = 1 })
		client, _, stop := s.serve()
		defer stop()
		l := stream(t, client, token(nil), `{}`)
		defer l.resp.Body.Close()
		l.want(`{"checkpoint":`, `{"checkpoint_complete":`)
		p := dial(t, client)
		defer p.close()
		p.setup(authorized(nil), nil)
		p.request(1, 10, syncPath, `{}`)
		p.want("1: Checkpoint", "1: CheckpointComplete")
		s.redeploy(s.compile(syncConfig + "  more: {auto_subscribe: true, query: SELECT * FROM notes}\n"))
		p.want("1: error 0x201 [PSYNC_S2305] ")
		l.want("error: unexpected EOF")
		p.request(3, 10, syncPath, `{"streams":{"include_defaults":false,"subscriptions":[]}}`) // the socket goes on
		p.want("3: Checkpoint", "3: CheckpointComplete")
	})
}

// Metadata and data may be of either media type, each by itself.
func TestSocketMediaTypes(t *testing.T) {
	for _, metadata := range []string{rsocket.JSON, rsocket.BSON} {
		for _, data := range []string{rsocket.JSON, rsocket.BSON} {
			inBubble(t, func(t *testing.T, s *service, client *http.Client) {
				as := func(mediaType, text string) string {
					if mediaType == rsocket.JSON {
						return text
					}
					var doc bson.D
					if err := bson.UnmarshalExtJSON([]byte(text), false, &doc); err != nil {
						t.Fatal(err)
					}
					b, err := bson.Marshal(doc)
					if err != nil {
						t.Fatal(err)
					}
					return string(b)
				}
				p := dial(t, client)
				defer p.close()
				p.setup(as(metadata, authorized(nil)), func(f *rsocket.Frame) {
					f.MetadataType, f.DataType, f.Data = metadata, data, []byte("{}") // as Kotlin's has
				})
				p.request(1, 2, as(metadata, syncPath), as(data, `{"buckets":[{"name":"b","after":"1"}],"raw_data":true,"parameters":{"n":1}}`))
				p.want("1: Checkpoint", "1: CheckpointComplete")
			})
		}
	}
}

// The server says nothing by itself, however long a socket is quiet: keepalives are
// the client's. One that asks for no answer gets none.
func TestSocketIsQuiet(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		p := dial(t, client)
		defer p.close()
		p.setup(authorized(nil), nil)
		p.request(1, 10, syncPath, `{}`)
		p.want("1: Checkpoint", "1: CheckpointComplete")
		for range 20 {
			time.Sleep(time.Minute) // of the bubble's time
			p.send(rsocket.Frame{Type: rsocket.Keepalive})
		}
		s.commit("ann", 1, "")
		p.want("1: CheckpointDiff", "1: DataChunk", "1: CheckpointComplete")
	})
}

// A lifetime is kept within bounds, whatever a client asks for.
func TestSocketLifetimes(t *testing.T) {
	for asked, want := range map[uint32]time.Duration{1: 5 * time.Second, 30_000: 30 * time.Second, 90_000: 90 * time.Second, 1<<31 - 1: 10 * time.Minute} {
		inBubble(t, func(t *testing.T, s *service, client *http.Client) {
			p := dial(t, client)
			defer p.close()
			start := time.Now()
			p.setup(authorized(nil), func(f *rsocket.Frame) { f.Lifetime = asked })
			p.want("closed: ")
			if d := time.Since(start); d != want {
				t.Errorf("a lifetime of %d ms ended after %s, want %s", asked, d, want)
			}
		})
	}
}

// A token that has expired within the tolerance gets the last line only.
func TestSocketExpired(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		p := dial(t, client)
		defer p.close()
		p.setup(authorized(claims{"iat": time.Now().Unix() - 60, "exp": time.Now().Unix() - 5}), nil)
		p.request(1, 10, syncPath, `{}`)
		p.want("1: expires in 0", "1: end")
	})
}

// The line that tells of the end of a token takes a credit like any other.
func TestSocketExpiryWaitsForCredit(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		p := dial(t, client)
		defer p.close()
		p.setup(authorized(claims{"exp": time.Now().Unix() + 60}), nil)
		p.request(1, 2, syncPath, `{}`)
		p.want("1: Checkpoint", "1: CheckpointComplete")
		time.Sleep(50 * time.Second) // of the bubble's time
		p.send(rsocket.Frame{Type: rsocket.Keepalive, Flags: rsocket.Respond, Data: []byte("first")})
		p.want("keepalive 0x0 0 first")
		p.send(rsocket.Frame{Stream: 1, Type: rsocket.RequestN, N: 1})
		p.want("1: expires in 20")
	})
}

// Streams over HTTP and sockets take the same places.
func TestPlacesAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, func(c *httpapi.Config) { c.Connections = 2 })
		client, _, stop := s.serve()
		defer stop()
		l := stream(t, client, token(claims{"sub": "bob"}), `{}`)
		defer l.resp.Body.Close()
		l.want(`{"checkpoint":`, `{"checkpoint_complete":`)
		p := dial(t, client)
		defer p.close()
		p.setup(authorized(claims{"sub": "cleo"}), nil)
		synctest.Wait()
		if w := s.call("POST", "/sync/stream", "{}", "Authorization", "Token "+token(nil), "Content-Type", jsonType); w.Code != 429 {
			t.Errorf("status %d", w.Code)
		}
		late := dial(t, client)
		defer late.close()
		late.setup(authorized(nil), nil)
		late.want("0: error 0x3 [PSYNC_S2304]", "closed: 1000")
	})
}

// What goes over the wire of a socket: no subprotocol; compression only if it is
// offered and only of what is large; one RSocket frame in one message, however large.
func TestSocketMessages(t *testing.T) {
	for name, deflate := range map[string]bool{"plain": false, "deflate": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newService(t, nil)
				_, listener, stop := s.serve()
				defer stop()
				s.commit("ann", 1, strings.Repeat("x", 2<<20))
				conn, err := listener.dial(context.Background(), "", "")
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				go func() { _, _ = conn.Write(openSocket(deflate)) }()
				r := bufio.NewReader(conn)
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Fatal(err)
				}
				extensions := resp.Header.Get("Sec-Websocket-Extensions")
				if resp.StatusCode != 101 || resp.Header.Get("Sec-Websocket-Protocol") != "" {
					t.Fatalf("status %d, header %v", resp.StatusCode, resp.Header)
				}
				if want := map[bool]string{true: "permessage-deflate; client_no_context_takeover; server_no_context_takeover", false: ""}[deflate]; extensions != want {
					t.Errorf("extensions %q, want %q", extensions, want)
				}
				for _, want := range []struct {
					line  string
					large bool
				}{{"*protocol.Checkpoint", false}, {"*protocol.DataChunk", true}, {"*protocol.CheckpointComplete", false}} {
					message, packed := readMessage(t, r)
					if packed != (deflate && want.large) {
						t.Errorf("%s: compressed %v", want.line, packed)
					}
					f, err := rsocket.Parse(message)
					if err != nil || f.Type != rsocket.Payload || f.Flags != rsocket.Next || f.Stream != 1 || f.Metadata != nil {
						t.Fatalf("%v, %v", f.Flags, err)
					}
					line, err := protocol.BSON.DecodeLine(f.Data)
					if got := fmt.Sprintf("%T", line); err != nil || got != want.line || want.large != (len(f.Data) > 2<<20) {
						t.Errorf("got %s of %d bytes, %v, want %s", got, len(f.Data), err, want.line)
					}
				}
			})
		})
	}
}

// readMessage reads a binary message of a server, and tells whether it was compressed.
func readMessage(t *testing.T, r *bufio.Reader) (message []byte, packed bool) {
	t.Helper()
	for first := true; ; first = false {
		var head [2]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			t.Fatal(err)
		}
		if first {
			packed = head[0]&0x40 != 0
			if head[0]&0x0f != 2 {
				t.Fatalf("opcode %d", head[0]&0x0f)
			}
		}
		size := uint64(head[1])
		extended := make([]byte, map[uint64]int{126: 2, 127: 8}[size])
		if _, err := io.ReadFull(r, extended); err != nil {
			t.Fatal(err)
		}
		if len(extended) > 0 {
			size = 0
			for _, b := range extended {
				size = size<<8 | uint64(b)
			}
		}
		part := make([]byte, size)
		if _, err := io.ReadFull(r, part); err != nil {
			t.Fatal(err)
		}
		message = append(message, part...)
		if head[0]&0x80 != 0 {
			break
		}
	}
	if !packed {
		return message, false
	}
	tail := []byte{0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff}
	message, err := io.ReadAll(flate.NewReader(bytes.NewReader(append(message, tail...))))
	if err != nil {
		t.Fatal(err)
	}
	return message, true
}

// An upgrade is taken on any path, and the path of the request is what counts.
func TestSocketPaths(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		for _, path := range []string{"/", "/sync/stream", "/any/path?x=1", "/probes", "/write-checkpoint2.json"} {
			conn, resp, err := websocket.Dial(t.Context(), "ws://test"+path, &websocket.DialOptions{HTTPClient: client, Subprotocols: []string{"x"}})
			if err != nil {
				t.Fatal(err)
			}
			p := &peer{t, conn, resp}
			p.setup(authorized(nil), nil)
			p.request(1, 10, syncPath, `{}`)
			p.want("1: Checkpoint", "1: CheckpointComplete")
			p.close()
			synctest.Wait()
		}
	})
}
