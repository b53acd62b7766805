package postgres

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/millrace-sync/millrace/internal/source"
)

// copyReader parses what COPY TO STDOUT (FORMAT binary) writes, in pieces of any
// size, into rows. The bytes of each piece are copied once.
type copyReader struct {
	columns []source.Encoding // of values that are not null
	// yield gets each row, with the number of its bytes. The row's slice is used again,
	// what its datums point to is not.
	yield func(row []source.Datum, size int) error

	arena   arena
	row     []source.Datum
	rest    []byte // the beginning of a row whose end has not come
	started bool
	ended   bool
}

// copySignature begins the format; eight bytes of flags and extension length follow.
var copySignature = []byte("PGCOPY\n\xff\r\n\x00")

// Write takes the next piece.
func (c *copyReader) Write(p []byte) (int, error) {
	piece := p
	if len(c.rest) > 0 {
		piece = append(c.rest, p...)
		c.rest = nil
	}
	b := c.arena.copy(piece)
	if !c.started {
		head := len(copySignature) + 8
		if len(b) < head {
			c.rest = bytes.Clone(b)
			return len(p), nil
		}
		if !bytes.HasPrefix(b, copySignature) || binary.BigEndian.Uint64(b[len(copySignature):]) != 0 {
			return 0, fmt.Errorf("%w: not a binary copy without extensions", ErrMalformed)
		}
		c.started, b = true, b[head:]
	}
	for len(b) > 0 {
		if c.ended {
			return 0, fmt.Errorf("%w: data after the end of the copy", ErrMalformed)
		}
		n, err := c.take(b)
		if errors.Is(err, errShort) {
			c.rest = bytes.Clone(b)
			return len(p), nil
		}
		if err != nil {
			return 0, err
		}
		b = b[n:]
	}
	return len(p), nil
}

// errShort: the row's end has not come yet.
var errShort = errors.New("incomplete row")

// take takes a row and returns its length.
func (c *copyReader) take(b []byte) (int, error) {
	if len(b) < 2 {
		return 0, errShort
	}
	n := int(int16(binary.BigEndian.Uint16(b)))
	if n == -1 {
		c.ended = true
		return 2, nil
	}
	if n != len(c.columns) {
		return 0, fmt.Errorf("%w: row of %d columns in a copy of %d", ErrMalformed, n, len(c.columns))
	}
	at := 2
	row := append(c.row[:0], make([]source.Datum, n)...)
	c.row = row
	for i := range row {
		if len(b)-at < 4 {
			return 0, errShort
		}
		size := int(int32(binary.BigEndian.Uint32(b[at:])))
		at += 4
		switch {
		case size == -1:
			continue // Null is the zero Datum
		case size < 0:
			return 0, fmt.Errorf("%w: value of %d bytes", ErrMalformed, size)
		case size > len(b)-at:
			return 0, errShort
		}
		row[i] = source.Datum{Encoding: c.columns[i], Bytes: b[at : at+size : at+size]}
		at += size
	}
	return at, c.yield(row, at)
}

// finish checks that the copy is complete.
func (c *copyReader) finish() error {
	if !c.ended || len(c.rest) > 0 {
		return fmt.Errorf("%w: the copy ends early", ErrMalformed)
	}
	return nil
}
