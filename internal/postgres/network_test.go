package postgres_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-sync/millrace/internal/postgres"
)

// proxy stands between us and the server. Frozen, it goes on accepting and taking
// bytes and passes nothing: what a peer looks like whose machine is gone.
type proxy struct {
	listener net.Listener
	target   string
	running  sync.WaitGroup

	mu     sync.Mutex
	frozen chan struct{} // closed when frozen
	conns  []net.Conn
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, target: target, frozen: make(chan struct{})}
	p.running.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.cut()
		p.running.Wait()
	})
	return p
}

func (p *proxy) port() uint16 { return uint16(p.listener.Addr().(*net.TCPAddr).Port) }

func (p *proxy) accept() {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", p.target)
		if err != nil {
			in.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, in, out)
		p.mu.Unlock()
		p.running.Go(func() { p.pass(in, out) })
		p.running.Go(func() { p.pass(out, in) })
	}
}

func (p *proxy) pass(from, to net.Conn) {
	defer to.Close()
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		select {
		case <-p.frozen:
			io.Copy(io.Discard, from)
			return
		default:
		}
		if _, werr := to.Write(buf[:n]); werr != nil || err != nil {
			return
		}
	}
}

func (p *proxy) freeze() { close(p.frozen) }

// cut ends all connections at once.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			tcp.SetLinger(0) // a reset, not a goodbye
		}
		c.Close()
	}
	p.conns = nil
}

func TestHalfOpenConnectionIsNoticed(t *testing.T) {
	w := newWorld(t, "CREATE TABLE t (id int PRIMARY KEY)")
	p := newProxy(t, net.JoinHostPort(w.config.Host, port(w.config)))
	w.config.Port = p.port()
	w.config.IdleTimeout, w.config.StatusInterval = 2*time.Second, 100*time.Millisecond
	s := w.stream(0)
	w.exec("INSERT INTO t VALUES (1)")
	drain(t, s, "1")
	// A server with nothing to say answers when it is asked to.
	quiet := time.Now()
	for time.Since(quiet) < 2*w.config.IdleTimeout {
		w.mustWait(s, w.config.IdleTimeout/2)
	}
	p.freeze()
	began := time.Now()
	err := streamError(t, s)
	if !errors.Is(err, postgres.ErrTransient) || !errors.Is(err, postgres.ErrUnreachable) || !strings.Contains(err.Error(), "silent for 2s") {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took > 10*w.config.IdleTimeout {
		t.Errorf("noticed after %v only", took)
	}
}

// mustWait reads events for a while and fails if the stream does.
func (w *world) mustWait(s *postgres.Stream, d time.Duration) {
	w.t.Helper()
	ctx, cancel := contextFor(w.t, d)
	defer cancel()
	for {
		if _, err := s.Next(ctx); err != nil {
			if ctx.Err() == nil {
				w.t.Fatal(err)
			}
			return
		}
	}
}

func TestBrokenConnectionIsTransient(t *testing.T) {
	w := newWorld(t, "CREATE TABLE t (id int PRIMARY KEY)")
	direct := w.config
	p := newProxy(t, net.JoinHostPort(w.config.Host, port(w.config)))
	w.config.Port = p.port()
	s := w.stream(0)
	w.exec("INSERT INTO t VALUES (1)")
	drain(t, s, "1")
	p.cut()
	if err := streamError(t, s); !errors.Is(err, postgres.ErrTransient) || !errors.Is(err, postgres.ErrUnreachable) {
		t.Errorf("got %v", err)
	}
	s.Close()
	w.config = direct
	waitFor(t, "the server to notice", func() bool {
		state, err := postgres.Slot(t.Context(), w.conn, w.config.Slot)
		return err == nil && state.PID == 0
	})
	if got, _ := drain(t, w.stream(0), "1"); len(got) != 1 {
		t.Errorf("came again: %v", got)
	}
}
