package postgres_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/millrace-sync/millrace/internal/postgres"
	"github.com/millrace-sync/millrace/internal/source"
)

// TestSplit reads tables in the parts that SplitTable gives, and finds each row once.
func TestSplit(t *testing.T) {
	const rows = 30_000
	w := newWorld(t, fmt.Sprintf(`
		CREATE TABLE serial (id int PRIMARY KEY, s text); INSERT INTO serial SELECT g, repeat('x', 100) FROM generate_series(1, %[1]d) g;
		CREATE TABLE random (id uuid PRIMARY KEY, s text); INSERT INTO random SELECT md5(g::text)::uuid, repeat('x', 100) FROM generate_series(1, %[1]d) g;
		CREATE TABLE composite (a int, s text, b text COLLATE "en-x-icu", PRIMARY KEY (b, a));
		INSERT INTO composite SELECT g, repeat('x', 100), chr(97 + g %% 7) || g %% 50 FROM generate_series(1, %[1]d) g;
		CREATE TABLE skewed (a int, b int, s text, PRIMARY KEY (a, b)); INSERT INTO skewed SELECT (g > %[1]d - 50)::int, g, repeat('x', 100) FROM generate_series(1, %[1]d) g;
		CREATE TABLE clock (at timestamptz PRIMARY KEY, s text); INSERT INTO clock SELECT '2024-01-01Z'::timestamptz + g * interval '1.5 s', repeat('x', 100) FROM generate_series(1, %[1]d) g`, rows))
	for _, name := range []string{"serial", "random", "composite", "skewed", "clock"} {
		t.Run(name, func(t *testing.T) {
			table := w.table(name)
			const part = 3000
			split, err := postgres.SplitTable(t.Context(), w.conn, w.registry, postgres.SplitRequest{Table: table, Rows: part})
			if err != nil {
				t.Fatal(err)
			}
			if math.Abs(float64(split.Rows)-rows) > rows/4 {
				t.Errorf("estimate of %d rows, there are %d", split.Rows, rows)
			}
			if n := len(split.Bounds); n < 6 || n > 14 {
				t.Errorf("%d bounds, want about 9", n)
			}
			seen := map[string]bool{}
			var after []string
			for _, until := range append(slices.Clone(split.Bounds), nil) {
				n := 0
				for from, done := after, false; !done; {
					c, err := postgres.ReadChunk(t.Context(), w.conn, w.registry, postgres.ChunkRequest{Table: table, After: from, Until: until, Limit: 1000})
					if err != nil {
						t.Fatal(err)
					}
					for _, row := range c.Rows {
						key, err := source.AppendRowKey(nil, table, row)
						if err != nil {
							t.Fatal(err)
						}
						if seen[string(key)] {
							t.Fatalf("row %q came twice", key)
						}
						seen[string(key)] = true
					}
					n += c.Count
					from, done = c.Last, c.Done || slices.Equal(c.Last, until)
				}
				if n > 3*part {
					t.Errorf("a part of %d rows, want about %d", n, part)
				}
				after = until
			}
			if len(seen) != rows {
				t.Errorf("%d rows, want %d", len(seen), rows)
			}
			half, err := postgres.SplitTable(t.Context(), w.conn, w.registry, postgres.SplitRequest{Table: table, After: split.Bounds[len(split.Bounds)/2], Rows: part})
			if err != nil {
				t.Fatal(err)
			}
			if half.Rows > 3*rows/4 || len(half.Bounds) >= len(split.Bounds) {
				t.Errorf("after the middle: %d rows, %d bounds", half.Rows, len(half.Bounds))
			}
		})
	}
}

// TestSplitOfWhatIsOnePart gives tables that are not divided, with their size.
func TestSplitOfWhatIsOnePart(t *testing.T) {
	w := newWorld(t, `CREATE TABLE empty (id int PRIMARY KEY);
		CREATE TABLE small (id int PRIMARY KEY); INSERT INTO small SELECT generate_series(1, 500);
		CREATE TABLE keyless (a int, s text); ALTER TABLE keyless REPLICA IDENTITY FULL; INSERT INTO keyless SELECT g, repeat('x', 1000) FROM generate_series(1, 2000) g`)
	for name, rows := range map[string]int64{"empty": 0, "small": 500, "keyless": 2000} {
		for _, part := range []int{100, 100_000} {
			split, err := postgres.SplitTable(t.Context(), w.conn, w.registry, postgres.SplitRequest{Table: w.table(name), Rows: part})
			if err != nil || len(split.Bounds) > 0 || math.Abs(float64(split.Rows-rows)) > float64(rows)/4 {
				t.Errorf("%s: %+v %v, want %d rows in one part", name, split, err, rows)
			}
		}
	}
	table := w.table("small")
	w.exec("DROP TABLE small; CREATE TABLE small (id int PRIMARY KEY)")
	if _, err := postgres.SplitTable(t.Context(), w.conn, w.registry, postgres.SplitRequest{Table: table, Rows: 100}); !errors.Is(err, postgres.ErrTableChanged) {
		t.Errorf("a table that was dropped: %v", err)
	}
}

func TestChunkIsBoundInBytes(t *testing.T) {
	w := newWorld(t, "CREATE TABLE t (id int PRIMARY KEY, s text)", "INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(1, 100) g")
	n := 0
	c, err := postgres.ReadChunk(t.Context(), w.conn, w.registry, postgres.ChunkRequest{
		Table: w.table("t"), After: []string{"10"}, Limit: 50, Bytes: 10_000, Yield: func([]source.Datum) error { n++; return nil },
	})
	if err != nil || n != 10 || c.Count != n || c.Done || !slices.Equal(c.Last, []string{"20"}) || c.Rows != nil {
		t.Errorf("%d rows given, %+v %v; want 10 up to 20", n, c, err)
	}
	w.exec("SELECT 1") // the connection is good for more
}

// A table whose sample takes the server too long is read in one part.
func TestSplitOfWhatIsSlowToSample(t *testing.T) {
	w := newWorld(t, "CREATE TABLE t (id int PRIMARY KEY, filler text)",
		"INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, 5000) i", "ANALYZE t")
	table := w.table("t")
	// Whoever is subject to a policy waits for it at every row.
	w.exec("ALTER TABLE t ENABLE ROW LEVEL SECURITY", "CREATE POLICY slow ON t USING (pg_sleep(0.01) IS NOT NULL)",
		"CREATE ROLE sampler_"+w.config.Database, "GRANT SELECT ON t TO sampler_"+w.config.Database, "SET ROLE sampler_"+w.config.Database)
	began := time.Now()
	split, err := postgres.SplitTable(t.Context(), w.conn, w.registry, postgres.SplitRequest{Table: table, Rows: 100, Within: 100 * time.Millisecond})
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	w.exec("RESET ROLE", "DROP OWNED BY sampler_"+w.config.Database, "DROP ROLE sampler_"+w.config.Database)
	if err != nil || len(split.Bounds) != 0 || split.Rows == 0 {
		t.Errorf("got %+v, %v", split, err)
	}
}
