// Package node runs scripts of the official client's Node.js for tests: programs that
// obey commands, one JSON object a line.
//
// Tests alone import it. Node.js and the official client come with the npm packages of
// examples/notes/terminal.
package node

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// Process is a script that runs. It belongs to one goroutine.
type Process struct {
	t    testing.TB
	what string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	done bool
}

// Packages returns the folder whose node_modules hold the official client, and fails the
// test if it is not installed.
func Packages(t testing.TB) string {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	packages := filepath.Join(filepath.Dir(here), "..", "..", "..", "examples", "notes", "terminal")
	if _, err := os.Stat(program(packages)); err != nil {
		t.Fatalf("the official client's packages are missing; run: scripts/deps node (%v)", err)
	}
	return packages
}

func program(packages string) string { return filepath.Join(packages, "node_modules", ".bin", "node") }

// Start runs a script, whose first argument is the folder of Packages. It ends with the
// test, or before. what names it where it fails.
func Start(t testing.TB, what, script string, args ...string) *Process {
	t.Helper()
	packages := Packages(t)
	js := filepath.Join(t.TempDir(), "script.mjs")
	if err := os.WriteFile(js, []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	p := &Process{t: t, what: what, cmd: exec.Command(program(packages), append([]string{js, packages}, args...)...)}
	p.cmd.Stderr = os.Stderr
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.in, p.out = in, bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// Ask sends a command and decodes the answer.
func (p *Process) Ask(command, answer any) error {
	line, err := json.Marshal(command)
	if err != nil {
		return err
	}
	if _, err := p.in.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("tell %s: %w", p.what, err)
	}
	reply, err := p.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("hear %s: %w", p.what, err)
	}
	if err := json.Unmarshal(reply, answer); err != nil {
		return fmt.Errorf("%s answered %s: %w", p.what, reply, err)
	}
	return nil
}

// Close ends the script, as the end of its commands does. Later calls do nothing.
func (p *Process) Close() {
	if p.done {
		return
	}
	p.done = true
	p.in.Close()
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("%s: %v", p.what, err)
	}
}
