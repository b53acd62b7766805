package client

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/millrace-sync/millrace/internal/demo"
	"github.com/millrace-sync/millrace/internal/pgtest"
)

var postgres pgtest.Shared

func TestMain(m *testing.M) {
	code := postgres.Main(m)
	if binDir != "" {
		os.RemoveAll(binDir)
	}
	os.Exit(code)
}

var binDir string

// millrace builds the service, once.
var millrace = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "millrace-client-")
	if err != nil {
		return "", err
	}
	binDir = dir
	path := filepath.Join(dir, "millrace")
	if out, err := exec.Command("go", "build", "-o", path, "../cmd/millrace").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the service: %w\n%s", err, out)
	}
	return path, nil
})

const secret = "a secret that only this test knows"

const serviceConfig = `
replication: {connections: [{type: postgresql, uri: !env PS_DATABASE_URI, password: unused, sslmode: disable}]}
storage: {type: pebble, path: !env PS_STORAGE_PATH}
port: !env PS_PORT::number
sync_config:
  content: |
    config:
      edition: 3
    streams:
      mine:
        auto_subscribe: true
        query: SELECT * FROM greeting WHERE owner = request.user_id()
      settings:
        auto_subscribe: true
        priority: 1
        query: SELECT * FROM setting WHERE owner = request.user_id()
      room:
        query: SELECT * FROM message WHERE room = subscription.parameter('room')
client_auth:
  audience: [powersync]
  jwks: {keys: [{kty: oct, alg: HS256, kid: test, k: !env PS_KEY}]}
`

// service is a running service with its database.
type service struct {
	t       testing.TB
	db      *pgxpool.Pool
	url     string
	env     []string
	dir     string
	process *demo.Process
}

// newService starts a service on a database of its own. The statements run before.
func newService(t testing.TB, statements ...string) *service {
	t.Helper()
	bin, err := millrace()
	if err != nil {
		t.Fatal(err)
	}
	dsn := postgres.NewDatabase(t)
	pool, err := pgxpool.New(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	s := &service{t: t, db: pool, dir: t.TempDir()}
	s.exec(`
CREATE TABLE greeting(id uuid PRIMARY KEY DEFAULT gen_random_uuid(), owner text NOT NULL, message text, author text NOT NULL DEFAULT '', created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE setting(id text PRIMARY KEY, owner text NOT NULL, val text);
CREATE TABLE message(id text PRIMARY KEY, room text NOT NULL, body text);
CREATE PUBLICATION powersync FOR ALL TABLES`)
	for _, sql := range statements {
		s.exec(sql)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	s.url = fmt.Sprintf("http://127.0.0.1:%d", port)
	config := filepath.Join(s.dir, "powersync.yaml")
	if err := os.WriteFile(config, []byte(serviceConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	s.env = []string{
		"PS_DATABASE_URI=" + dsn, "PS_STORAGE_PATH=" + filepath.Join(s.dir, "store"), fmt.Sprint("PS_PORT=", port),
		"PS_KEY=" + base64.RawURLEncoding.EncodeToString([]byte(secret)),
	}
	t.Cleanup(s.stop)
	s.start(bin)
	return s
}

func (s *service) exec(sql string, args ...any) {
	s.t.Helper()
	if _, err := s.db.Exec(s.t.Context(), sql, args...); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

func (s *service) start(bin string) {
	s.t.Helper()
	p, err := demo.Start(demo.Program{
		Name: "service", Path: bin, Log: filepath.Join(s.dir, "service.log"), Env: s.env,
		Args: []string{"start", "-c", filepath.Join(s.dir, "powersync.yaml"), "-r", "unified"},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.process = p
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if resp, err := http.Get(s.url + "/probes/readiness"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-tick.C:
		case <-p.Done():
			s.t.Fatalf("the service ended:\n%s", s.log())
		case <-ctx.Done():
			s.t.Fatalf("the service does not start:\n%s", s.log())
		}
	}
}

// patience bounds what a test waits for; nothing takes near as long.
const patience = 60 * time.Second

func (s *service) log() string {
	text, err := os.ReadFile(filepath.Join(s.dir, "service.log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4000):])
}

func (s *service) stop() {
	if s.process == nil {
		return
	}
	if err := s.process.Stop(); err != nil {
		s.t.Error(err)
	}
	s.process = nil
	if s.t.Failed() {
		s.t.Logf("service:\n%s", s.log())
	}
}

// token returns a token that is good for a time.
func token(user string, life time.Duration) string {
	part := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	at := time.Now().Unix()
	signed := part(map[string]any{"alg": "HS256", "kid": "test"}) + "." + part(map[string]any{
		"sub": user, "aud": "powersync", "iat": at, "exp": at + int64(life/time.Second),
	})
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(signed))
	return signed + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// connectorOf is the connector of a user whose backend writes to Postgres.
type connectorOf struct {
	s    *service
	user string
}

func (c connectorOf) FetchCredentials(context.Context) (Credentials, error) {
	return Credentials{Endpoint: c.s.url, Token: token(c.user, time.Hour)}, nil
}

func (c connectorOf) UploadData(ctx context.Context, db *DB) error {
	for t, err := range db.Transactions(ctx) {
		if err != nil {
			return err
		}
		err := pgx.BeginFunc(ctx, c.s.db, func(tx pgx.Tx) error {
			for _, e := range t.Entries {
				if err := write(ctx, tx, e); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := t.Complete(ctx); err != nil {
			return err
		}
	}
	return nil
}

// write applies an upload entry in Postgres.
func write(ctx context.Context, tx pgx.Tx, e Entry) error {
	table := pgx.Identifier{e.Table}.Sanitize()
	var row map[string]any
	if e.Data != nil {
		if err := json.Unmarshal(e.Data, &row); err != nil {
			return err
		}
	}
	var err error
	switch e.Op {
	case Delete:
		_, err = tx.Exec(ctx, "DELETE FROM "+table+" WHERE id::text = $1", e.RowID)
	case Put:
		text, _ := json.Marshal(row)
		columns := ""
		for name := range row {
			columns += ", " + pgx.Identifier{name}.Sanitize()
		}
		_, err = tx.Exec(ctx, fmt.Sprintf("INSERT INTO %s(id%s) SELECT id%s FROM json_populate_record(NULL::%s, ($1::jsonb || jsonb_build_object('id', $2::text))::json)",
			table, columns, columns, table), string(text), e.RowID)
	case Patch:
		for name, v := range row {
			if _, err = tx.Exec(ctx, fmt.Sprintf("UPDATE %s SET %s = $1 WHERE id::text = $2", table, pgx.Identifier{name}.Sanitize()), v, e.RowID); err != nil {
				return err
			}
		}
	}
	return err
}
