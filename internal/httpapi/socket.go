package httpapi

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/millrace-sync/millrace/internal/auth"
	"github.com/millrace-sync/millrace/internal/rsocket"
	"github.com/millrace-sync/millrace/protocol"
)

const (
	// setupTimeout is how long a socket may take to send its first frame.
	setupTimeout = 10 * time.Second
	// Bounds of how long a socket may be silent, whatever it asks for.
	minLifetime = 5 * time.Second
	maxLifetime = 10 * time.Minute
	// deflateThreshold is the size from which messages are compressed.
	deflateThreshold = 1024
	// frameOverhead is what a request's frame has beside its data, and the largest
	// SETUP.
	frameOverhead = 64 << 10
)

func isUpgrade(r *http.Request) bool {
	for _, v := range r.Header.Values("Upgrade") {
		if strings.EqualFold(strings.TrimSpace(v), "websocket") {
			return true
		}
	}
	return false
}

// socket is one client's WebSocket: a goroutine reads its frames, and each of its
// streams has one that drives the session.
type socket struct {
	handler *Handler
	conn    *websocket.Conn
	wire    *wire  // under conn
	log     string // the peer's user agent
	types   rsocket.Frame
	claims  *auth.Claims

	mu      sync.Mutex
	state   *rsocket.Conn
	streams map[uint32]*payloadSink
	running sync.WaitGroup
}

// socket serves an upgrade, on whatever path.
func (h *Handler) socket(w http.ResponseWriter, r *http.Request) {
	if !h.taken.enter() {
		h.fail(w, r, errStopping())
		return
	}
	upgrade := &wiring{ResponseWriter: w, buffers: &h.buffers}
	conn, err := websocket.Accept(upgrade, r, &websocket.AcceptOptions{
		// Clients are apps of any origin; what lets them in is a token, not a cookie.
		InsecureSkipVerify: true,
		CompressionMode:    websocket.CompressionNoContextTakeover, CompressionThreshold: deflateThreshold,
	})
	if err != nil {
		h.taken.leave()
		h.Log.Info("upgrade refused", "path", short(r.URL.Path), "error", err)
		return // Accept has answered
	}
	conn.SetReadLimit(frameOverhead) // until it is known whose it is
	s := &socket{handler: h, conn: conn, wire: upgrade.wire, log: userAgent(r), state: rsocket.New(), streams: map[uint32]*payloadSink{}}
	// In a goroutine of its own, so that what the HTTP server holds of a request is free.
	go func() {
		defer h.taken.leave()
		s.run()
	}()
}

// run carries the socket to its end.
func (s *socket) run() {
	ctx, cancel := context.WithCancel(s.handler.taken.context)
	stop := context.AfterFunc(s.handler.taken.context, func() { _ = s.wire.Conn.Close() })
	err := s.serve(ctx)
	stop()
	cancel()
	s.running.Wait()
	if errors.Is(err, errLeaving) {
		_ = s.conn.Close(websocket.StatusGoingAway, "")
		return
	}
	if errors.Is(err, websocket.ErrMessageTooBig) {
		s.handler.Log.Info("socket failed", "reason", err, "user_agent", s.log)
	}
	if failure, ok := errors.AsType[*rsocket.Failure](err); ok {
		if failure.Code != rsocket.RejectedSetup { // which is logged with its cause
			s.handler.Log.Info("socket failed", "code", uint32(failure.Code), "reason", failure.Text, "user_agent", s.log)
		}
		if s.write(failure.Frame()) == nil {
			_ = s.conn.Close(websocket.StatusNormalClosure, "")
			return
		}
	}
	_ = s.conn.CloseNow()
}

// serve reads frames until the connection ends; it returns the reason. It waits for
// most of the socket's life, so what needs a deep stack is done apart.
func (s *socket) serve(ctx context.Context) error {
	if err := apart(func() error {
		e, err := s.receive(ctx, setupTimeout)
		if err != nil {
			return err
		}
		// Nothing but a SETUP comes first without an error.
		return s.open(ctx, &e.Setup)
	}); err != nil {
		return err
	}
	defer s.handler.places.leave(s.claims.Subject)
	lifetime := min(max(time.Duration(s.types.Lifetime)*time.Millisecond, minLifetime), maxLifetime)
	for {
		if err := s.wire.await(lifetime); err != nil {
			return fmt.Errorf("%w: %w", errClosed, err)
		}
		if err := apart(func() error { return s.next(ctx, lifetime) }); err != nil {
			return err
		}
	}
}

