package auth

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/millrace-sync/millrace/internal/auth/keys"
)

// issuer serves a key set to the verifiers of tests.
type issuer struct {
	mu    sync.Mutex
	doc   []byte
	err   error
	delay time.Duration
	count int // fetches begun
}

func (s *issuer) fetch(ctx context.Context, _ string) ([]byte, error) {
	s.mu.Lock()
	s.count++
	doc, err, delay := s.doc, s.err, s.delay
	s.mu.Unlock()
	select {
	case <-time.After(delay):
		return doc, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *issuer) set(f func(s *issuer)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

func (s *issuer) fetches() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// keySetOf returns the document of a key set with the public halves of keys.
func keySetOf(tb testing.TB, jwks ...jose.JSONWebKey) []byte {
	tb.Helper()
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, k := range jwks {
		set.Keys = append(set.Keys, k.Public())
	}
	doc, err := json.Marshal(set)
	if err != nil {
		tb.Fatal(err)
	}
	return doc
}

// remote runs f in a bubble of synctest with a verifier whose keys come from s.
func remote(t *testing.T, s *issuer, f func(t *testing.T, v *Verifier)) {
	synctest.Test(t, func(t *testing.T) {
		v, err := newVerifier(Config{KeySetURIs: []string{"https://issuer.example/jwks"}, Audience: []string{"app"}}, addressRule{}, s.fetch)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		f(t, v)
	})
}

func (s *issuer) expect(t *testing.T, v *Verifier, k jose.JSONWebKey, want string, fetches int) {
	t.Helper()
	got := outcome(v.Verify(t.Context(), "Token "+sign(t, k, good(time.Now()))))
	synctest.Wait()
	if got != want || s.fetches() != fetches {
		t.Errorf("%s after %d fetches, want %s after %d", got, s.fetches(), want, fetches)
	}
}

func TestKeysAreFetchedWhenNeeded(t *testing.T) {
	a, b := edKey("a"), edKey("b")
	s := &issuer{doc: keySetOf(t, a)}
	remote(t, s, func(t *testing.T, v *Verifier) {
		if s.fetches() != 0 {
			t.Error("fetched before any token")
		}
		s.expect(t, v, a, "ok u1", 1)
		s.expect(t, v, a, "ok u1", 1)
		// A key that is added is found at once.
		s.set(func(s *issuer) { s.doc = keySetOf(t, a, b) })
		s.expect(t, v, b, "ok u1", 2)
		s.expect(t, v, a, "ok u1", 2)
		// After five minutes a use of the keys starts a fetch without waiting for it.
		time.Sleep(refreshAfter - time.Second)
		s.expect(t, v, a, "ok u1", 2)
		s.set(func(s *issuer) { s.delay = 2 * time.Second })
		time.Sleep(time.Second)
		begin := time.Now()
		s.expect(t, v, a, "ok u1", 3)
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("waited for %v", waited)
		}
		// After an hour it waits.
		time.Sleep(expireAfter + 2*time.Second)
		begin = time.Now()
		s.expect(t, v, a, "ok u1", 4)
		if waited := time.Since(begin); waited != 2*time.Second {
			t.Errorf("waited for %v, want 2 s", waited)
		}
	})
}

func TestWithdrawnKeyEndsItsTokens(t *testing.T) {
	a, b := edKey("a"), edKey("b")
	s := &issuer{doc: keySetOf(t, a)}
	remote(t, s, func(t *testing.T, v *Verifier) {
		header := "Token " + sign(t, a, good(time.Now()))
		for range 2 {
			if got := outcome(v.Verify(t.Context(), header)); got != "ok u1" {
				t.Fatal(got)
			}
		}
		s.set(func(s *issuer) { s.doc = keySetOf(t, b) })
		time.Sleep(refreshAfter)
		// This use is still answered from memory, and starts the fetch that ends it.
		if got := outcome(v.Verify(t.Context(), header)); got != "ok u1" {
			t.Errorf("before the fetch: %s", got)
		}
		synctest.Wait()
		if got := outcome(v.Verify(t.Context(), header)); got != "PSYNC_S2101 key" {
			t.Errorf("after the key was withdrawn: %s", got)
		}
	})
}

func TestStaleKeysServeUntilTheyExpire(t *testing.T) {
	a := edKey("a")
	s := &issuer{doc: keySetOf(t, a)}
	remote(t, s, func(t *testing.T, v *Verifier) {
		claims := good(time.Now())
		claims["exp"] = time.Now().Add(3 * time.Hour).Unix()
		header := "Token " + sign(t, a, claims)
		check := func(want string) {
			t.Helper()
			if got := outcome(v.Verify(t.Context(), header)); got != want {
				t.Errorf("at %v: %s, want %s", time.Now(), got, want)
			}
			synctest.Wait()
		}
		check("ok u1")
		s.set(func(s *issuer) { s.err = errors.New("down") })
		for range 5 {
			time.Sleep(11 * time.Minute)
			check("ok u1")
			s.expect(t, v, a, "ok u1", s.fetches()+1)
		}
		time.Sleep(5 * time.Minute)
		check("PSYNC_S2204 keys")
	})
}

func TestUnknownKeysFetchNoMoreThanTheRate(t *testing.T) {
	a := edKey("a")
	s := &issuer{doc: keySetOf(t, a)}
	remote(t, s, func(t *testing.T, v *Verifier) {
		s.expect(t, v, a, "ok u1", 1)
		for i := range 50 {
			s.expect(t, v, edKey("x"+strconv.Itoa(i)), "PSYNC_S2101 key", min(i+2, fetchBurst))
		}
		s.expect(t, v, a, "ok u1", fetchBurst)
		time.Sleep(fetchWindow / fetchBurst)
		s.expect(t, v, edKey("y"), "PSYNC_S2101 key", fetchBurst+1)
		s.expect(t, v, edKey("z"), "PSYNC_S2101 key", fetchBurst+1)
		// A token without kid says nothing of other keys.
		time.Sleep(time.Minute)
		s.expect(t, v, edKey(""), "PSYNC_S2101 key", fetchBurst+1)
	})
}

func TestFailingFetchesAreLimited(t *testing.T) {
	s := &issuer{err: errors.New("down")}
	remote(t, s, func(t *testing.T, v *Verifier) {
		for i := range 30 {
			s.expect(t, v, edKey("a"), "PSYNC_S2204 keys", min(i+1, fetchBurst))
		}
	})
}

func TestSlowFetchServesThoseWhoComeLater(t *testing.T) {
	a := edKey("a")
	s := &issuer{doc: keySetOf(t, a), delay: 20 * time.Second}
	remote(t, s, func(t *testing.T, v *Verifier) {
		begin := time.Now()
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if got := outcome(v.Verify(t.Context(), "Token "+sign(t, a, good(begin)))); got != "PSYNC_S2204 keys" {
					t.Errorf("while the fetch is under way: %s", got)
				}
			})
		}
		wg.Wait()
		if waited := time.Since(begin); waited != fetchWait {
			t.Errorf("waited for %v, want %v", waited, fetchWait)
		}
		time.Sleep(20 * time.Second)
		s.expect(t, v, a, "ok u1", 1)
	})
}

