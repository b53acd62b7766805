package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/millrace-sync/millrace/internal/rsocket"
	"github.com/millrace-sync/millrace/protocol"
)

// client is one client and what it remembers between streams.
type client struct {
	o         *options
	name      string // client_id
	token     string
	positions map[string]string
	remember  bool // keep positions
	parameter any  // the connection parameter owners
	stream    string
	buffer    int // bytes of the read buffer
}

func (o *options) client(i int) (*client, error) {
	token, err := o.token(o.subjectOf(i))
	if err != nil {
		return nil, fmt.Errorf("sign a token: %w", err)
	}
	return &client{o: o, name: fmt.Sprintf("load-%d", i), token: token, positions: map[string]string{}, buffer: 4 << 10}, nil
}

// line is one line of a stream: its kind, and its bytes until the next is read.
type line struct {
	kind string
	ops  int // of data
	b    []byte
}

// request returns the body of a stream's request.
func (c *client) request() ([]byte, error) {
	type position struct {
		Name  string `json:"name"`
		After string `json:"after"`
	}
	buckets := []position{}
	for n, a := range c.positions {
		buckets = append(buckets, position{n, a})
	}
	subscriptions := []any{}
	if c.stream != "" {
		subscriptions = append(subscriptions, map[string]any{"stream": c.stream, "parameters": nil, "override_priority": nil})
	}
	return json.Marshal(map[string]any{
		"buckets": buckets, "include_checksum": true, "raw_data": true, "client_id": c.name,
		"parameters": map[string]any{"owners": c.parameter},
		"streams":    map[string]any{"include_defaults": c.stream == "", "subscriptions": subscriptions},
	})
}

// errStop is returned by an each that has seen enough.
var errStop = errors.New("stop")

// run opens a stream and calls each for every line until it fails; it returns nil
// for errStop and for the end of ctx.
func (c *client) run(ctx context.Context, each func(line) error) error {
	body, err := c.request()
	if err != nil {
		return err
	}
	if c.o.transport == "ws" {
		err = c.socket(ctx, body, each)
	} else {
		err = c.http(ctx, body, each)
	}
	if errors.Is(err, errStop) || ctx.Err() != nil {
		return nil
	}
	return err
}

func (c *client) http(ctx context.Context, body []byte, each func(line) error) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.o.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	codec := protocol.JSONLines
	accept := codec.ContentType()
	if c.o.codec == "bson" {
		accept = protocol.BSON.ContentType()
	}
	header := fmt.Sprintf("POST /sync/stream HTTP/1.1\r\nHost: %s\r\nAuthorization: Token %s\r\nContent-Type: application/json\r\nAccept: %s\r\nAccept-Encoding: %s\r\nContent-Length: %d\r\n\r\n",
		c.o.address, c.token, accept, c.o.encoding, len(body))
	if _, err := conn.Write(append([]byte(header), body...)); err != nil {
		return err
	}
	raw := bufio.NewReaderSize(conn, c.buffer)
	resp, err := http.ReadResponse(raw, nil)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
		return fmt.Errorf("status %d: %s", resp.StatusCode, b)
	}
	lines := bufio.NewReaderSize(resp.Body, c.buffer)
	switch resp.Header.Get("Content-Encoding") {
	case "gzip":
		z, err := gzip.NewReader(resp.Body)
		if err != nil {
			return err
		}
		lines.Reset(z)
	case "zstd":
		z, err := zstd.NewReader(resp.Body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
		if err != nil {
			return err
		}
		defer z.Close()
		lines.Reset(z)
	}
	var buf []byte
	for {
		if c.o.codec == "bson" {
			buf, err = readDocument(lines, buf[:0])
		} else {
			buf, err = readLine(lines, buf[:0])
		}
		if err != nil {
			return err
		}
		if err := c.line(buf, c.o.codec == "bson", each); err != nil {
			return err
		}
	}
}

func readLine(r *bufio.Reader, buf []byte) ([]byte, error) {
	for {
		b, err := r.ReadSlice('\n')
		buf = append(buf, b...)
		if err != bufio.ErrBufferFull {
			return buf, err
		}
	}
}

