package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/millrace-sync/millrace/internal/demo"
)

// A requestCase is a request that the service must refuse, and how.
type requestCase struct {
	Name   string
	Method string // POST if empty
	Path   string // /sync/stream if empty
	// Header is what is sent, {{name}} a token of that kind; a good token and JSON are
	// sent unless it says otherwise.
	Header map[string]string
	Body   string // {{long}} is 8 MiB of text
	Status int
	Code   string // of the error body; empty: there is none
	Says   string // part of its description or details
}

// TestRequests runs the cases of testdata/requests.json. After each the service must
// serve a good client.
func TestRequests(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "requests.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []requestCase
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&cases); err != nil {
		t.Fatal(err)
	}
	s := startStack(t)
	tokens := makeTokens(t, s)
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			c.run(t, s, tokens)
			first(t, s, tokens["good"])
		})
	}
}

func (c *requestCase) run(t *testing.T, s *demo.Stack, tokens map[string]string) {
	method, path := c.Method, c.Path
	if method == "" {
		method = http.MethodPost
	}
	if path == "" {
		path = "/sync/stream"
	}
	body := strings.ReplaceAll(c.Body, "{{long}}", strings.Repeat("x", 8<<20))
	req, err := http.NewRequestWithContext(patient(t), method, s.ServiceURL()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	header := map[string]string{"Authorization": "Token {{good}}", "Content-Type": "application/json"}
	for name, value := range c.Header {
		header[name] = value
	}
	for name, value := range header {
		for kind, token := range tokens {
			value = strings.ReplaceAll(value, "{{"+kind+"}}", token)
		}
		if strings.Contains(value, "{{") {
			t.Fatalf("header %s: unknown token in %s", name, value)
		}
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode != c.Status {
		t.Errorf("status %d, want %d: %.300s", answer.StatusCode, c.Status, text)
	}
	if c.Code == "" {
		return
	}
	var e struct {
		Error struct {
			Code, Description string
			Details           any
			Status            int
		}
	}
	if err := json.Unmarshal(text, &e); err != nil {
		t.Fatalf("%v: %.300s", err, text)
	}
	if e.Error.Code != c.Code || e.Error.Status != c.Status {
		t.Errorf("code %s, status %d in the body; want %s, %d: %.300s", e.Error.Code, e.Error.Status, c.Code, c.Status, text)
	}
	if said := e.Error.Description + " " + fmt.Sprint(e.Error.Details); !strings.Contains(said, c.Says) {
		t.Errorf("it says %q, which lacks %q", said, c.Says)
	}
	if kind := answer.Header.Get("Content-Type"); !strings.HasPrefix(kind, "application/json") {
		t.Errorf("content type %q", kind)
	}
	if answer.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Error("a web page cannot read the error: no Access-Control-Allow-Origin")
	}
}

// first opens a stream and checks that it begins with a checkpoint.
func first(t *testing.T, s *demo.Stack, token string) {
	t.Helper()
	ctx, cancel := context.WithCancel(patient(t))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.ServiceURL()+"/sync/stream", strings.NewReader(`{"raw_data":true}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("a good client gets status %d", answer.StatusCode)
	}
	line, err := bufio.NewReader(answer.Body).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, `{"checkpoint":`) {
		t.Fatalf("a good client gets %q, %v", line, err)
	}
}

// makeTokens returns tokens of every kind, good and bad, by name.
func makeTokens(t *testing.T, s *demo.Stack) map[string]string {
	t.Helper()
	key := s.PrivateKey()
	var private jose.JSONWebKey
	text, err := base64.RawURLEncoding.DecodeString(key)
	if err == nil {
		err = json.Unmarshal(text, &private)
	}
	if err != nil {
		t.Fatal(err)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, err := json.Marshal(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	sign := func(key any, alg jose.SignatureAlgorithm, claims any) string {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, nil)
		if err != nil {
			t.Fatal(err)
		}
		token, err := jwt.Signed(signer).Claims(claims).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	now := time.Now().Unix()
	claims := func(change func(map[string]any)) map[string]any {
		c := map[string]any{"sub": "ann", "aud": "powersync", "iat": now, "exp": now + 600}
		change(c)
		return c
	}
	good := sign(private, jose.RS256, claims(func(map[string]any) {}))
	parts := strings.Split(good, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."
	return map[string]string{
		"good":        good,
		"expired":     sign(private, jose.RS256, claims(func(c map[string]any) { c["iat"], c["exp"] = now-600, now-120 })),
		"future":      sign(private, jose.RS256, claims(func(c map[string]any) { c["nbf"] = now + 600 })),
		"endless":     sign(private, jose.RS256, claims(func(c map[string]any) { c["exp"] = now + 90000 })),
		"noexp":       sign(private, jose.RS256, claims(func(c map[string]any) { delete(c, "exp") })),
		"noiat":       sign(private, jose.RS256, claims(func(c map[string]any) { delete(c, "iat") })),
		"nosub":       sign(private, jose.RS256, claims(func(c map[string]any) { delete(c, "sub") })),
		"noaud":       sign(private, jose.RS256, claims(func(c map[string]any) { delete(c, "aud") })),
		"otheraud":    sign(private, jose.RS256, claims(func(c map[string]any) { c["aud"] = []string{"else", "where"} })),
		"otherkey":    sign(jose.JSONWebKey{Key: other, KeyID: private.KeyID}, jose.RS256, claims(func(map[string]any) {})),
		"unknownkey":  sign(jose.JSONWebKey{Key: other, KeyID: "nobody's"}, jose.RS256, claims(func(map[string]any) {})),
		"confused":    sign(jose.JSONWebKey{Key: public, KeyID: private.KeyID}, jose.HS256, claims(func(map[string]any) {})),
		"unsigned":    none,
		"changed":     parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"bob","aud":"powersync","iat":1,"exp":9999999999}`)) + "." + parts[2],
		"twoparts":    parts[0] + "." + parts[1],
		"otheralgrsa": sign(jose.JSONWebKey{Key: private.Key, KeyID: private.KeyID}, jose.RS512, claims(func(map[string]any) {})),
	}
}

// TestRawConnections: what is not HTTP, or never ends, harms nobody.
func TestRawConnections(t *testing.T) {
	s := startStack(t)
	tokens := makeTokens(t, s)
	for name, text := range map[string]string{
		"not HTTP":            "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"bad request line":    "FETCH\r\n\r\n",
		"endless header":      "GET /probes/liveness HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 2<<20),
		"two lengths":         "POST /sync/stream HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n{}",
		"length is no number": "POST /sync/stream HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n{}",
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", strings.TrimPrefix(s.ServiceURL(), "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			// The other side may close while we still write.
			_, _ = io.WriteString(conn, text)
			answer, err := io.ReadAll(io.LimitReader(conn, 4096))
			if len(answer) > 0 && !bytes.HasPrefix(answer, []byte("HTTP/1.1 4")) {
				t.Errorf("answer %.100q, want a 4xx or none", answer)
			}
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				t.Error("the connection was kept open")
			}
			first(t, s, tokens["good"])
		})
	}
}
