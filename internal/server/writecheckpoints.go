package server

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/millrace-sync/millrace/internal/checkpoint"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/protocol"
)

// Bounds of the requests for write checkpoints that share one marker.
const (
	maxWriteCheckpoints     = 4096
	writeCheckpointPatience = 10 * time.Second
)

// writeCheckpointStore is what writeCheckpoints need of the store.
type writeCheckpointStore interface {
	RequestWriteCheckpoints(context.Context, []storage.WriteCheckpointRequest) ([]uint64, error)
}

// writeCheckpoints gives out write checkpoints. Each is bound to a marker written
// into the source's log after the request arrived: whatever the client uploaded
// before is in the log before it, so once the marker has been replicated the
// upload is in view. Requests that come while a marker is being written share the
// next one: a round trip and a commit serve any number of clients.
type writeCheckpoints struct {
	store writeCheckpointStore
	hub   *checkpoint.Hub
	// mark writes a marker and returns its position.
	mark     func(context.Context) (source.LSN, error)
	log      *slog.Logger
	requests chan *writeCheckpointRequest
}

type writeCheckpointRequest struct {
	user    string
	atLeast uint64
	answer  chan writeCheckpointAnswer // holds one
}

type writeCheckpointAnswer struct {
	id  uint64
	err error
}

// Request implements httpapi.WriteCheckpoints.
func (w *writeCheckpoints) Request(ctx context.Context, user string, atLeast uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, writeCheckpointPatience)
	defer cancel()
	r := &writeCheckpointRequest{user, atLeast, make(chan writeCheckpointAnswer, 1)}
	unavailable := func(err error) error {
		e := protocol.Errorf(protocol.ShuttingDown, "The write checkpoint could not be made, because the source database did not answer. Try again.")
		e.Err = err
		return e
	}
	select {
	case w.requests <- r:
	case <-ctx.Done():
		return 0, unavailable(ctx.Err())
	}
	select {
	case a := <-r.answer:
		if a.err != nil {
			return 0, unavailable(a.err)
		}
		return a.id, nil
	case <-ctx.Done():
		return 0, unavailable(ctx.Err())
	}
}

// Run serves requests until ctx ends.
func (w *writeCheckpoints) Run(ctx context.Context) error {
	for {
		var group []*writeCheckpointRequest
		select {
		case r := <-w.requests:
			group = append(group, r)
		case <-ctx.Done():
			return nil
		}
	gather:
		for len(group) < maxWriteCheckpoints {
			select {
			case r := <-w.requests:
				group = append(group, r)
			default:
				break gather
			}
		}
		ids, lsn, err := w.serve(ctx, group)
		if err != nil && ctx.Err() == nil {
			w.log.Warn("write checkpoints failed", "requests", len(group), "error", err)
		}
		for i, r := range group {
			if err != nil {
				r.answer <- writeCheckpointAnswer{err: err}
				continue
			}
			r.answer <- writeCheckpointAnswer{id: ids[i]}
			w.hub.WriteCheckpoint(r.user, lsn)
		}
	}
}

func (w *writeCheckpoints) serve(ctx context.Context, group []*writeCheckpointRequest) ([]uint64, source.LSN, error) {
	ctx, cancel := context.WithTimeout(ctx, writeCheckpointPatience)
	defer cancel()
	lsn, err := w.mark(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("write a marker into the source's log: %w", err)
	}
	requests, now := make([]storage.WriteCheckpointRequest, len(group)), time.Now()
	for i, r := range group {
		requests[i] = storage.WriteCheckpointRequest{User: r.user, AtLeast: r.atLeast, LSN: lsn, At: now}
	}
	ids, err := w.store.RequestWriteCheckpoints(ctx, requests)
	if err != nil {
		return nil, 0, fmt.Errorf("store write checkpoints: %w", err)
	}
	return ids, lsn, nil
}
