package deploy

import (
	"fmt"
	"slices"
	"testing"

	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/streams"
)

func compile(t *testing.T, config string) *streams.Plan {
	t.Helper()
	plan, diagnostics := streams.Compile(streams.Source{File: "test.yaml", Text: "config: {edition: 3}\nstreams:\n" + config})
	if plan == nil {
		t.Fatal(streams.Format(diagnostics))
	}
	return plan
}

const (
	notes = "  notes: {query: SELECT * FROM notes WHERE owner = auth.user_id()}\n"
	tags  = "  tags: {query: SELECT * FROM tags}\n"
)

// serving returns a plan's definitions as a store holds them after their backfill.
func serving(t *testing.T, config string) []storage.Definition {
	defs := Compare(nil, nil, compile(t, config), 1).Definitions
	for i := range defs {
		defs[i].State = storage.Serving
	}
	return defs
}

func TestCompareKeepsWhatStands(t *testing.T) {
	stored := serving(t, notes)
	for name, c := range map[string]struct {
		config    string
		new, drop int
	}{
		"the same":       {notes, 0, 0},
		"stream added":   {tags + notes, 1, 0},
		"stream renamed": {"  other: {query: SELECT * FROM notes WHERE owner = auth.user_id()}\n", 0, 0},
		"query changed":  {"  notes: {query: SELECT id FROM notes WHERE owner = auth.user_id()}\n", 1, 1},
		"replaced":       {tags, 1, 1},
	} {
		diff := Compare(stored, []storage.DefinitionID{1}, compile(t, c.config), 2)
		if len(diff.New) != c.new || len(diff.Drop) != c.drop {
			t.Errorf("%s: %d new, %d to drop; want %d and %d", name, len(diff.New), len(diff.Drop), c.new, c.drop)
		}
		for _, i := range diff.New {
			if diff.Definitions[i].ID < 2 {
				t.Errorf("%s: new definition has id %d, given out before", name, diff.Definitions[i].ID)
			}
		}
	}
}

func TestStaleDefinitionsStand(t *testing.T) {
	stored := serving(t, notes)
	stored[0].State = storage.Stale
	diff := Compare(stored, []storage.DefinitionID{1}, compile(t, notes), 2)
	if len(diff.New) != 0 || len(diff.Drop) != 0 || diff.Definitions[0].ID != 1 {
		t.Errorf("new %v, drop %v, definitions %+v; want the stale one as it is", diff.New, diff.Drop, diff.Definitions)
	}
}

func TestTheNewerDefinitionReplacesTheOlder(t *testing.T) {
	stored := append(serving(t, notes), serving(t, notes)...)
	stored[1].ID, stored[1].State = 2, storage.Backfilling
	diff := Compare(stored, []storage.DefinitionID{1}, compile(t, notes), 3)
	if len(diff.New) != 1 || diff.Definitions[0].ID != 2 || len(diff.Drop) != 1 || diff.Drop[0] != 1 {
		t.Errorf("new %v, drop %v, definitions %+v; want 1 replaced by 2, which goes on", diff.New, diff.Drop, diff.Definitions)
	}
}

func TestInterruptedBackfillGoesOn(t *testing.T) {
	stored := serving(t, notes)
	stored[0].State = storage.Backfilling
	stored[0].Tables = []storage.TableProgress{{Table: 5, After: []string{"k"}, Rows: 7}}
	diff := Compare(stored, []storage.DefinitionID{1}, compile(t, notes), 2)
	if len(diff.New) != 1 || diff.Definitions[0].ID != 1 || diff.Definitions[0].Tables[0].Rows != 7 {
		t.Errorf("new %v, definitions %+v; want the stored one with its progress", diff.New, diff.Definitions)
	}
}

func TestBucketNamesAreStable(t *testing.T) {
	plan := compile(t, notes)
	before := New(plan, serving(t, notes), "k3fq").BucketName(0, `["ann"]`)
	if before != `k3fq.1#notes|0["ann"]` {
		t.Errorf("bucket name %s", before)
	}
	renamed := compile(t, "  other: {query: SELECT * FROM notes WHERE owner = auth.user_id()}\n")
	diff := Compare(serving(t, notes), []storage.DefinitionID{1}, renamed, 2)
	if after := New(renamed, diff.Definitions, "k3fq").BucketName(0, `["ann"]`); after != before {
		t.Errorf("renaming the stream renamed its bucket from %s to %s", before, after)
	}
	if other := New(plan, serving(t, notes), "zzzz").BucketName(0, `["ann"]`); other == before {
		t.Error("two stores give a bucket the same name")
	}
}

func TestCompared(t *testing.T) {
	compile := func(text string) *streams.Plan { return compile(t, text) }
	const (
		notes  = "  notes: {query: SELECT * FROM notes WHERE owner = auth.user_id()}\n"
		shared = "  shared: {query: 'SELECT n.* FROM notes n JOIN members m ON m.list = n.list WHERE m.person = auth.user_id()'}\n"
		teams  = "  shared: {query: 'SELECT n.* FROM notes n JOIN teams m ON m.list = n.list WHERE m.person = auth.user_id()'}\n"
		tags   = "  tags: {query: SELECT * FROM tags}\n"
	)
	for _, c := range []struct {
		name          string
		current, next *streams.Plan
		want          string
	}{
		{"first", nil, compile(notes), "keep 0 new 1 drop 0 reads [public.notes] [{notes added}]"},
		{"same", compile(notes + tags), compile(tags + notes), "keep 2 new 0 drop 0 reads [] [{tags unchanged} {notes unchanged}]"},
		{"added", compile(notes), compile(notes + tags), "keep 1 new 1 drop 0 reads [public.tags] [{notes unchanged} {tags added}]"},
		{"removed", compile(notes + tags), compile(notes), "keep 1 new 0 drop 1 reads [] [{notes unchanged} {tags removed}]"},
		{"changed", compile(notes + tags), compile("  notes: {query: SELECT id FROM notes}\n" + tags),
			"keep 1 new 1 drop 1 reads [public.notes] [{notes resent} {tags unchanged}]"},
		{"renamed", compile(notes), compile("  mine: {query: SELECT * FROM notes WHERE owner = auth.user_id()}\n"),
			"keep 1 new 0 drop 0 reads [] [{mine added} {notes removed}]"},
		{"another way to the same buckets", compile(shared), compile(teams), "keep 1 new 1 drop 1 reads [public.teams] [{shared unchanged}]"},
	} {
		got := Compared(c.current, c.next)
		if text := fmt.Sprintf("keep %d new %d drop %d reads %v %v", got.Keep, len(got.New), len(got.Drop), got.Reads, got.Streams); text != c.want {
			t.Errorf("%s: got  %s\nwant %s", c.name, text, c.want)
		}
	}
}

// What a deploy that is not wanted any more has begun must not be gone on with later:
// changes have left it out.
func TestIncompleteDefinitionsAreAbandoned(t *testing.T) {
	stored := append(serving(t, notes), serving(t, tags)...)
	stored[1].ID, stored[1].State = 2, storage.Backfilling
	for config, want := range map[string]int{notes: 1, notes + tags: 0, tags: 0} {
		if diff := Compare(stored, []storage.DefinitionID{1}, compile(t, config), 3); len(diff.Abandoned) != want || slices.Contains(diff.Drop, 2) {
			t.Errorf("%q: abandoned %v, drop %v; want %d abandoned", config, diff.Abandoned, diff.Drop, want)
		}
	}
}
