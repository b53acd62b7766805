package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace-sync/millrace/internal/postgres"
	"github.com/millrace-sync/millrace/internal/replicate"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// sweepRows is how many stored rows are looked up in the source at a time.
const sweepRows = 10_000

// errSwept ends a sweep: nothing is left to be done, or nobody wants it any more.
var errSwept = errors.New("the sweep is over")

// sweep looks all stored rows of a table up in the source, part by part, each
// between watermarks like a chunk, and has those taken back that are gone. The table
// has been read.
func (r *reader) sweep(ctx context.Context, t *tableRead) error {
	var keys []source.RowKey
	looked, gone, logged := 0, 0, time.Now()
	part := func(done bool) error {
		n, err := r.sweepPart(ctx, t, keys, done)
		looked, gone = looked+len(keys), gone+n
		keys = keys[:0]
		if time.Since(logged) > progressLog {
			logged = time.Now()
			r.log.Info("looking up stored rows", "table", t.table.QualifiedName(), "rows", looked, "gone", gone)
		}
		return err
	}
	err := r.stored.RowsOf(t.table.ID, func(key source.RowKey, _ *storage.RowRecord) error {
		if keys = append(keys, key); len(keys) < sweepRows {
			return nil
		}
		return part(false)
	})
	if err == nil {
		err = part(true)
	}
	if gone > 0 {
		r.log.Info("stored rows that the table no longer has are taken back", "table", t.table.QualifiedName(), "rows", gone)
	}
	if errors.Is(err, errSwept) {
		return nil
	}
	return err
}

// sweepPart looks some stored rows up, again if the stream spoils it, and returns
// how many were gone.
func (r *reader) sweepPart(ctx context.Context, t *tableRead, keys []source.RowKey, done bool) (int, error) {
	for attempts := 1; ; attempts++ {
		bound := r.bind(t.table)
		if bound == nil {
			r.giveUp(t) // a deploy has made an end of it
			return 0, errSwept
		}
		if bound.WholeRow() {
			return 0, errSwept // they were counted when they were read
		}
		c, err := r.between(ctx, t, func() (*replicate.Chunk, error) { return r.lookUp(ctx, t, bound, keys, done) })
		if r.locked(t, err) {
			attempts--
			continue
		}
		if err != nil {
			return 0, err
		}
		m, err := c.result(ctx)
		if err != nil {
			return 0, err
		}
		if m.err == nil {
			return len(c.Gone), nil
		}
		if !m.more || m.reading != t.reading {
			return 0, fmt.Errorf("%w: %w", postgres.ErrTableChanged, m.err)
		}
		if attempts == chunkAttempts {
			return 0, m.err
		}
		r.log.Info("stored rows are looked up again", "reason", m.err)
	}
}

// lookUp finds which of the stored rows are gone.
func (r *reader) lookUp(ctx context.Context, t *tableRead, bound *replicate.Table, keys []source.RowKey, done bool) (*replicate.Chunk, error) {
	asked := make([][]string, len(keys))
	for i, key := range keys {
		var err error
		if asked[i], err = key.Texts(); err != nil {
			return nil, fmt.Errorf("stored row of %s: %w", t.table.QualifiedName(), err)
		}
	}
	raw, err := postgres.ReadChunk(ctx, r.conn, r.conns.registry, postgres.ChunkRequest{Table: t.table, Keys: asked})
	if err != nil {
		return nil, err
	}
	there := make(map[source.RowKey]struct{}, len(raw.Rows))
	var buf []byte
	for _, row := range raw.Rows {
		if buf, err = source.AppendRowKey(buf[:0], t.table, row); err != nil {
			return nil, err
		}
		there[source.RowKey(buf)] = struct{}{}
	}
	c := &replicate.Chunk{Table: bound, Reading: t.reading, Sweep: true, Done: done, Unseen: raw.Unseen, Next: raw.Next}
	for _, key := range keys {
		if _, ok := there[key]; !ok {
			c.Gone = append(c.Gone, key)
		}
	}
	return c, nil
}
