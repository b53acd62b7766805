package httpapi_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/httpapi"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/protocol"
)

// inBubble runs a test of streams under fake time.
func inBubble(t *testing.T, test func(t *testing.T, s *service, client *http.Client)) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		client, _, stop := s.serve()
		defer stop()
		test(t, s, client)
	})
}

// idle waits until every stream waits.
func (s *service) idle() {
	s.t.Helper()
	synctest.Wait()
	if n := s.store.snapshots(); n != 0 {
		s.t.Errorf("%d snapshots are open while nothing happens", n)
	}
}

func TestStream(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		s.commit("ann", 2, "a")
		l := stream(t, client, token(nil), `{"raw_data":true,"client_id":"c"}`)
		defer l.resp.Body.Close()
		for name, want := range map[string]string{
			"Content-Type": "application/x-ndjson", "X-Accel-Buffering": "no", "Access-Control-Allow-Origin": "*", "Content-Encoding": "",
		} {
			if got := l.resp.Header.Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		l.want(`{"checkpoint":{"last_op_id":"2"`, `{"data":{"bucket":"e.`, `{"checkpoint_complete":{"last_op_id":"2"}}`)
		s.idle()
		s.commit("bob", 1, "not hers")
		s.commit("ann", 1, "b")
		l.want(`{"checkpoint_diff":{"last_op_id":"4"`, `{"data":{"bucket":"e.`, `{"checkpoint_complete":{"last_op_id":"4"}}`)

		// A write checkpoint is told when its LSN is reached, not before.
		s.lag = 1
		w := s.call("GET", "/write-checkpoint2.json?client_id=c", "", "Authorization", "Token "+token(nil))
		if w.Code != 200 {
			t.Fatal(w.Body)
		}
		s.idle()
		s.commit("bob", 1, "moves the source on")
		l.want(`{"checkpoint_diff":{"last_op_id":"5","write_checkpoint":"1"`, `{"checkpoint_complete":`)
	})
}

// A write checkpoint that was asked for before the stream began, and is not reached
// yet, comes when it is.
func TestWriteCheckpointBeforeStream(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		s.lag = 2
		if w := s.call("GET", "/write-checkpoint2.json?client_id=c", "", "Authorization", "Token "+token(nil)); w.Code != 200 {
			t.Fatal(w.Body)
		}
		l := stream(t, client, token(nil), `{"client_id":"c"}`)
		defer l.resp.Body.Close()
		l.want(`{"checkpoint":{"last_op_id":"0","buckets"`, `{"checkpoint_complete":`)
		s.commit("bob", 1, "")
		s.idle()
		s.commit("bob", 1, "")
		l.want(`{"checkpoint_diff":{"last_op_id":"2","write_checkpoint":"1"`, `{"checkpoint_complete":`)
	})
}

// The keepalive tells how long the token lasts, and so does a notice before its
// end; then the stream ends in order.
func TestExpiry(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		start := time.Now()
		l := stream(t, client, token(claims{"exp": start.Unix() + 90}), `{}`)
		defer l.resp.Body.Close()
		l.want(`{"checkpoint":`, `{"checkpoint_complete":`)
		var at []int
		for {
			line := l.next()
			var left int
			if _, err := fmt.Sscanf(line, `{"token_expires_in":%d}`, &left); err != nil {
				t.Fatalf("got %s", line)
			}
			gone := time.Since(start)
			if want := int((90*time.Second - gone + time.Second - 1) / time.Second); left != max(want, 0) {
				t.Errorf("after %s the token lasts %d seconds, want %d", gone, left, want)
			}
			if left == 0 {
				if gone != 90*time.Second {
					t.Errorf("ended after %s", gone)
				}
				break
			}
			at = append(at, int(gone.Seconds()))
		}
		if at[0] < 18 || at[0] > 22 {
			t.Errorf("the first line came after %d s", at[0])
		}
		if i := len(at) - 1; !contains(at, 70) || at[i] > 90 {
			t.Errorf("lines came after %v s, none 20 s before the end", at)
		}
		l.want("error: EOF")
		if len(at) < 5 || len(at) > 6 {
			t.Errorf("lines came after %v s", at)
		}
	})
}

