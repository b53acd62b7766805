package sim

import (
	"flag"
	"maps"
	"testing"

	"github.com/millrace-sync/millrace/internal/bucket"
)

var (
	seeds = flag.Uint64("sim.seeds", 100, "seeds to run of each scenario")
	first = flag.Uint64("sim.first", 0, "first seed")
)

// own gives users their own notes.
func own(user string, rows map[string]Note) map[string]string {
	out := ownOfAll(user, rows)
	maps.DeleteFunc(out, func(id, _ string) bool { return tableOf(id) != notes })
	return out
}

// ownOfAll gives users their own notes and memos.
func ownOfAll(user string, rows map[string]Note) map[string]string {
	out := map[string]string{}
	for id, n := range rows {
		if n.Owner == user {
			out[id] = n.Body
		}
	}
	return out
}

var scenarios = []struct {
	name, config string
	want         func(string, map[string]Note) map[string]string
}{
	{"own notes", `
config: {edition: 3}
streams:
  notes:
    auto_subscribe: true
    query: SELECT id, body FROM notes WHERE owner = auth.user_id()
`, own},
	{"own notes and everybody's marked ones, by priority", `
config: {edition: 3}
streams:
  mine:
    auto_subscribe: true
    priority: 2
    query: SELECT id, body FROM notes WHERE owner = auth.user_id()
  marked:
    auto_subscribe: true
    priority: 1
    query: SELECT id, body FROM notes WHERE body = 'xxxx'
`, func(user string, rows map[string]Note) map[string]string {
		out := own(user, rows)
		for id, n := range rows {
			if n.Body == "xxxx" && tableOf(id) == notes {
				out[id] = n.Body
			}
		}
		return out
	}},
	{"own rows of two tables, in one definition and in two", `
config: {edition: 3}
streams:
  mine:
    auto_subscribe: true
    queries:
      - SELECT id, body FROM notes WHERE owner = auth.user_id()
      - SELECT id, body FROM memos WHERE owner = auth.user_id()
  memos:
    auto_subscribe: true
    query: SELECT id, body FROM memos WHERE owner = auth.user_id()
`, ownOfAll},
}

func TestClientsEndEqualToTheSource(t *testing.T) {
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			var completed, crashes, rereads, ahead int
			var compacted bucket.Compacted
			for seed := *first; seed < *first+*seeds; seed++ {
				w, err := New(Config{Seed: seed, Steps: 400, SyncConfig: sc.config, Want: sc.want})
				if err == nil {
					err = w.Run()
				}
				if err != nil {
					t.Fatalf("seed %d (go test ./internal/sim -sim.first %d -sim.seeds 1): %v", seed, seed, err)
				}
				completed, crashes, rereads, ahead = completed+w.Completed, crashes+w.Crashes, rereads+w.Rereads, ahead+w.Ahead
				compacted.Add(w.Compacted)
			}
			t.Logf("%d seeds: %d checkpoints completed by clients, %d crashes, %d chunks read again, %d merged ahead, compacted %+v",
				*seeds, completed, crashes, rereads, ahead, compacted)
			if *seeds >= 100 && (completed == 0 || crashes == 0 || rereads == 0 || ahead == 0 || compacted.Moved == 0 || compacted.Cleared == 0 || compacted.Shifted == 0) {
				t.Error("the dice never reached what is to be tested")
			}
		})
	}
}
