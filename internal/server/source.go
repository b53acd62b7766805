package server

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace-sync/millrace/internal/postgres"
	"github.com/millrace-sync/millrace/internal/postgres/pgtypes"
	"github.com/millrace-sync/millrace/internal/source"
)

// conns are the query connections of one life of the replicator, each for one
// goroutine.
type conns struct {
	config   postgres.Config
	registry *pgtypes.Registry
	follower *pgconn.PgConn
	catalog  *pgconn.PgConn
}

func connectAll(ctx context.Context, config postgres.Config) (*conns, error) {
	c := &conns{config: config, registry: pgtypes.NewRegistry()}
	for _, conn := range []**pgconn.PgConn{&c.follower, &c.catalog} {
		var err error
		if *conn, err = postgres.Connect(ctx, config); err != nil {
			c.close()
			return nil, err
		}
	}
	if err := postgres.LimitLocks(ctx, c.catalog); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *conns) close() {
	for _, conn := range []*pgconn.PgConn{c.follower, c.catalog} {
		if conn != nil {
			// The work is over; what closing has to say is of no use.
			_ = conn.Close(context.Background())
		}
	}
}

// marker writes write checkpoints' markers by a connection of its own, which it
// opens when it is needed and again when it was lost.
type marker struct {
	config postgres.Config

	mu   sync.Mutex
	conn *pgconn.PgConn
}

// checkpointMark is a write checkpoint's marker. Nothing reads it: that the stream
// has passed it is all it says.
var checkpointMark = []byte("write checkpoint")

func (m *marker) mark(ctx context.Context) (source.LSN, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for attempt := 0; ; attempt++ {
		fresh := m.conn == nil || m.conn.IsClosed()
		if fresh {
			conn, err := postgres.Connect(ctx, m.config)
			if err != nil {
				return 0, err
			}
			m.conn = conn
		}
		lsn, err := postgres.Emit(ctx, m.conn, postgres.MessagePrefix, checkpointMark)
		if err == nil {
			return lsn, nil
		}
		// A connection that has lain idle may be found dead; a new one tells.
		if fresh || attempt > 0 || !errors.Is(err, postgres.ErrTransient) {
			return 0, fmt.Errorf("write checkpoint: %w", err)
		}
		m.conn.Close(ctx)
	}
}

func (m *marker) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil {
		_ = m.conn.Close(context.Background())
	}
}
