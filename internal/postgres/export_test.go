package postgres

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// CompareUnlocked compares what unlockedSQL and the view say of a publication, and
// reports whether they say anything.
func CompareUnlocked(ctx context.Context, t *testing.T, conn *pgconn.PgConn, publication string) bool {
	t.Helper()
	var said [2]string
	for i, sql := range []string{viewSQL, unlockedSQL} {
		rows, err := query(ctx, conn, "compare", "SELECT pg_catalog.string_agg(p.oid::regclass || ' ' || "+
			"coalesce((SELECT pg_catalog.jsonb_agg(a ORDER BY a) FROM pg_catalog.jsonb_array_elements(p.attributes) a)::text, 'all') || p.filtered, chr(10) ORDER BY p.oid) FROM ("+sql+") p", publication)
		if err != nil {
			t.Fatal(err)
		}
		said[i] = texts(rows[0])[0]
	}
	if said[0] != said[1] {
		t.Errorf("publication %s\nthe view:\n%s\nwithout locks:\n%s", publication, said[0], said[1])
	}
	return said[0] != ""
}
