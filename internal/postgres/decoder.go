package postgres

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/millrace-sync/millrace/internal/source"
)

// Event is what the stream yields next: exactly one of a transaction, a table's
// description, or a position.
type Event struct {
	// Txn is a transaction or a part of one; see source.Txn.More.
	Txn *source.Txn
	// Table describes a table that the stream names for the first time, or that has
	// changed since. Changes that follow refer to it.
	Table *source.Table
	// LSN, with the other two nil, says that nothing committed before this position
	// is still to come: like a transaction without changes.
	LSN source.LSN

	bytes int // what it holds, roughly
}

// describeFunc makes a table of a Relation message. It may ask the catalog; the decoder
// itself does no I/O.
type describeFunc func(relation) (*source.Table, error)

// limits bound one part of a transaction.
type limits struct{ bytes, changes int }

// decoder turns the messages of pgoutput into events. It belongs to one goroutine.
//
// It decodes protocol version 1, where a transaction comes whole after it was
// committed. Version 2 would add a set of open transactions beside the one of
// begin and commit; the message layouts are the same but for a leading xid.
type decoder struct {
	limits   limits
	describe describeFunc
	tables   map[uint32]*known
	// refreshes counts how often it was asked that all tables be described again, and
	// refreshed how often of it they have been.
	refreshes func() uint64
	refreshed uint64

	open  bool // between begin and commit
	xid   source.XID
	sent  bool // a part of the open transaction has been handed over
	part  *source.Txn
	bytes int // of part
	usual int // changes in the last part that was full

	arena arena
}

// known is a table as the stream last described it.
type known struct {
	rel   relation
	table *source.Table
}

func newDecoder(l limits, describe describeFunc, refreshes func() uint64) *decoder {
	return &decoder{limits: l, describe: describe, tables: map[uint32]*known{}, refreshes: refreshes}
}

// decode reads one message and appends what it completes to events. The message
// may be overwritten afterwards.
func (d *decoder) decode(msg []byte, events []Event) ([]Event, error) {
	if len(msg) == 0 {
		return events, fmt.Errorf("%w: empty", ErrMalformed)
	}
	before := len(events)
	r := reader{b: msg[1:]}
	var err error
	switch kind := msg[0]; kind {
	case 'B':
		if err = d.begin(&r); err == nil {
			events, err = d.refresh(events)
		}
	case 'C':
		events, err = d.commit(&r, events)
	case 'R':
		events, err = d.relation(&r, events)
	case 'I', 'U', 'D':
		events, err = d.row(kind, msg, events)
	case 'T':
		events, err = d.truncate(&r, events)
	case 'M':
		events, err = d.message(&r, events)
	case 'O': // origin: the position and name of a server further up
		r.lsn()
		r.string()
		err = r.end()
	case 'Y': // type: name of a column's type; the describe hook knows more
		r.uint32()
		r.string()
		r.string()
		err = r.end()
	case 'S', 'E', 'c', 'A':
		err = fmt.Errorf("%w: part of a transaction in progress, which was not asked for", ErrMalformed)
	default:
		err = fmt.Errorf("%w: unknown kind", ErrMalformed)
	}
	if err != nil {
		return events[:before], fmt.Errorf("decode replication message %q: %w", msg[0], err)
	}
	return events, nil
}

func (d *decoder) begin(r *reader) error {
	r.lsn()    // of the commit record; the commit message has the position after it
	r.uint64() // time
	xid := source.XID(r.uint32())
	if err := r.end(); err != nil {
		return err
	}
	if d.open {
		return fmt.Errorf("%w: begin of %d within transaction %d", ErrMalformed, xid, d.xid)
	}
	d.open, d.xid, d.sent = true, xid, false
	return nil
}

func (d *decoder) commit(r *reader, events []Event) ([]Event, error) {
	r.byte() // flags, unused
	r.lsn()
	end := r.lsn()
	r.uint64() // time
	if err := r.end(); err != nil {
		return events, err
	}
	if !d.open {
		return events, fmt.Errorf("%w: commit without begin", ErrMalformed)
	}
	d.open = false
	if d.part == nil && !d.sent {
		return append(events, Event{LSN: end}), nil
	}
	e := Event{Txn: d.current(), bytes: d.bytes}
	e.Txn.Commit = end
	d.part, d.bytes = nil, 0
	return append(events, e), nil
}

// current returns the part that is being filled.
func (d *decoder) current() *source.Txn {
	if d.part == nil {
		d.part = &source.Txn{XID: d.xid}
		if d.sent {
			d.part.Changes = make([]source.Change, 0, d.usual)
		}
	}
	return d.part
}

// flush hands over the part that is being filled, if there is one.
func (d *decoder) flush(events []Event) []Event {
	if d.part == nil {
		return events
	}
	e := Event{Txn: d.part, bytes: d.bytes}
	e.Txn.More = true
	d.usual = len(d.part.Changes)
	d.part, d.bytes, d.sent = nil, 0, true
	return append(events, e)
}

// add appends a change of so many bytes, and hands the part over when it is full.
func (d *decoder) add(ch source.Change, size int, events []Event) []Event {
	p := d.current()
	p.Changes = append(p.Changes, ch)
	return d.grown(size, events)
}