func TestFetchIsGivenUp(t *testing.T) {
	s := &issuer{delay: time.Hour}
	remote(t, s, func(t *testing.T, v *Verifier) {
		s.expect(t, v, edKey("a"), "PSYNC_S2204 keys", 1)
		time.Sleep(fetchTimeout)
		synctest.Wait()
		if v.sets[0].flight != nil {
			t.Error("the fetch is still under way")
		}
	})
}

func TestRequestsEndTheirWait(t *testing.T) {
	s := &issuer{delay: time.Hour}
	remote(t, s, func(t *testing.T, v *Verifier) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		if _, err := v.Verify(ctx, "Token "+sign(t, edKey("a"), good(begin))); err == nil {
			t.Error("no error")
		}
		if waited := time.Since(begin); waited != time.Second {
			t.Errorf("waited for %v", waited)
		}
		// Close, which remote calls, ends the fetch; the bubble would not end otherwise.
	})
}

func TestCloseEndsFetching(t *testing.T) {
	a := edKey("a")
	s := &issuer{doc: keySetOf(t, a)}
	remote(t, s, func(t *testing.T, v *Verifier) {
		s.expect(t, v, a, "ok u1", 1)
		v.Close()
		s.expect(t, v, a, "ok u1", 1)
		s.expect(t, v, edKey("b"), "PSYNC_S2101 key", 1)
	})
}

