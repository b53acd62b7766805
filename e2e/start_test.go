package e2e

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/millrace-sync/millrace/internal/demo"
	"github.com/millrace-sync/millrace/internal/pgtest"
	"github.com/millrace-sync/millrace/internal/storage"
)

// A startCase is a start of the service that must fail, or serve what it can, and say
// why in one clear line. It begins from the notes app's powersync.yaml.
type startCase struct {
	Name string

	Replace  [][2]string       // in powersync.yaml: from, to
	Config   *string           // instead of powersync.yaml
	Args     []string          // after `start`, instead of -c powersync.yaml
	Env      map[string]string // over what powersync.yaml needs; {{closed}} is a port where nothing listens, {{taken}} one in use
	Files    map[string]string // in the storage folder
	Settings map[string]string // of the Postgres server
	SQL      []string          // on the app's database, as its superuser; none means that there is no Postgres

	Exit   *int     // exit code; nil: it keeps running
	Probes []string // "startup 200": for one that keeps running
	Lines  []string // expressions, each of which a line of its output must match
	Absent []string // expressions that nothing of its output may match
}

// TestStart runs the cases of testdata/start.json.
func TestStart(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "start.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []startCase
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&cases); err != nil {
		t.Fatal(err)
	}
	keys := keygen(t)
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) { c.run(t, keys) })
	}
}

// keygen returns the variables that `millrace keygen` prints.
func keygen(t *testing.T) []string {
	t.Helper()
	out, err := exec.Command(filepath.Join(bin, "millrace"), "keygen").Output()
	if err != nil {
		t.Fatal(err)
	}
	var vars []string
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "#") {
			vars = append(vars, strings.TrimSpace(line))
		}
	}
	return vars
}

func (c *startCase) run(t *testing.T, keys []string) {
	dir := t.TempDir()
	store := filepath.Join(dir, "store")
	taken, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := freePort(t)
	env := append([]string{
		"PS_DATABASE_URI=" + fmt.Sprintf("postgresql://powersync_role:secret@127.0.0.1:%d/notes", freePort(t)),
		"PS_STORAGE_PATH=" + store,
		"PS_PORT=" + strconv.Itoa(port),
	}, keys...)
	if c.SQL != nil {
		env = append(env, "PS_DATABASE_URI="+c.postgres(t))
	}
	places := strings.NewReplacer("{{closed}}", strconv.Itoa(freePort(t)),
		"{{taken}}", strconv.Itoa(taken.Addr().(*net.TCPAddr).Port), "{{dir}}", dir)
	for name, value := range c.Env {
		env = append(env, name+"="+places.Replace(value))
	}
	for name, text := range c.Files {
		if err := os.MkdirAll(store, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(store, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"start"}
	for _, a := range c.Args {
		args = append(args, places.Replace(a))
	}
	if c.Args == nil {
		args = append(args, "-c", c.config(t, dir))
	}

	p := launch(t, dir, args, env)
	if c.Exit != nil {
		p.wait(t)
		if code := p.code(t); code != *c.Exit {
			t.Errorf("exit code %d, want %d", code, *c.Exit)
		}
	} else {
		p.untilSays(t, c.Lines)
		for _, probe := range c.Probes {
			name, status, _ := strings.Cut(probe, " ")
			eventually(t, "probe "+probe, func() (bool, string) {
				got := probeStatus(port, name)
				return got == status, got
			})
		}
		if took := p.interrupt(t); took > 10*time.Second {
			t.Errorf("took %v to stop", took)
		}
		if code := p.code(t); code != 0 {
			t.Errorf("exit code %d after SIGTERM, want 0", code)
		}
	}
	output := p.output()
	for _, line := range c.Lines {
		if !matches(output, line) {
			t.Errorf("no line matches %s", line)
		}
	}
	for _, absent := range append([]string{"secret", "^goroutine [0-9]+", "^panic:", ";;"}, c.Absent...) {
		if matches(output, absent) {
			t.Errorf("a line matches %s", absent)
		}
	}
	if t.Failed() {
		t.Logf("output:\n%s", output)
	}
}

// config writes the configuration and returns its path.
func (c *startCase) config(t *testing.T, dir string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(app, "powersync.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	yaml := string(text)
	if c.Config != nil {
		yaml = *c.Config
	}
	for _, r := range c.Replace {
		if !strings.Contains(yaml, r[0]) {
			t.Fatalf("powersync.yaml does not hold %q", r[0])
		}
		yaml = strings.ReplaceAll(yaml, r[0], r[1])
	}
	file := filepath.Join(dir, "powersync.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// postgres starts a cluster with the app's schema and returns the service's URI.
func (c *startCase) postgres(t *testing.T) string {
	t.Helper()
	options := []pgtest.Option{pgtest.WithPassword("secret")}
	for name, value := range c.Settings {
		options = append(options, pgtest.WithSetting(name, value))
	}
	cluster := pgtest.Start(t, options...)
	dsn := cluster.NewDatabase(t)
	schema, err := os.ReadFile(filepath.Join(app, "schema.sql"))
	if err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, dsn, string(schema), "ALTER ROLE powersync_role PASSWORD 'secret'",
		"INSERT INTO greeting (owner, message) VALUES ('ann', 'hello')")
	pgtest.Exec(t, dsn, c.SQL...)
	uri, _, _ := strings.Cut(pgtest.As(t, dsn, "powersync_role", "secret"), "?")
	return uri
}

// service is a running `millrace`.
type service struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how; read after done

	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{} // closed, and replaced, when there is more text
}

// launch runs millrace; it ends with the test.
func launch(t *testing.T, dir string, args, env []string) *service {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(bin, "millrace"))
	if err != nil {
		t.Fatal(err)
	}
	s := &service{cmd: exec.Command(path, args...), done: make(chan struct{}), changed: make(chan struct{})}
	s.cmd.Dir, s.cmd.Env = dir, append(os.Environ(), env...)
	s.cmd.Stdout, s.cmd.Stderr = s, s
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.done)
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill() // it has ended already, as a rule
		<-s.done
	})
	return s
}

