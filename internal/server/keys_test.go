package server

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/millrace-sync/millrace/internal/auth/keys"
	"github.com/millrace-sync/millrace/internal/config"
)

// issuer is a host of a key set, which can be down.
type issuer struct {
	t       *testing.T
	address string

	mu     sync.Mutex
	keys   []jose.JSONWebKey
	server *http.Server
	ended  chan struct{}
}

func newIssuer(t *testing.T, ks ...jose.JSONWebKey) *issuer {
	i := &issuer{t: t, address: "127.0.0.1:0", keys: ks}
	i.up()
	t.Cleanup(i.down)
	return i
}

func (i *issuer) uri() string { return "http://" + i.address + "/jwks" }

// up starts the host, at the address that it had before.
func (i *issuer) up() {
	listener, err := net.Listen("tcp", i.address)
	if err != nil {
		i.t.Fatal(err)
	}
	i.address, i.ended = listener.Addr().String(), make(chan struct{})
	i.server = &http.Server{Handler: i}
	go func() {
		defer close(i.ended)
		_ = i.server.Serve(listener)
	}()
}

func (i *issuer) down() {
	_ = i.server.Close()
	<-i.ended
}

func (i *issuer) set(ks ...jose.JSONWebKey) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = ks
}

func (i *issuer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	var set jose.JSONWebKeySet
	for _, k := range i.keys {
		set.Keys = append(set.Keys, k.Public())
	}
	_ = json.NewEncoder(w).Encode(set)
}

func signingKey(t *testing.T, id string) jose.JSONWebKey {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return jose.JSONWebKey{Key: private, KeyID: id, Algorithm: string(jose.EdDSA), Use: "sig"}
}

// tokenBy signs a token of user u for an hour, with other claims if they are given.
func tokenBy(t *testing.T, k jose.JSONWebKey, change map[string]any) string {
	now := time.Now().Unix()
	claims := map[string]any{"sub": "u", "aud": "powersync", "iat": now, "exp": now + 3600}
	for name, value := range change {
		claims[name] = value
	}
	token, err := keys.Sign(k, claims)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// opened is an answer to a request for a stream: its lines, or why there are none.
type opened struct {
	t    *testing.T
	code string // "" if it is served
	r    *bufio.Reader
}

// open asks for a stream, which lasts no longer than patience.
func (in *instance) open(token string) *opened {
	in.t.Helper()
	ctx, cancel := context.WithTimeout(in.t.Context(), patience)
	in.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "POST", in.url+"/sync/stream", strings.NewReader(`{"raw_data":true}`))
	if err != nil {
		in.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Token "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		in.t.Fatal(err)
	}
	in.t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode == http.StatusOK {
		return &opened{t: in.t, r: bufio.NewReader(resp.Body)}
	}
	var body struct{ Error struct{ Code string } }
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		in.t.Fatal(err)
	}
	return &opened{t: in.t, code: body.Error.Code}
}

// untilServed waits for the first backfill, by a client with a configured key.
func (in *instance) untilServed() {
	c := in.connect("first")
	c.until("a stream", func() bool { return c.synced > 0 })
}

// until reads lines up to one that holds a text.
func (o *opened) until(text string) {
	o.t.Helper()
	if o.code != "" {
		o.t.Fatalf("refused with %s", o.code)
	}
	for {
		line, err := o.r.ReadString('\n')
		if err != nil {
			o.t.Fatalf("%v while no line holds %s", err, text)
		}
		if strings.Contains(line, text) {
			return
		}
	}
}