func TestConfiguredKeysDoNotWaitForRemoteOnes(t *testing.T) {
	own, wild, far := secretKey("own"), edKey(""), edKey("far")
	s := &issuer{doc: keySetOf(t, far), delay: time.Second}
	synctest.Test(t, func(t *testing.T) {
		v, err := newVerifier(Config{Keys: []jose.JSONWebKey{own, wild}, KeySetURIs: []string{"https://issuer.example/jwks"},
			SupabaseKeySetURI: "https://project.example/jwks", Audience: []string{"app"}}, addressRule{}, s.fetch)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		s.expect(t, v, own, "ok u1", 0)
		s.expect(t, v, wild, "ok u1", 0)
		s.expect(t, v, far, "ok u1", 2) // both sets, side by side
		s.expect(t, v, edKey("unknown"), "PSYNC_S2101 key", 4)
	})
}

// A set whose host hangs delays neither the keys of the others, when they are rotated
// too, nor those who come when it has hung for a while.
func TestHangingSetDelaysNoOther(t *testing.T) {
	a, b := edKey("a"), edKey("b")
	issued, hanging := &issuer{doc: keySetOf(t, a)}, &issuer{delay: time.Hour}
	fetch := func(ctx context.Context, uri string) ([]byte, error) {
		if strings.Contains(uri, "hanging") {
			return hanging.fetch(ctx, uri)
		}
		return issued.fetch(ctx, uri)
	}
	synctest.Test(t, func(t *testing.T) {
		v, err := newVerifier(Config{KeySetURIs: []string{"https://hanging.example/jwks", "https://good.example/jwks"}, Audience: []string{"app"}}, addressRule{}, fetch)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		begin := time.Now()
		issued.expect(t, v, a, "ok u1", 1)
		issued.set(func(s *issuer) { s.doc = keySetOf(t, b) })
		issued.expect(t, v, b, "ok u1", 2)
		issued.expect(t, v, a, "PSYNC_S2204 keys", 3) // the hanging set might have it
		if waited := time.Since(begin); waited != fetchWait {
			t.Errorf("waited for %v, want %v", waited, fetchWait)
		}
		begin = time.Now()
		for range 5 {
			issued.expect(t, v, edKey("x"), "PSYNC_S2204 keys", issued.fetches()+1)
		}
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("later ones waited for %v", waited)
		}
	})
}

// Two issuers may give different keys the same id.
func TestSetsWithTheSameKeyID(t *testing.T) {
	a, b := edKey("same"), edKey("same")
	fetch := func(_ context.Context, uri string) ([]byte, error) {
		if strings.Contains(uri, "first") {
			return keySetOf(t, a), nil
		}
		return keySetOf(t, b), nil
	}
	synctest.Test(t, func(t *testing.T) {
		v, err := newVerifier(Config{KeySetURIs: []string{"https://first.example/jwks", "https://second.example/jwks"}, Audience: []string{"app"}}, addressRule{}, fetch)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		for _, c := range []struct {
			key  jose.JSONWebKey
			want string
		}{{a, "ok u1"}, {b, "ok u1"}, {a, "ok u1"}, {edKey("same"), "PSYNC_S2101 signature"}} {
			if got := outcome(v.Verify(t.Context(), "Token "+sign(t, c.key, good(time.Now())))); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		}
	})
}

