package httpapi

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
)

// Who waits gets turns user by user, whoever came first and however often.
func TestTurnsGoRoundUsers(t *testing.T) {
	turns := newTurns(1)
	first, _ := turns.enter("zoe")
	<-first
	type waiter struct {
		user string
		turn <-chan struct{}
	}
	var waiting []waiter
	enter := func(user string, n int) {
		for range n {
			turn, _ := turns.enter(user)
			waiting = append(waiting, waiter{user, turn})
		}
	}
	enter("ann", 5)
	enter("bob", 2)
	enter("cat", 1)
	next := func() string {
		turns.give()
		for i, w := range waiting {
			select {
			case <-w.turn:
				waiting = append(waiting[:i], waiting[i+1:]...)
				return w.user
			default:
			}
		}
		return "nobody"
	}
	var got []string
	for range 4 {
		got = append(got, next())
	}
	enter("dan", 1) // comes after ann's four, and is before two of them
	for range 6 {
		got = append(got, next())
	}
	if want := "ann bob cat ann bob ann dan ann ann nobody"; strings.Join(got, " ") != want {
		t.Errorf("turns went to %v, want %s", got, want)
	}
	if turns.free != 1 || len(turns.users) != 0 || turns.order.Len() != 0 {
		t.Errorf("%d turns are free, %d users wait", turns.free, len(turns.users))
	}
}

// A turn that nobody wants any more is not lost.
func TestTurnsAreGivenUp(t *testing.T) {
	turns := newTurns(1)
	_, leaveFirst := turns.enter("ann")
	second, leaveSecond := turns.enter("ann")
	third, leaveThird := turns.enter("bob")
	fourth, _ := turns.enter("bob")
	leaveThird()
	leaveFirst()
	leaveSecond() // had come
	if len(second) != 0 || len(third) != 0 || len(fourth) != 1 {
		t.Errorf("the turn went to %d, %d, %d of those who wait, want the last one", len(second), len(third), len(fourth))
	}
	turns.give()
	if turns.free != 1 || len(turns.users) != 0 {
		t.Errorf("%d turns are free, %d users wait", turns.free, len(turns.users))
	}
}

// So many have a turn at once, and who stops waiting takes nobody's.
func TestTurnsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(3)
		ctx, cancel := context.WithCancel(t.Context())
		running, finish := make(chan string, 100), make(chan struct{})
		failed := make(chan error, 100)
		for i := range 20 {
			go func() {
				user := fmt.Sprint("user", i%7)
				if err := turns.take(ctx, user); err != nil {
					failed <- err
					return
				}
				running <- user
				<-finish
				turns.give()
			}()
		}
		synctest.Wait()
		if len(running) != 3 {
			t.Errorf("%d have a turn, want 3", len(running))
		}
		finish <- struct{}{}
		synctest.Wait()
		if len(running) != 4 {
			t.Errorf("%d have had a turn, want 4", len(running))
		}
		cancel()
		synctest.Wait()
		if len(failed) != 16 || !errors.Is(<-failed, errClosed) {
			t.Errorf("%d have given up, want 16 with errClosed", len(failed)+1)
		}
		close(finish)
		synctest.Wait()
		if turns.free != 3 || len(turns.users) != 0 {
			t.Errorf("%d turns are free, %d users wait", turns.free, len(turns.users))
		}
	})
}
