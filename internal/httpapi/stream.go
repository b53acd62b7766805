package httpapi

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/millrace-sync/millrace/internal/auth"
	"github.com/millrace-sync/millrace/internal/zstd"
	"github.com/millrace-sync/millrace/protocol"
)

// stream serves POST /sync/stream: it validates, authenticates, and then carries
// the session to its end.
func (h *Handler) stream(w http.ResponseWriter, r *http.Request) {
	verify := func() (*auth.Claims, error) { return h.Verifier.Verify(r.Context(), r.Header.Get("Authorization")) }
	// What is wrong with a request is told first, as far as a stranger may go on.
	r.Body = &doubtful{ReadCloser: r.Body, left: unknownBody, admit: func() error { _, err := verify(); return err }}
	_, b, err := bodyOf(w, r, h.maxRequest())
	if err != nil {
		h.fail(w, r, err)
		return
	}
	req, err := protocol.DecodeRequest(b)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	claims, err := verify()
	if err != nil {
		h.fail(w, r, err)
		return
	}
	if !h.place(claims.Subject) {
		tooMany(w)
		return
	}
	codec := protocol.NegotiateCodec(strings.Join(r.Header.Values("Accept"), ","), req.RawData)
	out := &responseSink{
		handler: h, contentType: codec.ContentType(),
		encoding: protocol.NegotiateEncoding(strings.Join(r.Header.Values("Accept-Encoding"), ",")),
	}
	d, err := h.open(driverConfig{request: req, claims: claims, codec: codec, sink: out, keepalive: true, userAgent: userAgent(r)})
	if err == nil {
		if err = d.start(r.Context()); err != nil {
			d.stop()
		}
	}
	if err != nil {
		h.places.leave(claims.Subject)
		h.fail(w, r, err)
		return
	}
	out.describe(w.Header())
	if h.detach(w, r, d, out) {
		return
	}
	defer h.places.leave(claims.Subject)
	out.body = &response{w, http.NewResponseController(w)}
	if err := out.finish(d.run(r.Context())); err != nil {
		// The status is out: cutting the connection is the only way left to say that
		// the stream is not whole.
		panic(http.ErrAbortHandler)
	}
}

// detach takes the connection from the HTTP server and carries the stream in a
// goroutine of its own, so that what the server holds of a request, three buffers
// and a deep stack, is free while the stream waits. It reports false, and has done
// nothing, if the connection cannot be taken.
func (h *Handler) detach(w http.ResponseWriter, r *http.Request, d *driver, out *responseSink) bool {
	if !r.ProtoAtLeast(1, 1) || !h.taken.enter() {
		return false
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		h.taken.leave()
		return false
	}
	body := &detached{Handler: h, conn: conn, header: w.Header()}
	out.body = body
	go func() {
		defer h.taken.leave()
		defer h.places.leave(d.claims.Subject)
		ctx, cancel := context.WithCancel(h.taken.context)
		var reader sync.WaitGroup
		reader.Go(func() {
			defer cancel()
			body.discard()
		})
		// Failures show in the missing end of the body.
		if out.finish(d.run(ctx)) == nil {
			_ = body.end()
		}
		cancel()
		_ = conn.Close()
		reader.Wait()
	}()
	return true
}

// writeTimeout is for one write to a client that does not read.
const writeTimeout = 60 * time.Second

// responseSink writes lines to a response's body, compressed if the client wants.
// Neither compression keeps anything between two writes.
type responseSink struct {
	handler     *Handler
	body        responseBody
	contentType string
	encoding    protocol.Encoding
	begun       bool
	gzip        *gzip.Writer
	packed      appender // what gzip writes to
	bytes       int64
}

// responseBody is the way to the client.
type responseBody interface {
	// write sends bytes, and before the first the header, all within writeTimeout.
	write([]byte) error
}

// appender gathers what is written.
type appender struct{ buf *[]byte }

func (a *appender) Write(b []byte) (int, error) {
	*a.buf = append(*a.buf, b...)
	return len(b), nil
}

// describe sets the response's header.
func (s *responseSink) describe(header http.Header) {
	header.Set("Content-Type", s.contentType)
	header.Set("X-Accel-Buffering", "no")
	header.Set("Cache-Control", "no-store")
	if s.encoding != protocol.Identity {
		header.Set("Content-Encoding", s.encoding.String())
	}
}

