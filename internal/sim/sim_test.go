package sim

import (
	"flag"
	"testing"

	"github.com/millrace-sync/millrace/internal/bucket"
)

var (
	seeds = flag.Uint64("sim.seeds", 100, "seeds to run of each scenario")
	first = flag.Uint64("sim.first", 0, "first seed")
)

// only keeps the rows that ok holds for.
func only(ok func(user, id string, n Note) bool) func(string, map[string]Note) map[string]string {
	return func(user string, rows map[string]Note) map[string]string {
		out := map[string]string{}
		for id, n := range rows {
			if ok(user, id, n) {
				out[id] = n.Body
			}
		}
		return out
	}
}

var (
	isNote  = func(id string) bool { return id[0] == 'n' }
	own     = only(func(user, id string, n Note) bool { return isNote(id) && n.Owner == user })
	ownBoth = only(func(user, _ string, n Note) bool { return n.Owner == user })
	every   = only(func(_, id string, _ Note) bool { return isNote(id) })
	// ownAndMarked adds the notes of anybody with a certain body.
	ownAndMarked = only(func(user, id string, n Note) bool { return isNote(id) && (n.Owner == user || n.Body == "xxxx") })
	ownAndMemos  = only(func(user, id string, n Note) bool { return n.Owner == user || !isNote(id) })
)

const (
	head       = "config: {edition: 3}\nstreams:\n"
	ownNotes   = "  notes:\n    auto_subscribe: true\n    query: SELECT id, body FROM notes WHERE owner = auth.user_id()\n"
	mine       = "  mine:\n    auto_subscribe: true\n    priority: 2\n    query: SELECT id, body FROM notes WHERE owner = auth.user_id()\n"
	marked     = "  marked:\n    auto_subscribe: true\n    priority: 1\n    query: SELECT id, body FROM notes WHERE body = 'xxxx'\n"
	everything = "  all:\n    auto_subscribe: true\n    query: SELECT id, body FROM notes\n"
	both       = "  both:\n    auto_subscribe: true\n    queries:\n      - SELECT id, body FROM notes WHERE owner = auth.user_id()\n" +
		"      - SELECT id, body FROM memos WHERE owner = auth.user_id()\n"
	memos    = "  memos:\n    auto_subscribe: true\n    query: SELECT id, body FROM memos WHERE owner = auth.user_id()\n"
	allMemos = "  memos:\n    auto_subscribe: true\n    query: SELECT id, body FROM memos\n"
)

var scenarios = []struct {
	name     string
	variants []Variant
}{
	{"own notes, and then everybody's", []Variant{{head + ownNotes, own}, {head + everything, every}}},
	{"own notes and everybody's marked ones, by priority", []Variant{{head + mine + marked, ownAndMarked}, {head + mine, own}}},
	{"own rows of two tables, in one definition and in two", []Variant{{head + both + memos, ownBoth}, {head + both + allMemos, ownAndMemos}, {head + ownNotes, own}}},
}

// The invariants of the package, at every step of every seed.
func TestClientsEndEqualToTheSource(t *testing.T) {
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			var completed, crashes, rereads, ahead, reconciled, deploys, altered int
			var compacted bucket.Compacted
			for seed := *first; seed < *first+*seeds; seed++ {
				w, err := New(Config{Seed: seed, Steps: 700, Variants: sc.variants})
				if err == nil {
					err = w.Run()
				}
				if err != nil {
					t.Fatalf("seed %d (go test ./internal/sim -sim.first %d -sim.seeds 1): %v", seed, seed, err)
				}
				completed, crashes, rereads, ahead = completed+w.Completed, crashes+w.Crashes, rereads+w.Rereads, ahead+w.Ahead
				reconciled, deploys, altered = reconciled+w.Reconciled, deploys+w.Deploys, altered+w.Altered
				compacted.Add(w.Compacted)
			}
			t.Logf("%d seeds: %d checkpoints completed by clients, %d crashes, %d reconciliations, %d deploys, %d alterations, %d chunks read again, %d merged ahead, compacted %+v",
				*seeds, completed, crashes, reconciled, deploys, altered, rereads, ahead, compacted)
			if *seeds < 100 {
				return
			}
			for _, n := range []int64{int64(completed), int64(crashes), int64(rereads), int64(ahead), int64(reconciled), int64(deploys), int64(altered), compacted.Moved, compacted.Cleared, compacted.Shifted} {
				if n == 0 {
					t.Error("the dice never reached what is to be tested")
				}
			}
		})
	}
}
