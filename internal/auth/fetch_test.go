package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-sync/millrace/protocol"
)

func TestKeysOverHTTP(t *testing.T) {
	a, b := edKey("a"), edKey("b")
	var doc atomic.Value
	doc.Store(keySetOf(t, a))
	var fetches atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fetches.Add(1)
		if r.URL.Path == "/old" {
			http.Redirect(w, r, "/jwks", http.StatusFound)
			return
		}
		_, _ = w.Write(doc.Load().([]byte))
	}))
	defer server.Close()
	var now atomic.Int64
	clock := func() time.Time { return start.Add(time.Duration(now.Load())) }
	v, err := New(Config{KeySetURIs: []string{server.URL + "/old"}, Audience: []string{"app"}, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	for range 3 {
		if got := outcome(v.Verify(t.Context(), "Token "+sign(t, a, good(clock())))); got != "ok u1" {
			t.Fatal(got)
		}
	}
	if n := fetches.Load(); n != 2 {
		t.Errorf("%d requests, want 2: the redirect and the set", n)
	}
	doc.Store(keySetOf(t, b))
	now.Store(int64(2 * time.Hour))
	if got := outcome(v.Verify(t.Context(), "Token "+sign(t, a, good(clock())))); got != "PSYNC_S2101 key" {
		t.Errorf("a withdrawn key after two hours: %s", got)
	}
	if got := outcome(v.Verify(t.Context(), "Token "+sign(t, b, good(clock())))); got != "ok u1" {
		t.Errorf("the new key: %s", got)
	}
}

func TestBadAnswers(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/missing", http.NotFound)
	mux.HandleFunc("/long", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(w, zeros{}, maxKeySet+1)
	})
	mux.HandleFunc("/fits", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(w, zeros{}, maxKeySet)
	})
	mux.HandleFunc("/cut", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte("{"))
	})
	mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/loop", http.StatusFound)
	})
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	fetch := newFetcher(addressRule{})
	for path, want := range map[string]string{
		"/missing": "404", "/long": "longer than", "/cut": "unexpected EOF", "/loop": "redirects", "/file": "redirect from http to file",
	} {
		_, err := fetch(t.Context(), server.URL+path)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	if doc, err := fetch(t.Context(), server.URL+"/fits"); err != nil || len(doc) != maxKeySet {
		t.Errorf("a document of the greatest length: %d bytes, %v", len(doc), err)
	}
	server.Close()
	v, err := New(Config{KeySetURIs: []string{server.URL}, Audience: []string{"app"}})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	_, err = v.Verify(t.Context(), "Token "+sign(t, edKey("a"), good(start)))
	if _, ok := errors.AsType[*net.OpError](err); !ok || outcome(nil, err) != "PSYNC_S2204 keys" {
		t.Errorf("a server that is gone: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestRefusedAddresses(t *testing.T) {
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(`{"keys":[]}`)) })
	const target = "http://10.1.2.3:9/" // never connected to
	redirecting := httptest.NewServer(http.RedirectHandler(target, http.StatusFound))
	defer redirecting.Close()
	direct := httptest.NewServer(answer)
	defer direct.Close()
	port := direct.Listener.Addr().(*net.TCPAddr).Port

	ten := addressRule{ranges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	for _, c := range []struct {
		rule    addressRule
		uri     string
		refused bool
	}{
		{addressRule{}, direct.URL, false},
		{ten, direct.URL, false},
		{ten, target, true},
		{ten, redirecting.URL, true},
		{addressRule{local: true}, direct.URL, true},
		{addressRule{local: true}, fmt.Sprintf("http://localhost:%d/", port), true},
		{addressRule{local: true}, fmt.Sprintf("http://[::ffff:127.0.0.1]:%d/", port), true},
	} {
		_, err := newFetcher(c.rule)(t.Context(), c.uri)
		if errors.Is(err, protocol.KeysAddressRefused) != c.refused || err == nil == c.refused {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestTokensWhoseKeysAreAtARefusedAddress(t *testing.T) {
	v, err := New(Config{KeySetURIs: []string{"http://localhost:1/jwks"}, BlockLocal: true})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	_, err = v.Verify(t.Context(), "Token "+sign(t, edKey("a"), good(start)))
	if got := outcome(nil, err); got != "PSYNC_S2203 keys" {
		t.Error(got)
	}
	if _, ok := errors.AsType[*url.Error](err); !ok || errors.Is(err, io.EOF) {
		t.Errorf("the cause is lost: %v", err)
	}
}

func TestPublicAddresses(t *testing.T) {
	for text, want := range map[string]bool{
		"1.1.1.1": true, "93.184.216.34": true, "172.32.0.1": true, "192.169.0.1": true, "100.128.0.1": true, "2606:4700::1111": true, "::ffff:1.1.1.1": true,
		"127.0.0.1": false, "127.255.0.9": false, "10.1.2.3": false, "172.16.0.1": false, "172.31.255.255": false, "192.168.0.1": false,
		"169.254.169.254": false, "100.64.0.1": false, "0.0.0.0": false, "0.1.2.3": false, "192.0.0.8": false, "198.18.0.1": false,
		"203.0.113.9": false, "224.0.0.1": false, "240.0.0.1": false, "255.255.255.255": false,
		"::": false, "::1": false, "fe80::1": false, "fe80::1%eth0": false, "fc00::1": false, "fd12::1": false, "ff02::1": false,
		"::ffff:127.0.0.1": false, "::ffff:10.0.0.1": false, "::10.0.0.1": false, "64:ff9b::a00:1": false, "2002:a00:1::1": false,
		"2001::1": false, "2001:db8::1": false, "fec0::1": false,
	} {
		if got := isPublic(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}

func TestRedirects(t *testing.T) {
	request := func(uri string) *http.Request {
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		return &http.Request{URL: u}
	}
	secure, plain := request("https://a/"), request("http://a/")
	for _, c := range []struct {
		to  *http.Request
		via []*http.Request
		ok  bool
	}{
		{secure, []*http.Request{secure}, true},
		{secure, []*http.Request{plain}, true},
		{plain, []*http.Request{plain}, true},
		{plain, []*http.Request{secure}, false},
		{plain, []*http.Request{plain, secure}, false},
		{request("file:///x"), []*http.Request{plain}, false},
		{secure, []*http.Request{secure, secure, secure}, true},
		{secure, []*http.Request{secure, secure, secure, secure}, false},
	} {
		if err := checkRedirect(c.to, c.via); err == nil != c.ok {
			t.Errorf("to %s via %d: %v", c.to.URL, len(c.via), err)
		}
	}
}

func TestFetchEndsWithItsContext(t *testing.T) {
	arrived := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
	}))
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	if _, err := newFetcher(addressRule{})(ctx, server.URL); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
