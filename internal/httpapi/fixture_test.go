package httpapi_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/millrace-sync/millrace/internal/auth"
	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/checkpoint"
	"github.com/millrace-sync/millrace/internal/deploy"
	"github.com/millrace-sync/millrace/internal/httpapi"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/streams"
)

// store is a store of one definition in memory.
type store struct {
	mu         sync.Mutex
	checkpoint storage.Checkpoint
	ops        map[storage.BucketKey][]bucket.Op
	writes     map[string]storage.WriteCheckpoint
	open       int // snapshots
	fail       error
	// reading, if set, is called before a bucket's operations are read.
	reading func(key storage.BucketKey, after bucket.OpID)
	// kept is the oldest checkpoint of which snapshots are kept.
	kept bucket.OpID
}

func (s *store) Snapshot() (httpapi.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return nil, s.fail
	}
	s.open++
	return &snapshot{store: s, checkpoint: s.checkpoint, ops: maps.Clone(s.ops)}, nil
}

func (s *store) WriteCheckpoint(user string) (storage.WriteCheckpoint, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w, ok := s.writes[user]
	return w, ok, nil
}

func (s *store) snapshots() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

type snapshot struct {
	store      *store
	checkpoint storage.Checkpoint
	ops        map[storage.BucketKey][]bucket.Op
}

func (v *snapshot) Close() {
	v.store.mu.Lock()
	defer v.store.mu.Unlock()
	v.store.open--
}

func (v *snapshot) Checkpoint() storage.Checkpoint { return v.checkpoint }

func (v *snapshot) BucketStates(keys []storage.BucketKey, out []bucket.State) error {
	for i, k := range keys {
		out[i] = bucket.State{}
		for j := range v.ops[k] {
			out[i] = out[i].Add(&v.ops[k][j])
		}
	}
	return nil
}

func (v *snapshot) Ops(key storage.BucketKey, after bucket.OpID, yield func(*bucket.Op) bool) error {
	if v.store.reading != nil {
		v.store.reading(key, after)
	}
	v.store.mu.Lock()
	expired := v.checkpoint.Op < v.store.kept
	v.store.mu.Unlock()
	for i := range v.ops[key] {
		if op := &v.ops[key][i]; op.ID > after && (!yield(op) || expired) {
			break
		}
	}
	if expired {
		return storage.ErrExpired
	}
	return nil
}

func (v *snapshot) Lookup(storage.LookupKey, func([]byte) error) error { return nil }

// service is a handler and everything that it hangs on.
type service struct {
	t       *testing.T
	store   *store
	hub     *checkpoint.Hub
	config  httpapi.Config
	handler *httpapi.Handler
	drain   chan struct{}

	mu       sync.Mutex
	deploy   *deploy.Deploy
	known    []storage.Definition // of every deploy compiled
	replaced chan struct{}
	status   httpapi.Status
	fail     error // of requests for write checkpoints
	lag      source.LSN
}

const syncConfig = `
config: {edition: 3}
streams:
  notes:
    auto_subscribe: true
    query: SELECT * FROM notes WHERE owner = auth.user_id()
  all:
    query: SELECT * FROM notes WHERE subscription.parameter('x') = 'y'
`

var secret = sha256.Sum256([]byte("secret"))

