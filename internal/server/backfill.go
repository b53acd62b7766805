package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/millrace-sync/millrace/internal/postgres"
	"github.com/millrace-sync/millrace/internal/replicate"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// Bounds of a backfill.
const (
	chunkRows     = 10_000
	chunksAhead   = 2 // chunks read and not yet merged
	chunkAttempts = 10
	progressLog   = 5 * time.Second
)

// backfiller reads tables in chunks and hands them to the follower, which merges
// each when its high watermark comes in the stream (see replicate.Chunk).
type backfiller struct {
	conns  *conns
	stored replicate.Rows
	log    *slog.Logger
	run    string // tells our marks from those of another life
	// lookAgain asks for the tables to be looked up in the catalog.
	lookAgain func()

	mu     sync.Mutex
	eval   *replicate.Evaluator
	last   uint64
	chunks map[uint64]*readChunk
	order  []source.TableID // tables to be read
	tables map[source.TableID]wanted
	news   chan struct{} // holds a token when order has grown
}

// wanted is a table to be read, and from where.
type wanted struct {
	table *source.Table
	from  storage.TableProgress
}

// readChunk is a chunk on its way to be merged. Until it is read only its table is
// known.
type readChunk struct {
	*replicate.Chunk
	table  source.TableID
	merged chan merged // holds one
}

// merged is what became of a chunk: where to go on, if there is more to read.
type merged struct {
	err  error
	next storage.TableProgress
	more bool
}

func newBackfiller(c *conns, stored replicate.Rows, eval *replicate.Evaluator, run string, log *slog.Logger) *backfiller {
	return &backfiller{
		conns: c, stored: stored, eval: eval, log: log, run: run,
		chunks: map[uint64]*readChunk{}, tables: map[source.TableID]wanted{}, news: make(chan struct{}, 1),
	}
}

// want asks for a table to be read, if some definition is still to read it. A
// table that waits already is read in this version.
func (b *backfiller) want(t *source.Table, a *replicate.Applier) {
	from, pending := a.Progress(t.ID)
	if !pending {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, waits := b.tables[t.ID]; !waits {
		b.order = append(b.order, t.ID)
	}
	b.tables[t.ID] = wanted{t, from}
	select {
	case b.news <- struct{}{}:
	default:
	}
}

// pop returns the next table to be read.
func (b *backfiller) pop() (wanted, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.order) == 0 {
		return wanted{}, false
	}
	id := b.order[0]
	b.order = b.order[1:]
	w := b.tables[id]
	delete(b.tables, id)
	return w, true
}

// superseded reports whether a newer version of the table waits to be read.
func (b *backfiller) superseded(id source.TableID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.tables[id]
	return ok
}

func (b *backfiller) setEvaluator(e *replicate.Evaluator) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.eval = e
}

// bind binds a table to the definitions that are live now; nil if none reads it.
func (b *backfiller) bind(t *source.Table) *replicate.Table {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.eval.Bind(t)
}

func (b *backfiller) emit(ctx context.Context, which string, chunk uint64) error {
	_, err := postgres.Emit(ctx, b.conns.backfill, postgres.MessagePrefix, fmt.Appendf(nil, "%s %s %d", which, b.run, chunk))
	return err
}

// begin gives a chunk its number.
func (b *backfiller) begin(t source.TableID) (uint64, *readChunk) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last++
	c := &readChunk{table: t, merged: make(chan merged, 1)}
	b.chunks[b.last] = c
	return b.last, c
}

// tableOf returns the table of a chunk that is being read.
func (b *backfiller) tableOf(chunk uint64) (source.TableID, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.chunks[chunk]
	if c == nil {
		return 0, false
	}
	return c.table, true
}

// complete hands a chunk's rows over, before its high watermark is written.
func (b *backfiller) complete(id uint64, chunk *replicate.Chunk) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.chunks[id].Chunk = chunk
}

// take returns the chunk whose high watermark has come, nil if it is not ours.
func (b *backfiller) take(id uint64) *readChunk {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.chunks[id]
	delete(b.chunks, id)
	return c
}

