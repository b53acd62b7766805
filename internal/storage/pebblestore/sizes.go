package pebblestore

import (
	"fmt"

	"github.com/millrace-sync/millrace/internal/storage"
)

// Sizes measures the store; its parts without what has not been sorted into tables
// yet. It reads no data.
func (s *Store) Sizes() (storage.Sizes, error) {
	var out storage.Sizes
	if err := s.begin(); err != nil {
		return out, fmt.Errorf("sizes of storage: %w", err)
	}
	defer s.end()
	out.Total = s.db.Metrics().DiskSpaceUsage()
	for space, n := range map[byte]*uint64{spaceOp: &out.Operations, spaceLookup: &out.Lookups, spaceRow: &out.Rows} {
		var err error
		if *n, err = s.db.EstimateDiskUsage([]byte{space}, []byte{space + 1}); err != nil {
			return out, fmt.Errorf("sizes of storage: %w", corrupt(err))
		}
	}
	return out, nil
}
