package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-sync/millrace/internal/auth/keys"
	"github.com/millrace-sync/millrace/internal/pgtest"
	"github.com/millrace-sync/millrace/protocol"
)

const processesConfig = `
replication: {connections: [{type: postgresql, uri: !env PS_SOURCE, sslmode: disable}]}
storage: {type: postgresql, uri: !env PS_STORAGE, sslmode: disable}
port: !env PS_PORT::number
sync_config:
  content: |
    config: {edition: 3}
    streams:
      notes: {auto_subscribe: true, query: SELECT * FROM notes}
client_auth:
  audience: [e2e]
  jwks: {keys: [{kty: oct, alg: HS256, kid: !env PS_KID, k: !env PS_KEY}]}
`

// TestProcesses runs two processes that serve beside two that replicate, on storage in
// Postgres, kills the one that replicates without warning, and then the storage's
// server. Clients stay connected, and have what the source has.
func TestProcesses(t *testing.T) {
	source, storage := pgtest.Start(t), pgtest.Start(t)
	with := func(dsn string) string { return strings.Replace(dsn, "@", ":none@", 1) }
	dsn := source.NewDatabase(t)
	db := source.Conn(t, dsn)
	for _, sql := range []string{
		"CREATE PUBLICATION powersync FOR ALL TABLES", "CREATE TABLE notes (id text PRIMARY KEY, body text)",
		"INSERT INTO notes SELECT 'n'||i, 'body '||i FROM generate_series(1, 2000) i",
	} {
		exec1(t, db, sql)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "powersync.yaml"), []byte(processesConfig), 0o644); err != nil {
		t.Fatal(err)
	}
	key := keys.NewSecret()
	secret, _ := key.Private.Key.([]byte)
	now := time.Now()
	token, err := keys.Sign(key.Private, map[string]any{"sub": "u", "aud": "e2e", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()})
	if err != nil {
		t.Fatal(err)
	}
	env := []string{"PS_SOURCE=" + with(dsn), "PS_STORAGE=" + with(storage.NewDatabase(t)), "PS_KID=" + key.Private.KeyID,
		"PS_KEY=" + base64.RawURLEncoding.EncodeToString(secret)}
	start := func(role string) (*service, int) {
		port := freePort(t)
		p := launch(t, dir, []string{"start", "-r", role}, append(env, "PS_PORT="+strconv.Itoa(port)))
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("%s process on port %d:\n%s", role, port, p.output())
			}
		})
		return p, port
	}
	ready := func(port int, status string) {
		t.Helper()
		eventually(t, fmt.Sprintf("readiness of port %d is %s", port, status), func() (bool, string) {
			got := probeStatus(port, "readiness")
			return got == status, got
		})
	}

	first, at := start("sync")
	ready(at, "200")
	second, at := start("sync")
	second.untilSays(t, []string{"waiting for another process"})
	ready(at, "200")
	var viewers []*viewer
	for range 2 {
		_, port := start("api")
		ready(port, "200")
		viewers = append(viewers, view(t, port, token))
	}
	same := func(what string) {
		t.Helper()
		want := notesNow(t, db)
		for i, v := range viewers {
			eventually(t, fmt.Sprintf("client %d has what the source has, after %s", i, what), func() (bool, string) {
				got := v.shown()
				return maps.Equal(got, want), fmt.Sprintf("%d rows, want %d", len(got), len(want))
			})
		}
	}
	same("the first sync")
	exec1(t, db, "UPDATE notes SET body = upper(body) WHERE id < 'n2'")
	same("a change")

	exec1(t, db, "INSERT INTO notes SELECT 'm'||i, 'more' FROM generate_series(1, 5000) i")
	if err := first.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-first.done
	exec1(t, db, "DELETE FROM notes WHERE id LIKE 'n1%'")
	same("the one that replicates was killed")
	second.untilSays(t, []string{"this process replicates"})

	exec1(t, db, "UPDATE notes SET body = 'while storage falls' WHERE id LIKE 'm1%'")
	if err := storage.Restart(t.Context(), pgtest.Crash); err != nil {
		t.Fatal(err)
	}
	exec1(t, db, "INSERT INTO notes VALUES ('last', 'after storage fell')")
	same("the storage's server was killed")
	if took := second.interrupt(t); took > 10*time.Second {
		t.Errorf("took %v to stop", took)
	}
}

func notesNow(t *testing.T, db *pgx.Conn) map[string]string {
	t.Helper()
	rows, err := db.Query(t.Context(), "SELECT id, body FROM notes")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	var id, body string
	if _, err := pgx.ForEachRow(rows, []any{&id, &body}, func() error { out[id] = body; return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

// viewer is a client that keeps nothing between two streams, and shows what the last
// complete checkpoint had.
type viewer struct {
	mu      sync.Mutex
	visible map[string]string
}

func (v *viewer) shown() map[string]string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.visible
}

// view connects a viewer, again and again until the test ends.
func view(t *testing.T, port int, token string) *viewer {
	v := &viewer{}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for ctx.Err() == nil {
			_ = v.stream(ctx, port, token) // it ends with the service, or the test
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return v
}

func (v *viewer) stream(ctx context.Context, port int, token string) error {
	req := protocol.Request{RawData: true, IncludeDefaults: true}
	hr, err := http.NewRequestWithContext(ctx, "POST", fmt.Sprintf("http://127.0.0.1:%d/sync/stream", port), bytes.NewReader(req.AppendJSON(nil)))
	if err != nil {
		return err
	}
	hr.Header.Set("Authorization", "Token "+token)
	hr.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(hr)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	rows := map[string]string{}
	r := protocol.NewReader(resp.Body, protocol.JSONLines, 64<<20)
	for {
		line, err := r.Next()
		if err != nil {
			return err
		}
		switch l := line.(type) {
		case *protocol.DataChunk:
			for i := range l.Ops {
				switch op := &l.Ops[i]; op.Kind {
				case protocol.Put:
					var row struct{ Body string }
					if err := json.Unmarshal(op.Data, &row); err != nil {
						return err
					}
					rows[op.ObjectID] = row.Body
				case protocol.Remove:
					delete(rows, op.ObjectID)
				case protocol.Clear:
					clear(rows)
				}
			}
		case *protocol.CheckpointComplete:
			v.mu.Lock()
			v.visible = maps.Clone(rows)
			v.mu.Unlock()
		}
	}
}
