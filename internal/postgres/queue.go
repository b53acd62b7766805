package postgres

import (
	"context"
	"slices"
	"sync"
)

// queueBytes bounds the events that wait for Next, and queueEvents their number. An
// event is let in while there is any room, so the bound is exceeded by one part.
const (
	queueBytes  = 4 << 20
	queueEvents = 4096
)

// queue hands events from the goroutine that receives to the one that calls Next.
type queue struct {
	mu    sync.Mutex
	items []Event // from head on
	head  int
	bytes int
	err   error // why nothing more comes

	// Each holds a token when its condition may have come true.
	filled, drained chan struct{}
}

func newQueue() *queue {
	return &queue{filled: make(chan struct{}, 1), drained: make(chan struct{}, 1)}
}

// push adds an event and waits for room before it does. It reports false if stop
// was closed first.
func (q *queue) push(e Event, stop <-chan struct{}) bool {
	for {
		q.mu.Lock()
		if n := len(q.items) - q.head; n == 0 || q.bytes < queueBytes && n < queueEvents {
			q.items = append(q.items, e)
			q.bytes += e.bytes
			q.mu.Unlock()
			signal(q.filled)
			return true
		}
		q.mu.Unlock()
		select {
		case <-q.drained:
		case <-stop:
			return false
		}
	}
}

// close says that nothing more comes, and why. What waits can still be taken.
func (q *queue) close(err error) {
	q.mu.Lock()
	if q.err == nil {
		q.err = err
	}
	q.mu.Unlock()
	signal(q.filled)
}

// pop takes the next event. It fails with ctx's error, or when nothing more comes.
func (q *queue) pop(ctx context.Context) (Event, error) {
	for {
		q.mu.Lock()
		if q.head < len(q.items) {
			e := q.items[q.head]
			q.items[q.head] = Event{}
			q.head++
			q.bytes -= e.bytes
			if q.head == len(q.items) {
				q.items, q.head = q.items[:0], 0
			} else if q.head >= queueEvents {
				// An ever-growing list behind a reader that never quite catches up.
				q.items, q.head = slices.Delete(q.items, 0, q.head), 0
			}
			q.mu.Unlock()
			signal(q.drained)
			return e, nil
		}
		err := q.err
		q.mu.Unlock()
		if err != nil {
			signal(q.filled) // for the next call
			return Event{}, err
		}
		select {
		case <-q.filled:
		case <-ctx.Done():
			return Event{}, ctx.Err()
		}
	}
}

// waiting reports whether an event can be taken without waiting.
func (q *queue) waiting() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.head < len(q.items)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
