// Package nodesdk runs the official SDK for Node.js on a database file, for tests that hand
// files back and forth between it and our client.
//
// Tests alone import it.
package nodesdk

import (
	_ "embed"
	"encoding/json"
	"testing"

	"github.com/millrace-sync/millrace/client/internal/node"
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
// goroutine. Close closes the database.
type SDK struct {
	*node.Process
	t testing.TB
}

// Open opens or creates the database in file; it closes with the test, or before.
func Open(t testing.TB, file string, schema []Table) *SDK {
	t.Helper()
	tables, err := json.Marshal(schema)
	if err != nil {
		t.Fatal(err)
	}
	return &SDK{node.Start(t, "official SDK", script, file, string(tables)), t}
}

// Do runs a command with its arguments and decodes what it answers into result, if that
// is not nil.
func (s *SDK) Do(result any, command string, args map[string]any) {
	s.t.Helper()
	message := map[string]any{"command": command}
	for name, v := range args {
		message[name] = v
	}
	var reply struct {
		Result json.RawMessage
		Error  string
	}
	if err := s.Ask(message, &reply); err != nil {
		s.t.Fatalf("%s: %v", command, err)
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
