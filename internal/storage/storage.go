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
//     is committed. Recover, and opening the store after a crash, take such batches
//     back: rows, lookups, definitions and bucket states are then exactly those of
//     the Checkpoint, so that the writer can replay the transaction from its start.
//   - Op ids are never reused, and within the store only grow, crash or not.
//   - Compaction, which may go on beside everything else, shows in later Snapshots as
//     bucket.Compact says, and in none that is open. It looks at no ops beyond the
//     Checkpoint, and writes only while there are no batches without Publish.
package storage

import (
	"errors"
	"fmt"
	"time"

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
	// ErrFailed: the medium failed (a bad disk, a failed sync), and nothing can be
	// written any more. Only opening the store again tells whether the batch that
	// met the failure was kept.
	ErrFailed = errors.New("storage can no longer be written")
	// ErrUnavailable: the store does not answer at the moment. Nothing is lost; Recover
	// goes on once it answers.
	ErrUnavailable = errors.New("storage does not answer")
	// ErrExpired: a Snapshot is older than what the store keeps for readers. Take a
	// new one.
	ErrExpired = errors.New("snapshot is no longer kept")
	// ErrFull: the medium is full. Writes wait, and are carried out once there is room.
	ErrFull = errors.New("the disk of the storage is full")
	// ErrBatch: a batch breaks the contract, such as an op id used before. Nothing
	// of it was written; the caller is at fault.
	ErrBatch = errors.New("invalid batch")
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
	Stale                                  // changes were missed: served as it is until it has been compared with the source
)

// Definition is one bucket source or lookup index that the store holds data of.
type Definition struct {
	ID DefinitionID
	// Hash identifies what the definition computes: equal hashes, equal contents.
	Hash string
	// Label is the readable part of its bucket names, fixed when it was first deployed.
	Label string
	State DefinitionState
	// Tables holds which tables it reads, and how far each has been read.
	Tables []TableProgress
}

// TableProgress says which version of a table a definition holds, and how much of
// it a backfill has stored.
type TableProgress struct {
	Table source.TableID
	// Shape is that of the table's version (see source.Table.Shape): a table that has
	// been altered is read again.
	Shape string
	// After is the identity of the last row stored, one text datum for each key
	// column in the table's column order; nil before the first chunk.
	After []string
	Rows  int64
	// Done says that the table is read, and swept if Sweep asked for it.
	Done bool
	// Sweep says that it is not read for the first time, and that what is stored of it
	// may be wrong: once it is read, the stored rows are looked up in it, and those that
	// are gone taken back.
	Sweep bool
}

// Deploy is a sync config that was made current, or is on the way to be.
type Deploy struct {
	// ID is given by the writer, each greater than all before.
	ID uint64
	// SyncConfig is the text as it was deployed.
	SyncConfig string
	// Source identifies the database that the data is of. Positions and table ids
	// mean nothing in another one.
	Source string
	// Definitions are what its plan consists of, in the plan's order.
	Definitions []DefinitionID
	State       DeployState
}

// DeployState is how far a deploy has come.
type DeployState uint8

// The states of a deploy. At most one is DeployServing.
const (
	DeployPending DeployState = iota + 1 // definitions of it are still backfilling
	DeployServing                        // sessions use its plan
	DeployFailed                         // given up; the one before goes on serving
)

// Recovered is what a store holds as of its checkpoint when its writer starts:
// all that it needs to go on.
type Recovered struct {
	// Epoch is drawn at random when the store is created and goes into bucket
	// names, so that a client never mistakes this store's buckets for another's: 5
	// characters of a-z and 2-7.
	Epoch string
	// Secret keys the subkeys of this store.
	Secret [32]byte
	// NextOp follows every op id ever committed, also those taken back.
	NextOp     bucket.OpID
	Checkpoint Checkpoint
	// Definitions are in order of their ids.
	Definitions    []Definition
	NextDefinition DefinitionID // follows every definition id ever committed
	// Deploys are in order of their ids.
	Deploys []Deploy
}

// Batch is what one commit writes.
type Batch struct {
	// Ops are in order of their ids, which follow all ids used before.
	Ops     []BucketOp
	Rows    []RowWrite
	Lookups []LookupWrite
	// Definitions are stored by id, new or changed. Ops and lookups may only name
	// definitions that are stored, or are in the same batch.
	Definitions []Definition
	// Drop removes definitions with their ops, bucket states and lookups; only with
	// Publish. Row records may keep naming them; readers of row records ignore
	// unknown ids.
	Drop []DefinitionID
	// Deploy, if set, is stored by its id. One that is DeployServing removes all others.
	Deploy *Deploy
	// LSN is the source position that the batch brings the store to, if Publish.
	LSN source.LSN
	// Publish makes everything committed so far the store's Checkpoint. It is unset
	// for the parts of a transaction before its last.
	Publish bool
	// NoSync allows Commit to return before the batch is durable. It is heeded for
	// parts without Publish, which become durable with their last part, and for a
	// batch that has nothing but an LSN: readers may then see that LSN before it is
	// durable, the source must not be told of it (see the store's DurableLSN).
	NoSync bool
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
	// New says that the store has no record of the row, as Row told: it need not be
	// looked for again.
	New bool
}

// LookupWrite sets what one source row contributes to a lookup; nil Values
// removes it.
type LookupWrite struct {
	Lookup LookupKey
	Row    bucket.Subkey
	Values []byte
}

// CompactOptions say what of a store to compact, and at which pace.
type CompactOptions struct {
	// Buckets to compact; all of them if it is empty.
	Buckets []BucketKey
	// Incremental leaves alone what a store in use should: buckets that have not
	// grown by much since they were last compacted, definitions that are being
	// backfilled, and the places of ops that are newer than the last compaction, so
	// that clients which were here since then need not download rows again. Without
	// it, all is done that can be, and space is given back to the file system at once.
	Incremental bool
	// Share is how much of one core's time may be used, up to 1; 0 means 1.
	Share float64
}

// CompactStats is what a compaction did.
type CompactStats struct {
	Buckets int64 // that were walked
	bucket.Compacted
	// Rows is the number of row records dropped, of tables that no definition reads.
	Rows int64
}

// Sizes says what a store takes on the disk, in bytes.
type Sizes struct {
	Total uint64
	// Operations, Lookups and Rows are the parts of it that hold these.
	Operations, Lookups, Rows uint64
}

// WriteCheckpoint is the promise that a user's uploads up to ID are in the
// client's view once LSN has been replicated.
type WriteCheckpoint struct {
	ID  uint64
	LSN source.LSN
}

// WriteCheckpointRequest asks for a user's next WriteCheckpoint.
type WriteCheckpointRequest struct {
	// User names whom the numbering belongs to, a user or one client of a user.
	User string
	// AtLeast is the least id to give out: the next one of the user's numbering if 0.
	AtLeast uint64
	LSN     source.LSN
	// At is the time of the request, to the second. Who names an id can name it again,
	// so what a user asked for only in this way may be forgotten some time after the
	// last such request. What was ever asked for without one is kept: the client cannot
	// ask again for what it waits for, however long it is away.
	At time.Time
}
