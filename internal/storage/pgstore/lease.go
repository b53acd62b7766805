package pgstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace-sync/millrace/internal/storage"
)

// releaseTime bounds giving the lease back, and telling others of something new.
const releaseTime = 5 * time.Second

// leasePoll is how often who waits for the lease looks whether it was given back.
const leasePoll = time.Second

// acquire takes the lease, with the next token, if it has run out; it waits for
// that if the options say so.
func (s *Store) acquire(ctx context.Context) error {
	told := false
	for {
		holder, left, err := s.tryAcquire(ctx)
		if err != nil {
			return fmt.Errorf("take the lease: %w", err)
		}
		if holder == "" {
			return nil
		}
		if !s.opts.Wait {
			return fmt.Errorf("%w: %s writes to it; end that one, and if it is dead already wait %v", storage.ErrLocked, holder, left.Round(time.Second))
		}
		if !told {
			s.log.Info("waiting for another process to give up the storage", "holder", holder)
			if told = true; s.opts.Waiting != nil {
				s.opts.Waiting(holder)
			}
		}
		// It may be renewed until then, or given back sooner.
		pause := time.NewTimer(min(s.opts.Lease/3, leasePoll, left+10*time.Millisecond))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return fmt.Errorf("%w: %s writes to it: %w", storage.ErrLocked, holder, ctx.Err())
		}
	}
}

// tryAcquire takes the lease, or returns who has it and for how long.
func (s *Store) tryAcquire(ctx context.Context) (string, time.Duration, error) {
	err := s.writes.QueryRow(ctx, s.text.in(`UPDATE millrace.store
		SET token = token + 1, owner = $1, holder = $2, expires = clock_timestamp() + $3::bigint * interval '1 millisecond'
		WHERE one = 1 AND expires <= clock_timestamp() RETURNING token`), s.owner, holder(), s.opts.Lease.Milliseconds()).Scan(&s.writer.token)
	if !errors.Is(err, pgx.ErrNoRows) {
		return "", 0, err
	}
	var name string
	var left float64
	err = s.writes.QueryRow(ctx, s.text.in(`SELECT holder, extract(epoch FROM expires - clock_timestamp())::float8
		FROM millrace.store WHERE one = 1`)).Scan(&name, &left)
	if err != nil {
		return "", 0, err
	}
	return name, max(0, time.Duration(left*float64(time.Second))), nil
}

// retake takes the next token if the lease is still ours. Whatever was sent under
// the old one and has not been committed by now never will be.
func (s *Store) retake(ctx context.Context) error {
	var token int64
	err := s.writes.QueryRow(ctx, s.text.in(`UPDATE millrace.store
		SET token = token + 1, expires = clock_timestamp() + $2::bigint * interval '1 millisecond'
		WHERE one = 1 AND owner = $1 RETURNING token`), s.owner, s.opts.Lease.Milliseconds()).Scan(&token)
	if errors.Is(err, pgx.ErrNoRows) {
		return s.lost()
	}
	if err != nil {
		return fmt.Errorf("renew the lease: %w", err)
	}
	s.writer.token = token
	return nil
}

// renew extends the lease.
func (s *Store) renew(ctx context.Context) error {
	tag, err := s.writes.Exec(ctx, s.text.in(`UPDATE millrace.store
		SET expires = clock_timestamp() + $2::bigint * interval '1 millisecond'
		WHERE one = 1 AND owner = $1`), s.owner, s.opts.Lease.Milliseconds())
	if err != nil {
		return fmt.Errorf("renew the lease: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return s.lost()
	}
	return nil
}

// release gives the lease back. If that fails, it runs out.
func (s *Store) release() {
	ctx, cancel := context.WithTimeout(context.Background(), releaseTime)
	defer cancel()
	_, err := s.writes.Exec(ctx, s.text.in("UPDATE millrace.store SET expires = clock_timestamp() WHERE one = 1 AND owner = $1"), s.owner)
	if err != nil {
		s.log.Warn("the storage's lease was not given back; another process can write when it has run out", "error", err)
	}
}

// lost makes the store fail: another process has taken the lease.
func (s *Store) lost() error {
	s.health.fail(fmt.Errorf("%w: %w: this process was silent for longer than its lease of %v and another one took over; start it again to wait for its turn",
		storage.ErrFailed, storage.ErrLocked, s.opts.Lease))
	return s.health.err()
}

// fenced reports whether a statement failed because the token is no longer the store's.
func fenced(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.ConstraintName == "millrace_fence"
}
