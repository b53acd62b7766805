package postgres_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/millrace-sync/millrace/internal/postgres"
)

// benchmarkTable has rows of 8 columns, about 160 bytes.
const benchmarkTable = `CREATE TABLE t (id int PRIMARY KEY, a uuid, b text, c text, d int, e bool, f timestamptz, g float8)`

const benchmarkRows = `SELECT g, gen_random_uuid(), 'row number ' || g, repeat('x', 40), g * 7, mod(g, 2) = 0, '2024-01-01'::timestamptz + g * interval '1 s', g / 3.0
	FROM generate_series(%d, %d) g`

// BenchmarkStream measures how fast committed rows come, over TCP.
func BenchmarkStream(b *testing.B) {
	const rows, perTxn = 200_000, 1000
	for _, transport := range []string{"tcp", "socket"} {
		b.Run(transport, func(b *testing.B) {
			w := newWorld(b, benchmarkTable)
			if transport == "socket" {
				w.config = configOf(b, shared.Cluster(b).SocketDSN(w.config.Database))
			}
			first := 1
			for b.Loop() {
				b.StopTimer()
				for range rows / perTxn {
					w.exec("INSERT INTO t " + fmt.Sprintf(benchmarkRows, first, first+perTxn-1))
					first += perTxn
				}
				w.mark("end")
				b.StartTimer()
				s := w.stream(0)
				n := 0
				for done := false; !done; {
					e, err := s.Next(b.Context())
					if err != nil {
						b.Fatal(err)
					}
					if e.Txn != nil {
						n += len(e.Txn.Changes)
						done = len(e.Txn.Messages) > 0
						if done {
							s.Confirm(e.Txn.Commit)
						}
					}
				}
				if n != rows {
					b.Fatalf("%d rows", n)
				}
				s.Close()
			}
			b.ReportMetric(rows/(b.Elapsed().Seconds()/float64(b.N)), "rows/s")
		})
	}
}

// BenchmarkChunks measures how fast a table is read, by one connection.
func BenchmarkChunks(b *testing.B) {
	const rows, limit = 200_000, 10_000
	w := newWorld(b, benchmarkTable, "INSERT INTO t "+fmt.Sprintf(benchmarkRows, 1, rows), "ANALYZE t")
	table := w.table("t")
	for b.Loop() {
		n := 0
		var after []string
		for done := false; !done; {
			c, err := postgres.ReadChunk(b.Context(), w.conn, w.registry, postgres.ChunkRequest{Table: table, After: after, Limit: limit})
			if err != nil {
				b.Fatal(err)
			}
			n += len(c.Rows)
			after, done = c.Last, c.Done
		}
		if n != rows {
			b.Fatalf("%d rows", n)
		}
	}
	b.ReportMetric(rows/(b.Elapsed().Seconds()/float64(b.N)), "rows/s")
}

// BenchmarkCommitToNext measures how long a commit takes to come, on an idle database.
func BenchmarkCommitToNext(b *testing.B) {
	w := newWorld(b, "CREATE TABLE t (id serial PRIMARY KEY)")
	s := w.stream(0)
	var total time.Duration
	for b.Loop() {
		w.exec("INSERT INTO t DEFAULT VALUES")
		committed := time.Now()
		for {
			e, err := s.Next(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			if e.Txn != nil {
				total += time.Since(committed)
				s.Confirm(e.Txn.Commit)
				break
			}
		}
	}
	b.ReportMetric(float64(total.Microseconds())/float64(b.N), "µs/commit")
}
