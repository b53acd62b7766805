package replicate

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-sync/millrace/internal/source"
)

// TestPreparedIsTheSame applies large transactions as they are and prepared, with
// batches that fill up in the middle, and expects the same of both.
func TestPreparedIsTheSame(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 30 {
		plain, prepared := newBench(t, notes(source.IdentityDefault)), newBench(t, notes(source.IdentityDefault))
		plain.limits = Limits{Ops: 1 + rng.IntN(300), Bytes: 1 << 20}
		prepared.limits = plain.limits
		for xid := range source.XID(4) {
			changes := make([]source.Change, 200+rng.IntN(400))
			for i := range changes {
				id, owner, body := fmt.Sprint("n", rng.IntN(250)), []string{"ann", "bob", "-"}[rng.IntN(3)], fmt.Sprint(rng.IntN(3))
				switch rng.IntN(8) {
				case 0:
					changes[i] = source.Change{Kind: source.Delete, Old: row(id, "-", "-")}
				case 1:
					changes[i] = source.Change{Kind: source.Update, Old: row(id, "-", "-"), New: row(fmt.Sprint("n", rng.IntN(250)), owner, body)}
				case 2:
					changes[i] = source.Change{Kind: source.Update, New: row(id, owner, "malformed")}
				case 3:
					if rng.IntN(40) == 0 {
						changes[i] = source.Change{Kind: source.Truncate}
						break
					}
					fallthrough
				default:
					changes[i] = update(id, owner, body)
				}
			}
			want := plain.apply(xid, slices.Clone(changes)...)
			for i := range changes {
				changes[i].Table = prepared.table
			}
			tx := NewPreparer(prepared.eval).Prepare(&source.Txn{XID: xid, Commit: source.LSN(xid), Changes: changes})
			if err := prepared.ApplyPrepared(tx, prepared.commit); err != nil {
				t.Fatal(err)
			}
			if got := prepared.flush(source.LSN(xid)); !slices.Equal(got, want) {
				t.Fatalf("transaction %d: committed (-plain +prepared)\n%s", xid, cmp.Diff(want, got))
			}
			if d := cmp.Diff(plain.rows, prepared.rows); d != "" {
				t.Fatalf("transaction %d: records (-plain +prepared)\n%s", xid, d)
			}
		}
	}
}

// TestPreparedForAnother evaluates again what was prepared before the sync config
// changed.
func TestPreparedForAnother(t *testing.T) {
	b := newBench(t, notes(source.IdentityDefault))
	other := *b.eval
	ch := insert("a", "ann", "x")
	ch.Table = b.table
	tx := NewPreparer(&other).Prepare(&source.Txn{XID: 1, Commit: 1, Changes: []source.Change{ch}})
	tx.rows[0] = &Row{Key: "wrong"}
	if err := b.ApplyPrepared(tx, b.commit); err != nil {
		t.Fatal(err)
	}
	b.want("insert", b.flush(1), `PUT ["ann"] a {"id":"a","body":"x"}`, `PUT ["a"] a {"id":"a"}`, "lookup")
}
