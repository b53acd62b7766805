package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/millrace-sync/millrace/internal/demo"
)

// TestDemo runs what `make demo` runs: interrupted, killed, and started again each
// time. Nothing of it may be left running.
func TestDemo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "demo")
	args := []string{"-dir", dir, "-bin", bin, "-app", app, "-service-port", "0", "-backend-port", "0"}

	interrupted := startDemo(t, args...)
	interrupted.until(t, "Press Ctrl-C")
	family := descendants(t, interrupted.cmd.Process.Pid)
	if len(family) < 5 {
		t.Errorf("only %d processes run", len(family))
	}
	if err := interrupted.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code, said := interrupted.end(t); code != 0 || !strings.Contains(said, "Stopped everything.") || strings.Count(said, "  passed  ") != 3 {
		t.Errorf("exit code %d after Ctrl-C:\n%s", code, said)
	}
	ended(t, family)

	killed := startDemo(t, args...)
	killed.until(t, "Press Ctrl-C")
	family = descendants(t, killed.cmd.Process.Pid)
	if code, said := startDemo(t, args...).end(t); code != 1 || !strings.Contains(said, "a demo is running there") {
		t.Errorf("a second demo in the same folder: exit code %d\n%s", code, said)
	}
	if err := killed.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	killed.end(t)
	ended(t, family)

	if code, said := startDemo(t, append(args, "-once")...).end(t); code != 0 || !strings.Contains(said, "All three checks passed.") {
		t.Errorf("after being killed: exit code %d\n%s", code, said)
	}
	if code, said := startDemo(t, append(args, "-remove")...).end(t); code != 0 {
		t.Errorf("-remove: exit code %d\n%s", code, said)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", dir, err)
	}
}

// TestDemoFailure: when a part cannot start, the others are stopped, and the message
// holds the end of that part's log.
func TestDemoFailure(t *testing.T) {
	broken := t.TempDir()
	if err := os.CopyFS(broken, os.DirFS(app)); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(broken, "powersync.yaml")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte(strings.Replace(string(text), "SELECT", "SELEKT", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "demo")
	d := startDemo(t, "-dir", dir, "-bin", bin, "-app", broken, "-service-port", "0", "-backend-port", "0")
	code, said := d.end(t)
	if err := demo.Remove(dir); err != nil {
		t.Error(err)
	}
	if code != 1 || !strings.Contains(said, "start service") || !strings.Contains(said, "SELEKT") || !strings.Contains(said, "Stopped everything.") {
		t.Errorf("exit code %d:\n%s", code, said)
	}
	if left := descendants(t, d.cmd.Process.Pid); len(left) > 0 {
		t.Errorf("left running: %v", left)
	}
}

// demoRun is a running demo.
type demoRun struct {
	cmd   *exec.Cmd
	lines chan string // closed when its output ends
	said  []string
}

func startDemo(t *testing.T, args ...string) *demoRun {
	t.Helper()
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	d := &demoRun{cmd: exec.Command(filepath.Join(bin, "notes-demo"), args...), lines: make(chan string, 1024)}
	d.cmd.Stdout, d.cmd.Stderr = in, in
	err = d.cmd.Start()
	in.Close()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer out.Close()
		defer close(d.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			d.lines <- lines.Text()
		}
	}()
	t.Cleanup(func() {
		// It has ended already, unless the test failed; its children end with it.
		_ = d.cmd.Process.Kill()
		for range d.lines {
		}
	})
	return d
}

// until waits for a line that holds text.
func (d *demoRun) until(t *testing.T, text string) {
	t.Helper()
	ctx := patient(t)
	for {
		select {
		case line, ok := <-d.lines:
			if !ok {
				t.Fatalf("it ended before it said %q:\n%s", text, strings.Join(d.said, "\n"))
			}
			d.said = append(d.said, line)
			if strings.Contains(line, text) {
				return
			}
		case <-ctx.Done():
			t.Fatalf("it never said %q:\n%s", text, strings.Join(d.said, "\n"))
		}
	}
}

// end waits for the end and returns the exit code and all that it said.
func (d *demoRun) end(t *testing.T) (code int, said string) {
	t.Helper()
	ctx := patient(t)
	for open := true; open; {
		select {
		case line, ok := <-d.lines:
			if open = ok; ok {
				d.said = append(d.said, line)
			}
		case <-ctx.Done():
			t.Fatalf("it does not end:\n%s", strings.Join(d.said, "\n"))
		}
	}
	return exitCode(t, d.cmd.Wait()), strings.Join(d.said, "\n")
}

// A procID is a process that cannot be mistaken for a later one of the same number.
type procID struct {
	pid     int
	started string
	name    string
}

// processes returns all processes that have not ended, with their parents.
func processes(t *testing.T) map[procID]int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	all := map[procID]int{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it ended meanwhile
		}
		// pid (name) state parent … starttime is the 22nd.
		head, rest, _ := strings.Cut(string(text), " (")
		end := strings.LastIndex(rest, ") ")
		f := strings.Fields(rest[end+1:])
		pid, err1 := strconv.Atoi(head)
		parent, err2 := strconv.Atoi(f[1])
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if f[0] != "Z" {
			all[procID{pid, f[19], rest[:end]}] = parent
		}
	}
	return all
}

// descendants returns the processes below one.
func descendants(t *testing.T, root int) []procID {
	t.Helper()
	all := processes(t)
	var found []procID
	for level := []int{root}; len(level) > 0; {
		var next []int
		for p, parent := range all {
			if slices.Contains(level, parent) {
				found, next = append(found, p), append(next, p.pid)
			}
		}
		level = next
	}
	return found
}

// ended waits until none of the processes runs.
func ended(t *testing.T, family []procID) {
	t.Helper()
	eventually(t, "all children have ended", func() (bool, string) {
		all := processes(t)
		var left []procID
		for _, p := range family {
			if _, runs := all[p]; runs {
				left = append(left, p)
			}
		}
		return len(left) == 0, fmt.Sprint(left)
	})
}