// Run reads tables as they are wanted, until ctx ends.
func (b *backfiller) Run(ctx context.Context) error {
	for {
		w, ok := b.pop()
		if !ok {
			select {
			case <-b.news:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		start := time.Now()
		rows, err := b.table(ctx, w)
		switch {
		case errors.Is(err, postgres.ErrTableChanged):
			// The stream tells of the new version, if it has not yet, or the catalog.
			b.lookAgain()
			b.log.Info("a table was altered while it was read; it will be read again", "table", w.table.QualifiedName(), "reason", err)
		case err != nil:
			return fmt.Errorf("backfill of table %s: %w", w.table.QualifiedName(), err)
		default:
			seconds := time.Since(start).Seconds()
			b.log.Info("table read", "table", w.table.QualifiedName(), "rows", rows, "seconds", seconds,
				"rows_per_second", int(float64(rows-w.from.Rows)/max(seconds, 1e-3)))
		}
	}
}

// table reads one table, chunk by chunk; it reads ahead while chunks are merged.
func (b *backfiller) table(ctx context.Context, w wanted) (int64, error) {
	from, rows, logged, attempts := w.from.After, w.from.Rows, time.Now(), 0
	var waiting []*readChunk
	for {
		done := len(waiting) > 0 && waiting[len(waiting)-1].Done
		if !done && len(waiting) < chunksAhead {
			bound := b.bind(w.table)
			if bound == nil {
				return rows, nil // a deploy has made an end of it
			}
			c, err := b.read(ctx, bound, from)
			if err != nil {
				return rows, err
			}
			waiting = append(waiting, c)
			from = c.Last
			continue
		}
		m, err := waiting[0].result(ctx)
		if err != nil {
			return rows, err
		}
		if m.err == nil && m.more && waiting[0].Done && m.next.Sweep {
			if m, err = b.sweep(ctx, w.table, m.next.After); err != nil {
				return rows, err
			}
		}
		if m.err == nil && !m.more {
			return rows + int64(len(waiting[0].Rows)), nil
		}
		rows = m.next.Rows
		if m.err == nil {
			attempts, waiting = 0, waiting[1:]
			if time.Since(logged) > progressLog {
				logged = time.Now()
				b.log.Info("reading table", "table", w.table.QualifiedName(), "rows", rows)
			}
			continue
		}
		if !m.more || b.superseded(w.table.ID) {
			return rows, fmt.Errorf("%w: %w", postgres.ErrTableChanged, m.err)
		}
		if attempts++; attempts == chunkAttempts {
			return rows, m.err
		}
		b.log.Info("a chunk is read again", "reason", m.err)
		// Those read ahead follow a chunk that was not merged: they are refused too.
		for _, c := range waiting[1:] {
			if _, err := c.result(ctx); err != nil {
				return rows, err
			}
		}
		waiting, from = nil, m.next.After
	}
}

// result waits for what becomes of a chunk.
func (c *readChunk) result(ctx context.Context) (merged, error) {
	select {
	case m := <-c.merged:
		return m, nil
	case <-ctx.Done():
		return merged{}, ctx.Err()
	}
}

// read reads and evaluates one chunk.
func (b *backfiller) read(ctx context.Context, t *replicate.Table, after []string) (*readChunk, error) {
	return b.between(ctx, t.ID, func() (*replicate.Chunk, error) { return b.readRows(ctx, t, after) })
}

// between reads something of a table between two watermarks.
func (b *backfiller) between(ctx context.Context, table source.TableID, read func() (*replicate.Chunk, error)) (*readChunk, error) {
	id, c := b.begin(table)
	if err := b.emit(ctx, "low", id); err != nil {
		return nil, err
	}
	chunk, err := read()
	if err == nil {
		b.complete(id, chunk)
	}
	// Also a chunk that could not be read gets its high watermark, which closes its
	// window.
	return c, errors.Join(err, b.emit(ctx, "high", id))
}

// readRows reads and evaluates the rows of a chunk.
func (b *backfiller) readRows(ctx context.Context, t *replicate.Table, after []string) (*replicate.Chunk, error) {
	limit := chunkRows
	if t.WholeRow() {
		limit = 0 // all at once: equal rows have to be counted
	}
	raw, err := postgres.ReadChunk(ctx, b.conns.backfill, b.conns.registry, postgres.ChunkRequest{Table: t.Table, After: after, Limit: limit})
	if err != nil {
		return nil, err
	}
	rows, bad := evaluate(t, raw.Rows)
	if len(bad) > 0 {
		b.log.Warn("rows could not be evaluated and are left out", "table", t.QualifiedName(), "rows", len(bad), "first", bad[0])
	}
	return &replicate.Chunk{
		Table: t, Rows: rows, After: after, Last: raw.Last, Done: raw.Done, Unseen: raw.Unseen, Next: raw.Next,
	}, nil
}

// evaluate evaluates the rows of a chunk on all processors. A row that fails is
// left out, and why is in bad.
func evaluate(t *replicate.Table, raw [][]source.Datum) (rows []*replicate.Row, bad []error) {
	rows = make([]*replicate.Row, len(raw))
	workers := min(runtime.GOMAXPROCS(0), 1+len(raw)/1000)
	errs := make([][]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			var s replicate.Scratch
			for i := w * len(raw) / workers; i < (w+1)*len(raw)/workers; i++ {
				var err error
				if rows[i], err = t.Evaluate(raw[i], &s); err != nil {
					errs[w] = append(errs[w], err)
				}
			}
		})
	}
	wg.Wait()
	if bad = slices.Concat(errs...); len(bad) > 0 {
		rows = slices.DeleteFunc(rows, func(r *replicate.Row) bool { return r == nil })
	}
	return rows, bad
}
