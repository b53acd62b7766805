package postgres_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-sync/millrace/internal/postgres"
	"github.com/millrace-sync/millrace/internal/source"
)

// table resolves one table.
func (w *world) table(name string) *source.Table {
	w.t.Helper()
	schema, name, ok := strings.Cut(name, ".")
	if !ok {
		schema, name = "public", schema
	}
	tables, problems, err := postgres.Tables(w.t.Context(), w.conn, postgres.DefaultPublication, w.registry, []postgres.Pattern{{Schema: schema, Name: name}})
	if err != nil || len(tables) != 1 {
		w.t.Fatalf("%d tables, %v %v", len(tables), problems, err)
	}
	return tables[0]
}

// pages reads a table in chunks.
func (w *world) pages(t *testing.T, table *source.Table, limit int) (rows [][]source.Datum, chunks int) {
	t.Helper()
	var after []string
	for {
		c, err := postgres.ReadChunk(t.Context(), w.conn, w.registry, postgres.ChunkRequest{Table: table, After: after, Limit: limit})
		if err != nil {
			t.Fatalf("chunk after %q: %v", after, err)
		}
		if len(c.Rows) > limit && limit > 0 {
			t.Fatalf("chunk of %d rows, want at most %d", len(c.Rows), limit)
		}
		rows = append(rows, c.Rows...)
		chunks++
		if c.Done {
			return rows, chunks
		}
		if slices.Equal(after, c.Last) {
			t.Fatalf("no progress after %q", after)
		}
		after = c.Last
	}
}

// decoded gives rows as the values that clients get.
func decoded(t *testing.T, table *source.Table, rows [][]source.Datum) []string {
	t.Helper()
	out := make([]string, len(rows))
	for i, row := range rows {
		for j, d := range row {
			v, err := table.Columns[j].Type.Decode(d, source.CanonicalForm)
			if err != nil {
				t.Fatal(err)
			}
			out[i] += fmt.Sprintf("%s:%v|", v.Kind(), v)
		}
	}
	return out
}

