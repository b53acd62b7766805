package httpapi_test

import (
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
)

// idleBudget is what an idle connection may cost, the client's end in the same
// process included.
const idleBudget = 30 << 10

// Waiting streams cost little, however they are encoded.
func TestIdleMemory(t *testing.T) {
	for _, encoding := range []string{"identity", "gzip", "zstd"} {
		t.Run(encoding, func(t *testing.T) {
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
			body := `{"raw_data":true}`
			request := fmt.Sprintf("POST /sync/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Token %s\r\nContent-Type: application/json\r\nAccept-Encoding: %s\r\nContent-Length: %d\r\n\r\n%s",
				token(nil), encoding, len(body), body)
			conns := make([]net.Conn, 0, n)
			connect := func() {
				conn, err := net.Dial("tcp", listener.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				conns = append(conns, conn)
				if _, err := io.WriteString(conn, request); err != nil {
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