// newService returns a service with a deploy and nothing in its store; change may
// adapt its configuration.
func newService(t *testing.T, change func(*httpapi.Config)) *service {
	s := &service{
		t: t, hub: checkpoint.NewHub(storage.Checkpoint{}), drain: make(chan struct{}),
		store:    &store{ops: map[storage.BucketKey][]bucket.Op{}, writes: map[string]storage.WriteCheckpoint{}},
		replaced: make(chan struct{}),
		status:   httpapi.Status{Started: true, Ready: true, Touched: time.Now()},
	}
	s.deploy = s.compile(syncConfig)
	verifier, err := auth.New(auth.Config{
		Keys:     []jose.JSONWebKey{{Key: secret[:], KeyID: "k", Algorithm: "HS256"}},
		Audience: []string{"millrace"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(verifier.Close)
	s.config = httpapi.Config{
		Verifier: verifier, Store: s.store, Hub: s.hub, Deploys: s, WriteCheckpoints: s, Health: s,
		Limits: streams.Limits{Buckets: 10, LookupResults: 10}, Connections: 4, Draining: s.drain,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	if change != nil {
		change(&s.config)
	}
	s.handler = httpapi.New(s.config)
	return s
}

// compile returns the deploy of a sync config: its definitions have the ids that they
// had in those compiled before.
func (s *service) compile(text string) *deploy.Deploy {
	s.t.Helper()
	plan, diagnostics := streams.Compile(streams.Source{File: "sync.yaml", Text: text})
	if plan == nil {
		s.t.Fatal(streams.Format(diagnostics))
	}
	diff := deploy.Compare(s.known, nil, plan, storage.DefinitionID(len(s.known)+1))
	for _, i := range diff.New {
		if d := diff.Definitions[i]; int(d.ID) > len(s.known) {
			s.known = append(s.known, d)
		}
	}
	return deploy.New(plan, diff.Definitions, "e")
}

func (s *service) Current() (*deploy.Deploy, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deploy, s.replaced
}

// redeploy makes d current.
func (s *service) redeploy(d *deploy.Deploy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deploy = d
	close(s.replaced)
	s.replaced = make(chan struct{})
}

func (s *service) Status() httpapi.Status { return s.status }

// Request gives out write checkpoints that are reached lag LSNs after the newest.
func (s *service) Request(_ context.Context, user string, atLeast uint64) (uint64, error) {
	if s.fail != nil {
		return 0, s.fail
	}
	lsn := s.hub.Latest().LSN + s.lag
	s.store.mu.Lock()
	w := storage.WriteCheckpoint{ID: max(s.store.writes[user].ID+1, atLeast), LSN: lsn}
	if atLeast > 0 {
		w.ID = max(s.store.writes[user].ID, atLeast)
	}
	s.store.writes[user] = w
	s.store.mu.Unlock()
	s.hub.WriteCheckpoint(user, lsn)
	return w.ID, nil
}

// commit adds n notes of a user and publishes.
func (s *service) commit(user string, n int, body string) {
	s.store.mu.Lock()
	key := storage.BucketKey{Def: 1, Params: fmt.Sprintf("[%q]", user)}
	if s.deploy.BucketName(0, key.Params) != `e.1#notes|0["`+user+`"]` {
		key.Def = 2
	}
	// Snapshots share what they were given.
	ops := append([]bucket.Op(nil), s.store.ops[key]...)
	for range n {
		s.store.checkpoint.Op++
		id := s.store.checkpoint.Op.String()
		data := fmt.Appendf(nil, `{"id":%q,"body":%q}`, id, body)
		ops = append(ops, bucket.Op{ID: s.store.checkpoint.Op, Kind: bucket.Put, ObjectType: "notes", ObjectID: id,
			Checksum: bucket.PutChecksum(bucket.ContentHash("notes", id, data)), Data: data})
	}
	s.store.ops[key] = ops
	s.store.checkpoint.LSN++
	c := s.store.checkpoint
	s.store.mu.Unlock()
	s.hub.Publish(c, checkpoint.Changes{Buckets: []storage.BucketKey{key}})
}

// claims are a token's, good for an hour unless changed.
type claims map[string]any

func token(changes claims) string {
	c := claims{"sub": "ann", "aud": "millrace", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()}
	for k, v := range changes {
		if c[k] = v; v == nil {
			delete(c, k)
		}
	}
	return sign(c, secret[:], "k")
}

func sign(c claims, key []byte, kid string) string {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: key}, new(jose.SignerOptions).WithHeader("kid", kid))
	if err != nil {
		panic(err)
	}
	payload, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		panic(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		panic(err)
	}
	return text
}

// pipes is a listener without a network.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	a, b := net.Pipe()
	select {
	case p.conns <- a:
		return b, nil
	case <-p.done:
		return nil, errors.New("the server is closed")
	}
}

// serve starts a server over pipes and returns a client of it; everything has ended
// when stop returns.
func (s *service) serve() (client *http.Client, listener *pipes, stop func()) {
	listener = &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	web := httpapi.NewServer(s.handler, httpapi.DefaultBounds(), s.config.Log)
	var wg sync.WaitGroup
	wg.Go(func() { _ = web.Serve(listener) })
	transport := &http.Transport{DialContext: listener.dial, DisableCompression: true}
	return &http.Client{Transport: transport}, listener, func() {
		transport.CloseIdleConnections()
		_ = web.Close()
		now, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.handler.Shutdown(now)
		wg.Wait()
	}
}

// lines is an open stream.
type lines struct {
	t      *testing.T
	resp   *http.Response
	reader *bufio.Reader
}

// stream opens a stream that must be accepted.
func stream(t *testing.T, client *http.Client, tok, body string) *lines {
	t.Helper()
	req, err := http.NewRequest("POST", "http://test/sync/stream", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Token "+tok)
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 200 {
		b, _ := io.ReadAll(resp.Body)
		t.Fatalf("status %d: %s", resp.StatusCode, b)
	}
	return &lines{t, resp, bufio.NewReader(resp.Body)}
}

// next returns the next line, long ones shortened.
func (l *lines) next() string {
	l.t.Helper()
	b, err := l.reader.ReadBytes('\n')
	if err != nil {
		return "error: " + err.Error()
	}
	b = bytes.TrimSuffix(b, []byte("\n"))
	if len(b) > 300 {
		b = b[:300]
	}
	return string(b)
}

// want reads lines and compares their beginnings.
func (l *lines) want(prefixes ...string) {
	l.t.Helper()
	for _, p := range prefixes {
		if got := l.next(); !strings.HasPrefix(got, p) {
			l.t.Fatalf("got %s, want %s…", got, p)
		}
	}
}
