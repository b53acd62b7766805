package auth

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/millrace-sync/millrace/internal/auth/keys"
	"github.com/millrace-sync/millrace/protocol"
)

// start is the time at which the tests begin.
var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// rsaPair makes an RSA key once for all tests: it takes a while.
var rsaPair = sync.OnceValue(func() *keys.Pair {
	p, err := keys.NewRSA()
	if err != nil {
		panic(err)
	}
	return p
})

func secretKey(id string) jose.JSONWebKey {
	secret := sha256.Sum256([]byte("secret of " + id))
	return jose.JSONWebKey{Key: secret[:], KeyID: id, Algorithm: "HS256"}
}

func ecKey(id string, curve elliptic.Curve, alg string) jose.JSONWebKey {
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		panic(err)
	}
	return jose.JSONWebKey{Key: k, KeyID: id, Algorithm: alg}
}

func edKey(id string) jose.JSONWebKey {
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return jose.JSONWebKey{Key: k, KeyID: id, Algorithm: "EdDSA"}
}

// good returns the claims of a token that is valid at a time.
func good(at time.Time) map[string]any {
	return map[string]any{"sub": "u1", "aud": "app", "iat": at.Unix(), "exp": at.Unix() + 3600}
}

func sign(tb testing.TB, k jose.JSONWebKey, claims any) string {
	tb.Helper()
	token, err := keys.Sign(k, claims)
	if err != nil {
		tb.Fatal(err)
	}
	return token
}

// verifier returns a Verifier for the audience "app" whose clock stands at start.
func verifier(tb testing.TB, jwks ...jose.JSONWebKey) *Verifier {
	tb.Helper()
	v, err := New(Config{Keys: jwks, Audience: []string{"app"}, Now: func() time.Time { return start }})
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

// outcome is "ok" and the subject, or the code and the check that failed.
func outcome(c *Claims, err error) string {
	if err == nil {
		return "ok " + c.Subject
	}
	var r *Rejection
	var e *protocol.Error
	if !errors.As(err, &r) || !errors.As(err, &e) {
		return fmt.Sprintf("an error of another type: %v", err)
	}
	if e.Status != 401 {
		return fmt.Sprintf("status %d", e.Status)
	}
	return string(e.Code) + " " + string(r.Check)
}

func TestClaims(t *testing.T) {
	text, err := os.ReadFile("testdata/claims.txt")
	if err != nil {
		t.Fatal(err)
	}
	now := regexp.MustCompile(`\{now([+-]\d+)?\}`)
	k := secretKey("k")
	v := verifier(t, k)
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || line[0] == '#' {
			continue
		}
		payload, want, ok := strings.Cut(line, " => ")
		if !ok {
			t.Fatalf("a case without outcome: %q", line)
		}
		payload = now.ReplaceAllStringFunc(payload, func(s string) string {
			n, _ := strconv.ParseInt(now.FindStringSubmatch(s)[1], 10, 64)
			return strconv.FormatInt(start.Unix()+n, 10)
		})
		if want, err = strconv.Unquote(`"` + strings.ReplaceAll(want, `"`, `\"`) + `"`); err != nil {
			t.Fatal(err)
		}
		claims, err := v.Verify(t.Context(), "Token "+sign(t, k, json.RawMessage(payload)))
		if got := outcome(claims, err); got != want {
			t.Errorf("%s\n got %s (%v)\nwant %s", payload, got, err, want)
		}
	}
}

func TestClaimsAreHandedOn(t *testing.T) {
	k := secretKey("k")
	payload := fmt.Sprintf(`{"sub":"u1","aud":"app","iat":%d.5,"exp":%d.25,"org":"o1"}`, start.Unix(), start.Unix()+60)
	c, err := verifier(t, k).Verify(t.Context(), "Bearer "+sign(t, k, json.RawMessage(payload)))
	if err != nil {
		t.Fatal(err)
	}
	if string(c.Payload) != payload {
		t.Errorf("payload %s, want %s", c.Payload, payload)
	}
	if !c.IssuedAt.Equal(start.Add(time.Second/2)) || !c.Expires.Equal(start.Add(60*time.Second+time.Second/4)) {
		t.Errorf("issued %v, expires %v", c.IssuedAt, c.Expires)
	}
}

