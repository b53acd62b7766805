package record

import (
	"encoding/binary"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// A row record is its memberships, its lookups, its kept values, each with their
// count, and the number of copies.

// AppendRow appends a row record.
func AppendRow(dst []byte, rec *storage.RowRecord) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(rec.Memberships)))
	for i := range rec.Memberships {
		m := &rec.Memberships[i]
		dst = AppendBucketKey(dst, m.Bucket)
		dst = AppendText(dst, m.ObjectType)
		dst = AppendText(dst, m.ObjectID)
		dst = binary.AppendUvarint(dst, uint64(m.Op))
		dst = binary.BigEndian.AppendUint64(dst, m.Hash)
	}
	dst = binary.AppendUvarint(dst, uint64(len(rec.Lookups)))
	for i := range rec.Lookups {
		c := &rec.Lookups[i]
		dst = AppendLookupKey(dst, c.Lookup)
		dst = binary.BigEndian.AppendUint64(dst, c.Hash)
	}
	dst = binary.AppendUvarint(dst, uint64(len(rec.Kept)))
	for i := range rec.Kept {
		k := &rec.Kept[i]
		dst = AppendText(dst, k.Column)
		dst = append(dst, byte(k.Datum.Encoding))
		dst = AppendText(dst, k.Datum.Bytes)
	}
	return binary.AppendUvarint(dst, uint64(rec.Copies))
}

// DecodeRow decodes a row record, which shares the bytes of value: they must never
// change again.
func DecodeRow(value []byte) (*storage.RowRecord, error) {
	r := NewDecoder(value)
	rec := &storage.RowRecord{}
	if n := r.Count(); n > 0 {
		rec.Memberships = make([]storage.Membership, n)
	}
	for i := range rec.Memberships {
		rec.Memberships[i] = storage.Membership{
			Bucket:     r.BucketKey(),
			ObjectType: r.Shared(),
			ObjectID:   r.Shared(),
			Op:         bucket.OpID(r.Uvarint()),
			Hash:       r.U64(),
		}
	}
	if n := r.Count(); n > 0 {
		rec.Lookups = make([]storage.Contribution, n)
	}
	for i := range rec.Lookups {
		rec.Lookups[i] = storage.Contribution{Lookup: r.LookupKey(), Hash: r.U64()}
	}
	if n := r.Count(); n > 0 {
		rec.Kept = make([]storage.Kept, n)
	}
	for i := range rec.Kept {
		rec.Kept[i].Column = r.Shared()
		rec.Kept[i].Datum.Encoding = source.Encoding(r.U8())
		if b := r.Text(); len(b) > 0 {
			rec.Kept[i].Datum.Bytes = b
		}
	}
	rec.Copies = int64(r.Uvarint())
	if err := r.End("row record"); err != nil {
		return nil, err
	}
	return rec, nil
}

// AppendBucketKey appends a bucket's key as part of a value.
func AppendBucketKey(dst []byte, k storage.BucketKey) []byte {
	return AppendText(binary.AppendUvarint(dst, uint64(k.Def)), k.Params)
}

// BucketKey reads a bucket's key, which shares the bytes read.
func (d *Decoder) BucketKey() storage.BucketKey {
	return storage.BucketKey{Def: storage.DefinitionID(d.Uvarint()), Params: d.Shared()}
}

// AppendLookupKey appends a lookup's key as part of a value.
func AppendLookupKey(dst []byte, k storage.LookupKey) []byte {
	return AppendText(binary.AppendUvarint(dst, uint64(k.Def)), k.Key)
}

// LookupKey reads a lookup's key, which shares the bytes read.
func (d *Decoder) LookupKey() storage.LookupKey {
	return storage.LookupKey{Def: storage.DefinitionID(d.Uvarint()), Key: d.Shared()}
}
