package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace-sync/millrace/internal/source"
)

// SlotState is what the server says of the slot.
type SlotState struct {
	// Confirmed is the position from which it gives changes; Restart the one from
	// which it keeps the log.
	Confirmed, Restart source.LSN
	// PID is the process that streams from it, 0 if none does.
	PID int
	// Lost, if not empty, says why it gives nothing any more.
	Lost string
	// WALStatus is pg_replication_slots.wal_status: reserved, extended, unreserved or
	// lost. SafeWAL is how many bytes may still be written to the log before the slot
	// is in danger, or -1 if there is no limit (max_slot_wal_keep_size).
	WALStatus string
	SafeWAL   int64
	// Budget is that limit in bytes, -1 if there is none.
	Budget int64

	foreign string // what is wrong with it if it is not one of ours
}

// slotSQL selects a slot by name. to_jsonb hides columns that older servers lack.
const slotSQL = `SELECT coalesce(s.confirmed_flush_lsn, '0/0'), coalesce(s.restart_lsn, '0/0'), coalesce(s.active_pid, 0),
  coalesce(s.wal_status, ''), coalesce(s.safe_wal_size, -1),
  coalesce(pg_catalog.to_jsonb(s) ->> 'invalidation_reason', ''), coalesce(pg_catalog.to_jsonb(s) ->> 'conflicting', ''),
  coalesce(s.plugin, ''), coalesce(s.database, ''), pg_catalog.current_database(), s.slot_type,
  pg_catalog.pg_size_bytes(pg_catalog.current_setting('max_slot_wal_keep_size'))
FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = `

// Slot returns the state of the configured slot, or nil if there is none.
func Slot(ctx context.Context, conn *pgconn.PgConn, name string) (*SlotState, error) {
	const doing = "look up the replication slot"
	// A replication connection knows the simple protocol only.
	results, err := conn.Exec(ctx, slotSQL+quoteLiteral(name)).ReadAll()
	if err != nil {
		return nil, failed(doing, err)
	}
	if len(results) != 1 || len(results[0].Rows) == 0 {
		return nil, nil
	}
	row := texts(results[0].Rows[0])
	s := &SlotState{WALStatus: row[3]}
	if s.Confirmed, err = source.ParseLSN(row[0]); err != nil {
		return nil, failed(doing, err)
	}
	if s.Restart, err = source.ParseLSN(row[1]); err != nil {
		return nil, failed(doing, err)
	}
	if s.PID, err = strconv.Atoi(row[2]); err != nil {
		return nil, failed(doing, err)
	}
	if s.SafeWAL, err = strconv.ParseInt(row[4], 10, 64); err != nil {
		return nil, failed(doing, err)
	}
	if s.Budget, err = strconv.ParseInt(row[11], 10, 64); err != nil {
		return nil, failed(doing, err)
	}
	switch {
	case row[5] != "" && row[5] != "wal_removed":
		s.Lost = "the server invalidated it: " + row[5]
	case row[6] == "true":
		s.Lost = "the server invalidated it: conflict with recovery"
	case row[3] == "lost" || s.Restart == 0:
		s.Lost = "the server has removed the log that it needs (max_slot_wal_keep_size)"
	}
	if row[10] != "logical" || row[7] != "pgoutput" {
		s.foreign = "is not a logical slot with plugin pgoutput"
	} else if row[8] != row[9] {
		s.foreign = fmt.Sprintf("belongs to database %s, not %s", row[8], row[9])
	}
	return s, nil
}

// usable tells why changes cannot be streamed from the slot.
func (s *SlotState) usable(name string) error {
	switch {
	case s == nil:
		return &Error{Code: codeSlotLost, Kind: ErrSlotLost, Message: fmt.Sprintf("replication slot %s does not exist", name)}
	case s.foreign != "":
		return &Error{Code: codeSetup, Kind: ErrConfig, Message: fmt.Sprintf("replication slot %s %s", name, s.foreign),
			Hint: "set slot_name_prefix to another one"}
	case s.Lost != "":
		return &Error{Code: codeSlotLost, Kind: ErrSlotLost, Message: fmt.Sprintf("replication slot %s is unusable: %s", name, s.Lost)}
	case s.PID != 0:
		return &Error{Code: codeSetup, Kind: ErrSlotBusy,
			Message: fmt.Sprintf("replication slot %s is in use by the connection with process id %d on the server", name, s.PID),
			Hint: fmt.Sprintf("stop the other process that replicates by it, or set another slot_name_prefix; "+
				"if it is gone: SELECT pg_terminate_backend(%d)", s.PID)}
	}
	return nil
}

