package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// The kinds of error, by what the caller is to do. Test with errors.Is.
var (
	// ErrTransient: try again after a while; nobody need act if it passes.
	ErrTransient = errors.New("transient failure")
	// ErrConfig: the source or the configuration must be changed. Trying again is
	// harmless, and the way to notice that it was.
	ErrConfig = errors.New("the source is not set up for replication")
	// ErrAuth: the server refused the user. Try again rarely: servers lock users out.
	ErrAuth = errors.New("the source refused the user")
	// ErrSlotLost: the slot cannot give the changes from the position asked for.
	// Only a new slot (DropSlot, EnsureSlot) and reading all tables again helps.
	ErrSlotLost = errors.New("the replication slot is lost")
	// ErrSlotBusy: another process streams from the slot. Try again: it may be one
	// that is ending.
	ErrSlotBusy = errors.New("the replication slot is in use")
	// ErrTableChanged: the table is no longer as described. Describe it again.
	ErrTableChanged = errors.New("the table has changed")
)

// The causes that operators tell apart when a connection fails.
var (
	ErrHostNotFound    = errors.New("host name not found")
	ErrUnreachable     = errors.New("server not reachable")
	ErrTLS             = errors.New("TLS failed")
	ErrDatabaseMissing = errors.New("database does not exist")
)

// The codes that operators know.
const (
	codeCA          = "PSYNC_S1104"
	codeDatabase    = "PSYNC_S1105"
	codeHost        = "PSYNC_S1106"
	codeUser        = "PSYNC_S1107"
	codePassword    = "PSYNC_S1108"
	codeSetup       = "PSYNC_S1101"
	codeQuery       = "PSYNC_S1120"
	codeTimeout     = "PSYNC_S1121"
	codeNoPub       = "PSYNC_S1141"
	codePubPartial  = "PSYNC_S1142"
	codePubViaRoot  = "PSYNC_S1143"
	codeVersion     = "PSYNC_S1144"
	codeRowSecurity = "PSYNC_S1145"
	codeSlotLost    = "PSYNC_S1146"
)

// Error is a failure that a caller or an operator has to act upon.
type Error struct {
	// Code is the PSYNC_… code.
	Code string
	// Kind is one of the kinds above, Cause one of the causes, or nil.
	Kind, Cause error
	// Message says what is wrong.
	Message string
	// SQL holds statements that repair it, to be run in the source's database by a
	// user who may; Hint what else to do, or to know.
	SQL  []string
	Hint string
	// Err is the error underneath, or nil.
	Err error
}

// Error returns code, message, cause and remedy in one line.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Code)
	b.WriteString(": ")
	b.WriteString(e.Message)
	if e.Err != nil {
		b.WriteString(": ")
		b.WriteString(oneLine(e.Err.Error()))
	}
	if len(e.SQL) > 0 {
		b.WriteString("; run: ")
		b.WriteString(strings.Join(e.SQL, " "))
	}
	if e.Hint != "" {
		if len(e.SQL) == 0 { // a statement ends with a semicolon of its own
			b.WriteByte(';')
		}
		b.WriteByte(' ')
		b.WriteString(e.Hint)
	}
	return b.String()
}

// Unwrap lets errors.Is find kind and cause, and errors.As what lies underneath.
func (e *Error) Unwrap() []error {
	list := []error{e.Kind}
	if e.Cause != nil {
		list = append(list, e.Cause)
	}
	if e.Err != nil {
		list = append(list, e.Err)
	}
	return list
}

// lockNotAvailable is the server's code for a lock that was not had in lock_timeout.
const lockNotAvailable = "55P03"

// Locked reports whether an error is that somebody held a lock for too long.
func Locked(err error) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) && refused.Code == lockNotAvailable
}

// canceled reports whether an error is that the server ended a statement, as when
// its time was up.
func canceled(err error) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) && refused.Code == "57014"
}

// LimitLocks bounds how long the connection waits for a lock on a table: asking for a
// table's partitions takes one on each.
func LimitLocks(ctx context.Context, conn *pgconn.PgConn) error {
	_, err := query(ctx, conn, "limit the wait for locks", "SELECT set_config('lock_timeout', $1, false)", lockTimeout)
	return err
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// failed turns an error of the driver or the network into an *Error, telling what
// was being done. Errors of a cancelled context and *Errors stay what they are.
func failed(doing string, err error) error {
	var known *Error
	var refused *pgconn.PgError
	var silent *silentError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known), errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", doing, err)
	case errors.As(err, &refused):
		return refusal(doing, refused)
	case errors.As(err, &silent):
		return &Error{Code: codeTimeout, Kind: ErrTransient, Cause: ErrUnreachable, Err: err,
			Message: doing + ": the server does not answer, and the connection is given up",
			Hint: "see whether the server and the network between are well; if the server merely takes longer " +
				"to begin with its answer, raise the connection's snapshot_socket_timeout"}
	case errors.Is(err, context.DeadlineExceeded) || isTimeout(err):
		return &Error{Code: codeTimeout, Kind: ErrTransient, Message: doing + ": no answer in time", Err: err}
	case isNetwork(err):
		return &Error{Code: codeTimeout, Kind: ErrTransient, Cause: ErrUnreachable, Message: doing + ": the connection broke", Err: err}
	}
	return &Error{Code: codeQuery, Kind: ErrTransient, Message: doing, Err: err}
}

// refusal classifies what the server itself answered.
func refusal(doing string, e *pgconn.PgError) error {
	out := &Error{Code: codeQuery, Kind: ErrTransient, Message: doing, Err: detailed(e)}
	switch {
	case e.Code == "28P01":
		out.Code, out.Kind = codePassword, ErrAuth
		out.Hint = "check the connection's username and password"
	case strings.HasPrefix(e.Code, "28"):
		out.Code, out.Kind = codeUser, ErrAuth
		out.Hint = "check the connection's username, and that the server's pg_hba.conf lets it in from this machine, " +
			"with the sslmode in use"
	case e.Code == "3D000":
		out.Code, out.Kind, out.Cause = codeDatabase, ErrConfig, ErrDatabaseMissing
		out.Hint = "check the connection's database"
	case e.Code == "42501": // insufficient_privilege
		out.Code, out.Kind = codeSetup, ErrConfig
	case e.Code == "55006": // object_in_use
		out.Kind = ErrSlotBusy
	case e.Code == lockNotAvailable:
		out.Hint = "somebody holds a lock on a table for long, as VACUUM FULL and ALTER TABLE do: " +
			"SELECT pid, relation::regclass FROM pg_locks WHERE mode = 'AccessExclusiveLock'"
	case e.Code == "42P01", e.Code == "42703": // undefined_table, undefined_column
		out.Kind = ErrTableChanged
	}
	return out
}

// detailed adds the server's detail and hint to its message.
func detailed(e *pgconn.PgError) error {
	if e.Detail == "" && e.Hint == "" {
		return e
	}
	return fmt.Errorf("%w (%s)", e, strings.TrimSpace(e.Detail+" "+e.Hint))
}

func isTimeout(err error) bool {
	var ne net.Error
	return pgconn.Timeout(err) || errors.As(err, &ne) && ne.Timeout()
}

func isNetwork(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, pgconn.ErrConnClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
