package checkpoint

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

func key(i int) storage.BucketKey { return storage.BucketKey{Def: 1, Params: fmt.Sprintf("[%d]", i)} }
func lookup(i int) storage.LookupKey {
	return storage.LookupKey{Def: 2, Key: fmt.Sprint(i)}
}

func at(op int, lsn source.LSN) storage.Checkpoint {
	return storage.Checkpoint{Op: bucket.OpID(op), LSN: lsn}
}

func woken(w *Watcher) bool {
	select {
	case <-w.C():
		return true
	default:
		return false
	}
}

func TestOnlyThoseConcernedAreWoken(t *testing.T) {
	h := NewHub(at(0, 0))
	a, b := h.Watch("a"), h.Watch("b")
	a.Take()
	b.Take()
	a.Set([]storage.BucketKey{key(1), key(2)}, nil)
	b.Set([]storage.BucketKey{key(3)}, []storage.LookupKey{lookup(9)})

	h.Publish(at(1, 10), Changes{Buckets: []storage.BucketKey{key(2), key(7)}})
	if !woken(a) || woken(b) {
		t.Fatal("want a woken and b left alone")
	}
	c, d := a.Take()
	if c != at(1, 10) || d.All || d.Lookups || d.Write || !slices.Equal(d.Buckets, []int{1}) {
		t.Errorf("a took %v %+v, want position 1 at 1@0/A", c, d)
	}

	h.Publish(at(2, 20), Changes{Lookups: []storage.LookupKey{lookup(9)}})
	if woken(a) || !woken(b) {
		t.Fatal("want b woken and a left alone")
	}
	if _, d := b.Take(); !d.Lookups || d.All || len(d.Buckets) > 0 {
		t.Errorf("b took %+v, want lookups", d)
	}
}

func TestSlowReaderGetsTheNewestStateOnce(t *testing.T) {
	h := NewHub(at(0, 0))
	w := h.Watch("u")
	w.Take()
	w.Set([]storage.BucketKey{key(1)}, nil)
	for i := 1; i <= 1000; i++ {
		h.Publish(at(i, source.LSN(i)), Changes{Buckets: []storage.BucketKey{key(1)}})
	}
	c, d := w.Take()
	if c.Op != 1000 || !slices.Equal(d.Buckets, []int{0}) {
		t.Errorf("took %v %+v, want the newest checkpoint and one position", c, d)
	}
	if woken(w) || w.Pending() {
		t.Error("still woken after everything was taken")
	}
}

// What is published between Take and Set must not be missed: the watcher does not
// yet watch the buckets of its new view.
func TestPublishBetweenTakeAndSet(t *testing.T) {
	many := NewFilter()
	many.AddBucket(key(1))
	many.AddLookup(lookup(7))
	for name, c := range map[string]struct {
		published []Changes
		want      Dirty
	}{
		"nothing":            {nil, Dirty{}},
		"a bucket":           {[]Changes{{Buckets: []storage.BucketKey{key(5), key(1)}}}, Dirty{Buckets: []int{1}}},
		"a bucket twice":     {[]Changes{{Buckets: []storage.BucketKey{key(1)}}, {Buckets: []storage.BucketKey{key(1)}}}, Dirty{Buckets: []int{1}}},
		"a lookup":           {[]Changes{{Lookups: []storage.LookupKey{lookup(7)}}}, Dirty{Lookups: true}},
		"what others watch":  {[]Changes{{Buckets: []storage.BucketKey{key(5)}, Lookups: []storage.LookupKey{lookup(5)}}}, Dirty{}},
		"everything":         {[]Changes{{All: true}, {Buckets: []storage.BucketKey{key(1)}}}, Dirty{All: true}},
		"many":               {[]Changes{{Many: many}}, Dirty{Buckets: []int{1}, Lookups: true}},
		"too often":          {make([]Changes, maxRecent+1), Dirty{All: true}},
		"as often as can be": {make([]Changes, maxRecent), Dirty{}},
		"too much":           {[]Changes{{Buckets: make([]storage.BucketKey, maxRecentKeys)}, {Buckets: []storage.BucketKey{key(5)}}}, Dirty{All: true}},
	} {
		h := NewHub(at(0, 0))
		// What was published before the Take does not count.
		h.Publish(at(1, 1), Changes{Buckets: []storage.BucketKey{key(0)}, Lookups: []storage.LookupKey{lookup(7)}})
		w := h.Watch("u")
		w.Take()
		for i, p := range c.published {
			if !p.any() {
				p.Buckets = []storage.BucketKey{key(5)}
			}
			h.Publish(at(2+i, 1), p)
		}
		w.Set([]storage.BucketKey{key(0), key(1)}, []storage.LookupKey{lookup(7)})
		if woken(w) != c.want.Any() {
			t.Errorf("%s: woken is %v", name, !c.want.Any())
		}
		_, d := w.Take()
		if d.All != c.want.All || !d.All && (d.Lookups != c.want.Lookups || !slices.Equal(d.Buckets, c.want.Buckets)) {
			t.Errorf("%s: took %+v, want %+v", name, d, c.want)
		}
		if len(h.recent) > maxRecent || h.keys > maxRecentKeys {
			t.Errorf("%s: %d publications of %d keys are remembered", name, len(h.recent), h.keys)
		}
	}
}

