//go:build unix

package pgtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// ErrMissing: the Postgres server is not installed. Its message says how to
// install it.
var ErrMissing = errors.New("the PostgreSQL server is not installed; " +
	"on Debian or Ubuntu run: apt-get install -y postgresql (as root)")

// BinariesEnv names the environment variable that holds the directory of the
// server to test with, for runs against other versions.
const BinariesEnv = "MILLRACE_TEST_PG_BIN"

// maxSocketDir is the longest directory whose socket's path still fits the
// system's limit (104 bytes on macOS, 108 on Linux).
const maxSocketDir = 100 - len("/.s.PGSQL.65535")

// Binaries returns the directory that holds initdb and postgres: prefer, if it is
// not empty; what the environment variable BinariesEnv says; the one that a
// postgres on the PATH is in; the newest in the usual places of distributions.
func Binaries(prefer string) (string, error) {
	for _, dir := range []string{prefer, os.Getenv(BinariesEnv)} {
		if dir == "" {
			continue
		}
		if !hasServer(dir) {
			return "", fmt.Errorf("%s holds no initdb and postgres: %w", dir, ErrMissing)
		}
		return dir, nil
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		// Distributions put a link on the PATH, and initdb beside its target.
		if real, err := filepath.EvalSymlinks(path); err == nil && hasServer(filepath.Dir(real)) {
			return filepath.Dir(real), nil
		}
	}
	found := installed()
	if len(found) == 0 {
		return "", ErrMissing
	}
	return slices.MaxFunc(found, func(a, b string) int { return versionIn(a) - versionIn(b) }), nil
}

// installed returns the directories of servers in the usual places of distributions.
func installed() []string {
	var found []string
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin",
		"/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin",
	} {
		dirs, _ := filepath.Glob(pattern) // the patterns are well formed
		for _, dir := range dirs {
			if hasServer(dir) {
				found = append(found, dir)
			}
		}
	}
	return found
}

func hasServer(dir string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		if _, err := exec.LookPath(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

// versionIn returns the number in a directory's name, such as 15 in
// /usr/lib/postgresql/15/bin.
func versionIn(dir string) int {
	digits := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, dir)
	n, _ := strconv.Atoi(digits) // none: 0, the oldest
	return n
}

// serverUser returns whom the server must run as, or nil for the caller.
func serverUser() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), NoSetGroups: false}, nil
		}
	}
	return nil, errors.New("the Postgres server refuses to run as root, and there is neither a user postgres nor nobody; " +
		"run as an ordinary user, or: useradd --system postgres")
}

// prepare makes the directories, runs initdb if there is no cluster yet, and
// writes the settings.
func (c *Cluster) prepare() error {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return err
	}
	if err := c.own(c.dir); err != nil {
		return err
	}
	if err := c.reachable(); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(c.dataDir(), "PG_VERSION")); errors.Is(err, os.ErrNotExist) {
		if err := c.initdb(); err != nil {
			return err
		}
	}
	return c.configure()
}

// openSockets makes the directory of the Unix socket: the cluster's own unless its
// name is too long.
func (c *Cluster) openSockets() error {
	switch {
	case len(c.dir) <= maxSocketDir:
		c.sockets = c.dir
		return nil
	case c.sockets != "": // a restart: keep the name, which callers may know
		if err := os.Mkdir(c.sockets, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	default:
		dir, err := os.MkdirTemp("", "pg-")
		if err != nil {
			return err
		}
		c.sockets = dir
	}
	return c.own(c.sockets)
}

// closeSockets removes what openSockets made.
func (c *Cluster) closeSockets() error {
	if c.sockets == c.dir {
		return nil
	}
	return os.RemoveAll(c.sockets)
}

// initdb creates the cluster: UTF-8, and the collation that every machine has and
// that knows letters beyond ASCII.
func (c *Cluster) initdb() error {
	auth := []string{"--auth=trust"}
	if c.settings.password != "" {
		file := filepath.Join(c.dir, "password")
		if err := c.write(file, []byte(c.settings.password+"\n")); err != nil {
			return err
		}
		defer os.Remove(file)
		auth = []string{"--auth=scram-sha-256", "--pwfile=" + file}
	}
	var err error
	for _, locale := range []string{"C.UTF-8", "C"} {
		// --no-sync hastens the set-up only; the server itself syncs.
		args := append([]string{"-D", c.dataDir(), "-U", "postgres", "--encoding=UTF8", "--locale=" + locale, "--no-sync"}, auth...)
		cmd := exec.Command(filepath.Join(c.bin, "initdb"), args...)
		cmd.Dir = c.dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.ids}
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err = cmd.Run(); err == nil {
			return nil
		}
		err = fmt.Errorf("initdb: %w\n%s", err, out.String())
		if rm := os.RemoveAll(c.dataDir()); rm != nil {
			return rm
		}
	}
	return err
}

// configure writes the settings into a file of their own, which postgresql.conf
// includes, so that they can be written again for a cluster that is kept.
func (c *Cluster) configure() error {
	conf := []setting{
		{"wal_level", "logical"}, {"max_wal_senders", "20"}, {"max_replication_slots", "20"}, {"fsync", "on"},
	}
	if c.settings.tlsCert != nil {
		conf = append(conf, setting{"ssl", "on"})
		if err := c.write(filepath.Join(c.dataDir(), "server.crt"), c.settings.tlsCert); err != nil {
			return err
		}
		if err := c.write(filepath.Join(c.dataDir(), "server.key"), c.settings.tlsKey); err != nil {
			return err
		}
	}
	var b strings.Builder
	for _, s := range append(conf, c.settings.conf...) {
		fmt.Fprintf(&b, "%s = '%s'\n", s.name, strings.ReplaceAll(s.value, "'", "''"))
	}
	if err := c.write(filepath.Join(c.dataDir(), "pgtest.conf"), []byte(b.String())); err != nil {
		return err
	}
	main := filepath.Join(c.dataDir(), "postgresql.conf")
	text, err := os.ReadFile(main)
	if err != nil {
		return err
	}
	const include = "\ninclude 'pgtest.conf'\n"
	if bytes.HasSuffix(text, []byte(include)) {
		return nil
	}
	return c.write(main, append(text, include...))
}

// write writes a file that only the server's user may read.
func (c *Cluster) write(path string, content []byte) error {
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return err
	}
	return c.own(path)
}

// own gives a path to the server's user.
func (c *Cluster) own(path string) error {
	if c.ids == nil {
		return nil
	}
	return os.Chown(path, int(c.ids.Uid), int(c.ids.Gid))
}

// reachable checks that the server's user can get to the directory: root's own
// folders are closed to everybody else.
func (c *Cluster) reachable() error {
	if c.ids == nil {
		return nil
	}
	for dir := filepath.Dir(c.dir); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		mode := info.Mode().Perm()
		st := info.Sys().(*syscall.Stat_t)
		ok := mode&0o001 != 0 || st.Uid == c.ids.Uid && mode&0o100 != 0 || st.Gid == c.ids.Gid && mode&0o010 != 0
		if !ok {
			return fmt.Errorf("the server will not run as root but as uid %d, which cannot enter %s: "+
				"choose a folder outside it, such as one under /var/tmp, or run: chmod o+x %s", c.ids.Uid, dir, dir)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}
