package httpapi_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/millrace-sync/millrace/internal/auth"
	"github.com/millrace-sync/millrace/internal/auth/keys"
	"github.com/millrace-sync/millrace/internal/httpapi"
)

// A remote key set by the clock: it is fetched again when a token is shown after five
// minutes, without that token having to wait; after an hour in which it could not be
// fetched its keys count no more. Streams that are open end with their tokens.
func TestKeySetsGrowOld(t *testing.T) {
	newKey := func(id string) jose.JSONWebKey {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return jose.JSONWebKey{Key: private, KeyID: id, Algorithm: string(jose.EdDSA)}
	}
	old, young := newKey("old"), newKey("young")
	var mu sync.Mutex
	current, fetches, down := old, 0, false
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if fetches++; down {
			http.Error(w, "down", http.StatusBadGateway)
			return
		}
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{current.Public()}})
	}))
	defer issuer.Close()
	set := func(k jose.JSONWebKey, isDown bool) {
		mu.Lock()
		defer mu.Unlock()
		current, down = k, isDown
	}
	synctest.Test(t, func(t *testing.T) {
		verifier, err := auth.New(auth.Config{KeySetURIs: []string{issuer.URL}, Audience: []string{"millrace"}})
		if err != nil {
			t.Fatal(err)
		}
		defer verifier.Close()
		s := newService(t, func(c *httpapi.Config) { c.Verifier = verifier })
		client, _, stop := s.serve()
		defer stop()
		signed := func(k jose.JSONWebKey) string {
			token, err := keys.Sign(k, claims{"sub": "ann", "aud": "millrace", "iat": time.Now().Unix(), "exp": time.Now().Add(3 * time.Hour).Unix()})
			if err != nil {
				t.Fatal(err)
			}
			return token
		}
		ask := func(what, token string, want int, wantFetches int) {
			t.Helper()
			start := time.Now()
			w := s.call("GET", "/write-checkpoint2.json?client_id=c", "", "Authorization", "Token "+token)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if w.Code != want || fetches != wantFetches || time.Since(start) != 0 {
				t.Errorf("%s: status %d after %d fetches and %s, want %d after %d", what, w.Code, fetches, time.Since(start), want, wantFetches)
			}
		}
		first := signed(old)
		l := stream(t, client, first, `{}`)
		defer l.resp.Body.Close()
		l.want(`{"checkpoint":`, `{"checkpoint_complete":`)
		rest := make(chan string, 3) // without what keeps it alive
		go func() {
			for range cap(rest) {
				line := l.next()
				for strings.HasPrefix(line, `{"token_expires_in"`) {
					line = l.next()
				}
				rest <- line
			}
		}()
		set(young, false)
		time.Sleep(5*time.Minute - time.Second) // of the bubble's time
		ask("before five minutes", first, 200, 1)
		time.Sleep(time.Second)
		ask("the token that has the set fetched", first, 200, 2)
		ask("after that", first, 401, 3) // its key may be back
		second := signed(young)
		ask("the new key", second, 200, 3)
		set(young, true)
		time.Sleep(time.Hour - time.Second)
		ask("a set that is nearly an hour old", second, 200, 4)
		time.Sleep(time.Second)
		ask("a set that is an hour old", second, 401, 5)
		set(young, false)
		ask("a host that is back", second, 200, 6)
		// The stream of the withdrawn key goes on.
		s.commit("ann", 1, "")
		for _, want := range []string{`{"checkpoint_diff":`, `{"data":`, `{"checkpoint_complete":`} {
			if got := <-rest; !strings.HasPrefix(got, want) {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	})
}
