//go:build unix

// Package pgtest runs private Postgres clusters: for tests that need a real
// server, and for the demo, which must work on a machine where nothing is set up.
//
// Tests of any package call Start or a Shared; the demo command calls New. The
// server is the one that the machine has installed (see Binaries); its data,
// socket and log live in one directory that nothing else uses.
//
// Invariants:
//   - wal_level is logical and fsync is on, as in production, unless a test asks
//     for something else.
//   - The server listens on 127.0.0.1 and a Unix socket only.
//   - A server ends with the process that started it, even when that is killed,
//     and a test's directory is removed then too.
//   - Postgres refuses to run as root: started by root it runs as the user
//     postgres, or nobody where there is none.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// startTimeout bounds how long a server may take until it answers, crash
// recovery included; stopTimeout how long it may take to end before it is killed.
const (
	startTimeout = 60 * time.Second
	stopTimeout  = 30 * time.Second
	bindAttempts = 25
	bindPause    = 200 * time.Millisecond
)

// StopMode says how a server is ended.
type StopMode uint8

// The stop modes of pg_ctl, and Crash, which kills the server's main process.
const (
	Fast      StopMode = iota // roll back, flush, shut down cleanly
	Immediate                 // end at once; the next start recovers
	Crash                     // SIGKILL
)

// Cluster is one private server. Its methods are safe for concurrent use; those
// that start and stop the server wait for each other.
type Cluster struct {
	dir      string // holds data, log and, if short enough, the socket
	bin      string // directory of initdb and postgres
	settings settings
	ids      *syscall.Credential // nil: as the caller
	remove   bool                // the watchdog removes dir when we are killed

	mu      sync.Mutex // held while starting and stopping
	sockets string     // directory of the Unix socket
	port    int        // 0 before the first start
	proc    *process   // nil while stopped
}

// process is one run of the server.
type process struct {
	cmd   *exec.Cmd
	done  chan struct{} // closed when the process has ended
	guard *watchdog
}

// Option changes how a cluster is set up.
type Option func(*settings)

type settings struct {
	port     int
	password string
	bin      string
	conf     []setting
	tlsCert  []byte
	tlsKey   []byte
}

type setting struct{ name, value string }

// WithPort makes the server listen on a fixed port instead of a free one.
func WithPort(port int) Option { return func(s *settings) { s.port = port } }

// WithPassword makes every connection need a password (scram-sha-256), and gives
// the superuser this one. Without it, every local connection is trusted.
func WithPassword(password string) Option {
	return func(s *settings) { s.password = password }
}

// WithSetting adds a line to the server's configuration, such as "wal_level" and
// "replica". ALTER SYSTEM overrides it, as in any cluster.
func WithSetting(name, value string) Option {
	return func(s *settings) { s.conf = append(s.conf, setting{name, value}) }
}

// WithBinaries takes initdb and postgres from a directory, to test other versions.
func WithBinaries(dir string) Option { return func(s *settings) { s.bin = dir } }

// WithTLS turns TLS on with a certificate and its key, both PEM.
func WithTLS(cert, key []byte) Option {
	return func(s *settings) { s.tlsCert, s.tlsKey = cert, key }
}

// New prepares a cluster in dir, which it creates if need be; a cluster that is
// there already is kept with its data. It starts nothing: see Start and Stop.
//
// It fails with ErrMissing if Postgres is not installed, and, when called by root,
// if the user that Postgres will run as cannot reach dir.
func New(dir string, opts ...Option) (*Cluster, error) {
	c := &Cluster{}
	for _, o := range opts {
		o(&c.settings)
	}
	var err error
	if c.dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("set up Postgres in %s: %w", dir, err)
	}
	if c.bin, err = Binaries(c.settings.bin); err != nil {
		return nil, err
	}
	if c.ids, err = serverUser(); err != nil {
		return nil, err
	}
	if err := c.prepare(); err != nil {
		return nil, fmt.Errorf("set up Postgres in %s: %w", c.dir, err)
	}
	return c, nil
}

// Dir returns the directory that holds everything of the cluster.
func (c *Cluster) Dir() string { return c.dir }

// Port returns the TCP port on 127.0.0.1, or 0 before the first start. It stays
// the same when the server is restarted.
func (c *Cluster) Port() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.port
}

// DSN returns the superuser's connection URI of a database, over TCP.
func (c *Cluster) DSN(database string) string {
	u := url.URL{
		Scheme: "postgresql", User: c.userinfo(), Path: "/" + database,
		Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(c.Port())), RawQuery: "sslmode=disable",
	}
	return u.String()
}

// SocketDSN returns the superuser's connection URI of a database, over the Unix socket.
func (c *Cluster) SocketDSN(database string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.socketDSN(database, c.port)
}

func (c *Cluster) socketDSN(database string, port int) string {
	q := url.Values{"host": {c.sockets}, "port": {strconv.Itoa(port)}, "sslmode": {"disable"}}
	u := url.URL{Scheme: "postgresql", User: c.userinfo(), Path: "/" + database, RawQuery: q.Encode()}
	return u.String()
}

func (c *Cluster) userinfo() *url.Userinfo {
	if c.settings.password == "" {
		return url.User("postgres")
	}
	return url.UserPassword("postgres", c.settings.password)
}

// Start starts the server and returns when it answers. It does nothing if the
// server runs already.
func (c *Cluster) Start(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.start(ctx)
}

