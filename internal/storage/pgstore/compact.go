package pgstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/record"
)

// compactPage is how many buckets, or row records, are looked up at a time.
const compactPage = 1000

// errGone: the definition was dropped while its bucket was compacted.
var errGone = errors.New("the definition was dropped")

// Compact drops what no client needs any more, as bucket.Compact says, and the row
// records of tables that no definition reads any more. It goes on beside reads and
// commits and waits for transactions whose parts are not published; one compaction
// waits for another. What it did until an error is kept, and counted. The space is
// given back when no snapshot shows what was dropped, which Run sees to.
func (s *Store) Compact(ctx context.Context, opts storage.CompactOptions) (storage.CompactStats, error) {
	select {
	case s.compacting <- struct{}{}:
		defer func() { <-s.compacting }()
	case <-ctx.Done():
		return storage.CompactStats{}, fmt.Errorf("compact: %w", ctx.Err())
	}
	c := &compaction{store: s, opts: opts, pace: bucket.NewPace(opts.Share, time.Now())}
	err := s.writable(ctx)
	if err == nil {
		err = c.run(ctx)
	}
	if err != nil {
		err = fmt.Errorf("compact: %w", err)
	}
	return c.stats, err
}

type compaction struct {
	store *Store
	opts  storage.CompactOptions
	stats storage.CompactStats
	pace  bucket.Pace
}

// candidate is a bucket that may be worth compacting.
type candidate struct {
	id    int64
	def   storage.DefinitionID
	until bucket.OpID // of its mark
}

func (c *compaction) run(ctx context.Context) error {
	s := c.store
	s.mu.Lock()
	at := s.current
	s.mu.Unlock()
	if len(c.opts.Buckets) > 0 {
		list, err := c.given(ctx, at)
		if err != nil {
			return fmt.Errorf("look up buckets: %w", err)
		}
		return c.buckets(ctx, list, at.checkpoint.Op)
	}
	s.writing.Lock()
	idle := c.opts.Incremental && s.writer.lastCompacted == at.checkpoint.Op
	s.writing.Unlock()
	for after := int64(0); !idle; {
		list, last, err := c.candidates(ctx, after, at)
		if err != nil {
			return fmt.Errorf("look for buckets: %w", err)
		}
		if err := c.buckets(ctx, list, at.checkpoint.Op); err != nil {
			return err
		}
		if last == 0 {
			break
		}
		after = last
	}
	s.writing.Lock()
	s.writer.lastCompacted = at.checkpoint.Op
	s.writing.Unlock()
	if err := c.rows(ctx); err != nil {
		return fmt.Errorf("drop row records: %w", err)
	}
	return nil
}

func (c *compaction) buckets(ctx context.Context, list []candidate, until bucket.OpID) error {
	for _, b := range list {
		if err := c.bucket(ctx, b, until); err != nil && !errors.Is(err, errGone) {
			return fmt.Errorf("bucket number %d of definition %d: %w", b.id, b.def, err)
		}
	}
	return nil
}

// stateNow are the columns of a bucket b: its number of ops in version $1, up to op
// $2, and its mark.
const stateNow = `b.id, b.def, o.count + coalesce(c.count, 0), coalesce(m.until, 0), coalesce(m.count, 0)`

const stateNowJoins = `JOIN LATERAL (SELECT count FROM millrace.op WHERE bucket = b.id AND id <= $2 ORDER BY id DESC LIMIT 1) o ON true
	LEFT JOIN LATERAL (SELECT count FROM millrace.compacted WHERE bucket = b.id AND from_v <= $1 ORDER BY from_v DESC LIMIT 1) c ON true
	LEFT JOIN millrace.compaction_mark m ON m.bucket = b.id`

// given looks up the buckets that the options name.
func (c *compaction) given(ctx context.Context, at view) ([]candidate, error) {
	s := c.store
	defs, params := bucketColumns(c.opts.Buckets)
	rows, err := s.writes.Query(ctx, s.text.in(`SELECT `+stateNow+` FROM unnest($3::bigint[], $4::bytea[]) k (def, params)
		JOIN millrace.bucket b ON b.def = k.def AND b.params = k.params `+stateNowJoins), at.version, int64(at.checkpoint.Op), defs, params)
	if err != nil {
		return nil, s.failure(err)
	}
	var out []candidate
	var b candidate
	var count, marked int64
	_, err = pgx.ForEachRow(rows, []any{&b.id, &b.def, &count, &b.until, &marked}, func() error {
		out = append(out, b)
		return nil
	})
	return out, s.failure(err)
}

