package pgtypes

import (
	"encoding/json"
	"fmt"
)

// CatalogQuery selects the Infos of the types given as $1, an oid[], and of all
// types that they are made of, one JSON text a row; see ScanInfo. It runs on every
// Postgres that has logical replication (to_jsonb hides that multiranges, and so
// one column of pg_range, came with version 14).
const CatalogQuery = `
WITH RECURSIVE part(oid) AS (
  SELECT unnest($1::pg_catalog.oid[])
  UNION
  SELECT p.oid
  FROM part
  JOIN pg_catalog.pg_type t ON t.oid = part.oid
  CROSS JOIN LATERAL (
    SELECT t.typelem WHERE t.typtype = 'b' AND t.typoutput = 'pg_catalog.array_out'::regproc
    UNION ALL SELECT t.typbasetype WHERE t.typtype = 'd'
    UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid
    UNION ALL SELECT r.rngtypid FROM pg_catalog.pg_range r WHERE t.typtype = 'm' AND (to_jsonb(r) ->> 'rngmultitypid')::oid = t.oid
    UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a
      WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
  ) p(oid)
)
SELECT json_build_object(
  'oid', t.oid::bigint,
  'schema', n.nspname,
  'name', t.typname,
  'kind', ascii(t.typtype::text),
  'delim', ascii(t.typdelim::text),
  'elem', CASE WHEN t.typtype = 'b' AND t.typoutput = 'pg_catalog.array_out'::regproc THEN t.typelem::bigint ELSE 0 END,
  'base', t.typbasetype::bigint,
  'subtype', CASE t.typtype
    WHEN 'r' THEN (SELECT r.rngsubtype::bigint FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid)
    WHEN 'm' THEN (SELECT r.rngtypid::bigint FROM pg_catalog.pg_range r WHERE (to_jsonb(r) ->> 'rngmultitypid')::oid = t.oid)
    ELSE 0 END,
  'fields', CASE WHEN t.typtype = 'c' THEN (
    SELECT json_agg(json_build_object('name', a.attname, 'type', a.atttypid::bigint) ORDER BY a.attnum)
    FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) END,
  'labels', CASE WHEN t.typtype = 'e' THEN (
    SELECT json_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid) END
)::text
FROM part
JOIN pg_catalog.pg_type t ON t.oid = part.oid
JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
ORDER BY t.oid`

// ScanInfo reads one row of CatalogQuery by the driver's scan function.
func ScanInfo(scan func(dest ...any) error) (Info, error) {
	var text string
	if err := scan(&text); err != nil {
		return Info{}, fmt.Errorf("read a type from the catalog: %w", err)
	}
	var i Info
	if err := json.Unmarshal([]byte(text), &i); err != nil {
		return Info{}, fmt.Errorf("read a type from the catalog: %w", err)
	}
	return i, nil
}

// TextExpr returns an SQL expression for the text that the output function of a
// column's type prints, NULL for NULL. expr is the column as SQL, quoted already.
//
// A cast to text is not that: it trims char(n), and prints booleans and inet
// differently. Nor does IS NULL tell a NULL from a composite of NULLs.
func TextExpr(expr string) string {
	return "CASE WHEN " + expr + " IS DISTINCT FROM NULL THEN pg_catalog.format('%s', " + expr + ") END"
}