func contains(list []int, n int) bool {
	for _, m := range list {
		if m == n {
			return true
		}
	}
	return false
}

// A token that expired within the tolerance gets the last line at once.
func TestExpired(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		l := stream(t, client, token(claims{"iat": time.Now().Unix() - 60, "exp": time.Now().Unix() - 5}), `{}`)
		defer l.resp.Body.Close()
		l.want(`{"token_expires_in":0}`, "error: EOF")
	})
}

func TestEnds(t *testing.T) {
	for name, end := range map[string]func(*service){
		"draining": func(s *service) { close(s.drain) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *service, client *http.Client) {
				l := stream(t, client, token(nil), `{}`)
				defer l.resp.Body.Close()
				l.want(`{"checkpoint":`, `{"checkpoint_complete":`)
				s.idle()
				end(s)
				l.want("error: EOF")
			})
		})
	}
}

// A stream goes on by a new deploy: buckets that both deploys have are not sent again,
// and a client that nothing changes for hears nothing.
func TestRedeploy(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		s.commit("ann", 3, "")
		l := stream(t, client, token(nil), `{}`)
		defer l.resp.Body.Close()
		l.want(`{"checkpoint":`, `{"data":`, `{"checkpoint_complete":`)
		s.idle()
		s.redeploy(s.compile(syncConfig))
		s.idle()
		s.redeploy(s.compile(strings.Replace(syncConfig, "all:", "added: {auto_subscribe: true, query: SELECT id FROM tags}\n  all:", 1)))
		l.want(`{"checkpoint":{"last_op_id":"3","buckets":[{"bucket":"e.1#notes|0[\"ann\"]","checksum":-2137732793,"count":3,"priority":3,`+
			`"subscriptions":[{"default":0}]},{"bucket":"e.3#added|0[]","checksum":0,"count":0,`, `{"checkpoint_complete":`)
		s.redeploy(s.compile(strings.Replace(syncConfig, "SELECT *", "SELECT id", 1)))
		l.want(`{"checkpoint":{"last_op_id":"3","buckets":[{"bucket":"e.4#notes|0[\"ann\"]","checksum":0,"count":0,`, `{"checkpoint_complete":`)
		s.redeploy(s.compile(syncConfig))
		l.want(`{"checkpoint_diff":{"last_op_id":"3","removed_buckets":["e.4#notes|0[\"ann\"]"],"updated_buckets":[{"bucket":"e.1#notes`,
			`{"data":`, `{"checkpoint_complete":`)
	})
}

// A new deploy interrupts a long checkpoint.
func TestRedeployWhileSending(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		s.commit("ann", 50_000, strings.Repeat("x", 100))
		l := stream(t, client, token(nil), `{}`)
		defer l.resp.Body.Close()
		l.want(`{"checkpoint":`, `{"data":`)
		s.redeploy(s.compile(strings.Replace(syncConfig, "SELECT *", "SELECT id", 1)))
		line := l.next()
		for ; strings.HasPrefix(line, `{"data":`); line = l.next() {
		}
		if !strings.HasPrefix(line, `{"checkpoint_diff":{"last_op_id":"50000","removed_buckets":["e.1#notes|0[\"ann\"]"],`) {
			t.Fatalf("got %.200s", line)
		}
		l.want(`{"checkpoint_complete":`)
	})
}

// A stream in the middle of a long checkpoint ends too.
func TestEndsWhileSending(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		s.commit("ann", 50_000, strings.Repeat("x", 100))
		l := stream(t, client, token(nil), `{}`)
		defer l.resp.Body.Close()
		l.want(`{"checkpoint":`, `{"data":`)
		close(s.drain)
		for line := l.next(); line != "error: EOF"; line = l.next() {
			if !strings.HasPrefix(line, `{"data":`) {
				t.Fatalf("got %s", line)
			}
		}
		s.idle()
	})
}

