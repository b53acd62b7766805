package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strconv"
	"strings"
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
	eval   *replicate.Evaluator
	tables map[source.TableID]*source.Table
	log    *slog.Logger
	run    string // tells our marks from those of another life

	mu     sync.Mutex
	last   uint64
	chunks map[uint64]*readChunk
}

// readChunk is a chunk on its way to be merged.
type readChunk struct {
	*replicate.Chunk
	merged chan error // holds one
}

func newBackfiller(c *conns, eval *replicate.Evaluator, tables []*source.Table, log *slog.Logger) *backfiller {
	b := &backfiller{
		conns: c, eval: eval, log: log,
		tables: map[source.TableID]*source.Table{},
		run:    strconv.FormatInt(time.Now().UnixNano(), 36),
		chunks: map[uint64]*readChunk{},
	}
	for _, t := range tables {
		b.tables[t.ID] = t
	}
	return b
}

// mark is a watermark: "low run chunk table" or "high run chunk".
type mark struct {
	low   bool
	chunk uint64
	table source.TableID
}

func (b *backfiller) parse(content []byte) (mark, bool) {
	f := strings.Fields(string(content))
	if len(f) != 4 || f[1] != b.run {
		return mark{}, false
	}
	chunk, err := strconv.ParseUint(f[2], 10, 64)
	if err != nil {
		return mark{}, false
	}
	table, err := strconv.ParseUint(f[3], 10, 32)
	if err != nil {
		return mark{}, false
	}
	return mark{low: f[0] == "low", chunk: chunk, table: source.TableID(table)}, true
}

func (b *backfiller) emit(ctx context.Context, which string, chunk uint64, table source.TableID) error {
	_, err := postgres.Emit(ctx, b.conns.backfill, postgres.MessagePrefix, fmt.Appendf(nil, "%s %s %d %d", which, b.run, chunk, table))
	return err
}

// take returns the chunk whose high watermark has come, nil if it is not ours.
func (b *backfiller) take(chunk uint64) *readChunk {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.chunks[chunk]
	delete(b.chunks, chunk)
	return c
}

// Run reads every table that the definitions still want.
func (b *backfiller) Run(ctx context.Context, defs []storage.Definition) error {
	todo := map[source.TableID]storage.TableProgress{}
	var order []source.TableID
	for _, d := range defs {
		for _, p := range d.Tables {
			if _, ok := todo[p.Table]; !ok && !p.Done {
				todo[p.Table] = p
				order = append(order, p.Table)
			}
		}
	}
	for _, id := range order {
		t := b.tables[id]
		if t == nil {
			return fmt.Errorf("backfill: table with oid %d is gone", id)
		}
		start := time.Now()
		rows, err := b.table(ctx, t, todo[id].After, todo[id].Rows)
		if err != nil {
			return fmt.Errorf("backfill of table %s: %w", t.QualifiedName(), err)
		}
		seconds := time.Since(start).Seconds()
		b.log.Info("table read", "table", t.QualifiedName(), "rows", rows, "seconds", seconds, "rows_per_second", int(float64(rows-todo[id].Rows)/max(seconds, 1e-3)))
	}
	return nil
}

// table reads one table, chunk by chunk; it reads ahead while chunks are merged.
func (b *backfiller) table(ctx context.Context, t *source.Table, after []string, rows int64) (int64, error) {
	bound := b.eval.Bind(t)
	if bound == nil {
		return 0, errors.New("no definition reads it")
	}
	from, logged, attempts := after, time.Now(), 0
	var waiting []*readChunk
	for {
		done := len(waiting) > 0 && waiting[len(waiting)-1].Done
		if !done && len(waiting) < chunksAhead {
			c, err := b.read(ctx, bound, from)
			if err != nil {
				return rows, err
			}
			waiting = append(waiting, c)
			from = c.Last
			continue
		}
		c := waiting[0]
		waiting = waiting[1:]
		select {
		case err := <-c.merged:
			if err != nil {
				if attempts++; attempts == chunkAttempts {
					return rows, err
				}
				b.log.Info("chunk is read again", "reason", err)
				// Those read ahead follow a chunk that was not merged: they are refused
				// too, and wait for it here.
				for _, w := range waiting {
					select {
					case <-w.merged:
					case <-ctx.Done():
						return rows, ctx.Err()
					}
				}
				waiting, from = nil, c.After
				continue
			}
		case <-ctx.Done():
			return rows, ctx.Err()
		}
		attempts = 0
		rows += int64(len(c.Rows))
		if c.Done {
			return rows, nil
		}
		if time.Since(logged) > progressLog {
			logged = time.Now()
			b.log.Info("reading table", "table", t.QualifiedName(), "rows", rows)
		}
	}
}

// read reads and evaluates one chunk between its watermarks.
func (b *backfiller) read(ctx context.Context, t *replicate.Table, after []string) (*readChunk, error) {
	b.mu.Lock()
	b.last++
	id := b.last
	b.mu.Unlock()
	if err := b.emit(ctx, "low", id, t.ID); err != nil {
		return nil, err
	}
	limit := chunkRows
	if t.WholeRow() {
		limit = 0 // all at once: equal rows have to be counted
	}
	raw, err := postgres.ReadChunk(ctx, b.conns.backfill, b.conns.registry, postgres.ChunkRequest{Table: t.Table, After: after, Limit: limit})
	if err != nil {
		return nil, err
	}
	rows, err := evaluate(t, raw.Rows)
	if err != nil {
		return nil, err
	}
	c := &readChunk{
		Chunk: &replicate.Chunk{
			Table: t, Rows: rows, After: after, Last: raw.Last, Done: raw.Done,
			Unseen: raw.Unseen, Next: raw.Next,
		},
		merged: make(chan error, 1),
	}
	b.mu.Lock()
	b.chunks[id] = c
	b.mu.Unlock()
	return c, b.emit(ctx, "high", id, t.ID)
}

// evaluate evaluates the rows of a chunk on all processors.
func evaluate(t *replicate.Table, raw [][]source.Datum) ([]*replicate.Row, error) {
	rows := make([]*replicate.Row, len(raw))
	workers := min(runtime.GOMAXPROCS(0), 1+len(raw)/1000)
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			var s replicate.Scratch
			for i := w * len(raw) / workers; i < (w+1)*len(raw)/workers; i++ {
				if rows[i], errs[w] = t.Evaluate(raw[i], &s); errs[w] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return rows, errors.Join(errs...)
}
