//go:build unix

package pgstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/millrace-sync/millrace/internal/chaos"
	"github.com/millrace-sync/millrace/internal/storage"
)

// The network takes what is sent and gives nothing back. A commit is given up when the
// lease has run out, and recovering finds out what became of it.
func TestSilentDatabase(t *testing.T) {
	opts := at(t, shared.Cluster(t), freshSchema())
	proxy, err := chaos.Listen(fmt.Sprintf("127.0.0.1:%d", opts.Connection.Port))
	if err != nil {
		t.Fatal(err)
	}
	through := opts
	if _, err := fmt.Sscanf(proxy.Addr(), "127.0.0.1:%d", &through.Connection.Port); err != nil {
		t.Fatal(err)
	}
	through.Lease = minLease
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { _ = proxy.Run(ctx) })
	s := open(t, through)
	running.Go(func() { _ = s.Run(ctx) })
	commit(t, s, put(1, true))
	proxy.Silence()
	begun := time.Now()
	if err := s.Commit(t.Context(), put(2, true)); !errors.Is(err, storage.ErrUnavailable) {
		t.Fatalf("commit to a database that says nothing: %v, want ErrUnavailable", err)
	}
	if took := time.Since(begun); took > commitTime/2 {
		t.Errorf("it was given up after %v", took)
	}
	proxy.Heal()
	for deadline := time.Now().Add(time.Minute); ; <-time.After(50 * time.Millisecond) {
		if _, err := s.Recover(t.Context()); err == nil {
			break
		} else if !errors.Is(err, storage.ErrUnavailable) || time.Now().After(deadline) {
			t.Fatalf("recover: %v", err)
		}
	}
	commit(t, s, put(3, true))
	if got := fmt.Sprint(opIDs(t, readerOf(t, opts))); got != "[1 3]" {
		t.Errorf("ops %s are stored, want 1 and 3", got)
	}
}
