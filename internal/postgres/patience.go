package postgres

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// patientConn is a connection whose peer may be silent, or take nothing, for a while
// only: a read that gets no byte for so long fails, and a write that gets rid of none.
// How long the whole takes does not matter. A link whose other end is gone looks like
// a quiet one, to TCP often for a quarter of an hour.
type patientConn struct {
	net.Conn

	heard atomic.Int64 // when something last came, Unix nanoseconds

	mu       sync.Mutex
	patience time.Duration // 0: without end
	began    time.Time     // of the present deadline for reading
	// Somebody else has set a deadline, which holds.
	readImposed, writeImposed bool
}

// writePiece is how much is written at a time, in bytes: progress within it is not seen.
const writePiece = 64 << 10

// silentError is what a read or write then fails with.
type silentError struct{ patience time.Duration }

// Error implements error, Timeout and Temporary net.Error.
func (e *silentError) Error() string { return fmt.Sprintf("nothing has passed for %v", e.patience) }
func (e *silentError) Timeout() bool { return true }

// Temporary is false: what was being read or written is lost.
func (e *silentError) Temporary() bool { return false }

// wait sets how long the peer may be silent from now on.
func (c *patientConn) wait(patience time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.patience, c.began = patience, time.Time{}
	c.heard.Store(time.Now().UnixNano())
}

// Read implements net.Conn.
func (c *patientConn) Read(b []byte) (int, error) {
	if err := c.beforeRead(); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.heard.Store(time.Now().UnixNano())
	}
	return n, c.explain(err, &c.readImposed)
}

// beforeRead moves the deadline for reading.
func (c *patientConn) beforeRead() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.patience == 0 || c.readImposed {
		return nil
	}
	// Moving the deadline is not free, and rows come one by one.
	now := time.Now()
	if now.Sub(c.began) <= c.patience/16 {
		return nil
	}
	c.began = now
	return c.Conn.SetReadDeadline(now.Add(c.patience))
}

// Write implements net.Conn.
func (c *patientConn) Write(b []byte) (written int, err error) {
	for {
		if err := c.beforeWrite(); err != nil {
			return written, err
		}
		n, err := c.Conn.Write(b[:min(len(b), writePiece)])
		written += n
		if err != nil {
			return written, c.explain(err, &c.writeImposed)
		}
		if b = b[n:]; len(b) == 0 {
			return written, nil
		}
	}
}

func (c *patientConn) beforeWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.patience == 0 || c.writeImposed {
		return nil
	}
	return c.Conn.SetWriteDeadline(time.Now().Add(c.patience))
}

// explain says what a timeout means that is ours.
func (c *patientConn) explain(err error, imposed *bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil || *imposed || c.patience == 0 || !isTimeout(err) {
		return err
	}
	return &silentError{c.patience}
}

// SetDeadline implements net.Conn. The caller's deadlines hold, until they are taken
// back with a zero time.
func (c *patientConn) SetDeadline(t time.Time) error {
	c.impose(t, &c.readImposed, &c.writeImposed)
	return c.Conn.SetDeadline(t)
}

// SetReadDeadline implements net.Conn, as SetDeadline.
func (c *patientConn) SetReadDeadline(t time.Time) error {
	c.impose(t, &c.readImposed)
	return c.Conn.SetReadDeadline(t)
}

// SetWriteDeadline implements net.Conn, as SetDeadline.
func (c *patientConn) SetWriteDeadline(t time.Time) error {
	c.impose(t, &c.writeImposed)
	return c.Conn.SetWriteDeadline(t)
}

// impose notes that deadlines are the caller's, or ours again. It comes before they
// are set, so that a read that is about to begin does not move them.
func (c *patientConn) impose(t time.Time, which ...*bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, imposed := range which {
		*imposed = !t.IsZero()
	}
	c.began = time.Time{}
}
