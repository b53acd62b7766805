// Package client is a local-first database for Go programs: a SQLite file that is
// always there to read and write, is kept in step with a Millrace service (or any
// other that speaks the PowerSync protocol) in the background, and carries the
// program's own writes back.
//
//	db, err := client.Open(ctx, "app.db", client.Schema{Tables: []client.Table{{
//		Name:    "todos",
//		Columns: []client.Column{client.Text("title"), client.Integer("done")},
//	}}}, nil)
//
// Programs open a [DB], read and write it with plain SQL. The guide is docs/client.md.
//
// # Who owns what
//
// A DB has one connection that writes and a few that read, in two pools of
// database/sql; SQLite's write-ahead log lets them run side by side. Whoever takes
// the writer from its pool owns it until it gives it back: an app's transaction, or
// the sync engine for one batch of lines. Prepared statements of the engine belong
// to that connection.
//
// Invariants:
//   - The file's layout is that of the official core extension, so that official
//     clients open our files and we theirs; package local says more.
//   - The package depends on nothing of the server but package protocol.
package client
