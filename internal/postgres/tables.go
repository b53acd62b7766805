package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace-sync/millrace/internal/postgres/pgtypes"
	"github.com/millrace-sync/millrace/internal/source"
)

// Pattern names source tables; a % at the end of Schema or Name stands for any
// ending. It converts from streams.TablePattern.
type Pattern struct {
	Schema, Name string
}

// String returns schema.name.
func (p Pattern) String() string { return p.Schema + "." + p.Name }

func (p Pattern) wild() bool {
	return strings.HasSuffix(p.Schema, "%") || strings.HasSuffix(p.Name, "%")
}

// Problem is something wrong with one table, or with a pattern that names none.
type Problem struct {
	// Table is the table's schema.name, or the pattern.
	Table string
	Err   *Error
	// Omitted says that the table is left out; otherwise it is replicated, but not
	// perhaps as it was meant.
	Omitted bool
}

// described is what the catalog says of a table.
type described struct {
	OID         uint32   `json:"oid"`
	Heap        uint32   `json:"heap"` // pg_class.relfilenode
	Schema      string   `json:"schema"`
	Name        string   `json:"name"`
	Identity    string   `json:"identity"`    // pg_class.relreplident
	Persistence string   `json:"persistence"` // pg_class.relpersistence
	RootSchema  string   `json:"root_schema"`
	RootName    string   `json:"root_name"`
	Columns     []column `json:"columns"`
	Primary     []int    `json:"primary"`      // attribute numbers in index order
	Replident   []int    `json:"replident"`    // the same
	Published   bool     `json:"published"`    // is in the publication
	PublishedAs string   `json:"published_as"` // changes with the publication's settings, and when the table leaves it and comes back
	Attributes  []string `json:"attributes"`   // published columns; null before Postgres 15
	Filtered    bool     `json:"filtered"`     // the publication leaves rows out
	Readable    bool     `json:"readable"`     // the role may SELECT
	RowSecurity bool     `json:"rowsecurity"`  // policies apply to the role
	Generated   bool     `json:"generated"`    // stored generated columns may be published
	Patterns    []int    `json:"patterns"`     // positions of the patterns that name it
}

type column struct {
	Number    int    `json:"number"`
	Name      string `json:"name"`
	Type      uint32 `json:"type"`
	Generated string `json:"generated"`
}

// describeSQL describes the tables of a subquery named leaf (oid, patterns), after one
// named published (see publishedTables).
const describeSQL = `
SELECT pg_catalog.json_build_object(
  'oid', c.oid::bigint, 'heap', c.relfilenode::bigint, 'schema', n.nspname, 'name', c.relname, 'identity', c.relreplident, 'persistence', c.relpersistence,
  'root_schema', coalesce(rn.nspname, ''), 'root_name', coalesce(r.relname, ''),
  'columns', (SELECT pg_catalog.json_agg(pg_catalog.json_build_object('number', a.attnum, 'name', a.attname, 'type', a.atttypid::bigint, 'generated', a.attgenerated) ORDER BY a.attnum)
    FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  'primary', (SELECT pg_catalog.array_to_json((i.indkey::int2[])[0:i.indnkeyatts-1]) FROM pg_catalog.pg_index i
    WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid AND i.indimmediate),
  'replident', (SELECT pg_catalog.array_to_json((i.indkey::int2[])[0:i.indnkeyatts-1]) FROM pg_catalog.pg_index i
    WHERE i.indrelid = c.oid AND i.indisreplident AND i.indisvalid AND i.indimmediate),
  'published', p.oid IS NOT NULL, 'published_as', (SELECT pg_catalog.concat_ws(' ', b.oid, b.xmin, (
      SELECT pg_catalog.string_agg(l.oid || ':' || l.xmin, ' ' ORDER BY l.oid) FROM pg_catalog.pg_publication_rel l
      WHERE l.prpubid = b.oid AND (l.prrelid = c.oid OR c.relispartition AND l.prrelid IN (SELECT pg_catalog.pg_partition_ancestors(c.oid)))))
    FROM pg_catalog.pg_publication b WHERE b.pubname = $1),
  'attributes', p.attributes, 'filtered', coalesce(p.filtered, false),
  'readable', pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT'),
  'rowsecurity', pg_catalog.row_security_active(c.oid),
  'generated', pg_catalog.current_setting('server_version_num')::int >= 180000,
  'patterns', leaf.patterns
)
FROM leaf
JOIN pg_catalog.pg_class c ON c.oid = leaf.oid AND c.relkind = 'r'
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_class r ON c.relispartition AND r.oid = pg_catalog.pg_partition_root(c.oid)
LEFT JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
LEFT JOIN published p ON p.oid = c.oid
ORDER BY n.nspname, c.relname`

