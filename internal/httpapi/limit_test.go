package httpapi

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/session"
	"github.com/millrace-sync/millrace/internal/storage"
)

// One user may take what nobody wants, and not the last places.
func TestPlaces(t *testing.T) {
	p := newPlaces(160)
	taken := 0
	for p.take("greedy") == placed {
		taken++
	}
	if taken != 120 {
		t.Errorf("one user took %d of 160 places, want 120", taken)
	}
	for i := range 40 {
		if r := p.take(fmt.Sprint("user", i%5)); r != placed {
			t.Fatalf("another user's place %d is refused: %d", i, r)
		}
	}
	if r := p.take("late"); r != allTaken {
		t.Errorf("a place beyond the limit: %d", r)
	}
	p.leave("user0")
	if r := p.take("greedy"); r != userTaken {
		t.Errorf("the greedy user got the place that came free: %d", r)
	}
	if r := p.take("late"); r != placed {
		t.Errorf("the late user was refused: %d", r)
	}
	for range taken {
		p.leave("greedy")
	}
	if _, ok := p.users["greedy"]; ok || p.taken != 40 {
		t.Errorf("%d places are taken, by %v", p.taken, p.users)
	}
}

// So many requests run, so many wait, the others are refused without a body; who
// waits too long is refused too.
func TestLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{Config: Config{Log: slog.New(slog.NewTextHandler(io.Discard, nil))}}
		l := newLane(2, 3)
		finish := make(chan struct{})
		status := make(chan int, 10)
		for range 6 {
			go func() {
				w := httptest.NewRecorder()
				l.do(h, w, httptest.NewRequest("GET", "/", nil), func(http.ResponseWriter, *http.Request) { <-finish })
				if w.Code != 200 && w.Body.Len() != 0 {
					t.Errorf("body %q", w.Body)
				}
				status <- w.Code
			}()
		}
		synctest.Wait()
		if got := <-status; got != 429 {
			t.Errorf("the sixth request: status %d", got)
		}
		finish <- struct{}{}
		if got := <-status; got != 200 {
			t.Errorf("status %d", got)
		}
		time.Sleep(queueTimeout) // of the bubble's time
		for range 2 {
			if got := <-status; got != 429 {
				t.Errorf("a request that waited: status %d", got)
			}
		}
		close(finish)
		for range 2 {
			if got := <-status; got != 200 {
				t.Errorf("status %d", got)
			}
		}
		if len(l.all) != 0 || len(l.running) != 0 {
			t.Errorf("%d places are taken, %d running", len(l.all), len(l.running))
		}
	})
}

// One warning of a kind is logged, the others counted until it is time for the next.
func TestMuffler(t *testing.T) {
	var m muffler
	now := time.Unix(1000, 0)
	var got []int
	for i := range 25 {
		if before, ok := m.pass("a", now.Add(time.Duration(i)*time.Second)); ok {
			got = append(got, i, before)
		}
	}
	if want := []int{0, 0, 10, 9, 20, 9}; !slices.Equal(got, want) {
		t.Errorf("logged at (second, not logged before) %v, want %v", got, want)
	}
	if _, ok := m.pass("b", now); !ok {
		t.Error("another kind is not logged")
	}
	for i := range 100 {
		m.pass(fmt.Sprint(i), now)
	}
	if len(m.kinds) > maxMuffled {
		t.Errorf("%d kinds are remembered", len(m.kinds))
	}
}

func TestChunkCache(t *testing.T) {
	key := func(i int) session.ChunkKey {
		return session.ChunkKey{Bucket: storage.BucketKey{Def: 1, Params: "[]"}, After: bucket.OpID(i)}
	}
	line := make([]byte, 1000)
	c := newChunkCache(20_000)
	put := func(i int) {
		line[0] = byte(i)
		c.Put(key(i), session.EncodedChunk{Line: line, Ops: i})
	}
	put(1)
	if _, ok := c.Get(key(1)); ok {
		t.Error("kept what was asked for once")
	}
	put(1)
	line[0] = 99
	got, ok := c.Get(key(1))
	if !ok || got.Ops != 1 || len(got.Line) != 1000 || got.Line[0] != 1 {
		t.Errorf("got %v, %d operations, %d bytes", ok, got.Ops, len(got.Line))
	}
	put(1) // again: nothing twice
	for i := 2; i < 100; i++ {
		put(i)
		put(i)
		c.Get(key(1))
		if c.bytes > 20_000 || c.recent.Len() != len(c.entries) {
			t.Fatalf("%d bytes, %d entries of %d", c.bytes, c.recent.Len(), len(c.entries))
		}
	}
	if _, ok := c.Get(key(1)); !ok {
		t.Error("what was used last is gone")
	}
	if _, ok := c.Get(key(2)); ok {
		t.Error("what was not used is still there")
	}
	big := session.EncodedChunk{Line: make([]byte, 10_000)}
	c.Put(key(1000), big)
	c.Put(key(1000), big)
	if _, ok := c.Get(key(1000)); ok {
		t.Error("kept a line of half the cache")
	}
}
