// Package demo runs the notes app as it would be deployed, each part a process of
// its own: Postgres, the app's backend, the service, terminal clients. And it
// holds the guide's checks, which prove on a running app what the product
// promises.
//
// The command examples/notes/demo shows it to people; the end-to-end tests run
// the same parts and the same checks.
//
// Invariants:
//   - Everything of a Stack lives in one directory. Its Postgres and its backend,
//     which lets anybody sign in, listen on loopback only.
//   - A child process ends with us, even when we are killed.
//   - The parts are run as users run them: the built binaries, the example's
//     powersync.yaml and the terminal client, unmodified.
package demo

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-sync/millrace/internal/pgtest"
)

// readyTimeout bounds how long a part may take until it serves.
const readyTimeout = 60 * time.Second

// The roles that schema.sql creates, and the app's database.
const (
	serviceRole = "powersync_role"
	backendRole = "notes_backend"
	database    = "notes"
)

// Config says where the parts of a Stack are.
type Config struct {
	Dir      string // of everything that the stack writes
	Millrace string // the service's binary
	Backend  string // the backend's binary
	Terminal string // the terminal client's command
	App      string // folder with schema.sql and powersync.yaml

	// Ports are taken if they are free; otherwise, or if 0, others are.
	ServicePort, BackendPort int
}

// Stack is the running app. It is for one goroutine.
type Stack struct {
	Postgres *pgtest.Cluster
	Service  *Process // nil while stopped
	Backend  *Process // nil while stopped

	config                   Config
	secrets                  map[string]string // environment variables of keys and passwords
	servicePort, backendPort int
}

// superuserPassword names the secret that opens the cluster.
const superuserPassword = "NOTES_POSTGRES_PASSWORD"

// New prepares a stack: its directory, its keys and its Postgres cluster, which are
// kept if they are there already. It starts nothing.
func New(ctx context.Context, c Config) (*Stack, error) {
	s := &Stack{config: c}
	if err := os.MkdirAll(filepath.Join(c.Dir, "log"), 0o755); err != nil {
		return nil, fmt.Errorf("prepare: %w", err)
	}
	var err error
	if s.secrets, err = loadSecrets(ctx, c.Millrace, filepath.Join(c.Dir, "secrets.env")); err != nil {
		return nil, err
	}
	pgDir, err := clusterDir(c.Dir)
	if err != nil {
		return nil, err
	}
	if s.Postgres, err = pgtest.New(pgDir, pgtest.WithPassword(s.secrets[superuserPassword])); err != nil {
		return nil, err
	}
	if s.servicePort, err = pickPort("", c.ServicePort); err != nil {
		return nil, err
	}
	if s.backendPort, err = pickPort("127.0.0.1", c.BackendPort); err != nil {
		return nil, err
	}
	return s, nil
}

// loadSecrets reads the keys and passwords, and makes them first if need be. The
// file has the form that `millrace keygen` prints.
func loadSecrets(ctx context.Context, millrace, file string) (map[string]string, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		text, err = makeSecrets(ctx, millrace)
		if err == nil {
			err = os.WriteFile(file, text, 0o600)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("prepare keys: %w", err)
	}
	secrets := map[string]string{}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		name, value, ok := strings.Cut(lines.Text(), "=")
		if ok && !strings.HasPrefix(name, "#") {
			secrets[name] = value
		}
	}
	for _, name := range []string{"PS_JWK_KID", "PS_JWK_N", "PS_JWK_E", "POWERSYNC_PRIVATE_KEY", superuserPassword} {
		if secrets[name] == "" {
			return nil, fmt.Errorf("prepare keys: %s lacks %s: remove the file to make new ones", file, name)
		}
	}
	return secrets, nil
}

func makeSecrets(ctx context.Context, millrace string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, millrace, "keygen")
	cmd.Stderr = os.Stderr
	keys, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("millrace keygen: %w", err)
	}
	return fmt.Appendf(keys, "# For the demo's Postgres.\n%s=%s\n", superuserPassword, rand.Text()), nil
}

