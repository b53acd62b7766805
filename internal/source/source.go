// Package source is the vocabulary of what any source database yields: positions
// in its change stream, tables, rows and the transactions that change them.
//
// It owns no I/O and imports nothing of the project. The postgres package
// produces these values; streams evaluates them; replicate turns them into
// operations.
//
// Invariants:
//   - A Txn reaches the core whole or in consecutive parts, in commit order, and
//     only once it is committed on the source.
//   - The bytes of a Datum are immutable once handed over: decoded Values may
//     share them.
package source

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// LSN is a position in the source's write-ahead log: a byte offset, printed as
// two hexadecimal halves ("16/B374D848"), as Postgres prints it.
type LSN uint64

// String returns the form that Postgres prints and parses.
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// ParseLSN reads the form that Postgres prints.
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	if !ok {
		return 0, fmt.Errorf("parse LSN %q: want two hexadecimal numbers joined by a slash", s)
	}
	h, err := strconv.ParseUint(hi, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("parse LSN %q: %w", s, err)
	}
	l, err := strconv.ParseUint(lo, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("parse LSN %q: %w", s, err)
	}
	return LSN(h<<32 | l), nil
}

// XID is a source transaction's 32-bit identifier, as the change stream carries it.
type XID uint32

// TableID identifies a table for as long as it exists on the source: Postgres'
// relation oid. A table dropped and created again has another one.
type TableID uint32

// Identity says which columns of a changed row the change stream repeats, and so
// by what a stored row is found again (Postgres: REPLICA IDENTITY).
type Identity uint8

// The replica identities of Postgres.
const (
	IdentityDefault Identity = iota // the primary key; none without one
	IdentityNothing                 // no columns: updates and deletes never arrive
	IdentityFull                    // every column
	IdentityIndex                   // the columns of one unique index
)

// String returns the word of Postgres' ALTER TABLE … REPLICA IDENTITY.
func (i Identity) String() string {
	switch i {
	case IdentityDefault:
		return "default"
	case IdentityNothing:
		return "nothing"
	case IdentityFull:
		return "full"
	case IdentityIndex:
		return "index"
	}
	return "unknown"
}

// Table describes a table as of some position in the stream. It is immutable: a
// schema change yields another Table with the same ID.
type Table struct {
	ID       TableID
	Schema   string
	Name     string
	Columns  []Column
	Identity Identity
	// Root names the partitioned table that this one is a partition of, the
	// topmost if there are several levels; empty for a table that is none.
	RootSchema, RootName string
	// Heap tells apart the copies of its rows: after an alteration that wrote them all
	// anew, perhaps with other values, it is another one. 0 if it is not known.
	Heap uint32
	// Published tells apart the settings under which the log tells of its changes: where
	// they are not as they were, some may have been missed. Empty if that is not known.
	Published string
}

// Column is one column of a Table.
type Column struct {
	Name string
	Type Type
	// Key says that the column is part of the replica identity.
	Key bool
}

// QualifiedName returns schema.name, unquoted, for messages.
func (t *Table) QualifiedName() string { return t.Schema + "." + t.Name }

