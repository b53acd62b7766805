package e2e

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// An issuer is a server of a key set.
type issuer struct {
	url string

	mu      sync.Mutex
	keys    []jose.JSONWebKey
	fetches int
}

func newIssuer(t *testing.T, keys ...jose.JSONWebKey) *issuer {
	t.Helper()
	i := &issuer{keys: keys}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.fetches++
		set := jose.JSONWebKeySet{}
		for _, k := range i.keys {
			set.Keys = append(set.Keys, k.Public())
		}
		writeJSON(w, set)
	}))
	t.Cleanup(server.Close)
	i.url = server.URL
	return i
}

func (i *issuer) set(keys ...jose.JSONWebKey) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = keys
}

func (i *issuer) fetched() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.fetches
}

func signingKey(t *testing.T, kid string, alg jose.SignatureAlgorithm) jose.JSONWebKey {
	t.Helper()
	var key any
	var err error
	switch alg {
	case jose.EdDSA:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case jose.ES256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.RS256, jose.PS256:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	return jose.JSONWebKey{Key: key, KeyID: kid, Algorithm: string(alg), Use: "sig"}
}

func signedBy(t *testing.T, k jose.JSONWebKey, change object) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(k.Algorithm), Key: k}, nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix()
	claims := object{"sub": "ann", "aud": "e2e", "iat": now, "exp": now + 600}
	for name, value := range change {
		claims[name] = value
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// outcome asks for a write checkpoint with a token; it returns "ok" or the code.
func (a *testApp) outcome(t *testing.T, token string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(patient(t), http.MethodGet, a.url()+"/write-checkpoint2.json", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	var body struct{ Error struct{ Code string } }
	if err := json.Unmarshal(text, &body); err != nil {
		t.Fatalf("%v: %.300s", err, text)
	}
	if answer.StatusCode == http.StatusOK {
		return "ok"
	}
	return body.Error.Code
}

const listsOnly = `
config: {edition: 3}
streams:
  lists:
    auto_subscribe: true
    query: SELECT * FROM lists WHERE owner = auth.user_id()
`

// TestRemoteKeys runs the service on several key sets: two that are well, one whose
// host accepts connections and says nothing, one that redirects to a refused address.
func TestRemoteKeys(t *testing.T) {
	first, rsaKey, ecKey := signingKey(t, "first", jose.EdDSA), signingKey(t, "rsa", jose.RS256), signingKey(t, "ec", jose.ES256)
	one, two := newIssuer(t, first), newIssuer(t, rsaKey, ecKey)
	hanging, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hanging.Close()
	inside := signingKey(t, "inside", jose.EdDSA)
	refused, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	reached := 0
	inner := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		reached++
		writeJSON(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{inside.Public()}})
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = inner.Serve(refused) })
	defer serving.Wait()
	defer inner.Close()
	redirecting := httptest.NewServer(http.RedirectHandler("http://"+refused.Addr().String()+"/jwks", http.StatusFound))
	defer redirecting.Close()

	a := newApp(t, listsOnly, fmt.Sprintf("  jwks_uri: [%s/jwks, %s/jwks, %s/jwks, http://%s/jwks]\n  jwks_reject_ip_ranges: [127.0.0.2/32]\n",
		one.url, two.url, redirecting.URL, hanging.Addr()))
	try := func(what string, k jose.JSONWebKey, change object, want ...string) string {
		t.Helper()
		token := signedBy(t, k, change)
		got := a.outcome(t, token)
		for _, w := range want {
			if got == w {
				return token
			}
		}
		t.Errorf("%s: %s, want %s", what, got, want)
		return token
	}
	try("a key of the first set", first, nil, "ok")
	try("an RSA key of the second", rsaKey, nil, "ok")
	try("an EC key of the second", ecKey, nil, "ok")
	try("a key behind a redirect to a refused address", inside, nil, "PSYNC_S2203", "PSYNC_S2204", "PSYNC_S2101")
	mu.Lock()
	if reached != 0 {
		t.Errorf("the refused address was asked %d times", reached)
	}
	mu.Unlock()

	// The key is rotated: the new one is fetched when a token names it, and tokens of
	// the old one are worth nothing any more, although they were good before.
	old := signedBy(t, first, nil)
	if got := a.outcome(t, old); got != "ok" {
		t.Fatal(got)
	}
	second := signingKey(t, "second", jose.EdDSA)
	one.set(second)
	try("the new key", second, nil, "ok")
	if got := a.outcome(t, old); got == "ok" {
		t.Error("a token of the withdrawn key is still accepted")
	}

	// Unknown keys cannot make the service hammer the issuer.
	before := one.fetched()
	stranger := signingKey(t, "", jose.EdDSA)
	for n := range 40 {
		stranger.KeyID = fmt.Sprint("stranger", n)
		if got := a.outcome(t, signedBy(t, stranger, nil)); got == "ok" {
			t.Fatal("a stranger's key is accepted")
		}
	}
	if n := one.fetched() - before; n > 12 {
		t.Errorf("40 unknown keys fetched the set %d times", n)
	}
	try("a good key afterwards", second, nil, "ok")

	// Each failure has its code, and one line in the log that says what the token
	// said, without the token.
	for _, c := range []struct {
		change object
		code   string
		check  string
	}{
		{object{"iat": time.Now().Unix() - 600, "exp": time.Now().Unix() - 120}, "PSYNC_S2103", "check=time"},
		{object{"exp": time.Now().Unix() + 90_000}, "PSYNC_S2104", "check=lifetime"},
		{object{"aud": "elsewhere"}, "PSYNC_S2105", "check=audience"},
		{object{"nbf": time.Now().Unix() + 600}, "PSYNC_S2101", "check=time"},
		{object{"parameters": 5}, "PSYNC_S2101", "check=parameters"},
	} {
		sub := "eve-" + c.code + "-" + c.check
		c.change["sub"] = sub
		token := try(c.check, second, c.change, c.code)
		a.service.untilSays(t, []string{sub})
		var log string
		for line := range strings.Lines(a.service.output()) {
			if strings.Contains(line, sub) {
				log += line
			}
		}
		if strings.Count(log, "\n") != 1 || !strings.Contains(log, "code="+c.code) || !strings.Contains(log, "reason."+c.check) {
			t.Errorf("%s: the log is %s", c.code, log)
		}
		if strings.Contains(log, token[len(token)-20:]) || strings.Contains(log, token[:40]) {
			t.Errorf("%s: the token is in the log", c.code)
		}
	}
	// Within the tolerance of clocks.
	try("expired a moment ago", second, object{"iat": time.Now().Unix() - 100, "exp": time.Now().Unix() - 30}, "ok")
}

// TestLocalKeysBlocked: block_local_jwks refuses a name that resolves to a private
// address, when it is resolved, and says so in the log.
func TestLocalKeysBlocked(t *testing.T) {
	key := signingKey(t, "k", jose.EdDSA)
	i := newIssuer(t, key)
	a := newApp(t, listsOnly, fmt.Sprintf("  jwks_uri: %s/jwks\n  block_local_jwks: true\n", strings.Replace(i.url, "127.0.0.1", "localhost", 1)))
	if got := a.outcome(t, signedBy(t, key, nil)); got != "PSYNC_S2203" {
		t.Errorf("got %s", got)
	}
	if n := i.fetched(); n != 0 {
		t.Errorf("the local address was asked %d times", n)
	}
	a.service.untilSays(t, []string{"PSYNC_S2203.*block_local_jwks"})
}
