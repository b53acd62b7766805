package pgstore

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/record"
)

const (
	// requestPoll is how often a process that writes looks for requests, and one that
	// made one for its answer.
	requestPoll = time.Second
	// requestAge is how long a request is of interest; who made it has gone by then.
	requestAge = time.Hour
)

// RequestCompaction has the process that writes compact, and waits until it has. It
// fails with ErrUnavailable if no process writes. If ctx ends before, the request is
// withdrawn, unless it is being carried out.
func (s *Store) RequestCompaction(ctx context.Context, opts storage.CompactOptions) (storage.CompactStats, error) {
	id := rand.Text()
	_, err := s.reads.Exec(ctx, s.text.in(`INSERT INTO millrace.compaction_request (id, at, buckets, incremental, done)
		VALUES ($1, clock_timestamp(), $2, $3, false)`), id, appendBucketKeys(nil, opts.Buckets), opts.Incremental)
	if err != nil {
		return storage.CompactStats{}, fmt.Errorf("request a compaction: %w", s.failure(err))
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
		defer cancel()
		_, _ = s.reads.Exec(ctx, s.text.in("DELETE FROM millrace.compaction_request WHERE id = $1"), id) // or it is by its age
	}()
	tick := time.NewTicker(requestPoll)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return storage.CompactStats{}, fmt.Errorf("request a compaction: %w", ctx.Err())
		}
		var done, led bool
		var answer []byte
		var failure *string
		err := s.reads.QueryRow(ctx, s.text.in(`SELECT r.done, r.answer, r.failure, s.expires > clock_timestamp()
			FROM millrace.compaction_request r JOIN millrace.store s ON s.one = 1 WHERE r.id = $1`), id).Scan(&done, &answer, &failure, &led)
		switch {
		case err != nil:
			return storage.CompactStats{}, fmt.Errorf("request a compaction: %w", s.failure(err))
		case failure != nil:
			return storage.CompactStats{}, fmt.Errorf("the process that writes: %s", *failure)
		case done:
			return decodeStats(answer)
		case !led:
			return storage.CompactStats{}, fmt.Errorf("request a compaction: %w: no process writes any more", storage.ErrUnavailable)
		}
	}
}

// AnswerRequests carries out what other processes request, until ctx ends or this
// process no longer writes.
func (s *Store) AnswerRequests(ctx context.Context) error {
	tick := time.NewTicker(requestPoll)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.health.failed:
			return nil // Run says why
		case <-s.life.Done():
			return nil
		case <-ctx.Done():
			return nil
		}
		if err := s.answer(ctx); err != nil && ctx.Err() == nil {
			s.log.Debug("storage: a request could not be answered", "error", err)
		}
	}
}

// answer carries out the oldest request, if there is one.
func (s *Store) answer(ctx context.Context) error {
	var id string
	var buckets []byte
	var opts storage.CompactOptions
	err := s.writes.QueryRow(ctx, s.text.in(`SELECT id, buckets, incremental FROM millrace.compaction_request WHERE NOT done ORDER BY at LIMIT 1`)).
		Scan(&id, &buckets, &opts.Incremental)
	if errors.Is(err, pgx.ErrNoRows) {
		_, err := s.writes.Exec(ctx, s.text.in(`DELETE FROM millrace.compaction_request
			WHERE done AND at < clock_timestamp() - $1::bigint * interval '1 millisecond'`), requestAge.Milliseconds())
		return err
	}
	if err != nil {
		return err
	}
	var stats storage.CompactStats
	if opts.Buckets, err = decodeBucketKeys(buckets); err == nil {
		stats, err = s.Compact(ctx, opts)
	}
	var failure *string
	if err != nil {
		text := err.Error()
		failure = &text
	}
	_, err = s.writes.Exec(context.WithoutCancel(ctx), s.text.in("UPDATE millrace.compaction_request SET done = true, answer = $2, failure = $3 WHERE id = $1"),
		id, appendStats(nil, &stats), failure)
	return err
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
