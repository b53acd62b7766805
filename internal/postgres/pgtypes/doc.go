// Package pgtypes decodes the values of every Postgres type, from the type's text
// form (what its output function prints) and from its binary form (what its send
// function writes), into the values that SQLite would store.
//
// The postgres adapter owns it: it fills a Registry from the catalog, asks it for
// the source.Type of each column, and chooses by BinaryReadable how to read
// columns. The streams evaluate through source.Type and never see this package.
//
// Invariants:
//   - The package is pure: no I/O, no clock, no state but the Registry's types.
//   - The text and the binary form of one value give equal source.Values in every
//     source.Form, given connections with the Settings.
//   - Malformed bytes give an error of kind ErrMalformed, never a panic, and cost
//     memory in proportion to their length, within maxContainer.
package pgtypes

import (
	"errors"
	"fmt"
	"unsafe"
)

// The kinds of error that Decode gives.
var (
	// ErrMalformed says that the bytes are not what the type's output or send
	// function writes.
	ErrMalformed = errors.New("malformed value")
	// ErrTooDeep says that arrays, composites and ranges are nested deeper than
	// clients can be given.
	ErrTooDeep = errors.New("PSYNC_S1004: nested deeper than 10 levels of arrays, composites and ranges; " +
		"select a less deeply nested part of the column")
	// ErrTooLarge says that the text of an array would be larger than any row may be.
	ErrTooLarge = errors.New("PSYNC_S1002: the array's text is larger than 32 MiB; leave the column out of the sync config")
	// ErrNotBinary says that a value came in binary form though BinaryReadable
	// denies that its type is understood so.
	ErrNotBinary = errors.New("binary form is not understood; read the column as text, see TextExpr")
	// ErrUnchanged says that a value was not sent, so there is nothing to decode.
	ErrUnchanged = errors.New("value was not sent by the source, since the update left it unchanged")
)

const (
	// maxDepth bounds the nesting of JSON arrays and objects in one value.
	maxDepth = 10
	// maxContainer bounds the text of an array that is built from binary: a
	// numeric of twelve bytes can print as 131,072 digits.
	maxContainer = 32 << 20
)

// Settings returns the run-time parameters that connections must set, so that text
// forms are the ones this package reads whatever the server's defaults are.
func Settings() map[string]string {
	return map[string]string{
		"client_encoding":    "UTF8",
		"DateStyle":          "ISO",
		"IntervalStyle":      "postgres",
		"TimeZone":           "UTC",
		"extra_float_digits": "1",
		"bytea_output":       "hex",
	}
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// share returns a string of b's bytes without copying them. It is the package's
// only use of unsafe, and sound for two kinds of b: a source.Datum's bytes, which
// are immutable by contract, and scratch space whose string is dropped before the
// next write to it.
func share(b []byte) string {
	return unsafe.String(unsafe.SliceData(b), len(b))
}
