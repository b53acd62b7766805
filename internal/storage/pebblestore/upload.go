package pebblestore

import (
	"context"
	"fmt"

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
	wc, ok, err := s.upload(user)
	if err != nil {
		return storage.WriteCheckpoint{}, false, fmt.Errorf("read write checkpoint: %w", err)
	}
	return wc, ok, nil
}

func (s *Store) upload(user string) (storage.WriteCheckpoint, bool, error) {
	value, ok, err := get(s.db, appendUpload(nil, user))
	if err != nil || !ok {
		return storage.WriteCheckpoint{}, false, err
	}
	wc, err := decodeUpload(value)
	return wc, true, err
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
	stored := make(map[string]storage.WriteCheckpoint, len(reqs))
	for i, r := range reqs {
		wc, ok := stored[r.User]
		if !ok {
			var err error
			if wc, _, err = s.upload(r.User); err != nil {
				return nil, fmt.Errorf("request write checkpoints: %w", err)
			}
		}
		next := max(wc.ID, r.AtLeast)
		if r.AtLeast == 0 {
			next = min(wc.ID, uint64(bucket.MaxOpID)-1) + 1
		}
		if next > uint64(bucket.MaxOpID) {
			return nil, fmt.Errorf("request write checkpoints: %w: id %d is beyond the largest, %d", storage.ErrBatch, next, bucket.MaxOpID)
		}
		wc.ID, wc.LSN = next, max(wc.LSN, r.LSN)
		ids[i], stored[r.User] = wc.ID, wc
	}
	b := s.db.NewBatch()
	for user, wc := range stored {
		if err := b.Set(appendUpload(nil, user), appendUploadValue(nil, wc), nil); err != nil {
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
		wc, err := decodeUpload(value)
		if err != nil {
			return err
		}
		wc.LSN = lsn
		return b.Set(key, appendUploadValue(nil, wc), nil)
	})
	if err == nil {
		err = s.apply(b, true)
	}
	if err != nil {
		return fmt.Errorf("reset write checkpoints: %w", err)
	}
	return nil
}