// selected reads the same rows by a plain SELECT, in the form of their text.
func (w *world) selected(t *testing.T, table *source.Table) [][]source.Datum {
	t.Helper()
	results, err := w.conn.Exec(t.Context(), fmt.Sprintf("SELECT * FROM %q.%q", table.Schema, table.Name)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var rows [][]source.Datum
	for _, r := range results[0].Rows {
		row := make([]source.Datum, len(r))
		for i, v := range r {
			if v != nil {
				row[i] = source.Datum{Encoding: source.Text, Bytes: v}
			}
		}
		rows = append(rows, row)
	}
	return rows
}

func TestChunksAreTheTable(t *testing.T) {
	w := newWorld(t)
	for i, tc := range []struct{ name, columns, rows string }{
		{"int", "id int PRIMARY KEY, s text", "SELECT g * 7 - 300, 's' || g FROM generate_series(1, 97) g"},
		{"smallint descending", "id smallint, s text, PRIMARY KEY (id)", "SELECT -g, NULL FROM generate_series(1, 97) g"},
		{"bigint", "id bigint PRIMARY KEY", "SELECT g * 90000000000000000 FROM generate_series(-40, 56) g"},
		{"uuid", "id uuid PRIMARY KEY, n int", "SELECT md5(g::text)::uuid, g FROM generate_series(1, 97) g"},
		{"text", `id text PRIMARY KEY`, `SELECT chr(64 + g) || '''\"' || g FROM generate_series(1, 97) g UNION SELECT ''`},
		{"text with collation", `id text COLLATE "en-x-icu" PRIMARY KEY`, `SELECT unnest(ARRAY['a','B','b','A','Z','z','é','e','E','É','f','-a','a-b','ab','a b','ä','ö','o','10','9','_x','Ω','ß','ss'])`},
		{"text under C", `id text COLLATE "C" PRIMARY KEY`, `SELECT unnest(ARRAY['a','B','b','A','Z','z','é','e','E','É','f','-a','a-b','ab','a b','ä','ö','o','10','9','_x','Ω','ß','ss'])`},
		{"char padded", "id char(4) PRIMARY KEY", "SELECT 'c' || g FROM generate_series(1, 97) g"},
		{"varchar", "id varchar(9) PRIMARY KEY", "SELECT 'v' || g FROM generate_series(1, 97) g"},
		{"composite key in another order", "a int, t text, b uuid, PRIMARY KEY (b, a)", "SELECT g % 9, 't', md5((g / 9)::text)::uuid FROM generate_series(1, 97) g"},
		{"timestamptz with ends", "at timestamptz PRIMARY KEY", `SELECT '2024-01-01'::timestamptz + g * interval '1.000001 s' FROM generate_series(1, 60) g
			UNION VALUES ('infinity'::timestamptz), ('-infinity'), ('0044-03-15 BC'), ('12000-01-01')`},
		{"timestamp", "at timestamp PRIMARY KEY", "SELECT '2024-01-01'::timestamp - g * interval '0.000001 s' FROM generate_series(1, 60) g"},
		{"date", "at date PRIMARY KEY", "SELECT '2024-01-01'::date + g FROM generate_series(1, 60) g UNION VALUES ('infinity'::date), ('-infinity')"},
		{"numeric", "n numeric PRIMARY KEY", "SELECT (g / 3.0)::numeric * 10 ^ (g % 20) FROM generate_series(-40, 40) g UNION VALUES ('NaN'::numeric), (1.50)"},
		{"double", "n float8 PRIMARY KEY", "SELECT g / 3.0::float8 FROM generate_series(-40, 40) g UNION VALUES ('NaN'::float8), ('Infinity'), (1e-300)"},
		{"bool in key", "b bool, n int, PRIMARY KEY (b, n)", "SELECT g % 2 = 0, g FROM generate_series(1, 40) g"},
		{"bytea", "b bytea PRIMARY KEY", "SELECT decode(md5(g::text), 'hex') FROM generate_series(1, 40) g UNION VALUES (''::bytea)"},
		{"enum", "e mood, n int, PRIMARY KEY (e, n)", "SELECT (ARRAY['happy','sad','ok'])[g % 3 + 1]::mood, g FROM generate_series(1, 40) g"},
		{"domain", "d score PRIMARY KEY", "SELECT g / 4.0 FROM generate_series(1, 40) g"},
		{"inet", "i inet PRIMARY KEY", "SELECT '10.0.0.0'::inet + g FROM generate_series(1, 40) g"},
		{"text form only", "id int PRIMARY KEY, iv interval, p pt, r int4range, x xml, m money", `SELECT g, g * interval '1 day 00:00:01', (g, NULL)::pt, int4range(g, g + 5), '<a/>'::xml, g::numeric::money FROM generate_series(1, 20) g
			UNION ALL SELECT 100, NULL, NULL, NULL, NULL, NULL UNION ALL SELECT 101, NULL, (NULL, NULL)::pt, 'empty', NULL, NULL`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if i == 0 {
				w.exec("CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')", "CREATE DOMAIN score AS numeric(9,2)", "CREATE TYPE pt AS (x int, y text)")
			}
			name := fmt.Sprintf("t%d", i)
			w.exec(fmt.Sprintf("CREATE TABLE %s (%s); INSERT INTO %s %s", name, tc.columns, name, tc.rows))
			table := w.table(name)
			want := decoded(t, table, w.selected(t, table))
			slices.Sort(want)
			for _, limit := range []int{0, 1, 7, len(want), len(want) + 1} {
				rows, chunks := w.pages(t, table, limit)
				got := decoded(t, table, rows)
				slices.Sort(got)
				if !slices.Equal(got, want) {
					t.Errorf("chunks of %d: %d rows, want %d\ngot  %q\nwant %q", limit, len(got), len(want), got, want)
				}
				if limit == 7 && chunks != len(want)/7+1 {
					t.Errorf("%d chunks of 7 for %d rows", chunks, len(want))
				}
			}
		})
	}
}

