package httpapi_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-sync/millrace/internal/httpapi"
)

// patience is how long a test waits for what a server must do by itself.
const patience = 20 * time.Second

// Clients on a real network that are slow with a header, send too much of one, or stay
// after their request, are answered and let go in time. Those who come after them find
// their places free.
func TestSlowHeaders(t *testing.T) {
	bounds := httpapi.Bounds{Header: 200 * time.Millisecond, Idle: 300 * time.Millisecond, HeaderBytes: 8 << 10}
	const probe = "GET /probes/startup HTTP/1.1\r\nHost: x\r\n"
	s := newService(t, func(c *httpapi.Config) { c.Sockets = 6 })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	web := httpapi.NewServer(s.handler, bounds, s.config.Log)
	var serving sync.WaitGroup
	serving.Go(func() { _ = web.Serve(listener) })
	defer serving.Wait()
	defer web.Close()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for name, c := range map[string]struct {
		says   string
		status int // 0: the connection is closed without a word
		least  time.Duration
	}{
		"nothing":                {"", 0, bounds.Header},
		"half a request line":    {"GET /probes", 400, bounds.Header},
		"a header without end":   {probe, 0, bounds.Header},
		"half a header line":     {probe + "X-Y", 400, bounds.Header},
		"one request":            {probe + "\r\n", 200, bounds.Idle},
		"one request and a half": {probe + "\r\n" + probe, 200, bounds.Header},
		"a long header":          {probe + "X: " + strings.Repeat("x", 32<<10), 431, 0},
		"many headers":           {probe + strings.Repeat("X: y\r\n", 4<<10), 431, 0},
		"a long request line":    {"GET /" + strings.Repeat("x", 32<<10), 431, 0},
	} {
		t.Run(name, func(t *testing.T) {
			eventually(t, "another client is served", func() bool {
				resp, err := client.Get("http://" + listener.Addr().String() + "/probes/startup")
				if err != nil {
					return false // the server has not noticed yet that those before are gone
				}
				resp.Body.Close()
				return resp.StatusCode == 200
			})
			start := time.Now() // before the server's clock begins
			conn, err := net.Dial("tcp", listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(start.Add(patience))
			_, _ = io.WriteString(conn, c.says) // the server may close before it has all
			r := bufio.NewReader(conn)
			resp, err := http.ReadResponse(r, nil)
			switch {
			case c.status == 0:
				if err == nil {
					t.Errorf("answered with status %d", resp.StatusCode)
				}
			case err != nil:
				t.Fatal(err)
			case resp.StatusCode != c.status:
				t.Errorf("status %d, want %d", resp.StatusCode, c.status)
			}
			if _, err := io.Copy(io.Discard, r); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal("the connection was kept")
			}
			if d := time.Since(start); d < c.least {
				t.Errorf("closed after %s, which is less than %s", d, c.least)
			}
		})
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// The bounds that a service has, by the clock: a header that comes a byte at a time is
// given up, one of more than 64 KiB refused, and a connection waits for its next request for as long as the reference's.
func TestServerBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		_, listener, stop := s.serve()
		defer stop()
		dial := func() net.Conn {
			conn, err := listener.dial(t.Context(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			return conn
		}
		start := time.Now()
		slow := dial()
		closed := make(chan time.Duration)
		go func() {
			_, _ = io.Copy(io.Discard, slow)
			closed <- time.Since(start)
		}()
		go func() {
			for _, c := range []byte("GET /probes/startup HTTP/1.1\r\nX: " + strings.Repeat("x", 1000)) {
				if _, err := slow.Write([]byte{c}); err != nil {
					return
				}
				time.Sleep(time.Second) // of the bubble's time
			}
		}()
		if d := <-closed; d != 10*time.Second {
			t.Errorf("a slow header was given up after %s", d)
		}
		for size, status := range map[int]int{60 << 10: 200, 80 << 10: 431} {
			large := dial()
			go func() {
				_, _ = io.WriteString(large, "GET /probes/startup HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", size)+"\r\n\r\n")
			}()
			resp, err := http.ReadResponse(bufio.NewReader(large), nil)
			if err != nil || resp.StatusCode != status {
				t.Errorf("a header of %d bytes: %+v, %v", size, resp, err)
			}
			large.Close()
		}
		idle := dial()
		r := bufio.NewReader(idle)
		for range 2 { // the second time after a while
			if _, err := io.WriteString(idle, "GET /probes/startup HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(r, nil)
			if err != nil || resp.StatusCode != 200 {
				t.Fatalf("%+v, %v", resp, err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				t.Fatal(err)
			}
			time.Sleep(71 * time.Second) // of the bubble's time
		}
		start = time.Now()
		if _, err := r.ReadByte(); err != io.EOF || time.Since(start) != time.Second {
			t.Errorf("an idle connection: %v, %s after 71 s", err, time.Since(start))
		}
	})
}