// next reads the next frame and does what it asks for.
func (s *socket) next(ctx context.Context, lifetime time.Duration) error {
	e, err := s.receive(ctx, lifetime)
	if err != nil {
		return err
	}
	switch e.Kind {
	case rsocket.Requested:
		return s.request(ctx, &e)
	case rsocket.Credited:
		if sink := s.stream(e.Stream); sink != nil {
			sink.credit(e.N)
		}
	case rsocket.Cancelled:
		if sink := s.stream(e.Stream); sink != nil {
			sink.cancel()
		}
	case rsocket.Answer:
		return s.write(e.Reply)
	}
	return nil
}

// receive waits for the next message and says what it means.
func (s *socket) receive(ctx context.Context, silence time.Duration) (rsocket.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	kind, message, err := s.conn.Read(ctx)
	if err != nil {
		return rsocket.Event{}, fmt.Errorf("%w: %w", errClosed, err)
	}
	if kind != websocket.MessageBinary {
		return rsocket.Event{}, &rsocket.Failure{Code: rsocket.ConnectionError, Text: "[PSYNC_S2001] Messages must be binary"}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Receive(message)
}

func (s *socket) stream(id uint32) *payloadSink {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams[id]
}

// open checks who the client is and takes its place.
func (s *socket) open(ctx context.Context, setup *rsocket.Frame) error {
	reject := func(err error) error {
		return &rsocket.Failure{Code: rsocket.RejectedSetup, Text: s.handler.refused(err, "user_agent", s.log).Error()}
	}
	for _, t := range []string{setup.MetadataType, setup.DataType} {
		if t != rsocket.JSON && t != rsocket.BSON {
			return reject(protocol.Errorf(protocol.MediaTypeUnsupported, "Unsupported media type %.100q: use %s or %s", t, rsocket.JSON, rsocket.BSON))
		}
	}
	if setup.Flags&rsocket.HasMetadata == 0 {
		return reject(protocol.Errorf(protocol.Unauthorized, "No token: the setup frame has no metadata"))
	}
	var metadata struct {
		Token     string `json:"token"`
		UserAgent string `json:"user_agent"`
	}
	if err := decode(setup.MetadataType, setup.Metadata, &metadata); err != nil {
		return reject(protocol.Errorf(protocol.Unauthorized, "No token: the setup frame's metadata cannot be read"))
	}
	if metadata.UserAgent != "" {
		s.log = short(metadata.UserAgent)
	}
	claims, err := s.handler.Verifier.Verify(ctx, metadata.Token)
	if err != nil {
		return reject(err)
	}
	if !s.handler.place(claims.Subject) {
		e := protocol.Errorf(protocol.TooManyConnections, "Too many connections. Try again later.")
		return &rsocket.Failure{Code: rsocket.RejectedSetup, Text: e.Error()} // place has logged it
	}
	setup.Metadata, setup.Data = nil, nil // do not hold the message
	s.claims, s.types = claims, *setup
	s.conn.SetReadLimit(s.handler.maxRequest() + frameOverhead)
	return nil
}

// decode reads metadata of a media type that was checked before.
func decode(mediaType string, b []byte, into any) error {
	if mediaType == rsocket.BSON {
		var err error
		if b, err = protocol.JSONFromBSON(b); err != nil {
			return err
		}
	}
	return json.Unmarshal(b, into)
}

// request starts a stream, or tells the client why not.
func (s *socket) request(ctx context.Context, e *rsocket.Event) error {
	ctx, cancel := context.WithCancel(ctx)
	sink := &payloadSink{socket: s, id: e.Stream, cancel: cancel, credits: e.N, wake: make(chan struct{}, 1)}
	d, err := s.prepare(e, sink)
	if err != nil {
		cancel()
		s.end(sink)
		return s.refuse(sink, err)
	}
	s.mu.Lock()
	s.streams[e.Stream] = sink
	s.mu.Unlock()
	s.running.Go(func() {
		if err := d.start(ctx); err != nil {
			cancel()
			d.stop()
			s.end(sink)
			_ = s.refuse(sink, err)
			return
		}
		// Another goroutine, for what start needed of the stack.
		s.running.Go(func() {
			defer cancel()
			s.carry(ctx, d, sink)
		})
	})
	return nil
}

// carry runs a stream to its end and tells the client of it.
func (s *socket) carry(ctx context.Context, d *driver, sink *payloadSink) {
	err := d.run(ctx)
	left := ctx.Err() != nil // cancelled by the client, or the socket has ended
	s.end(sink)
	switch {
	case left:
	case err == nil:
		if s.write(rsocket.AppendComplete(nil, sink.id)) == nil {
			s.leave()
		}
	case errors.Is(err, errClosed):
		_ = s.conn.CloseNow()
	default: // run has logged it
		_ = s.write(rsocket.AppendError(nil, sink.id, rsocket.ApplicationError, protocol.AsError(err).Error()))
	}
}

// refuse tells the client why its request is not served.
func (s *socket) refuse(sink *payloadSink, err error) error {
	e := s.handler.refused(err, "user", s.claims.Subject, "user_agent", s.log)
	return s.write(rsocket.AppendError(nil, sink.id, rsocket.ApplicationError, e.Error()))
}

// leave closes the socket if the process stops and nothing is left on it.
func (s *socket) leave() {
	select {
	case <-s.handler.Draining:
	default:
		return
	}
	s.mu.Lock()
	idle := len(s.streams) == 0
	s.mu.Unlock()
	if idle {
		s.wire.leave() // run closes the socket
	}
}

// end forgets a stream.
func (s *socket) end(sink *payloadSink) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, sink.id)
	s.state.End(sink.id)
}

