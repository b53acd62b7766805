package pgstore

import (
	"encoding/binary"

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

// Changes are a byte that says whether definitions or deploys changed, then
// buckets and lookups, each with their count.

func appendChanges(dst []byte, c *changeSet) []byte {
	plan := byte(0)
	if c.plan {
		plan = 1
	}
	dst = binary.AppendUvarint(append(dst, plan), uint64(len(c.buckets)))
	for k := range c.buckets {
		dst = record.AppendBucketKey(dst, k)
	}
	dst = binary.AppendUvarint(dst, uint64(len(c.lookups)))
	for k := range c.lookups {
		dst = record.AppendLookupKey(dst, k)
	}
	return dst
}

// decodeChanges adds to c. It shares the bytes of value, which must never change again.
func decodeChanges(c *changeSet, value []byte) error {
	r := record.NewDecoder(value)
	plan := r.U8() == 1
	for n := r.Count(); n > 0; n-- {
		c.bucket(r.BucketKey())
	}
	for n := r.Count(); n > 0; n-- {
		c.lookup(r.LookupKey())
	}
	if plan {
		c.plan = true
	}
	return r.End("changes")
}
