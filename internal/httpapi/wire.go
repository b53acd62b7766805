package httpapi

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// wireBuffer is the size of the buffers that a socket keeps: enough for its control
// frames. Larger messages do not need a buffer to be read, and are gathered by cork
// to be written.
const wireBuffer = 512

// wire is the connection under a socket. It puts a deadline on each write, and can
// hold writes back to make one of several: an update is three small messages.
type wire struct {
	net.Conn
	reader  *bufio.Reader // that the socket reads through
	early   []byte        // what came together with the request, or ended await
	first   [1]byte
	buffers *sync.Pool

	waiting sync.Mutex
	awaits  bool // someone is in await
	leaving bool

	mu    sync.Mutex
	corks int
	held  *[]byte
	err   error // of an earlier write: nothing can follow it
}

// errLeaving: await was ended by leave.
var errLeaving = errors.New("the service stops")

// await waits for something to read, at most for so long. It needs little of a stack,
// unlike reading a message.
func (w *wire) await(silence time.Duration) error {
	if w.reader.Buffered() > 0 || len(w.early) > 0 {
		return nil
	}
	w.waiting.Lock()
	w.awaits = true
	leaving, err := w.leaving, w.Conn.SetReadDeadline(time.Now().Add(silence))
	w.waiting.Unlock()
	if leaving {
		return errLeaving
	}
	if err != nil {
		return err
	}
	n, err := w.Conn.Read(w.first[:])
	w.early = w.first[:n]
	w.waiting.Lock()
	defer w.waiting.Unlock()
	w.awaits = false
	switch {
	case err != nil && w.leaving:
		return errLeaving
	case err != nil:
		return err
	}
	return w.Conn.SetReadDeadline(time.Time{})
}

// leave ends await, now or when it is next called.
func (w *wire) leave() {
	w.waiting.Lock()
	defer w.waiting.Unlock()
	w.leaving = true
	if w.awaits {
		_ = w.Conn.SetReadDeadline(time.Unix(1, 0)) // fails if the connection is closed
	}
}

// Read reads what came early first.
func (w *wire) Read(b []byte) (int, error) {
	if len(w.early) > 0 {
		n := copy(b, w.early)
		if w.early = w.early[n:]; len(w.early) == 0 {
			w.early = nil
		}
		return n, nil
	}
	return w.Conn.Read(b)
}

// Write writes, or holds back up to flushBytes between cork and uncork.
func (w *wire) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.corks == 0 {
		return len(b), w.write(b)
	}
	if w.held == nil {
		w.held = w.buffers.Get().(*[]byte)
	}
	if *w.held = append(*w.held, b...); len(*w.held) < flushBytes {
		return len(b), w.err
	}
	return len(b), w.flush()
}

func (w *wire) write(b []byte) error {
	if w.err == nil {
		_ = w.Conn.SetWriteDeadline(time.Now().Add(writeTimeout)) // fails if Write does
		_, w.err = w.Conn.Write(b)
	}
	return w.err
}

// flush writes out what is held. The buffer goes back with the last cork.
func (w *wire) flush() error {
	err := w.write(*w.held)
	*w.held = (*w.held)[:0]
	return err
}

// cork holds back what is written until as many uncorks. What comes between must not
// wait for anything.
func (w *wire) cork() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.corks++
}

func (w *wire) uncork(recycle func(*[]byte)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.corks--; w.corks > 0 || w.held == nil {
		return w.err
	}
	err := w.err
	if len(*w.held) > 0 {
		err = w.flush()
	}
	recycle(w.held)
	w.held = nil
	return err
}

// wiring is a ResponseWriter whose connection, once it is taken, is a wire with small
// buffers; those of the HTTP server would stay with the socket for all its life.
type wiring struct {
	http.ResponseWriter
	buffers *sync.Pool
	wire    *wire
}

// Hijack implements http.Hijacker.
func (w *wiring) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	// The 101 may still be in the writer.
	if err := rw.Flush(); err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	w.wire = &wire{Conn: conn, buffers: w.buffers}
	if early, _ := rw.Peek(rw.Reader.Buffered()); len(early) > 0 {
		w.wire.early = append([]byte(nil), early...)
	}
	w.wire.reader = bufio.NewReaderSize(w.wire, wireBuffer)
	return w.wire, bufio.NewReadWriter(w.wire.reader, bufio.NewWriterSize(w.wire, wireBuffer)), nil
}