// FindSlot returns the state of the configured slot, or nil if there is none.
func FindSlot(ctx context.Context, c Config) (*SlotState, error) {
	c = c.withDefaults()
	conn, err := connect(ctx, c, false)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return Slot(ctx, conn, c.Slot)
}

// Gone says, as an error of kind ErrSlotLost, that the slot gives nothing any more; nil
// if it does. s may be nil: there is no such slot.
func (s *SlotState) Gone(name string) error {
	if s == nil || s.Lost != "" {
		return s.usable(name)
	}
	return nil
}

// EnsureSlot creates the configured slot or finds it, and returns the position from
// which it gives changes. It fails with ErrSlotLost if the slot can no longer give
// them (see DropSlot), and with ErrSlotBusy if another process streams from it.
//
// Creating a slot waits for all transactions that are open on the server; after
// Config.SlotTimeout it fails with ErrTransient, naming some, and may be called again.
func EnsureSlot(ctx context.Context, c Config) (start source.LSN, created bool, err error) {
	c = c.withDefaults()
	c.Patience += c.SlotTimeout // the server says nothing while it waits
	conn, err := connect(ctx, c, false)
	if err != nil {
		return 0, false, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	state, err := Slot(ctx, conn, c.Slot)
	if err != nil {
		return 0, false, err
	}
	if state != nil {
		if err := state.usable(c.Slot); err != nil {
			return 0, false, err
		}
		return state.Confirmed, false, nil
	}
	if _, err := query(ctx, conn, "create the replication slot", "SELECT set_config('statement_timeout', $1, false)",
		strconv.FormatInt(c.SlotTimeout.Milliseconds(), 10)); err != nil {
		return 0, false, err
	}
	row, err := queryRow(ctx, conn, fmt.Sprintf("create replication slot %s", c.Slot),
		"SELECT lsn FROM pg_catalog.pg_create_logical_replication_slot($1, 'pgoutput')", c.Slot)
	if err != nil {
		return 0, false, creationFailure(ctx, c, err)
	}
	if start, err = source.ParseLSN(row[0]); err != nil {
		return 0, false, failed("create the replication slot", err)
	}
	return start, true, nil
}

// creationFailure names the transactions that creating a slot waited for.
func creationFailure(ctx context.Context, c Config, err error) error {
	var refused *pgconn.PgError
	if !errors.As(err, &refused) {
		return err
	}
	switch refused.Code {
	case "42710": // duplicate_object: somebody created it this moment
		return &Error{Code: codeSetup, Kind: ErrSlotBusy, Message: fmt.Sprintf("replication slot %s was just created by another process", c.Slot), Err: refused}
	case "53400": // configuration_limit_exceeded
		return &Error{Code: codeSetup, Kind: ErrConfig, Message: "all replication slots of the server are in use", Err: refused,
			Hint: "raise max_replication_slots, or drop slots that nobody needs any more (SELECT * FROM pg_replication_slots)"}
	case "57014": // query_canceled
	default:
		return err
	}
	out := &Error{Code: codeTimeout, Kind: ErrTransient, Err: refused,
		Message: fmt.Sprintf("create replication slot %s: transactions that were open %v ago have not ended", c.Slot, c.SlotTimeout)}
	conn, err := connect(ctx, c, false)
	if err != nil {
		return out
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := query(ctx, conn, "find open transactions", `
		SELECT 'process '||pid||' of '||coalesce(usename, '?')||' in '||coalesce(datname, '?')||', since '||coalesce(xact_start::text, '?')
		FROM pg_catalog.pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_catalog.pg_backend_pid()
		UNION ALL SELECT 'prepared transaction '||gid||' of '||owner||' in '||database||', since '||prepared
		FROM pg_catalog.pg_prepared_xacts LIMIT 5`)
	if err != nil || len(rows) == 0 {
		return out
	}
	var open []string
	for _, r := range rows {
		open = append(open, string(r[0]))
	}
	out.Hint = "end them: " + strings.Join(open, "; ")
	return out
}

// DropSlot removes the configured slot, if there is one: after ErrSlotLost, or when
// nothing is to be replicated any more.
func DropSlot(ctx context.Context, c Config) error {
	c = c.withDefaults()
	conn, err := connect(ctx, c, false)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = query(ctx, conn, "drop replication slot "+c.Slot,
		"SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots WHERE slot_name = $1", c.Slot)
	return err
}