func TestChunkOfWholeRowTable(t *testing.T) {
	w := newWorld(t, "CREATE TABLE t (a int, b text); ALTER TABLE t REPLICA IDENTITY FULL", "INSERT INTO t VALUES (1, 'x'), (1, 'x'), (NULL, NULL)")
	table := w.table("t")
	c, err := postgres.ReadChunk(t.Context(), w.conn, w.registry, postgres.ChunkRequest{Table: table})
	if err != nil || len(c.Rows) != 3 || !c.Done {
		t.Errorf("%+v %v", c, err)
	}
	if _, err := postgres.ReadChunk(t.Context(), w.conn, w.registry, postgres.ChunkRequest{Table: table, Limit: 2}); err == nil {
		t.Error("a table without key was read in parts")
	}
}

func TestChunkOfEmptyTable(t *testing.T) {
	w := newWorld(t, "CREATE TABLE t (id int PRIMARY KEY)")
	c, err := postgres.ReadChunk(t.Context(), w.conn, w.registry, postgres.ChunkRequest{Table: w.table("t"), Limit: 10, After: []string{"5"}})
	if err != nil || len(c.Rows) != 0 || !c.Done || !slices.Equal(c.Last, []string{"5"}) {
		t.Errorf("%+v %v", c, err)
	}
}

func TestChunkLeavesOutGeneratedColumns(t *testing.T) {
	w := newWorld(t, "CREATE TABLE g (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED, s text)", "INSERT INTO g VALUES (1, DEFAULT, 'x')")
	table := w.table("g")
	rows, _ := w.pages(t, table, 10)
	s := w.stream(0)
	w.exec("UPDATE g SET s = 'y'")
	w.mark("end")
	for _, e := range w.until(s, "end") {
		if e.Table != nil && dumpTable(e.Table) != dumpTable(table) {
			t.Errorf("the stream describes %s, the catalog %s", dumpTable(e.Table), dumpTable(table))
		}
	}
	if len(rows) != 1 || len(rows[0]) != 2 {
		t.Errorf("rows %v", rows)
	}
}

func TestChunkSnapshot(t *testing.T) {
	w := newWorld(t, "CREATE TABLE t (id int PRIMARY KEY)")
	begin := func() (xid source.XID, end func(string)) {
		conn := w.connect()
		results, err := conn.Exec(t.Context(), "BEGIN; INSERT INTO t VALUES ((random() * 1e9)::int) RETURNING xmin").ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		var n uint32
		if _, err := fmt.Sscan(string(results[1].Rows[0][0]), &n); err != nil {
			t.Fatal(err)
		}
		return source.XID(n), func(sql string) {
			if _, err := conn.Exec(t.Context(), sql).ReadAll(); err != nil {
				t.Fatal(err)
			}
		}
	}
	open, endOpen := begin()
	done, endDone := begin()
	endDone("COMMIT")
	late, endLate := begin()
	c, err := postgres.ReadChunk(t.Context(), w.conn, w.registry, postgres.ChunkRequest{Table: w.table("t"), Limit: 10})
	if err != nil {
		t.Fatal(err)
	}
	endOpen("COMMIT")
	endLate("ROLLBACK")
	if len(c.Rows) != 1 || !slices.Equal(c.Unseen, []source.XID{open}) || c.Next != done+1 {
		t.Errorf("%d rows, unseen %v next %d, want the row of %d alone and %d unseen", len(c.Rows), c.Unseen, c.Next, done, open)
	}
	if c.Sees(open) || !c.Sees(done) || c.Sees(late) || !c.Sees(open-1) {
		t.Error("Sees the wrong ones")
	}
	wrapped := postgres.Chunk{Next: 5, Unseen: []source.XID{1<<32 - 3}}
	if wrapped.Sees(1<<32-3) || !wrapped.Sees(1<<32-2) || !wrapped.Sees(4) || wrapped.Sees(5) {
		t.Error("Sees the wrong ones when ids have wrapped around")
	}
}

