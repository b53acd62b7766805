package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/millrace-sync/millrace/client/internal/engine"
	"github.com/millrace-sync/millrace/client/internal/local"
	"github.com/millrace-sync/millrace/protocol"
)

// Write checkpoints that the client numbers itself (ConnectOptions.CheckpointRequests). At the
// begin of each stream it asks the service for the newest number; then it counts on from there.

// CheckpointPoster is a [Connector] that passes checkpoint requests to the service by
// itself: for backends that apply uploads later, and make the request after that. The
// client asks again every ten seconds until the checkpoint has come.
type CheckpointPoster interface {
	Connector
	// PostCheckpoint has the service given POST /sync/checkpoint-request with these values.
	PostCheckpoint(ctx context.Context, clientID string, id int64) error
}

// minRepeat is the least time between requests for the same checkpoint.
const minRepeat = 10 * time.Second

// ErrNoCheckpointRequests says that the connection, if there is one, does not number checkpoints.
var ErrNoCheckpointRequests = errors.New("there is no connection with ConnectOptions.CheckpointRequests")

// WaitForCheckpoint waits until this database holds everything that the source database holds
// now: what others have written, and what was uploaded from here. It returns the error of
// ctx when that ends, and an error at once if the service cannot be asked.
func (d *DB) WaitForCheckpoint(ctx context.Context) error {
	d.mu.Lock()
	c := d.connection
	d.mu.Unlock()
	if c == nil || !c.opts.CheckpointRequests {
		return ErrNoCheckpointRequests
	}
	id, err := c.request(ctx)
	if err != nil {
		return fmt.Errorf("wait for a checkpoint: %w", err)
	}
	for {
		while, cancel := context.WithTimeout(ctx, max(minRepeat, c.opts.RetryDelay))
		_, err := d.WaitForStatus(while, func(s Status) bool { return s.applied >= id })
		timeout := while.Err() != nil && ctx.Err() == nil
		cancel()
		if err == nil || !timeout {
			return err
		}
		d.mu.Lock()
		stands := d.connection == c
		d.mu.Unlock()
		if !stands {
			return fmt.Errorf("wait for a checkpoint: %w any more", ErrNoCheckpointRequests)
		}
		c.repeat(ctx, id)
	}
}

// seed asks the service for the newest number that it knows of this client, or has it take ours.
func (c *connection) seed(ctx context.Context) error {
	c.seeding.Lock()
	defer c.seeding.Unlock()
	return c.seedLocked(ctx)
}

func (c *connection) seedLocked(ctx context.Context) error {
	var client string
	var first int64
	err := c.db.exclusive(ctx, func(conn *local.Conn) (err error) {
		if client, err = conn.ClientID(); err == nil {
			first, err = engine.FirstRequest(c.db.store)
		}
		return err
	})
	var newest int64
	if err == nil {
		newest, err = c.requestCheckpoint(ctx, client, first)
	}
	if err == nil {
		err = c.db.exclusive(ctx, func(*local.Conn) error { return engine.SeedRequests(c.db.store, newest) })
	}
	if err != nil {
		return fmt.Errorf("agree with the service on the number of checkpoints: %w", err)
	}
	c.seeded = true
	return nil
}

// request numbers a checkpoint and asks for it.
func (c *connection) request(ctx context.Context) (id int64, err error) {
	c.seeding.Lock()
	if !c.seeded {
		err = c.seedLocked(ctx)
	}
	var client string
	if err == nil {
		err = c.db.exclusive(ctx, func(conn *local.Conn) (err error) {
			if client, err = conn.ClientID(); err == nil {
				id, err = engine.NextRequest(c.db.store)
			}
			return err
		})
	}
	c.seeding.Unlock()
	if err == nil {
		err = c.post(ctx, client, id)
	}
	return id, err
}

// post asks for a checkpoint, by the connector if it wants to.
func (c *connection) post(ctx context.Context, client string, id int64) error {
	if p, ok := c.connector.(CheckpointPoster); ok {
		if err := p.PostCheckpoint(ctx, client, id); err != nil {
			return fmt.Errorf("post a checkpoint request: %w", err)
		}
		return nil
	}
	_, err := c.requestCheckpoint(ctx, client, id)
	return err
}

// repeats returns a ticker for repeating requests, nil if there are none.
func (c *connection) repeats() (tick <-chan time.Time, stop func()) {
	if !c.opts.CheckpointRequests {
		return nil, func() {}
	}
	t := time.NewTicker(max(minRepeat, c.opts.RetryDelay))
	return t.C, t.Stop
}

// repeat asks again for a checkpoint, if it is not 0, or for the one that the gate waits
// for: the service may have lost it.
func (c *connection) repeat(ctx context.Context, id int64) {
	var client string
	err := c.db.exclusive(ctx, func(conn *local.Conn) (err error) {
		if client, err = conn.ClientID(); err == nil && id == 0 {
			id, err = engine.LastRequest(c.db.store)
		}
		return err
	})
	if err == nil && id > 0 {
		err = c.post(ctx, client, id)
	}
	if err != nil && ctx.Err() == nil {
		c.db.log.Warn("sync: a checkpoint request could not be repeated", "error", err)
	}
}

// requestCheckpoint asks the service for a checkpoint and returns the largest number that this
// client ever asked for.
func (c *connection) requestCheckpoint(ctx context.Context, client string, id int64) (int64, error) {
	r := protocol.CheckpointRequest{ClientID: client, ID: uint64(id)}
	newest, err := c.askCheckpoint(ctx, http.MethodPost, "/sync/checkpoint-request", r.AppendJSON(nil))
	if isStatus(err, http.StatusNotFound) {
		err = fmt.Errorf("the service does not know checkpoint requests; connect without CheckpointRequests: %w", err)
	}
	return newest, err
}
