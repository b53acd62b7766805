// Package local gives a SQLite connection what the files of PowerSync clients
// need: the tables and their migrations, the SQL functions and the virtual tables
// that the views' triggers call, and word of which tables a transaction changed.
//
// Its only caller is package client, which owns the connections and opens each
// with [Attach]. A [Conn] belongs to whoever holds its connection.
//
// Invariants:
//   - The layout is that of the official core extension, migration 14: a file
//     written there opens here and the other way round. Names, DDL and the SQL to
//     go back are part of that format, and tests compare them with the extension.
//   - What triggers queue is byte for byte what the extension queues.
//   - A transaction's changes are reported after it has committed, or never.
package local
