package pebblestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// WriteCheckpoint returns a user's newest write checkpoint; false if there is none.
func (s *Store) WriteCheckpoint(user string) (storage.WriteCheckpoint, bool, error) {
	if err := s.begin(); err != nil {
		return storage.WriteCheckpoint{}, false, fmt.Errorf("read write checkpoint: %w", err)
	}
	defer s.end()
	u, ok, err := s.upload(user)
	if err != nil {
		return storage.WriteCheckpoint{}, false, fmt.Errorf("read write checkpoint: %w", err)
	}
	return u.WriteCheckpoint, ok, nil
}

func (s *Store) upload(user string) (upload, bool, error) {
	value, ok, err := get(s.db, appendUpload(nil, user))
	if err != nil || !ok {
		return upload{}, false, err
	}
	u, err := decodeUpload(value)
	return u, true, err
}

// RequestWriteCheckpoints stores the next write checkpoint of each user, in order,
// all in one durable step, and returns their ids. An id never falls: one that
// asks for less than the user already has gets what is stored, and numbering ends at
// bucket.MaxOpID, which is then given out again. The stored LSN never falls either, so that an id stands for all uploads before the request.
func (s *Store) RequestWriteCheckpoints(ctx context.Context, reqs []storage.WriteCheckpointRequest) ([]uint64, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.writable(ctx); err != nil {
		return nil, fmt.Errorf("request write checkpoints: %w", err)
	}
	if len(reqs) == 0 {
		return nil, nil
	}
	ids := make([]uint64, len(reqs))
	stored := make(map[string]upload, len(reqs))
	for i, r := range reqs {
		u, ok := stored[r.User]
		if !ok {
			var err error
			if u, ok, err = s.upload(r.User); err != nil {
				return nil, fmt.Errorf("request write checkpoints: %w", err)
			}
		}
		next := max(u.ID, r.AtLeast)
		if r.AtLeast == 0 {
			next = min(u.ID, uint64(bucket.MaxOpID)-1) + 1
		}
		if next > uint64(bucket.MaxOpID) {
			return nil, fmt.Errorf("request write checkpoints: %w: id %d is beyond the largest, %d", storage.ErrBatch, next, bucket.MaxOpID)
		}
		u.ID, u.LSN = next, max(u.LSN, r.LSN)
		switch {
		case r.AtLeast == 0:
			u.Requested = 0
		case !ok || u.Requested != 0:
			u.Requested = r.At.Unix()
		}
		ids[i], stored[r.User] = u.ID, u
	}
	b := s.db.NewBatch()
	for user, u := range stored {
		if err := b.Set(appendUpload(nil, user), appendUploadValue(nil, u), nil); err != nil {
			return nil, fmt.Errorf("request write checkpoints: %w", err)
		}
	}
	if err := s.apply(b, true); err != nil {
		return nil, fmt.Errorf("request write checkpoints: %w", err)
	}
	s.durable.Store(uint64(s.writer.checkpoint.LSN))
	return ids, nil
}

// ResetWriteCheckpoints makes every write checkpoint wait for lsn, and keeps its
// number: the positions that they waited for are of another source, or of a past
// that the source does not have.
func (s *Store) ResetWriteCheckpoints(ctx context.Context, lsn source.LSN) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.writable(ctx); err != nil {
		return fmt.Errorf("reset write checkpoints: %w", err)
	}
	b := s.db.NewBatch()
	err := s.scan([]byte{spaceUpload}, []byte{spaceUpload + 1}, func(key, value []byte) error {
		u, err := decodeUpload(value)
		if err != nil {
			return err
		}
		u.LSN = lsn
		return b.Set(key, appendUploadValue(nil, u), nil)
	})
	if err == nil {
		err = s.apply(b, true)
	}
	if err != nil {
		return fmt.Errorf("reset write checkpoints: %w", err)
	}
	return nil
}

// forgetPage is how many write checkpoints are looked at while requests for others wait.
const forgetPage = 1000

// errPageEnd ends a scan.
var errPageEnd = errors.New("the page is full")

// ForgetCheckpointRequests removes the write checkpoints of users who named their ids
// whenever they asked, the last time before the given one, if they have been reached.
// It returns how many there were. Requests go on meanwhile.
func (s *Store) ForgetCheckpointRequests(ctx context.Context, before time.Time) (removed int64, err error) {
	from := []byte{spaceUpload}
	for from != nil {
		var n int64
		if n, from, err = s.forget(ctx, from, before.Unix()); err != nil {
			return removed, fmt.Errorf("forget checkpoint requests: %w", err)
		}
		removed += n
	}
	return removed, nil
}

// forget does a page from a key on and returns where the next one begins; nil if there
// is none.
func (s *Store) forget(ctx context.Context, from []byte, before int64) (removed int64, next []byte, err error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.writable(ctx); err != nil {
		return 0, nil, err
	}
	reached := s.DurableLSN()
	b := s.db.NewBatch()
	seen := 0
	err = s.scan(from, []byte{spaceUpload + 1}, func(key, value []byte) error {
		if seen++; seen > forgetPage {
			next = bytes.Clone(key)
			return errPageEnd
		}
		u, err := decodeUpload(value)
		if err != nil || u.Requested == 0 || u.Requested >= before || u.LSN > reached {
			return err
		}
		removed++
		return b.Delete(key, nil)
	})
	if err != nil && !errors.Is(err, errPageEnd) {
		return 0, nil, errors.Join(err, b.Close())
	}
	if removed == 0 {
		return 0, next, b.Close()
	}
	// What a crash brings back is removed again.
	return removed, next, s.apply(b, false)
}
