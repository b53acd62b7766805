//go:build unix

package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/millrace-sync/millrace/internal/pgtest"
	"github.com/millrace-sync/millrace/protocol"
)

// TestCheck: states of the database pass, and none does that lacks a row, has one too
// many or an old one, or shows a group to the wrong user.
func TestCheck(t *testing.T) {
	ctx := t.Context()
	rng := rand.New(rand.NewPCG(1, 2))
	l := &Load{DSN: pgtest.Start(t).NewDatabase(t)}
	if err := l.Fill(ctx, rng, 50); err != nil {
		t.Fatal(err)
	}
	writeSome(t, l, rng, 60)
	before := state(t, l, "")
	seals, err := Check(before, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	writeSome(t, l, rng, 20)
	now := state(t, l, "")
	later, err := Check(now, seals, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Check(before, later, true); err == nil || !strings.Contains(err.Error(), "went back") {
		t.Errorf("an older state: %v", err)
	}
	wrong := 0
	refuse := func(what string, rows Rows, member bool) {
		t.Helper()
		wrong++
		if _, err := Check(rows, nil, member); err == nil {
			t.Errorf("%s: not noticed", what)
		}
	}
	for k, r := range now {
		less := clone(now)
		delete(less, k)
		if r.Table != "member" || groupsOf(less) != groupsOf(now) { // one of two memberships of a group may go
			refuse("without "+r.Data, less, true)
		}
	}
	for k, r := range before {
		if now[k] != nil && now[k].Hash == r.Hash && now[k].Group == r.Group || r.Group == "" {
			continue // no older than that of now, but for columns that are not sealed
		}
		mixed := clone(now)
		mixed[k] = r
		refuse("with the old "+r.Data, mixed, true)
	}
	if wrong < 50 {
		t.Errorf("only %d wrong states were tried", wrong)
	}
	stranger := clone(now)
	for k, r := range now {
		if r.Table == "member" {
			delete(stranger, k)
		}
	}
	refuse("groups without memberships", stranger, true)
	if _, err := Check(stranger, nil, false); err != nil {
		t.Errorf("by name: %v", err)
	}
}

func clone(rows Rows) Rows {
	c := Rows{}
	for k, r := range rows {
		c[k] = r
	}
	return c
}

func groupsOf(rows Rows) string {
	groups := map[string]bool{}
	for _, r := range rows {
		if r.Table == "member" {
			groups[fmt.Sprint(r.Fields["grp"])] = true
		}
	}
	return fmt.Sprint(groups)
}

// writeSome runs n transactions of the load.
func writeSome(t *testing.T, l *Load, rng *rand.Rand, n int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx, rng) }()
	if err := l.Commits.Wait(ctx, n); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// state returns what ann sees.
func state(t *testing.T, l *Load, group string) Rows {
	t.Helper()
	rows, err := want(t.Context(), l.DSN, "plain", loadUsers[0], group)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// TestReplica: a model client refuses what a service must not send.
func TestReplica(t *testing.T) {
	put := func(id uint64, n int) protocol.Op {
		return protocol.Op{ID: id, Kind: protocol.Put, Checksum: uint32(n), ObjectType: "item", ObjectID: fmt.Sprint("i", n), Data: fmt.Appendf(nil, `{"id":"i%d"}`, n)}
	}
	at := func(op uint64, sum uint32) *protocol.Checkpoint {
		return &protocol.Checkpoint{LastOpID: op, Buckets: []protocol.Bucket{{Name: "b", Checksum: sum, Priority: 3}}}
	}
	data := func(ops ...protocol.Op) *protocol.DataChunk { return &protocol.DataChunk{Bucket: "b", Ops: ops} }
	done := func(op uint64) *protocol.CheckpointComplete { return &protocol.CheckpointComplete{LastOpID: op} }
	for _, c := range []struct {
		name  string
		lines []protocol.Line
		want  string // part of the error; empty: none
		shown int
	}{
		{"in order", []protocol.Line{at(2, 3), data(put(1, 1), put(2, 2)), done(2)}, "", 2},
		{"cleared", []protocol.Line{at(3, 9), data(put(1, 1)), data(protocol.Op{ID: 2, Kind: protocol.Clear, Checksum: 4}, put(3, 5)), done(3)}, "", 1},
		{"moved", []protocol.Line{at(3, 9), data(protocol.Op{ID: 2, Kind: protocol.Move, Checksum: 4}, put(3, 5)), done(3)}, "", 1},
		{"removed", []protocol.Line{at(2, 3), data(put(1, 1), protocol.Op{ID: 2, Kind: protocol.Remove, Checksum: 2, ObjectType: "item", ObjectID: "i1"}), done(2)}, "", 0},
		{"wrong checksum", []protocol.Line{at(2, 4), data(put(1, 1), put(2, 2)), done(2)}, "sums to", 0},
		{"incomplete", []protocol.Line{at(2, 3), data(put(1, 1)), done(2)}, "sums to", 0},
		{"wrong at the priority", []protocol.Line{at(2, 3), data(put(1, 1)), &protocol.PartialCheckpointComplete{LastOpID: 2, Priority: 3}}, "sums to", 0},
		{"later priorities are not looked at", []protocol.Line{at(2, 3), &protocol.PartialCheckpointComplete{LastOpID: 2, Priority: 1}}, "", 0},
		{"twice", []protocol.Line{at(2, 3), data(put(1, 1), put(1, 1))}, "came after", 0},
		{"backwards", []protocol.Line{at(2, 3), data(put(2, 2), put(1, 1))}, "came after", 0},
		{"another bucket", []protocol.Line{at(2, 3), &protocol.DataChunk{Bucket: "c"}}, "not in the checkpoint", 0},
		{"diff first", []protocol.Line{&protocol.CheckpointDiff{}}, "first line", 0},
		{"not JSON", []protocol.Line{at(2, 3), data(protocol.Op{ID: 1, Kind: protocol.Put, Data: []byte("{")})}, "row", 0},
	} {
		r := NewReplica()
		var err error
		for _, l := range c.lines {
			if _, err = r.Receive(l); err != nil {
				break
			}
		}
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if len(r.Rows()) != c.shown {
			t.Errorf("%s: %d rows are shown, want %d", c.name, len(r.Rows()), c.shown)
		}
	}
}
