package httpapi_test

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-sync/millrace/internal/httpapi"
	"github.com/millrace-sync/millrace/protocol"
)

// call makes one request without a socket.
func (s *service) call(method, target, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w
}

// refusal is the error of an answer's body.
type refusal struct {
	Code        string
	Status      int
	Description string
	Details     string
	Name        string
}

func refused(t *testing.T, w *httptest.ResponseRecorder) refusal {
	t.Helper()
	var body struct{ Error refusal }
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
		t.Fatalf("status %d, body %q: %v", w.Code, w.Body, err)
	}
	if body.Error.Status != w.Code {
		t.Errorf("body says status %d, header %d", body.Error.Status, w.Code)
	}
	if ct := w.Header().Get("Content-Type"); ct != "application/json; charset=utf-8" {
		t.Errorf("content type %q", ct)
	}
	return body.Error
}

const jsonType = "application/json"

func TestRefusals(t *testing.T) {
	s := newService(t, nil)
	good := "Token " + token(nil)
	for _, c := range []struct {
		name, method, path, body, authorization string
		status                                  int
		code, says                              string
	}{
		{"no token", "POST", "/sync/stream", "{}", "", 401, "PSYNC_S2106", ""},
		{"lower case scheme", "POST", "/sync/stream", "{}", strings.ToLower(good[:5]) + good[5:], 401, "PSYNC_S2106", ""},
		{"two spaces", "POST", "/sync/stream", "{}", "Token  " + good[6:], 401, "PSYNC_S2106", ""},
		{"basic", "POST", "/sync/stream", "{}", "Basic YTpi", 401, "PSYNC_S2106", ""},
		{"no JWT", "POST", "/sync/stream", "{}", "Token x", 401, "PSYNC_S2101", ""},
		{"other secret", "POST", "/sync/stream", "{}", "Token " + sign(claims{"sub": "ann"}, make([]byte, 32), "k"), 401, "PSYNC_S2101", ""},
		{"unknown key", "POST", "/sync/stream", "{}", "Token " + sign(claims{"sub": "ann"}, secret[:], "other"), 401, "PSYNC_S2101", ""},
		{"expired", "POST", "/sync/stream", "{}", "Token " + token(claims{"iat": 1, "exp": 2}), 401, "PSYNC_S2103", ""},
		{"too long", "POST", "/sync/stream", "{}", "Token " + token(claims{"exp": time.Now().Unix() + 100_000}), 401, "PSYNC_S2104", ""},
		{"other audience", "POST", "/sync/stream", "{}", "Token " + token(claims{"aud": "else"}), 401, "PSYNC_S2105", ""},
		{"no subject", "POST", "/sync/stream", "{}", "Token " + token(claims{"sub": nil}), 401, "PSYNC_S2101", ""},
		{"no JSON", "POST", "/sync/stream", "{", good, 400, "FST_ERR_CTP_INVALID_JSON_BODY", ""},
		{"empty", "POST", "/sync/stream", "", good, 400, "FST_ERR_CTP_EMPTY_JSON_BODY", ""},
		{"not valid", "POST", "/sync/stream", `{"buckets":[{"name":"a"}]}`, good, 400, "PSYNC_S2001", "/buckets/0 must have required property 'after'"},
		{"not valid and no token", "POST", "/sync/stream", `{"buckets":1}`, "", 400, "PSYNC_S2001", "/buckets"},
		{"null parameters", "POST", "/sync/stream", `{"parameters":null}`, good, 400, "PSYNC_S2001", "/parameters"},
		{"unknown path", "GET", "/nothing/here", "", good, 404, "PSYNC_S2002", "/nothing/here"},
		{"unknown method", "GET", "/sync/stream", "", good, 404, "PSYNC_S2002", "GET"},
		{"unknown path, no token", "POST", "/x", "{", "", 404, "PSYNC_S2002", "/x"},
		{"write checkpoint, no token", "GET", "/write-checkpoint2.json", "", "", 401, "PSYNC_S2106", ""},
		{"checkpoint request, not valid and no token", "POST", "/sync/checkpoint-request", `{"client_id":"c"}`, "", 400, "PSYNC_S2001", "checkpoint_request_id"},
		{"checkpoint request, zero", "POST", "/sync/checkpoint-request", `{"client_id":"c","checkpoint_request_id":0}`, good, 400, "PSYNC_S2001", "checkpoint_request_id"},
		{"checkpoint request, no token", "POST", "/sync/checkpoint-request", `{"client_id":"c","checkpoint_request_id":1}`, "", 401, "PSYNC_S2106", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := s.call(c.method, c.path, c.body, "Authorization", c.authorization, "Content-Type", jsonType)
			got := refused(t, w)
			if got.Status != c.status || got.Code != c.code || !strings.Contains(got.Description+got.Details, c.says) {
				t.Errorf("got %+v, want status %d, code %s and %q", got, c.status, c.code, c.says)
			}
			if w.Header().Get("Access-Control-Allow-Origin") != "*" {
				t.Error("a browser could not read this")
			}
			if strings.Contains(w.Body.String(), good[6:]) {
				t.Error("the token is in the answer")
			}
		})
	}
	if n := s.store.snapshots(); n != 0 {
		t.Errorf("%d snapshots are open", n)
	}
}

