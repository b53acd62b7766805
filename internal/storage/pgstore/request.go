package pgstore

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/record"
)

const (
	// requestPoll is how often a process that writes looks for requests, answerPoll how
	// often one that made one looks for its answer.
	requestPoll = 500 * time.Millisecond
	answerPoll  = 200 * time.Millisecond
	// requestAge is how long a request is carried out by whoever writes then, if its
	// context does not end before: who made it may be dead.
	requestAge = time.Hour
)

// compactKind is the request that the store itself answers.
const compactKind = "compact"

// RequestCompaction has the process that writes compact, and waits until it has. It
// fails with ErrUnavailable if no process writes. If ctx ends before, the request is
// withdrawn, unless it is being carried out.
func (s *Store) RequestCompaction(ctx context.Context, opts storage.CompactOptions) (storage.CompactStats, error) {
	incremental := byte(0)
	if opts.Incremental {
		incremental = 1
	}
	answer, err := s.request(ctx, compactKind, appendBucketKeys([]byte{incremental}, opts.Buckets), false)
	if err != nil {
		return storage.CompactStats{}, fmt.Errorf("request a compaction: %w", err)
	}
	return decodeStats(answer)
}

// Ask has the process that writes do what AnswerRequests was given for, and returns its
// answer. If no process writes the error is ErrUnavailable: at once, or, with wait, when
// none has come before ctx ends. Any process may ask, also one that writes.
func (s *Store) Ask(ctx context.Context, kind string, body []byte, wait bool) ([]byte, error) {
	answer, err := s.request(ctx, kind, body, wait)
	if err != nil {
		return nil, fmt.Errorf("ask the process that writes: %w", err)
	}
	return answer, nil
}

// request makes a request and waits for its answer, or, unless it is patient, until no
// process writes.
func (s *Store) request(ctx context.Context, kind string, body []byte, patient bool) ([]byte, error) {
	id, age := rand.Text(), requestAge
	if end, ok := ctx.Deadline(); ok {
		age = min(age, time.Until(end))
	}
	_, err := s.reads.Exec(ctx, s.text.in(`INSERT INTO millrace.request (id, at, expires, kind, body, done)
		VALUES ($1, clock_timestamp(), clock_timestamp() + $2::bigint * interval '1 millisecond', $3, $4, false)`), id, age.Milliseconds(), kind, append([]byte{}, body...))
	if err != nil {
		return nil, s.failure(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
		defer cancel()
		_, _ = s.reads.Exec(ctx, s.text.in("DELETE FROM millrace.request WHERE id = $1"), id) // or it is by its age
	}()
	tick := time.NewTicker(answerPoll)
	defer tick.Stop()
	for led := true; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			if !led {
				return nil, fmt.Errorf("%w: no process writes", storage.ErrUnavailable)
			}
			return nil, ctx.Err()
		}
		var done bool
		var answer []byte
		var failure *string
		err := s.reads.QueryRow(ctx, s.text.in(`SELECT r.done, r.answer, r.failure, s.expires > clock_timestamp()
			FROM millrace.request r JOIN millrace.store s ON s.one = 1 WHERE r.id = $1`), id).Scan(&done, &answer, &failure, &led)
		switch {
		case err != nil && ctx.Err() != nil:
		case err != nil:
			return nil, s.failure(err)
		case failure != nil:
			return nil, fmt.Errorf("the process that writes: %s", *failure)
		case done:
			return answer, nil
		case !led && !patient:
			return nil, fmt.Errorf("%w: no process writes any more", storage.ErrUnavailable)
		}
	}
}

// AnswerRequests carries out what other processes request, until ctx ends or this
// process no longer writes: compactions, and by answer what they Ask. Answer may be nil.
// Neither waits for the other.
func (s *Store) AnswerRequests(ctx context.Context, answer func(ctx context.Context, kind string, body []byte) ([]byte, error)) error {
	if answer == nil {
		answer = func(_ context.Context, kind string, _ []byte) ([]byte, error) {
			return nil, fmt.Errorf("it does not know what %q is", kind)
		}
	}
	var both sync.WaitGroup
	both.Go(func() { s.answerAll(ctx, "kind = $1", s.answerCompaction) })
	both.Go(func() { s.answerAll(ctx, "kind <> $1", answer) })
	both.Wait()
	return nil
}

func (s *Store) answerAll(ctx context.Context, which string, answer func(context.Context, string, []byte) ([]byte, error)) {
	tick := time.NewTicker(requestPoll)
	defer tick.Stop()
	for {
		for more := true; more; {
			var err error
			if more, err = s.answerOne(ctx, which, answer); err != nil && ctx.Err() == nil {
				s.log.Debug("storage: a request could not be answered", "error", err)
			}
		}
		select {
		case <-tick.C:
		case <-s.health.failed:
			return // Run says why
		case <-s.life.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

// answerOne carries out the oldest request of a kind, and reports whether there was one.
func (s *Store) answerOne(ctx context.Context, which string, answer func(context.Context, string, []byte) ([]byte, error)) (bool, error) {
	var id, kind string
	var body []byte
	err := s.reads.QueryRow(ctx, s.text.in(`SELECT id, kind, body FROM millrace.request
		WHERE NOT done AND expires > clock_timestamp() AND `+which+` ORDER BY at LIMIT 1`), compactKind).Scan(&id, &kind, &body)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	value, err := answer(ctx, kind, body)
	if ctx.Err() != nil {
		return false, ctx.Err() // the next process that writes carries it out
	}
	var failure *string
	if err != nil {
		text := err.Error()
		failure = &text
	}
	_, err = s.reads.Exec(ctx, s.text.in("UPDATE millrace.request SET done = true, answer = $2, failure = $3 WHERE id = $1"), id, value, failure)
	return err == nil, err
}

func (s *Store) answerCompaction(ctx context.Context, _ string, body []byte) ([]byte, error) {
	if len(body) == 0 {
		return nil, storage.ErrCorrupt
	}
	buckets, err := decodeBucketKeys(body[1:])
	if err != nil {
		return nil, err
	}
	stats, err := s.Compact(ctx, storage.CompactOptions{Buckets: buckets, Incremental: body[0] == 1})
	if err != nil {
		return nil, err
	}
	return appendStats(nil, &stats), nil
}

func appendBucketKeys(dst []byte, keys []storage.BucketKey) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(keys)))
	for _, k := range keys {
		dst = record.AppendBucketKey(dst, k)
	}
	return dst
}

func decodeBucketKeys(value []byte) ([]storage.BucketKey, error) {
	r := record.NewDecoder(value)
	keys := make([]storage.BucketKey, r.Count())
	for i := range keys {
		keys[i] = r.BucketKey()
	}
	return keys, r.End("bucket keys")
}

func appendStats(dst []byte, s *storage.CompactStats) []byte {
	for _, n := range []int64{s.Buckets, s.Moved, s.Cleared, s.Shifted, s.Bytes, s.Rows} {
		dst = binary.AppendVarint(dst, n)
	}
	return dst
}

func decodeStats(value []byte) (s storage.CompactStats, err error) {
	for _, n := range []*int64{&s.Buckets, &s.Moved, &s.Cleared, &s.Shifted, &s.Bytes, &s.Rows} {
		v, size := binary.Varint(value)
		if size <= 0 {
			return s, fmt.Errorf("decode what a compaction did: %w", storage.ErrCorrupt)
		}
		*n, value = v, value[size:]
	}
	return s, nil
}