// resolveSQL selects leaf for describeSQL: $2 and $3 are the patterns' schemas and
// names. A partitioned table stands for its leaves.
const resolveSQL = `pattern AS (
  SELECT p.schema, p.name, p.ord::int - 1 AS ord
  FROM ROWS FROM (pg_catalog.unnest($2::text[]), pg_catalog.unnest($3::text[])) WITH ORDINALITY AS p(schema, name, ord)
), matched AS (
  SELECT p.ord, c.oid, c.relkind
  FROM pattern p
  JOIN pg_catalog.pg_namespace n ON CASE WHEN pg_catalog.right(p.schema, 1) = '%'
    THEN pg_catalog.starts_with(n.nspname::text, pg_catalog.left(p.schema, -1)) AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    ELSE n.nspname = p.schema END
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
    AND CASE WHEN pg_catalog.right(p.name, 1) = '%'
      THEN pg_catalog.starts_with(c.relname::text, pg_catalog.left(p.name, -1)) ELSE c.relname = p.name END
), named AS (
  SELECT ord, oid FROM matched WHERE relkind = 'r'
  UNION
  SELECT m.ord, t.relid FROM matched m, pg_catalog.pg_partition_tree(m.oid) t WHERE m.relkind = 'p' AND t.isleaf
), leaf AS (SELECT oid, pg_catalog.array_agg(ord) AS patterns FROM named GROUP BY oid)
` + describeSQL

// leafSQL selects leaf for describeSQL: the one table with oid $2.
const leafSQL = `leaf AS (SELECT $2::oid AS oid, '{}'::int[] AS patterns)` + describeSQL

// Tables resolves patterns to the tables that they name, in order of schema and
// name: leaf tables only, since those are what the stream names. A pattern that
// names a partitioned table stands for its partitions.
//
// registry learns the types of their columns. A Problem for each table that cannot
// be replicated (it is left out) or only with reservations, and for each pattern
// that names no table though it has no wildcard.
func Tables(ctx context.Context, conn *pgconn.PgConn, publication string, registry *pgtypes.Registry, patterns []Pattern) ([]*source.Table, []Problem, error) {
	const doing = "look up the tables of the sync config"
	schemas, names := make([]string, len(patterns)), make([]string, len(patterns))
	for i, p := range patterns {
		schemas[i], names[i] = p.Schema, p.Name
	}
	list, err := describe(ctx, conn, doing, resolveSQL, publication, arrayLiteral(schemas), arrayLiteral(names))
	if err != nil {
		return nil, nil, err
	}
	var oids []uint32
	for i := range list {
		for _, c := range list[i].Columns {
			oids = append(oids, c.Type)
		}
	}
	// Also those that are known: ALTER TYPE may have changed them.
	if err := learnTypes(ctx, conn, registry, pgtypes.NewRegistry().Missing(oids)); err != nil {
		return nil, nil, err
	}
	who, err := queryRow(ctx, conn, doing, "SELECT current_user")
	if err != nil {
		return nil, nil, err
	}
	var tables []*source.Table
	var problems []Problem
	named := make([]bool, len(patterns))
	for i := range list {
		d := &list[i]
		for _, p := range d.Patterns {
			named[p] = true
		}
		found := d.problems(publication, who[0])
		problems = append(problems, found...)
		if !slices.ContainsFunc(found, func(p Problem) bool { return p.Omitted }) {
			tables = append(tables, d.table(registry))
		}
	}
	for i, p := range patterns {
		if !named[i] && !p.wild() {
			problems = append(problems, Problem{Table: p.String(), Omitted: true, Err: &Error{Code: codeSetup, Kind: ErrConfig,
				Message: fmt.Sprintf("there is no table %s", p),
				Hint:    "it is picked up when it is created; views and foreign tables cannot be replicated"}})
		}
	}
	return tables, problems, nil
}