// candidates returns the next buckets that may be worth compacting, and the last one
// looked at, 0 if it was the last of all.
func (c *compaction) candidates(ctx context.Context, after int64, at view) (list []candidate, last int64, err error) {
	s := c.store
	if err := c.rest(ctx); err != nil {
		return nil, 0, err
	}
	var plan storage.Recovered
	if err := s.loadPlan(ctx, s.writes, at.version, &plan); err != nil {
		return nil, 0, s.failure(err)
	}
	busy := map[storage.DefinitionID]bool{}
	for _, d := range plan.Definitions {
		busy[d.ID] = d.State == storage.Backfilling
	}
	rows, err := s.writes.Query(ctx, s.text.in(`SELECT `+stateNow+`
		FROM (SELECT id, def FROM millrace.bucket WHERE id > $3 ORDER BY id LIMIT $4) b `+stateNowJoins+` ORDER BY b.id`),
		at.version, int64(at.checkpoint.Op), after, compactPage)
	if err != nil {
		return nil, 0, s.failure(err)
	}
	var b candidate
	var count, marked int64
	n := 0
	_, err = pgx.ForEachRow(rows, []any{&b.id, &b.def, &count, &b.until, &marked}, func() error {
		n++
		last = b.id
		if bucket.Due(count, marked, c.opts.Incremental) && !(c.opts.Incremental && busy[b.def]) {
			list = append(list, b)
		}
		return nil
	})
	if err != nil {
		return nil, 0, s.failure(err)
	}
	if n == 0 {
		return nil, 0, nil
	}
	return list, last, nil
}

// bucket compacts one bucket.
func (c *compaction) bucket(ctx context.Context, b candidate, until bucket.OpID) error {
	s := c.store
	did, err := bucket.Compact(compactable{c, ctx, b}, bucket.NewCompaction(until, b.until, c.opts.Incremental))
	c.stats.Buckets++
	c.stats.Add(did)
	if err != nil {
		return err
	}
	return s.settled(ctx, func(w *writer) error {
		if _, ok := w.defs[b.def]; !ok {
			return errGone
		}
		return s.alone(ctx, `INSERT INTO millrace.compaction_mark (bucket, until, count)
			SELECT b.id, $2, o.count + coalesce(c.count, 0) FROM (SELECT $1::bigint AS id) b
			JOIN LATERAL (SELECT count FROM millrace.op WHERE bucket = b.id ORDER BY id DESC LIMIT 1) o ON true
			LEFT JOIN LATERAL (SELECT count FROM millrace.compacted WHERE bucket = b.id ORDER BY from_v DESC LIMIT 1) c ON true
			ON CONFLICT (bucket) DO UPDATE SET until = excluded.until, count = excluded.count`, b.id, int64(until))
	})
}

// alone carries out one statement in a transaction that checks who has the lease. The
// caller holds writing.
func (s *Store) alone(ctx context.Context, statement string, args ...any) error {
	return s.remove(ctx, statement, false, args...)
}

// settled calls f with the writer, when there is nothing that is not published.
func (s *Store) settled(ctx context.Context, f func(*writer) error) error {
	w := &s.writer
	s.writing.Lock()
	defer s.writing.Unlock()
	for {
		if err := s.writable(ctx); err != nil {
			return err
		}
		if w.unknown != nil {
			return fmt.Errorf("%w: the outcome of a commit has to be found out first: %w", storage.ErrUnavailable, w.unknown)
		}
		if !w.parts {
			return f(w)
		}
		if w.settled == nil {
			w.settled = make(chan struct{})
		}
		settled := w.settled
		s.writing.Unlock()
		select {
		case <-settled:
		case <-s.health.failed:
		case <-s.life.Done():
		case <-ctx.Done():
		}
		s.writing.Lock()
	}
}

// compactable is a bucket under compaction. Its ops up to a published checkpoint
// are changed by nobody else, but may be dropped.
type compactable struct {
	*compaction
	ctx context.Context
	candidate
}

// Descend implements bucket.Compactable.
func (t compactable) Descend(after, until bucket.OpID, yield func(*bucket.Op) bool) error {
	var dec record.OpDecoder
	var op bucket.Op
	for limit := firstPage; until > after; limit = min(4*limit, maxPage) {
		if err := t.rest(t.ctx); err != nil {
			return err
		}
		n, more, err := t.page(after, until, limit, func(id bucket.OpID, body []byte) (bool, error) {
			op.ID = id
			until = id - 1
			if err := dec.Decode(&op, body); err != nil {
				return false, err
			}
			return yield(&op), nil
		})
		if err != nil || !more || n < limit {
			return err
		}
	}
	return nil
}