// Buckets and lookups that were too many to name wake those who watch them.
func TestManyChanges(t *testing.T) {
	const changed = 300_000
	h := NewHub(at(0, 0))
	f := NewFilter()
	for i := range changed {
		f.AddBucket(key(i))
	}
	f.AddLookup(lookup(3))
	var watchers []*Watcher
	watch := func(buckets []storage.BucketKey, lookups []storage.LookupKey) *Watcher {
		w := h.Watch("u")
		w.Take()
		w.Set(buckets, lookups)
		return w
	}
	for i := range 2000 {
		watchers = append(watchers, watch([]storage.BucketKey{key(-1 - i), key(i * 150)}, nil))
	}
	reads := watch(nil, []storage.LookupKey{lookup(2), lookup(3)})
	var others []*Watcher
	for i := range 2000 {
		others = append(others, watch([]storage.BucketKey{key(changed + i)}, []storage.LookupKey{lookup(100 + i)}))
	}
	h.Publish(at(1, 1), Changes{Many: f})
	for i, w := range watchers {
		if _, d := w.Take(); d.All || d.Lookups || !slices.Contains(d.Buckets, 1) {
			t.Fatalf("watcher %d took %+v, want its changed bucket", i, d)
		}
	}
	if _, d := reads.Take(); !d.Lookups {
		t.Errorf("took %+v, want lookups", d)
	}
	disturbed := 0
	for _, w := range others {
		if woken(w) {
			disturbed++
		}
	}
	if disturbed > 20 {
		t.Errorf("%d of %d watchers that are not concerned were woken", disturbed, len(others))
	}
}

func TestProgressWithoutChangesWakesNobodyButWriters(t *testing.T) {
	h := NewHub(at(0, 0))
	waits, other := h.Watch("waits"), h.Watch("other")
	waits.Take()
	other.Take()
	waits.Set(nil, nil)
	other.Set(nil, nil)
	h.WriteCheckpoint("waits", 50)
	h.WriteCheckpoint("nobody", 50)
	h.Publish(at(0, 49), Changes{})
	if woken(waits) {
		t.Fatal("woken before the position was reached")
	}
	h.Publish(at(0, 50), Changes{})
	if !woken(waits) || woken(other) {
		t.Fatal("want exactly the user who waits woken")
	}
	if c, d := waits.Take(); !d.Write || c.LSN != 50 {
		t.Errorf("took %v %+v, want the write checkpoint at 0/32", c, d)
	}
	// A request whose position has been reached already is seen at once.
	h.WriteCheckpoint("waits", 40)
	if !woken(waits) {
		t.Error("not woken for a position in the past")
	}
}

func TestCloseForgets(t *testing.T) {
	h := NewHub(at(0, 0))
	w := h.Watch("u")
	w.Take()
	w.Set([]storage.BucketKey{key(1)}, []storage.LookupKey{lookup(1)})
	w.Await(7)
	w.Close()
	if len(h.watchers)+len(h.buckets)+len(h.lookups)+len(h.users)+len(h.waiting) != 0 {
		t.Errorf("left behind: %d watchers, %d buckets, %d lookups, %d users, %d who wait",
			len(h.watchers), len(h.buckets), len(h.lookups), len(h.users), len(h.waiting))
	}
}

// However many write checkpoints users ask for while the source stands still, each user
// waits once, and for the first of them.
func TestWaitersAreBounded(t *testing.T) {
	const users, requests = 50, 200
	h := NewHub(at(0, 0))
	rng := rand.New(rand.NewPCG(5, 5))
	var watchers []*Watcher
	first := make([]source.LSN, users)
	for i := range users {
		watchers = append(watchers, h.Watch(fmt.Sprint(i)), h.Watch(fmt.Sprint(i))) // two sessions
		for n := range requests {
			lsn := source.LSN(1 + rng.IntN(1000))
			if n == 0 || lsn < first[i] {
				first[i] = lsn
			}
			if n%2 == 0 {
				h.WriteCheckpoint(fmt.Sprint(i), lsn)
			} else {
				watchers[2*i].Await(lsn)
			}
		}
	}
	if len(h.waiting) != users {
		t.Fatalf("%d wait, want each of %d users once", len(h.waiting), users)
	}
	for i := 0; i < users; i += 3 { // some leave
		watchers[2*i].Close()
		watchers[2*i+1].Close()
	}
	for lsn := source.LSN(1); lsn <= 1000; lsn++ {
		h.Publish(at(0, lsn), Changes{})
		for i, w := range watchers {
			if want := i/2%3 != 0 && lsn == first[i/2]; woken(w) != want {
				t.Fatalf("session %d woken at %s: %v, want %v", i, lsn, !want, want)
			}
		}
	}
	if len(h.waiting) != 0 {
		t.Errorf("%d still wait", len(h.waiting))
	}
}

