package postgres

import (
	"context"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace-sync/millrace/internal/source"
)

// Names returns the present names, and those of their partitioned roots, of the
// tables that exist among the given ones. The tables have no columns.
func Names(ctx context.Context, conn *pgconn.PgConn, ids []source.TableID) (map[source.TableID]*source.Table, error) {
	const doing = "look up tables by oid"
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = strconv.FormatUint(uint64(id), 10)
	}
	rows, err := query(ctx, conn, doing, `
		SELECT c.oid::text, n.nspname, c.relname, coalesce(rn.nspname, ''), coalesce(r.relname, '')
		FROM pg_catalog.pg_class c
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_catalog.pg_class r ON c.relispartition AND r.oid = pg_catalog.pg_partition_root(c.oid)
		LEFT JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
		WHERE c.oid = ANY ($1::oid[])`, arrayLiteral(list))
	if err != nil {
		return nil, err
	}
	out := make(map[source.TableID]*source.Table, len(rows))
	for _, row := range rows {
		t := texts(row)
		oid, err := strconv.ParseUint(t[0], 10, 32)
		if err != nil {
			return nil, failed(doing, err)
		}
		out[source.TableID(oid)] = &source.Table{ID: source.TableID(oid), Schema: t[1], Name: t[2], RootSchema: t[3], RootName: t[4]}
	}
	return out, nil
}