// describe runs a query that ends in describeSQL; the publication's name is $1.
func describe(ctx context.Context, conn *pgconn.PgConn, doing, sql string, args ...string) ([]described, error) {
	rows, err := query(ctx, conn, doing, "WITH published AS NOT MATERIALIZED ("+publishedTables(conn)+"), "+sql, args...)
	if err != nil {
		return nil, err
	}
	list := make([]described, len(rows))
	for i, r := range rows {
		if err := json.Unmarshal(r[0], &list[i]); err != nil {
			return nil, failed(doing, err)
		}
	}
	return list, nil
}

// published reports whether pgoutput sends a column: before Postgres 18 it never
// sends generated ones, and column lists of publications leave others out.
func (d *described) published(c *column) bool {
	if c.Generated == "v" || c.Generated != "" && !d.Generated {
		return false
	}
	return d.Attributes == nil || slices.Contains(d.Attributes, c.Name)
}

// identity returns the replica identity and the columns by which rows are told
// apart; see identityColumns.
func (d *described) identity() (source.Identity, func(name string) bool) {
	id := identityOf(d.Identity)
	var numbers []int
	switch id {
	case source.IdentityIndex:
		numbers = d.Replident
	case source.IdentityDefault:
		numbers = d.Primary
	default:
		return wholeIdentity(id, d.primaryNames())
	}
	names := d.names(numbers)
	return id, func(name string) bool { return slices.Contains(names, name) }
}

// wholeIdentity is the identity of a table with REPLICA IDENTITY FULL or NOTHING.
// Such tables may have a primary key all the same, and it tells rows apart better
// than all their columns: it finds the row of an update that leaves large values
// out, and lets the table be read in chunks. Without one, all columns are the
// identity, under NOTHING too, where rows are only ever inserted.
func wholeIdentity(id source.Identity, primary []string) (source.Identity, func(name string) bool) {
	if len(primary) > 0 {
		return id, func(name string) bool { return slices.Contains(primary, name) }
	}
	return source.IdentityFull, func(string) bool { return true }
}

func (d *described) primaryNames() []string { return d.names(d.Primary) }

func (d *described) names(numbers []int) []string {
	var names []string
	for _, n := range numbers {
		for i := range d.Columns {
			if d.Columns[i].Number == n && d.published(&d.Columns[i]) {
				names = append(names, d.Columns[i].Name)
			}
		}
	}
	if len(names) < len(numbers) {
		return nil // the key is not published whole
	}
	return names
}

func identityOf(relreplident string) source.Identity {
	switch relreplident {
	case "n":
		return source.IdentityNothing
	case "f":
		return source.IdentityFull
	case "i":
		return source.IdentityIndex
	}
	return source.IdentityDefault
}

func (d *described) table(registry *pgtypes.Registry) *source.Table {
	t := &source.Table{ID: source.TableID(d.OID), Schema: d.Schema, Name: d.Name, RootSchema: d.RootSchema, RootName: d.RootName, Heap: d.Heap, Published: d.PublishedAs}
	var key func(string) bool
	t.Identity, key = d.identity()
	for i := range d.Columns {
		c := &d.Columns[i]
		if d.published(c) {
			t.Columns = append(t.Columns, source.Column{Name: c.Name, Type: registry.Type(c.Type), Key: key(c.Name)})
		}
	}
	return t
}

