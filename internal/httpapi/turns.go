package httpapi

import (
	"container/list"
	"context"
	"sync"
)

// turns lets so many sessions at once do what costs: evaluate a request, read and
// encode operations. A turn is one evaluation or one chunk. Those that wait are
// served user by user and not in the order in which they came, so whoever has a
// thousand connections gets one turn where another user with a single one gets one.
//
// What waits is bounded by the connections: each waits for one turn at most.
type turns struct {
	mu    sync.Mutex
	free  int
	users map[string]*turnQueue
	order list.List // of *turnQueue, those with someone waiting; the next one first
}

// turnQueue is those who wait for one user.
type turnQueue struct {
	user    string
	waiting list.List // of chan struct{}, first come first
	place   *list.Element
}

func newTurns(n int) *turns { return &turns{free: n, users: map[string]*turnQueue{}} }

// take waits for a turn, which give ends. It fails only when ctx ends.
func (t *turns) take(ctx context.Context, user string) error {
	if t.try() {
		return nil
	}
	turn, leave := t.enter(user)
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
		leave()
		return errClosed
	}
}

// try takes a turn if one is free.
func (t *turns) try() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.free == 0 {
		return false
	}
	t.free--
	return true
}

// enter queues for a turn, which has come when turn receives. leave is for who no
// longer wants it, had it come or not.
func (t *turns) enter(user string) (turn <-chan struct{}, leave func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := make(chan struct{}, 1)
	if t.free > 0 {
		t.free--
		c <- struct{}{}
		return c, t.give
	}
	q := t.users[user]
	if q == nil {
		q = &turnQueue{user: user}
		q.place = t.order.PushBack(q)
		t.users[user] = q
	}
	e := q.waiting.PushBack(c)
	return c, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		select {
		case <-c: // it came meanwhile
			t.pass()
		default:
			q.waiting.Remove(e)
			t.tidy(q)
		}
	}
}

// give ends a turn.
func (t *turns) give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pass()
}

// pass hands a turn to the next user, who then goes to the end.
func (t *turns) pass() {
	front := t.order.Front()
	if front == nil {
		t.free++
		return
	}
	q := front.Value.(*turnQueue)
	q.waiting.Remove(q.waiting.Front()).(chan struct{}) <- struct{}{}
	t.order.MoveToBack(front)
	t.tidy(q)
}

// tidy forgets a user for whom nobody waits.
func (t *turns) tidy(q *turnQueue) {
	if q.waiting.Len() == 0 {
		t.order.Remove(q.place)
		delete(t.users, q.user)
	}
}
