package postgres

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/millrace-sync/millrace/internal/source"
)

const (
	// visiblePatience bounds the wait for a transaction to become visible, and visiblePause
	// is the longest between two looks.
	visiblePatience = 10 * time.Second
	visiblePause    = 50 * time.Millisecond
)

// AwaitVisible waits until what a transaction wrote is seen by those who read after it,
// as with ReadRow. A commit is in the log, and so in the stream, a little earlier: usually
// for microseconds, but for longer on a busy server, and where commits wait for a standby.
// It fails with ErrTransient if that takes too long. xid must be of the last two billion
// transactions.
func AwaitVisible(ctx context.Context, conn *pgconn.PgConn, xid source.XID) error {
	doing := fmt.Sprintf("wait for transaction %d to become visible", xid)
	began, pause := time.Now(), time.Millisecond
	for {
		text, err := queryRow(ctx, conn, doing, "SELECT pg_catalog.pg_current_snapshot()")
		if err != nil {
			return err
		}
		var now Chunk
		if err := now.snapshot(text[0]); err != nil {
			return failed(doing, err)
		}
		if now.Sees(xid) {
			return nil
		}
		if time.Since(began) > visiblePatience {
			return &Error{Code: codeQuery, Kind: ErrTransient, Message: fmt.Sprintf("%s: it does not within %s", doing, visiblePatience),
				Hint: "commits that wait for a synchronous standby are in the log before they are visible: see whether it is connected"}
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		pause = min(2*pause, visiblePause)
	}
}

// ReadRow reads the present version of one row, found by the key columns of
// identity (its other datums are not looked at); nil if it is gone. The position is
// one that the log had reached by then: what is committed beyond it was not seen. It
// serves where the stream leaves out large values that are not stored here.
func ReadRow(ctx context.Context, conn *pgconn.PgConn, t *source.Table, identity []source.Datum) ([]source.Datum, source.LSN, error) {
	doing := "read a row of " + t.QualifiedName()
	if len(identity) != len(t.Columns) {
		return nil, 0, fmt.Errorf("%s: identity of %d columns, want %d", doing, len(identity), len(t.Columns))
	}
	list := make([]string, len(t.Columns))
	var where []string
	var values [][]byte
	var formats []int16
	for i := range t.Columns {
		list[i] = quoteIdent(t.Columns[i].Name)
		if !t.Columns[i].Key {
			continue
		}
		d := identity[i]
		if d.Encoding != source.Text && d.Encoding != source.Binary {
			return nil, 0, fmt.Errorf("%s: key column %s was not sent", doing, t.Columns[i].Name)
		}
		format := int16(pgproto3.TextFormat)
		if d.Encoding == source.Binary {
			format = pgproto3.BinaryFormat
		}
		values, formats = append(values, d.Bytes), append(formats, format)
		where = append(where, fmt.Sprintf("%s = $%d", list[i], len(values)))
	}
	if len(where) == 0 {
		return nil, 0, fmt.Errorf("%s: it has no key", doing)
	}
	sql := fmt.Sprintf("SELECT %s FROM ONLY %s.%s WHERE %s", strings.Join(list, ", "),
		quoteIdent(t.Schema), quoteIdent(t.Name), strings.Join(where, " AND "))
	r := conn.ExecParams(ctx, sql, values, nil, formats, nil).Read()
	if r.Err != nil {
		return nil, 0, failed(doing, r.Err)
	}
	// After the row was read: what its transaction wrote lies before.
	end, err := queryRow(ctx, conn, doing, "SELECT pg_catalog.pg_current_wal_insert_lsn()")
	if err != nil {
		return nil, 0, err
	}
	at, err := source.ParseLSN(end[0])
	if err != nil {
		return nil, 0, failed(doing, err)
	}
	if len(r.Rows) == 0 {
		return nil, at, nil
	}
	row := make([]source.Datum, len(t.Columns))
	for i, v := range r.Rows[0] {
		if v != nil {
			row[i] = source.Datum{Encoding: source.Text, Bytes: v}
		}
	}
	return row, at, nil
}
