// Package rsocket is the server's side of the part of RSocket 1.0 that sync clients
// speak over WebSocket: its frames, and what a connection may do when.
//
// It is pure: messages in, events and frames out. The socket, its clocks and the
// streams' contents are the caller's, httpapi.
//
// Invariants:
//   - Nothing is asked of the caller before a SETUP that it can serve.
//   - Stream ids are odd and only grow; at most Streams of them are open at once.
//   - Whatever a peer sends is an Event or a Failure, never a panic; memory
//     does not grow with what it sends.
package rsocket

import "fmt"

// Media types of metadata and data.
const (
	JSON = "application/json"
	BSON = "application/bson"
)

// Streams bounds the streams that are open on one connection.
const Streams = 4

// Failure is what ends a connection: it is told to the peer in an Error frame.
type Failure struct {
	Code ErrorCode
	Text string
}

func (f *Failure) Error() string { return f.Text }

// badRequest is in the text of every error that this package tells a peer of, unless
// another code fits better: clients take an error without any for one of their token.
const badRequest = "[PSYNC_S2001] "

func failf(code ErrorCode, format string, args ...any) *Failure {
	return &Failure{code, badRequest + fmt.Sprintf(format, args...)}
}

// Frame returns the frame that tells the peer.
func (f *Failure) Frame() []byte { return AppendError(nil, 0, f.Code, f.Text) }

// EventKind says what a message means for the caller.
type EventKind uint8

// The kinds of Event.
const (
	Nothing   EventKind = iota // no need to do anything
	Opened                     // check Setup, and go on or end the connection
	Requested                  // open Stream with N, Metadata and Data
	Credited                   // Stream may have N more payloads
	Cancelled                  // end Stream without a word
	Answer                     // send Reply
)

// Event is what a message means. Byte slices alias the message.
type Event struct {
	Kind           EventKind
	Stream         uint32
	N              uint32
	Setup          Frame
	Metadata, Data []byte
	Reply          []byte
}

// Conn is the state of one connection. It is used by one goroutine at a time.
type Conn struct {
	setup   bool
	last    uint32 // the highest stream id so far
	streams map[uint32]struct{}
}

// New returns a connection on which nothing was said.
func New() *Conn { return &Conn{streams: map[uint32]struct{}{}} }

// Receive takes the next message. An error is a *Failure, and ends the connection.
func (c *Conn) Receive(message []byte) (Event, error) {
	f, err := Parse(message)
	switch {
	case err != nil && !c.setup:
		return Event{}, failf(InvalidSetup, "The first frame must be SETUP: %v", err)
	case err != nil:
		return Event{}, failf(ConnectionError, "Not a valid frame: %v", err)
	case !c.setup:
		return c.receiveSetup(&f)
	}
	switch f.Type {
	case Keepalive:
		if f.Stream != 0 {
			return Event{}, failf(ConnectionError, "KEEPALIVE must be on stream 0")
		}
		if f.Flags&Respond == 0 {
			return Event{}, nil
		}
		echo := Frame{Type: Keepalive, Data: f.Data}
		return Event{Kind: Answer, Reply: echo.Append(nil)}, nil
	case RequestStream, RequestResponse, RequestFNF, RequestChannel:
		return c.request(&f)
	case RequestN:
		if _, open := c.streams[f.Stream]; open && f.N > 0 { // asking for nothing is no sign of getting on
			return Event{Kind: Credited, Stream: f.Stream, N: f.N}, nil
		}
		return Event{}, nil // it may have ended meanwhile
	case Cancel:
		if _, open := c.streams[f.Stream]; open {
			return Event{Kind: Cancelled, Stream: f.Stream}, nil
		}
		return Event{}, nil
	case Error:
		if f.Stream == 0 {
			return Event{}, failf(ConnectionClose, "Closed by the client: %.200q", f.Data)
		}
		return Event{}, nil
	case Payload, MetadataPush:
		return Event{}, nil
	case Setup:
		return Event{}, failf(ConnectionError, "SETUP may be sent once")
	}
	if f.Flags&Ignore != 0 {
		return Event{}, nil
	}
	return Event{}, failf(ConnectionError, "Frames of type %d are not supported", f.Type)
}

// receiveSetup checks the first frame, but for what is in its metadata.
func (c *Conn) receiveSetup(f *Frame) (Event, error) {
	switch {
	case f.Type == Resume:
		return Event{}, failf(RejectedResume, "Connections cannot be resumed")
	case f.Type != Setup || f.Stream != 0:
		return Event{}, failf(InvalidSetup, "The first frame must be SETUP on stream 0")
	case f.Major != 1:
		return Event{}, failf(UnsupportedSetup, "RSocket version %d.%d is not supported: use 1.0", f.Major, f.Minor)
	case f.Flags&CanResume != 0:
		return Event{}, failf(UnsupportedSetup, "Connections cannot be resumed")
	case f.Flags&WantsLease != 0:
		return Event{}, failf(UnsupportedSetup, "Leases are not supported")
	case f.Lifetime == 0:
		return Event{}, failf(InvalidSetup, "The lifetime must not be 0")
	}
	c.setup = true
	return Event{Kind: Opened, Setup: *f}, nil
}

func (c *Conn) request(f *Frame) (Event, error) {
	switch {
	case f.Stream%2 == 0 || f.Stream <= c.last:
		return Event{}, failf(ConnectionError, "Stream ids must be odd and grow: %d after %d", f.Stream, c.last)
	case f.Type == RequestFNF:
		c.last = f.Stream
		return Event{}, nil
	}
	c.last = f.Stream
	refuse := func(text string) (Event, error) {
		return Event{Kind: Answer, Reply: AppendError(nil, f.Stream, Rejected, text)}, nil
	}
	switch {
	case f.Type != RequestStream:
		return refuse(badRequest + "Only REQUEST_STREAM is served")
	case f.Flags&Follows != 0:
		return refuse(badRequest + "Requests must not be fragmented")
	case f.N == 0:
		return refuse(badRequest + "The initial number of payloads must not be 0")
	case len(c.streams) >= Streams:
		return refuse(fmt.Sprintf("[PSYNC_S2304] Too many streams on one connection: the limit is %d", Streams))
	}
	c.streams[f.Stream] = struct{}{}
	return Event{Kind: Requested, Stream: f.Stream, N: f.N, Metadata: f.Metadata, Data: f.Data}, nil
}

// End notes that a stream has ended, for whatever reason.
func (c *Conn) End(stream uint32) { delete(c.streams, stream) }

// AppendPayload appends a frame that carries one line of a stream.
func AppendPayload(dst []byte, stream uint32, line []byte) []byte {
	f := Frame{Stream: stream, Type: Payload, Flags: Next, Data: line}
	return f.Append(dst)
}

// AppendComplete appends the frame that ends a stream in order.
func AppendComplete(dst []byte, stream uint32) []byte {
	f := Frame{Stream: stream, Type: Payload, Flags: Complete}
	return f.Append(dst)
}

// AppendError appends a frame that ends a stream, or with stream 0 the connection.
func AppendError(dst []byte, stream uint32, code ErrorCode, text string) []byte {
	f := Frame{Stream: stream, Type: Error, Code: code, Data: []byte(text)}
	return f.Append(dst)
}
