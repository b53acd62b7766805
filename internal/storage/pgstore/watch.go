package pgstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace-sync/millrace/internal/checkpoint"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// The bounds of one Change. More versions than maxVersions at once stand for
// everything; more write checkpoints come in several.
const (
	maxVersions = 1000
	maxUploads  = 1000
)

// lookTime bounds one look at what is new, after which the connections are given up.
const lookTime = 15 * time.Second

// Change is what Watch has found new.
type Change struct {
	// Checkpoint is the newest one.
	Checkpoint storage.Checkpoint
	// All stands for every bucket and lookup, when it is not known which changed.
	All     bool
	Buckets []storage.BucketKey // each once
	Lookups []storage.LookupKey // each once
	// Many has more of both, when there were too many to name; nil if not.
	Many *checkpoint.Filter
	// Plan is what the checkpoint has of definitions and deploys, if they changed.
	Plan *storage.Recovered
	// Uploads are the write checkpoints that were requested, of any process.
	Uploads []Upload

	show func()
}

// Show makes Checkpoint what Snapshot returns. Whoever gets a Change calls it, when
// readers may see what belongs to Plan, and no longer what does not.
func (c *Change) Show() { c.show() }

// Upload is a user's newest write checkpoint.
type Upload struct {
	User string
	storage.WriteCheckpoint
}

// watchPositions is how far Watch has come.
type watchPositions struct {
	view view
	seq  int64
	user []byte // shortened, within seq
}

// beginWatch notes where Watch is to begin.
func (s *Store) beginWatch(ctx context.Context) error {
	s.seen.view = s.current
	s.setPulse(func(p *Pulse) { *p = Pulse{At: time.Now(), Led: true} })
	return s.reads.QueryRow(ctx, s.text.in("SELECT seq FROM millrace.upload_counter WHERE one = 1")).Scan(&s.seen.seq)
}

// Pulse tells whether the database answers.
type Pulse struct {
	// At is when Watch last got an answer, and Err why it has got none since.
	At  time.Time
	Err error
	// Led says that some process had the lease then.
	Led bool
}

// Pulse returns what Watch knows of the database.
func (s *Store) Pulse() Pulse {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pulse
}

func (s *Store) setPulse(f func(*Pulse)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.pulse)
}

// Watch calls f with what is new since the store was opened, or since Watch was
// last running, until ctx ends or the store is closed: soon after it is published,
// if the database tells (LISTEN), and every Options.Poll. F calls Change.Show.
// While the database cannot be reached it goes on trying. One Watch at a time may run.
func (s *Store) Watch(ctx context.Context, f func(Change)) error {
	var l listener
	defer l.close()
	for {
		if s.closing.Load() {
			return fmt.Errorf("watch storage: %w", storage.ErrClosed)
		}
		if ctx.Err() != nil {
			return nil
		}
		// Listening begins before looking, so that nothing is missed between.
		l.open(ctx, s)
		if err := s.look(ctx, f); err != nil && ctx.Err() == nil && !s.closing.Load() {
			if s.Pulse().Err == nil {
				s.log.Warn("storage: looking for new checkpoints failed; trying again", "error", err)
			}
			s.setPulse(func(p *Pulse) { p.Err = err })
			if errors.Is(err, context.DeadlineExceeded) {
				s.reads.Reset() // the others will be as silent
			}
			l.close()
		}
		l.wait(ctx, s)
	}
}

// look reports what is new.
func (s *Store) look(ctx context.Context, f func(Change)) error {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	at, recovered, err := s.position(ctx, s.reads)
	if err != nil {
		return err
	}
	changes := changeSet{}
	changes.clear()
	if err := s.changed(ctx, &changes, at.view.version); err != nil {
		return err
	}
	var plan *storage.Recovered
	if changes.plan {
		plan = &recovered
		if err := s.planAt(ctx, at.view, plan); err != nil {
			return err
		}
	}
	uploads, err := s.uploads(ctx)
	if err != nil {
		return err
	}
	for first := true; ; first = false {
		if !first || at.view != s.seen.view || len(uploads) > 0 {
			s.seen.view = at.view
			f(Change{
				Checkpoint: at.view.checkpoint, All: changes.all, Plan: plan, Many: changes.many,
				Buckets: slices.Collect(maps.Keys(changes.buckets)), Lookups: slices.Collect(maps.Keys(changes.lookups)),
				Uploads: uploads, show: func() { s.advance(at.view) },
			})
		}
		if len(uploads) < maxUploads {
			s.setPulse(func(p *Pulse) { *p = Pulse{At: time.Now(), Led: at.led} })
			return nil
		}
		changes = changeSet{}
		changes.clear()
		plan = nil
		if uploads, err = s.uploads(ctx); err != nil {
			return err
		}
	}
}

// advance makes v what Snapshot returns, unless a newer one is known.
func (s *Store) advance(v view) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.version > s.current.version || v.version == s.current.version && v.checkpoint.LSN > s.current.checkpoint.LSN {
		s.current = v
	}
}

