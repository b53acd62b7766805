package httpapi

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"
)

// tap is a connection that keeps what each write was, and the deadlines.
type tap struct {
	net.Conn
	reads     io.Reader
	writes    []string
	deadlines int
	fail      error
}

func (c *tap) Read(b []byte) (int, error) { return c.reads.Read(b) }
func (c *tap) Write(b []byte) (int, error) {
	if c.fail != nil {
		return 0, c.fail
	}
	c.writes = append(c.writes, string(b))
	return len(b), nil
}
func (c *tap) SetWriteDeadline(time.Time) error { c.deadlines++; return nil }

func newWire(c net.Conn) (*wire, func(*[]byte)) {
	return &wire{Conn: c, buffers: &sync.Pool{New: func() any { return new([]byte) }}}, func(*[]byte) {}
}

// What is written between cork and uncork goes out at once, and in order with what
// others write; beyond the bound it goes out before.
func TestWireHoldsWritesBack(t *testing.T) {
	c := &tap{}
	w, recycle := newWire(c)
	say := func(text string) {
		if n, err := fmt.Fprint(w, text); n != len(text) || err != nil {
			t.Fatal(n, err)
		}
	}
	say("a")
	w.cork()
	say("b")
	w.cork()
	say("c")
	if err := w.uncork(recycle); err != nil {
		t.Fatal(err)
	}
	say("d")
	if err := w.uncork(recycle); err != nil {
		t.Fatal(err)
	}
	say("e")
	w.cork()
	if err := w.uncork(recycle); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(c.writes, "|"); got != "a|bcd|e" || c.deadlines != 3 {
		t.Errorf("wrote %s with %d deadlines, want a|bcd|e with 3", got, c.deadlines)
	}
	if w.held != nil {
		t.Error("a buffer is kept")
	}
	c.writes = nil
	w.cork()
	large := strings.Repeat("x", flushBytes/2)
	for range 5 {
		say(large)
	}
	if len(c.writes) != 2 || len(*w.held) != len(large) {
		t.Errorf("%d writes before the end, %d bytes held back", len(c.writes), len(*w.held))
	}
	if err := w.uncork(recycle); err != nil || len(c.writes) != 3 {
		t.Errorf("%d writes, %v", len(c.writes), err)
	}
}

// After a write has failed nothing is written, since a part of it may be out.
func TestWireFails(t *testing.T) {
	c := &tap{fail: io.ErrShortWrite}
	w, recycle := newWire(c)
	w.cork()
	if _, err := w.Write([]byte("a")); err != nil {
		t.Fatal(err)
	}
	if err := w.uncork(recycle); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("uncork: %v", err)
	}
	c.fail = nil
	if _, err := w.Write([]byte("b")); !errors.Is(err, io.ErrShortWrite) || len(c.writes) > 0 {
		t.Errorf("write after a failure: %v, wrote %q", err, c.writes)
	}
	w.cork()
	if err := w.uncork(recycle); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("uncork after a failure: %v", err)
	}
}

// What came with the request is read first, in whatever pieces.
func TestWireReadsWhatCameEarly(t *testing.T) {
	w, _ := newWire(&tap{reads: strings.NewReader(" then the rest")})
	w.early = []byte("early")
	b := make([]byte, 3)
	if n, err := w.Read(b); n != 3 || err != nil || string(b) != "ear" {
		t.Fatalf("%q, %v", b[:n], err)
	}
	rest, err := io.ReadAll(w)
	if string(rest) != "ly then the rest" || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
}

// Awaiting takes nothing away, and does not wait for what is there already.
func TestWireAwaits(t *testing.T) {
	server, client := net.Pipe()
	defer server.Close()
	w, _ := newWire(server)
	w.reader = bufio.NewReader(w)
	written := make(chan error, 1)
	go func() {
		_, err := client.Write([]byte("two frames"))
		written <- err
	}()
	if err := w.await(time.Hour); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 3)
	if _, err := io.ReadFull(w.reader, b); err != nil || string(b) != "two" {
		t.Fatalf("%q, %v", b, err)
	}
	if err := w.await(time.Hour); err != nil { // the rest may be buffered, or on its way
		t.Fatal(err)
	}
	rest := make([]byte, 7)
	if _, err := io.ReadFull(w.reader, rest); err != nil || string(rest) != " frames" {
		t.Fatalf("%q, %v", rest, err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if err := w.await(time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("await of a silent client: %v", err)
	}
	client.Close()
	if err := w.await(time.Hour); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("await of a client that is gone: %v", err)
	}
}

// identifying is a connection that notes whether it was given a slice itself.
type identifying struct {
	tap
	wanted *byte
	given  bool
}

func (c *identifying) Write(b []byte) (int, error) {
	c.given = c.given || len(b) > 0 && &b[0] == c.wanted
	return c.tap.Write(b)
}

// A large chunk is written from where it lies: a client that does not read holds it
// once. Small ones go out in one write with what frames them.
func TestChunksOnTheWire(t *testing.T) {
	h := &Handler{buffers: sync.Pool{New: func() any { return new([]byte) }}}
	for _, size := range []int{0, 1, copiedChunk, copiedChunk + 1, 1 << 20} {
		chunk := []byte(strings.Repeat("x", size))
		c := &identifying{wanted: unsafe.SliceData(chunk)}
		d := &detached{Handler: h, conn: c, header: http.Header{"A": {"b"}}}
		for range 2 {
			if err := d.write(chunk); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.end(); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(strings.Join(c.writes, ""))), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || string(body) != string(chunk)+string(chunk) {
			t.Errorf("%d bytes twice: %d arrived, %v", size, len(body), err)
		}
		if large := size > copiedChunk; c.given != large || !large && len(c.writes) != 3 {
			t.Errorf("%d bytes: written as they are: %v, in %d writes", size, c.given, len(c.writes))
		}
	}
}

// Leaving ends an await, and keeps another from beginning.
func TestWireLeaves(t *testing.T) {
	server, client := net.Pipe()
	defer server.Close()
	defer client.Close()
	w, _ := newWire(server)
	w.reader = bufio.NewReader(w)
	ended := make(chan error)
	go func() { ended <- w.await(time.Hour) }()
	w.leave()
	if err := <-ended; !errors.Is(err, errLeaving) {
		t.Errorf("await: %v", err)
	}
	if err := w.await(time.Hour); !errors.Is(err, errLeaving) {
		t.Errorf("await after leaving: %v", err)
	}
}
