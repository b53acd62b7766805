// Package sim drives the whole pipeline under a seed: a scripted source with
// transactions, alterations of its tables and slots that are lost, the real replication
// core, the real embedded store on a file system that crashes, the real session core,
// and model clients that drop, lag and come back, while deploys and compactions go on.
//
// Invariants that it looks after, at every step:
//   - After every completed checkpoint a client's rows are those of its queries on the
//     source as of that checkpoint.
//   - No entry of a bucket is put again with the content that it has, and no definition
//     that stands gets another id, whatever was lost.
//   - Nothing is confirmed to the source that a crash takes back.
//
// It belongs to the tests of all these packages. It has no clock, socket or
// goroutine: a failure replays from its seed.
package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/streams"
)

// Config says what to simulate.
type Config struct {
	Seed  uint64
	Steps int
	// Variants are the sync configs that are deployed in turn, the first one first.
	Variants []Variant
}

// Variant is a sync config; its streams read tables notes and memos (id, owner, body)
// only. Ids of notes begin with n, those of memos with m.
type Variant struct {
	Text string
	// Want gives the ids and bodies that a user must end up with.
	Want func(user string, rows map[string]Note) map[string]string
}

type dice = rand.Rand

// World is one simulated run.
type World struct {
	*service
	steps int
	// lag is how far the replicator likes to be behind.
	lag     int
	clients []*client
	// Completed counts the checkpoints that clients completed.
	Completed int
	Compacted bucket.Compacted
}

// New returns a World with some rows in its tables and nothing replicated.
func New(c Config) (*World, error) {
	d := rand.New(rand.NewPCG(c.Seed, 0))
	w := &World{steps: c.Steps, service: &service{
		dice: d, db: newDatabase(d), fs: vfs.NewCrashableMem(),
		views: map[storage.Checkpoint]*view{}, sent: newJournal(),
	}}
	for _, v := range c.Variants {
		compiled, diagnostics := streams.Compile(streams.Source{File: "sim.yaml", Text: v.Text})
		if compiled == nil {
			return nil, fmt.Errorf("sync config: %s", streams.Format(diagnostics))
		}
		w.plans = append(w.plans, plan{v, compiled})
	}
	w.lag = max(0, d.IntN(40)-20)
	w.views[storage.Checkpoint{}] = &view{rows: w.db.history[0]}
	w.committed, w.replaced = w.meanwhile, w.redeploy
	for _, u := range users {
		w.clients = append(w.clients, newClient(w, u))
	}
	return w, w.start()
}

// Run carries out the steps and then lets everything come to rest.
func (w *World) Run() error {
	for i := range w.steps {
		if err := w.step(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	if err := w.rest(); err != nil {
		return fmt.Errorf("at the end: %w", err)
	}
	return w.store.Close()
}

func (w *World) step() error {
	switch n := w.IntN(1000); {
	case n < 200:
		w.db.transaction()
		return nil
	case n < 380:
		return w.readChunk()
	case n < 620:
		if int(w.db.end()-min(w.at, w.db.end())) < w.IntN(w.lag+1) {
			return nil
		}
		return w.follow()
	case n < 950:
		return w.anyClient().step()
	case n < 962:
		return w.compact()
	case n < 972:
		return w.breakConnection()
	case n < 980:
		return w.crash()
	case n < 984:
		w.Altered++
		w.db.alter()
		return nil
	case n < 993:
		return w.deploy()
	case n < 998:
		return w.loseSlot()
	default:
		w.db.setBack()
		return w.reconnect()
	}
}

func (w *World) anyClient() *client { return w.clients[w.IntN(len(w.clients))] }

// compact compacts the store, all of it or until it is interrupted.
func (w *World) compact() error {
	if w.parts {
		return nil // it would wait for them to be published
	}
	left := 1 << 30
	if w.IntN(2) == 0 {
		left = w.IntN(30)
	}
	stats, err := w.store.Compact(&fuse{context.Background(), left}, storage.CompactOptions{Incremental: w.IntN(2) == 0})
	w.Compacted.Add(stats.Compacted)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// fuse is a context that is canceled once it has been asked a number of times.
type fuse struct {
	context.Context
	left int
}

func (f *fuse) Err() error {
	if f.left--; f.left < 0 {
		return context.Canceled
	}
	return nil
}

// meanwhile is what goes on between a commit and its announcement.
func (w *World) meanwhile() error {
	for w.IntN(10) == 0 {
		if err := w.anyClient().step(); err != nil {
			return err
		}
		if err := w.compact(); err != nil {
			return err
		}
	}
	return nil
}

// redeploy has every connection go on by the new deploy, or end.
func (w *World) redeploy() {
	for _, c := range w.clients {
		if w.IntN(3) == 0 {
			c.disconnect()
		}
	}
}

// deploy wants another sync config.
func (w *World) deploy() error {
	if w.current == nil {
		return nil // not before the first one is current
	}
	w.wanted = w.IntN(len(w.plans))
	return w.connect()
}

// loseSlot has changes be missed.
func (w *World) loseSlot() error {
	w.db.noSlot = true
	for range w.IntN(12) {
		w.db.transaction()
	}
	if w.IntN(4) == 0 {
		w.db.alter()
	}
	return w.reconnect()
}

// reconnect begins a new life of the connection, after a while, and perhaps of the
// process, too.
func (w *World) reconnect() error {
	for range w.IntN(4) {
		if err := w.anyClient().step(); err != nil {
			return err
		}
		w.db.transaction()
	}
	if w.IntN(3) == 0 {
		return w.crash()
	}
	return w.connect()
}

// breakConnection loses the connection to the source, perhaps in the middle of a
// transaction: the replicator starts again from the store's checkpoint.
func (w *World) breakConnection() error { return w.connect() }

func (w *World) disconnect() {
	for _, c := range w.clients {
		c.disconnect()
	}
}

// crash loses power: the file system keeps what was synced, and of the rest what
// the dice say.
func (w *World) crash() error {
	w.Crashes++
	w.disconnect()
	if !w.db.noSlot && w.db.end() > w.at && w.IntN(2) == 0 {
		// in the middle of a transaction
		tx := *w.db.log[w.at].txn
		tx.More = true
		if err := w.applier.Apply(&tx, w.commit); err != nil {
			return err
		}
	}
	after := w.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: w.IntN(101), RNG: rand.New(rand.NewPCG(w.Uint64(), 0))}) // dice of its own: files differ from run to run
	if err := w.store.Close(); err != nil {
		return err
	}
	w.fs = after
	return w.start()
}

// rest finishes everything and compares every client with the source.
func (w *World) rest() error {
	for rounds := 0; w.next != nil || w.parts || w.at < w.db.end() || len(w.reading) > 0; rounds++ {
		if rounds > 10_000 {
			return fmt.Errorf("nothing comes to rest: applied %s of %s, %d parts are read, definitions %+v", w.at, w.db.end(), len(w.reading), w.applier.Definitions())
		}
		if err := w.readChunk(); err != nil {
			return err
		}
		if w.at < w.db.end() {
			if err := w.apply(w.db.log[w.at]); err != nil {
				return err
			}
		}
		if err := w.flush(); err != nil {
			return err
		}
	}
	if err := w.flush(); err != nil {
		return err
	}
	for _, c := range w.clients {
		if err := c.settle(); err != nil {
			return err
		}
		if want := w.want(w.current, c.user, w.db.rows); !maps.Equal(c.visible, want) {
			return fmt.Errorf("client %s ends with %v, want %v", c.user, c.visible, want)
		}
	}
	return nil
}
