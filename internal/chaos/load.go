//go:build unix

package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// What the load writes about.
var (
	loadUsers  = []string{"ann", "bob", "eve"}
	loadGroups = []string{"g0", "g1", "g2", "g3"}
)

const (
	bulkGroup   = "bulk" // large, and rarely changed: for backfills
	fullGroup   = 80     // rows of a table in a group, from which on they are deleted
	loadColumns = 3      // columns added to item at most
	reconnectDB = 20 * time.Millisecond
)

// Load writes random transactions, each of which ends with the seals of the groups
// that it changed. Several writers may Run beside each other.
type Load struct {
	DSN     string
	Commits Progress

	mu      sync.Mutex
	columns []string // added to item
	added   int
}

// Fill makes the database's first rows, bulk of them in one group.
func (l *Load) Fill(ctx context.Context, rng *rand.Rand, bulk int) error {
	conn, err := pgx.Connect(ctx, l.DSN)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.PgConn().Exec(ctx, schema).ReadAll(); err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		w := &writer{Load: l, rng: rng, tx: tx}
		w.exec(ctx, "INSERT INTO seal SELECT unnest($1::text[]), 0, '0'", append(slices.Clone(loadGroups), bulkGroup))
		w.exec(ctx, "INSERT INTO item SELECT 'bulk' || n, $1, n, repeat('x', n % 50) FROM generate_series(1, $2::int) n", bulkGroup, bulk)
		w.exec(ctx, "INSERT INTO member VALUES ('m-bulk', $1, $2)", loadUsers[0], bulkGroup)
		for _, user := range loadUsers {
			w.group = w.pick(loadGroups)
			w.exec(ctx, "INSERT INTO member VALUES ($1, $2, $3)", w.id("m"), user, w.group)
			w.insertItems(ctx, 1+rng.IntN(20), 100)
		}
		w.exec(ctx, sealSQL, append(slices.Clone(loadGroups), bulkGroup))
		return w.err
	})
}

// Run writes until ctx ends. Errors are the load's own mistakes; a database that
// goes away is waited for.
func (l *Load) Run(ctx context.Context, rng *rand.Rand) error {
	for {
		err := l.write(ctx, rng)
		if ctx.Err() != nil {
			return nil
		}
		var refused *pgconn.PgError
		if errors.As(err, &refused) && refused.Code[:2] != "57" && refused.Code[:2] != "53" && refused.Code[:2] != "08" {
			return fmt.Errorf("load: %w", err)
		}
		pause := time.NewTimer(reconnectDB)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil
		}
	}
}

// write writes until the connection breaks.
func (l *Load) write(ctx context.Context, rng *rand.Rand) error {
	conn, err := pgx.Connect(ctx, l.DSN)
	if err != nil {
		return err
	}
	// Not ctx: a transaction that is cut off at a round's end would end the connection with it.
	ctx, whole := context.WithoutCancel(ctx), ctx
	defer conn.Close(ctx)
	for whole.Err() == nil {
		err := l.transaction(ctx, conn, rng)
		var refused *pgconn.PgError
		if errors.As(err, &refused) && (refused.Code == "40P01" || refused.Code == "23505") {
			continue // a deadlock, or an id that another writer took
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// errRollback ends a transaction that was never meant to be committed.
var errRollback = errors.New("rolled back on purpose")

func (l *Load) transaction(ctx context.Context, conn *pgx.Conn, rng *rand.Rand) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		w := &writer{Load: l, rng: rng, tx: tx}
		w.run(ctx)
		return w.err
	})
	if errors.Is(err, errRollback) {
		return nil
	}
	if err == nil {
		l.Commits.Add()
	}
	return err
}

// Finish seals all groups once more.
func (l *Load) Finish(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, l.DSN)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sealSQL, append(slices.Clone(loadGroups), bulkGroup))
	return err
}

// writer is one transaction of the load. After an error it does nothing more.
type writer struct {
	*Load
	rng   *rand.Rand
	tx    pgx.Tx
	group string // of those that are locked
	err   error
}

