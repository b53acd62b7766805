package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/millrace-sync/millrace/internal/postgres"
	"github.com/millrace-sync/millrace/internal/replicate"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// Bounds of a backfill.
const (
	// tableReaders is how many chunks are read at once at most, each by a connection of
	// its own, of one table or of several.
	tableReaders = 3
	// A chunk has chunkRows rows, or fewer where rows are wide: about chunkBytes, and
	// never more than twice as many and a row.
	chunkRows     = 20_000
	chunkBytes    = 8 << 20
	minChunkRows  = 100
	chunkAttempts = 10
	// partsAhead is how many parts a reader may be ahead of the first that is not read
	// to its end. What is merged of those ahead is read again after a crash.
	partsAhead = 2 * tableReaders
)

// backfiller reads tables in chunks and hands them to the follower, which merges
// each when its high watermark comes in the stream (see replicate.Chunk).
//
// A table is divided into parts by its key, which readers take one after the other
// and read chunk by chunk, waiting for each to be merged. A reader that finds no
// part begins the next table.
type backfiller struct {
	conns  *conns
	stored replicate.Rows
	log    *slog.Logger
	run    string // tells our marks from those of another life
	shown  *backfills
	// readers is how many chunks are read at once.
	readers int
	// lookAgain asks for the tables to be looked up in the catalog.
	lookAgain func()

	mu     sync.Mutex
	eval   *replicate.Evaluator
	last   uint64
	chunks map[uint64]*readChunk
	order  []source.TableID // tables that wait to be read
	tables map[source.TableID]wanted
	open   []*tableRead  // tables that have parts left
	news   chan struct{} // holds a token when there is something to be taken
}

// wanted is a table to be read, in which reading, and from where.
type wanted struct {
	table   *source.Table
	reading replicate.Reading
	from    storage.TableProgress
}

// tableRead is a table that is being read. The backfiller's lock guards it, but for
// what wanted holds.
type tableRead struct {
	wanted
	parts  []part // not begun
	active []int  // numbers of the parts being read
	over   bool   // given up
	width  int    // of a row in bytes, by the last chunk; 0 if that is not known
}

// mayBegin reports whether the next part of a table may be begun.
func (t *tableRead) mayBegin() bool {
	return len(t.active) == 0 || t.parts[0].number <= slices.Min(t.active)+partsAhead
}

// part is a range of a table's key.
type part struct {
	number       int
	after, until []string
}

// readChunk is a chunk on its way to be merged. Until it is read only its table is
// known.
type readChunk struct {
	*replicate.Chunk
	table  source.TableID
	merged chan merged // holds one
}

// merged is what became of a chunk, and which reading of its table is under way now,
// if there is one.
type merged struct {
	err     error
	reading replicate.Reading
	more    bool
}

func newBackfiller(c *conns, stored replicate.Rows, eval *replicate.Evaluator, run string, readers int, shown *backfills, log *slog.Logger) *backfiller {
	return &backfiller{
		conns: c, stored: stored, eval: eval, log: log, run: run, readers: readers, shown: shown,
		chunks: map[uint64]*readChunk{}, tables: map[source.TableID]wanted{}, news: make(chan struct{}, 1),
	}
}

// want asks for a table to be read, if some definition is still to read it. A
// table that waits already is read in this version.
func (b *backfiller) want(t *source.Table, a *replicate.Applier) {
	reading, from, pending := a.Reading(t.ID)
	if !pending {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, waits := b.tables[t.ID]; !waits {
		b.order = append(b.order, t.ID)
	}
	b.tables[t.ID] = wanted{t, reading, from}
	b.shown.wait(t, from.Rows)
	b.signal()
}

func (b *backfiller) signal() {
	select {
	case b.news <- struct{}{}:
	default:
	}
}

// take gives a reader something to do: a part of a table or, without a part, a table
// to be divided into parts. It waits until there is something.
func (b *backfiller) take(ctx context.Context) (*tableRead, *part, error) {
	for {
		if t, p := b.pop(); t != nil {
			return t, p, nil
		}
		select {
		case <-b.news:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

func (b *backfiller) pop() (*tableRead, *part) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := slices.IndexFunc(b.open, (*tableRead).mayBegin); i >= 0 {
		t := b.open[i]
		p := t.parts[0]
		if t.parts = t.parts[1:]; len(t.parts) == 0 {
			b.open = slices.Delete(b.open, i, i+1)
		}
		t.active = append(t.active, p.number)
		b.signal() // for the next reader
		return t, &p
	}
	if len(b.order) == 0 {
		return nil, nil
	}
	b.signal()
	id := b.order[0]
	b.order = b.order[1:]
	w := b.tables[id]
	delete(b.tables, id)
	return &tableRead{wanted: w}, nil
}

// begin makes the parts of a table known.
func (b *backfiller) begin(t *tableRead, bounds [][]string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	after := t.from.After
	for _, until := range append(bounds, nil) {
		t.parts = append(t.parts, part{len(t.parts), after, until})
		after = until
	}
	b.open = append(b.open, t)
	b.signal()
}

// end notes that a part is no longer read, and reports whether the table is complete.
func (b *backfiller) end(t *tableRead, p *part) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	t.active = slices.DeleteFunc(t.active, func(n int) bool { return n == p.number })
	b.signal() // for those who were too far ahead
	return len(t.active) == 0 && len(t.parts) == 0 && !t.over
}

// giveUp ends the reading of a table that was altered, or that no definition reads any
// more, and reports whether it went on.
func (b *backfiller) giveUp(t *tableRead) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.shown.drop(t.table.ID)
	went := !t.over
	t.over, t.parts = true, nil
	b.open = slices.DeleteFunc(b.open, func(o *tableRead) bool { return o == t })
	return went
}

func (b *backfiller) givenUp(t *tableRead) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return t.over
}