// A failure in the middle of a stream cuts the connection: the client must not
// take what it has for the whole.
func TestFailureCuts(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		l := stream(t, client, token(nil), `{}`)
		defer l.resp.Body.Close()
		l.want(`{"checkpoint":`, `{"checkpoint_complete":`)
		s.store.mu.Lock()
		s.store.fail = io.ErrNoProgress
		s.store.mu.Unlock()
		s.commit("ann", 1, "")
		l.want("error: unexpected EOF")
	})
}

// A client that does not read is cut off, gives its place back, and has delayed
// nobody.
func TestNeverReading(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		s.commit("ann", 50_000, strings.Repeat("x", 100))
		start := time.Now()
		stuck := stream(t, client, token(nil), `{}`)
		defer stuck.resp.Body.Close()
		synctest.Wait()
		other := stream(t, client, token(claims{"sub": "bob"}), `{}`)
		defer other.resp.Body.Close()
		other.want(`{"checkpoint":`, `{"checkpoint_complete":`)
		s.commit("bob", 1, "")
		other.want(`{"checkpoint_diff":`, `{"data":`, `{"checkpoint_complete":`)
		if time.Since(start) != 0 {
			t.Errorf("the other had to wait for %s", time.Since(start))
		}
		time.Sleep(61 * time.Second) // of the bubble's time
		s.idle()
	})
}

// Large downloads wait for each other, user by user, and so do clients that begin. A
// small change for a client that is up to date waits for neither.
func TestFairness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, func(c *httpapi.Config) { c.Fetches = 2; c.Connections = 20 })
		proceed := make(chan struct{})
		var reading, most atomic.Int32
		s.store.reading = func(key storage.BucketKey, after bucket.OpID) {
			if !strings.Contains(key.Params, "large") || after == 0 {
				return
			}
			n := reading.Add(1)
			most.Store(max(most.Load(), n)) // two at once differ by nothing that matters
			<-proceed
			reading.Add(-1)
		}
		client, _, stop := s.serve()
		defer stop()
		open := func(user string) *lines {
			l := stream(t, client, token(claims{"sub": user}), `{}`)
			t.Cleanup(func() { l.resp.Body.Close() })
			l.want(`{"checkpoint":`, `{"checkpoint_complete":`)
			return l
		}
		small := open("bob")
		for i := range 5 {
			l := open(fmt.Sprint("large", i))
			go func() { _, _ = io.Copy(io.Discard, l.resp.Body) }()
		}
		for i := range 5 {
			s.commit(fmt.Sprint("large", i), 3000, "")
		}
		synctest.Wait()
		if n := reading.Load(); n != 2 {
			t.Errorf("%d large downloads read at once, want 2", n)
		}
		begun := make(chan struct{})
		go func() {
			open("late")
			close(begun)
		}()
		synctest.Wait()
		select {
		case <-begun:
			t.Error("a client began while both turns were taken")
		default:
		}
		s.commit("bob", 1, "")
		small.want(`{"checkpoint_diff":`, `{"data":`, `{"checkpoint_complete":`)
		for range 5 { // two turns end, the three downloads that came before have one each, then it is the late client's
			proceed <- struct{}{}
			synctest.Wait()
		}
		select {
		case <-begun:
		default:
			t.Error("a client waits for downloads to end")
		}
		close(proceed)
		s.idle()
		if most.Load() != 2 {
			t.Errorf("%d large downloads read at once, want 2", most.Load())
		}
	})
}