func TestHeaders(t *testing.T) {
	k := secretKey("k")
	v := verifier(t, k)
	token := sign(t, k, good(start))
	for header, want := range map[string]string{
		"Token " + token:         "ok u1",
		"Bearer " + token:        "ok u1",
		"":                       "PSYNC_S2106 header",
		token:                    "PSYNC_S2106 header",
		"Token":                  "PSYNC_S2106 header",
		"Token ":                 "PSYNC_S2106 header",
		"token " + token:         "PSYNC_S2106 header",
		"BEARER " + token:        "PSYNC_S2106 header",
		"Basic " + token:         "PSYNC_S2106 header",
		"Token  " + token:        "PSYNC_S2106 header",
		" Token " + token:        "PSYNC_S2106 header",
		"Token " + token + " ":   "PSYNC_S2106 header",
		"Token\t" + token:        "PSYNC_S2106 header",
		"Token " + token + "\nx": "PSYNC_S2106 header",
	} {
		if got := outcome(v.Verify(t.Context(), header)); got != want {
			t.Errorf("%q: %s, want %s", header, got, want)
		}
	}
}

func TestGoldenTokens(t *testing.T) {
	text, err := os.ReadFile("testdata/golden.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range strings.Split(strings.TrimSpace(string(text)), "\n\n")[1:] {
		raw, token, _ := strings.Cut(block, "\n")
		var jwk jose.JSONWebKey
		if err := json.Unmarshal([]byte(raw), &jwk); err != nil {
			t.Fatal(err)
		}
		if got := outcome(verifier(t, jwk).Verify(t.Context(), "Token "+token)); got != "PSYNC_S2101 claims" {
			t.Errorf("%s: %s", raw, got)
		}
		// Another signature of the same length.
		i := strings.LastIndexByte(token, '.') + 1
		forged := token[:i] + "A" + token[i+1:]
		if got := outcome(verifier(t, jwk).Verify(t.Context(), "Token "+forged)); got != "PSYNC_S2101 signature" {
			t.Errorf("%s, forged: %s", raw, got)
		}
	}
}

func TestAlgorithms(t *testing.T) {
	rsaKey := rsaPair().Private
	long := jose.JSONWebKey{Key: bytes.Repeat([]byte{7}, 64), KeyID: "long"}
	for alg, k := range map[string]jose.JSONWebKey{
		"HS256": long, "HS384": long, "HS512": long,
		"RS256": rsaKey, "RS384": rsaKey, "RS512": rsaKey, "PS256": rsaKey, "PS384": rsaKey, "PS512": rsaKey,
		"ES256": ecKey("e", elliptic.P256(), ""), "ES384": ecKey("e", elliptic.P384(), ""), "ES512": ecKey("e", elliptic.P521(), ""),
		"EdDSA": edKey("ed"),
	} {
		signing, verifying := k, k
		signing.Algorithm, verifying.Algorithm = alg, ""
		if _, secret := k.Key.([]byte); !secret {
			verifying = verifying.Public()
			verifying.Algorithm = ""
		}
		token := sign(t, signing, good(start))
		for _, configured := range []jose.JSONWebKey{verifying, signing} {
			if got := outcome(verifier(t, configured).Verify(t.Context(), "Token "+token)); got != "ok u1" {
				t.Errorf("%s: %s", alg, got)
			}
		}
	}
}

func TestShortSecret(t *testing.T) {
	secret := []byte("short")
	payload, err := json.Marshal(good(start))
	if err != nil {
		t.Fatal(err)
	}
	input := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256"}`)) + "." + base64.RawURLEncoding.EncodeToString(payload)
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(input))
	token := input + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	if got := outcome(verifier(t, jose.JSONWebKey{Key: secret}).Verify(t.Context(), "Token "+token)); got != "ok u1" {
		t.Error(got)
	}
}