func (s *responseSink) send(lines []byte) error {
	s.bytes += int64(len(lines))
	s.handler.counters.Bytes.Add(int64(len(lines)))
	return s.write(lines, false)
}

// write sends lines, and the end of the body's encoding if it is the last.
func (s *responseSink) write(lines []byte, last bool) error {
	h := s.handler
	first := !s.begun
	s.begun = true
	if s.encoding == protocol.Identity {
		h.counters.Packed.Add(int64(len(lines)))
		return closed(s.body.write(lines))
	}
	buf := h.buffers.Get().(*[]byte)
	defer h.recycle(buf)
	var err error
	switch s.encoding {
	case protocol.Gzip:
		s.packed.buf = buf
		if first {
			if s.gzip, err = gzip.NewWriterLevel(&s.packed, gzip.StatelessCompression); err != nil {
				return fmt.Errorf("start compression: %w", err)
			}
		}
		if _, err = s.gzip.Write(lines); err == nil && last {
			err = s.gzip.Close()
		}
		s.packed.buf = nil
	case protocol.Zstd:
		if first {
			*buf = zstd.AppendHeader(*buf)
		}
		encoder := h.encoders.Get().(*zstd.Encoder)
		*buf = encoder.AppendBlocks(*buf, lines)
		h.encoders.Put(encoder)
		if last {
			*buf = zstd.AppendEnd(*buf)
		}
	}
	if err == nil {
		h.counters.Packed.Add(int64(len(*buf)))
		err = s.body.write(*buf)
	}
	return closed(err)
}

// closed marks a failure to write as the client's leave.
func closed(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errClosed, err)
}

// finish ends the body in order if the stream did. An error means that it must not
// look whole.
func (s *responseSink) finish(err error) error {
	if err != nil {
		return err
	}
	return s.write(nil, true)
}

func (s *responseSink) held() bool            { return false }
func (s *responseSink) more() <-chan struct{} { return nil }
func (s *responseSink) resume() error         { return nil }
func (s *responseSink) sent() int64           { return s.bytes }

// response is a body that the HTTP server writes.
type response struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

func (r *response) write(b []byte) error {
	// An error means that the server cannot set deadlines, as in tests.
	_ = r.rc.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := r.w.Write(b); err != nil {
		return err
	}
	return r.rc.Flush()
}

// detached is a body in chunks on a connection that was taken from the server.
type detached struct {
	*Handler
	conn   net.Conn
	header http.Header // nil once it is out
}

func (d *detached) write(b []byte) error {
	out := d.buffers.Get().(*[]byte)
	if d.header != nil {
		d.header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
		var header bytes.Buffer
		_ = d.header.Write(&header) // a bytes.Buffer takes everything
		*out = append(*out, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n"...)
		*out = append(append(*out, header.Bytes()...), "\r\n"...)
		d.header = nil
	}
	if len(b) > 0 { // an empty chunk would be the end
		*out = append(strconv.AppendInt(*out, int64(len(b)), 16), "\r\n"...)
	}
	_ = d.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	var err error
	if len(b) <= copiedChunk {
		if *out = append(*out, b...); len(b) > 0 {
			*out = append(*out, "\r\n"...)
		}
		_, err = d.conn.Write(*out)
		d.recycle(out)
		return err
	}
	// What frames a large chunk is copied instead, into something of its own size: the
	// write may take as long as writeTimeout.
	head := bytes.Clone(*out)
	d.recycle(out)
	parts := net.Buffers{head, b, []byte("\r\n")}
	_, err = parts.WriteTo(d.conn)
	return err
}

// copiedChunk is the size up to which a chunk is copied to go out with what frames it.
const copiedChunk = 4 << 10

// end writes the last chunk.
func (d *detached) end() error {
	_, err := d.conn.Write([]byte("0\r\n\r\n"))
	return err
}

// maxDiscard is how much a client may send after its request.
const maxDiscard = 64 << 10

// discard reads until the client is gone. It has nothing more to say: the connection
// is closed after the stream.
func (d *detached) discard() {
	var b [64]byte
	for n := 0; n < maxDiscard; {
		m, err := d.conn.Read(b[:])
		if err != nil {
			return
		}
		n += m
	}
}
