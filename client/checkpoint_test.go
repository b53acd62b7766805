package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-sync/millrace/client/internal/engine"
	"github.com/millrace-sync/millrace/client/internal/local"
)

// Numbers of checkpoint requests, and the gate with them, are kept as officially.
func TestCheckpointRequests(t *testing.T) {
	w := newTwins(t, todos, "")
	w.requests = true
	next := func() {
		t.Helper()
		w.number(w.control("next_checkpoint_request_id", nil), func() (int64, error) { return engine.NextRequest(w.d.store) })
		w.compare()
	}
	seed := func(id int64) {
		t.Helper()
		w.control("seed_checkpoint_request_id", fmt.Sprint(id))
		w.number(fmt.Sprint(id), func() (int64, error) { return id, engine.SeedRequests(w.d.store, id) })
		w.compare()
	}
	err := w.d.exclusive(t.Context(), func(*local.Conn) error { _, err := engine.NextRequest(w.d.store); return err })
	if err == nil {
		t.Error("a number before the first")
	}
	w.start()
	seed(1)
	next()
	w.write(`INSERT INTO todos(id, title) VALUES ('a', 'mine')`)
	next()
	// A number from the target, one from the counter, and a larger one from the service.
	w.start()
	seed(3)
	w.uploaded(7)
	w.start()
	seed(9)
	next()
	w.write(`UPDATE todos SET title = 'again'`)
	w.start()
	seed(10)
	w.uploaded(11)
	for _, line := range []string{
		`{"checkpoint":{"last_op_id":"1","write_checkpoint":"10","buckets":[{"bucket":"b","checksum":5,"count":1}],"streams":[]}}`,
		`{"data":{"bucket":"b","data":[{"op_id":"1","op":"PUT","object_type":"todos","object_id":"x","checksum":5,"data":"{\"title\":\"milk\"}"}]}}`,
		`{"checkpoint_complete":{"last_op_id":"1"}}`,
		`{"checkpoint_diff":{"last_op_id":"1","write_checkpoint":"11","updated_buckets":[],"removed_buckets":[]}}`,
		`{"checkpoint_complete":{"last_op_id":"1"}}`,
	} {
		w.line(line)
		w.compare()
	}
}

// numbering is a user whose client numbers its checkpoints.
func numbering(t *testing.T, u Connector, test func(t *testing.T, d *DB, p *peer)) {
	scriptedWith(t, u, &ConnectOptions{CheckpointRequests: true}, test)
}

func confirmed(id int) []string {
	return []string{
		fmt.Sprintf(`{"checkpoint_diff":{"last_op_id":"1","write_checkpoint":"%d","updated_buckets":[],"removed_buckets":[]}}`, id), complete1,
	}
}

// The service tells the newest number at the begin; each upload gets the next.
func TestPeerCheckpointRequests(t *testing.T) {
	numbering(t, &user{}, func(t *testing.T, d *DB, p *peer) {
		p.mu.Lock()
		p.checkpoints = 41
		p.mu.Unlock()
		s := <-p.streams
		s.send(t, oneBucket, oneRow, complete1)
		mustExec(t, d, `UPDATE todos SET title = 'mine'`)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := p.requested(); got != "1 42" {
			t.Errorf("requested %s", got)
		}
		s.send(t, confirmed(41)...)
		if got := titles(t, d); got != "mine" {
			t.Errorf("rows %q before the checkpoint is there", got)
		}
		// Until it is there, it is asked for again.
		time.Sleep(25 * time.Second)
		synctest.Wait()
		if got := p.requested(); got != "42 42" {
			t.Errorf("requested %s", got)
		}
		s.send(t, confirmed(42)...)
		if got := titles(t, d); got != "milk" {
			t.Errorf("rows %q", got)
		}

		done := make(chan error, 1)
		wait := func(ctx context.Context) {
			go func() { done <- d.WaitForCheckpoint(ctx) }()
			synctest.Wait()
		}
		wait(t.Context())
		s.send(t, confirmed(42)...)
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if got := p.requested(); got != "43 43" || len(done) > 0 {
			t.Errorf("requested %s, done %d", got, len(done))
		}
		s.send(t, confirmed(43)...)
		if err := <-done; err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		wait(ctx)
		if err := <-done; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		wait(t.Context())
		d.Disconnect()
		if err := <-done; !errors.Is(err, ErrNoCheckpointRequests) {
			t.Errorf("got %v", err)
		}
		if err := d.WaitForCheckpoint(t.Context()); !errors.Is(err, ErrNoCheckpointRequests) {
			t.Errorf("got %v", err)
		}
	})
}

// An older service says so; nothing is lost.
func TestPeerNoCheckpointRequests(t *testing.T) {
	numbering(t, &user{}, func(t *testing.T, d *DB, p *peer) {
		p.mu.Lock()
		p.noRequests = true
		p.mu.Unlock()
		time.Sleep(12 * time.Second)
		synctest.Wait()
		if st := d.Status(); st.DownloadError == nil || !strings.Contains(st.DownloadError.Error(), "connect without CheckpointRequests") {
			t.Errorf("status: %v", st.DownloadError)
		}
		if err := d.Connect(&user{}, &ConnectOptions{Client: &http.Client{Transport: p}}); err != nil {
			t.Fatal(err)
		}
		(<-p.streams).send(t, oneBucket, oneRow, complete1)
		if got := titles(t, d); got != "milk" {
			t.Errorf("rows %q", got)
		}
	})
}

// poster is a user whose backend makes the requests itself.
type poster struct {
	user
	posted chan int64
}

func (p *poster) PostCheckpoint(_ context.Context, client string, id int64) error {
	if client == "" {
		return errors.New("no client")
	}
	p.posted <- id
	return nil
}

func TestPeerCheckpointPoster(t *testing.T) {
	u := &poster{posted: make(chan int64, 10)}
	numbering(t, u, func(t *testing.T, d *DB, p *peer) {
		s := <-p.streams
		s.send(t, oneBucket, oneRow, complete1)
		mustExec(t, d, `UPDATE todos SET title = 'mine'`)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if id := <-u.posted; id != 2 || p.requested() != "1" {
			t.Errorf("posted %d", id)
		}
		s.send(t, confirmed(2)...)
		if got := titles(t, d); got != "milk" {
			t.Errorf("rows %q", got)
		}
	})
}