// A download that newer checkpoints interrupt goes on waiting for its turns.
func TestInterruptedDownloadsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, func(c *httpapi.Config) { c.Fetches = 1; c.Connections = 20 })
		proceed := make(chan struct{})
		var reading atomic.Int32
		s.store.reading = func(key storage.BucketKey, after bucket.OpID) {
			if after > 0 {
				reading.Add(1)
				<-proceed
				reading.Add(-1)
			}
		}
		client, _, stop := s.serve()
		defer stop()
		for _, user := range []string{"ann", "bob"} {
			l := stream(t, client, token(claims{"sub": user}), `{}`)
			defer l.resp.Body.Close()
			go func() { _, _ = io.Copy(io.Discard, l.resp.Body) }()
		}
		synctest.Wait()
		s.commit("ann", 6000, "")
		s.commit("bob", 6000, "")
		for range 4 {
			synctest.Wait()
			if n := reading.Load(); n != 1 {
				t.Fatalf("%d interrupted downloads read at once, want 1", n)
			}
			s.commit("ann", 1, "")
			s.commit("bob", 1, "")
			proceed <- struct{}{}
		}
		close(proceed)
		s.idle()
	})
}

// A client without chunks is served by the HTTP server itself.
func TestHTTP10(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		_, listener, stop := s.serve()
		defer stop()
		for _, encoding := range []string{"identity", "gzip", "zstd"} {
			conn, err := listener.dial(context.Background(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			request := fmt.Sprintf("POST /sync/stream HTTP/1.0\r\nAuthorization: Token %s\r\nAccept-Encoding: %s\r\nContent-Length: 2\r\n\r\n{}",
				token(claims{"exp": time.Now().Unix() + 10}), encoding)
			if _, err := io.WriteString(conn, request); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body := io.Reader(resp.Body)
			switch encoding {
			case "gzip":
				body, err = gzip.NewReader(body)
			case "zstd":
				body, err = zstd.NewReader(body)
			}
			if err != nil {
				t.Fatal(err)
			}
			l := &lines{t, resp, bufio.NewReader(body)}
			l.want(`{"checkpoint":`, `{"checkpoint_complete":`, `{"token_expires_in":10}`, `{"token_expires_in":0}`, "error: EOF")
		}
	})
}

// What a client sends after its request is not heard, and too much of it ends the
// stream.
func TestTalkingClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		_, listener, stop := s.serve()
		defer stop()
		conn, err := listener.dial(context.Background(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		request := fmt.Sprintf("POST /sync/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Token %s\r\nContent-Length: 2\r\n\r\n{}", token(nil))
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		l := &lines{t, resp, bufio.NewReader(resp.Body)}
		l.want(`{"checkpoint":`, `{"checkpoint_complete":`)
		if _, err := conn.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		s.commit("ann", 1, "")
		l.want(`{"checkpoint_diff":`, `{"data":`, `{"checkpoint_complete":`)
		if n, err := conn.Write(make([]byte, 1<<20)); err == nil || n > 70_000 {
			t.Errorf("%d bytes were taken, %v", n, err)
		}
		l.want("error: unexpected EOF")
		s.idle()
	})
}

// Streams beyond the limit get a bare 429; a place is free again when a stream ends.
func TestConnections(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		var open []*lines
		for i := range 4 {
			l := stream(t, client, token(claims{"sub": fmt.Sprint("user", i)}), `{}`)
			defer l.resp.Body.Close()
			l.want(`{"checkpoint":`, `{"checkpoint_complete":`)
			open = append(open, l)
		}
		w := s.call("POST", "/sync/stream", "{}", "Authorization", "Token "+token(nil), "Content-Type", jsonType)
		if w.Code != 429 || w.Body.Len() != 0 {
			t.Errorf("status %d, body %q", w.Code, w.Body)
		}
		// Who is to be refused anyway is told why.
		if got := refused(t, s.call("POST", "/sync/stream", "{}", "Content-Type", jsonType)); got.Status != 401 {
			t.Errorf("got %+v", got)
		}
		open[0].resp.Body.Close()
		synctest.Wait()
		l := stream(t, client, token(nil), `{}`)
		defer l.resp.Body.Close()
		l.want(`{"checkpoint":`)
	})
}

