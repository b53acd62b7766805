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

// minVersion is the first Postgres whose logical messages reach a pgoutput slot.
const minVersion = 140000

// Facts is what Check learns of the source.
type Facts struct {
	// Version is as server_version_num gives it, such as 150004.
	Version int
	// SystemID and DatabaseOID identify the database: a slot and its positions mean
	// nothing in another one. Timeline changes when a standby is promoted.
	SystemID string
	Timeline int32
	// Position is how far the server's log has been flushed.
	Position    source.LSN
	DatabaseOID uint32
	// Warnings are what may be intended, but lets rows or tables be missed.
	Warnings []*Error
}

// Check connects and verifies that the database can be replicated from. Everything
// wrong is reported at once, as *Errors joined (see errors.Join), each with the SQL
// or setting that repairs it.
func Check(ctx context.Context, c Config) (*Facts, error) {
	c = c.withDefaults()
	conn, err := connect(ctx, c, false)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := LimitLocks(ctx, conn); err != nil {
		return nil, err
	}
	k := checker{conn: conn, config: &c}
	facts, err := k.run(ctx)
	if err != nil {
		return nil, err
	}
	if err := k.identify(ctx, facts); err != nil {
		return nil, err
	}
	return facts, nil
}

// checker collects the problems of one Check.
type checker struct {
	conn     *pgconn.PgConn
	config   *Config
	problems []error
}

func (k *checker) problem(e *Error) {
	if e.Kind == nil {
		e.Kind = ErrConfig
	}
	k.problems = append(k.problems, e)
}

const doingCheck = "check the source"

const serverSQL = `SELECT current_setting('server_version_num'), current_setting('server_version'),
  current_setting('wal_level'), current_setting('max_replication_slots'), current_setting('max_wal_senders'),
  pg_catalog.pg_is_in_recovery(),
  (SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots),
  (SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots WHERE slot_name = $1 AND active),
  (SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots WHERE slot_name = $1),
  (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_get_wal_senders()),
  (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()),
  current_user,
  (SELECT r.rolsuper OR r.rolreplication FROM pg_catalog.pg_roles r WHERE r.rolname = current_user)
  OR EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = 'rds_replication' AND pg_catalog.pg_has_role(r.oid, 'MEMBER'))`

func (k *checker) run(ctx context.Context) (*Facts, error) {
	row, err := queryRow(ctx, k.conn, doingCheck, serverSQL, k.config.Slot)
	if err != nil {
		return nil, err
	}
	number := func(i int) int { n, _ := strconv.Atoi(row[i]); return n }
	const yes = "t"
	facts := &Facts{Version: number(0), DatabaseOID: uint32(number(10))}
	if facts.Version < minVersion {
		// Nothing else need be true of it.
		return nil, &Error{Code: codeVersion, Kind: ErrConfig,
			Message: fmt.Sprintf("the server is Postgres %s; version 14 or newer is needed", row[1]), Hint: "upgrade the server"}
	}
	if row[5] == yes {
		k.problem(&Error{Code: codeSetup, Message: "the server is a standby, which cannot be written to",
			Hint: "set the connection's hostname to the primary"})
	}
	if row[2] != "logical" {
		k.problem(&Error{Code: codeSetup, Message: fmt.Sprintf("wal_level is %s; logical is needed", row[2]),
			SQL:  []string{"ALTER SYSTEM SET wal_level = 'logical';"},
			Hint: "then restart the server; on a managed service set it in the service's parameters"})
	}
	k.capacity("max_replication_slots", "replication slots", number(3), number(6), number(8) > 0)
	k.capacity("max_wal_senders", "replication connections", number(4), number(9), number(7) > 0)
	user := row[11]
	if row[12] != yes {
		k.problem(&Error{Code: codeSetup, Message: fmt.Sprintf("role %s may not replicate", user),
			SQL:  []string{fmt.Sprintf("ALTER ROLE %s REPLICATION;", quoteIdent(user))},
			Hint: "as a superuser; on AWS instead: GRANT rds_replication TO " + quoteIdent(user)})
	}
	if err := k.publication(ctx); err != nil {
		return nil, err
	}
	if err := errors.Join(k.problems...); err != nil {
		return nil, err
	}
	if facts.Warnings, err = k.warnings(ctx, user); Locked(err) {
		err = nil // it is said another time
	}
	return facts, err
}

// capacity checks a setting that limits how many there may be of something. ours
// says that one of those in use is ours already.
func (k *checker) capacity(setting, things string, limit, used int, ours bool) {
	if used < limit || ours {
		return
	}
	k.problem(&Error{Code: codeSetup, Message: fmt.Sprintf("all %d %s of the server are in use", limit, things),
		SQL:  []string{fmt.Sprintf("ALTER SYSTEM SET %s = %d;", setting, used+10)},
		Hint: "then restart the server; or drop slots that nobody needs any more (SELECT * FROM pg_replication_slots)"})
}

// CheckPublication verifies that the publication is there and publishes every kind of
// change, by an error like that of Check.
func CheckPublication(ctx context.Context, conn *pgconn.PgConn, c Config) error {
	k := checker{conn: conn, config: &c}
	if err := k.publication(ctx); err != nil {
		return err
	}
	return errors.Join(k.problems...)
}

