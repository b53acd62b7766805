package pgstore

import (
	"bytes"
	"context"
	"encoding/binary"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/record"
)

// The binary form of COPY: a header, rows of fields with their lengths, an end.
const (
	copyHeader = "PGCOPY\n\xff\r\n\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00"
	copyEnd    = "\xff\xff"
)

func appendCopyInt(dst []byte, v int64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, 0, 0, 0, 8), uint64(v))
}

func appendCopyBytes(dst, b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(b))), b...)
}

// appendCopyOp appends a row of table op, whose body is made of op.
func appendCopyOp(dst []byte, row *opRow, op *bucket.Op) []byte {
	dst = append(dst, 0, 6)
	for _, v := range [...]int64{row.bucket, row.id, row.count, row.checksum, row.bytes} {
		dst = appendCopyInt(dst, v)
	}
	at := len(dst)
	dst = record.AppendOp(append(dst, 0, 0, 0, 0), op)
	binary.BigEndian.PutUint32(dst[at:], uint32(len(dst)-at-4))
	return dst
}

// appendCopyRow appends a row of table row_record.
func appendCopyRow(dst []byte, ref storage.RowRef, record []byte) []byte {
	dst = appendCopyInt(append(dst, 0, 3), int64(ref.Table))
	dst = appendCopyBytes(dst, shorten(string(ref.Key)))
	return appendCopyBytes(dst, record)
}

// copyStaged begins a transaction and copies what is staged for it.
func (s *Store) copyStaged(ctx context.Context, conn *pgconn.PgConn) error {
	if err := conn.Exec(ctx, beginText).Close(); err != nil {
		return err
	}
	st := &s.writer.staged
	for _, c := range []struct {
		data []byte
		into string
	}{
		{st.copyOps, "millrace.op (bucket, id, count, checksum, bytes, body)"},
		{st.copyRows, "millrace.row_record (tbl, key, record)"},
	} {
		if len(c.data) == 0 {
			continue
		}
		if _, err := conn.CopyFrom(ctx, bytes.NewReader(c.data), s.text.in("COPY "+c.into+" FROM STDIN (FORMAT binary)")); err != nil {
			return err
		}
	}
	return nil
}

// readInt reads a bigint in binary form.
func readInt(b []byte) int64 { return int64(binary.BigEndian.Uint64(b)) }
