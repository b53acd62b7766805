// Package oracle runs the official core extension for tests: what it makes of a
// schema, of writes and of sync lines is what our client must make of them.
//
// Tests alone import it. The extension and a Node.js that loads it come with the
// npm packages of examples/notes/terminal.
package oracle

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

//go:embed oracle.js
var script string

// Oracle is a database under the official extension, in a process of its own. It
// belongs to one goroutine.
type Oracle struct {
	t    testing.TB
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	done bool
}

// Open opens or creates the database in file, migrates it and closes it with the test.
func Open(t testing.TB, file string) *Oracle {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	packages := filepath.Join(filepath.Dir(here), "..", "..", "..", "examples", "notes", "terminal")
	modules := filepath.Join(packages, "node_modules")
	node := filepath.Join(modules, ".bin", "node")
	if _, err := os.Stat(node); err != nil {
		t.Fatalf("the official client's packages are missing; run: scripts/deps node (%v)", err)
	}
	extension := filepath.Join(modules, "@powersync", "node", "lib", library(t))
	js := filepath.Join(t.TempDir(), "oracle.mjs")
	if err := os.WriteFile(js, []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	o := &Oracle{t: t, cmd: exec.Command(node, js, packages, extension, file)}
	o.cmd.Stderr = os.Stderr
	in, err := o.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := o.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	o.in, o.out = in, bufio.NewReader(out)
	if err := o.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	return o
}

// library names the extension for this machine.
func library(t testing.TB) string {
	switch runtime.GOOS + "/" + runtime.GOARCH {
	case "linux/amd64":
		return "libpowersync_x64.linux.so"
	case "linux/arm64":
		return "libpowersync_aarch64.linux.so"
	case "darwin/amd64":
		return "libpowersync_x64.macos.dylib"
	case "darwin/arm64":
		return "libpowersync_aarch64.macos.dylib"
	}
	t.Fatalf("the official extension does not come for %s/%s", runtime.GOOS, runtime.GOARCH)
	return ""
}

// Blob is an argument that the database takes as a blob.
type Blob []byte

// Query runs one statement and returns its rows, each value as its type and text.
func (o *Oracle) Query(sql string, args ...any) [][]string {
	o.t.Helper()
	rows, err := o.Try(sql, args...)
	if err != nil {
		o.t.Fatalf("official extension: %s: %v", sql, err)
	}
	return rows
}

// Exec runs statements without arguments.
func (o *Oracle) Exec(sql string) {
	o.t.Helper()
	if _, err := o.ask(map[string]any{"sql": sql, "args": nil}); err != nil {
		o.t.Fatalf("official extension: %s: %v", sql, err)
	}
}

// Try is Query for statements that may fail.
func (o *Oracle) Try(sql string, args ...any) ([][]string, error) {
	o.t.Helper()
	values := make([]any, len(args))
	for i, a := range args {
		if b, ok := a.(Blob); ok {
			a = map[string]any{"blob": []byte(b)}
		}
		values[i] = a
	}
	return o.ask(map[string]any{"sql": sql, "args": values})
}

// Control gives the extension's sync engine an event, in a transaction of its own,
// and returns its instructions.
func (o *Oracle) Control(op string, payload any) (string, error) {
	o.t.Helper()
	o.Exec("BEGIN IMMEDIATE")
	rows, err := o.Try("SELECT powersync_control(?, ?)", op, payload)
	if err != nil {
		// A failed event takes its transaction along.
		o.Exec("ROLLBACK")
		return "", err
	}
	o.Exec("COMMIT")
	return rows[0][0], nil
}

func (o *Oracle) ask(command map[string]any) ([][]string, error) {
	o.t.Helper()
	line, err := json.Marshal(command)
	if err == nil {
		_, err = o.in.Write(append(line, '\n'))
	}
	var answer []byte
	if err == nil {
		answer, err = o.out.ReadBytes('\n')
	}
	var reply struct {
		Rows  [][]string
		Error string
	}
	if err == nil {
		err = json.Unmarshal(answer, &reply)
	}
	if err != nil {
		o.t.Fatalf("talk to the official extension: %v", err)
	}
	if reply.Error != "" {
		return nil, errors.New(reply.Error)
	}
	return reply.Rows, nil
}

// Close closes the database. Later calls do nothing.
func (o *Oracle) Close() {
	if o.done {
		return
	}
	o.done = true
	fmt.Fprintln(o.in, `{"close":true}`)
	o.in.Close()
	if err := o.cmd.Wait(); err != nil {
		o.t.Errorf("official extension: %v", err)
	}
}
