package postgres_test

import (
	"strings"
	"testing"

	"github.com/millrace-sync/millrace/internal/postgres"
)

// What is published is what the server's own view says, of publications of every kind.
func TestPublishedTables(t *testing.T) {
	w := newWorld(t)
	var version int
	if err := shared.Cluster(t).Conn(t, w.dsn).QueryRow(t.Context(), "SELECT current_setting('server_version_num')::int / 10000").Scan(&version); err != nil {
		t.Fatal(err)
	}
	if version < 16 {
		return // there it is the view that is asked
	}
	w.exec("DROP PUBLICATION powersync", "CREATE SCHEMA s", "CREATE SCHEMA other",
		"CREATE TABLE a (gone int, id int PRIMARY KEY, name text, twice int GENERATED ALWAYS AS (id * 2) STORED)", "ALTER TABLE a DROP COLUMN gone",
		"CREATE TABLE b (id int PRIMARY KEY, name text)", "CREATE UNLOGGED TABLE u (id int PRIMARY KEY)", "CREATE VIEW v AS SELECT * FROM a",
		"CREATE TABLE s.c (id int PRIMARY KEY, name text)", "CREATE TABLE other.d (id int PRIMARY KEY)",
		"CREATE TABLE logs (id int, at int, x text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)",
		"CREATE TABLE logs_1 PARTITION OF logs FOR VALUES FROM (0) TO (10)",
		"CREATE TABLE s.logs_2 PARTITION OF logs FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id)",
		"CREATE TABLE other.logs_2_low PARTITION OF s.logs_2 FOR VALUES FROM (0) TO (10)")
	for i, what := range []string{
		"FOR ALL TABLES", "", "FOR TABLE a", "FOR TABLE a (id)", "FOR TABLE a (name, id), b WHERE (id > 1)",
		"FOR TABLES IN SCHEMA s", "FOR TABLES IN SCHEMA s, TABLE b, s.c", "FOR TABLES IN SCHEMA public, other",
		"FOR TABLE logs", "FOR TABLE s.logs_2", "FOR TABLE other.logs_2_low (id, at), logs", "FOR TABLE logs, other.logs_2_low WHERE (id > 1)",
		"FOR ALL TABLES WITH (publish_generated_columns = stored)", "FOR TABLE a (id, twice)",
	} {
		name := "p" + string(rune('a'+i))
		if strings.Contains(what, "generated") || strings.Contains(what, "twice") {
			if version < 18 {
				continue
			}
		}
		w.exec("CREATE PUBLICATION " + name + " " + what)
		if any := postgres.CompareUnlocked(t.Context(), t, w.conn, name); any != (what != "") {
			t.Errorf("%s: something is published: %t", what, any)
		}
	}
}
