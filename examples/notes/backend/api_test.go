package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// fakeStore records the uploads it is given.
type fakeStore struct {
	err      error
	rejected []*rejection
	user     string
	writes   []write
}

func (f *fakeStore) upload(_ context.Context, user string, writes []write) ([]*rejection, error) {
	f.user, f.writes = user, writes
	return f.rejected, f.err
}

func (f *fakeStore) ping(context.Context) error { return f.err }

// at is the time on the test's clock.
var at = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func newAPI(t *testing.T, f *fakeStore) *api {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return &api{
		signer: &signer{
			key:      jose.JSONWebKey{Key: private, KeyID: "k1", Algorithm: "RS256", Use: "sig"},
			audience: "powersync", ttl: 5 * time.Minute, now: func() time.Time { return at },
		},
		store: f, serviceURL: "http://sync.example", origin: "https://app.example", signIn: true,
		log: slog.New(slog.DiscardHandler),
	}
}

// call sends a request with the headers "Name: value" and returns the answer and
// its JSON body.
func call(t *testing.T, a *api, method, target, body string, headers ...string) (*http.Response, map[string]any) {
	t.Helper()
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	a.handler().ServeHTTP(w, r)
	var v map[string]any
	if text, err := io.ReadAll(w.Result().Body); err != nil {
		t.Fatal(err)
	} else if json.Unmarshal(text, &v) != nil {
		v = map[string]any{"text": string(text)}
	}
	return w.Result(), v
}

func TestSignIn(t *testing.T) {
	a := newAPI(t, &fakeStore{})
	resp, body := call(t, a, "GET", "/api/auth/token?user="+url.QueryEscape("ann é@x"), "")
	if resp.StatusCode != 200 || body["endpoint"] != "http://sync.example" || body["expires_at"] != "2026-01-02T03:09:05Z" {
		t.Fatalf("sign-in: %d %v", resp.StatusCode, body)
	}
	if got := resp.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("a token may be cached: Cache-Control %q", got)
	}

	// What the service does: find the key by its id in the published set, check.
	_, keys := call(t, a, "GET", "/api/auth/keys", "")
	text, err := json.Marshal(keys)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), `"d"`) {
		t.Fatal("the published keys hold a private one")
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(text, &set); err != nil {
		t.Fatal(err)
	}
	token, err := jwt.ParseSigned(body["token"].(string), []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		t.Fatal(err)
	}
	found := set.Key(token.Headers[0].KeyID)
	if len(found) != 1 {
		t.Fatalf("the token names key %q, of which %d are published", token.Headers[0].KeyID, len(found))
	}
	var claims jwt.Claims
	if err := token.Claims(found[0], &claims); err != nil {
		t.Fatal(err)
	}
	if claims.Subject != "ann é@x" || !claims.Audience.Contains("powersync") ||
		!claims.IssuedAt.Time().Equal(at) || !claims.Expiry.Time().Equal(at.Add(5*time.Minute)) {
		t.Errorf("claims %+v", claims)
	}
}

func TestSignInRefused(t *testing.T) {
	a := newAPI(t, &fakeStore{})
	for _, query := range []string{"", "?user=", "?user=a%00b", "?user=a%0Ab", "?user=%ff", "?user=" + strings.Repeat("x", 129)} {
		if resp, body := call(t, a, "GET", "/api/auth/token"+query, ""); resp.StatusCode != 400 {
			t.Errorf("%q: %d %v, want 400", query, resp.StatusCode, body)
		}
	}
	a.signIn = false
	if resp, _ := call(t, a, "GET", "/api/auth/token?user=ann", ""); resp.StatusCode != 404 {
		t.Errorf("sign-in is off, and answers %d", resp.StatusCode)
	}
}

