package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/millrace-sync/millrace/internal/demo"
)

// TestGuide runs the guide's three checks, as the demo does.
func TestGuide(t *testing.T) {
	s := startStack(t)
	err := s.RunAll(t.Context(), t.TempDir(), func(c demo.Check, seen string, took time.Duration, err error) {
		t.Logf("%s (%.1f s): %s", c.Name, took.Seconds(), seen)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestUsersAreApart: a second user sees none of the first one's rows, neither those
// that were there nor those that change, and cannot write them.
func TestUsersAreApart(t *testing.T) {
	s := startStack(t)
	db := connect(t, s)
	exec1(t, db, "INSERT INTO greeting (owner, message) SELECT o, o || n FROM unnest('{ann,bob}'::text[]) o, generate_series(1, 50) n")
	ann, bob := newClient(t, s, "ann"), newClient(t, s, "bob")
	converge(t, db, ann, "ann")
	converge(t, db, bob, "bob")

	// A row that changes hands leaves one client and enters the other.
	exec1(t, db, "UPDATE greeting SET owner = 'bob' WHERE owner = 'ann' AND message LIKE '%7'")
	exec1(t, db, "UPDATE greeting SET message = upper(message)")
	converge(t, db, ann, "ann")
	converge(t, db, bob, "bob")

	// A row of an id that is taken is refused, and the client learns the truth.
	var id string
	if err := db.QueryRow(t.Context(), "SELECT id::text FROM greeting WHERE owner = 'bob' LIMIT 1").Scan(&id); err != nil {
		t.Fatal(err)
	}
	if err := ann.Delete(patient(t), id); err == nil || !strings.Contains(err.Error(), "no note") {
		t.Errorf("ann deletes bob's note: %v", err)
	}
	notes, err := ann.List(patient(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range notes {
		if n.Owner != "ann" {
			t.Errorf("ann's database holds %+v", n)
		}
	}
}

// TestWritesComeBack: what two clients of one user write reaches Postgres and each
// other, over either transport.
func TestWritesComeBack(t *testing.T) {
	s := startStack(t)
	db := connect(t, s)
	here, there := newClient(t, s, "ann", "--transport", "http"), newClient(t, s, "ann", "--transport", "websocket")
	ctx := patient(t)
	for i, text := range []string{"plain", `quotes " ' and \ backslash`, "emoji 👩‍🌾 and 漢字", "tab\tand\u00a0nbsp", strings.Repeat("long ", 1000) + "."} {
		id, err := here.Add(ctx, text)
		if err != nil {
			t.Fatal(err)
		}
		err = there.Wait(ctx, "the other client has the note", func(v demo.View) bool { return v.Notes[id].Message == text })
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			if err := there.Edit(ctx, id, "edited "+text); err != nil {
				t.Fatal(err)
			}
			err = here.Wait(ctx, "the first client has the edit", func(v demo.View) bool { return v.Notes[id].Message == "edited "+text })
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	converge(t, db, here, "ann")
	converge(t, db, there, "ann")
}

// TestRefusedWriteIsUndone: the backend refuses a write for good; it is kept in the
// dead-letter table, the writes around it arrive, and the client returns to the
// server's truth.
func TestRefusedWriteIsUndone(t *testing.T) {
	s := startStack(t)
	db := connect(t, s)
	exec1(t, db, "ALTER TABLE greeting ADD CHECK (message <> 'forbidden')")
	c := newClient(t, s, "ann")
	ctx := patient(t)
	for _, text := range []string{"before", "forbidden", "after"} {
		if _, err := c.Add(ctx, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Wait(ctx, "it is told of the refusal", func(v demo.View) bool { return len(v.Rejected) == 1 }); err != nil {
		t.Fatal(err)
	}
	converge(t, db, c, "ann")
	var kept int
	if err := db.QueryRow(ctx, "SELECT count(*) FROM upload_dead_letter WHERE owner = 'ann' AND write LIKE '%forbidden%'").Scan(&kept); err != nil {
		t.Fatal(err)
	}
	if notes := table(t, db, "ann"); kept != 1 || len(notes) != 2 {
		t.Errorf("%d dead letters and %d rows, want 1 and 2", kept, len(notes))
	}
}
