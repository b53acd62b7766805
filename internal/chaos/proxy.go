//go:build unix

package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// proxyBuffer bounds what a connection holds in each direction.
const proxyBuffer = 16 << 10 // bytes

// Proxy passes TCP connections on to a target, and fails as networks do when it is
// told to. Its methods may be called from any goroutine while Run runs.
type Proxy struct {
	listener net.Listener
	target   string

	mu      sync.Mutex
	flowing chan struct{} // closed unless stalled
	delay   time.Duration
	silent  bool // new connections are born silent
	refuse  bool // new connections are reset
	links   map[*link]struct{}
}

// link is one connection through the proxy. Its fields are guarded by Proxy.mu.
type link struct {
	in, out *net.TCPConn
	silent  bool // takes bytes and passes none, for ever
	budget  int  // bytes that may still pass towards the client before it is reset; negative: any number
	ended   chan struct{}
	once    sync.Once
}

// Listen opens a proxy on a free local port. Run serves it.
func Listen(target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for %s: %w", target, err)
	}
	flowing := make(chan struct{})
	close(flowing)
	return &Proxy{listener: l, target: target, flowing: flowing, links: map[*link]struct{}{}}, nil
}

// Addr returns the address to connect to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Run passes connections until ctx ends, then resets them and waits for their ends.
func (p *Proxy) Run(ctx context.Context) error {
	var links sync.WaitGroup
	stop := context.AfterFunc(ctx, func() { p.listener.Close() })
	defer stop()
	for {
		in, err := p.listener.Accept()
		if err != nil {
			p.Cut()
			links.Wait()
			if ctx.Err() != nil && errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("proxy to %s: %w", p.target, err)
		}
		links.Go(func() { p.serve(ctx, in.(*net.TCPConn)) })
	}
}

// serve carries one connection to its end.
func (p *Proxy) serve(ctx context.Context, in *net.TCPConn) {
	l := &link{in: in, budget: -1, ended: make(chan struct{})}
	p.mu.Lock()
	l.silent = p.silent
	refuse := p.refuse
	p.links[l] = struct{}{}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.links, l)
		p.mu.Unlock()
	}()
	defer l.reset()
	if refuse || ctx.Err() != nil {
		return
	}
	var dialer net.Dialer
	out, err := dialer.DialContext(ctx, "tcp", p.target)
	if err != nil {
		return // the target is down: so is the connection
	}
	p.mu.Lock()
	l.out = out.(*net.TCPConn)
	p.mu.Unlock()
	select {
	case <-l.ended: // reset while it was being dialled
		out.Close()
		return
	default:
	}
	var ways sync.WaitGroup
	ways.Go(func() { p.pass(l, l.in, l.out, false) })
	ways.Go(func() { p.pass(l, l.out, l.in, true) })
	ways.Wait()
}

// pass carries one direction. The first error ends both, but for an end of the
// stream, which is passed on.
func (p *Proxy) pass(l *link, from, to *net.TCPConn, counted bool) {
	buf := make([]byte, proxyBuffer)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			may, alive := p.admit(l, n, counted)
			if may > 0 {
				if _, werr := to.Write(buf[:may]); werr != nil {
					l.reset()
					return
				}
			}
			if !alive {
				l.reset()
				return
			}
		}
		if err != nil {
			if p.isSilent(l) {
				<-l.ended // the other side must not learn of it
				return
			}
			if to.CloseWrite() != nil || !isEOF(err) {
				l.reset()
			}
			return
		}
	}
}

// admit waits as long as the network makes bytes wait and returns how many may pass,
// and whether the connection lives on.
func (p *Proxy) admit(l *link, n int, counted bool) (may int, alive bool) {
	p.mu.Lock()
	flowing, delay := p.flowing, p.delay
	p.mu.Unlock()
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-l.ended:
			return 0, false
		}
	}
	select {
	case <-flowing:
	case <-l.ended:
		return 0, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case l.silent:
		return 0, true
	case !counted || l.budget < 0:
		return n, true
	case n > l.budget:
		return l.budget, false
	}
	l.budget -= n
	return n, true
}

func (p *Proxy) isSilent(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return l.silent
}

// reset ends a connection so that both ends see it break.
func (l *link) reset() {
	l.once.Do(func() {
		close(l.ended)
		for _, c := range []*net.TCPConn{l.in, l.out} {
			if c != nil {
				c.SetLinger(0) // an error means that it is closed already
				c.Close()
			}
		}
	})
}

// Heal lets everything pass again, but for connections that are silent already.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flow()
	p.delay, p.silent, p.refuse = 0, false, false
}

// flow ends a stall.
func (p *Proxy) flow() {
	select {
	case <-p.flowing:
	default:
		close(p.flowing)
	}
}

// Delay keeps whatever passes waiting for d.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Stall lets nothing pass until Heal, and loses nothing.
func (p *Proxy) Stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.flowing:
		p.flowing = make(chan struct{})
	default:
	}
}

// Silence leaves all connections half-open: they take bytes, pass none, and do not
// end. So do new ones until Heal, which brings none of them back.
func (p *Proxy) Silence() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = true
	for l := range p.links {
		l.silent = true
	}
}

// Refuse resets all connections, and new ones until Heal.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	p.refuse = true
	p.mu.Unlock()
	p.Cut()
}

// Cut resets all connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.reset()
	}
}

// Truncate resets each connection once n more bytes have passed towards its client.
func (p *Proxy) Truncate(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.budget = n
	}
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) }
