package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-sync/millrace/internal/demo"
)

// TestKillDuringBurst kills the service again and again in the middle of a burst of
// writes, by others and by the client itself. The client must end equal to the table.
func TestKillDuringBurst(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	s := startStack(t)
	db := connect(t, s)
	exec1(t, db, "INSERT INTO greeting (owner, message) SELECT 'ann', 'row ' || n FROM generate_series(1, 500) n")
	c := newClient(t, s, "ann")
	converge(t, db, c, "ann")

	const kills = 3
	for kill := range kills {
		burst, stop := context.WithCancel(t.Context())
		writing := make(chan error, 1)
		started := make(chan struct{})
		go func() { writing <- write(burst, s, rng.Uint64(), started) }()
		<-started
		// The burst is under way; so are writes of the client's own.
		for i := range 10 {
			if _, err := c.Add(patient(t), fmt.Sprintf("mine %d.%d", kill, i)); err != nil {
				t.Fatal(err)
			}
		}
		s.KillService()
		if err := s.StartService(t.Context()); err != nil {
			t.Fatal(err)
		}
		stop()
		if err := <-writing; err != nil {
			t.Fatal(err)
		}
	}
	converge(t, db, c, "ann")
	if n := len(table(t, db, "ann")); n < 10*kills {
		t.Errorf("only %d rows are left: the client's own writes were lost", n)
	}
}

// write changes ann's rows, a few in each transaction, until ctx ends; it closes
// started after the first ones.
func write(ctx context.Context, s *demo.Stack, seed uint64, started chan<- struct{}) error {
	rng := rand.New(rand.NewPCG(seed, 1))
	db, err := s.Connect(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	defer db.Close(context.WithoutCancel(ctx))
	for n := 0; ctx.Err() == nil; n++ {
		err := pgx.BeginFunc(context.WithoutCancel(ctx), db, func(tx pgx.Tx) error {
			for range 1 + rng.IntN(5) {
				if _, err := tx.Exec(context.WithoutCancel(ctx), statements[rng.IntN(len(statements))], rng.IntN(1000)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if n == 20 {
			close(started)
		}
	}
	return nil
}

// statements are what the burst is made of; each takes a number. None touches the
// client's own notes, which must all arrive.
var statements = []string{
	"INSERT INTO greeting (owner, message, author) SELECT CASE WHEN n % 3 = 0 THEN 'bob' ELSE 'ann' END, 'row ' || n, 'burst' FROM generate_series($1::int, $1::int + 9) n",
	"UPDATE greeting SET message = message || '.' WHERE message LIKE 'row %' AND length(message) < 40 AND hashtext(id::text) % 50 = $1::int % 50",
	"UPDATE greeting SET owner = CASE owner WHEN 'ann' THEN 'bob' ELSE 'ann' END WHERE message LIKE 'row %' AND hashtext(id::text) % 100 = $1::int % 100",
	"DELETE FROM greeting WHERE message LIKE 'row %' AND hashtext(id::text) % 20 = $1::int % 20",
}
