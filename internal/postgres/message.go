package postgres

import (
	"context"
	"encoding/hex"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace-sync/millrace/internal/source"
)

// MessagePrefix marks the logical messages that are ours. Any user of the database
// may write messages, also with this prefix: whoever reads them must not trust
// their content.
const MessagePrefix = "millrace"

// Emit writes a message into the log, in a transaction of its own, and returns when
// it is durable there. It comes back in the stream as the Message of a Txn, after
// everything that was committed before Emit was called. The position returned is
// not beyond that transaction's Commit.
func Emit(ctx context.Context, conn *pgconn.PgConn, prefix string, content []byte) (source.LSN, error) {
	const doing = "mark a place in the source's log"
	row, err := queryRow(ctx, conn, doing,
		"SELECT pg_catalog.pg_logical_emit_message(true, $1::text, pg_catalog.decode($2::text, 'hex'))", prefix, hex.EncodeToString(content))
	if err != nil {
		return 0, err
	}
	lsn, err := source.ParseLSN(row[0])
	return lsn, failed(doing, err)
}

// CurrentLSN returns the end of what has been written to the log: everything
// committed before the call lies before it.
func CurrentLSN(ctx context.Context, conn *pgconn.PgConn) (source.LSN, error) {
	const doing = "read the source's position"
	row, err := queryRow(ctx, conn, doing, "SELECT pg_catalog.pg_current_wal_insert_lsn()")
	if err != nil {
		return 0, err
	}
	lsn, err := source.ParseLSN(row[0])
	return lsn, failed(doing, err)
}
