package pgstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/pgtest"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

var bucketA = storage.BucketKey{Def: 1, Params: `["a"]`}

// put returns a batch that gives bucketA one op; the first one defines it.
func put(id bucket.OpID, publish bool) *storage.Batch {
	b := &storage.Batch{Publish: publish, LSN: source.LSN(id) * 10, Ops: []storage.BucketOp{{Bucket: bucketA, Op: bucket.Op{
		ID: id, Kind: bucket.Put, ObjectType: "notes", ObjectID: "1", Data: []byte("{}"), Checksum: bucket.Checksum(id),
	}}}}
	if id == 1 {
		b.Definitions = []storage.Definition{{ID: 1, Hash: "h", State: storage.Serving}}
	}
	return b
}

func open(t testing.TB, opts Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func commit(t testing.TB, s *Store, b *storage.Batch) {
	t.Helper()
	if err := s.Commit(t.Context(), b); err != nil {
		t.Fatalf("commit: %v", err)
	}
}

func opIDs(t testing.TB, s *Store) []bucket.OpID {
	t.Helper()
	sn, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer sn.Close()
	var ids []bucket.OpID
	if err := sn.Ops(bucketA, 0, func(op *bucket.Op) bool { ids = append(ids, op.ID); return true }); err != nil {
		t.Fatal(err)
	}
	return ids
}

// A writer that was silent for too long is replaced, and can change nothing when
// it comes back, whatever it had under way.
func TestTakeover(t *testing.T) {
	opts := at(t, shared.Cluster(t), freshSchema())
	opts.Lease = minLease
	first := open(t, opts)
	commit(t, first, put(1, true))
	commit(t, first, put(2, false))

	if _, err := Open(t.Context(), opts); !errors.Is(err, storage.ErrLocked) || !strings.Contains(err.Error(), "process ") {
		t.Fatalf("open beside a writer: %v, want ErrLocked and who it is", err)
	}
	opts.Wait = true
	second := open(t, opts) // when the lease has run out, as nobody runs first.Run
	if got := second.Recovered(); got.Checkpoint != (storage.Checkpoint{Op: 1, LSN: 10}) || got.NextOp != 3 {
		t.Fatalf("took over at %s, next op %s; want 1@0/A and 3", got.Checkpoint, got.NextOp)
	}
	commit(t, second, put(3, true))

	for name, write := range map[string]func() error{
		"commit of a few":      func() error { return first.Commit(t.Context(), put(3, true)) },
		"commit of many":       func() error { return first.Commit(t.Context(), many(3, bulk)) },
		"reset":                func() error { return first.ResetWriteCheckpoints(t.Context(), 0) },
		"commit after failure": func() error { return first.Commit(t.Context(), put(9, true)) },
		"recover": func() error {
			_, err := first.Recover(t.Context())
			return err
		},
	} {
		if err := write(); !errors.Is(err, storage.ErrFailed) || !errors.Is(err, storage.ErrLocked) {
			t.Errorf("%s by the writer that was replaced: %v, want ErrFailed and ErrLocked", name, err)
		}
	}
	<-first.Failed()
	if err := first.Run(t.Context()); !errors.Is(err, storage.ErrLocked) {
		t.Errorf("run: %v, want ErrLocked", err)
	}
	if got := fmt.Sprint(opIDs(t, second)); got != "[1 3]" {
		t.Fatalf("ops %s, want [1 3]", got)
	}
	commit(t, second, put(4, true)) // and goes on
}

// many returns a batch of n ops in bucketA from id on, with a row each.
func many(id bucket.OpID, n int) *storage.Batch {
	b := put(id, true)
	for i := 1; i < n; i++ {
		o := b.Ops[0]
		o.Op.ID = id + bucket.OpID(i)
		b.Ops = append(b.Ops, o)
		b.Rows = append(b.Rows, storage.RowWrite{Ref: storage.RowRef{Table: 1, Key: source.RowKey(fmt.Sprint("k", o.Op.ID))}, Record: &storage.RowRecord{}})
	}
	return b
}

// A transaction that is under way while the lease is lost fails when it comes to
// its end, and has changed nothing.
func TestFencingDuringACommit(t *testing.T) {
	opts := at(t, shared.Cluster(t), freshSchema())
	first := open(t, opts)
	commit(t, first, put(1, true))

	// The commit waits for a lock on what it will write, until the lease has gone.
	conn := connect(t)
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), first.text.in("LOCK TABLE millrace.publication IN SHARE MODE")); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- first.Commit(context.WithoutCancel(t.Context()), put(2, true)) }()
	waitForLock(t, opts)
	if _, err := tx.Exec(t.Context(), first.text.in("UPDATE millrace.store SET expires = clock_timestamp()")); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), first.text.in("UPDATE millrace.store SET token = token + 1, owner = 'another'")); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, storage.ErrFailed) || !errors.Is(err, storage.ErrLocked) {
		t.Fatalf("commit: %v, want ErrFailed and ErrLocked", err)
	}
	second := open(t, opts)
	if got := fmt.Sprint(opIDs(t, second)); got != "[1]" {
		t.Fatalf("ops %s, want [1]", got)
	}
}