// clusterDir returns where the cluster lives: inside dir, unless we are root, so
// that the server runs as another user, and that user cannot get there (as in
// root's home). Then it is a folder under /var/tmp, whose name dir keeps.
func clusterDir(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("prepare Postgres: %w", err)
	}
	inside, pointer := filepath.Join(abs, "postgres"), filepath.Join(abs, "postgres-dir")
	if open, err := reachable(abs); err != nil || open {
		return inside, err
	}
	if kept, err := os.ReadFile(pointer); err == nil {
		return strings.TrimSpace(string(kept)), nil
	}
	outside, err := os.MkdirTemp("/var/tmp", "millrace-demo-")
	if err != nil {
		return "", fmt.Errorf("prepare Postgres: %w", err)
	}
	if err := os.WriteFile(pointer, []byte(outside+"\n"), 0o644); err != nil {
		return "", fmt.Errorf("prepare Postgres: %w", err)
	}
	return outside, nil
}

// reachable reports whether the server's user can enter dir: always, unless we are
// root, and then if everybody may enter every folder on the way.
func reachable(dir string) (bool, error) {
	if os.Geteuid() != 0 {
		return true, nil
	}
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return false, fmt.Errorf("prepare Postgres: %w", err)
		}
		if info.Mode().Perm()&0o001 == 0 {
			return false, nil
		}
		if dir == filepath.Dir(dir) {
			return true, nil
		}
	}
}

// Remove deletes all that stacks in dir have written. None may be running.
func Remove(dir string) error {
	if outside, err := os.ReadFile(filepath.Join(dir, "postgres-dir")); err == nil {
		// Only what clusterDir makes, whatever the file says.
		name := strings.TrimSpace(string(outside))
		if ok, _ := filepath.Match("/var/tmp/millrace-demo-*", name); ok {
			if err := os.RemoveAll(name); err != nil {
				return fmt.Errorf("remove: %w", err)
			}
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	return nil
}

// pickPort returns want if it is free on host (empty: everywhere), else another.
func pickPort(host string, want int) (int, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(want)))
	if err != nil && want != 0 {
		return pickPort(host, 0)
	}
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// Start starts Postgres, sets up its database, and starts the backend and the
// service. On an error the caller still must call Stop.
func (s *Stack) Start(ctx context.Context) error {
	if err := s.StartPostgres(ctx); err != nil {
		return err
	}
	if err := s.StartBackend(ctx); err != nil {
		return err
	}
	return s.StartService(ctx)
}

// StartPostgres starts the cluster and brings its database to the app's schema.
func (s *Stack) StartPostgres(ctx context.Context) error {
	if err := s.Postgres.Start(ctx); err != nil {
		return err
	}
	schema, err := os.ReadFile(filepath.Join(s.config.App, "schema.sql"))
	if err != nil {
		return fmt.Errorf("set up the database: %w", err)
	}
	if err := s.exec(ctx, "postgres", "SELECT 1 FROM pg_database WHERE datname = '"+database+"'", "CREATE DATABASE "+database); err != nil {
		return err
	}
	setPassword := "ALTER ROLE %s PASSWORD '" + s.secrets[superuserPassword] + "'"
	return s.exec(ctx, database, "", string(schema), fmt.Sprintf(setPassword, serviceRole), fmt.Sprintf(setPassword, backendRole))
}

// exec runs statements unless the query finds a row.
func (s *Stack) exec(ctx context.Context, db, unless string, statements ...string) error {
	conn, err := pgx.Connect(ctx, s.Postgres.DSN(db))
	if err != nil {
		return fmt.Errorf("set up the database: %w", err)
	}
	defer conn.Close(ctx)
	if unless != "" {
		found, err := conn.Exec(ctx, unless)
		if err != nil {
			return fmt.Errorf("set up the database: %w", err)
		}
		if found.RowsAffected() > 0 {
			return nil
		}
	}
	for _, sql := range statements {
		if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
			return fmt.Errorf("set up the database: %w", err)
		}
	}
	return nil
}

// StartBackend starts the backend and waits until it serves.
func (s *Stack) StartBackend(ctx context.Context) error {
	p, err := Start(Program{
		Name: "backend", Path: s.config.Backend, Log: s.log("backend"),
		Args: []string{"-development-sign-in", "-listen", hostPort(s.backendPort), "-service", s.ServiceURL()},
		Env: []string{
			"NOTES_DATABASE_URL=" + s.dsn(backendRole) + "?sslmode=disable",
			"POWERSYNC_PRIVATE_KEY=" + s.secrets["POWERSYNC_PRIVATE_KEY"],
		},
	})
	if err != nil {
		return err
	}
	if err := s.ready(ctx, p, s.BackendURL()+"/api/health"); err != nil {
		return err
	}
	s.Backend = p
	return nil
}

