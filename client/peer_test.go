package client

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-sync/millrace/protocol"
)

// peer is a service that does what the test says. It is the transport of a client.
type peer struct {
	t *testing.T
	// streams yields each stream that a client opens.
	streams chan *peerStream
	mu      sync.Mutex
	// down fails every request for a stream, of which tries counts those.
	down  error
	tries int
	// refuse answers the next stream requests.
	refuse      []*http.Response
	checkpoints int
	// requests holds the checkpoint requests that have come; with noRequests it knows none.
	requests   []string
	noRequests bool
	// onCheckpoint runs while a write checkpoint is being asked for.
	onCheckpoint func()
}

// peerStream is an open stream.
type peerStream struct {
	request map[string]any
	header  http.Header
	token   string
	out     *io.PipeWriter
}

func (p *peer) RoundTrip(r *http.Request) (*http.Response, error) {
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	if r.URL.Path == "/base/write-checkpoint2.json" {
		p.mu.Lock()
		p.checkpoints++
		n, do := p.checkpoints, p.onCheckpoint
		p.onCheckpoint = nil
		p.mu.Unlock()
		if do != nil {
			do()
		}
		return answer(200, "application/json", fmt.Sprintf(`{"data":{"write_checkpoint":"%d"}}`, n)), nil
	}
	if r.URL.Path == "/base/sync/checkpoint-request" {
		return p.request(text)
	}
	p.mu.Lock()
	if p.down != nil {
		defer p.mu.Unlock()
		p.tries++
		return nil, p.down
	}
	if len(p.refuse) > 0 {
		resp := p.refuse[0]
		p.refuse = p.refuse[1:]
		p.mu.Unlock()
		return resp, nil
	}
	p.mu.Unlock()
	s := &peerStream{header: r.Header, token: strings.TrimPrefix(r.Header.Get("Authorization"), "Token ")}
	if err := json.Unmarshal(text, &s.request); err != nil || r.URL.Path != "/base/sync/stream" {
		p.t.Errorf("a request for %s with %q: %v", r.URL, text, err)
	}
	body, out := io.Pipe()
	s.out = out
	context.AfterFunc(r.Context(), func() { out.CloseWithError(r.Context().Err()) })
	select {
	case p.streams <- s:
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	resp := answer(200, "application/x-ndjson", "")
	resp.Body = body
	return resp, nil
}

// request answers a checkpoint request with the largest number.
func (p *peer) request(text []byte) (*http.Response, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, err := protocol.DecodeCheckpointRequest(text)
	switch {
	case err != nil:
		return nil, err
	case p.noRequests:
		return answer(404, "text/plain", "not found"), nil
	}
	p.requests = append(p.requests, fmt.Sprint(r.ID))
	p.checkpoints = max(p.checkpoints, int(r.ID))
	return answer(200, "application/json", fmt.Sprintf(`{"data":{"checkpoint_request_id":"%d"}}`, p.checkpoints)), nil
}

// requested returns the numbers of the checkpoint requests since the last call.
func (p *peer) requested() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := strings.Join(p.requests, " ")
	p.requests = nil
	return s
}

func answer(status int, contentType, body string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {contentType}}, Body: io.NopCloser(strings.NewReader(body))}
}

func (s *peerStream) send(t *testing.T, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if _, err := io.WriteString(s.out, l+"\n"); err != nil {
			t.Fatalf("send %s: %v", l, err)
		}
	}
	synctest.Wait()
}

// user is a connector whose answers the test sets.
type user struct {
	mu      sync.Mutex
	fetches int
	fetch   func(n int) (Credentials, error)
	upload  func(ctx context.Context, db *DB) error
}

func (u *user) FetchCredentials(context.Context) (Credentials, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.fetches++
	if u.fetch != nil {
		return u.fetch(u.fetches)
	}
	return Credentials{"http://peer/base/", fmt.Sprint("token ", u.fetches)}, nil
}

func (u *user) UploadData(ctx context.Context, db *DB) error {
	if u.upload != nil {
		return u.upload(ctx, db)
	}
	t, err := db.NextTransaction(ctx)
	if err != nil || t == nil {
		return err
	}
	return t.Complete(ctx)
}

// scripted runs a test in a bubble of fake time, in which nothing may be left running.
func scripted(t *testing.T, u *user, test func(t *testing.T, d *DB, p *peer)) {
	scriptedWith(t, u, &ConnectOptions{Parameters: map[string]any{"p": 1}}, test)
}