func TestChunkOfAlteredTable(t *testing.T) {
	for name, alter := range map[string]string{
		"column dropped":  "ALTER TABLE t DROP COLUMN s",
		"column renamed":  "ALTER TABLE t RENAME COLUMN s TO z",
		"type changed":    "ALTER TABLE t ALTER s TYPE int USING 1",
		"table dropped":   "DROP TABLE t",
		"table renamed":   "ALTER TABLE t RENAME TO u",
		"table recreated": "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, s text)",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "CREATE TABLE t (id int PRIMARY KEY, s text)")
			table := w.table("t")
			w.exec(alter)
			_, err := postgres.ReadChunk(t.Context(), w.conn, w.registry, postgres.ChunkRequest{Table: table, Limit: 10})
			if !errors.Is(err, postgres.ErrTableChanged) {
				t.Errorf("got %v, want ErrTableChanged", err)
			}
			// The connection is good for more.
			w.exec("SELECT 1")
			if got := w.conn.TxStatus(); got != 'I' {
				t.Errorf("left in transaction state %c", got)
			}
		})
	}
}

func TestChunkWithoutRight(t *testing.T) {
	w := newWorld(t, "CREATE TABLE t (id int PRIMARY KEY)")
	table := w.table("t")
	w.exec("CREATE ROLE chunk_nobody")
	t.Cleanup(func() { dropRole(t, shared.Cluster(t), "chunk_nobody") })
	w.exec("SET ROLE chunk_nobody")
	_, err := postgres.ReadChunk(t.Context(), w.conn, w.registry, postgres.ChunkRequest{Table: table, Limit: 10})
	if !errors.Is(err, postgres.ErrConfig) {
		t.Errorf("got %v, want ErrConfig", err)
	}
}

func TestChunkUsesTheIndex(t *testing.T) {
	w := newWorld(t, "CREATE TABLE t (a int, b int, PRIMARY KEY (b, a))", "INSERT INTO t SELECT g % 100, g FROM generate_series(1, 20000) g", "ANALYZE t")
	w.exec("SELECT pg_stat_reset_single_table_counters('t'::regclass)")
	table := w.table("t")
	if _, err := postgres.ReadChunk(t.Context(), w.conn, w.registry, postgres.ChunkRequest{Table: table, Limit: 50, After: []string{"7", "10000"}}); err != nil {
		t.Fatal(err)
	}
	w.conn.Close(t.Context()) // counters are sent at the end
	w.conn = w.connect()
	var scans string
	waitFor(t, "the server's counters", func() bool {
		scans = w.scalar("SELECT seq_scan || ' ' || idx_scan FROM pg_stat_user_tables WHERE relname = 't'")
		return strings.HasSuffix(scans, " 1")
	})
	if scans != "0 1" {
		t.Errorf("sequential and index scans: %s", scans)
	}
}

func TestReadRow(t *testing.T) {
	w := newWorld(t, "CREATE TABLE t (a int, s text, b timestamptz, PRIMARY KEY (b, a))", "INSERT INTO t VALUES (1, NULL, '2024-01-01Z'), (2, 'two', 'infinity')")
	table := w.table("t")
	rows, _ := w.pages(t, table, 10) // the int comes in binary, the time in text
	for _, row := range rows {
		got, at, err := postgres.ReadRow(t.Context(), w.conn, table, row)
		if err != nil || got == nil || at == 0 {
			t.Fatalf("%v at %v, %v", got, at, err)
		}
		if a, b := decoded(t, table, [][]source.Datum{got}), decoded(t, table, [][]source.Datum{row}); !slices.Equal(a, b) {
			t.Errorf("got %q, want %q", a, b)
		}
	}
	w.exec("DELETE FROM t WHERE a = 1")
	if got, at, err := postgres.ReadRow(t.Context(), w.conn, table, rows[0]); got != nil || at == 0 || err != nil {
		t.Errorf("a deleted row: %v at %v, %v", got, at, err)
	}
	rows[1][2] = source.Datum{Encoding: source.Unchanged}
	if _, _, err := postgres.ReadRow(t.Context(), w.conn, table, rows[1]); err == nil {
		t.Error("a row was found without its key")
	}
}
