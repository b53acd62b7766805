package httpapi

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/millrace-sync/millrace/internal/zstd"
	"github.com/millrace-sync/millrace/protocol"
)

// stream serves POST /sync/stream: it validates, authenticates, and then carries
// the session to its end.
func (h *Handler) stream(w http.ResponseWriter, r *http.Request) {
	b, err := body(w, r)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	req, err := protocol.DecodeRequest(b)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	claims, err := h.Verifier.Verify(r.Context(), r.Header.Get("Authorization"))
	if err != nil {
		h.fail(w, r, err)
		return
	}
	if !h.place(claims.Subject) {
		w.WriteHeader(http.StatusTooManyRequests)
		return
	}
	defer h.places.leave(claims.Subject)
	codec := protocol.NegotiateCodec(strings.Join(r.Header.Values("Accept"), ","), req.RawData)
	out := &responseSink{
		handler: h, w: w, rc: http.NewResponseController(w), contentType: codec.ContentType(),
		encoding: protocol.NegotiateEncoding(strings.Join(r.Header.Values("Accept-Encoding"), ",")),
	}
	d, err := h.open(driverConfig{request: req, claims: claims, codec: codec, sink: out, keepalive: true, userAgent: userAgent(r)})
	if err != nil {
		h.fail(w, r, err)
		return
	}
	err = d.run(r.Context())
	if err == nil {
		err = out.close()
	}
	switch {
	case err == nil || errors.Is(err, errClosed):
	case !out.begun:
		h.fail(w, r, err)
	default:
		// The status is out: cutting the connection is the only way left to say that
		// the stream is not whole.
		panic(http.ErrAbortHandler)
	}
}

// writeTimeout is for one write to a client that does not read.
const writeTimeout = 60 * time.Second

// responseSink writes lines to a response's body, compressed if the client wants.
// Neither compression keeps anything between two writes.
type responseSink struct {
	handler     *Handler
	w           http.ResponseWriter
	rc          *http.ResponseController
	contentType string
	encoding    protocol.Encoding
	begun       bool // the header is out
	gzip        *gzip.Writer
	bytes       int64
}

func (s *responseSink) begin() error {
	s.begun = true
	header := s.w.Header()
	header.Set("Content-Type", s.contentType)
	header.Set("X-Accel-Buffering", "no")
	header.Set("Cache-Control", "no-store")
	if s.encoding != protocol.Identity {
		header.Set("Content-Encoding", s.encoding.String())
	}
	s.w.WriteHeader(http.StatusOK)
	var err error
	switch s.encoding {
	case protocol.Gzip:
		s.gzip, err = gzip.NewWriterLevel(s.w, gzip.StatelessCompression)
	case protocol.Zstd:
		_, err = s.w.Write(zstd.AppendHeader(nil))
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

func (s *responseSink) send(lines []byte) error {
	if !s.begun {
		if err := s.begin(); err != nil {
			return err
		}
	}
	// An error means that the server cannot set deadlines, as in tests.
	_ = s.rc.SetWriteDeadline(time.Now().Add(writeTimeout))
	s.bytes += int64(len(lines))
	var err error
	switch s.encoding {
	case protocol.Gzip:
		_, err = s.gzip.Write(lines)
	case protocol.Zstd:
		err = s.writeZstd(lines)
	default:
		_, err = s.w.Write(lines)
	}
	if err == nil {
		err = s.rc.Flush()
	}
	return closed(err)
}

func (s *responseSink) writeZstd(lines []byte) error {
	h := s.handler
	buf := h.buffers.Get().(*[]byte)
	encoder := h.encoders.Get().(*zstd.Encoder)
	*buf = encoder.AppendBlocks((*buf)[:0], lines)
	h.encoders.Put(encoder)
	_, err := s.w.Write(*buf)
	h.recycle(buf)
	return err
}

func (s *responseSink) held() bool            { return false }
func (s *responseSink) more() <-chan struct{} { return nil }
func (s *responseSink) resume() error         { return nil }
func (s *responseSink) sent() int64           { return s.bytes }

// close ends the body in order.
func (s *responseSink) close() error {
	if !s.begun {
		if err := s.begin(); err != nil {
			return err
		}
	}
	_ = s.rc.SetWriteDeadline(time.Now().Add(writeTimeout))
	var err error
	switch s.encoding {
	case protocol.Gzip:
		err = s.gzip.Close()
	case protocol.Zstd:
		_, err = s.w.Write(zstd.AppendEnd(nil))
	}
	return closed(err)
}
