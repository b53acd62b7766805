package pebblestore

import "fmt"

// Sizes says what a store takes on the disk, in bytes.
type Sizes struct {
	Total uint64
	// Operations, Lookups and Rows are the parts of it that hold these, without what has
	// not been sorted into tables yet.
	Operations, Lookups, Rows uint64
}

// Sizes measures the store. It reads no data.
func (s *Store) Sizes() (Sizes, error) {
	var out Sizes
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