func scriptedWith(t *testing.T, u Connector, opts *ConnectOptions, test func(t *testing.T, d *DB, p *peer)) {
	synctest.Test(t, func(t *testing.T) {
		d, err := Open(t.Context(), filepath.Join(t.TempDir(), "ours.db"), todos, &Options{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		p := &peer{t: t, streams: make(chan *peerStream)}
		opts.Client = &http.Client{Transport: p}
		if err := d.Connect(u, opts); err != nil {
			t.Fatal(err)
		}
		test(t, d, p)
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
}

const (
	oneBucket = `{"checkpoint":{"last_op_id":"1","buckets":[{"bucket":"b","checksum":5,"count":1}],"streams":[]}}`
	oneRow    = `{"data":{"bucket":"b","data":[{"op_id":"1","op":"PUT","object_type":"todos","object_id":"x","checksum":5,"data":"{\"title\":\"milk\"}"}]}}`
	complete1 = `{"checkpoint_complete":{"last_op_id":"1"}}`
)

func titles(t *testing.T, d *DB) string {
	t.Helper()
	got, err := Get[sql.NullString](t.Context(), d, `SELECT group_concat(title ORDER BY id) FROM todos`)
	if err != nil {
		t.Fatal(err)
	}
	return got.String
}

func TestPeerSync(t *testing.T) {
	scripted(t, &user{}, func(t *testing.T, d *DB, p *peer) {
		s := <-p.streams
		synctest.Wait()
		if fmt.Sprint(s.request["parameters"]) != "map[p:1]" || s.token != "token 1" {
			t.Errorf("request %v with %s", s.request, s.token)
		}
		if st := d.Status(); !st.Connected || st.Connecting || st.Download != nil || st.HasSynced() {
			t.Errorf("status at first: %+v", st)
		}
		s.send(t, oneBucket)
		if st := d.Status(); len(st.Download) != 1 || st.Download[0] != (Progress{3, 1, 0}) {
			t.Errorf("status of the checkpoint: %+v", st)
		}
		s.send(t, `{"some_day":{}}`, oneRow)
		if st := d.Status(); st.Downloaded(3) != (Progress{3, 1, 1}) || titles(t, d) != "" {
			t.Errorf("status after the data: %+v, titles %s", st, titles(t, d))
		}
		s.send(t, complete1)
		if st := d.Status(); !st.HasSynced() || st.Download != nil || titles(t, d) != "milk" {
			t.Errorf("status when complete: %+v, titles %s", st, titles(t, d))
		}
		// The service ends the stream; five seconds later there is another, which goes on.
		ended := time.Now()
		s.out.Close()
		synctest.Wait()
		if st := d.Status(); st.Connected || st.DownloadError != nil {
			t.Errorf("status without a stream: %+v", st)
		}
		s = <-p.streams
		if took := time.Since(ended); took < 4500*time.Millisecond || took > 5500*time.Millisecond {
			t.Errorf("connected again after %v", took)
		}
		if fmt.Sprint(s.request["buckets"]) != "[map[after:1 name:b]]" {
			t.Errorf("the request goes on from %v", s.request["buckets"])
		}
		d.Disconnect()
		if st := d.Status(); st.Connected || st.Connecting || !st.HasSynced() {
			t.Errorf("status when disconnected: %+v", st)
		}
	})
}

// Whatever a service answers, the status says so, and the next attempt may succeed.
func TestPeerFailures(t *testing.T) {
	after := func(resp *http.Response, s string) *http.Response { resp.Header.Set("Retry-After", s); return resp }
	for name, tc := range map[string]struct {
		answer   *http.Response
		lines    []string
		want     string
		least    time.Duration
		newToken bool
	}{
		"401":               {answer: answer(401, "application/json", `{"error":{"code":"PSYNC_S2103","description":"the token has expired"}}`), want: "PSYNC_S2103", newToken: true},
		"403":               {answer: answer(403, "text/plain", "no"), want: "no"},
		"429":               {answer: after(answer(429, "text/plain", ""), "60"), want: "429", least: time.Minute},
		"503":               {answer: after(answer(503, "application/json", `{"error":{"code":"PSYNC_S2003"}}`), "100000"), want: "PSYNC_S2003", least: maxRetryAfter},
		"500":               {answer: answer(500, "text/html", strings.Repeat("x", 100_000)), want: "xxx"},
		"type":              {answer: answer(200, "text/html", "<p>Welcome"), want: `"text/html", not a sync stream`},
		"no JSON":           {lines: []string{"<p>"}, want: "protocol line"},
		"two keys":          {lines: []string{`{"data":{},"checkpoint":{}}`}, want: "protocol line"},
		"diff at first":     {lines: []string{`{"checkpoint_diff":{"last_op_id":"1","updated_buckets":[],"removed_buckets":[]}}`}, want: "before any checkpoint"},
		"complete at first": {lines: []string{complete1}, want: "before it began"},
		"wrong checksum":    {lines: []string{strings.Replace(oneBucket, ":5", ":6", 1), complete1}},
		"expired":           {lines: []string{`{"token_expires_in":0}`}, newToken: true},
	} {
		t.Run(name, func(t *testing.T) {
			u := &user{}
			scripted(t, u, func(t *testing.T, d *DB, p *peer) {
				s := <-p.streams
				s.send(t, oneBucket, oneRow, complete1)
				if tc.answer != nil {
					p.mu.Lock()
					p.refuse = []*http.Response{tc.answer}
					p.mu.Unlock()
					s.out.Close()
					time.Sleep(6 * time.Second) // fake time: the refused attempt
				} else {
					s.out.Close()
					s = <-p.streams
					for _, l := range tc.lines {
						_, _ = io.WriteString(s.out, l+"\n") // it may not read to the end
					}
				}
				synctest.Wait()
				begin := time.Now()
				st := d.Status()
				if got := fmt.Sprint(st.DownloadError); tc.want != "" && !strings.Contains(got, tc.want) {
					t.Errorf("status tells %s, want %s", got, tc.want)
				}
				if len(fmt.Sprint(st.DownloadError)) > 500 {
					t.Errorf("the error has %d characters", len(fmt.Sprint(st.DownloadError)))
				}
				if st.Connected || titles(t, d) != "milk" {
					t.Errorf("connected: %v; rows: %s", st.Connected, titles(t, d))
				}
				s = <-p.streams
				if took := time.Since(begin); took < tc.least-2*time.Second {
					t.Errorf("tried again after %v", took)
				}
				if got := s.token != "token 1"; got != tc.newToken {
					t.Errorf("the next attempt has %s", s.token)
				}
				s.send(t, oneBucket)
				if fmt.Sprint(s.request["buckets"]) == "[]" {
					s.send(t, oneRow)
				}
				s.send(t, complete1)
				if st := d.Status(); st.DownloadError != nil || !st.Connected {
					t.Errorf("status afterwards: %+v", st)
				}
			})
		})
	}
}

func TestPeerCredentials(t *testing.T) {
	u := &user{fetch: func(n int) (Credentials, error) {
		switch {
		case n <= 2:
			return Credentials{}, ErrSignedOut
		case n == 3:
			return Credentials{"gopher://x", "t"}, nil
		}
		return Credentials{"http://peer/base", fmt.Sprint("token ", n)}, nil
	}}
	scripted(t, u, func(t *testing.T, d *DB, p *peer) {
		synctest.Wait()
		if st := d.Status(); !errors.Is(st.DownloadError, ErrSignedOut) {
			t.Errorf("status: %+v", st)
		}
		time.Sleep(12 * time.Second)
		synctest.Wait()
		if st := d.Status(); st.DownloadError == nil || !strings.Contains(st.DownloadError.Error(), "no http or https URL") {
			t.Errorf("status: %v", st.DownloadError)
		}
		if s := <-p.streams; s.token != "token 4" {
			t.Errorf("connected with %s", s.token)
		}
	})
}

// New credentials are asked for ahead of time, and taken up without a gap.
func TestPeerPrefetch(t *testing.T) {
	u := &user{}
	scripted(t, u, func(t *testing.T, d *DB, p *peer) {
		s := <-p.streams
		s.send(t, oneBucket, oneRow, complete1, `{"token_expires_in":3000}`)
		// Credentials that are new are not renewed, however short they last.
		s.send(t, `{"token_expires_in":20}`)
		time.Sleep(time.Minute)
		begin := time.Now()
		if _, err := io.WriteString(s.out, `{"token_expires_in":20}`+"\n"); err != nil {
			t.Fatal(err)
		}
		next := <-p.streams
		if next.token != "token 2" || time.Since(begin) > time.Second {
			t.Errorf("the next stream has %s after %v", next.token, time.Since(begin))
		}
		synctest.Wait()
		if st := d.Status(); !st.Connected || st.DownloadError != nil {
			t.Errorf("status: %+v", st)
		}
	})
}

func TestPeerSilence(t *testing.T) {
	scripted(t, &user{}, func(t *testing.T, d *DB, p *peer) {
		s := <-p.streams
		s.send(t, `{"token_expires_in":3000}`)
		time.Sleep(silence + time.Second)
		synctest.Wait()
		if st := d.Status(); !errors.Is(st.DownloadError, errSilence) {
			t.Errorf("status: %+v", st)
		}
		<-p.streams
	})
}

func TestPeerUpload(t *testing.T) {
	var calls atomic.Int32
	fail := errors.New("the backend is down")
	u := &user{upload: func(ctx context.Context, db *DB) error {
		switch calls.Add(1) {
		case 1:
			return fail
		case 2:
			return nil // without having completed anything
		}
		b, err := db.NextBatch(ctx, 1)
		if err != nil {
			return err
		}
		return b.Complete(ctx)
	}}
	scripted(t, u, func(t *testing.T, d *DB, p *peer) {
		s := <-p.streams
		s.send(t, oneBucket, oneRow, complete1)
		time.Sleep(2 * time.Second)
		mustExec(t, d, `UPDATE todos SET title = 'mine'`)
		mustExec(t, d, `INSERT INTO todos(id, title) VALUES ('y', 'new')`)
		synctest.Wait()
		if st := d.Status(); !errors.Is(st.UploadError, fail) || calls.Load() != 1 {
			t.Errorf("after %d calls: %+v", calls.Load(), st)
		}
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if st := d.Status(); !errors.Is(st.UploadError, ErrNotCompleted) || calls.Load() != 2 {
			t.Errorf("after %d calls: %+v", calls.Load(), st)
		}
		// A write while the write checkpoint is asked for is not covered by it.
		p.mu.Lock()
		p.onCheckpoint = func() { mustExec(t, d, `INSERT INTO todos(id, title) VALUES ('z', 'late')`) }
		p.mu.Unlock()
		// What comes meanwhile must wait.
		s.send(t, `{"checkpoint_diff":{"last_op_id":"1","updated_buckets":[],"removed_buckets":[]}}`, complete1)
		if got := titles(t, d); got != "mine,new" {
			t.Errorf("rows: %s", got)
		}
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if st := d.Status(); st.UploadError != nil || st.Uploading || calls.Load() != 5 || p.checkpoints != 2 {
			t.Errorf("after %d calls and %d checkpoints: %+v", calls.Load(), p.checkpoints, st)
		}
		if got := titles(t, d); got != "mine,new,late" {
			t.Errorf("rows: %s", got)
		}
		// The first checkpoint does not let the server's rows in; the second does.
		s.send(t, `{"checkpoint_diff":{"last_op_id":"1","write_checkpoint":"1","updated_buckets":[],"removed_buckets":[]}}`, complete1)
		if got := titles(t, d); got != "mine,new,late" {
			t.Errorf("rows: %s", got)
		}
		s.send(t, `{"checkpoint_diff":{"last_op_id":"1","write_checkpoint":"2","updated_buckets":[],"removed_buckets":[]}}`, complete1)
		if got := titles(t, d); got != "milk" {
			t.Errorf("rows: %s", got)
		}
	})
}

// A subscription reaches the service at once, and lasts beyond its release.
func TestPeerSubscribe(t *testing.T) {
	scripted(t, &user{}, func(t *testing.T, d *DB, p *peer) {
		s := <-p.streams
		s.send(t, oneBucket, oneRow, complete1)
		subscriptions := func(s *peerStream) string {
			return fmt.Sprint(s.request["streams"].(map[string]any)["subscriptions"])
		}
		if got := subscriptions(s); got != "[]" {
			t.Errorf("at first: %s", got)
		}
		one := 1
		sub, err := d.Stream("list", map[string]any{"b": "<", "a": 2}).Subscribe(t.Context(), &SubscribeOptions{TTL: time.Minute, Priority: &one})
		if err != nil {
			t.Fatal(err)
		}
		s = <-p.streams
		want := "[map[override_priority:1 parameters:map[a:2 b:<] stream:list]]"
		if got := subscriptions(s); got != want {
			t.Errorf("subscriptions: %s, want %s", got, want)
		}
		s.send(t, `{"checkpoint":{"last_op_id":"1","buckets":[{"bucket":"b","checksum":5,"count":1,"subscriptions":[{"sub":0}]}],"streams":[{"name":"list","is_default":false,"errors":[]}]}}`, complete1)
		if err := sub.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if st := sub.stream.Status(); st == nil || !st.Active || st.Priority != 3 {
			t.Errorf("status: %+v", st)
		}
		// As long as it is held it does not expire.
		for range 6 {
			time.Sleep(20 * time.Second)
			s.send(t, `{"token_expires_in":3000}`)
		}
		sub.Release()
		sub.Release()
		time.Sleep(20 * time.Second)
		s.send(t, `{"token_expires_in":3000}`)
		time.Sleep(45 * time.Second)
		_, _ = io.WriteString(s.out, `{"token_expires_in":3000}`+"\n")
		s = <-p.streams
		if got := subscriptions(s); got != "[]" {
			t.Errorf("after its time: %s", got)
		}
		for _, o := range []*SubscribeOptions{{TTL: time.Millisecond}, {Priority: new(int)}} {
			if o.Priority != nil {
				*o.Priority = 4
			}
			if _, err := d.Stream("list", nil).Subscribe(t.Context(), o); err == nil {
				t.Errorf("subscribed with %+v", o)
			}
		}
		if _, err := d.Stream("list", map[string]any{"x": math.NaN()}).Subscribe(t.Context(), nil); err == nil {
			t.Error("subscribed with NaN")
		}
	})
}
