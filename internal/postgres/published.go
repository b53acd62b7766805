package postgres

import (
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// publishedTables is a query of the tables in publication $1, leaves of partitioned
// tables each by themselves: oid, attributes (the published columns' names as JSON;
// null before Postgres 15, which publishes all) and filtered (some rows are left out).
//
// pg_publication_tables has all this, but takes a lock on every table from Postgres 16
// on: one that is altered or vacuumed for long would keep us from all the others.
func publishedTables(conn *pgconn.PgConn) string {
	if majorVersion(conn) >= 16 {
		return unlockedSQL
	}
	return viewSQL
}

// viewSQL asks the view.
const viewSQL = `SELECT c.oid, pg_catalog.to_jsonb(p) -> 'attnames' AS attributes, pg_catalog.to_jsonb(p) ->> 'rowfilter' IS NOT NULL AS filtered
FROM pg_catalog.pg_publication_tables p
JOIN pg_catalog.pg_namespace n ON n.nspname = p.schemaname
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
WHERE p.pubname = $1`

// unlockedSQL asks the catalog as the view does. A table is published by itself, with
// its ancestors, with its schema or one of theirs, or with all. Only an entry of its own
// can have a list of columns or a filter, and only if its schema is not published.
const unlockedSQL = `SELECT c.oid, (
    SELECT pg_catalog.jsonb_agg(a.attname ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND CASE WHEN own.prattrs IS NOT NULL THEN a.attnum = ANY (own.prattrs)
      ELSE a.attgenerated = '' OR a.attgenerated = 's' AND pg_catalog.to_jsonb(pub) ->> 'pubgencols' = 's' END
  ) AS attributes, own.prqual IS NOT NULL AS filtered
FROM pg_catalog.pg_publication pub
CROSS JOIN pg_catalog.pg_class c
LEFT JOIN pg_catalog.pg_publication_rel own ON own.prpubid = pub.oid AND own.prrelid = c.oid AND NOT pub.puballtables
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_publication_namespace s WHERE s.pnpubid = pub.oid AND s.pnnspid = c.relnamespace)
WHERE pub.pubname = $1 AND c.relkind = 'r' AND c.relpersistence = 'p' AND c.oid >= 16384 AND (
  pub.puballtables
  OR EXISTS (
    SELECT FROM pg_catalog.pg_class r
    WHERE (r.oid = c.oid OR c.relispartition AND r.oid IN (SELECT pg_catalog.pg_partition_ancestors(c.oid)))
      AND (EXISTS (SELECT FROM pg_catalog.pg_publication_rel e WHERE e.prpubid = pub.oid AND e.prrelid = r.oid)
        OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace s WHERE s.pnpubid = pub.oid AND s.pnnspid = r.relnamespace))))`

// majorVersion returns a server's version, such as 15, as it told when we connected;
// 0 if it is not understood.
func majorVersion(conn *pgconn.PgConn) int {
	text := conn.ParameterStatus("server_version")
	end := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(text)
	}
	n, _ := strconv.Atoi(text[:end])
	return n
}