// problems tells what keeps the table, or some of its rows, from being replicated.
func (d *described) problems(publication, user string) []Problem {
	name := d.Schema + "." + d.Name
	quoted := quoteIdent(d.Schema) + "." + quoteIdent(d.Name)
	var list []Problem
	add := func(omitted bool, e Error) {
		e.Kind = ErrConfig
		if e.Code == "" {
			e.Code = codeSetup
		}
		list = append(list, Problem{Table: name, Err: &e, Omitted: omitted})
	}
	switch {
	case d.Persistence == "u":
		add(true, Error{Message: name + " is an unlogged table, whose changes are in no log", SQL: []string{"ALTER TABLE " + quoted + " SET LOGGED;"}})
	case !d.Published:
		add(true, Error{Message: fmt.Sprintf("%s is not in publication %s", name, quoteIdent(publication)),
			SQL: []string{fmt.Sprintf("ALTER PUBLICATION %s ADD TABLE %s;", quoteIdent(publication), quoted)}})
	case d.Filtered:
		add(true, Error{Message: fmt.Sprintf("publication %s publishes only some rows of %s; select them in the sync config instead", quoteIdent(publication), name),
			SQL: []string{
				fmt.Sprintf("ALTER PUBLICATION %s DROP TABLE %s;", quoteIdent(publication), quoted),
				fmt.Sprintf("ALTER PUBLICATION %s ADD TABLE %s;", quoteIdent(publication), quoted),
			}})
	}
	if !d.Readable {
		add(true, Error{Message: fmt.Sprintf("role %s may not read %s", user, name), SQL: grantSQL(d.Schema, d.Name, user)})
	} else if d.RowSecurity {
		list = append(list, Problem{Table: name, Err: rowSecurity(user, name)})
	}
	if id, key := d.identity(); !slices.ContainsFunc(d.Columns, func(c column) bool { return d.published(&c) && key(c.Name) }) {
		what := "no primary key"
		if id == source.IdentityIndex {
			what = "lost the index that its REPLICA IDENTITY names"
		}
		add(true, Error{Message: fmt.Sprintf("%s has %s, so changes of its rows could not be followed", name, what),
			SQL: []string{"ALTER TABLE " + quoted + " REPLICA IDENTITY FULL;"}, Hint: "a primary key is better: ALTER TABLE " + quoted + " ADD PRIMARY KEY (…), then REPLICA IDENTITY DEFAULT"})
	}
	return list
}

// learnTypes adds types to the registry.
func learnTypes(ctx context.Context, conn *pgconn.PgConn, registry *pgtypes.Registry, oids []uint32) error {
	infos, err := typeInfos(ctx, conn, oids)
	if err != nil {
		return err
	}
	for _, info := range infos {
		registry.Add(info)
	}
	return nil
}

// typeInfos asks the catalog for types and what they are made of.
func typeInfos(ctx context.Context, conn *pgconn.PgConn, oids []uint32) ([]pgtypes.Info, error) {
	if len(oids) == 0 {
		return nil, nil
	}
	const doing = "look up column types"
	list := make([]string, len(oids))
	for i, oid := range oids {
		list[i] = strconv.FormatUint(uint64(oid), 10)
	}
	rows, err := query(ctx, conn, doing, pgtypes.CatalogQuery, arrayLiteral(list))
	if err != nil {
		return nil, err
	}
	infos := make([]pgtypes.Info, len(rows))
	for i, r := range rows {
		infos[i], err = pgtypes.ScanInfo(func(dest ...any) error {
			*dest[0].(*string) = string(r[0])
			return nil
		})
		if err != nil {
			return nil, failed(doing, err)
		}
	}
	return infos, nil
}