// Shape returns a digest of what rows of this version of the table mean: its name,
// its replica identity, its columns with their types and order; its Heap, as an
// alteration that writes all rows anew (a type's length or precision, a type with
// USING) may say nothing else of what it did; and Published.
func (t *Table) Shape() string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %q %q %d %d %q", t.Schema, t.Name, t.RootSchema, t.RootName, t.Identity, t.Heap, t.Published)
	for i := range t.Columns {
		c := &t.Columns[i]
		fmt.Fprintf(h, " %q %q %t", c.Name, c.Type.Name(), c.Key)
		if v, ok := c.Type.(Versioned); ok {
			fmt.Fprintf(h, " %q", v.Version())
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// Usable reports whether rows of the table can be found again when they are
// changed: false for a table without primary key or other replica identity.
func (t *Table) Usable() bool {
	for i := range t.Columns {
		if t.Columns[i].Key {
			return true
		}
	}
	return t.Identity == IdentityNothing
}

// Encoding says how a Datum's bytes are to be read.
type Encoding uint8

// The encodings of a Datum.
const (
	Null      Encoding = iota // SQL NULL; no bytes
	Unchanged                 // not sent, because the update left it as it was (Postgres: unchanged TOAST)
	Text                      // the type's text form
	Binary                    // the type's binary send form
)

// Datum is one column of a row version as the source sent it. Decoding waits
// until a stream reads the column.
type Datum struct {
	Bytes    []byte
	Encoding Encoding
}

// Type decodes the raw form of one source type. Implementations are pure, safe
// for concurrent use, never panic on malformed bytes, and give equal Values for
// the Text and Binary form of one value.
type Type interface {
	// Name returns the type's name as the source spells it, such as "int4".
	Name() string
	// Decode returns the value as SQLite stores it. d is Text or Binary, or Null,
	// which gives the null Value.
	Decode(d Datum, f Form) (Value, error)
}

// Versioned is a Type that can be altered in ways that change what its stored values read
// as, such as an enum whose labels are renamed. Version tells the states apart; it is empty
// for types that cannot.
type Versioned interface {
	Type
	Version() string
}

// Form selects among the text forms that clients may expect of a type. The zero
// Form is the oldest (edition 1). It is comparable: rows are decoded once per Form.
type Form struct {
	// ISOTimestamps gives timestamps as 2024-01-02T03:04:05.000000Z instead of
	// the source's own text (sync config: timestamps_iso8601).
	ISOTimestamps bool
	// CustomTypes gives domains as their base type, composites, ranges and their
	// arrays as JSON (sync config: custom_postgres_types).
	CustomTypes bool
	// Precision truncates the fraction of ISO timestamps (sync config:
	// timestamp_max_precision).
	Precision Precision
	// Exact gives values that differ on the source as different Values: the
	// source's own text where other forms have one stand-in for several values
	// (infinities, years that clients cannot compare), and of containers. The
	// other fields then mean nothing.
	Exact bool
}

// Precision is the number of fractional digits that ISO timestamps keep.
type Precision uint8

// The precisions of timestamp_max_precision. The source's own is the default.
const (
	PrecisionSource Precision = iota
	PrecisionSeconds
	PrecisionMilliseconds
	PrecisionMicroseconds
	PrecisionNanoseconds
)

// CanonicalForm is the Form in which identities are written, whatever form the
// sync config asks for, so that stored rows are found again after it changes.
var CanonicalForm = Form{Exact: true}

// ChangeKind is what happened to a row.
type ChangeKind uint8

// The kinds of Change.
const (
	Insert ChangeKind = iota
	Update
	Delete
	Truncate
)

// String returns the SQL verb.
func (k ChangeKind) String() string {
	switch k {
	case Insert:
		return "insert"
	case Update:
		return "update"
	case Delete:
		return "delete"
	case Truncate:
		return "truncate"
	}
	return "unknown"
}

// Change is one row's insert, update or delete, or one table's truncation.
type Change struct {
	Kind  ChangeKind
	Table *Table
	// Old holds the former row as far as the source repeats it: for a delete and
	// for an update that changed the identity, the identity columns (others are
	// Null), or all columns under IdentityFull. Nil otherwise.
	Old []Datum
	// New holds the row after an insert or update, one Datum a column; Unchanged
	// only in updates. Nil otherwise.
	New []Datum
}

// Txn is one committed transaction, or a part of one that is too large to hold.
type Txn struct {
	XID XID
	// Commit is the position right after the commit record: once everything up to
	// it is durable here, it may be confirmed to the source. 0 with More.
	Commit LSN
	// Changes are in the order in which they were made.
	Changes []Change
	// Messages are the logical messages among the changes that concern us, in order.
	Messages []Message
	// More says that further parts of the same transaction follow.
	More bool
}

// Message is a logical message that this system wrote into the source's log to
// mark a place in it: a backfill's watermark, or a write checkpoint's marker.
type Message struct {
	Prefix  string
	Content []byte
}
