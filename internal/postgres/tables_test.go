package postgres_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-sync/millrace/internal/pgtest"
	"github.com/millrace-sync/millrace/internal/postgres"
	"github.com/millrace-sync/millrace/internal/postgres/pgtypes"
	"github.com/millrace-sync/millrace/internal/source"
)

// tablesOf resolves patterns such as "public.a" and returns what they name.
func tablesOf(t *testing.T, config postgres.Config, patterns ...string) (string, []postgres.Problem) {
	t.Helper()
	var list []postgres.Pattern
	for _, p := range patterns {
		schema, name, _ := strings.Cut(p, ".")
		list = append(list, postgres.Pattern{Schema: schema, Name: name})
	}
	conn, err := postgres.Connect(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	tables, problems, err := postgres.Tables(t.Context(), conn, postgres.DefaultPublication, pgtypes.NewRegistry(), list)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, tab := range tables {
		b.WriteString(dumpTable(tab) + "\n")
	}
	return b.String(), problems
}

func TestTables(t *testing.T) {
	dsn := shared.NewDatabase(t)
	pgtest.Exec(t, dsn, `CREATE PUBLICATION powersync FOR ALL TABLES;
		CREATE TABLE plain (gone int, id int PRIMARY KEY, name text, doubled int GENERATED ALWAYS AS (id * 2) STORED);
		ALTER TABLE plain DROP COLUMN gone;
		CREATE TABLE pair (a int, b text, c int, PRIMARY KEY (c, a));
		CREATE TABLE by_index (x int NOT NULL UNIQUE, y text); ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_x_key;
		CREATE TABLE full_keyed (id int PRIMARY KEY, y text); ALTER TABLE full_keyed REPLICA IDENTITY FULL;
		CREATE TABLE full_bare (x int, y text); ALTER TABLE full_bare REPLICA IDENTITY FULL;
		CREATE TABLE nothing_keyed (id int PRIMARY KEY); ALTER TABLE nothing_keyed REPLICA IDENTITY NOTHING;
		CREATE TABLE nothing_bare (x int); ALTER TABLE nothing_bare REPLICA IDENTITY NOTHING;
		CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE); ALTER TABLE deferred REPLICA IDENTITY FULL;
		CREATE TABLE covering (id int, extra int, PRIMARY KEY (id) INCLUDE (extra));
		CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN score AS numeric(5,2); CREATE TYPE pt AS (x int, y mood);
		CREATE TABLE typed (id uuid PRIMARY KEY, m mood, ms mood[], s score, p pt, r int4range);
		CREATE TABLE logs (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
		CREATE TABLE logs_2024 PARTITION OF logs FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
		CREATE TABLE logs_2025 PARTITION OF logs FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY RANGE (id);
		CREATE TABLE logs_2025_low PARTITION OF logs_2025 FOR VALUES FROM (0) TO (100);
		CREATE SCHEMA tenant_a; CREATE TABLE tenant_a.item (id int PRIMARY KEY);
		CREATE SCHEMA tenant_b; CREATE TABLE tenant_b.item (id int PRIMARY KEY);
		CREATE SCHEMA "tenant%"; CREATE TABLE "tenant%"."od""d" ("i""d" int PRIMARY KEY)`)
	config := configOf(t, dsn)
	for _, tc := range []struct{ patterns, want string }{
		{"public.plain", "public.plain default id:int4* name:text\n"},
		{"public.pair", "public.pair default a:int4* b:text c:int4*\n"},
		{"public.by_index", "public.by_index index x:int4* y:text\n"},
		{"public.full_keyed", "public.full_keyed full id:int4* y:text\n"},
		{"public.full_bare", "public.full_bare full x:int4* y:text*\n"},
		{"public.nothing_keyed", "public.nothing_keyed nothing id:int4*\n"},
		{"public.nothing_bare", "public.nothing_bare full x:int4*\n"},
		{"public.deferred", "public.deferred full id:int4*\n"},
		{"public.covering", "public.covering default id:int4* extra:int4\n"},
		{"public.typed", "public.typed default id:uuid* m:mood ms:_mood s:score p:pt r:int4range\n"},
		{"public.logs", "public.logs_2024 of public.logs default id:int4* at:date*\npublic.logs_2025_low of public.logs default id:int4* at:date*\n"},
		{"public.logs_2025", "public.logs_2025_low of public.logs default id:int4* at:date*\n"},
		{"public.logs_20% public.logs public.logs_2024", "public.logs_2024 of public.logs default id:int4* at:date*\npublic.logs_2025_low of public.logs default id:int4* at:date*\n"},
		{"tenant_%.item", "tenant_a.item default id:int4*\ntenant_b.item default id:int4*\n"},
		{"tenant%%.od\"d", "tenant%.od\"d default i\"d:int4*\n"},
		{"%.ite%", "tenant_a.item default id:int4*\ntenant_b.item default id:int4*\n"},
		{"%.pg_class", ""},
		{"public.nothere%", ""},
		// An underscore stands for itself, and so does % that is not at the end.
		{"public.pla_n% public.p%in%", ""},
	} {
		t.Run(tc.patterns, func(t *testing.T) {
			got, problems := tablesOf(t, config, strings.Fields(tc.patterns)...)
			if got != tc.want || len(problems) != 0 {
				t.Errorf("got\n%swant\n%sproblems %v", got, tc.want, problems)
			}
		})
	}
}

func TestTableProblemsNameTheRepair(t *testing.T) {
	for _, tc := range []struct {
		name, setup, says, code string
		kept                    bool // the table is replicated all the same
		byHand                  string
		since                   int // the first version that knows the statements
	}{
		{name: "not published", setup: "CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION powersync", says: `public.t is not in publication "powersync"`},
		{name: "no key", setup: "CREATE TABLE t (id int); CREATE PUBLICATION powersync FOR ALL TABLES", says: "no primary key"},
		{name: "key deferrable", setup: "CREATE TABLE t (id int PRIMARY KEY DEFERRABLE); CREATE PUBLICATION powersync FOR ALL TABLES", says: "no primary key"},
		{name: "identity index dropped", says: "lost the index", setup: `CREATE TABLE t (id int NOT NULL UNIQUE); ALTER TABLE t REPLICA IDENTITY USING INDEX t_id_key;
			ALTER TABLE t DROP CONSTRAINT t_id_key; CREATE PUBLICATION powersync FOR ALL TABLES`},
		{name: "no right", setup: `CREATE TABLE t (id int PRIMARY KEY); REVOKE SELECT ON t FROM PUBLIC; REVOKE SELECT ON t FROM table_reader;
			CREATE PUBLICATION powersync FOR ALL TABLES`, says: "role table_reader may not read public.t"},
		{name: "unlogged", setup: "CREATE UNLOGGED TABLE t (id int PRIMARY KEY); CREATE PUBLICATION powersync FOR ALL TABLES", says: "unlogged"},
		{name: "row filter", setup: "CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION powersync FOR TABLE t WHERE (id > 5)", says: "only some rows", since: 150000},
		{name: "row security", code: "PSYNC_S1145", kept: true, says: "row security may hide rows of public.t",
			setup: "CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE PUBLICATION powersync FOR ALL TABLES"},
		{name: "missing", setup: "CREATE VIEW t AS SELECT 1", says: "there is no table public.t",
			byHand: "DROP VIEW t; CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION powersync FOR ALL TABLES"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := shared.Cluster(t)
			dsn := c.NewDatabase(t)
			pgtest.Exec(t, dsn, "CREATE ROLE table_reader LOGIN", "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO table_reader")
			t.Cleanup(func() { pgtest.Exec(t, dsn, "DROP OWNED BY table_reader; DROP ROLE table_reader") })
			if tc.since > serverVersion(t, dsn) {
				return // nothing to go wrong
			}
			pgtest.Exec(t, dsn, tc.setup)
			config := configOf(t, pgtest.As(t, dsn, "table_reader", ""))
			got, problems := tablesOf(t, config, "public.t")
			if (got != "") != tc.kept || len(problems) != 1 {
				t.Fatalf("tables %q, problems %v", got, problems)
			}
			p := problems[0]
			code := tc.code
			if code == "" {
				code = "PSYNC_S1101"
			}
			if p.Table != "public.t" || p.Omitted == tc.kept || p.Err.Code != code || !strings.Contains(p.Err.Error(), tc.says) {
				t.Errorf("problem: %+v %v", p, p.Err)
			}
			if tc.byHand != "" {
				pgtest.Exec(t, dsn, tc.byHand)
			}
			pgtest.Exec(t, dsn, p.Err.SQL...)
			if got, problems := tablesOf(t, config, "public.t"); got == "" || len(problems) != 0 {
				t.Errorf("after the repair: tables %q, problems %v", got, problems)
			}
		})
	}
}

