// Package storage is the contract between replication and sessions: what is
// written by the one and read by the other. Its types and errors are here, its
// suite of tests is storagetest, its implementations are pebblestore and pgstore.
//
// One process writes (it holds the store's lock); any number of goroutines read.
//
// Invariants, each a test of the suite:
//   - Commit is atomic and durable when it returns: after a crash either all of a
//     Batch is there or nothing of it.
//   - A Snapshot shows exactly the ops, bucket states and lookups of its
//     Checkpoint, however many batches are committed while it is open.
//   - A Batch without Publish is not seen by any Snapshot until one with Publish
//     is committed.
//   - Op ids are never reused, and within the store only grow, crash or not.
package storage

import (
	"errors"
	"fmt"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
)

// FormatVersion is the version of what is stored. A store of another version is
// refused with ErrFormat: it is either migrated on purpose or resynced.
const FormatVersion = 1

// The kinds of failure that callers act on; test with errors.Is.
var (
	// ErrLocked: another process has the store open for writing.
	ErrLocked = errors.New("storage is in use by another process")
	// ErrFormat: the store was written by an incompatible version.
	ErrFormat = errors.New("storage has another format version")
	// ErrCorrupt: stored bytes do not decode.
	ErrCorrupt = errors.New("storage is corrupt")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("storage is closed")
)

// DefinitionID is a definition's short name within one store. Definitions keep
// it for as long as their hash is in some deploy; it is never given out again.
type DefinitionID uint32

// BucketKey names one bucket: the definition and its parameter values, as the
// JSON array text that also ends the bucket's name.
type BucketKey struct {
	Def    DefinitionID
	Params string
}

// LookupKey names one entry of a lookup: the index definition and the encoded key
// values. What it holds is encoded by streams and opaque here.
type LookupKey struct {
	Def DefinitionID
	Key string
}

// Checkpoint is a point up to which everything is durable and
// transaction-consistent.
type Checkpoint struct {
	Op  bucket.OpID
	LSN source.LSN
}

// String returns "op@lsn", for logs.
func (c Checkpoint) String() string { return fmt.Sprintf("%s@%s", c.Op, c.LSN) }

// RowRef names a source row.
type RowRef struct {
	Table source.TableID
	Key   source.RowKey
}

// RowRecord is what is remembered of a source row: where its outputs went, so
// that its next change can take back exactly those.
type RowRecord struct {
	Memberships []Membership
	Lookups     []Contribution
	// Kept holds the raw values that the source may later omit because they were
	// not changed.
	Kept []Kept
	// Copies is the number of further source rows that are equal in every column:
	// only a table identified by whole rows can have them.
	Copies int64
}

// Membership is one entry of a source row in a bucket.
type Membership struct {
	Bucket     BucketKey
	ObjectType string
	ObjectID   string
	// Op is the PUT that gave the entry its present content, and Hash identifies
	// that content (see bucket.ContentHash).
	Op   bucket.OpID
	Hash uint64
}

// Contribution is what one source row contributes to a lookup.
type Contribution struct {
	Lookup LookupKey
	// Hash identifies the contributed values.
	Hash uint64
}

// Kept is one raw column value of a source row.
type Kept struct {
	Column string
	Datum  source.Datum
}

// DefinitionState is how far a definition has come.
type DefinitionState uint8

// The states of a definition.
const (
	Backfilling DefinitionState = iota + 1 // its tables are being read; nothing of it is served
	Serving                                // complete as of the last checkpoint
)

// Definition is one bucket source or lookup index that the store holds data of.
type Definition struct {
	ID DefinitionID
	// Hash identifies what the definition computes: equal hashes, equal contents.
	Hash string
	// Label is the readable part of its bucket names, fixed when it was first deployed.
	Label string
	State DefinitionState
	// Tables holds the progress of each table's backfill while State is Backfilling.
	Tables []TableProgress
}

// TableProgress says how much of a table a backfill has stored.
type TableProgress struct {
	Table source.TableID
	// After is the identity of the last row stored, one text datum for each key
	// column in the table's column order; nil before the first chunk.
	After []string
	Rows  int64
	Done  bool
}

// Batch is what one commit writes.
type Batch struct {
	// Ops are in order of their ids, which follow all ids used before.
	Ops     []BucketOp
	Rows    []RowWrite
	Lookups []LookupWrite
	// Definitions are stored by id, new or changed.
	Definitions []Definition
	// Drop removes definitions with their ops, bucket states and lookups. Row
	// records may keep naming them; readers of row records ignore unknown ids.
	Drop []DefinitionID
	// LSN is the source position that the batch brings the store to, if Publish.
	LSN source.LSN
	// Publish makes everything committed so far the store's Checkpoint. It is unset
	// for the parts of a transaction before its last.
	Publish bool
}

// BucketOp is an operation of a bucket.
type BucketOp struct {
	Bucket BucketKey
	Op     bucket.Op
}

// RowWrite replaces a row's record; a nil Record deletes it.
type RowWrite struct {
	Ref    RowRef
	Record *RowRecord
}

// LookupWrite sets what one source row contributes to a lookup; nil Values
// removes it.
type LookupWrite struct {
	Lookup LookupKey
	Row    bucket.Subkey
	Values []byte
}

// WriteCheckpoint is the promise that a user's uploads up to ID are in the
// client's view once LSN has been replicated.
type WriteCheckpoint struct {
	ID  uint64
	LSN source.LSN
}

// WriteCheckpointRequest asks for a user's next WriteCheckpoint.
type WriteCheckpointRequest struct {
	// User is the token's subject, with "/client_id" appended if the client gave one.
	User string
	// AtLeast is the least id to give out: the next one of the user's numbering if 0.
	AtLeast uint64
	LSN     source.LSN
}
