package client

import (
	"context"
	"fmt"
	"math"

	"github.com/millrace-sync/millrace/client/internal/engine"
	"github.com/millrace-sync/millrace/client/internal/local"
)

// upload has the connector empty the queue whenever there is something in it, until
// ctx ends.
func (c *connection) upload(ctx context.Context) {
	changes := c.db.changes.subscribe()
	defer changes.cancel()
	for {
		err := c.uploadAll(ctx)
		if ctx.Err() != nil {
			return
		}
		c.db.board.update(func(s *Status) { s.Uploading, s.UploadError = false, err })
		if err != nil {
			c.db.log.Warn("sync: upload failed; trying again", "error", err)
			c.pause(ctx, waitFor(err))
			continue
		}
		// Whatever was queued meanwhile travels together.
		sleep(ctx, c.opts.UploadThrottle)
		if !c.waitForQueue(ctx, changes) {
			return
		}
	}
}

// number returns the write checkpoint that covers what has been uploaded.
func (c *connection) number(ctx context.Context, clientID string) (int64, error) {
	if c.opts.CheckpointRequests {
		return c.request(ctx)
	}
	return c.writeCheckpoint(ctx, clientID)
}

// waitForQueue returns false when ctx ends.
func (c *connection) waitForQueue(ctx context.Context, changes *changeSet) bool {
	repeat, stop := c.repeats()
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-c.online:
			return true
		case <-repeat:
			c.repeat(ctx, 0)
		case <-changes.ready:
			for _, table := range changes.take() {
				if table == "ps_crud" {
					return true
				}
			}
			// A hub that has been closed is always ready; ctx is about to end.
			if c.db.changes.isClosed() {
				<-ctx.Done()
				return false
			}
		}
	}
}

// uploadAll calls the connector until the queue is empty and what was in it is known
// to come back.
func (c *connection) uploadAll(ctx context.Context) error {
	var before int64
	for {
		var first int64
		err := c.db.exclusive(ctx, func(*local.Conn) (err error) {
			first, err = firstEntry(c.db.store)
			return err
		})
		switch {
		case err != nil:
			return fmt.Errorf("look at the upload queue: %w", err)
		case first == 0:
			done, err := c.confirm(ctx)
			if done || err != nil {
				return err
			}
			continue
		case first == before:
			return ErrNotCompleted
		}
		before = first
		c.db.board.update(func(s *Status) { s.Uploading = true })
		if err := c.connector.UploadData(ctx, c.db); err != nil {
			return err
		}
	}
}

// confirm asks for a write checkpoint, if the gate waits for one and does not know
// which. Not done means that the queue has grown meanwhile.
func (c *connection) confirm(ctx context.Context) (done bool, err error) {
	var clientID string
	var target, seq int64
	var waits bool
	err = c.db.exclusive(ctx, func(conn *local.Conn) (err error) {
		if clientID, err = conn.ClientID(); err != nil {
			return err
		}
		if target, waits, err = engine.Target(c.db.store); err != nil {
			return err
		}
		seq, err = lastQueued(c.db.store)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("look at the upload queue: %w", err)
	}
	if waits && target == math.MaxInt64 {
		id, err := c.number(ctx, clientID)
		if err != nil {
			return false, err
		}
		// The checkpoint covers what was queued up to seq, and no more.
		covers := false
		err = c.db.exclusive(ctx, func(*local.Conn) error {
			first, err := firstEntry(c.db.store)
			if err != nil || first != 0 {
				return err
			}
			last, err := lastQueued(c.db.store)
			if err != nil || last != seq {
				return err
			}
			covers = true
			return engine.SetTarget(c.db.store, id)
		})
		if err != nil {
			return false, fmt.Errorf("set the write checkpoint: %w", err)
		}
		if !covers {
			return false, nil
		}
	}
	c.events.raise(func(f *eventFlags) { f.uploaded = true })
	return true, nil
}

// lastQueued returns the id of the newest entry that ever was in the queue.
func lastQueued(s *store) (seq int64, err error) {
	err = s.Query(`SELECT seq FROM sqlite_sequence WHERE name = 'ps_crud'`, func(r engine.Row) error {
		seq = r.Int64(0)
		return nil
	})
	return seq, err
}
