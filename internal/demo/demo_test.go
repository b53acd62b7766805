package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// parentEnv makes this test binary start a child and wait to be killed.
const parentEnv = "DEMO_TEST_PARENT"

func TestMain(m *testing.M) {
	if log := os.Getenv(parentEnv); log != "" {
		p, err := Start(Program{Name: "child", Path: "/bin/sh", Args: []string{"-c", "sleep 600 & wait"}, Log: log})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(p.PID())
		<-p.Done()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// gone waits until no process of a group is left.
func gone(t *testing.T, group int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := poll(ctx, "the child is gone", func() (bool, error) {
		running, err := groupRuns(group)
		return !running, err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// groupRuns reports whether a group has a process that has not ended. An orphan that
// has ended stays as a zombie for as long as the machine's first process likes.
func groupRuns(group int) (bool, error) {
	if errors.Is(syscall.Kill(-group, 0), syscall.ESRCH) {
		return false, nil
	}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return false, err
	}
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it ended meanwhile
		}
		// pid (name) state parent group …
		_, rest, _ := strings.Cut(string(text), ") ")
		if f := strings.Fields(rest); len(f) > 2 && f[0] != "Z" && f[2] == strconv.Itoa(group) {
			return true, nil
		}
	}
	return false, nil
}

func start(t *testing.T, script string) *Process {
	t.Helper()
	p, err := Start(Program{Name: "child", Path: "/bin/sh", Args: []string{"-c", script}, Log: filepath.Join(t.TempDir(), "child.log"), Piped: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	t.Cleanup(func() { p.Stdout.Close() })
	return p
}

// line waits for the child's first line.
func line(t *testing.T, p *Process) string {
	t.Helper()
	text, err := bufio.NewReader(p.Stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(text)
}

func TestStopEndsWholeGroup(t *testing.T) {
	p := start(t, "trap 'exit 0' TERM; sleep 600 & echo ready; wait")
	line(t, p)
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	gone(t, p.PID())
}

func TestStopReportsFailureWithLog(t *testing.T) {
	p := start(t, "trap 'echo what went wrong >&2; exit 3' TERM; echo ready; while :; do sleep 0.01; done")
	line(t, p)
	err := p.Stop()
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "what went wrong") {
		t.Errorf("stop: %v, want the exit status and the log", err)
	}
	if p.ExitCode() != 3 {
		t.Errorf("exit code %d", p.ExitCode())
	}
}

// TestKilledParentLeavesNoOrphans kills a process that runs a child, as the system
// does when memory runs out.
func TestKilledParentLeavesNoOrphans(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.Command(self)
	parent.Env = append(os.Environ(), parentEnv+"="+filepath.Join(t.TempDir(), "log"))
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	text, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		t.Fatalf("the parent says %q", text)
	}
	if err := syscall.Kill(-child, 0); err != nil {
		t.Fatalf("the child does not run: %v", err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	var ended *exec.ExitError
	if err := parent.Wait(); !errors.As(err, &ended) {
		t.Fatal(err)
	}
	gone(t, child)
}

// TestTerminalFollows feeds the driver the events of a scripted client.
func TestTerminalFollows(t *testing.T) {
	script := filepath.Join(t.TempDir(), "client")
	err := os.WriteFile(script, []byte(`#!/bin/sh
echo '{"event":"status","connected":true,"synced":true,"upload_error":"down"}'
echo '{"event":"changes","added":[{"id":"1","message":"a"},{"id":"2","message":"b"}],"updated":[],"removed":[],"total":2}'
echo '{"event":"changes","added":[],"updated":[{"id":"1","message":"A"}],"removed":["2"],"total":1}'
echo '{"event":"rejected","id":"9","code":"not_owner"}'
while read -r command rest; do
	case $command in
	add) echo "{\"event\":\"done\",\"command\":\"add\",\"id\":\"$rest\"}" ;;
	state) echo '{"event":"done","command":"state","queued":2,"confirmed":false,"target":"5","applied":null}' ;;
	list) echo '{"event":"done","command":"list","notes":[{"id":"1","message":"A"}]}' ;;
	*) echo '{"event":"failed","command":"x","message":"no such note"}' ;;
	esac
done
`), 0o755)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := &Stack{config: Config{Dir: dir, Terminal: script}}
	if err := os.Mkdir(s.LogDir(), 0o755); err != nil {
		t.Fatal(err)
	}
	c, err := s.StartTerminal("ann", filepath.Join(dir, "ann.db"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err = c.Wait(ctx, "all events are in", func(v View) bool {
		return v.Status.Synced && *v.Status.UploadError == "down" && len(v.Notes) == 1 && v.Notes["1"].Message == "A" && len(v.Rejected) == 1
	})
	if err != nil {
		t.Error(err)
	}
	if id, err := c.Add(ctx, "i7"); err != nil || id != "i7" {
		t.Errorf("add: %q, %v", id, err)
	}
	if state, err := c.State(ctx); err != nil || state != (State{Queued: 2, Target: "5"}) {
		t.Errorf("state: %+v, %v", state, err)
	}
	if notes, err := c.List(ctx); err != nil || len(notes) != 1 {
		t.Errorf("list: %v, %v", notes, err)
	}
	if err := c.Delete(ctx, "1"); err == nil || !strings.Contains(err.Error(), "no such note") {
		t.Errorf("delete: %v, want the client's message", err)
	}
	if _, err := c.Add(ctx, "two\nlines"); err == nil {
		t.Error("a note of two lines became two commands")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Wait(ctx, "never", func(View) bool { return false }); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait for a client that has ended: %v", err)
	}
}

func TestSecretsAreKept(t *testing.T) {
	dir := t.TempDir()
	keygen := filepath.Join(dir, "millrace")
	if err := os.WriteFile(keygen, []byte("#!/bin/sh\nprintf '# a=b\\nPS_JWK_KID=k\\nPS_JWK_N=n\\nPS_JWK_E=e\\nPOWERSYNC_PRIVATE_KEY=p==\\n'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "secrets.env")
	first, err := loadSecrets(t.Context(), keygen, file)
	if err != nil {
		t.Fatal(err)
	}
	if first["POWERSYNC_PRIVATE_KEY"] != "p==" || len(first[superuserPassword]) < 20 {
		t.Errorf("secrets %v", first)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the secrets' file has mode %v", info.Mode())
	}
	again, err := loadSecrets(t.Context(), "/nonexistent", file)
	if err != nil || again[superuserPassword] != first[superuserPassword] {
		t.Errorf("the second run has other secrets: %v", err)
	}
	if err := os.WriteFile(file, []byte("PS_JWK_KID=k\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadSecrets(t.Context(), keygen, file); err == nil || !strings.Contains(err.Error(), "PS_JWK_N") {
		t.Errorf("a file that lacks some: %v, want what it lacks", err)
	}
}

// TestClusterDirOutside: run by root, Postgres gets another user, who cannot enter
// a closed folder.
func TestClusterDirOutside(t *testing.T) {
	closed := filepath.Join(t.TempDir(), "closed")
	dir := filepath.Join(closed, "demo")
	if err := errors.Join(os.Mkdir(closed, 0o700), os.Mkdir(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	got, err := clusterDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	inside := filepath.Join(dir, "postgres")
	if os.Geteuid() != 0 {
		if got != inside {
			t.Errorf("an ordinary user's cluster is in %s, want %s", got, inside)
		}
		return
	}
	if !strings.HasPrefix(got, "/var/tmp/millrace-demo-") {
		t.Errorf("root's cluster is in %s", got)
	}
	if again, err := clusterDir(dir); err != nil || again != got {
		t.Errorf("the second run's cluster is in %s, want %s (%v)", again, got, err)
	}
	if err := Remove(dir); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{got, dir} {
		if _, err := os.Stat(d); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", d, err)
		}
	}
}

// TestRemoveKeepsToItsOwn: a file in the folder must not be able to name others.
func TestRemoveKeepsToItsOwn(t *testing.T) {
	dir, other := filepath.Join(t.TempDir(), "demo"), t.TempDir()
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "postgres-dir"), []byte(other+"\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := Remove(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Errorf("a folder that was not ours is gone: %v", err)
	}
}
