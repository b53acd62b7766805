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
// Programs open a [DB], read and write it with plain SQL, watch queries with [Watch],
// and sync it with [DB.Connect] and a [Connector]. The guide is docs/client.md.
//
// # Who owns what
//
// A DB has one connection that writes and a few that read, in two pools of
// database/sql; SQLite's write-ahead log lets them run side by side. Whoever takes
// the writer from its pool owns it until it gives it back: an app's transaction, or
// the sync engine for one batch of lines. Prepared statements of the engine belong
// to that connection.
//
// Connect starts two goroutines, and Disconnect waits for them. The download loop owns
// the stream and the engine; while a stream is open it has a goroutine that reads
// lines ahead and, now and then, one that fetches credentials, and waits for both.
// The upload loop calls the connector. They speak through flags that are raised and
// taken, so nothing queues up between them. A log that has grown is moved into the
// database by a goroutine of its own, on a reader's connection; Close waits for it.
// Iterators (Watch, Changes, StatusChanges) run in their caller's goroutine; what they
// have not taken yet is one set of table names each.
//
// Package engine decides what lines mean and is pure; package local knows the
// file's layout; this package brings both together with sockets, clocks and pools.
//
// Invariants:
//   - The file's layout is that of the official core extension, so that official
//     clients open our files and we theirs; package local says more.
//   - Rows become visible, and watches run, only after a commit.
//   - A local write stays as it is until the backend has it and the service has
//     sent it back.
//   - No goroutine outlives Close.
//   - The package depends on nothing of the server but package protocol.
package client
