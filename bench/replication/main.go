// Command replication measures how fast the service takes in what is in its source:
// a backfill, one large transaction, single-row transactions as fast as they come.
// bench/README.md says how to run it.
//
// It starts the service itself, on an empty folder, and shares the machine with it
// and with Postgres: its figures are of all three together.
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

type options struct {
	bin         string
	config      string
	dsn         string
	storage     string
	port        int
	rows        int
	large       int
	connections int
	duration    time.Duration
}

func main() {
	o := &options{}
	flag.StringVar(&o.bin, "bin", "bin/millrace", "the service")
	flag.StringVar(&o.config, "config", "bench/millrace.yaml", "its configuration")
	flag.StringVar(&o.dsn, "pg", "", "connection string of the source database, whose table greeting is made anew")
	flag.StringVar(&o.storage, "storage", "", "connection string of a database for storage, whose schema "+schema+" is made anew, with -config bench/postgres.yaml; without it, storage is a folder")
	flag.IntVar(&o.port, "port", 8090, "port of the service")
	flag.IntVar(&o.rows, "rows", 300_000, "rows to backfill; 0 keeps the table as it is")
	flag.IntVar(&o.large, "large", 100_000, "rows of the large transaction; 0: none")
	flag.IntVar(&o.connections, "connections", 16, "connections that write single rows")
	flag.DurationVar(&o.duration, "for", 10*time.Second, "how long they do; 0: not at all")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o *options) error {
	if o.dsn == "" {
		return fmt.Errorf("-pg is needed: a database that may be written to")
	}
	pg, err := pgx.Connect(ctx, o.dsn)
	if err != nil {
		return err
	}
	defer pg.Close(context.WithoutCancel(ctx))
	rows, bytes, err := prepare(ctx, pg, o.rows)
	if err != nil {
		return fmt.Errorf("prepare the table: %w", err)
	}
	store, err := newStore(ctx, o)
	if err != nil {
		return err
	}
	defer store.remove()
	defer dropSlots(context.WithoutCancel(ctx), pg)
	s, err := start(ctx, o, store.dir)
	if err != nil {
		return err
	}
	defer s.stop()

	all := processors()
	ready, err := s.ready(ctx)
	if err != nil {
		return err
	}
	disk, err := store.size(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("backfill: %d rows in %.2f s from the start of the process, %.0f rows/s; %s; %s; disk %d MB, %.1f times the rows as JSON\n",
		rows, ready.Seconds(), float64(rows)/ready.Seconds(), s.usage(), all.since(), disk>>20, float64(disk)/float64(bytes))
	if o.large > 0 {
		if err := large(ctx, o, pg, s); err != nil {
			return fmt.Errorf("large transaction: %w", err)
		}
	}
	if o.duration > 0 {
		if err := single(ctx, o, pg, s); err != nil {
			return fmt.Errorf("single-row transactions: %w", err)
		}
	}
	return nil
}

// prepare makes the table and returns how many rows it has and how large they are as
// JSON.
func prepare(ctx context.Context, pg *pgx.Conn, rows int) (n, bytes int64, err error) {
	if err := dropSlots(ctx, pg); err != nil {
		return 0, 0, err
	}
	if rows > 0 {
		_, err := pg.Exec(ctx, fmt.Sprintf(`DROP TABLE IF EXISTS greeting, member;
			CREATE TABLE greeting (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), owner text NOT NULL, message text NOT NULL, author text NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
			CREATE TABLE member (owner text, name text, PRIMARY KEY (owner, name));
			INSERT INTO greeting (owner, message, author) SELECT 'user' || i %% 100, 'hello ' || i || ' ' || md5(i::text), 'bench' FROM generate_series(1, %d) i;
			DROP PUBLICATION IF EXISTS powersync; CREATE PUBLICATION powersync FOR ALL TABLES`, rows))
		if err != nil {
			return 0, 0, err
		}
		if _, err := pg.Exec(ctx, "VACUUM ANALYZE greeting"); err != nil {
			return 0, 0, err
		}
	}
	if _, err := pg.Exec(ctx, "CHECKPOINT"); err != nil {
		return 0, 0, err
	}
	// A sample tells the size of a large table well enough.
	err = pg.QueryRow(ctx, `SELECT n, (n * (SELECT coalesce(avg(length(row_to_json(g)::text)), 0) FROM (SELECT * FROM greeting LIMIT 10000) g))::bigint
		FROM (SELECT count(*) AS n FROM greeting) c`).Scan(&n, &bytes)
	return n, bytes, err
}

// dropSlots drops what services have left behind.
func dropSlots(ctx context.Context, pg *pgx.Conn) error {
	_, err := pg.Exec(ctx, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active AND slot_name LIKE 'powersync_%' AND database = current_database()")
	return err
}

// large measures one transaction of many rows, from its commit until a client has
// them all.
func large(ctx context.Context, o *options, pg *pgx.Conn, s *service) error {
	c, err := s.connect(ctx, "bulk")
	if err != nil {
		return err
	}
	defer c.close()
	if _, err := c.complete(0); err != nil {
		return err
	}
	begun := time.Now()
	if _, err := pg.Exec(ctx, "INSERT INTO greeting (owner, message, author) SELECT 'bulk', 'hello ' || i || ' ' || md5(i::text), 'bench' FROM generate_series(1, $1::int) i", o.large); err != nil {
		return err
	}
	committed := time.Now()
	all := processors()
	done, err := c.complete(o.large)
	if err != nil {
		return err
	}
	after := done.Sub(committed)
	fmt.Printf("large transaction: %d rows, commit took %.2f s, client complete %.2f s later, %.0f rows/s; %s; %s\n",
		o.large, committed.Sub(begun).Seconds(), after.Seconds(), float64(o.large)/after.Seconds(), s.usage(), all.since())
	return nil
}

// pipelined is how many transactions a connection sends at once.
const pipelined = 20

// single measures single-row transactions from many connections, which send several
// ahead: inserts, until a client has the last row; then updates of rows that were
// there from the start, until a client has a row inserted after them.
func single(ctx context.Context, o *options, pg *pgx.Conn, s *service) error {
	c, err := s.connect(ctx, "single")
	if err != nil {
		return err
	}
	defer c.close()
	if _, err := c.complete(0); err != nil {
		return err
	}
	inserts := strings.Repeat("BEGIN; INSERT INTO greeting (owner, message, author) VALUES ('single', 'hello', 'bench'); COMMIT;", pipelined)
	err = throughput(ctx, o, s, "inserts", func() string { return inserts }, func(n int) error {
		_, err := c.complete(n)
		return err
	})
	if err != nil {
		return err
	}
	rows, err := pg.Query(ctx, "SELECT id::text FROM greeting WHERE owner LIKE 'user%' ORDER BY random() LIMIT 200000")
	if err != nil {
		return err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(ids) == 0 {
		return err
	}
	updates := func() string {
		var b strings.Builder
		for range pipelined {
			fmt.Fprintf(&b, "BEGIN; UPDATE greeting SET message = message || '.' WHERE id = '%s'; COMMIT;", ids[rand.IntN(len(ids))])
		}
		return b.String()
	}
	return throughput(ctx, o, s, "updates of random rows", updates, func(int) error {
		if _, err := pg.Exec(ctx, "INSERT INTO greeting (owner, message, author) VALUES ('single', 'last', 'bench')"); err != nil {
			return err
		}
		_, err := c.complete(1)
		return err
	})
}

// throughput has all connections send batches of transactions, and prints how many there
// were until arrived returns, which waits for all of them to come to a client.
func throughput(ctx context.Context, o *options, s *service, what string, batch func() string, arrived func(n int) error) error {
	before, all := s.cpu(), processors()
	begun := time.Now()
	counts := make(chan int, o.connections)
	errs := make(chan error, o.connections)
	for range o.connections {
		go func() {
			n := 0
			defer func() { counts <- n }()
			w, err := pgx.Connect(ctx, o.dsn)
			if err != nil {
				errs <- err
				return
			}
			defer w.Close(context.WithoutCancel(ctx))
			for time.Since(begun) < o.duration {
				if _, err := w.PgConn().Exec(ctx, batch()).ReadAll(); err != nil {
					errs <- err
					return
				}
				n += pipelined
			}
		}()
	}
	total := 0
	for range o.connections {
		total += <-counts
	}
	select {
	case err := <-errs:
		return err
	default:
	}
	committed := time.Since(begun)
	if err := arrived(total); err != nil {
		return err
	}
	done := time.Since(begun)
	fmt.Printf("single-row transactions, %s: %d committed in %.2f s, %.0f/s; client has the last %.2f s later, %.0f/s in all; service took %.2f s of processor; %s; %s\n",
		what, total, committed.Seconds(), float64(total)/committed.Seconds(), (done - committed).Seconds(),
		float64(total)/done.Seconds(), (s.cpu() - before).Seconds(), s.usage(), all.since())
	return nil
}