// StopBackend stops the backend, if it runs.
func (s *Stack) StopBackend() error { return stop(&s.Backend) }

// ServiceEnv returns the environment that the app's powersync.yaml needs.
func (s *Stack) ServiceEnv() []string {
	return []string{
		"PS_DATABASE_URI=" + s.dsn(serviceRole),
		"PS_STORAGE_PATH=" + s.StorageDir(),
		"PS_PORT=" + strconv.Itoa(s.servicePort),
		"PS_JWK_KID=" + s.secrets["PS_JWK_KID"],
		"PS_JWK_N=" + s.secrets["PS_JWK_N"],
		"PS_JWK_E=" + s.secrets["PS_JWK_E"],
	}
}

// StartService starts the service and waits until it serves.
func (s *Stack) StartService(ctx context.Context) error {
	p, err := Start(Program{
		Name: "service", Path: s.config.Millrace, Log: s.log("service"),
		Args: []string{"start", "-c", filepath.Join(s.config.App, "powersync.yaml"), "-r", "unified"},
		Env:  s.ServiceEnv(),
	})
	if err != nil {
		return err
	}
	if err := s.ready(ctx, p, s.ServiceURL()+"/probes/readiness"); err != nil {
		return err
	}
	s.Service = p
	return nil
}

// StopService stops the service, if it runs.
func (s *Stack) StopService() error { return stop(&s.Service) }

// KillService ends the service as a crash would.
func (s *Stack) KillService() {
	s.Service.Kill()
	s.Service = nil
}

// Stop stops whatever runs, the consumers before what they use.
func (s *Stack) Stop() error {
	return errors.Join(s.StopService(), s.StopBackend(), s.Postgres.Stop(pgtest.Fast))
}

func stop(p **Process) error {
	if *p == nil {
		return nil
	}
	err := (*p).Stop()
	*p = nil
	return err
}

// ready polls url until it answers 200. It fails when the process ends first, and
// leaves none running if it fails.
func (s *Stack) ready(ctx context.Context, p *Process, url string) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	err := poll(ctx, "it serves "+url, func() (bool, error) {
		select {
		case <-p.Done():
			return false, fmt.Errorf("it ended: exit code %d", p.ExitCode())
		default:
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return false, err
		}
		answer, err := http.DefaultClient.Do(req)
		if err != nil {
			return false, nil // not listening yet
		}
		defer answer.Body.Close()
		_, err = io.Copy(io.Discard, answer.Body)
		return answer.StatusCode == http.StatusOK, err
	})
	if err != nil {
		p.Kill()
		return fmt.Errorf("start %s: %w%s", p.program.Name, err, p.logTail())
	}
	return nil
}

// poll asks until ok holds; what says for what. It is for what cannot tell by
// itself that it has changed.
func poll(ctx context.Context, what string, ok func() (bool, error)) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		holds, err := ok()
		if err != nil {
			return fmt.Errorf("wait until %s: %w", what, err)
		}
		if holds {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
}

// Connect opens a connection to the app's database as its superuser.
func (s *Stack) Connect(ctx context.Context) (*pgx.Conn, error) {
	return pgx.Connect(ctx, s.DatabaseURL())
}

// DatabaseURL returns the connection URI of the app's database, as its superuser.
func (s *Stack) DatabaseURL() string { return s.Postgres.DSN(database) }

// ServiceURL returns where clients sync.
func (s *Stack) ServiceURL() string { return "http://" + hostPort(s.servicePort) }

// BackendURL returns where clients sign in and upload.
func (s *Stack) BackendURL() string { return "http://" + hostPort(s.backendPort) }

// StorageDir returns the folder of the service's storage.
func (s *Stack) StorageDir() string { return filepath.Join(s.config.Dir, "store") }

// LogDir returns the folder of the parts' logs.
func (s *Stack) LogDir() string { return filepath.Join(s.config.Dir, "log") }

func (s *Stack) log(name string) string { return filepath.Join(s.LogDir(), name+".log") }

// dsn returns the connection URI of a role, without options.
func (s *Stack) dsn(role string) string {
	u := url.URL{Scheme: "postgresql", User: url.UserPassword(role, s.secrets[superuserPassword]),
		Host: hostPort(s.Postgres.Port()), Path: "/" + database}
	return u.String()
}

func hostPort(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// PrivateKey returns the key that users' tokens are signed with, as the backend gets it.
func (s *Stack) PrivateKey() string { return s.secrets["POWERSYNC_PRIVATE_KEY"] }