// limit is how many rows the next chunk of a table may have.
func (b *backfiller) limit(t *tableRead) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t.width == 0 {
		return chunkRows
	}
	return max(minChunkRows, min(chunkRows, chunkBytes/t.width))
}

func (b *backfiller) measured(t *tableRead, rows, size int) {
	if rows == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	t.width = max(1, size/rows)
}

func (b *backfiller) evaluator() *replicate.Evaluator {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.eval
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

func (b *backfiller) emit(ctx context.Context, conn *pgconn.PgConn, which string, chunk uint64) error {
	_, err := postgres.Emit(ctx, conn, postgres.MessagePrefix, fmt.Appendf(nil, "%s %s %d", which, b.run, chunk))
	return err
}

// number gives a chunk its number.
func (b *backfiller) number(t source.TableID) (uint64, *readChunk) {
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

// arrived returns the chunk whose high watermark has come, nil if it is not ours.
func (b *backfiller) arrived(id uint64) *readChunk {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.chunks[id]
	delete(b.chunks, id)
	return c
}

// Run reads tables as they are wanted, until ctx ends.
func (b *backfiller) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for range b.readers {
		g.Go(func() error { return b.reader(ctx) })
	}
	return g.Wait()
}

// reader reads what there is to read by a connection that it opens when it is needed.
func (b *backfiller) reader(ctx context.Context) error {
	r := &reader{backfiller: b}
	defer func() {
		if r.conn != nil {
			_ = r.conn.Close(context.WithoutCancel(ctx))
		}
	}()
	for {
		t, p, err := b.take(ctx)
		if err != nil {
			return err
		}
		if r.conn == nil {
			if r.conn, err = postgres.Connect(ctx, b.conns.config); err != nil {
				return err
			}
		}
		if p == nil {
			err = r.divide(ctx, t)
		} else {
			err = r.part(ctx, t, p)
		}
		if err := b.tolerate(t, err); err != nil {
			return err
		}
		if p == nil || !b.end(t, p) {
			continue
		}
		// The last part, so the table is read.
		if err := r.finish(ctx, t); err != nil {
			return err
		}
	}
}

// tolerate returns the error of a reader that ends everything, if it is one.
func (b *backfiller) tolerate(t *tableRead, err error) error {
	if errors.Is(err, postgres.ErrTableChanged) {
		if b.giveUp(t) {
			// The stream tells of the new version, if it has not yet, or the catalog.
			b.lookAgain()
			b.log.Info("a table was altered while it was read; it will be read again", "table", t.table.QualifiedName(), "reason", err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("backfill of table %s: %w", t.table.QualifiedName(), err)
	}
	return nil
}

// finish does what is left to do once all of a table is read.
func (r *reader) finish(ctx context.Context, t *tableRead) error {
	if t.from.Sweep && !r.givenUp(t) {
		if err := r.tolerate(t, r.sweep(ctx, t)); err != nil {
			return err
		}
	}
	if !r.givenUp(t) {
		r.shown.end(t.table.ID)
	}
	return nil
}

// reader is one of those who read tables.
type reader struct {
	*backfiller
	conn    *pgconn.PgConn
	scratch replicate.Scratch
}

// divide divides a table into parts.
func (r *reader) divide(ctx context.Context, t *tableRead) error {
	for {
		bound := r.bind(t.table)
		if bound == nil {
			r.giveUp(t) // a deploy has made an end of it
			return nil
		}
		split, err := postgres.SplitTable(ctx, r.conn, r.conns.registry, postgres.SplitRequest{
			Table: t.table, After: t.from.After, Rows: chunkRows, Within: r.conns.config.Patience * 2 / 3,
		})
		if r.locked(t, err) {
			continue
		}
		if err != nil {
			return err
		}
		r.shown.begin(t.table, t.from.Rows, split.Rows)
		if bound.WholeRow() {
			split.Bounds = nil
		}
		r.begin(t, split.Bounds)
		return nil
	}
}

// locked reports whether an error is that somebody holds a lock on the table for long,
// as those who alter it do. That concerns nobody but its reader, who tries again.
func (r *reader) locked(t *tableRead, err error) bool {
	if !postgres.Locked(err) {
		return false
	}
	r.log.Warn("a table is locked, and read when it no longer is", "table", t.table.QualifiedName(), "reason", err)
	return true
}

// part reads a part of a table, chunk by chunk.
func (r *reader) part(ctx context.Context, t *tableRead, p *part) error {
	from, attempts := p.after, 0
	for !r.givenUp(t) {
		bound := r.bind(t.table)
		if bound == nil {
			r.giveUp(t) // a deploy has made an end of it
			return nil
		}
		c, err := r.chunk(ctx, t, bound, from, p.until)
		if r.locked(t, err) {
			continue
		}
		if err != nil {
			return err
		}
		m, err := c.result(ctx)
		if err != nil {
			return err
		}
		if m.err == nil {
			r.shown.add(t.table.ID, len(c.Rows))
			if c.Done || p.until != nil && slices.Equal(c.Last, p.until) {
				return nil
			}
			from, attempts = c.Last, 0
			continue
		}
		if !m.more || m.reading != t.reading {
			return fmt.Errorf("%w: %w", postgres.ErrTableChanged, m.err)
		}
		if attempts++; attempts == chunkAttempts {
			return m.err
		}
		r.log.Info("a chunk is read again", "reason", m.err)
	}
	return nil
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

// chunk reads and evaluates one chunk.
func (r *reader) chunk(ctx context.Context, t *tableRead, bound *replicate.Table, after, until []string) (*readChunk, error) {
	return r.between(ctx, t, func() (*replicate.Chunk, error) { return r.rows(ctx, t, bound, after, until) })
}

// between reads something of a table between two watermarks.
func (r *reader) between(ctx context.Context, t *tableRead, read func() (*replicate.Chunk, error)) (*readChunk, error) {
	id, c := r.number(t.table.ID)
	if err := r.emit(ctx, r.conn, "low", id); err != nil {
		return nil, err
	}
	chunk, err := read()
	if err == nil {
		r.complete(id, chunk)
	}
	if err != nil && r.conn.IsClosed() {
		return nil, err
	}
	// Also a chunk that could not be read gets its high watermark, which closes its
	// window.
	return c, errors.Join(err, r.emit(ctx, r.conn, "high", id))
}

// rows reads and evaluates what a chunk consists of. A row that fails is left out.
func (r *reader) rows(ctx context.Context, t *tableRead, bound *replicate.Table, after, until []string) (*replicate.Chunk, error) {
	chunk := &replicate.Chunk{Table: bound, Reading: t.reading, After: after}
	q := postgres.ChunkRequest{Table: t.table, After: after, Until: until, Limit: r.limit(t), Bytes: 2 * chunkBytes}
	if bound.WholeRow() {
		q.Limit = 0 // all at once: equal rows have to be counted
	}
	var first error // of a row
	q.Yield = func(row []source.Datum) error {
		e, err := bound.Evaluate(row, &r.scratch)
		if err != nil {
			first = cmp.Or(first, err)
			return nil
		}
		chunk.Rows = append(chunk.Rows, e)
		return nil
	}
	raw, err := postgres.ReadChunk(ctx, r.conn, r.conns.registry, q)
	if err != nil {
		return nil, err
	}
	r.measured(t, raw.Count, raw.Size)
	if left := raw.Count - len(chunk.Rows); left > 0 {
		r.log.Warn("rows could not be evaluated and are left out", "table", t.table.QualifiedName(), "rows", left, "first", first)
	}
	chunk.Last, chunk.Done, chunk.Unseen, chunk.Next = raw.Last, raw.Done, raw.Unseen, raw.Next
	return chunk, nil
}
