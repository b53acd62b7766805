package storagetest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace-sync/millrace/internal/storage"
)

// script is a list of batches to commit, with the states that they lead to.
type script struct {
	batches []*storage.Batch
	states  []*model // after so many batches
}

func newScript(rng *rand.Rand) *script {
	gen, m := &generator{rng: rng}, newModel()
	s := &script{states: []*model{m.clone()}}
	for i := range 40 {
		b := gen.batch(m, i%3 != 1)
		m.apply(b)
		s.batches, s.states = append(s.batches, b), append(s.states, m.clone())
	}
	return s
}

// check expects of a store that was opened after a crash one of the published
// states, no older than the last durable one. So many batches were acknowledged.
func (s *script) check(t *tester, acknowledged int) {
	t.Helper()
	r := t.recover()
	at := -1
	for i, m := range s.states {
		if (i == 0 || s.batches[i-1].Publish) && m.checkpoint == r.Checkpoint {
			at = i
		}
	}
	if durable := durableAfter(s.batches[:acknowledged]); at < durable {
		t.Fatalf("crash after %d batches left the state after %d (-1: none), at %s; %d were durable", acknowledged, at, r.Checkpoint, durable)
	}
	want, last := s.states[at], s.states[len(s.states)-1]
	want.checkRecovered(t, r)
	sn := t.snapshot()
	defer sn.Close()
	want.checkSnapshot(t, sn, allBuckets(last.nextDef), allLookups(last.nextDef))
	want.checkRows(t, t.store, someTables, allRows())
}

// durableAfter returns how many batches a crash must leave.
func durableAfter(batches []*storage.Batch) int {
	published, durable, parts := 0, 0, false
	for i, b := range batches {
		if b.Publish {
			published = i + 1
		}
		if !b.NoSync || (b.Publish && (parts || !lsnOnly(b))) {
			durable = published
		}
		parts = !b.Publish && (parts || !lsnOnly(b))
	}
	return durable
}

// crashInCommit loses power at some moment while another goroutine commits.
func crashInCommit(t *tester, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 2))
	s := newScript(rng)
	crashAt := rng.IntN(len(s.batches)) // batches that are acknowledged before the crash
	var reached, crashed, done = make(chan struct{}), make(chan struct{}), make(chan struct{})
	store := t.store
	go func() {
		defer close(done)
		for i, b := range s.batches {
			if i == crashAt {
				close(reached)
			}
			// After the crash the store writes to a medium that no one looks at.
			if err := store.Commit(t.Context(), b); err != nil {
				t.Errorf("commit batch %d: %v", i, err)
				if i < crashAt {
					close(reached)
				}
				return
			}
			select {
			case <-crashed:
				return
			default:
			}
		}
	}()
	<-reached
	t.harness.Crash(rng)
	close(crashed)
	<-done
	t.store = nil
	t.open()
	s.check(t, crashAt)
}

// Kill is a store of another process, which is killed: the counterpart of Harness for
// an end of the process alone.
type Kill struct {
	// Open opens the store at a place, such as a directory or a URI. In the process
	// that is killed no test is running.
	Open func(ctx context.Context, place string) (Store, error)
	// Fresh returns a place where no store is.
	Fresh func(t *testing.T) (place string)
}

// killEnv tells a process that it is to be killed: the seed and the place.
const killEnv = "STORAGETEST_KILL"

// Child commits batches if this process was started by Kill.Run, and then ends it.
// TestMain calls it first.
func (k Kill) Child() {
	text, ok := os.LookupEnv(killEnv)
	if !ok {
		return
	}
	seed, place, _ := strings.Cut(text, " ")
	err := k.child(seed, place)
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func (k Kill) child(text, place string) error {
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return err
	}
	s, err := k.Open(context.Background(), place)
	if err != nil {
		return err
	}
	for i, b := range newScript(rand.New(rand.NewPCG(seed, 3))).batches {
		if err := s.Commit(context.Background(), b); err != nil {
			return fmt.Errorf("commit batch %d: %w", i, err)
		}
		fmt.Println(i + 1)
	}
	select {} // to be killed
}

// Run kills processes at random moments while they commit, so many times, and looks at
// what they leave.
func (k Kill) Run(t *testing.T, kills uint64) {
	base := seed(t)
	for i := range kills {
		t.Run(strconv.FormatUint(base+i, 10), func(t *testing.T) { k.run(t, base+i) })
	}
}

func (k Kill) run(t *testing.T, seed uint64) {
	place := k.Fresh(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s", killEnv, seed, place))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := newScript(rand.New(rand.NewPCG(seed, 3)))
	killAt, acknowledged := rand.New(rand.NewPCG(seed, 4)).IntN(len(s.batches)+1), 0
	for lines := bufio.NewScanner(out); acknowledged < killAt && lines.Scan(); {
		if acknowledged, err = strconv.Atoi(lines.Text()); err != nil {
			t.Error(err)
			break
		}
	}
	cmd.Process.Kill() // fails if it has ended, which Wait tells
	var ended *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &ended) || ended.ExitCode() >= 0 {
		t.Fatalf("the process ended by itself after %d batches: %v", acknowledged, err)
	}
	store, err := k.Open(t.Context(), place)
	if err != nil {
		t.Fatalf("open after the kill: %v", err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}()
	s.check(&tester{T: t, store: store}, acknowledged)
}
