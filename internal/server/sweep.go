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

// errReread ends a sweep whose table is to be read again.
var errReread = errors.New("the table is to be read again")

// sweep looks all stored rows of a table up in the source, part by part, each
// between watermarks like a chunk, and has those taken back that are gone. The table
// has been read; end is where that ended. It returns what became of the last part.
func (b *backfiller) sweep(ctx context.Context, t *source.Table, end []string) (last merged, err error) {
	var keys []source.RowKey
	looked, gone, logged := 0, 0, time.Now()
	part := func(done bool) error {
		n, m, err := b.sweepPart(ctx, t, end, keys, done)
		looked, gone, last = looked+len(keys), gone+n, m
		keys = keys[:0]
		if time.Since(logged) > progressLog {
			logged = time.Now()
			b.log.Info("looking up stored rows", "table", t.QualifiedName(), "rows", looked, "gone", gone)
		}
		if err == nil && m.err != nil {
			return errReread
		}
		return err
	}
	err = b.stored.RowsOf(t.ID, func(key source.RowKey, _ *storage.RowRecord) error {
		if keys = append(keys, key); len(keys) < sweepRows {
			return nil
		}
		return part(false)
	})
	if err == nil {
		err = part(true)
	}
	if errors.Is(err, errReread) {
		return last, nil
	}
	if err == nil && gone > 0 {
		b.log.Info("stored rows that the table no longer has are taken back", "table", t.QualifiedName(), "rows", gone)
	}
	return last, err
}

// sweepPart looks some stored rows up, again if the stream spoils it, and returns
// how many were gone.
func (b *backfiller) sweepPart(ctx context.Context, t *source.Table, end []string, keys []source.RowKey, done bool) (int, merged, error) {
	for attempts := 1; ; attempts++ {
		bound := b.bind(t)
		if bound == nil {
			return 0, merged{}, nil // a deploy has made an end of it
		}
		c, err := b.between(ctx, t.ID, func() (*replicate.Chunk, error) { return b.lookUp(ctx, bound, end, keys, done) })
		if err != nil {
			return 0, merged{}, err
		}
		m, err := c.result(ctx)
		if err != nil {
			return 0, merged{}, err
		}
		if m.err == nil {
			return len(c.Gone), m, nil
		}
		if !m.more || b.superseded(t.ID) {
			return 0, merged{}, fmt.Errorf("%w: %w", postgres.ErrTableChanged, m.err)
		}
		if !m.next.Sweep || attempts == chunkAttempts {
			return 0, m, nil
		}
		b.log.Info("stored rows are looked up again", "reason", m.err)
	}
}

// lookUp finds which of the stored rows are gone.
func (b *backfiller) lookUp(ctx context.Context, t *replicate.Table, end []string, keys []source.RowKey, done bool) (*replicate.Chunk, error) {
	asked := make([][]string, len(keys))
	for i, key := range keys {
		var err error
		if asked[i], err = key.Texts(); err != nil {
			return nil, fmt.Errorf("stored row of %s: %w", t.QualifiedName(), err)
		}
	}
	raw, err := postgres.ReadChunk(ctx, b.conns.backfill, b.conns.registry, postgres.ChunkRequest{Table: t.Table, Keys: asked})
	if err != nil {
		return nil, err
	}
	there := make(map[source.RowKey]struct{}, len(raw.Rows))
	var buf []byte
	for _, row := range raw.Rows {
		if buf, err = source.AppendRowKey(buf[:0], t.Table, row); err != nil {
			return nil, err
		}
		there[source.RowKey(buf)] = struct{}{}
	}
	c := &replicate.Chunk{Table: t, Sweep: true, After: end, Last: end, Done: done, Unseen: raw.Unseen, Next: raw.Next}
	for _, key := range keys {
		if _, ok := there[key]; !ok {
			c.Gone = append(c.Gone, key)
		}
	}
	return c, nil
}
