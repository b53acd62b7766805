package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-sync/millrace/internal/pgtest"
)

const sharedConfig = `
replication: {connections: [{type: postgresql, uri: !env PS_SOURCE, sslmode: disable}]}
storage: {type: postgresql, uri: !env PS_STORAGE, sslmode: disable}
migrations: {disable_auto_migration: true}
port: !env PS_PORT::number
client_auth:
  audience: [millrace-test]
  jwks:
    keys:
      - {kty: RSA, alg: RS256, kid: !env PS_JWK_KID, n: !env PS_JWK_N, e: !env PS_JWK_E}
api: {tokens: [operator]}
`

// TestStorageInPostgres has each command work on storage in Postgres: while no process
// runs, and beside one that replicates.
func TestStorageInPostgres(t *testing.T) {
	cluster := pgtest.Start(t)
	with := func(dsn string) string { return strings.Replace(dsn, "@", ":none@", 1) }
	source := cluster.NewDatabase(t)
	pgtest.Exec(t, source, "CREATE PUBLICATION powersync FOR ALL TABLES", "CREATE TABLE notes (id text PRIMARY KEY, body text)",
		"INSERT INTO notes SELECT 'n'||i, 'body '||i FROM generate_series(1, 500) i")
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := fmt.Sprint(free.Addr().(*net.TCPAddr).Port)
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	env := append(keys(t), "PS_SOURCE="+with(source), "PS_STORAGE="+with(cluster.NewDatabase(t)), "PS_PORT="+port)
	dir := t.TempDir()
	file := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	config := file("powersync.yaml", sharedConfig)
	one := file("one.yaml", "config: {edition: 3}\nstreams:\n  notes: {auto_subscribe: true, query: SELECT * FROM notes}\n")
	two := file("two.yaml", "config: {edition: 3}\nstreams:\n  notes: {auto_subscribe: true, query: SELECT * FROM notes}\n"+
		"  long: {auto_subscribe: true, query: SELECT * FROM notes WHERE length(body) > 3}\n")
	run := func(wantCode int, want string, args ...string) {
		t.Helper()
		stdout, stderr, code := millrace(t, env, append(args, "-c", config)...)
		if code != wantCode || !regexp.MustCompile(want).MatchString(stdout+stderr) {
			t.Errorf("millrace %s: exit code %d, want %d and %s\n%s%s", strings.Join(args, " "), code, wantCode, want, stdout, stderr)
		}
	}

	run(150, "open storage at .*the tables are not there.*run millrace migrate", "start")
	run(0, "The replication slot is dropped, and there was no storage", "teardown", "TEARDOWN")
	run(0, "schema millrace: the tables have the format of this version", "migrate")
	run(0, "schema millrace: the tables have the format of this version", "migrate", "up")
	run(0, "looked at 0 buckets, dropped nothing; the storage took .* and now takes", "compact")
	run(1, "pg_dump --schema=millrace", "backup", filepath.Join(dir, "backup"))
	run(0, "0 definitions kept, 1 new.*\n(.*\n)*.*public.notes", "deploy", "--dry-run", one)
	run(0, "The service does not run. The sync config is stored", "deploy", one)
	run(0, "0 definitions kept, 1 new", "deploy", "--dry-run", one)

	var log lockedBuffer
	cmd := exec.Command(binary, "start", "-r", "sync", "-c", config)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended, unless the test failed
		if t.Failed() {
			t.Log(log.String())
		}
	})
	within := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !ok(); <-time.After(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s did not come", what)
			}
		}
	}
	within("readiness", func() bool {
		resp, err := http.Get("http://127.0.0.1:" + port + "/probes/readiness")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == 200
	})
	run(0, "The sync config is current, at checkpoint ", "deploy", two)
	run(1, "(?s)The sync config has mistakes.*streams", "deploy", file("bad.yaml", "streams: {"))
	run(1, "The storage is in Postgres.*pg_dump", "backup", filepath.Join(dir, "backup"))
	for i := range 5 {
		pgtest.Exec(t, source, fmt.Sprintf("UPDATE notes SET body = 'again %d' WHERE id < 'n3'", i))
	}
	within("a compaction of what was replicated", func() bool {
		stdout, stderr, code := millrace(t, env, "compact", "-c", config)
		if code != 0 || !strings.Contains(stderr, "the process that replicates compacts") {
			t.Fatalf("compact: exit code %d\n%s%s", code, stdout, stderr)
		}
		return strings.Contains(stdout, "looked at 2 buckets, dropped ") && !strings.Contains(stdout, "dropped nothing")
	})
	run(1, "in use by another process.*Stop the service first", "teardown", "TEARDOWN")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the service ended with %v", err)
	}
	run(0, "looked at 2 buckets, dropped", "compact")
	run(150, "PSYNC_S0102", "teardown")
	run(0, "The replication slot is dropped, and the storage in .*schema millrace is removed", "teardown", "TEARDOWN")
	run(150, "the tables are not there", "start")
}

// lockedBuffer takes the output of a process.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