// connect returns a connection of the test's own.
func connect(t *testing.T) *pgx.Conn {
	c := shared.Cluster(t)
	return c.Conn(t, c.DSN("postgres"))
}

// waitForLock returns when a session of the store waits for a lock.
func waitForLock(t *testing.T, opts Options) {
	t.Helper()
	conn := connect(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		var waiting bool
		err := conn.QueryRow(ctx, "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%' || $1 || '%'", opts.Schema).Scan(&waiting)
		if err != nil {
			t.Fatal(err)
		}
		if waiting {
			return
		}
	}
}

// Run keeps the lease of a writer that has nothing to write.
func TestRunKeepsTheLease(t *testing.T) {
	opts := at(t, shared.Cluster(t), freshSchema())
	opts.Lease = minLease
	s := open(t, opts)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	opts.Wait = true
	wait, stop := context.WithTimeout(t.Context(), 3*minLease)
	defer stop()
	if _, err := Open(wait, opts); !errors.Is(err, storage.ErrLocked) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("open for three times the lease: %v, want ErrLocked and the deadline", err)
	}
	commit(t, s, put(1, true))
	cancel()
	running.Wait()
}

// The server is killed in the middle of commits; after each time the writer
// recovers, in the same process, and replays what was not kept.
func TestServerKilledDuringCommits(t *testing.T) {
	cluster := pgtest.Start(t)
	s := open(t, at(t, cluster, "millrace"))
	commit(t, s, put(1, true))
	next, kept := bucket.OpID(2), map[bucket.OpID]bool{1: true}
	for range 3 {
		kill := make(chan struct{})
		var killing sync.WaitGroup
		killing.Go(func() {
			<-kill
			if err := cluster.Restart(t.Context(), pgtest.Crash); err != nil {
				t.Error(err)
			}
		})
		var err error
		var failed *storage.Batch
		for i := 0; err == nil; i++ {
			if i == 3 {
				close(kill)
			}
			failed = many(next, 1+i%2*2*bulk)
			if err = s.Commit(t.Context(), failed); err == nil {
				for _, o := range failed.Ops {
					kept[o.Op.ID] = true
				}
				next = failed.Ops[len(failed.Ops)-1].Op.ID + 1
			}
		}
		if errors.Is(err, storage.ErrFailed) || errors.Is(err, storage.ErrBatch) {
			t.Fatalf("commit while the server is killed: %v, which is no reason to give up", err)
		}
		killing.Wait()
		r, err := s.Recover(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		last := failed.Ops[len(failed.Ops)-1].Op.ID
		switch r.Checkpoint.Op {
		case next - 1: // it was not kept
		case last:
			for _, o := range failed.Ops {
				kept[o.Op.ID] = true
			}
		default:
			t.Fatalf("recovered at %s, want op %s or %s", r.Checkpoint, next-1, last)
		}
		if s.DurableLSN() != r.Checkpoint.LSN {
			t.Fatalf("durable LSN %s, want that of %s", s.DurableLSN(), r.Checkpoint)
		}
		next = r.NextOp
	}
	commit(t, s, put(next, true))
	kept[next] = true
	got := opIDs(t, s)
	if len(got) != len(kept) {
		t.Fatalf("%d ops, want %d", len(got), len(kept))
	}
	for _, id := range got {
		if !kept[id] {
			t.Fatalf("op %s was never acknowledged nor found", id)
		}
	}
}