// changed collects what the versions from the last one seen up to v changed.
func (s *Store) changed(ctx context.Context, changes *changeSet, v int64) error {
	n := v - s.seen.view.version
	if n == 0 {
		return nil
	}
	if n > maxVersions {
		changes.everything()
		changes.plan = true
		return nil
	}
	rows, err := s.reads.Query(ctx, s.text.in("SELECT changes FROM millrace.publication WHERE version > $1 AND version <= $2"), s.seen.view.version, v)
	if err != nil {
		return err
	}
	var value []byte
	_, err = pgx.ForEachRow(rows, []any{&value}, func() error {
		n--
		if value == nil {
			changes.everything()
			changes.plan = true
			return nil
		}
		return decodeChanges(changes, bytes.Clone(value))
	})
	if n > 0 { // what we have not seen is pruned already
		changes.everything()
		changes.plan = true
	}
	return err
}

// uploads returns the next write checkpoints, at most maxUploads.
func (s *Store) uploads(ctx context.Context) ([]Upload, error) {
	rows, err := s.reads.Query(ctx, s.text.in(`SELECT username, id, lsn, seq, user_key FROM millrace.write_checkpoint
		WHERE seq >= $1 AND (seq > $1 OR user_key > $2) ORDER BY seq, user_key LIMIT $3`), s.seen.seq, s.seen.user, maxUploads)
	if err != nil {
		return nil, err
	}
	var out []Upload
	var user, key []byte
	var id, lsn, seq int64
	_, err = pgx.ForEachRow(rows, []any{&user, &id, &lsn, &seq, &key}, func() error {
		out = append(out, Upload{string(user), storage.WriteCheckpoint{ID: uint64(id), LSN: source.LSN(lsn)}})
		s.seen.seq, s.seen.user = seq, bytes.Clone(key)
		return nil
	})
	return out, err
}

// Refresh returns what the newest checkpoint holds of definitions and deploys, and
// makes it what Snapshot returns.
func (s *Store) Refresh(ctx context.Context) (storage.Recovered, error) {
	r, v, err := s.refresh(ctx)
	if err != nil {
		return storage.Recovered{}, fmt.Errorf("read the store: %w", s.failure(err))
	}
	s.advance(v)
	return r, nil
}

func (s *Store) refresh(ctx context.Context) (storage.Recovered, view, error) {
	at, r, err := s.position(ctx, s.reads)
	if err != nil {
		return r, view{}, err
	}
	return r, at.view, s.planAt(ctx, at.view, &r)
}

// planAt fills in the definitions and deploys of a published version.
func (s *Store) planAt(ctx context.Context, v view, r *storage.Recovered) error {
	if err := s.loadPlan(ctx, s.reads, v.version, r); err != nil {
		return err
	}
	// Reading may have taken longer than what is superseded is kept.
	sn := Snapshot{store: s, view: v}
	var pruned int64
	if err := s.reads.QueryRow(ctx, s.text.in("SELECT pruned FROM millrace.horizon WHERE one = 1")).Scan(&pruned); err != nil {
		return err
	}
	return sn.since(pruned)
}

// channel is what processes are notified by.
func (s *Store) channel() string { return "millrace " + s.opts.Schema[:min(len(s.opts.Schema), 50)] }

// notify wakes the processes that watch. They look by themselves, too, so its
// failure does no harm.
func (s *Store) notify(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, releaseTime)
	defer cancel()
	if _, err := s.reads.Exec(ctx, "SELECT pg_notify($1, '')", s.channel()); err != nil {
		s.log.Debug("storage: other processes are not notified and look for themselves", "error", err)
	}
}

// listener waits for notifications, or just waits if there are none to be had.
type listener struct {
	conn *pgx.Conn
	deaf bool // the database does not know LISTEN
}

func (l *listener) open(ctx context.Context, s *Store) {
	if l.conn != nil || l.deaf {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	pooled, err := s.reads.Acquire(ctx)
	if err != nil {
		return // looking will fail as well, and tell why
	}
	conn := pooled.Hijack()
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{s.channel()}.Sanitize()); err != nil {
		_ = conn.Close(ctx)
		var pg *pgconn.PgError
		l.deaf = errors.As(err, &pg) && pg.SeverityUnlocalized == "ERROR"
		return
	}
	l.conn = conn
}

func (l *listener) close() {
	if l.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseTime)
	defer cancel()
	_ = l.conn.Close(ctx)
	l.conn = nil
}

// wait returns when there may be something new.
func (l *listener) wait(ctx context.Context, s *Store) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Poll)
	defer cancel()
	if l.conn == nil {
		select {
		case <-ctx.Done():
		case <-s.life.Done():
		}
		return
	}
	stop := context.AfterFunc(s.life, cancel)
	defer stop()
	if _, err := l.conn.WaitForNotification(ctx); err != nil && ctx.Err() == nil {
		l.close()
	}
}