// changes tells of a bucket in one of the ways there are.
func changes(rng *rand.Rand, k storage.BucketKey) Changes {
	switch rng.IntN(20) {
	case 0:
		return Changes{All: true}
	case 1:
		f := NewFilter()
		f.AddBucket(k)
		return Changes{Many: f}
	}
	return Changes{Buckets: []storage.BucketKey{k}}
}

// A watcher that always looks again when it is woken ends with every bucket's
// newest version, whatever the order of publications, takes and changes of view.
func TestNothingIsMissed(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		h := NewHub(at(0, 0))
		versions := map[storage.BucketKey]int{} // what storage holds
		w := h.Watch("u")
		var view []storage.BucketKey
		seen := map[storage.BucketKey]int{}
		op := 0
		look := func() {
			_, d := w.Take()
			// Storage may already be ahead of what was published.
			if d.All || rng.IntN(10) == 0 || view == nil {
				view = nil
				for i := range 6 {
					if rng.IntN(2) == 0 {
						view = append(view, key(i))
					}
				}
				for _, k := range view {
					seen[k] = versions[k]
				}
				if rng.IntN(3) == 0 {
					k := key(rng.IntN(6))
					op++
					versions[k]++
					h.Publish(at(op, source.LSN(op)), changes(rng, k))
				}
				w.Set(view, nil)
				return
			}
			for _, i := range d.Buckets {
				seen[view[i]] = versions[view[i]]
			}
		}
		look()
		for range 50 {
			if rng.IntN(2) == 0 {
				k := key(rng.IntN(6))
				op++
				versions[k]++
				h.Publish(at(op, source.LSN(op)), changes(rng, k))
			} else if woken(w) {
				look()
			}
		}
		for woken(w) {
			look()
		}
		for _, k := range view {
			if seen[k] != versions[k] {
				t.Fatalf("seed %d: bucket %s seen at version %d of %d", seed, k.Params, seen[k], versions[k])
			}
		}
	}
}

// Whoever waits for a position that is worth nothing any more is woken, and looks for
// another.
func TestPositionsThatGoBack(t *testing.T) {
	h := NewHub(storage.Checkpoint{Op: 5, LSN: 100})
	w := h.Watch("u")
	defer w.Close()
	h.WriteCheckpoint("u", 900)
	h.Publish(storage.Checkpoint{Op: 5}, Changes{})
	if at, dirty := w.Take(); at != (storage.Checkpoint{Op: 5}) || !dirty.Write {
		t.Fatalf("took %v, %+v", at, dirty)
	}
	w.Await(40)
	h.Publish(storage.Checkpoint{Op: 5, LSN: 39}, Changes{})
	if w.Pending() {
		t.Fatal("woken before the position is reached")
	}
	h.Publish(storage.Checkpoint{Op: 6, LSN: 41}, Changes{})
	if _, dirty := w.Take(); !dirty.Write {
		t.Fatal("not woken once the position is reached")
	}
}

// A filter's bytes hold the same, however much is in it, and few take little room.
func TestFilterBytes(t *testing.T) {
	for _, n := range []int{0, 1, 20_000, 100_000, 700_000} {
		f := NewFilter()
		for i := range n {
			f.AddBucket(key(i))
		}
		b := f.Append([]byte("before"))[len("before"):]
		got, err := DecodeFilter(b)
		if err != nil || *got != *f {
			t.Fatalf("%d keys do not survive: %v", n, err)
		}
		if len(b) > 16*n+5 || len(b) > filterBits/8+1 {
			t.Errorf("%d keys take %d bytes", n, len(b))
		}
		joined := NewFilter()
		joined.AddLookup(lookup(1))
		joined.Join(got)
		if n > 0 && !joined.MayHaveBucket(key(n-1)) || !joined.MayHaveLookup(lookup(1)) {
			t.Errorf("of %d keys and another some are lost when they are joined", n)
		}
	}
	for _, b := range []string{"", "\x02", "\x00", "\x01\xff", "\x01\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "\x01", "\x01\x01", "\x01\x01\x00\x00", "\x01\x02\xff\xff\xff\x07\x00"} {
		if _, err := DecodeFilter([]byte(b)); !errors.Is(err, storage.ErrCorrupt) {
			t.Errorf("%q: %v, want ErrCorrupt", b, err)
		}
	}
}
