package pgstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// watching runs Watch and returns what it finds.
func watching(t *testing.T, s *Store) <-chan Change {
	t.Helper()
	changes := make(chan Change)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		err := s.Watch(ctx, func(c Change) {
			c.Show()
			select {
			case changes <- c:
			case <-ctx.Done():
			}
		})
		if err != nil {
			t.Errorf("watch: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return changes
}

func diffChange(want, got Change) string {
	return cmp.Diff(want, got, cmpopts.IgnoreUnexported(Change{}), cmpopts.EquateEmpty())
}

func readerOf(t *testing.T, opts Options) *Store {
	t.Helper()
	opts.Reader = true
	return open(t, opts)
}

// A process that only reads learns what is published, and nothing of parts, and
// both sides hear of write checkpoints.
func TestWatch(t *testing.T) {
	opts := at(t, shared.Cluster(t), freshSchema())
	opts.Poll = 20 * time.Millisecond
	writer := open(t, opts)
	commit(t, writer, put(1, true))
	reader := readerOf(t, opts)
	if got := reader.Recovered(); got.Checkpoint.Op != 1 || len(got.Definitions) != 1 || got.Epoch != writer.Recovered().Epoch {
		t.Fatalf("reader opened with %+v", got)
	}
	changes := watching(t, reader)

	commit(t, writer, put(2, false))
	lookup := storage.LookupKey{Def: 1, Key: "k"}
	last := put(3, true)
	last.Lookups = []storage.LookupWrite{{Lookup: lookup, Values: []byte("v")}}
	commit(t, writer, last)
	want := Change{Checkpoint: storage.Checkpoint{Op: 3, LSN: 30}, Buckets: []storage.BucketKey{bucketA}, Lookups: []storage.LookupKey{lookup}}
	if d := diffChange(want, <-changes); d != "" {
		t.Fatalf("change (-want +got):\n%s", d)
	}
	if got := fmt.Sprint(opIDs(t, reader)); got != "[1 2 3]" {
		t.Fatalf("the reader's ops are %s", got)
	}

	commit(t, writer, &storage.Batch{Publish: true, LSN: 40, NoSync: true})
	if d := diffChange(Change{Checkpoint: storage.Checkpoint{Op: 3, LSN: 40}}, <-changes); d != "" {
		t.Fatalf("change of the LSN alone (-want +got):\n%s", d)
	}

	if _, err := reader.RequestWriteCheckpoints(t.Context(), []storage.WriteCheckpointRequest{{User: "u", LSN: 45}}); err != nil {
		t.Fatal(err)
	}
	want = Change{Checkpoint: storage.Checkpoint{Op: 3, LSN: 40}, Uploads: []Upload{{User: "u", WriteCheckpoint: storage.WriteCheckpoint{ID: 1, LSN: 45}}}}
	if d := diffChange(want, <-changes); d != "" {
		t.Fatalf("change of a write checkpoint (-want +got):\n%s", d)
	}

	commit(t, writer, &storage.Batch{Publish: true, LSN: 50, Drop: []storage.DefinitionID{1}})
	dropped := <-changes
	if dropped.Plan == nil || len(dropped.Plan.Definitions) != 0 || dropped.Plan.Epoch != writer.Recovered().Epoch {
		t.Fatalf("the plan after a drop is %+v, want one without definitions", dropped.Plan)
	}
	dropped.Plan = nil
	if d := diffChange(Change{Checkpoint: storage.Checkpoint{Op: 3, LSN: 50}}, dropped); d != "" {
		t.Fatalf("change by a drop (-want +got):\n%s", d)
	}
	if r, err := reader.Refresh(t.Context()); err != nil || len(r.Definitions) != 0 {
		t.Fatalf("refreshed definitions %v, %v; want none", r.Definitions, err)
	}
}

// Run tells other processes at once: none of them has to wait until it looks.
func TestWatchIsNotified(t *testing.T) {
	opts := at(t, shared.Cluster(t), freshSchema())
	opts.Poll = time.Hour
	writer := open(t, opts)
	commit(t, writer, put(1, true))
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := writer.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	defer running.Wait()
	defer cancel()
	changes := watching(t, readerOf(t, opts))
	for id := bucket.OpID(2); id < 6; id++ {
		commit(t, writer, put(id, true))
		for c := range changes {
			if c.Checkpoint.Op == id {
				break
			}
		}
	}
}

// More than can be named is told by a filter, also of several versions at once.
func TestWatchMany(t *testing.T) {
	opts := at(t, shared.Cluster(t), freshSchema())
	writer := open(t, opts)
	commit(t, writer, put(1, true))
	reader := readerOf(t, opts)
	const n = maxChanged + 1
	named := func(i int) storage.BucketKey { return storage.BucketKey{Def: 1, Params: fmt.Sprintf("[%d]", i)} }
	for part := range 2 {
		b := &storage.Batch{LSN: 20, Publish: true}
		for i := range n {
			id := bucket.OpID(2 + part*n + i)
			b.Ops = append(b.Ops, storage.BucketOp{Bucket: named(part*n + i), Op: bucket.Op{ID: id, Kind: bucket.Remove, ObjectType: "t", ObjectID: "1"}})
		}
		commit(t, writer, b)
	}
	few := put(2+2*n, true)
	few.LSN = 30
	commit(t, writer, few)
	c := <-watching(t, reader)
	if c.All || c.Many == nil || c.Plan != nil || len(c.Buckets) > maxChanged || c.Checkpoint.Op != 2+2*n {
		t.Fatalf("all %v, filter %v, %d named, checkpoint %v", c.All, c.Many != nil, len(c.Buckets), c.Checkpoint)
	}
	told := map[storage.BucketKey]bool{}
	for _, k := range c.Buckets {
		told[k] = true
	}
	others := 0
	for i := range 2 * n {
		if k := named(i); !told[k] && !c.Many.MayHaveBucket(k) {
			t.Fatalf("bucket %v is not told of", k)
		}
		if c.Many.MayHaveBucket(named(-1 - i)) {
			others++
		}
	}
	if !told[bucketA] && !c.Many.MayHaveBucket(bucketA) || others > n/100 {
		t.Errorf("the last is told of: %v; %d others are", told[bucketA], others)
	}
}

// A watcher that was away for long is told that everything may have changed.
func TestWatchAfterPruning(t *testing.T) {
	opts := at(t, shared.Cluster(t), freshSchema())
	opts.Retain = time.Nanosecond
	writer := open(t, opts)
	commit(t, writer, put(1, true))
	reader := readerOf(t, opts)
	for id := bucket.OpID(2); id < 5; id++ {
		commit(t, writer, put(id, true))
	}
	if err := writer.prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := <-watching(t, reader)
	if !c.All || c.Plan == nil || c.Checkpoint.Op != 4 {
		t.Fatalf("change %+v, want all at op 4", c)
	}
}

func TestReaderWritesNothing(t *testing.T) {
	opts := at(t, shared.Cluster(t), freshSchema())
	s := readerOf(t, opts) // which may come before the writer
	_, recoverErr := s.Recover(t.Context())
	_, _, rowErr := s.Row(storage.RowRef{})
	for name, err := range map[string]error{
		"commit":  s.Commit(t.Context(), put(1, true)),
		"recover": recoverErr,
		"row":     rowErr,
		"rows":    s.RowsOf(1, func(source.RowKey, *storage.RowRecord) error { return nil }),
		"run":     s.Run(t.Context()),
		"reset":   s.ResetWriteCheckpoints(t.Context(), 0),
	} {
		if !errors.Is(err, storage.ErrLocked) {
			t.Errorf("%s by a reader: %v, want ErrLocked", name, err)
		}
	}
}

// What is superseded goes, but for what a snapshot of this process shows; a
// snapshot of another process that is too old says so.
func TestPrune(t *testing.T) {
	opts := at(t, shared.Cluster(t), freshSchema())
	opts.Retain = time.Nanosecond
	writer := open(t, opts)
	lookup := storage.LookupKey{Def: 2, Key: "k"}
	set := func(id bucket.OpID, value string) {
		t.Helper()
		b := put(id, true)
		if id == 1 {
			b.Definitions = append(b.Definitions, storage.Definition{ID: 2, Hash: "l", State: storage.Serving})
		}
		b.Lookups = []storage.LookupWrite{{Lookup: lookup, Values: []byte(value)}}
		b.Deploy = &storage.Deploy{ID: uint64(id), State: storage.DeployServing}
		commit(t, writer, b)
	}
	set(1, "one")
	reader := readerOf(t, opts)
	held, err := writer.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	set(2, "two")
	commit(t, writer, put(3, false))
	commit(t, writer, put(4, true))
	commit(t, writer, &storage.Batch{Publish: true, LSN: 100, Drop: []storage.DefinitionID{1, 2}})
	read := func(sn *Snapshot) (string, error) {
		var out []string
		err := sn.Lookup(lookup, func(v []byte) error { out = append(out, string(v)); return nil })
		if err == nil {
			err = sn.Ops(bucketA, 0, func(op *bucket.Op) bool { out = append(out, op.ID.String()); return true })
		}
		var states [1]bucket.State
		if err == nil {
			err = sn.BucketStates([]storage.BucketKey{bucketA}, states[:])
		}
		return fmt.Sprint(strings.Join(out, " "), ", ", states[0].Count), err
	}
	for range 2 {
		if err := writer.prune(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, err := read(held); got != "one 1, 1" || err != nil {
			t.Fatalf("the held snapshot shows %q, %v", got, err)
		}
	}
	if n := count(t, writer, "publication"); n != 4 {
		t.Fatalf("%d publications while the first is held, want 4", n)
	}
	held.Close()
	if err := writer.prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	old, err := reader.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if _, err := read(old); !errors.Is(err, storage.ErrExpired) {
		t.Fatalf("read from what is pruned: %v, want storage.ErrExpired", err)
	}
	if err := old.Ops(bucketA, 0, func(*bucket.Op) bool { return true }); !errors.Is(err, storage.ErrExpired) {
		t.Fatalf("ops of what is purged: %v, want storage.ErrExpired", err)
	}
	for table, want := range map[string]int{"op": 0, "bucket": 0, "lookup": 0, "definition": 0, "deploy": 1, "publication": 1, "bucket_undo": 0, "row_undo": 0} {
		if got := count(t, writer, table); got != want {
			t.Errorf("%d rows left in %s, want %d", got, table, want)
		}
	}
}

func count(t *testing.T, s *Store, table string) int {
	t.Helper()
	var n int
	if err := s.writes.QueryRow(t.Context(), s.text.in("SELECT count(*) FROM millrace."+table)).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// A process that may not write has the one that does compact.
func TestRequestCompaction(t *testing.T) {
	opts := at(t, shared.Cluster(t), freshSchema())
	writer := open(t, opts)
	reader := readerOf(t, opts)
	for id := bucket.OpID(1); id <= 20; id++ {
		commit(t, writer, put(id, true))
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := writer.AnswerRequests(ctx, nil); err != nil {
			t.Errorf("answer: %v", err)
		}
	})
	defer running.Wait()
	defer cancel()
	want, err := reader.RequestCompaction(t.Context(), storage.CompactOptions{Buckets: []storage.BucketKey{bucketA}})
	if err != nil || want.Buckets != 1 || want.Cleared == 0 {
		t.Fatalf("it did %+v, %v", want, err)
	}
	if n := count(t, writer, "request"); n != 0 {
		t.Errorf("%d requests are left", n)
	}
	cancel()
	running.Wait()
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := reader.RequestCompaction(t.Context(), storage.CompactOptions{}); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("a request that nobody answers: %v, want ErrUnavailable", err)
	}
}

// What processes ask is answered by the one that writes, also if it comes later, and a
// failure of it reaches who asked. Compactions do not hold it up.
func TestAsk(t *testing.T) {
	opts := at(t, shared.Cluster(t), freshSchema())
	reader := readerOf(t, opts)
	soon, cancel := context.WithTimeout(t.Context(), 2*answerPoll)
	defer cancel()
	if _, err := reader.Ask(soon, "greet", nil, true); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("a question that nobody answers: %v, want ErrUnavailable", err)
	}
	if _, err := reader.Ask(t.Context(), "greet", nil, false); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("a question that nobody answers now: %v, want ErrUnavailable", err)
	}
	type answer struct {
		text string
		err  error
	}
	answers := make(chan answer)
	ask := func(body string) {
		value, err := reader.Ask(t.Context(), "greet", []byte(body), true)
		answers <- answer{string(value), err}
	}
	go ask("ann")
	writer := open(t, opts)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		_ = writer.AnswerRequests(ctx, func(_ context.Context, kind string, body []byte) ([]byte, error) {
			if len(body) == 0 {
				return nil, errors.New("nobody to greet")
			}
			return []byte(kind + " " + string(body)), nil
		})
	})
	defer running.Wait()
	defer stop()
	if a := <-answers; a.err != nil || a.text != "greet ann" {
		t.Errorf("answer %q, %v", a.text, a.err)
	}
	go ask("")
	if a := <-answers; a.err == nil || !strings.Contains(a.err.Error(), "nobody to greet") {
		t.Errorf("answer %q, %v, want the failure", a.text, a.err)
	}
	if n := count(t, writer, "request"); n != 0 {
		t.Errorf("%d requests are left", n)
	}
}

func TestSizes(t *testing.T) {
	opts := at(t, shared.Cluster(t), freshSchema())
	writer := open(t, opts)
	before, err := writer.Sizes()
	if err != nil || before.Operations == 0 || before.Lookups == 0 || before.Rows == 0 || before.Total <= before.Operations+before.Lookups+before.Rows {
		t.Fatalf("an empty store takes %+v, %v", before, err)
	}
	b := put(1, true)
	b.Ops[0].Op.Data = bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for i := range b.Ops[0].Op.Data {
		b.Ops[0].Op.Data[i] ^= byte(i >> 8 * i) // not to be compressed to nothing
	}
	commit(t, writer, b)
	after, err := readerOf(t, opts).Sizes()
	if err != nil || after.Operations <= before.Operations || after.Operations-before.Operations < 1<<19 || after.Total-before.Total < after.Operations-before.Operations {
		t.Errorf("with an op it takes %+v, before %+v; %v", after, before, err)
	}
}
