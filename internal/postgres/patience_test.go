package postgres_test

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/millrace-sync/millrace/internal/postgres"
	"github.com/millrace-sync/millrace/internal/source"
)

// Whatever the source is asked for, a link that passes nothing any more is noticed.
func TestSilenceIsNoticed(t *testing.T) {
	// Short beside what the test waits for, long beside what the server takes.
	const patience = 2 * time.Second
	cases := []struct {
		name string
		// ask asks for something, and has the link fail.
		ask func(w *world, freeze func()) error
	}{
		{"a chunk that has begun to come", func(w *world, freeze func()) error {
			rows := 0
			_, err := postgres.ReadChunk(w.t.Context(), w.conn, w.registry, postgres.ChunkRequest{Table: w.table("t"), Limit: 100_000,
				Yield: func([]source.Datum) error {
					if rows++; rows == 10 {
						freeze()
					}
					return nil
				}})
			return err
		}},
		{"a chunk", func(w *world, freeze func()) error {
			table := w.table("t")
			freeze()
			_, err := postgres.ReadChunk(w.t.Context(), w.conn, w.registry, postgres.ChunkRequest{Table: table, Limit: 10})
			return err
		}},
		{"the catalog", func(w *world, freeze func()) error {
			freeze()
			_, _, err := postgres.Tables(w.t.Context(), w.conn, "powersync", w.registry, []postgres.Pattern{{Schema: "public", Name: "t"}})
			return err
		}},
		{"the slot", func(w *world, freeze func()) error {
			freeze()
			_, err := postgres.Slot(w.t.Context(), w.conn, w.config.Slot)
			return err
		}},
		{"a mark", func(w *world, freeze func()) error {
			freeze()
			_, err := postgres.Emit(w.t.Context(), w.conn, postgres.MessagePrefix, []byte("x"))
			return err
		}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "CREATE TABLE t (id int PRIMARY KEY, filler text)",
				"INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 20000) i")
			p := newProxy(t, net.JoinHostPort(w.config.Host, port(w.config)))
			w.config.Port, w.config.Patience = p.port(), patience
			w.conn = w.connect()
			var frozen time.Time
			err := tc.ask(w, func() { frozen = time.Now(); p.freeze() })
			took := time.Since(frozen)
			if !errors.Is(err, postgres.ErrTransient) || !errors.Is(err, postgres.ErrUnreachable) ||
				!strings.Contains(err.Error(), "nothing has passed for 2s") || !strings.Contains(err.Error(), "snapshot_socket_timeout") {
				t.Errorf("got %v", err)
			}
			if frozen.IsZero() || took > 5*patience {
				t.Errorf("noticed after %v", took)
			}
			if !w.conn.IsClosed() {
				t.Error("the connection is still used")
			}
		})
	}
}
