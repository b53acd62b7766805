package postgres

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/millrace-sync/millrace/internal/postgres/pgtypes"
	"github.com/millrace-sync/millrace/internal/source"
)

const (
	// statusGap is the least time between two status messages.
	statusGap = 20 * time.Millisecond
	// nagPause and nagLimit: see nagging. At statusGap each that is 4 seconds.
	nagPause = 500 * time.Millisecond
	nagLimit = 200
	// farewell bounds how long Close waits for the server to free the slot.
	farewell = 2 * time.Second
)

// postgresEpoch is where Postgres' clock begins.
var postgresEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// Stream is the source's changes, from a position on. One goroutine calls Next;
// Confirm, Refresh and Buffered may be called by any.
//
// OpenStream starts two goroutines: one receives and decodes ahead of Next, within
// queueBytes, one keeps the server told that we live. Close ends both and waits for
// them; it must be called, also after Next has failed.
type Stream struct {
	config   Config
	conn     net.Conn
	frontend *pgproto3.Frontend
	input    *patientConn // under conn
	catalog  *catalog
	queue    *queue
	start    source.LSN

	ctx     context.Context // done when Close is called
	cancel  context.CancelFunc
	stop    sync.Once
	running sync.WaitGroup

	received  atomic.Uint64 // position
	confirmed atomic.Uint64 // position
	refreshes atomic.Uint64 // see Refresh
	moved     chan struct{} // holds a token when confirmed has moved
	asked     chan struct{} // holds a token when the server wants a status
}

// OpenStream starts streaming from a position: everything that was committed at or
// after it comes, nothing that was committed before. from is what is stored; 0
// means wherever the slot is.
//
// It fails with ErrSlotLost if the slot is gone, invalidated, or ahead of from, so
// that changes would be missing, and with ErrSlotBusy if somebody else streams.
func OpenStream(ctx context.Context, c Config, registry *pgtypes.Registry, from source.LSN) (*Stream, error) {
	c = c.withDefaults()
	conn, input, err := connectPatiently(ctx, c, true)
	if err != nil {
		return nil, err
	}
	opened := false
	defer func() {
		if !opened {
			conn.Close(context.WithoutCancel(ctx))
		}
	}()
	if from, err = startPosition(ctx, conn, c, from); err != nil {
		return nil, err
	}
	if err := startReplication(ctx, conn, c, from); err != nil {
		return nil, err
	}
	raw, err := conn.Hijack()
	if err != nil {
		return nil, failed("start streaming", err)
	}
	opened = true
	s := &Stream{
		config: c, conn: raw.Conn, frontend: raw.Frontend, input: input,
		catalog: newCatalog(c, registry), queue: newQueue(),
		start: from, moved: make(chan struct{}, 1), asked: make(chan struct{}, 1),
	}
	// The stream outlives the call that opened it.
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.received.Store(uint64(from))
	s.confirmed.Store(uint64(from))
	input.wait(c.IdleTimeout)
	s.running.Go(s.receive)
	s.running.Go(s.report)
	return s, nil
}

// startPosition checks the slot and returns where to start.
func startPosition(ctx context.Context, conn *pgconn.PgConn, c Config, from source.LSN) (source.LSN, error) {
	state, err := Slot(ctx, conn, c.Slot)
	if err != nil {
		return 0, err
	}
	if err := state.usable(c.Slot); err != nil {
		return 0, err
	}
	if from == 0 {
		return state.Confirmed, nil
	}
	if state.Confirmed > from {
		return 0, &Error{Code: codeSlotLost, Kind: ErrSlotLost,
			Message: fmt.Sprintf("replication slot %s is at %s, ahead of what is stored (%s): the changes between are lost", c.Slot, state.Confirmed, from),
			Hint:    "the storage was restored from an older copy, or another process used the slot"}
	}
	return from, nil
}

func startReplication(ctx context.Context, conn *pgconn.PgConn, c Config, from source.LSN) error {
	const doing = "start streaming"
	conn.Frontend().SendQuery(&pgproto3.Query{String: fmt.Sprintf(
		"START_REPLICATION SLOT %s LOGICAL %s (proto_version '1', publication_names '%s', messages 'true')",
		quoteIdent(c.Slot), from, strings.ReplaceAll(quoteIdent(c.Publication), "'", "''"))})
	if err := conn.Frontend().Flush(); err != nil {
		return failed(doing, err)
	}
	for {
		msg, err := conn.ReceiveMessage(ctx)
		if err != nil {
			return failed(doing, err)
		}
		switch msg := msg.(type) {
		case *pgproto3.CopyBothResponse:
			return nil
		case *pgproto3.ErrorResponse:
			return streamRefusal(doing, pgconn.ErrorResponseToPgError(msg))
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus:
		default:
			return &Error{Code: codeQuery, Kind: ErrTransient, Message: fmt.Sprintf("%s: unexpected answer %T", doing, msg)}
		}
	}
}

