package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/millrace-sync/millrace/internal/pgtest"
)

// A testApp is an app of a few tables: Postgres, the service, and a backend that
// issues tokens, publishes their keys, and takes writes.
type testApp struct {
	t       *testing.T // which it ends with
	db      *pgxpool.Pool
	backend *backend
	service *service // nil while stopped
	port    int
	dir     string
	env     []string
	sync    string // its first sync config
	keys    string // what it says of keys, if not empty
}

// newApp starts an app; sync is its sync config, keys, if not empty, what it says of
// keys instead of the backend's.
func newApp(t *testing.T, sync, keys string) *testApp {
	t.Helper()
	cluster := pgtest.Start(t, pgtest.WithPassword("secret"))
	dsn := cluster.NewDatabase(t)
	schema, err := os.ReadFile(filepath.Join("sdk", "schema.sql"))
	if err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, dsn, string(schema))
	uri, _, _ := strings.Cut(pgtest.As(t, dsn, "powersync_role", "secret"), "?")
	a := &testApp{t: t, sync: sync, keys: keys, port: freePort(t), dir: t.TempDir()}
	if a.db, err = pgxpool.New(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.db.Close)
	a.backend = newBackend(t, a)
	a.env = []string{
		"PS_DATABASE_URI=" + uri, "PS_STORAGE_PATH=" + filepath.Join(a.dir, "store"), "PS_PORT=" + strconv.Itoa(a.port),
		"PS_JWKS_URI=" + a.backend.url + "/jwks",
	}
	a.start(t, sync)
	t.Cleanup(func() {
		if t.Failed() && a.service != nil {
			text := a.service.output()
			t.Logf("service:\n%s", text[max(0, len(text)-12000):])
		}
	})
	return a
}

func (a *testApp) url() string { return fmt.Sprintf("http://127.0.0.1:%d", a.port) }

// start runs the service with a sync config until it is ready.
func (a *testApp) start(t *testing.T, sync string) {
	t.Helper()
	config, err := os.ReadFile(filepath.Join("sdk", "powersync.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if a.keys != "" {
		config = bytes.Replace(config, []byte("  jwks_uri: !env PS_JWKS_URI\n"), []byte(a.keys), 1)
	}
	text := string(config) + "\nsync_config:\n  content: |\n    " + strings.ReplaceAll(strings.TrimSpace(sync), "\n", "\n    ") + "\n"
	file := filepath.Join(a.dir, "powersync.yaml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	a.service = launch(a.t, a.dir, []string{"start", "-c", file}, a.env)
	eventually(t, "the service is ready", func() (bool, string) {
		got := probeStatus(a.port, "readiness")
		return got == "200", got
	})
}

// stop ends the service in order.
func (a *testApp) stop(t *testing.T) {
	t.Helper()
	a.service.interrupt(t)
	a.service = nil
}

func (a *testApp) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := a.db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
}

// backend is the app's own server.
type backend struct {
	url string
	app *testApp

	mu      sync.Mutex
	key     jose.JSONWebKey
	life    time.Duration // of the tokens that it issues
	refuse  bool          // tokens
	tokens  int           // issued
	fetches int           // of its key set
}

func newBackend(t *testing.T, a *testApp) *backend {
	t.Helper()
	b := &backend{app: a, life: 10 * time.Minute}
	b.rotate(t, "first")
	mux := http.NewServeMux()
	mux.HandleFunc("GET /jwks", b.jwks)
	mux.HandleFunc("GET /token", b.token)
	mux.HandleFunc("POST /upload", b.upload)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Access-Control-Allow-Headers", "Content-Type")
		if r.Method == http.MethodOptions {
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	b.url = server.URL
	return b
}

// rotate replaces the key that tokens are signed with, and the only one published.
func (b *backend) rotate(t *testing.T, id string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.key = jose.JSONWebKey{Key: private, KeyID: id, Algorithm: string(jose.EdDSA), Use: "sig"}
}

// set changes how long tokens live, and whether there are any.
func (b *backend) set(life time.Duration, refuse bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.life, b.refuse = life, refuse
}

func (b *backend) issued() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tokens
}

func (b *backend) jwks(w http.ResponseWriter, _ *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fetches++
	writeJSON(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{b.key.Public()}})
}

// sign returns a token of a user.
func (b *backend) sign(user string) (token string, expires time.Time, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: b.key}, nil)
	if err != nil {
		return "", time.Time{}, err
	}
	now := time.Now()
	expires = now.Add(b.life)
	token, err = jwt.Signed(signer).Claims(map[string]any{"sub": user, "aud": "e2e", "iat": now.Unix(), "exp": expires.Unix()}).Serialize()
	b.tokens++
	return token, expires, err
}

func (b *backend) token(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	refuse := b.refuse
	b.mu.Unlock()
	if refuse {
		http.Error(w, "no tokens now", http.StatusServiceUnavailable)
		return
	}
	token, expires, err := b.sign(r.URL.Query().Get("user"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, map[string]any{"endpoint": b.app.url(), "token": token, "expiresAt": expires})
}

// upload writes one transaction of a client's to Postgres.
func (b *backend) upload(w http.ResponseWriter, r *http.Request) {
	var writes []struct {
		Op, Type, ID string
		Data         map[string]any
	}
	err := json.NewDecoder(r.Body).Decode(&writes)
	if err == nil {
		for _, c := range writes {
			if c.Type != "lists" {
				err = fmt.Errorf("writes to %s are not taken", c.Type)
				break
			}
			switch c.Op {
			case "PUT":
				_, err = b.app.db.Exec(r.Context(), "INSERT INTO lists (id, owner, name) VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET name = $3", c.ID, c.Data["owner"], c.Data["name"])
			case "PATCH":
				_, err = b.app.db.Exec(r.Context(), "UPDATE lists SET name = $2 WHERE id = $1", c.ID, c.Data["name"])
			case "DELETE":
				_, err = b.app.db.Exec(r.Context(), "DELETE FROM lists WHERE id = $1", c.ID)
			}
			if err != nil {
				break
			}
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, struct{}{})
}

func writeJSON(w http.ResponseWriter, v any) {
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(v); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b.Bytes())
}

// rows returns a query's rows as JSON, each with its columns in their order.
func (a *testApp) rows(ctx context.Context, t *testing.T, sql string, args ...any) json.RawMessage {
	t.Helper()
	var text string
	if err := a.db.QueryRow(ctx, "SELECT coalesce(json_agg(r), '[]')::text FROM ("+sql+") r", args...).Scan(&text); err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
	return json.RawMessage(text)
}