// Compressed lines arrive as soon as they are sent, and the body ends in order.
func TestCompression(t *testing.T) {
	for accept, unpack := range map[string]func(io.Reader) (io.Reader, error){
		"gzip": func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
		"zstd": func(r io.Reader) (io.Reader, error) {
			return zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		},
	} {
		t.Run(accept, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *service, client *http.Client) {
				s.commit("ann", 3000, strings.Repeat("x", 100))
				req, err := http.NewRequest("POST", "http://test/sync/stream", strings.NewReader(`{"raw_data":true}`))
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Authorization", "Token "+token(nil))
				req.Header.Set("Accept-Encoding", accept+", br")
				resp, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if got := resp.Header.Get("Content-Encoding"); got != accept {
					t.Fatalf("content encoding %q", got)
				}
				frames := &magicCounter{r: resp.Body}
				z, err := unpack(frames)
				if err != nil {
					t.Fatal(err)
				}
				l := &lines{t, resp, bufio.NewReader(z)}
				l.want(`{"checkpoint":`, `{"data":`, `{"data":`, `{"data":`, `{"checkpoint_complete":`)
				s.commit("ann", 1, "a")
				l.want(`{"checkpoint_diff":`, `{"data":`, `{"checkpoint_complete":`)
				close(s.drain)
				l.want("error: EOF")
				if frames.n > 1 { // some clients read no further than the first
					t.Errorf("%d zstd frames", frames.n)
				}
			})
		})
	}
}

// magicCounter counts the beginnings of zstd frames in what it passes on.
type magicCounter struct {
	r    io.Reader
	tail []byte
	n    int
}

func (c *magicCounter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.tail = append(c.tail, b[:n]...)
	c.n += bytes.Count(c.tail, []byte{0x28, 0xb5, 0x2f, 0xfd})
	c.tail = append([]byte(nil), c.tail[max(0, len(c.tail)-3):]...)
	return n, err
}

// A client that knows no write checkpoints waits for what it uploaded.
func TestCatchUp(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		s.commit("ann", 7, "")
		get := func() *httptest.ResponseRecorder {
			return s.call("GET", "/write-checkpoint.json", "", "Authorization", "Token "+token(nil))
		}
		if w := get(); w.Code != 200 || w.Body.String() != `{"data":{"checkpoint":"7"}}` {
			t.Errorf("status %d, %s", w.Code, w.Body)
		}
		s.lag = 2
		answers := make(chan *httptest.ResponseRecorder)
		go func() { answers <- get() }()
		synctest.Wait()
		s.commit("ann", 1, "")
		synctest.Wait()
		select {
		case <-answers:
			t.Error("answered too early")
		default:
		}
		s.commit("ann", 1, "")
		if w := <-answers; w.Code != 200 || w.Body.String() != `{"data":{"checkpoint":"9"}}` {
			t.Errorf("status %d, %s", w.Code, w.Body)
		}
		start := time.Now()
		if got := refused(t, get()); got.Status != 500 || time.Since(start) != 50*time.Second {
			t.Errorf("after %s: %+v", time.Since(start), got)
		}
		if got := refused(t, s.call("GET", "/write-checkpoint.json", "")); got.Status != 401 {
			t.Errorf("got %+v", got)
		}
	})
}

func TestBSON(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		s.commit("ann", 3, "a")
		req, err := http.NewRequest("POST", "http://test/sync/stream", strings.NewReader(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Token "+token(nil))
		req.Header.Set("Content-Type", jsonType)
		req.Header.Set("Accept", "application/vnd.powersync.bson-stream;q=0.9,application/x-ndjson;q=0.8")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if got := resp.Header.Get("Content-Type"); got != "application/vnd.powersync.bson-stream" {
			t.Errorf("content type %q", got)
		}
		r := protocol.NewReader(resp.Body, protocol.BSON, 1<<20)
		for _, want := range []string{"*protocol.Checkpoint", "*protocol.DataChunk", "*protocol.CheckpointComplete"} {
			line, err := r.Next()
			if err != nil || fmt.Sprintf("%T", line) != want {
				t.Fatalf("got %T, %v, want %s", line, err, want)
			}
		}
	})
}
