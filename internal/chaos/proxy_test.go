//go:build unix

package chaos

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// echo serves connections that send back what they get.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c) // ends with the connection, however that ends
			}()
		}
	}()
	return l.Addr().String()
}

// runProxy runs a proxy until the test ends.
func runProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	p, err := Listen(target)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return p
}

func dial(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// says sends a word and reports what comes of it: the word, or an error.
func says(t *testing.T, c net.Conn, word string, patience time.Duration) (string, error) {
	t.Helper()
	if _, err := io.WriteString(c, word); err != nil {
		return "", err
	}
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, len(word))
	n, err := io.ReadFull(c, buf)
	return string(buf[:n]), err
}

const (
	long  = 10 * time.Second
	short = 50 * time.Millisecond
)

func passes(t *testing.T, c net.Conn) {
	t.Helper()
	if got, err := says(t, c, "hello", long); got != "hello" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestProxyPassesAndCuts(t *testing.T) {
	p := runProxy(t, echo(t))
	c := dial(t, p)
	passes(t, c)
	p.Cut()
	if got, err := says(t, c, "hello", long); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("after the cut: %q, %v", got, err)
	}
	passes(t, dial(t, p))
}

func TestProxySilence(t *testing.T) {
	p := runProxy(t, echo(t))
	old := dial(t, p)
	passes(t, old)
	p.Silence()
	born := dial(t, p)
	for range 2 {
		for _, c := range []net.Conn{old, born} {
			if got, err := says(t, c, "x", short); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("%q, %v, want silence", got, err)
			}
		}
		p.Heal() // brings none of them back
	}
	passes(t, dial(t, p))
}

func TestProxyStallLosesNothing(t *testing.T) {
	p := runProxy(t, echo(t))
	c := dial(t, p)
	passes(t, c)
	p.Stall()
	if got, err := says(t, c, "one ", short); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("stalled: %q, %v", got, err)
	}
	p.Heal()
	if got, err := says(t, c, "two ", long); got != "one " || err != nil {
		t.Fatalf("healed: %q, %v", got, err)
	}
}

func TestProxyTruncates(t *testing.T) {
	p := runProxy(t, echo(t))
	c := dial(t, p)
	passes(t, c)
	p.Truncate(3)
	if got, err := says(t, c, "hello", long); got != "hel" && got != "" || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%q, %v, want a connection that broke off", got, err)
	}
}

func TestProxyRefuses(t *testing.T) {
	p := runProxy(t, echo(t))
	p.Refuse()
	if c, err := net.Dial("tcp", p.Addr()); err == nil { // else it was refused already
		defer c.Close()
		if got, err := says(t, c, "hello", long); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%q, %v, want a refusal", got, err)
		}
	}
	p.Heal()
	passes(t, dial(t, p))
}

func TestProxyDelays(t *testing.T) {
	p := runProxy(t, echo(t))
	c := dial(t, p)
	passes(t, c)
	const delay = 30 * time.Millisecond
	p.Delay(delay)
	start := time.Now()
	passes(t, c)
	if took := time.Since(start); took < 2*delay {
		t.Errorf("there and back in %v, want %v at least", took, 2*delay)
	}
}