// maxDocument is more than any line.
const maxDocument = 64 << 20

func readDocument(r *bufio.Reader, buf []byte) ([]byte, error) {
	head, err := r.Peek(4)
	if err != nil {
		return nil, err
	}
	n := int(binary.LittleEndian.Uint32(head))
	if n < 5 || n > maxDocument {
		return nil, fmt.Errorf("a document of %d bytes", n)
	}
	if cap(buf) < n {
		buf = make([]byte, 0, n)
	}
	_, err = io.ReadFull(r, buf[:n])
	return buf[:n], err
}

// credits is how many payloads a socket asks for at once.
const credits = 100

func (c *client) socket(ctx context.Context, body []byte, each func(line) error) error {
	mode := websocket.CompressionDisabled
	if c.o.encoding != "identity" {
		mode = websocket.CompressionNoContextTakeover
	}
	conn, _, err := websocket.Dial(ctx, "ws://"+c.o.address+"/sync/stream", &websocket.DialOptions{CompressionMode: mode})
	if err != nil {
		return err
	}
	defer conn.CloseNow()
	conn.SetReadLimit(maxDocument)
	token, err := json.Marshal(map[string]string{"token": "Token " + c.token})
	if err != nil {
		return err
	}
	frames := []rsocket.Frame{
		{Type: rsocket.Setup, Flags: rsocket.HasMetadata, Major: 1, KeepaliveInterval: 600_000, Lifetime: 600_000,
			MetadataType: rsocket.JSON, DataType: rsocket.JSON, Metadata: token},
		{Stream: 1, Type: rsocket.RequestStream, Flags: rsocket.HasMetadata, N: credits, Metadata: []byte(`{"path":"/sync/stream"}`), Data: body},
	}
	for i := range frames {
		if err := conn.Write(ctx, websocket.MessageBinary, frames[i].Append(nil)); err != nil {
			return err
		}
	}
	left := credits
	buf := bytes.NewBuffer(nil)
	for {
		_, r, err := conn.Reader(ctx)
		if err != nil {
			return err
		}
		buf.Reset()
		if _, err := buf.ReadFrom(r); err != nil {
			return err
		}
		f, err := rsocket.Parse(buf.Bytes())
		switch {
		case err != nil:
			return err
		case f.Type == rsocket.Error:
			return fmt.Errorf("error frame: %s", f.Data)
		case f.Type != rsocket.Payload || f.Flags&rsocket.Next == 0:
			continue
		}
		if err := c.line(f.Data, true, each); err != nil {
			return err
		}
		if left--; left == credits/2 {
			more := rsocket.Frame{Stream: 1, Type: rsocket.RequestN, N: credits / 2}
			if err := conn.Write(ctx, websocket.MessageBinary, more.Append(nil)); err != nil {
				return err
			}
			left += credits / 2
		}
	}
}

var (
	opInJSON = []byte(`"op_id":"`)
	opInBSON = []byte("\x02op_id\x00")
)

// line finds out what a line is, and hands it on.
func (c *client) line(b []byte, bson bool, each func(line) error) error {
	l := line{b: b}
	start, end, mark, codec := 2, byte('"'), opInJSON, protocol.JSONLines
	if bson {
		start, end, mark, codec = 5, 0, opInBSON, protocol.BSON
	}
	if len(b) > start {
		l.kind, _, _ = bytesCut(b[start:], end)
	}
	if l.kind == "data" {
		l.ops = bytes.Count(b, mark)
		if c.remember {
			decoded, err := codec.DecodeLine(bytes.TrimSuffix(b, []byte("\n")))
			if err != nil {
				return err
			}
			if d, ok := decoded.(*protocol.DataChunk); ok {
				c.positions[d.Bucket] = fmt.Sprint(d.NextAfter)
			}
		}
	}
	return each(l)
}

func bytesCut(b []byte, end byte) (kind string, rest []byte, ok bool) {
	i := bytes.IndexByte(b, end)
	if i < 0 {
		return "", nil, false
	}
	return string(b[:i]), b[i:], true
}
