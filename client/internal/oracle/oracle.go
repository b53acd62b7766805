// Package oracle runs the official core extension for tests: what it makes of a
// schema, of writes and of sync lines is what our client must make of them.
//
// Tests alone import it.
package oracle

import (
	_ "embed"
	"errors"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/millrace-sync/millrace/client/internal/node"
)

//go:embed oracle.js
var script string

// Oracle is a database under the official extension, in a process of its own. It
// belongs to one goroutine. Close closes the database.
type Oracle struct {
	*node.Process
	t testing.TB
}

// Open opens or creates the database in file, migrates it and closes it with the test.
func Open(t testing.TB, file string) *Oracle {
	t.Helper()
	extension := filepath.Join(node.Packages(t), "node_modules", "@powersync", "node", "lib", library(t))
	return &Oracle{node.Start(t, "official extension", script, extension, file), t}
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
	var reply struct {
		Rows  [][]string
		Error string
	}
	if err := o.Ask(command, &reply); err != nil {
		o.t.Fatal(err)
	}
	if reply.Error != "" {
		return nil, errors.New(reply.Error)
	}
	return reply.Rows, nil
}