func (w *writer) exec(ctx context.Context, sql string, args ...any) {
	if w.err == nil {
		if _, w.err = w.tx.Exec(ctx, sql, args...); w.err != nil {
			w.err = fmt.Errorf("%s: %w", sql, w.err)
		}
	}
}

func (w *writer) pick(from []string) string { return from[w.rng.IntN(len(from))] }

func (w *writer) id(kind string) string { return fmt.Sprintf("%s%08x", kind, w.rng.Uint32()) }

// some chooses k of the group's rows, as a condition.
func (w *writer) some(table string, k int) string {
	return fmt.Sprintf("grp = '%s' AND id IN (SELECT id FROM %s WHERE grp = '%s' ORDER BY md5(id || '%d') LIMIT %d)", w.group, table, w.group, w.rng.IntN(1000), k)
}

// run does the whole transaction. The groups' seals are locked first, and in order,
// so that a seal's number orders all transactions of its group.
func (w *writer) run(ctx context.Context) {
	locked := []string{w.pick(loadGroups)}
	kind := w.rng.IntN(200)
	switch {
	case kind < 6: // truncate or alter
		locked = append(slices.Clone(loadGroups), bulkGroup)
	case kind < 12:
		locked = append(locked, bulkGroup)
	case kind < 80:
		if other := w.pick(loadGroups); other != locked[0] {
			locked = append(locked, other)
		}
	}
	w.exec(ctx, "SELECT FROM seal WHERE grp = ANY($1) ORDER BY grp FOR UPDATE", locked)
	switch {
	case kind < 3:
		w.truncate(ctx)
	case kind < 6:
		w.alter(ctx)
	case kind < 10:
		w.group = bulkGroup
		w.exec(ctx, "UPDATE item SET amount = amount + 1 WHERE "+w.some("item", 200))
	case kind < 14:
		w.group = locked[0]
		w.insertItems(ctx, 300+w.rng.IntN(1500), 40)
	case kind < 15:
		w.group = locked[0]
		w.insertItems(ctx, 1400, 10_000) // more than a batch of the service's holds
	default:
		for range 1 + w.rng.IntN(5) {
			w.group = w.pick(locked)
			if w.rng.IntN(6) == 0 {
				w.savepoint(ctx)
			} else {
				w.change(ctx, locked)
			}
		}
	}
	w.exec(ctx, sealSQL, locked)
	if w.err == nil && w.rng.IntN(25) == 0 {
		w.err = errRollback
	}
}

// savepoint does something and, as a rule, takes it back.
func (w *writer) savepoint(ctx context.Context) {
	if w.err != nil {
		return
	}
	outer := w.tx
	w.err = pgx.BeginFunc(ctx, outer, func(inner pgx.Tx) error {
		w.tx = inner
		defer func() { w.tx = outer }()
		for range 1 + w.rng.IntN(3) {
			w.change(ctx, []string{w.group})
		}
		if w.err == nil && w.rng.IntN(3) > 0 {
			return errRollback
		}
		return w.err
	})
	if errors.Is(w.err, errRollback) {
		w.err = nil
	}
}