func serverVersion(t *testing.T, dsn string) (version int) {
	t.Helper()
	conn := shared.Cluster(t).Conn(t, dsn)
	if err := conn.QueryRow(t.Context(), "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil {
		t.Fatal(err)
	}
	return version
}

func TestNames(t *testing.T) {
	dsn := shared.NewDatabase(t)
	pgtest.Exec(t, dsn, `CREATE TABLE plain (id int); CREATE SCHEMA s;
		CREATE TABLE s.logs (id int) PARTITION BY RANGE (id); CREATE TABLE leaf PARTITION OF s.logs FOR VALUES FROM (1) TO (5)`)
	conn, err := postgres.Connect(t.Context(), configOf(t, dsn))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	results, err := conn.Exec(t.Context(), "SELECT 'plain'::regclass::oid::text UNION ALL SELECT 'leaf'::regclass::oid::text").ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var ids []source.TableID
	for _, row := range results[0].Rows {
		var id uint32
		if _, err := fmt.Sscan(string(row[0]), &id); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, source.TableID(id))
	}
	names, err := postgres.Names(t.Context(), conn, append(ids, 1))
	if err != nil || len(names) != 2 {
		t.Fatalf("%v %v", names, err)
	}
	for i, want := range []source.Table{
		{ID: ids[0], Schema: "public", Name: "plain"},
		{ID: ids[1], Schema: "public", Name: "leaf", RootSchema: "s", RootName: "logs"},
	} {
		if diff := cmp.Diff(want, *names[ids[i]]); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	}
}