func (d *decoder) grown(size int, events []Event) []Event {
	d.bytes += size
	if d.bytes >= d.limits.bytes || len(d.part.Changes)+len(d.part.Messages) >= d.limits.changes {
		return d.flush(events)
	}
	return events
}

func (d *decoder) relation(r *reader, events []Event) ([]Event, error) {
	rel := r.relation()
	if err := r.end(); err != nil {
		return events, err
	}
	return d.learn(rel, events)
}

// refresh describes all tables again if that was asked for.
func (d *decoder) refresh(events []Event) ([]Event, error) {
	asked := d.refreshes()
	if asked == d.refreshed {
		return events, nil
	}
	for _, oid := range slices.Sorted(maps.Keys(d.tables)) {
		var err error
		if events, err = d.learn(d.tables[oid].rel, events); err != nil {
			return events, err
		}
	}
	d.refreshed = asked
	return events, nil
}

// learn describes a table, and tells of it if it is new or another version.
func (d *decoder) learn(rel relation, events []Event) ([]Event, error) {
	table, err := d.describe(rel)
	if err != nil {
		return events, err
	}
	if len(table.Columns) != len(rel.columns) {
		return events, fmt.Errorf("table %s was described with %d columns, want %d", table.QualifiedName(), len(table.Columns), len(rel.columns))
	}
	now := &known{rel: rel, table: table}
	if old := d.tables[rel.oid]; old != nil && old.same(now) {
		return events, nil
	}
	d.tables[rel.oid] = now
	// What went before in the transaction goes before.
	return append(d.flush(events), Event{Table: table}), nil
}

// same reports whether both say the same of a table. Types are compared by what the
// stream says of them, too: two may have the same name.
func (k *known) same(o *known) bool {
	return k.table.Shape() == o.table.Shape() && slices.EqualFunc(k.rel.columns, o.rel.columns, func(x, y relationColumn) bool {
		return x.typ == y.typ && x.typmod == y.typmod
	})
}

// table returns the description of a table that a row belongs to.
func (d *decoder) table(oid uint32) (*source.Table, error) {
	if !d.open {
		return nil, fmt.Errorf("%w: outside a transaction", ErrMalformed)
	}
	k := d.tables[oid]
	if k == nil {
		return nil, fmt.Errorf("%w: table with oid %d was not described", ErrMalformed, oid)
	}
	return k.table, nil
}

// row reads an insert, update or delete.
func (d *decoder) row(kind byte, msg []byte, events []Event) ([]Event, error) {
	head := reader{b: msg[1:]}
	t, err := d.table(head.uint32())
	if head.err != nil {
		return events, head.err
	}
	if err != nil {
		return events, err
	}
	// From here on the message is read from a copy, which the datums keep.
	r := reader{b: d.arena.copy(head.b)}
	ch := source.Change{Table: t, Kind: source.Insert}
	which := r.byte()
	if kind != 'I' && (which == 'K' || which == 'O') {
		ch.Old = d.arena.row(len(t.Columns))
		r.tuple(ch.Old)
		if kind == 'U' {
			which = r.byte()
		}
	} else if kind == 'D' {
		r.fail("lacks the old row")
	}
	switch kind {
	case 'D':
		ch.Kind = source.Delete
	case 'U':
		ch.Kind = source.Update
		fallthrough
	case 'I':
		if which != 'N' {
			r.fail("lacks the new row")
		}
		ch.New = d.arena.row(len(t.Columns))
		r.tuple(ch.New)
	}
	if err := r.end(); err != nil {
		return events, fmt.Errorf("table %s: %w", t.QualifiedName(), err)
	}
	return d.add(ch, changeOverhead+len(msg)+datumSize*(len(ch.Old)+len(ch.New)), events), nil
}

// truncate reads a TRUNCATE, which may concern several tables.
func (d *decoder) truncate(r *reader, events []Event) ([]Event, error) {
	n := int(r.uint32())
	r.byte() // CASCADE, RESTART IDENTITY: the tables concerned are all named
	if n < 0 || n*4 != len(r.b) {
		r.fail("announces another number of tables than it has")
	}
	if r.err != nil {
		return events, r.err
	}
	// Checked before the first is added, so that an error leaves nothing half done.
	tables := make([]*source.Table, n)
	for i := range tables {
		var err error
		if tables[i], err = d.table(r.uint32()); err != nil {
			return events, err
		}
	}
	for _, t := range tables {
		events = d.add(source.Change{Kind: source.Truncate, Table: t}, changeOverhead, events)
	}
	return events, nil
}

// message reads a logical message. Those of other programs are passed over, and
// those outside transactions: ours are always in one.
func (d *decoder) message(r *reader, events []Event) ([]Event, error) {
	const transactional = 1
	flags := r.byte()
	r.lsn()
	prefix := r.string()
	content := r.take(int(int32(r.uint32())))
	if err := r.end(); err != nil {
		return events, err
	}
	if prefix != MessagePrefix || flags&transactional == 0 {
		return events, nil
	}
	if !d.open {
		return events, fmt.Errorf("%w: outside a transaction", ErrMalformed)
	}
	p := d.current()
	p.Messages = append(p.Messages, source.Message{Prefix: prefix, Content: bytes.Clone(content)})
	return d.grown(changeOverhead+len(content), events), nil
}