// start is Start with mu held.
func (c *Cluster) start(ctx context.Context) error {
	if c.proc != nil {
		select {
		case <-c.proc.done: // it ended by itself
			c.proc.guard.release()
			c.proc = nil
		default:
			return nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	fixed := c.settings.port
	if c.port != 0 {
		fixed = c.port
	}
	if err := c.openSockets(); err != nil {
		return fmt.Errorf("start Postgres: %w", err)
	}
	var err error
	for range bindAttempts {
		port := fixed
		if port == 0 {
			if port, err = freePort(); err != nil {
				return fmt.Errorf("start Postgres: %w", err)
			}
		}
		var p *process
		if p, err = c.launch(ctx, port); err == nil {
			c.port, c.proc = port, p
			return nil
		}
		// Someone else may have taken the free port meanwhile, and after a crash the
		// old server's last children may still be ending.
		if !errors.Is(err, errEnded) {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(bindPause):
		}
	}
	return errors.Join(fmt.Errorf("start Postgres in %s: %w\n%s", c.dir, err, c.logTail()), c.closeSockets())
}

// Stop ends the server and returns when it has ended. It does nothing if the
// server does not run.
func (c *Cluster) Stop(mode StopMode) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stop(mode)
}

// Restart stops the server and starts it again on the same port.
func (c *Cluster) Restart(ctx context.Context, mode StopMode) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.stop(mode); err != nil {
		return err
	}
	return c.start(ctx)
}

// MarkStandby makes the stopped server recover without end when it is started
// again, as a standby does whose primary is away.
func (c *Cluster) MarkStandby() error {
	return c.write(filepath.Join(c.dataDir(), "standby.signal"), nil)
}

// Done returns a channel that is closed when the running server ends, or nil when
// none runs.
func (c *Cluster) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proc == nil {
		return nil
	}
	return c.proc.done
}

// Remove deletes the directory of a stopped cluster.
func (c *Cluster) Remove() error {
	if err := os.RemoveAll(c.dir); err != nil {
		return fmt.Errorf("remove Postgres: %w", err)
	}
	return nil
}

// stop is Stop with mu held.
func (c *Cluster) stop(mode StopMode) error {
	p := c.proc
	if p == nil {
		return nil
	}
	c.proc = nil
	signal := map[StopMode]syscall.Signal{
		Fast: syscall.SIGINT, Immediate: syscall.SIGQUIT, Crash: syscall.SIGKILL,
	}[mode]
	err := p.cmd.Process.Signal(signal)
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop Postgres: %w", err)
	}
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	var late error
	select {
	case <-p.done:
	case <-timer.C:
		late = fmt.Errorf("stop Postgres in %s: still running after %v, killed\n%s", c.dir, stopTimeout, c.logTail())
		p.cmd.Process.Kill()
		<-p.done
	}
	p.guard.release()
	return errors.Join(late, c.closeSockets())
}

// errEnded: the server ended while it was starting.
var errEnded = errors.New("the server ended while starting")

// launch runs the server on a port and waits until it answers.
func (c *Cluster) launch(ctx context.Context, port int) (*process, error) {
	log, err := os.OpenFile(c.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// The command outlives ctx, which bounds the start only.
	cmd := exec.Command(filepath.Join(c.bin, "postgres"), "-D", c.dataDir(),
		"-c", "port="+strconv.Itoa(port), "-c", "listen_addresses=127.0.0.1",
		"-c", "unix_socket_directories="+c.sockets)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = c.dir
	// A group of its own, so that an interrupt typed at the terminal reaches only
	// us and the server is stopped in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: c.ids}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		cmd.Wait() // how it ended does not matter; that it did does
	}()
	if p.guard, err = guard(cmd.Process.Pid, c.removeOnDeath()...); err == nil {
		err = c.waitReady(ctx, p, port)
	}
	if err != nil {
		cmd.Process.Kill()
		<-p.done
		p.guard.release()
		return nil, err
	}
	return p, nil
}

// waitReady tries to connect until the server answers.
func (c *Cluster) waitReady(ctx context.Context, p *process, port int) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := pgconn.Connect(ctx, c.socketDSN("postgres", port))
		if err == nil {
			return conn.Close(ctx)
		}
		// Any other answer than "starting up" is an answer.
		var refused *pgconn.PgError
		if errors.As(err, &refused) && refused.Code != "57P03" {
			return fmt.Errorf("wait for the server: %w", err)
		}
		select {
		case <-p.done:
			return errEnded
		case <-ctx.Done():
			return fmt.Errorf("wait for the server: %w (last: %w)", ctx.Err(), err)
		case <-tick.C:
		}
	}
}

func (c *Cluster) removeOnDeath() []string {
	var dirs []string
	if c.remove {
		dirs = append(dirs, c.dir)
	}
	if c.sockets != c.dir {
		dirs = append(dirs, c.sockets)
	}
	return dirs
}

func (c *Cluster) dataDir() string { return filepath.Join(c.dir, "data") }
func (c *Cluster) logFile() string { return filepath.Join(c.dir, "server.log") }

// logTail returns the end of the server's log, for error messages.
func (c *Cluster) logTail() string {
	b, err := os.ReadFile(c.logFile())
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// freePort returns a TCP port that was free on 127.0.0.1 a moment ago.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