// prepare decodes a request and opens its session.
func (s *socket) prepare(e *rsocket.Event, out sink) (*driver, error) {
	var metadata struct {
		Path string `json:"path"`
	}
	if err := decode(s.types.MetadataType, e.Metadata, &metadata); err != nil {
		return nil, protocol.Errorf(protocol.BadRequest, "The request's metadata cannot be read; it must be {\"path\":\"/sync/stream\"}")
	}
	if metadata.Path != "/sync/stream" {
		return nil, protocol.Errorf(protocol.RouteNotFound, "The path %.200q does not exist on this server", metadata.Path)
	}
	data := e.Data
	if s.types.DataType == rsocket.BSON {
		var err error
		if data, err = protocol.JSONFromBSON(data); err != nil {
			return nil, err
		}
	}
	req, err := protocol.DecodeRequest(data)
	if err != nil {
		return nil, err
	}
	return s.handler.open(driverConfig{request: req, claims: s.claims, codec: protocol.BSON, sink: out, userAgent: s.log})
}

// write sends one frame. A client that does not read is cut off by the wire.
func (s *socket) write(frame []byte) error {
	if err := s.conn.Write(context.Background(), websocket.MessageBinary, frame); err != nil {
		return fmt.Errorf("%w: %w", errClosed, err)
	}
	return nil
}

// payloadSink sends each line as a payload, if the client has asked for one, and
// keeps them otherwise: at most what a driver gathers.
type payloadSink struct {
	socket *socket
	id     uint32
	cancel context.CancelFunc
	wake   chan struct{} // holds one

	mu      sync.Mutex
	credits uint32

	pending []byte // lines to be sent
	bytes   int64
}

// credit allows n more payloads.
func (p *payloadSink) credit(n uint32) {
	p.mu.Lock()
	p.credits = min(p.credits, 1<<31-1) + n
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// take uses one credit, false if there is none.
func (p *payloadSink) take() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.credits == 0 {
		return false
	}
	p.credits--
	return true
}

func (p *payloadSink) send(lines []byte) error {
	p.bytes += int64(len(lines))
	p.socket.handler.counters.Bytes.Add(int64(len(lines)))
	p.socket.handler.counters.Packed.Add(int64(len(lines)))
	if len(p.pending) > 0 {
		p.pending = append(p.pending, lines...)
		return nil
	}
	rest, err := p.payloads(lines)
	p.pending = append([]byte(nil), rest...)
	return err
}

func (p *payloadSink) resume() error {
	rest, err := p.payloads(p.pending)
	if p.pending = rest; len(rest) == 0 {
		p.pending = nil
	}
	return err
}

// payloads sends as many of the lines as there is credit for and returns the rest.
func (p *payloadSink) payloads(lines []byte) (rest []byte, err error) {
	frame := p.socket.handler.buffers.Get().(*[]byte)
	defer p.socket.handler.recycle(frame)
	p.socket.wire.cork()
	defer func() {
		if failed := p.socket.wire.uncork(p.socket.handler.recycle); failed != nil && err == nil {
			err = fmt.Errorf("%w: %w", errClosed, failed)
		}
	}()
	for len(lines) > 0 && p.take() {
		n := int(binary.LittleEndian.Uint32(lines)) // BSON begins with its length
		*frame = rsocket.AppendPayload((*frame)[:0], p.id, lines[:n])
		if err := p.socket.write(*frame); err != nil {
			return nil, err
		}
		lines = lines[n:]
	}
	return lines, nil
}

func (p *payloadSink) held() bool            { return len(p.pending) > 0 }
func (p *payloadSink) more() <-chan struct{} { return p.wake }
func (p *payloadSink) sent() int64           { return p.bytes }