// While clients are connected their issuer goes over to another key, withdraws the old
// one, is down, and comes back with a third. New streams are let in by the keys that
// are known, nobody by a withdrawn one; streams that are open go on.
func TestKeysChangeWhileConnected(t *testing.T) {
	dsn, conn := database(t, shared.Cluster(t), "CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)")
	a, b, c := signingKey(t, "a"), signingKey(t, "b"), signingKey(t, "c")
	i := newIssuer(t, a)
	in := newInstance(t, dsn)
	in.adapt = func(cfg *config.Config) { cfg.ClientAuth.JWKSURIs = []string{i.uri()} }
	in.start(ownNotes)
	in.untilServed()
	expect := func(what string, k jose.JSONWebKey, code string) *opened {
		t.Helper()
		o := in.open(tokenBy(t, k, nil))
		if o.code != code {
			t.Errorf("%s: %q, want %q", what, o.code, code)
		}
		return o
	}
	var open []*opened
	stays := func(o *opened) {
		t.Helper()
		o.until("checkpoint_complete")
		open = append(open, o)
	}
	n := 0
	reachesAll := func() {
		t.Helper()
		n++
		exec(t, conn, fmt.Sprintf("INSERT INTO notes VALUES ('n%d', 'u', 'x')", n))
		for _, o := range open {
			o.until(fmt.Sprintf(`"object_id":"n%d"`, n))
		}
	}
	stays(expect("the first key", a, ""))
	reachesAll()
	i.set(a, b)
	stays(expect("a key beside it", b, ""))
	expect("the first key still", a, "")
	i.set(c)
	stays(expect("the key that takes their place", c, ""))
	expect("a withdrawn key", a, "PSYNC_S2101")
	expect("another", b, "PSYNC_S2101")
	reachesAll()
	i.down()
	stays(expect("the known key while the host is down", c, ""))
	expect("an unknown one", signingKey(t, "d"), "PSYNC_S2101")
	reachesAll()
	if in.logged("PSYNC_S2204") == 0 {
		t.Error("nothing in the log says that the host is down")
	}
	d := signingKey(t, "d")
	i.set(d)
	i.up()
	stays(expect("a new key of a host that is back", d, ""))
	reachesAll()
}

// Tokens of Supabase, by its shared secret and by its key set, may be for its own
// audience and valid for a week; others may not.
func TestSupabaseKeys(t *testing.T) {
	const secret = "a-secret-as-text-from-the-dashboard-of-a-project"
	dsn, _ := database(t, shared.Cluster(t), "CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)")
	own, theirs := signingKey(t, "own"), signingKey(t, "theirs")
	i, project := newIssuer(t, own), newIssuer(t, theirs)
	in := newInstance(t, dsn)
	in.adapt = func(cfg *config.Config) {
		cfg.ClientAuth.JWKSURIs = []string{i.uri()}
		cfg.ClientAuth.SupabaseJWKSURI, cfg.ClientAuth.SupabaseJWTSecret = project.uri(), secret
	}
	in.start(ownNotes)
	in.untilServed()
	shared := jose.JSONWebKey{Key: []byte(secret), KeyID: "whatever", Algorithm: "HS256"}
	theirClaims := map[string]any{"aud": "authenticated", "exp": time.Now().Unix() + 604800}
	for name, c := range map[string]struct {
		key    jose.JSONWebKey
		change map[string]any
		code   string
	}{
		"by the secret":                          {shared, theirClaims, ""},
		"by the project's key":                   {theirs, theirClaims, ""},
		"for the service's audience":             {theirs, nil, ""},
		"valid for too long":                     {theirs, map[string]any{"exp": time.Now().Unix() + 700_000}, "PSYNC_S2104"},
		"of a stranger":                          {theirs, map[string]any{"aud": "anon"}, "PSYNC_S2105"},
		"for a week by another key":              {own, map[string]any{"exp": time.Now().Unix() + 604800}, "PSYNC_S2104"},
		"for Supabase's audience by another key": {own, map[string]any{"aud": "authenticated"}, "PSYNC_S2105"},
		"by another secret":                      {jose.JSONWebKey{Key: []byte(strings.ToUpper(secret)), KeyID: "whatever", Algorithm: "HS256"}, theirClaims, "PSYNC_S2101"},
	} {
		if code := in.open(tokenBy(t, c.key, c.change)).code; code != c.code {
			t.Errorf("%s: %q, want %q", name, code, c.code)
		}
	}
}
