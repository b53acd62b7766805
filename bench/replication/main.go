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
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

type options struct {
	bin         string
	config      string
	dsn         string
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
	dir, err := os.MkdirTemp("", "millrace-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := start(ctx, o, dir)
	if err != nil {
		return err
	}
	defer s.stop()
	defer dropSlots(context.WithoutCancel(ctx), pg)

	all := processors()
	ready, err := s.ready(ctx)
	if err != nil {
		return err
	}
	disk, err := size(dir)
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
// ahead, until a client has the last row.
func single(ctx context.Context, o *options, pg *pgx.Conn, s *service) error {
	c, err := s.connect(ctx, "single")
	if err != nil {
		return err
	}
	defer c.close()
	if _, err := c.complete(0); err != nil {
		return err
	}
	before, all := s.cpu(), processors()
	begun := time.Now()
	counts := make(chan int, o.connections)
	errs := make(chan error, o.connections)
	sql := strings.Repeat("BEGIN; INSERT INTO greeting (owner, message, author) VALUES ('single', 'hello', 'bench'); COMMIT;", pipelined)
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
				if _, err := w.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
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
	committed := time.Now()
	done, err := c.complete(total)
	if err != nil {
		return err
	}
	fmt.Printf("single-row transactions: %d committed in %.2f s, %.0f/s; client has the last %.2f s later, %.0f/s in all; service took %.2f s of processor; %s; %s\n",
		total, committed.Sub(begun).Seconds(), float64(total)/committed.Sub(begun).Seconds(), done.Sub(committed).Seconds(),
		float64(total)/done.Sub(begun).Seconds(), (s.cpu() - before).Seconds(), s.usage(), all.since())
	return nil
}

// size returns the bytes of the files in a folder.
func size(dir string) (int64, error) {
	var n int64
	err := filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			n += info.Size()
		}
		if os.IsNotExist(err) {
			return nil // the service removes files meanwhile
		}
		return err
	})
	return n, err
}
