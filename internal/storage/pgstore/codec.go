package pgstore

import (
	"encoding/binary"
	"fmt"

	"github.com/millrace-sync/millrace/internal/checkpoint"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/record"
)

// A row record has the row's key before it, empty unless the stored one is
// shortened.

func appendRow(dst []byte, key string, rec *storage.RowRecord) []byte {
	return record.AppendRow(record.AppendText(dst, key), rec)
}

// decodeRow shares the bytes of value, which must never change again.
func decodeRow(value []byte) (key string, rec *storage.RowRecord, err error) {
	r := record.NewDecoder(value)
	key = r.Shared()
	if rec, err = record.DecodeRow(r.Rest()); err != nil {
		return "", nil, err
	}
	return key, rec, nil
}

// Changes are a byte that says whether definitions or deploys changed and whether there
// is a filter, then buckets and lookups, each with their count, and the filter.
const (
	planChanged = 1 << iota
	hasFilter
)

func appendChanges(dst []byte, c *changeSet) []byte {
	flags := byte(0)
	if c.plan {
		flags |= planChanged
	}
	if c.many != nil {
		flags |= hasFilter
	}
	dst = binary.AppendUvarint(append(dst, flags), uint64(len(c.buckets)))
	for k := range c.buckets {
		dst = record.AppendBucketKey(dst, k)
	}
	dst = binary.AppendUvarint(dst, uint64(len(c.lookups)))
	for k := range c.lookups {
		dst = record.AppendLookupKey(dst, k)
	}
	if c.many != nil {
		dst = c.many.Append(dst)
	}
	return dst
}

// decodeChanges adds to c. It shares the bytes of value, which must never change again.
func decodeChanges(c *changeSet, value []byte) error {
	r := record.NewDecoder(value)
	flags := r.U8()
	for n := r.Count(); n > 0; n-- {
		c.bucket(r.BucketKey())
	}
	for n := r.Count(); n > 0; n-- {
		c.lookup(r.LookupKey())
	}
	if flags&planChanged != 0 {
		c.plan = true
	}
	if flags&hasFilter == 0 {
		return r.End("changes")
	}
	f, err := checkpoint.DecodeFilter(r.Rest())
	if err != nil {
		return fmt.Errorf("decode changes: %w", err)
	}
	c.filter(f)
	return nil
}