func TestUploadRoute(t *testing.T) {
	f := &fakeStore{rejected: []*rejection{{Index: 1, OpID: 8, Type: "t", ID: "i", Status: 422, Code: "unknown_table", Reason: "why"}}}
	a := newAPI(t, f)
	token, _, err := a.signer.issue("ann")
	if err != nil {
		t.Fatal(err)
	}
	body := `[{"op_id":7,"op":"DELETE","type":"greeting","id":"a","tx_id":1},{"op_id":8,"op":"PUT","type":"t","id":"i"}]`
	for _, scheme := range []string{"Bearer", "Token"} {
		resp, answer := call(t, a, "POST", "/api/data", body, "Authorization: "+scheme+" "+token, "Content-Type: application/json; charset=utf-8")
		if resp.StatusCode != 200 || answer["applied"] != 1.0 {
			t.Fatalf("%s: %d %v", scheme, resp.StatusCode, answer)
		}
		rejected := answer["rejected"].([]any)[0].(map[string]any)
		if rejected["index"] != 1.0 || rejected["op_id"] != 8.0 || rejected["status"] != 422.0 || rejected["code"] != "unknown_table" || rejected["reason"] != "why" {
			t.Errorf("rejected: %v", rejected)
		}
	}
	if f.user != "ann" || len(f.writes) != 2 || f.writes[0].ID != "a" || f.writes[0].Op != "DELETE" || f.writes[0].OpID != 7 {
		t.Errorf("the store was given %+v of %q", f.writes, f.user)
	}

	f.err = errors.New("connection lost to 10.1.2.3")
	resp, answer := call(t, a, "POST", "/api/data", body, "Authorization: Bearer "+token, "Content-Type: application/json")
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("database down: %d %v, want 503 with Retry-After", resp.StatusCode, answer)
	}
	if text, _ := json.Marshal(answer); strings.Contains(string(text), "10.1.2.3") {
		t.Errorf("the answer gives internals away: %s", text)
	}
	if resp, _ := call(t, a, "GET", "/api/health", ""); resp.StatusCode != 503 {
		t.Errorf("database down: health answers %d", resp.StatusCode)
	}
}

