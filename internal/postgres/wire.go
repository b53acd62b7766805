package postgres

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/millrace-sync/millrace/internal/source"
)

// This file reads the messages of pgoutput, protocol versions 1 and 2, as bytes:
// what they mean together is the decoder's business. Everything is checked against
// the message's end; strings and tuples point into the message.

// ErrMalformed says that a message is not what pgoutput writes.
var ErrMalformed = errors.New("malformed replication message")

// reader takes fields off the front of a message. After the first that is not
// there, every further one is zero and err says so.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int) []byte {
	if r.err != nil || n < 0 || n > len(r.b) {
		r.fail("ends early")
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) fail(why string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrMalformed, why)
	}
	r.b = nil
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) lsn() source.LSN { return source.LSN(r.uint64()) }

// string takes a string ended by a zero byte.
func (r *reader) string() string {
	i := bytes.IndexByte(r.b, 0)
	if r.err != nil || i < 0 {
		r.fail("has a string without end")
		return ""
	}
	s := string(r.b[:i])
	r.b = r.b[i+1:]
	return s
}

// end checks that nothing is left.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.fail("is too long")
	}
	return r.err
}

// relation is a Relation message.
type relation struct {
	oid      uint32
	schema   string
	name     string
	identity byte // pg_class.relreplident
	columns  []relationColumn
}

type relationColumn struct {
	key    bool // part of the replica identity
	name   string
	typ    uint32
	typmod uint32
}

func (r *reader) relation() relation {
	rel := relation{oid: r.uint32(), schema: r.string(), name: r.string(), identity: r.byte()}
	if rel.schema == "" {
		rel.schema = "pg_catalog" // how pgoutput shortens it
	}
	n := int(r.uint16())
	const least = 1 + 1 + 4 + 4 // bytes of a column
	if n*least > len(r.b) {
		r.fail("announces more columns than it has")
		return rel
	}
	rel.columns = make([]relationColumn, n)
	for i := range rel.columns {
		c := &rel.columns[i]
		c.key = r.byte()&1 != 0
		c.name, c.typ, c.typmod = r.string(), r.uint32(), r.uint32()
	}
	return rel
}

// tuple takes one row into dst, which has the length of the table's columns. This
// is where most of the time goes, so it does without the other methods.
func (r *reader) tuple(dst []source.Datum) {
	if n := int(r.uint16()); r.err == nil && n != len(dst) {
		r.fail(fmt.Sprintf("has a row of %d columns, the table has %d", n, len(dst)))
	}
	b := r.b
	for i := range dst {
		if len(b) == 0 {
			r.fail("ends early")
			return
		}
		switch kind := b[0]; kind {
		case 'n':
			dst[i] = source.Datum{Encoding: source.Null}
			b = b[1:]
		case 'u':
			dst[i] = source.Datum{Encoding: source.Unchanged}
			b = b[1:]
		case 't', 'b':
			const head = 5
			if len(b) < head {
				r.fail("ends early")
				return
			}
			end := head + int(int32(binary.BigEndian.Uint32(b[1:])))
			if end < head || end > len(b) {
				r.fail("ends early")
				return
			}
			encoding := source.Text
			if kind == 'b' {
				encoding = source.Binary
			}
			dst[i] = source.Datum{Encoding: encoding, Bytes: b[head:end:end]}
			b = b[end:]
		default:
			r.fail(fmt.Sprintf("has a column of unknown kind %q", kind))
			return
		}
	}
	r.b = b
}