func TestSupabaseKeySet(t *testing.T) {
	a := edKey("a")
	s := &issuer{doc: keySetOf(t, a)}
	synctest.Test(t, func(t *testing.T) {
		v, err := newVerifier(Config{SupabaseKeySetURI: "https://project.supabase.co/auth/v1/.well-known/jwks.json"}, addressRule{}, s.fetch)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		claims := good(time.Now())
		claims["aud"], claims["exp"] = "authenticated", time.Now().Unix()+604800
		if got := outcome(v.Verify(t.Context(), "Token "+sign(t, a, claims))); got != "ok u1" {
			t.Error(got)
		}
	})
}

// TestKeySets checks which keys of a document are used.
func TestKeySets(t *testing.T) {
	member := func(k jose.JSONWebKey, more string) string {
		doc, err := json.Marshal(k.Public())
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSuffix(string(doc), "}") + more + "}"
	}
	a, rsaKey := edKey("a"), rsaPair().Public
	rsaKey.Use, rsaKey.Algorithm = "", ""
	many := strings.Repeat(member(a, "")+",", maxRemoteKeys) + member(a, "")
	// want are the ids of the keys that are used, and behind a bar how many are listed as
	// of no use.
	for name, c := range map[string]struct{ doc, want string }{
		"a key":              {`{"keys":[` + member(a, `,"use":"sig","key_ops":["verify"],"alg":"EdDSA","x":""`) + `]}`, " | 1"},
		"plain":              {`{"keys":[` + member(a, "") + `],"more":1}`, "a"},
		"two":                {`{"keys":[` + member(a, "") + `,` + member(rsaKey, "") + `]}`, "a " + rsaKey.KeyID},
		"use":                {`{"keys":[` + member(rsaKey, `,"use":"enc"`) + `,` + member(a, `,"use":"sig"`) + `]}`, "a"},
		"key_ops":            {`{"keys":[` + member(rsaKey, `,"key_ops":["encrypt"]`) + `,` + member(a, `,"key_ops":["sign","verify"]`) + `]}`, "a"},
		"shared secret":      {`{"keys":[{"kty":"oct","kid":"o","k":"c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"},` + member(a, "") + `]}`, "a"},
		"unknown kinds":      {`{"keys":[{"kty":"OKP","crv":"Ed448","kid":"4","x":"AA"},{"kty":"new"},{},5,null,` + member(a, "") + `]}`, "a | 5"},
		"alg of other kinds": {`{"keys":[` + member(rsaKey, `,"alg":"RSA-OAEP"`) + `,` + member(a, "") + `]}`, "a | 1"},
		"not for signatures": {`{"keys":[{"kty":"OKP","crv":"X448","use":"enc"},` + member(a, "") + `]}`, "a"},
		"empty":              {`{"keys":[]}`, ""},
		"no keys":            {`{}`, "error"},
		"keys is no list":    {`{"keys":{}}`, "error"},
		"no JSON":            {`<html>`, "error"},
		"no object":          {`[]`, "error"},
		"too many":           {`{"keys":[` + many + `]}`, "error"},
		"as many as allowed": {`{"keys":[` + strings.TrimPrefix(many, member(a, "")+",") + `]}`, strings.TrimSpace(strings.Repeat("a ", maxRemoteKeys))},
	} {
		list, left, err := parseKeySet([]byte(c.doc), ordinary)
		var ids []string
		for _, k := range list {
			ids = append(ids, k.id)
		}
		got := strings.Join(ids, " ")
		if len(left) > 0 {
			got += fmt.Sprint(" | ", len(left))
		}
		if err != nil {
			got = "error"
		}
		if got != c.want {
			t.Errorf("%s: %q (%v), want %q", name, got, err, c.want)
		}
	}
}

