package server

import (
	"context"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"time"
)

// slack gives back to the operating system what a backfill, a large transaction, or
// many downloads have taken and nobody needs any more. Left to itself the runtime does so
// when next it has collected as much garbage, which may be hours away.
type slack struct {
	seen  uint64 // bytes allocated so far, at the last look
	given uint64 // the same, when memory was last given back
}

const (
	// slackEvery is how often a slack looks.
	slackEvery = time.Second
	// A collection costs some milliseconds: it takes slackWorth bytes allocated since the
	// last to be worth it, and fewer than slackQuiet from look to look not to be in the way.
	slackWorth = 64 << 20
	slackQuiet = 4 << 20
)

// Run gives memory back, when it is quiet, until ctx ends.
func (s *slack) Run(ctx context.Context) error {
	tick := time.NewTicker(slackEvery)
	defer tick.Stop()
	sample := []runtimemetrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	for {
		select {
		case <-tick.C:
			if runtimemetrics.Read(sample); s.due(sample[0].Value.Uint64()) {
				debug.FreeOSMemory()
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// due reports whether memory is to be given back, when so many bytes have been allocated.
func (s *slack) due(allocated uint64) bool {
	quiet := allocated-s.seen < slackQuiet
	s.seen = allocated
	if !quiet || allocated-s.given < slackWorth {
		return false
	}
	s.given = allocated
	return true
}