// page reads up to limit ops, the newest first.
func (t compactable) page(after, until bucket.OpID, limit int, yield func(bucket.OpID, []byte) (bool, error)) (n int, more bool, err error) {
	s := t.store
	ctx, cancel := context.WithTimeout(t.ctx, readTime)
	defer cancel()
	rows, err := s.writes.Query(ctx, s.text.in(`SELECT x.id, `+editedBody+` FROM millrace.op x
		WHERE x.bucket = $1 AND x.id > $3 AND x.id <= $4
		AND x.id >= coalesce((SELECT floor FROM millrace.compacted WHERE bucket = $1 ORDER BY from_v DESC LIMIT 1), 0)
		ORDER BY x.id DESC LIMIT $5`), t.id, int64(forever), int64(after), int64(until), limit)
	if err != nil {
		return 0, false, s.failure(err)
	}
	defer rows.Close()
	for rows.Next() {
		raw := rows.RawValues()
		if len(raw) != 2 || len(raw[0]) != 8 {
			return n, false, errForm
		}
		n++
		more, err := yield(bucket.OpID(readInt(raw[0])), raw[1])
		if err != nil || !more {
			return n, false, err
		}
	}
	return n, true, s.failure(rows.Err())
}

// Apply implements bucket.Compactable. The edit shows from the next version on.
func (t compactable) Apply(e *bucket.Edit) error {
	s := t.store
	var ids []int64
	var bodies [][]byte
	floor := bucket.OpID(0)
	if e.Clear != nil {
		floor = e.Clear.ID
		ids, bodies = append(ids, int64(e.Clear.ID)), append(bodies, record.AppendOp(nil, e.Clear))
	}
	for i := range e.Set {
		ids, bodies = append(ids, int64(e.Set[i].ID)), append(bodies, record.AppendOp(nil, &e.Set[i]))
	}
	return s.settled(t.ctx, func(w *writer) error {
		if _, ok := w.defs[t.def]; !ok {
			return errGone
		}
		return s.publishAlone(t.ctx, func(q *queue) {
			q.add(`INSERT INTO millrace.compacted (bucket, from_v, count, bytes, floor)
				SELECT $1, $2, coalesce(c.count, 0) + $3, coalesce(c.bytes, 0) + $4, greatest(coalesce(c.floor, 0), $5)
				FROM (SELECT $1::bigint AS id) b
				LEFT JOIN LATERAL (SELECT count, bytes, floor FROM millrace.compacted WHERE bucket = b.id ORDER BY from_v DESC LIMIT 1) c ON true`,
				t.id, q.version, e.Count, e.Bytes, int64(floor))
			q.add("INSERT INTO millrace.op_edit (bucket, id, from_v, body) SELECT $1, k.id, $2, k.body FROM unnest($3::bigint[], $4::bytea[]) k (id, body)",
				t.id, q.version, ids, bodies)
		})
	})
}

// publishAlone commits what fill adds as a version of its own, at the checkpoint that
// is the newest already. The caller holds writing, and there are no parts.
func (s *Store) publishAlone(ctx context.Context, fill func(*queue)) error {
	w := &s.writer
	ctx, cancel := s.abandonable(context.WithoutCancel(ctx), commitTime)
	defer cancel()
	conn, err := s.writes.Acquire(ctx)
	if err != nil {
		return s.failure(err)
	}
	defer conn.Release()
	next := position{view: w.view, nextOp: w.nextOp, nextDef: w.nextDef, nextBucket: w.nextBucket, lastOp: w.lastOp}
	next.view.version++
	var out pgx.Batch
	out.Queue(beginText)
	q := queue{batch: &out, text: s.text, version: next.view.version}
	fill(&q)
	// It changes nothing that a client has to hear of.
	q.add("INSERT INTO millrace.publication (version, at, changes) VALUES ($1, clock_timestamp(), $2)", q.version, appendChanges(nil, &changeSet{}))
	q.fence(w.token, s.opts.Lease, next)
	out.Queue("COMMIT")
	if err := sendBatch(ctx, conn.Conn(), &out); err != nil {
		return s.undecided(ctx, conn.Conn(), err, true)
	}
	w.view = next.view
	s.publish(w.view)
	return nil
}

// rest returns an error if the work has to end, and rests if it is time to.
func (c *compaction) rest(ctx context.Context) error {
	if err := c.store.writable(ctx); err != nil {
		return err
	}
	rest := c.pace.Rest(time.Now())
	if rest == 0 {
		return nil
	}
	t := time.NewTimer(rest)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-c.store.health.failed:
	case <-c.store.life.Done():
	}
	c.pace.Rested(time.Now())
	return nil
}
