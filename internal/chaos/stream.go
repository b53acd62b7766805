//go:build unix

package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/coder/websocket"

	"github.com/millrace-sync/millrace/internal/rsocket"
	"github.com/millrace-sync/millrace/protocol"
)

// maxLine bounds one line of a stream.
const maxLine = 64 << 20 // bytes

// A lineReader is an open sync stream. Lines are valid until the next call of Next.
type lineReader interface {
	Next(context.Context) (protocol.Line, error)
	Close()
}

// A transport opens a sync stream at the service with address addr.
type transport func(ctx context.Context, client *http.Client, addr, token string, r *protocol.Request) (lineReader, error)

// overHTTP returns the transport of HTTP clients with a codec.
func overHTTP(codec protocol.Codec) transport {
	return func(ctx context.Context, client *http.Client, addr, token string, r *protocol.Request) (lineReader, error) {
		ctx, cancel := context.WithCancel(ctx)
		hr, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/sync/stream", bytes.NewReader(r.AppendJSON(nil)))
		if err != nil {
			cancel()
			return nil, err
		}
		hr.Header.Set("Authorization", "Token "+token)
		hr.Header.Set("Content-Type", "application/json")
		hr.Header.Set("Accept", codec.ContentType())
		resp, err := client.Do(hr)
		if err != nil {
			cancel()
			return nil, err
		}
		if resp.StatusCode != http.StatusOK {
			text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
			resp.Body.Close()
			cancel()
			err = errors.Join(fmt.Errorf("status %d: %s", resp.StatusCode, text), err)
			if resp.StatusCode < 500 {
				return nil, violation{err}
			}
			return nil, err
		}
		return &httpStream{protocol.NewReader(resp.Body, codec, maxLine), resp.Body, cancel}, nil
	}
}

type httpStream struct {
	*protocol.Reader
	body   io.Closer
	cancel context.CancelFunc
}

func (s *httpStream) Next(context.Context) (protocol.Line, error) { return s.Reader.Next() }

func (s *httpStream) Close() {
	s.cancel()
	s.body.Close() // broken off on purpose
}

// credit is how many lines a socket client asks for at a time.
const credit = 10

// overSocket is the transport of clients that use RSocket.
func overSocket(ctx context.Context, client *http.Client, addr, token string, r *protocol.Request) (lineReader, error) {
	conn, _, err := websocket.Dial(ctx, "ws://"+addr+"/sync/stream", &websocket.DialOptions{
		HTTPClient: client, CompressionMode: websocket.CompressionNoContextTakeover,
	})
	if err != nil {
		return nil, err
	}
	conn.SetReadLimit(maxLine)
	s := &socketStream{conn: conn}
	metadata, err := json.Marshal(map[string]string{"token": "Token " + token})
	if err != nil {
		return nil, err
	}
	for _, f := range []rsocket.Frame{
		{Type: rsocket.Setup, Flags: rsocket.HasMetadata, Major: 1, KeepaliveInterval: 20_000, Lifetime: 90_000,
			MetadataType: rsocket.JSON, DataType: rsocket.JSON, Metadata: metadata},
		{Type: rsocket.RequestStream, Stream: 1, Flags: rsocket.HasMetadata, N: credit, Metadata: []byte(`{"path":"/sync/stream"}`), Data: r.AppendJSON(nil)},
	} {
		if err := s.send(ctx, f); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

type socketStream struct {
	conn *websocket.Conn
	left int // credit used up
}

func (s *socketStream) send(ctx context.Context, f rsocket.Frame) error {
	return s.conn.Write(ctx, websocket.MessageBinary, f.Append(nil))
}

func (s *socketStream) Next(ctx context.Context) (protocol.Line, error) {
	for {
		_, b, err := s.conn.Read(ctx)
		if err != nil {
			return nil, err
		}
		f, err := rsocket.Parse(b)
		switch {
		case err != nil:
			return nil, err
		case f.Type == rsocket.Error:
			return nil, fmt.Errorf("error %#x: %s", f.Code, f.Data)
		case f.Type == rsocket.Payload && f.Flags&rsocket.Complete != 0:
			return nil, io.EOF
		case f.Type == rsocket.Payload:
			if s.left++; s.left == credit/2 {
				if err := s.send(ctx, rsocket.Frame{Type: rsocket.RequestN, Stream: 1, N: uint32(s.left)}); err != nil {
					return nil, err
				}
				s.left = 0
			}
			return protocol.BSON.DecodeLine(f.Data)
		}
	}
}

func (s *socketStream) Close() { s.conn.CloseNow() } // broken off on purpose

// broken tells whether an error may come of a fault: all but what the service must
// not have sent. A line that breaks off with its connection is no such line.
func broken(err error) bool {
	var bad *protocol.LineError
	var wrong violation
	return !errors.As(err, &bad) && !errors.As(err, &wrong)
}
