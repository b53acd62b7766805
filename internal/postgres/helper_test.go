package postgres_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace-sync/millrace/internal/pgtest"
	"github.com/millrace-sync/millrace/internal/postgres"
	"github.com/millrace-sync/millrace/internal/postgres/pgtypes"
	"github.com/millrace-sync/millrace/internal/source"
)

var shared = pgtest.Shared{Options: []pgtest.Option{pgtest.WithSetting("max_prepared_transactions", "5")}}

func TestMain(m *testing.M) { os.Exit(shared.Main(m)) }

// configOf makes a Config of a connection URI. Slot names are unique to a cluster,
// so each test has its own.
func configOf(t testing.TB, dsn string) postgres.Config {
	t.Helper()
	pc, err := pgconn.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return postgres.Config{
		Host: pc.Host, Port: pc.Port, User: pc.User, Password: pc.Password, Database: pc.Database,
		TLS: postgres.DisableTLS, Slot: pc.Database,
	}
}

// world is a database that is being streamed from.
type world struct {
	t        testing.TB
	dsn      string
	config   postgres.Config
	registry *pgtypes.Registry
	conn     *pgconn.PgConn
}

// newWorld makes a database with these statements run in it, a publication of all
// tables, and a slot.
func newWorld(t testing.TB, statements ...string) *world {
	t.Helper()
	w := &world{t: t, dsn: shared.NewDatabase(t), registry: pgtypes.NewRegistry()}
	w.config = configOf(t, w.dsn)
	pgtest.Exec(t, w.dsn, append(statements, "CREATE PUBLICATION powersync FOR ALL TABLES")...)
	if _, _, err := postgres.EnsureSlot(t.Context(), w.config); err != nil {
		t.Fatal(err)
	}
	w.conn = w.connect()
	return w
}

func (w *world) connect() *pgconn.PgConn {
	w.t.Helper()
	conn, err := postgres.Connect(w.t.Context(), w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		conn.Close(ctx)
	})
	return conn
}

func (w *world) exec(statements ...string) {
	w.t.Helper()
	for _, s := range statements {
		if _, err := w.conn.Exec(w.t.Context(), s).ReadAll(); err != nil {
			w.t.Fatalf("%v\n%s", err, s)
		}
	}
}

// stream opens the stream; it is closed after the test.
func (w *world) stream(from source.LSN) *postgres.Stream {
	w.t.Helper()
	s, err := postgres.OpenStream(w.t.Context(), w.config, w.registry, from)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(s.Close)
	return s
}

// mark emits a message; until reads the stream up to it.
func (w *world) mark(content string) {
	w.t.Helper()
	if _, err := postgres.Emit(w.t.Context(), w.conn, postgres.MessagePrefix, []byte(content)); err != nil {
		w.t.Fatal(err)
	}
}

// until returns the events up to and with the transaction that holds a message.
func (w *world) until(s *postgres.Stream, content string) []postgres.Event {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	var events []postgres.Event
	for {
		e, err := s.Next(ctx)
		if err != nil {
			w.t.Fatalf("waiting for message %q: %v\nso far:\n%s", content, err, dump(events))
		}
		events = append(events, e)
		if e.Txn != nil && !e.Txn.More {
			for _, m := range e.Txn.Messages {
				if string(m.Content) == content {
					return events
				}
			}
		}
	}
}

// dump prints events in lines, without positions and transaction ids. A position by
// itself prints nothing: the server sends them as it likes.
func dump(events []postgres.Event) string {
	var b strings.Builder
	for _, e := range events {
		switch {
		case e.Table != nil:
			fmt.Fprintf(&b, "table %s\n", dumpTable(e.Table))
		case e.Txn != nil:
			for i := range e.Txn.Changes {
				ch := &e.Txn.Changes[i]
				fmt.Fprintf(&b, "  %s %s", ch.Kind, ch.Table.QualifiedName())
				if ch.Old != nil {
					fmt.Fprintf(&b, " old(%s)", dumpRow(ch.Old))
				}
				if ch.New != nil {
					fmt.Fprintf(&b, " new(%s)", dumpRow(ch.New))
				}
				b.WriteByte('\n')
			}
			for _, m := range e.Txn.Messages {
				fmt.Fprintf(&b, "  message %s %q\n", m.Prefix, m.Content)
			}
			if e.Txn.More {
				b.WriteString("more\n")
			} else {
				b.WriteString("commit\n")
			}
		}
	}
	return b.String()
}

func dumpTable(t *source.Table) string {
	var b strings.Builder
	b.WriteString(t.QualifiedName())
	if t.RootName != "" {
		fmt.Fprintf(&b, " of %s.%s", t.RootSchema, t.RootName)
	}
	fmt.Fprintf(&b, " %s", t.Identity)
	for _, c := range t.Columns {
		fmt.Fprintf(&b, " %s:%s", c.Name, c.Type.Name())
		if c.Key {
			b.WriteByte('*')
		}
	}
	return b.String()
}

func dumpRow(row []source.Datum) string {
	parts := make([]string, len(row))
	for i, d := range row {
		switch d.Encoding {
		case source.Null:
			parts[i] = "-"
		case source.Unchanged:
			parts[i] = "~"
		default:
			parts[i] = string(d.Bytes)
			if len(d.Bytes) > 40 {
				parts[i] = fmt.Sprintf("%d bytes", len(d.Bytes))
			}
		}
	}
	return strings.Join(parts, ",")
}

func port(c postgres.Config) string { return fmt.Sprint(c.Port) }

func contextFor(t testing.TB, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}