func (k *checker) publication(ctx context.Context) error {
	name := k.config.Publication
	rows, err := query(ctx, k.conn, doingCheck,
		`SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate, pubviaroot FROM pg_catalog.pg_publication WHERE pubname = $1`, name)
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		k.problem(&Error{Code: codeNoPub, Message: fmt.Sprintf("publication %s does not exist", quoteIdent(name)),
			SQL:  []string{fmt.Sprintf("CREATE PUBLICATION %s FOR ALL TABLES;", quoteIdent(name))},
			Hint: "FOR TABLE a, b instead publishes those only"})
		return nil
	}
	row := texts(rows[0])
	if row[0] != "t" {
		k.problem(&Error{Code: codePubPartial,
			Message: fmt.Sprintf("publication %s does not publish all of insert, update, delete and truncate", quoteIdent(name)),
			SQL:     []string{fmt.Sprintf("ALTER PUBLICATION %s SET (publish = 'insert, update, delete, truncate');", quoteIdent(name))}})
	}
	if row[1] == "t" {
		k.problem(&Error{Code: codePubViaRoot,
			Message: fmt.Sprintf("publication %s publishes partitions as their root table", quoteIdent(name)),
			SQL:     []string{fmt.Sprintf("ALTER PUBLICATION %s SET (publish_via_partition_root = false);", quoteIdent(name))}})
	}
	return nil
}

// readableSQL selects what concerns reading the published tables.
const readableSQL = `SELECT n.nspname, c.relname,
  pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT'),
  pg_catalog.row_security_active(c.oid)
FROM (%s) p
JOIN pg_catalog.pg_class c ON c.oid = p.oid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
ORDER BY 1, 2`

// warnings tells of published tables that could not be read whole. That they are
// read at all the sync config decides: see Tables.
func (k *checker) warnings(ctx context.Context, user string) ([]*Error, error) {
	rows, err := query(ctx, k.conn, doingCheck, fmt.Sprintf(readableSQL, publishedTables(k.conn)), k.config.Publication)
	if err != nil {
		return nil, err
	}
	var closed, secured []string
	var grants []string
	for _, r := range rows {
		row := texts(r)
		name := row[0] + "." + row[1]
		if row[2] != "t" {
			closed = append(closed, name)
			grants = append(grants, grantSQL(row[0], row[1], user)...)
		} else if row[3] == "t" {
			secured = append(secured, name)
		}
	}
	var list []*Error
	if len(closed) > 0 {
		list = append(list, &Error{Code: codeSetup, Kind: ErrConfig,
			Message: fmt.Sprintf("role %s may not read the published %s", user, nameList(closed)), SQL: distinct(grants)})
	}
	if len(secured) > 0 {
		list = append(list, rowSecurity(user, nameList(secured)))
	}
	return list, nil
}

func grantSQL(schema, table, user string) []string {
	return []string{
		fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s;", quoteIdent(schema), quoteIdent(user)),
		fmt.Sprintf("GRANT SELECT ON %s.%s TO %s;", quoteIdent(schema), quoteIdent(table), quoteIdent(user)),
	}
}

func rowSecurity(user, tables string) *Error {
	return &Error{Code: codeRowSecurity, Kind: ErrConfig,
		Message: fmt.Sprintf("row security may hide rows of %s from role %s", tables, user),
		SQL:     []string{fmt.Sprintf("ALTER ROLE %s BYPASSRLS;", quoteIdent(user))}, Hint: "as a superuser"}
}

// nameList joins names, the first few of many.
func nameList(names []string) string {
	const shown = 5
	if len(names) > shown {
		return fmt.Sprintf("%s and %d more tables", strings.Join(names[:shown], ", "), len(names)-shown)
	}
	return strings.Join(names, ", ")
}

func distinct(list []string) []string {
	seen := map[string]bool{}
	var out []string
	for _, s := range list {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

// identify opens a replication connection, which has rules of its own in
// pg_hba.conf, and asks it which cluster this is.
func (k *checker) identify(ctx context.Context, facts *Facts) error {
	conn, err := connect(ctx, *k.config, true)
	if err != nil {
		return failed("open a replication connection", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	results, err := conn.Exec(ctx, "IDENTIFY_SYSTEM").ReadAll()
	if err != nil {
		return failed("identify the source", err)
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) < 3 {
		return &Error{Code: codeQuery, Kind: ErrTransient, Message: "identify the source: unexpected answer"}
	}
	row := texts(results[0].Rows[0])
	facts.SystemID = row[0]
	timeline, err := strconv.ParseInt(row[1], 10, 32)
	if err != nil {
		return &Error{Code: codeQuery, Kind: ErrTransient, Message: "identify the source: unexpected timeline", Err: err}
	}
	facts.Timeline = int32(timeline)
	if facts.Position, err = source.ParseLSN(row[2]); err != nil {
		return &Error{Code: codeQuery, Kind: ErrTransient, Message: "identify the source: unexpected position", Err: err}
	}
	return nil
}
