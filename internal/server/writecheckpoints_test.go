package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-sync/millrace/internal/checkpoint"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/protocol"
)

// confirm asks for a write checkpoint of a user, again while the service says that it
// could not be made.
func (in *instance) confirm(ctx context.Context, user string) (uint64, error) {
	for {
		req, err := http.NewRequestWithContext(ctx, "GET", in.url+"/write-checkpoint2.json?client_id="+user, nil)
		if err != nil {
			return 0, err
		}
		req.Header.Set("Authorization", "Bearer "+in.token(user))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		switch {
		case err != nil:
			return 0, err
		case resp.StatusCode == http.StatusOK:
			return protocol.DecodeWriteCheckpoint(b)
		case resp.StatusCode != http.StatusServiceUnavailable:
			return 0, fmt.Errorf("status %d: %s", resp.StatusCode, b)
		}
	}
}

// untilConfirmed waits until a client hears of a write checkpoint. The row that was
// uploaded before must then be in its view.
func (c *client) untilConfirmed(id uint64, row string) {
	c.t.Helper()
	shown := false
	c.until(fmt.Sprintf("write checkpoint %d", id), func() bool {
		_, shown = c.visible["notes/"+row]
		return c.write >= id
	})
	if !shown {
		c.t.Errorf("client %s was told of write checkpoint %d and does not see row %s", c.user, id, row)
	}
}

// Connections that break between a request for a write checkpoint and its marker's
// arrival delay the confirmation and do not lose it, though nothing else happens on
// the source afterwards.
func TestWriteCheckpointsOutliveLostConnections(t *testing.T) {
	in, conn, c := serving(t, "CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)")
	const (
		replication = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active_pid IS NOT NULL AND database = current_database()"
		everything  = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
	)
	for i, c1 := range []struct{ before, after string }{
		{replication, ""}, {"", replication}, {replication, replication}, {everything, ""}, {"", everything}, {"", ""},
	} {
		row := fmt.Sprint("n", i)
		exec(t, conn, "INSERT INTO notes VALUES ('"+row+"', 'u', 'x')")
		if c1.before != "" {
			exec(t, conn, c1.before)
		}
		id, err := in.confirm(t.Context(), "u")
		if err != nil {
			t.Fatal(err)
		}
		if c1.after != "" {
			exec(t, conn, c1.after)
		}
		c.untilConfirmed(id, row)
	}
}

// Each of many clients that write at once is confirmed when its own write is in its
// view, whatever commits are in flight.
func TestWriteCheckpointsRaceCommits(t *testing.T) {
	dsn, conn := database(t, shared.Cluster(t), "CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)")
	in := newInstance(t, dsn)
	in.start(ownNotes)
	const users, writes = 8, 10
	clients := make([]*client, users)
	for i := range clients {
		clients[i] = in.connect(fmt.Sprint("u", i))
		clients[i].untilEqual("first sync", conn, notesOf(clients[i].user))
	}
	var wg sync.WaitGroup
	for _, c := range clients {
		own, err := pgx.Connect(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer own.Close(context.Background())
			for i := range writes {
				row := fmt.Sprint(c.user, "-", i)
				if _, err := own.Exec(t.Context(), "INSERT INTO notes VALUES ($1, $2, 'x')", row, c.user); err != nil {
					t.Error(err)
					return
				}
				id, err := in.confirm(t.Context(), c.user)
				if err != nil || id != uint64(i+1) {
					t.Errorf("write checkpoint %d, %v, want %d", id, err, i+1)
					return
				}
				if !c.confirmed(id, row) {
					t.Errorf("client %s: write checkpoint %d did not come, or before row %s", c.user, id, row)
					return
				}
			}
		})
	}
	wg.Wait()
}

// confirmed is untilConfirmed for goroutines other than the test's.
func (c *client) confirmed(id uint64, row string) bool {
	deadline := time.After(patience)
	for {
		c.mu.Lock()
		told, changed := c.write >= id, c.changed
		_, shown := c.visible["notes/"+row]
		c.mu.Unlock()
		if told {
			return shown
		}
		select {
		case <-changed:
		case <-deadline:
			return false
		}
	}
}

// counting is a store that numbers requests and can fail.
type counting struct {
	groups []int
	fail   error
}

func (c *counting) RequestWriteCheckpoints(_ context.Context, reqs []storage.WriteCheckpointRequest) ([]uint64, error) {
	if c.fail != nil {
		return nil, c.fail
	}
	c.groups = append(c.groups, len(reqs))
	return make([]uint64, len(reqs)), nil
}

// Requests that come while a marker is on its way share the next; a marker or a store
// that fails, or does not answer, fails its group in time and nothing after it.
func TestWriteCheckpointGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &counting{}
		answer := make(chan error)
		marks := 0
		w := &writeCheckpoints{
			store: store, hub: checkpoint.NewHub(storage.Checkpoint{}), log: slog.New(slog.DiscardHandler),
			requests: make(chan *writeCheckpointRequest, maxWriteCheckpoints),
			mark: func(ctx context.Context) (source.LSN, error) {
				marks++
				select {
				case err := <-answer:
					return source.LSN(marks), err
				case <-ctx.Done():
					return 0, ctx.Err()
				}
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- w.Run(ctx) }()
		results := make(chan error, 1000)
		ask := func(n int) {
			for range n {
				go func() {
					_, err := w.Request(ctx, "u", 0)
					results <- err
				}()
			}
			synctest.Wait()
		}
		outcome := func(n int, failed bool) {
			t.Helper()
			for range n {
				err := <-results
				if code := protocol.AsError(err); failed && code.Code != protocol.ShuttingDown || !failed && err != nil {
					t.Fatalf("got %v, want a failure: %v", err, failed)
				}
			}
		}
		ask(1)
		ask(500)
		answer <- nil
		outcome(1, false)
		answer <- nil
		outcome(500, false)
		if marks != 2 || len(store.groups) != 2 || store.groups[1] != 500 {
			t.Errorf("%d markers for groups of %v, want 1 and 500", marks, store.groups)
		}
		ask(1)
		ask(2)
		answer <- errors.New("the source is away")
		outcome(1, true)
		answer <- nil
		outcome(2, false)
		store.fail = errors.New("the store is away")
		ask(1)
		answer <- nil
		outcome(1, true)
		store.fail = nil
		start := time.Now()
		ask(1) // no answer comes
		outcome(1, true)
		if d := time.Since(start); d != writeCheckpointPatience {
			t.Errorf("failed after %s", d)
		}
		synctest.Wait()
		ask(1)
		answer <- nil
		outcome(1, false)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
