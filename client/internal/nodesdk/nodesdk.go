// Package nodesdk runs the official SDK for Node.js on a database file, for tests that hand
// files back and forth between it and our client.
//
// Tests alone import it. The SDK comes with the npm packages of examples/notes/terminal.
package nodesdk

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

//go:embed sdk.js
var script string

// Table is a table of the schema.
type Table struct {
	Name    string   `json:"name"`
	Columns []Column `json:"columns"`
}

// Column is a column; its type is text, integer or real.
type Column struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// SDK is a database under the official SDK, in a process of its own. It belongs to one
// goroutine.
type SDK struct {
	t    testing.TB
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	done bool
}

// Open opens or creates the database in file; it closes with the test, or before.
func Open(t testing.TB, file string, schema []Table) *SDK {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	packages := filepath.Join(filepath.Dir(here), "..", "..", "..", "examples", "notes", "terminal")
	node := filepath.Join(packages, "node_modules", ".bin", "node")
	if _, err := os.Stat(node); err != nil {
		t.Fatalf("the official client's packages are missing; run: scripts/deps node (%v)", err)
	}
	js := filepath.Join(t.TempDir(), "sdk.mjs")
	if err := os.WriteFile(js, []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	tables, err := json.Marshal(schema)
	if err != nil {
		t.Fatal(err)
	}
	s := &SDK{t: t, cmd: exec.Command(node, js, packages, file, string(tables))}
	s.cmd.Stderr = os.Stderr
	in, err := s.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.in, s.out = in, bufio.NewReader(out)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// Do runs a command with its arguments and decodes what it answers into result, if that
// is not nil.
func (s *SDK) Do(result any, command string, args map[string]any) {
	s.t.Helper()
	message := map[string]any{"command": command}
	for name, v := range args {
		message[name] = v
	}
	line, err := json.Marshal(message)
	if err == nil {
		_, err = s.in.Write(append(line, '\n'))
	}
	var answer []byte
	if err == nil {
		answer, err = s.out.ReadBytes('\n')
	}
	var reply struct {
		Result json.RawMessage
		Error  string
	}
	if err == nil {
		err = json.Unmarshal(answer, &reply)
	}
	if err != nil {
		s.t.Fatalf("official SDK: %s: %v", command, err)
	}
	if reply.Error != "" {
		s.t.Fatalf("official SDK: %s: %s", command, reply.Error)
	}
	if result == nil {
		return
	}
	if err := json.Unmarshal(reply.Result, result); err != nil {
		s.t.Fatalf("official SDK: %s answered %s: %v", command, reply.Result, err)
	}
}

// Close closes the database. Later calls do nothing.
func (s *SDK) Close() {
	if s.done {
		return
	}
	s.done = true
	s.in.Close()
	if err := s.cmd.Wait(); err != nil {
		s.t.Errorf("official SDK: %v", err)
	}
}