func TestPreflight(t *testing.T) {
	s := newService(t, nil)
	w := s.call("OPTIONS", "/sync/stream", "", "Origin", "http://app", "Access-Control-Request-Method", "POST")
	for name, want := range map[string]string{
		"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Methods": "GET, HEAD, POST", "Access-Control-Max-Age": "3600",
		"Access-Control-Allow-Headers": "Content-Type, Authorization, User-Agent, X-User-Agent", "Access-Control-Expose-Headers": "Content-Type",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if w.Code != 204 || w.Body.Len() != 0 {
		t.Errorf("status %d, body %q", w.Code, w.Body)
	}
	if w := s.call("OPTIONS", "/sync/stream", ""); w.Code != 400 {
		t.Errorf("without a method asked for: status %d", w.Code)
	}
}

func TestNoDeploy(t *testing.T) {
	s := newService(t, nil)
	s.redeploy(nil)
	w := s.call("POST", "/sync/stream", "{}", "Authorization", "Token "+token(nil), "Content-Type", jsonType)
	if got := refused(t, w); got.Status != 500 || got.Code != "PSYNC_S2302" {
		t.Errorf("got %+v", got)
	}
}

func TestDraining(t *testing.T) {
	s := newService(t, nil)
	close(s.drain)
	for _, c := range [][2]string{{"POST", "/sync/stream"}, {"GET", "/write-checkpoint2.json"}, {"POST", "/sync/checkpoint-request"}} {
		if got := refused(t, s.call(c[0], c[1], "{}", "Content-Type", jsonType)); got.Status != 503 || got.Code != "PSYNC_S2003" {
			t.Errorf("%s: %+v", c[1], got)
		}
	}
	if w := s.call("GET", "/probes/startup", ""); w.Code != 200 {
		t.Errorf("probe: status %d", w.Code)
	}
}

// A failure that is none of the client's business is told as such, before the
// stream has begun.
func TestFailures(t *testing.T) {
	s := newService(t, nil)
	s.store.fail = errors.New("the disk is on fire")
	w := s.call("POST", "/sync/stream", "{}", "Authorization", "Token "+token(nil), "Content-Type", jsonType)
	if got := refused(t, w); got.Status != 500 || got.Code != "PSYNC_S2001" || strings.Contains(w.Body.String(), "fire") {
		t.Errorf("got %+v", got)
	}
	s.fail = protocol.Errorf(protocol.ShuttingDown, "Try again.")
	w = s.call("GET", "/write-checkpoint2.json", "", "Authorization", "Token "+token(nil))
	if got := refused(t, w); got.Status != 503 {
		t.Errorf("got %+v", got)
	}
}

// Too many buckets are refused before the stream has begun.
func TestLimit(t *testing.T) {
	s := newService(t, func(c *httpapi.Config) { c.Limits.Buckets = 1 })
	body := `{"streams":{"include_defaults":true,"subscriptions":[{"stream":"all","parameters":{"x":"y"},"override_priority":null}]}}`
	w := s.call("POST", "/sync/stream", body, "Authorization", "Token "+token(nil), "Content-Type", jsonType)
	if got := refused(t, w); got.Status != 400 || got.Code != "PSYNC_S2305" || !strings.Contains(got.Description, "max_buckets_per_connection") {
		t.Errorf("got %+v", got)
	}
}

func TestProbes(t *testing.T) {
	s := newService(t, nil)
	at := time.Date(2026, 3, 1, 12, 0, 0, 5e6, time.UTC)
	for _, c := range []struct {
		name                         string
		started, ready               bool
		touched                      time.Time
		startup, readiness, liveness int
	}{
		{"fine", true, true, time.Now(), 200, 200, 200},
		{"starting", false, false, time.Now(), 400, 400, 200},
		{"trouble", true, false, time.Now(), 200, 400, 200},
		{"stuck", true, true, at, 200, 200, 400},
	} {
		s.status.Started, s.status.Ready, s.status.Touched, s.status.Reason = c.started, c.ready, c.touched, "why"
		for path, want := range map[string]int{"startup": c.startup, "readiness": c.readiness, "liveness": c.liveness} {
			w := s.call("GET", "/probes/"+path, "")
			if w.Code != want {
				t.Errorf("%s: %s has status %d, want %d", c.name, path, w.Code, want)
			}
		}
	}
	w := s.call("GET", "/probes/liveness", "")
	if got, want := w.Body.String(), `{"ready":true,"started":true,"touched_at":"2026-03-01T12:00:00.005Z","reason":"why"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestWriteCheckpoints(t *testing.T) {
	s := newService(t, nil)
	authorization := "Bearer " + token(nil)
	for _, c := range []struct{ method, path, body, want string }{
		{"GET", "/write-checkpoint2.json", "", `{"data":{"write_checkpoint":"1"}}`},
		{"GET", "/write-checkpoint2.json", "", `{"data":{"write_checkpoint":"2"}}`},
		{"GET", "/write-checkpoint2.json?client_id=c", "", `{"data":{"write_checkpoint":"1"}}`},
		{"POST", "/sync/checkpoint-request", `{"client_id":"c","checkpoint_request_id":"5"}`, `{"data":{"checkpoint_request_id":"5"}}`},
		{"POST", "/sync/checkpoint-request", `{"client_id":"c","checkpoint_request_id":3}`, `{"data":{"checkpoint_request_id":"5"}}`},
		{"GET", "/write-checkpoint2.json?client_id=c", "", `{"data":{"write_checkpoint":"6"}}`},
	} {
		w := s.call(c.method, c.path, c.body, "Authorization", authorization, "Content-Type", jsonType)
		if w.Code != http.StatusOK || w.Body.String() != c.want {
			t.Errorf("%s %s: status %d, %s, want %s", c.method, c.path, w.Code, w.Body, c.want)
		}
	}
}

// Connections that do nothing are bounded too, together with streams; who comes
// when one has gone finds its place.
func TestSocketsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, func(c *httpapi.Config) { c.Sockets = 3 })
		client, listener, stop := s.serve()
		defer stop()
		l := stream(t, client, token(nil), `{}`)
		defer l.resp.Body.Close()
		l.want(`{"checkpoint":`, `{"checkpoint_complete":`)
		dial := func() net.Conn {
			conn, err := listener.dial(t.Context(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			return conn
		}
		cut := func(c net.Conn) bool {
			synctest.Wait()
			_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
			_, err := c.Read(make([]byte, 1))
			return errors.Is(err, io.EOF)
		}
		silent := []net.Conn{dial(), dial()}
		if cut(silent[0]) || cut(silent[1]) {
			t.Error("a connection within the limit was closed")
		}
		if !cut(dial()) {
			t.Error("a connection beyond the limit was not closed")
		}
		silent[0].Close()
		synctest.Wait()
		if cut(dial()) {
			t.Error("a connection was closed though another had gone")
		}
		l.resp.Body.Close()
		synctest.Wait()
		if cut(dial()) {
			t.Error("a connection was closed though a stream had ended")
		}
	})
}