// streamRefusal classifies what the server answers while streaming.
func streamRefusal(doing string, e *pgconn.PgError) error {
	switch e.Code {
	case "58P01": // undefined_file: a segment of the log is gone
		return &Error{Code: codeSlotLost, Kind: ErrSlotLost, Message: doing + ": the server has removed the log that the slot needs", Err: e}
	case "42704": // undefined_object: the slot's existence has been checked
		return publicationGone(doing, e)
	}
	return refusal(doing, e)
}

func publicationGone(doing string, e *pgconn.PgError) error {
	return &Error{Code: codeSlotLost, Kind: ErrSlotLost, Err: e,
		Message: doing + ": the publication did not exist at the slot's position: it was dropped, or created after the slot"}
}

// receive reads and decodes until the stream ends.
func (s *Stream) receive() {
	defer s.catalog.close(s.ctx)
	d := newDecoder(limits{s.config.PartBytes, s.config.PartChanges}, func(rel relation) (*source.Table, error) {
		return s.catalog.table(s.ctx, rel)
	}, s.refreshes.Load)
	var events []Event
	for {
		msg, err := s.frontend.Receive()
		if err == nil {
			events, err = s.take(d, msg, events[:0])
		} else if isTimeout(err) {
			err = &Error{Code: codeTimeout, Kind: ErrTransient, Cause: ErrUnreachable,
				Message: fmt.Sprintf("stream changes: the server has been silent for %v though it was asked to answer", s.config.IdleTimeout)}
		}
		for i := range events {
			if !s.queue.push(events[i], s.ctx.Done()) {
				err = net.ErrClosed
				break
			}
		}
		clear(events)
		if err != nil {
			s.queue.close(failed("stream changes", err))
			return
		}
	}
}

// take handles one message of the server and appends what it completes to events.
func (s *Stream) take(d *decoder, msg pgproto3.BackendMessage, events []Event) ([]Event, error) {
	switch msg := msg.(type) {
	case *pgproto3.CopyData:
		return s.data(d, msg.Data, events)
	case *pgproto3.ErrorResponse:
		return events, streamRefusal("stream changes", pgconn.ErrorResponseToPgError(msg))
	case *pgproto3.NoticeResponse:
		// From Postgres 18 on this is only a warning, and changes are left out.
		if msg.Code == "55000" {
			return events, publicationGone("stream changes", pgconn.ErrorResponseToPgError((*pgproto3.ErrorResponse)(msg)))
		}
		return events, nil
	case *pgproto3.ParameterStatus:
		return events, nil
	case *pgproto3.CopyDone, *pgproto3.CommandComplete:
		return events, &Error{Code: codeTimeout, Kind: ErrTransient, Message: "stream changes: the server has ended the stream, as it does when it shuts down"}
	}
	return events, fmt.Errorf("%w: unexpected %T", ErrMalformed, msg)
}

// data handles a message of the replication protocol.
func (s *Stream) data(d *decoder, data []byte, events []Event) ([]Event, error) {
	r := reader{b: data}
	switch kind := r.byte(); kind {
	case 'w': // XLogData
		at := r.lsn()
		r.lsn()    // end of the server's log
		r.uint64() // time
		if r.err != nil {
			return events, r.err
		}
		s.advance(at)
		before := len(events)
		events, err := d.decode(r.b, events)
		for _, e := range events[before:] {
			if e.Txn != nil {
				s.advance(e.Txn.Commit)
			}
		}
		return events, err
	case 'k': // keepalive
		at := r.lsn()
		r.uint64() // time
		reply := r.byte()
		if err := r.end(); err != nil {
			return events, err
		}
		if reply != 0 {
			signal(s.asked)
		}
		// Within a transaction the position is behind what has come.
		if !d.open && s.advance(at) {
			events = append(events, Event{LSN: at})
		}
		return events, nil
	default:
		return events, fmt.Errorf("%w: unknown kind %q", ErrMalformed, kind)
	}
}

// advance notes a position that has been received, and reports whether it is
// beyond the last.
func (s *Stream) advance(at source.LSN) bool {
	if uint64(at) <= s.received.Load() {
		return false
	}
	s.received.Store(uint64(at)) // only receive stores
	return true
}