// Keys that cannot be used, as those on Ed448, are named in the log once for each
// document, and so is why a token that names one is refused.
func TestUnfitKeysAreNamed(t *testing.T) {
	var log bytes.Buffer
	a := edKey("a")
	ed448 := `{"kty":"OKP","crv":"Ed448","kid":"four","use":"sig","alg":"EdDSA","x":"X9dEm1m0Yf0s54fsYWrUah2hNCSFpw4fig6nXYDpZ3jt8SR2m0bHBhvWeD3x5Q9s0foavq_oJWGA"}`
	with := strings.Replace(string(keySetOf(t, a)), `"keys":[`, `"keys":[`+ed448+",", 1)
	s := &issuer{doc: []byte(with)}
	signed := func(kid string) string {
		enc := base64.RawURLEncoding.EncodeToString
		payload, err := json.Marshal(good(time.Now()))
		if err != nil {
			t.Fatal(err)
		}
		return enc([]byte(`{"alg":"EdDSA"`+kid+`}`)) + "." + enc(payload) + "." + enc(make([]byte, 114))
	}
	synctest.Test(t, func(t *testing.T) {
		v, err := newVerifier(Config{KeySetURIs: []string{"https://issuer.example/jwks"}, Audience: []string{"app"}, Log: slog.New(slog.NewTextHandler(&log, nil))}, addressRule{}, s.fetch)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		const reason = `the curve "Ed448" are not supported`
		for range 3 {
			_, err = v.Verify(t.Context(), "Token "+signed(`,"kid":"four"`))
			if got := outcome(nil, err); got != "PSYNC_S2101 key" || !strings.Contains(err.Error(), reason) {
				t.Errorf("%s: %v", got, err)
			}
		}
		if got := outcome(v.Verify(t.Context(), "Token "+signed(""))); got != "PSYNC_S2101 key" {
			t.Errorf("without kid: %s", got)
		}
		if n := strings.Count(log.String(), "kid=four"); n != 1 || !strings.Contains(log.String(), `Ed448`) || !strings.Contains(log.String(), "level=WARN") {
			t.Errorf("%d lines name the key: %s", n, log.String())
		}
		if got := outcome(v.Verify(t.Context(), "Token "+sign(t, a, good(time.Now())))); got != "ok u1" {
			t.Errorf("the key beside it: %s", got)
		}
		// The issuer gives the id to another key.
		s.set(func(s *issuer) { s.doc = keySetOf(t, edKey("four")) })
		time.Sleep(expireAfter)
		if _, err = v.Verify(t.Context(), "Token "+signed(`,"kid":"four"`)); outcome(nil, err) != "PSYNC_S2101 signature" {
			t.Error(err)
		}
	})
}

func TestFailedFetchIsLogged(t *testing.T) {
	var log bytes.Buffer
	s := &issuer{doc: []byte(`<html>`)}
	synctest.Test(t, func(t *testing.T) {
		v, err := newVerifier(Config{KeySetURIs: []string{"https://user:hidden@issuer.example/jwks"}, Log: slog.New(slog.NewTextHandler(&log, nil))}, addressRule{}, s.fetch)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		s.expect(t, v, edKey("a"), "PSYNC_S2201 keys", 1)
	})
	for _, want := range []string{"issuer.example", "PSYNC_S2201", "not a JSON object"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %q in the log: %s", want, log.String())
		}
	}
	if strings.Contains(log.String(), "hidden") {
		t.Errorf("a password is in the log: %s", log.String())
	}
}

func FuzzKeySet(f *testing.F) {
	secret := keys.NewSecret()
	f.Add(keySetOf(f, edKey("a"), rsaPair().Private))
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AA"},{"kty":"RSA","n":"AQ","e":"AQAB"}]}`))
	token := sign(f, secret.Private, good(start))
	f.Fuzz(func(t *testing.T, doc []byte) {
		list, _, err := parseKeySet(doc, ordinary)
		if err != nil {
			return
		}
		jws, err := jose.ParseSignedCompact(token, allAlgorithms)
		if err != nil {
			t.Fatal(err)
		}
		trial := trial{jws: jws, id: secret.Private.KeyID, alg: jose.HS256}
		if k := trial.run(list); k != nil {
			t.Fatalf("a key of the document verifies a shared secret's token: %+v", k)
		}
		for _, k := range list {
			if _, isSecret := k.verifier.(hmacKey); isSecret || len(k.algorithms) == 0 {
				t.Fatalf("unfit key %+v", k)
			}
			// Verifying must not panic, whatever the key.
			_, _ = jws.Verify(k.verifier)
		}
	})
}