func (w *writer) change(ctx context.Context, locked []string) {
	switch w.rng.IntN(20) {
	case 0, 1, 2:
		w.insertItems(ctx, 1+w.rng.IntN(5), 3000)
	case 3, 4:
		w.exec(ctx, "UPDATE item SET amount = amount + $1::int WHERE "+w.some("item", 3), w.rng.IntN(100))
	case 5:
		w.exec(ctx, "UPDATE item SET note = $1 WHERE "+w.some("item", 1), w.note(9000))
	case 6:
		w.exec(ctx, "UPDATE item SET id = $1 WHERE "+w.some("item", 1), w.id("i"))
	case 7, 8:
		w.exec(ctx, "UPDATE item SET grp = $1 WHERE "+w.some("item", 2), w.pick(locked))
	case 9:
		w.exec(ctx, "DELETE FROM item WHERE "+w.some("item", 1+w.rng.IntN(4)))
	case 10:
		w.exec(ctx, "UPDATE item SET amount = amount WHERE "+w.some("item", 2)) // nothing that a client sees
	case 11, 12:
		w.exec(ctx, "INSERT INTO entry SELECT $1, $2, $3 FROM generate_series(1, $4)", w.id("e"), w.group, w.rng.IntN(100), 1+w.rng.IntN(2))
	case 13:
		w.exec(ctx, "UPDATE entry SET n = n + 1 WHERE "+w.some("entry", 2))
	case 14: // one of equal ones, maybe
		w.exec(ctx, "DELETE FROM entry WHERE ctid = (SELECT ctid FROM entry WHERE grp = $1 ORDER BY md5(id) LIMIT 1)", w.group)
	case 15:
		w.exec(ctx, "INSERT INTO tag VALUES ($1, $2, $3)", w.id("t"), w.id("c"), w.group)
	case 16:
		w.exec(ctx, "UPDATE tag SET code = $1 WHERE "+w.some("tag", 1), w.id("c"))
		w.exec(ctx, "UPDATE tag SET id = $1 WHERE "+w.some("tag", 1), w.id("t"))
	case 17:
		w.exec(ctx, "DELETE FROM tag WHERE "+w.some("tag", 1))
	case 18:
		user := w.pick(loadUsers)
		if w.rng.IntN(2) == 0 {
			w.exec(ctx, "INSERT INTO member VALUES ($1, $2, $3)", w.id("m"), user, w.pick(loadGroups))
		} else {
			w.exec(ctx, "DELETE FROM member WHERE usr = $1 AND grp = $2", user, w.pick(loadGroups))
		}
	case 19:
		for _, table := range []string{"item", "entry", "tag"} {
			w.exec(ctx, fmt.Sprintf("DELETE FROM %s WHERE grp = $1 AND (SELECT count(*) FROM %s WHERE grp = $1) > $2", table, table), w.group, fullGroup)
		}
	}
}

func (w *writer) insertItems(ctx context.Context, n, size int) {
	w.exec(ctx, "INSERT INTO item SELECT $1 || n, $2, n, nullif($3 || repeat(md5(n::text), $4), '') FROM generate_series(1, $5::int) n",
		w.id("i"), w.group, w.note(20), w.rng.IntN(size/32+1), n)
}

// note returns a text of up to size characters, which may be empty.
func (w *writer) note(size int) string {
	const words = "aä€😀 \"\\\n,'x"
	runes := []rune(words)
	var text strings.Builder
	for range w.rng.IntN(size + 1) {
		text.WriteRune(runes[w.rng.IntN(len(runes))])
	}
	return text.String()
}

// truncate empties a table for all groups, and fills it again.
func (w *writer) truncate(ctx context.Context) {
	table := w.pick([]string{"item", "entry", "tag"})
	if table == "item" && w.rng.IntN(2) == 0 {
		w.exec(ctx, "TRUNCATE item, entry")
	} else {
		w.exec(ctx, "TRUNCATE "+table)
	}
	for _, w.group = range loadGroups {
		w.insertItems(ctx, w.rng.IntN(10), 100)
	}
	w.exec(ctx, sealSQL, []string{bulkGroup})
}

// alter adds a column to item, or drops one that was added, or has all rows written anew.
func (w *writer) alter(ctx context.Context) {
	if w.rng.IntN(4) == 0 {
		w.exec(ctx, "ALTER TABLE item ALTER COLUMN note TYPE text USING note || ''")
		return
	}
	w.mu.Lock()
	drop := ""
	if len(w.columns) == loadColumns {
		drop = w.columns[0]
	}
	w.added++
	add := fmt.Sprintf("c%d", w.added)
	w.mu.Unlock()
	if drop != "" {
		w.exec(ctx, "ALTER TABLE item DROP COLUMN IF EXISTS "+drop)
	} else {
		w.exec(ctx, "ALTER TABLE item ADD COLUMN "+add+w.pick([]string{" text", " text DEFAULT 'so far'", " integer DEFAULT 7"}))
	}
	if w.err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if drop != "" {
		w.columns = w.columns[1:]
	} else {
		w.columns = append(w.columns, add)
	}
}