// report keeps the server told how far we are until the stream ends.
func (s *Stream) report() {
	tick := time.NewTicker(s.config.StatusInterval)
	defer tick.Stop()
	gap := time.NewTimer(0)
	defer gap.Stop()
	<-gap.C
	moved, asked := s.moved, s.asked // nil while a message was just sent
	var nagged nagging
	for {
		question := false
		select {
		case <-s.ctx.Done():
			return
		case <-gap.C:
			moved, asked = s.moved, s.asked
			continue
		case <-moved:
		case <-asked:
			if nagged.again(time.Now()) && s.confirmed.Load() < s.received.Load() {
				s.fail(&Error{Code: codeTimeout, Kind: ErrTransient,
					Message: "stream changes: the server shuts down and waits for changes to be stored here, which takes too long"})
				return
			}
		case <-tick.C:
			silent := time.Since(time.Unix(0, s.input.heard.Load()))
			question = silent > s.config.IdleTimeout/3
		}
		moved, asked = nil, nil
		gap.Reset(statusGap)
		if err := s.status(question); err != nil {
			s.fail(failed("tell the server how far we are", err))
			return
		}
	}
}

// fail ends the stream from the side of report.
func (s *Stream) fail(err error) {
	s.queue.close(err)
	s.conn.Close() // ends receive too
}

// nagging tells a server that shuts down from one that asks now and then whether
// we live. The former asks again as soon as it has an answer, until everything is
// confirmed, and no other connection can end that: if we do not store what was
// sent, it would never shut down.
type nagging struct {
	last  time.Time
	count int
}

// again notes that the server has asked, and reports whether it has done so for
// nagLimit times in a row.
func (n *nagging) again(now time.Time) bool {
	if now.Sub(n.last) > nagPause {
		n.count = 0
	}
	n.last = now
	n.count++
	return n.count > nagLimit
}

// status sends a status update, with the question for an answer if need be.
func (s *Stream) status(question bool) error {
	confirmed := s.confirmed.Load()
	// Flushed and applied are the same to us. Written is only for the operator's eye.
	written := max(s.received.Load(), confirmed)
	b := make([]byte, 0, 5+1+3*8+8+1)
	b = append(b, 'd')
	b = binary.BigEndian.AppendUint32(b, 4+1+3*8+8+1)
	b = append(b, 'r')
	b = binary.BigEndian.AppendUint64(b, written)
	b = binary.BigEndian.AppendUint64(b, confirmed)
	b = binary.BigEndian.AppendUint64(b, confirmed)
	b = binary.BigEndian.AppendUint64(b, uint64(time.Since(postgresEpoch).Microseconds()))
	if question {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	_, err := s.conn.Write(b)
	return err
}

// Next returns the next event, and waits for it. After the stream has ended it
// returns what was still received, and then why it ended: an *Error, of kind
// ErrTransient if it can be opened again at the confirmed position. An error of ctx
// does no harm to the stream.
func (s *Stream) Next(ctx context.Context) (Event, error) { return s.queue.pop(ctx) }

// Refresh has all tables described again, before the next transaction that is received:
// the catalog has news of which the stream says nothing (a renamed label of an enum), or
// said it before the catalog showed it.
func (s *Stream) Refresh() { s.refreshes.Add(1) }

// Buffered reports whether Next would return at once: more can share a commit.
func (s *Stream) Buffered() bool { return s.queue.waiting() }

// Start returns the position from which the stream was opened.
func (s *Stream) Start() source.LSN { return s.start }

// Confirm tells the server that everything up to lsn is stored here for good,
// together with lsn itself: the server may forget it, and OpenStream will want a
// position no smaller. It goes out with the next status update, which Confirm
// brings about. Positions that were not received yet, or are behind an earlier
// one, change nothing.
//
// Positions that come without a transaction (Event.LSN) are to be stored and
// confirmed too: the log is kept until they are, and a server that shuts down waits
// for it, for as long as the stream lets it.
func (s *Stream) Confirm(lsn source.LSN) {
	for {
		old := s.confirmed.Load()
		if uint64(lsn) <= old || uint64(lsn) > s.received.Load() {
			return
		}
		if s.confirmed.CompareAndSwap(old, uint64(lsn)) {
			signal(s.moved)
			return
		}
	}
}

// Close tells the server what was confirmed, ends the stream and waits until the
// slot is free, for a little while.
func (s *Stream) Close() {
	s.stop.Do(func() {
		s.cancel()
		// Wakes a waiting read, and one that is about to begin.
		s.conn.SetReadDeadline(time.Unix(1, 0))
		s.running.Wait()
		s.queue.close(net.ErrClosed)
		if s.status(false) == nil {
			deadline := time.Now().Add(farewell)
			s.conn.SetDeadline(deadline)
			if _, err := s.conn.Write([]byte{'X', 0, 0, 0, 4}); err == nil {
				io.Copy(io.Discard, s.conn) // the server hangs up when it has let go
			}
		}
		s.conn.Close()
	})
}
