package storagetest

import (
	"math/rand/v2"
	"slices"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// history is a random sequence of all that can happen to a store, with the models
// of its newest state, of what is published and of what a crash must leave. The
// last two differ in nothing but the LSN.
type history struct {
	*tester
	gen                       *generator
	newest, published, synced *model
	syncedNext                bucket.OpID // what NextOp must not fall below
	held                      []heldSnapshot
	uploads                   map[string]storage.WriteCheckpoint
}

type heldSnapshot struct {
	sn Snapshot
	m  *model
}

func randomHistory(t *tester, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	h := &history{
		tester: t, gen: &generator{rng: rng},
		newest: newModel(), published: newModel(), synced: newModel(),
		uploads: map[string]storage.WriteCheckpoint{},
	}
	for range 60 {
		h.step()
		if h.store.DurableLSN() == h.published.checkpoint.LSN {
			h.synced = h.published
		}
		h.check()
	}
	for _, s := range h.held {
		s.sn.Close()
	}
}

func (h *history) step() {
	rng := h.gen.rng
	switch n := rng.IntN(20); {
	case n < 9:
		h.write(true)
	case n < 13:
		h.write(false)
	case n < 14:
		h.newest = h.newest.discard(h.published)
		h.recovered()
	case n < 15:
		h.reopen()
		h.held = nil
		h.newest = h.newest.discard(h.published)
		h.recovered()
		h.durable()
	case n < 16:
		h.crash(rng)
		h.held = nil
		h.afterCrash()
		h.durable()
	case n < 18:
		h.requestUploads()
	default:
		if len(h.held) < 4 {
			h.held = append(h.held, heldSnapshot{h.snapshot(), h.published})
			return
		}
		i := rng.IntN(len(h.held))
		h.held[i].sn.Close()
		h.held = slices.Delete(h.held, i, i+1)
	}
}

func (h *history) write(publish bool) {
	b := h.gen.batch(h.newest, publish)
	h.commit(b)
	h.newest.apply(b)
	if publish {
		h.published = h.newest.clone()
	}
	if b.NoSync && (!publish || lsnOnly(b)) {
		return
	}
	if got := h.store.DurableLSN(); got != h.published.checkpoint.LSN {
		h.Fatalf("durable LSN %s after a synced commit at %s", got, h.published.checkpoint)
	}
	h.syncedNext = h.newest.nextOp
}

// lsnOnly reports whether NoSync is heeded for a batch with Publish, unless it
// ends a transaction that has other parts.
func lsnOnly(b *storage.Batch) bool {
	return len(b.Ops)+len(b.Rows)+len(b.Lookups)+len(b.Definitions)+len(b.Drop) == 0 && b.Deploy == nil
}

func (h *history) afterCrash() {
	h.Helper()
	r := h.recover()
	if lsn := r.Checkpoint.LSN; lsn < h.synced.checkpoint.LSN || lsn > h.published.checkpoint.LSN {
		h.Fatalf("checkpoint %s after a crash, want from %s to %s", r.Checkpoint, h.synced.checkpoint, h.published.checkpoint)
	}
	if r.NextOp <= h.synced.checkpoint.Op || r.NextOp < h.syncedNext || r.NextOp > h.newest.nextOp {
		h.Fatalf("next op %s after a crash, want from %s to %s", r.NextOp, h.syncedNext, h.newest.nextOp)
	}
	left := h.synced.clone()
	left.checkpoint.LSN = r.Checkpoint.LSN
	left.nextOp, left.nextDef = r.NextOp, r.NextDefinition
	h.newest, h.published = left, left.clone()
	h.recovered()
}

func (h *history) recovered() {
	h.Helper()
	r := h.recover()
	h.newest.checkRecovered(h, r)
	if r.NextOp != h.newest.nextOp || r.NextDefinition != h.newest.nextDef {
		h.Fatalf("numbering goes on at %s and %d, want %s and %d", r.NextOp, r.NextDefinition, h.newest.nextOp, h.newest.nextDef)
	}
}

// durable expects all that a store just opened holds to be durable.
func (h *history) durable() {
	h.Helper()
	if got := h.store.DurableLSN(); got != h.published.checkpoint.LSN {
		h.Fatalf("durable LSN %s after opening at %s", got, h.published.checkpoint)
	}
}

func (h *history) requestUploads() {
	rng := h.gen.rng
	var reqs []storage.WriteCheckpointRequest
	var want []uint64
	for range 1 + rng.IntN(3) {
		r := storage.WriteCheckpointRequest{User: pick(rng, []string{"", "u", "u/c"}), LSN: source.LSN(rng.IntN(1000))}
		if rng.IntN(2) == 0 {
			r.AtLeast = uint64(rng.IntN(50))
		}
		wc := h.uploads[r.User]
		if r.AtLeast > 0 {
			wc.ID = max(wc.ID, r.AtLeast)
		} else {
			wc.ID++
		}
		wc.LSN = max(wc.LSN, r.LSN)
		h.uploads[r.User] = wc
		reqs, want = append(reqs, r), append(want, wc.ID)
	}
	got, err := h.store.RequestWriteCheckpoints(h.Context(), reqs)
	if err != nil || !slices.Equal(got, want) {
		h.Fatalf("write checkpoints %v, %v; want %v", got, err, want)
	}
}

// check compares everything that can be read with the models.
func (h *history) check() {
	h.Helper()
	buckets, lookups := allBuckets(h.newest.nextDef), allLookups(h.newest.nextDef)
	sn := h.snapshot()
	h.published.checkSnapshot(h, sn, buckets, lookups)
	sn.Close()
	if len(h.held) > 0 {
		old := pick(h.gen.rng, h.held)
		old.m.checkSnapshot(h, old.sn, buckets, lookups)
	}
	h.newest.checkRows(h, h.store, someTables, allRows())
	for user, want := range h.uploads {
		if got, ok, err := h.store.WriteCheckpoint(user); err != nil || !ok || got != want {
			h.Fatalf("write checkpoint of %q is %v, %v, %v; want %v", user, got, ok, err, want)
		}
	}
	if h.store.DurableLSN() > h.published.checkpoint.LSN {
		h.Fatalf("durable LSN %s is beyond the checkpoint %s", h.store.DurableLSN(), h.published.checkpoint)
	}
}
