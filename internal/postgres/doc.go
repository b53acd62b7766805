// Package postgres reads a Postgres database: its change stream by logical
// replication, its tables by chunks, its catalog for what they look like.
//
// It is the adapter between Postgres and the vocabulary of package source; server
// owns it and feeds what it yields to replicate. Sub-package pgtypes decodes
// values.
//
// Check says whether a database can be replicated from, and how to repair what is
// missing. Tables resolves the tables of a sync config. EnsureSlot and OpenStream
// give the changes, ReadChunk the rows that were there before, Emit marks places in
// the stream.
//
// Invariants:
//   - A transaction is handed over once it is committed, in commit order, and its
//     Commit position only with its last part.
//   - The server is never told a position that Confirm was not called with. OpenStream
//     refuses a slot that is ahead of the position asked for, since what lies between
//     would be lost without a word.
//   - The bytes of a Datum are copied once out of the network buffer, and never
//     written again.
//   - Everything held is bounded: parts of a transaction by Config.PartBytes, parts
//     waiting for Next by queueBytes.
//   - Malformed messages give errors, never a panic.
//   - Every error for which callers have a choice is an *Error of one of the kinds
//     in this package; it says what to do, where it can as SQL.
package postgres
