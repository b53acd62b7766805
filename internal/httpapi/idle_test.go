package httpapi_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-sync/millrace/internal/httpapi"
	"github.com/millrace-sync/millrace/internal/rsocket"
)

// idleBudget is what an idle connection may cost, the client's end in the same
// process included.
const idleBudget = 30 << 10

// Waiting streams cost little, however they are carried and encoded.
func TestIdleMemory(t *testing.T) {
	for _, kind := range []string{"identity", "gzip", "zstd", "websocket", "websocket, deflate"} {
		t.Run(kind, func(t *testing.T) {
			const n = 500
			s := newService(t, func(c *httpapi.Config) { c.Connections = 2 * n })
			s.commit("ann", 20, strings.Repeat("x", 100))
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			web := &http.Server{Handler: s.handler}
			var wg sync.WaitGroup
			wg.Go(func() { _ = web.Serve(listener) })
			open := openStream(kind)
			if strings.HasPrefix(kind, "websocket") {
				open = openSocket(kind == "websocket, deflate")
			}
			conns := make([]net.Conn, 0, n)
			connect := func() {
				conn, err := net.Dial("tcp", listener.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				conns = append(conns, conn)
				if _, err := conn.Write(open); err != nil {
					t.Fatal(err)
				}
				_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
				if _, err := io.ReadFull(conn, make([]byte, 500)); err != nil {
					t.Fatal(err)
				}
			}
			use := func() uint64 {
				for range 3 { // what pools held is gone with the second
					runtime.GC()
				}
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				return m.HeapAlloc + m.StackInuse
			}
			for range 20 {
				connect()
			}
			before := use()
			for range n {
				connect()
			}
			each := int64(use()-before) / n
			t.Logf("%d bytes for each idle stream", each)
			if each > idleBudget {
				t.Errorf("an idle stream takes %d bytes, more than %d", each, idleBudget)
			}
			for _, c := range conns {
				c.Close()
			}
			_ = web.Close()
			if err := s.handler.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
			wg.Wait()
		})
	}
}

// openStream returns what a client sends to open a stream over HTTP.
func openStream(encoding string) []byte {
	body := `{"raw_data":true}`
	return fmt.Appendf(nil, "POST /sync/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Token %s\r\nContent-Type: application/json\r\nAccept-Encoding: %s\r\nContent-Length: %d\r\n\r\n%s",
		token(nil), encoding, len(body), body)
}

// openSocket returns what a client sends to open one over a socket, all at once.
func openSocket(deflate bool) []byte {
	extensions := ""
	if deflate {
		extensions = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
	}
	out := []byte("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n" + extensions + "\r\n")
	for _, f := range []rsocket.Frame{
		{Type: rsocket.Setup, Flags: rsocket.HasMetadata, Major: 1, KeepaliveInterval: 20_000, Lifetime: 120_000,
			MetadataType: rsocket.JSON, DataType: rsocket.JSON, Metadata: fmt.Appendf(nil, `{"token":"Token %s"}`, token(nil))},
		{Stream: 1, Type: rsocket.RequestStream, Flags: rsocket.HasMetadata, N: 100, Metadata: []byte(`{"path":"/sync/stream"}`), Data: []byte(`{}`)},
	} {
		b := f.Append(nil)
		// A final binary message of two bytes of length, masked with zeros.
		out = append(binary.BigEndian.AppendUint16(append(out, 0x82, 0x80|126), uint16(len(b))), 0, 0, 0, 0)
		out = append(out, b...)
	}
	return out
}