// Write takes the output of the process.
func (s *service) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
	return s.text.Write(b)
}

func (s *service) output() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// untilSays waits until each expression matches a line of the output.
func (s *service) untilSays(t *testing.T, lines []string) {
	t.Helper()
	ctx := patient(t)
	for _, line := range lines {
		for {
			s.mu.Lock()
			changed, text := s.changed, s.text.String()
			s.mu.Unlock()
			if matches(text, line) {
				break
			}
			select {
			case <-changed:
			case <-s.done:
				t.Fatalf("it ended (%v) before a line matched %s; output:\n%s", s.err, line, s.output())
			case <-ctx.Done():
				t.Fatalf("no line matches %s; output:\n%s", line, text)
			}
		}
	}
}

// wait waits for the end.
func (s *service) wait(t *testing.T) {
	t.Helper()
	select {
	case <-s.done:
	case <-patient(t).Done():
		t.Fatalf("it still runs; output:\n%s", s.output())
	}
}

// interrupt asks the process to stop and returns how long it took.
func (s *service) interrupt(t *testing.T) time.Duration {
	t.Helper()
	start := time.Now()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.wait(t)
	return time.Since(start)
}

func (s *service) code(t *testing.T) int {
	t.Helper()
	<-s.done
	return exitCode(t, s.err)
}

// matches tells whether a line of text matches an expression.
func matches(text, expression string) bool {
	return regexp.MustCompile("(?m)" + expression).MatchString(text)
}

// probeStatus returns the status of a probe, or why there is none.
func probeStatus(port int, name string) string {
	answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/probes/%s", port, name))
	if err != nil {
		return err.Error()
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err.Error()
	}
	return strconv.Itoa(answer.StatusCode)
}

// freePort returns a port where nothing listens.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// TestStorageLocked: a second service on the same folder ends at once, and the first
// one goes on.
func TestStorageLocked(t *testing.T) {
	s := startStack(t)
	second := launch(t, t.TempDir(), []string{"start", "-c", absolute(t, filepath.Join(app, "powersync.yaml"))},
		append(s.ServiceEnv(), "PS_PORT="+strconv.Itoa(freePort(t))))
	second.wait(t)
	if code, text := second.code(t), second.output(); code != 150 || !matches(text, "another process") {
		t.Errorf("exit code %d, want 150, and a line about another process:\n%s", code, text)
	}
	db := connect(t, s)
	exec1(t, db, "INSERT INTO greeting (owner, message) VALUES ('ann', 'still there')")
	converge(t, db, newClient(t, s, "ann"), "ann")
}

// TestStorageOfAnotherVersion: a folder of a format that this version does not know is
// left as it is, and the message says what to do.
func TestStorageOfAnotherVersion(t *testing.T) {
	s := startStack(t)
	if err := s.StopService(); err != nil {
		t.Fatal(err)
	}
	order := *pebble.DefaultComparer
	order.Name = "millrace.v1"
	db, err := pebble.Open(s.StorageDir(), &pebble.Options{Comparer: &order, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	later := binary.BigEndian.AppendUint32(nil, storage.FormatVersion+1)
	if err := errors.Join(db.Set([]byte("mformat"), later, pebble.Sync), db.Close()); err != nil {
		t.Fatal(err)
	}
	p := launch(t, t.TempDir(), []string{"start", "-c", absolute(t, filepath.Join(app, "powersync.yaml"))}, s.ServiceEnv())
	p.wait(t)
	want := fmt.Sprintf("^millrace: open storage in .*it is %d and this millrace reads %d; use the version that wrote it, or remove the folder", storage.FormatVersion+1, storage.FormatVersion)
	if code, text := p.code(t), p.output(); code != 150 || !matches(text, want) {
		t.Errorf("exit code %d, want 150, and a line that matches %s:\n%s", code, want, text)
	}
}

// quiet is a pebble.Logger that says nothing.
type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf(format, args...))
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

// TestStopWithClients: SIGTERM ends the service within 10 s, with clients connected,
// and they come back to the next one.
func TestStopWithClients(t *testing.T) {
	s := startStack(t)
	db := connect(t, s)
	exec1(t, db, "INSERT INTO greeting (owner, message) VALUES ('ann', 'one')")
	c := newClient(t, s, "ann")
	converge(t, db, c, "ann")
	start := time.Now()
	if err := s.StopService(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %v to stop", took)
	}
	if err := c.Wait(patient(t), "it notices", func(v demo.View) bool { return !v.Status.Connected }); err != nil {
		t.Fatal(err)
	}
	exec1(t, db, "INSERT INTO greeting (owner, message) VALUES ('ann', 'two')")
	if err := s.StartService(t.Context()); err != nil {
		t.Fatal(err)
	}
	converge(t, db, c, "ann")
}