func TestUploadRefused(t *testing.T) {
	f := &fakeStore{}
	a := newAPI(t, f)
	good, _, err := a.signer.issue("ann")
	if err != nil {
		t.Fatal(err)
	}
	// sign makes a token with other claims or another key.
	sign := func(key any, alg jose.SignatureAlgorithm, c jwt.Claims) string {
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, nil)
		if err != nil {
			t.Fatal(err)
		}
		token, err := jwt.Signed(s).Claims(c).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	claims := jwt.Claims{Subject: "ann", Audience: jwt.Audience{"powersync"}, Expiry: jwt.NewNumericDate(at.Add(time.Hour))}
	with := func(change func(*jwt.Claims)) jwt.Claims { c := claims; change(&c); return c }
	other := newAPI(t, f).signer.key
	secret := []byte(strings.Repeat("s", 32))
	parts := strings.Split(good, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."

	const one = `[{"op":"DELETE","type":"greeting","id":"a"}]`
	tokens := map[string]string{
		"no token":           "",
		"another scheme":     "Basic " + good,
		"not a token":        "Bearer nonsense",
		"expired":            "Bearer " + sign(a.signer.key, jose.RS256, with(func(c *jwt.Claims) { c.Expiry = jwt.NewNumericDate(at.Add(-time.Second)) })),
		"not valid yet":      "Bearer " + sign(a.signer.key, jose.RS256, with(func(c *jwt.Claims) { c.NotBefore = jwt.NewNumericDate(at.Add(time.Hour)) })),
		"no expiry":          "Bearer " + sign(a.signer.key, jose.RS256, with(func(c *jwt.Claims) { c.Expiry = nil })),
		"no subject":         "Bearer " + sign(a.signer.key, jose.RS256, with(func(c *jwt.Claims) { c.Subject = "" })),
		"another audience":   "Bearer " + sign(a.signer.key, jose.RS256, with(func(c *jwt.Claims) { c.Audience = jwt.Audience{"else"} })),
		"another key":        "Bearer " + sign(other, jose.RS256, claims),
		"another algorithm":  "Bearer " + sign(secret, jose.HS256, claims),
		"no signature":       "Bearer " + none,
		"changed signature":  "Bearer " + parts[0] + "." + parts[1] + "." + strings.Repeat("A", len(parts[2])),
		"changed claims":     "Bearer " + parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"bob"}`)) + "." + parts[2],
		"signature left out": "Bearer " + parts[0] + "." + parts[1],
	}
	for name, header := range tokens {
		resp, body := call(t, a, "POST", "/api/data", one, "Authorization: "+header, "Content-Type: application/json")
		if resp.StatusCode != 401 || resp.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: %d %v, want 401", name, resp.StatusCode, body)
		}
	}

	bodies := map[string]struct {
		body, kind string
		status     int
	}{
		"no content type":     {one, "", 415},
		"another type":        {one, "text/plain", 415},
		"empty":               {"", "application/json", 400},
		"not JSON":            {"[{", "application/json", 400},
		"an object":           {`{"batch":[]}`, "application/json", 400},
		"null":                {"null", "application/json", 400},
		"not objects":         {`[1]`, "application/json", 400},
		"null in the array":   {`[null]`, "application/json", 400},
		"no operation":        {`[{"type":"greeting","id":"a"}]`, "application/json", 400},
		"no table":            {`[{"op":"PUT","id":"a"}]`, "application/json", 400},
		"no id":               {`[{"op":"PUT","type":"greeting"}]`, "application/json", 400},
		"data is no object":   {`[{"op":"PUT","type":"greeting","id":"a","data":[]}]`, "application/json", 400},
		"not UTF-8":           {"[{\"op\":\"DELETE\",\"type\":\"greeting\",\"id\":\"\xff\"}]", "application/json", 400},
		"nested without end":  {strings.Repeat("[", 1<<20), "application/json", 400},
		"something behind it": {one + "x", "application/json", 400},
		"too many writes":     {"[" + strings.Repeat(one[1:len(one)-1]+",", maxWrites) + one[1:], "application/json", 400},
		"too large":           {`[{"op":"PUT","type":"greeting","id":"a","data":{"message":"` + strings.Repeat("x", maxBody) + `"}}]`, "application/json", 413},
	}
	for name, c := range bodies {
		resp, body := call(t, a, "POST", "/api/data", c.body, "Authorization: Bearer "+good, "Content-Type: "+c.kind)
		if resp.StatusCode != c.status {
			t.Errorf("%s: %d %v, want %d", name, resp.StatusCode, body, c.status)
		}
		if e, ok := body["error"].(map[string]any); !ok || e["code"] == "" || e["message"] == "" {
			t.Errorf("%s: no code and message in %v", name, body)
		}
	}
	if f.user != "" {
		t.Errorf("a refused request reached the store, as %q", f.user)
	}
}

func TestCORS(t *testing.T) {
	a := newAPI(t, &fakeStore{})
	resp, _ := call(t, a, "OPTIONS", "/api/data", "", "Origin: https://app.example", "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization")
	h := resp.Header
	if resp.StatusCode != 204 || h.Get("Access-Control-Allow-Origin") != "https://app.example" ||
		!strings.Contains(h.Get("Access-Control-Allow-Methods"), "POST") || !strings.Contains(h.Get("Access-Control-Allow-Headers"), "Authorization") {
		t.Errorf("preflight: %d %v", resp.StatusCode, h)
	}
	// Errors too: a page must be able to read them.
	resp, _ = call(t, a, "POST", "/api/data", "[]")
	if resp.Header.Get("Access-Control-Allow-Origin") != "https://app.example" {
		t.Errorf("an error carries %v", resp.Header)
	}
}

func TestParseKey(t *testing.T) {
	a := newAPI(t, &fakeStore{})
	private, err := json.Marshal(a.signer.key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := json.Marshal(a.signer.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		string(private),
		base64.StdEncoding.EncodeToString(private) + "\n",
		base64.RawURLEncoding.EncodeToString(private),
	} {
		if key, err := parseKey(text); err != nil || key.KeyID != "k1" {
			t.Errorf("key %q: %v", key.KeyID, err)
		}
	}
	secret := strings.Replace(string(private), `"d":"`, `"d":"!`, 1)
	for name, text := range map[string]string{
		"none":        " ",
		"no JWK":      "{}",
		"no base64":   "-----BEGIN PRIVATE KEY-----",
		"public":      string(public),
		"symmetric":   `{"kty":"oct","k":"c2VjcmV0","kid":"k1"}`,
		"no key id":   strings.Replace(string(private), `"kid":"k1",`, "", 1),
		"broken part": secret,
	} {
		_, err := parseKey(text)
		if err == nil || !strings.Contains(err.Error(), "millrace keygen") {
			t.Errorf("%s: %v, want an error that says where keys come from", name, err)
		}
		if err != nil && len(text) > 100 && strings.Contains(err.Error(), text[50:90]) {
			t.Errorf("%s: the error quotes the key", name)
		}
	}
}

func TestSettings(t *testing.T) {
	env := func(vars map[string]string) func(string) string {
		return func(name string) string { return vars[name] }
	}
	s, err := parseSettings([]string{"-token-lifetime", "1m"}, env(map[string]string{"NOTES_DATABASE_URL": "d", "POWERSYNC_PRIVATE_KEY": "k", "NOTES_LISTEN": "l"}), io.Discard)
	if err != nil || s.database != "d" || s.key != "k" || s.listen != "l" || s.ttl != time.Minute || s.signIn || s.audience != "powersync" {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := parseSettings([]string{"-listen", "f"}, env(map[string]string{"NOTES_DATABASE_URL": "d", "NOTES_LISTEN": "l"}), io.Discard); err != nil || s.listen != "f" {
		t.Errorf("a flag does not win over the environment: %+v, %v", s, err)
	}
	for name, args := range map[string][]string{
		"unknown flag":   {"-nonsense"},
		"argument":       {"serve"},
		"lives too long": {"-token-lifetime", "25h"},
		"no life":        {"-token-lifetime", "0s"},
	} {
		if _, err := parseSettings(args, env(map[string]string{"NOTES_DATABASE_URL": "d"}), io.Discard); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := parseSettings(nil, env(nil), io.Discard); err == nil {
		t.Error("accepted without a database")
	}
}

// FuzzParseUpload: whatever a client sends, planning it neither panics nor puts a
// name of the client's choosing into SQL.
func FuzzParseUpload(f *testing.F) {
	f.Add([]byte(`[{"op_id":1,"op":"PUT","type":"greeting","id":"a","data":{"owner":"ann","message":null}}]`))
	f.Add([]byte(`[{"op":"PATCH","type":"greeting","id":"a","data":{"x\" = 1; --":1}},{"op":"DELETE","type":"greeting","id":"'"}]`))
	f.Add([]byte(`[{"op":"PUT","type":"greeting; DROP TABLE greeting","id":"a"}]`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, body []byte) {
		writes, err := parseUpload(body)
		if err != nil {
			return
		}
		for i := range writes {
			stmt, refused := writes[i].plan("ann")
			if refused != nil {
				continue
			}
			known := strings.NewReplacer("greeting", "", "message", "", "author", "", "created_at", "", "owner", "",
				"timestamptz", "", "uuid", "", "text", "", "excluded", "", "id", "", "t.", "", " t ", "")
			for _, word := range strings.FieldsFunc(known.Replace(stmt.sql), func(r rune) bool { return strings.ContainsRune(" ().,:=$0123456789", r) }) {
				if word != strings.ToUpper(word) {
					t.Fatalf("%q is in %q", word, stmt.sql)
				}
			}
		}
	})
}