func TestKeySelection(t *testing.T) {
	a, b, wild, wild2 := secretKey("a"), secretKey("b"), secretKey(""), edKey("")
	otherA := a
	otherA.Key = b.Key
	ec := ecKey("a", elliptic.P256(), "ES256")
	anyAlg := a
	anyAlg.Algorithm = ""
	hs384 := jose.JSONWebKey{Key: bytes.Repeat([]byte{1}, 48), KeyID: "a", Algorithm: "HS384"}
	renamed := func(k jose.JSONWebKey, id string) jose.JSONWebKey {
		k.KeyID = id
		return k
	}
	for name, c := range map[string]struct {
		configured []jose.JSONWebKey
		signing    jose.JSONWebKey
		want       string
	}{
		"by id":                               {[]jose.JSONWebKey{b, a}, a, "ok u1"},
		"unknown id":                          {[]jose.JSONWebKey{b}, a, "PSYNC_S2101 key"},
		"no key":                              {nil, a, "PSYNC_S2101 key"},
		"id of another key":                   {[]jose.JSONWebKey{a, b}, renamed(a, "b"), "PSYNC_S2101 signature"},
		"unknown id, wildcard verifies":       {[]jose.JSONWebKey{b, wild}, renamed(wild, "x"), "ok u1"},
		"unknown id, wildcard does not":       {[]jose.JSONWebKey{wild}, a, "PSYNC_S2101 key"},
		"no id, wildcard verifies":            {[]jose.JSONWebKey{a, wild2, wild}, wild, "ok u1"},
		"no id, second wildcard verifies":     {[]jose.JSONWebKey{renamed(b, ""), wild}, wild, "ok u1"},
		"no id, wildcard does not":            {[]jose.JSONWebKey{wild}, renamed(a, ""), "PSYNC_S2101 signature"},
		"no id, only keys with one":           {[]jose.JSONWebKey{a}, renamed(a, ""), "PSYNC_S2101 key"},
		"known id speaks before wildcards":    {[]jose.JSONWebKey{a, wild}, renamed(wild, "a"), "PSYNC_S2101 signature"},
		"two keys of one id":                  {[]jose.JSONWebKey{otherA, a}, a, "ok u1"},
		"two keys of one id, two families":    {[]jose.JSONWebKey{ec, a}, a, "ok u1"},
		"algorithm of another family":         {[]jose.JSONWebKey{ec.Public()}, a, "PSYNC_S2101 algorithm"},
		"another algorithm of the family":     {[]jose.JSONWebKey{a}, hs384, "PSYNC_S2101 algorithm"},
		"key without algorithm, short secret": {[]jose.JSONWebKey{anyAlg}, hs384, "PSYNC_S2101 signature"},
	} {
		token := sign(t, c.signing, good(start))
		if got := outcome(verifier(t, c.configured...).Verify(t.Context(), "Token "+token)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// TestPublicKeyIsNoSecret forges tokens with every form of a public key as an HMAC
// secret, the classic attack.
func TestPublicKeyIsNoSecret(t *testing.T) {
	public := rsaPair().Public
	k := public.Key.(*rsa.PublicKey)
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := json.Marshal(public)
	if err != nil {
		t.Fatal(err)
	}
	wildcard := public
	wildcard.KeyID, wildcard.Algorithm = "", ""
	for _, secret := range [][]byte{k.N.Bytes(), der, jwk, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})} {
		token := sign(t, jose.JSONWebKey{Key: secret, KeyID: public.KeyID, Algorithm: "HS256"}, good(start))
		if got := outcome(verifier(t, public).Verify(t.Context(), "Token "+token)); got != "PSYNC_S2101 algorithm" {
			t.Errorf("by id: %s", got)
		}
		if got := outcome(verifier(t, wildcard).Verify(t.Context(), "Token "+token)); got != "PSYNC_S2101 key" {
			t.Errorf("wildcard: %s", got)
		}
	}
}

func TestMalformedTokens(t *testing.T) {
	k := secretKey("k")
	v := verifier(t, k)
	token := sign(t, k, good(start))
	parts := strings.Split(token, ".")
	enc := base64.RawURLEncoding.EncodeToString
	with := func(header string) string {
		input := enc([]byte(header)) + "." + parts[1]
		mac := hmac.New(sha256.New, k.Key.([]byte))
		mac.Write([]byte(input))
		return input + "." + enc(mac.Sum(nil))
	}
	for name, c := range map[string]struct{ token, want string }{
		"itself":                    {with(`{"alg":"HS256","kid":"k"}`), "ok u1"},
		"one part":                  {"x", "PSYNC_S2101 form"},
		"two parts":                 {parts[0] + "." + parts[1], "PSYNC_S2101 form"},
		"four parts":                {token + ".x", "PSYNC_S2101 form"},
		"five parts":                {token + ".x.y", "PSYNC_S2101 form"},
		"no signature":              {parts[0] + "." + parts[1] + ".", "PSYNC_S2101 signature"},
		"part of a signature":       {token[:len(token)-4], "PSYNC_S2101 signature"},
		"another payload":           {parts[0] + "." + enc([]byte(`{"sub":"admin"}`)) + "." + parts[2], "PSYNC_S2101 signature"},
		"not base64":                {parts[0] + ".!" + parts[1][1:] + "." + parts[2], "PSYNC_S2101 form"},
		"padding":                   {token + "=", "PSYNC_S2101 form"},
		"header is not JSON":        {with(`x`), "PSYNC_S2101 form"},
		"header is no object":       {with(`[]`), "PSYNC_S2101 form"},
		"no algorithm":              {with(`{"kid":"k"}`), "PSYNC_S2101 algorithm"},
		"algorithm none":            {with(`{"alg":"none","kid":"k"}`), "PSYNC_S2101 algorithm"},
		"algorithm in other case":   {with(`{"alg":"hs256","kid":"k"}`), "PSYNC_S2101 algorithm"},
		"algorithm unknown":         {with(`{"alg":"ES256K","kid":"k"}`), "PSYNC_S2101 algorithm"},
		"algorithm for encryption":  {with(`{"alg":"RSA-OAEP","kid":"k"}`), "PSYNC_S2101 algorithm"},
		"id is a number":            {with(`{"alg":"HS256","kid":5}`), "PSYNC_S2101 form"},
		"id twice":                  {with(`{"alg":"HS256","kid":"a","kid":"k"}`), "PSYNC_S2101 form"},
		"critical extension":        {with(`{"alg":"HS256","kid":"k","crit":["exp"],"exp":1}`), "PSYNC_S2101 signature"},
		"key in the token":          {with(`{"alg":"HS256","kid":"x","jwk":{"kty":"oct","k":"eA"}}`), "PSYNC_S2101 form"},
		"JSON serialization":        {`{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`, "PSYNC_S2101 form"},
		"longer than any token":     {strings.Repeat("a", maxToken+1), "PSYNC_S2101 form"},
		"as long as a token may be": {strings.Repeat("a", maxToken), "PSYNC_S2101 form"},
	} {
		if got := outcome(v.Verify(t.Context(), "Token "+c.token)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestSupabase(t *testing.T) {
	secret := "a-secret-as-text-from-the-dashboard-of-a-project"
	v, err := New(Config{SupabaseSecret: secret, Keys: []jose.JSONWebKey{secretKey("own")}, Audience: []string{"app"}, Now: func() time.Time { return start }})
	if err != nil {
		t.Fatal(err)
	}
	signing := jose.JSONWebKey{Key: []byte(secret), KeyID: "unknown", Algorithm: "HS256"}
	claims := func(aud string, lifetime int64) map[string]any {
		return map[string]any{"sub": "u1", "aud": aud, "iat": start.Unix(), "exp": start.Unix() + lifetime}
	}
	for _, c := range []struct {
		key      jose.JSONWebKey
		aud      string
		lifetime int64
		want     string
	}{
		{signing, "authenticated", 604800 + 1200, "ok u1"},
		{signing, "app", 604800, "ok u1"},
		{signing, "authenticated", 604800 + 1201, "PSYNC_S2104 lifetime"},
		{signing, "anon", 60, "PSYNC_S2105 audience"},
		{secretKey("own"), "app", 86401, "PSYNC_S2104 lifetime"},
		{secretKey("own"), "authenticated", 60, "PSYNC_S2105 audience"},
	} {
		if got := outcome(v.Verify(t.Context(), "Token "+sign(t, c.key, claims(c.aud, c.lifetime)))); got != c.want {
			t.Errorf("%s, %s, %d s: %s, want %s", c.key.KeyID, c.aud, c.lifetime, got, c.want)
		}
	}
}

func TestTokensAreRemembered(t *testing.T) {
	now := start
	k := secretKey("k")
	v, err := New(Config{Keys: []jose.JSONWebKey{k}, Audience: []string{"app"}, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	header := "Token " + sign(t, k, good(start))
	first, err := v.Verify(t.Context(), header)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := v.Verify(t.Context(), header); err != nil || again != first {
		t.Errorf("verified anew: %v", err)
	}
	now = start.Add(3659 * time.Second)
	if again, err := v.Verify(t.Context(), header); err != nil || again != first {
		t.Errorf("verified anew within the tolerance: %v", err)
	}
	now = start.Add(3660 * time.Second)
	if got := outcome(v.Verify(t.Context(), header)); got != "PSYNC_S2103 time" {
		t.Errorf("after its end: %s", got)
	}
	if len(v.cache.tokens) != 0 {
		t.Error("a token that has expired is still remembered")
	}
	claims := good(now)
	claims["more"] = strings.Repeat("x", maxCachedToken)
	if _, err := v.Verify(t.Context(), "Token "+sign(t, k, claims)); err != nil {
		t.Error(err)
	}
	if len(v.cache.tokens) != 0 {
		t.Error("a very long token is remembered")
	}
}

func TestCacheIsBounded(t *testing.T) {
	var c tokenCache
	for i := range cacheSize + 100 {
		c.put(strconv.Itoa(i), verified{until: float64(i)})
	}
	if len(c.tokens) != cacheSize {
		t.Errorf("%d tokens, want %d", len(c.tokens), cacheSize)
	}
	if _, ok := c.get(strconv.Itoa(cacheSize + 99)); !ok {
		t.Error("the newest token is not there")
	}
}

// TestRejectionsTellOperators checks what the log gets to know: everything that the
// token says, and nothing that would let a reader of the log use it.
func TestRejectionsTellOperators(t *testing.T) {
	k := secretKey("k1")
	claims := good(start.Add(-2 * time.Hour))
	claims["iss"], claims["aud"] = "https://issuer.example", []string{"other", strings.Repeat("é", 200)}
	token := sign(t, k, claims)
	_, err := verifier(t, k).Verify(t.Context(), "Token "+token)
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Warn("refused", "error", err)
	var entry struct {
		Error map[string]any
	}
	if err := json.Unmarshal(log.Bytes(), &entry); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"code": "PSYNC_S2105", "check": "audience", "kid": "k1", "alg": "HS256", "iss": "https://issuer.example", "sub": "u1",
		"iat": strconv.FormatInt(start.Unix()-7200, 10), "exp": strconv.FormatInt(start.Unix()-3600, 10),
		"aud": `["other","` + strings.Repeat("é", 45) + "…", "want": "[app]",
	} {
		if got := fmt.Sprint(entry.Error[key]); got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
	for _, part := range strings.Split(token, ".") {
		if strings.Contains(log.String(), part) || strings.Contains(err.Error(), part) {
			t.Errorf("part %.10s… of the token is in the log: %s", part, log.String())
		}
	}
	if !strings.HasPrefix(err.Error(), "[PSYNC_S2105] ") {
		t.Errorf("an error frame would carry %q", err)
	}
}

func TestNewReportsEverything(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	_, err = New(Config{
		Keys: []jose.JSONWebKey{
			{Key: &weak.PublicKey, KeyID: "weak"}, {Key: []byte{}, KeyID: "empty"}, {KeyID: "none"},
			{Key: rsaPair().Public.Key, KeyID: "enc", Use: "enc"}, {Key: rsaPair().Public.Key, KeyID: "alg", Algorithm: "HS256"},
			{Key: ecKey("", elliptic.P224(), "").Key, KeyID: "curve"},
		},
		KeySetURIs: []string{"http://[::1", "ftp://user:pass@h/x", "https:///x", "jwks.json", "http://127.0.0.1/jwks", "http://[fe80::1%25eth0]/x"},
		BlockLocal: true,
	})
	for _, want := range []string{"1024 bits", `"empty"`, "key type", `use is "enc"`, `alg "HS256"`, "curve", "PSYNC_S3102", "PSYNC_S3103", "PSYNC_S2203", "names no host"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %s in: %v", want, err)
		}
	}
	if strings.Contains(fmt.Sprint(err), "pass@") {
		t.Errorf("a password is in: %v", err)
	}
	if !errors.Is(err, protocol.ConfigInvalid) || !errors.Is(err, protocol.KeysURIInvalid) {
		t.Errorf("not of the kinds that are in it: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	secret, named := secretKey(""), edKey("k")
	for _, k := range []jose.JSONWebKey{secret, named} {
		f.Add(sign(f, k, good(start)))
		f.Add(sign(f, k, map[string]any{"sub": 5, "aud": []any{1}, "iat": "x", "exp": 1e9}))
	}
	f.Add("e30.e30.")
	v := verifier(f, secret, named.Public())
	f.Fuzz(func(t *testing.T, token string) {
		c, err := v.Verify(context.Background(), "Token "+token)
		if err == nil {
			if c.Expires.Before(start.Add(-time.Minute)) {
				t.Fatalf("accepted though expired: %+v", c)
			}
			return
		}
		var r *Rejection
		if !errors.As(err, &r) || r.Err.Status != 401 {
			t.Fatalf("%v", err)
		}
		_ = r.LogValue()
	})
}

// Without an audience in the configuration nobody is let in.
func TestNoAudience(t *testing.T) {
	k := secretKey("k")
	v, err := New(Config{Keys: []jose.JSONWebKey{k}, Now: func() time.Time { return start }})
	if err != nil {
		t.Fatal(err)
	}
	for _, aud := range []any{"app", "", []string{}, nil, "authenticated"} {
		claims := good(start)
		claims["aud"] = aud
		if got := outcome(v.Verify(t.Context(), "Token "+sign(t, k, claims))); got != "PSYNC_S2105 audience" {
			t.Errorf("aud %v: %s", aud, got)
		}
	}
}
