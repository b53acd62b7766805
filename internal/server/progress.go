package server

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/millrace-sync/millrace/internal/admin"
	"github.com/millrace-sync/millrace/internal/source"
)

// progressLog is the least time between two lines on the reading of one table.
const progressLog = 5 * time.Second

// TableBackfill is how far the reading of one table has come.
type TableBackfill struct {
	Table string
	// Rows are stored, also by earlier lives of the process. Of is how many the table
	// has, by estimate; 0 if that is not known yet, or has turned out too small.
	Rows, Of int64
	// RowsPerSecond is the rate since the reading began in this life; 0 at first.
	RowsPerSecond float64
	// Left is the time that the rest takes at this rate; 0 if Of is, or the rate.
	Left time.Duration
}

// Percent returns how much of the table is read; -1 if that is not known. It is 100
// only when it is all.
func (t TableBackfill) Percent() int {
	if t.Of == 0 {
		return -1
	}
	return int(min(99, 100*t.Rows/t.Of))
}

// String returns a line such as "public.notes: 45 % of about 120000 rows, 9s left".
func (t TableBackfill) String() string {
	if t.Of == 0 {
		return fmt.Sprintf("%s: %d rows", t.Table, t.Rows)
	}
	s := fmt.Sprintf("%s: %d %% of about %d rows", t.Table, t.Percent(), t.Of)
	if t.Left > 0 {
		s += ", " + t.Left.String() + " left"
	}
	return s
}

// backfills knows how far the tables are that are being read or wait to be. It is
// what the log, the probes and the admin API show. Any goroutine may use it.
type backfills struct {
	log *slog.Logger

	mu     sync.Mutex
	tables map[source.TableID]*shownTable
}

type shownTable struct {
	name   string
	rows   int64
	of     int64
	before int64     // rows when it began
	began  time.Time // zero while it waits
	logged time.Time
}

func newBackfills(log *slog.Logger) *backfills {
	return &backfills{log: log, tables: map[source.TableID]*shownTable{}}
}

// clear forgets what a former life of the replicator was at.
func (b *backfills) clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.tables)
}

// wait notes that a table is to be read, of which so many rows are stored.
func (b *backfills) wait(t *source.Table, rows int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tables[t.ID] = &shownTable{name: t.QualifiedName(), rows: rows}
}

// begin notes that a table is read from now on: so many rows are stored, and about
// so many are left.
func (b *backfills) begin(t *source.Table, rows, left int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.tables[t.ID] = &shownTable{name: t.QualifiedName(), rows: rows, of: rows + left, before: rows, began: now, logged: now}
}

// add notes that rows were stored, and tells the log now and then.
func (b *backfills) add(id source.TableID, rows int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.tables[id]
	if t == nil {
		return
	}
	t.rows += int64(rows)
	now := time.Now()
	if now.Sub(t.logged) < progressLog {
		return
	}
	t.logged = now
	s := t.show(now)
	b.log.Info("reading table", "table", s.Table, "rows", s.Rows, "of_about", s.Of, "percent", s.Percent(),
		"rows_per_second", int(s.RowsPerSecond), "time_left", s.Left.String())
}

// end notes that a table is read.
func (b *backfills) end(id source.TableID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.tables[id]
	if t == nil {
		return
	}
	delete(b.tables, id)
	seconds := time.Since(t.began).Seconds()
	b.log.Info("table read", "table", t.name, "rows", t.rows, "seconds", seconds, "rows_per_second", int(float64(t.rows-t.before)/max(seconds, 1e-3)))
}

// drop forgets a table that is not read after all.
func (b *backfills) drop(id source.TableID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.tables, id)
}

// List returns the tables that are being read, or wait to be, by name.
func (b *backfills) List() []TableBackfill {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	list := make([]TableBackfill, 0, len(b.tables))
	for _, t := range b.tables {
		list = append(list, t.show(now))
	}
	slices.SortFunc(list, func(a, b TableBackfill) int { return cmp.Compare(a.Table, b.Table) })
	return list
}

// report gives the same as the admin API does.
func (b *backfills) report() []admin.TableProgress {
	var list []admin.TableProgress
	for _, t := range b.List() {
		list = append(list, admin.TableProgress{
			Table: t.Table, Rows: t.Rows, OfAbout: t.Of, Percent: max(0, t.Percent()),
			RowsPerSecond: int(t.RowsPerSecond), SecondsLeft: int(t.Left.Seconds()),
		})
	}
	return list
}

func (t *shownTable) show(now time.Time) TableBackfill {
	s := TableBackfill{Table: t.name, Rows: t.rows, Of: t.of}
	if s.Rows > s.Of {
		s.Of = 0 // the estimate has proved wrong
	}
	if t.began.IsZero() {
		return s
	}
	if seconds := now.Sub(t.began).Seconds(); seconds > 0 {
		s.RowsPerSecond = float64(t.rows-t.before) / seconds
	}
	if s.Of > 0 && s.RowsPerSecond > 0 {
		s.Left = time.Duration(float64(s.Of-s.Rows) / s.RowsPerSecond * float64(time.Second)).Round(time.Second)
	}
	return s
}
