package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/millrace-sync/millrace/client/internal/engine"
	"github.com/millrace-sync/millrace/client/internal/local"
	"github.com/millrace-sync/millrace/protocol"
)

const (
	// queuedLines bounds the lines that are read ahead.
	queuedLines = 8
	// batchTime is how long lines that are there already share a transaction, and
	// longBatchTime how long if nobody else waits to write: the longer, the less is
	// written twice. Applying a checkpoint may take longer.
	batchTime     = 50 * time.Millisecond
	longBatchTime = time.Second
	// silence is how long a stream may be still. Services say something every 20 s.
	silence = 70 * time.Second
)

// download keeps a stream open until ctx ends.
func (c *connection) download(ctx context.Context) {
	for ctx.Err() == nil {
		c.db.board.update(func(s *Status) { s.Connecting = !s.Connected })
		again, err := c.stream(ctx)
		if ctx.Err() != nil {
			return
		}
		if again {
			continue
		}
		if err != nil {
			c.db.log.Warn("sync: the stream ended; trying again", "error", err)
		}
		c.db.board.update(func(s *Status) {
			s.Connected, s.Connecting, s.Download = false, false, nil
			if err != nil {
				s.DownloadError = err
			}
		})
		c.pause(ctx, waitFor(err))
	}
}

// errSilence says that a stream stood still for too long.
var errSilence = errors.New("the service sent nothing for 70 s, not even a sign of life")

// stream runs one stream to its end. Again means that another is to follow at once.
func (c *connection) stream(ctx context.Context) (again bool, err error) {
	creds, err := c.credentials(ctx)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	c.events.take() // the request will hold what they are about
	var e *engine.Engine
	var request *protocol.Request
	active := c.db.activeStreams()
	err = c.db.exclusive(ctx, func(conn *local.Conn) error {
		id, err := conn.ClientID()
		if err != nil {
			return err
		}
		return c.db.quietly(func(s *store) (err error) {
			e, request, err = engine.Start(s, engine.Options{
				ClientID: id, Parameters: c.params, AppMetadata: c.opts.AppMetadata,
				IncludeDefaults: !c.opts.NoDefaultStreams, Active: active, RawTables: c.db.rawTables(),
			}, now())
			return err
		})
	})
	if err != nil {
		return false, err
	}
	if c.opts.CheckpointRequests {
		if err := c.seed(ctx); err != nil {
			return false, err
		}
	}
	body, codec, err := c.openStream(ctx, creds, request)
	if err != nil {
		return false, err
	}
	defer body.Close()
	lines := make(chan readLine, queuedLines)
	wg.Go(func() { readLines(ctx, body, codec, lines) })
	c.db.board.update(func(s *Status) { s.Connected, s.Connecting = true, false })
	wake(c.online)

	s := &session{connection: c, engine: e, creds: creds, lines: lines}
	idle := time.NewTimer(silence)
	defer idle.Stop()
	for {
		var o engine.Outcome
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-idle.C:
			return false, errSilence
		case first, ok := <-lines:
			if !ok {
				return false, ctx.Err()
			}
			idle.Reset(silence)
			o, err = s.batch(ctx, first)
		case <-c.events.ready:
			o, err = s.react(ctx, c.events.take())
		}
		if o.Prefetch && !s.prefetching && c.mayPrefetch() {
			s.prefetching = true
			wg.Go(func() { c.prefetch(ctx) })
		}
		if o.Expired {
			c.dropCredentials(creds.Token)
		}
		if errors.Is(err, io.EOF) {
			return false, nil // the service's end of a stream, such as when it restarts
		}
		if err != nil || o.Close {
			return o.Again, err
		}
	}
}

// mayPrefetch reports whether the credentials are old enough to be renewed. Those that
// last for less than half a minute would be renewed without end.
func (c *connection) mayPrefetch() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.fetchedAt) > c.opts.RetryDelay
}

// prefetch gets new credentials while the stream goes on with the old ones.
func (c *connection) prefetch(ctx context.Context) {
	if _, err := c.fetchCredentials(ctx); err != nil {
		if ctx.Err() == nil {
			c.db.log.Warn("sync: no new credentials, though the old ones expire soon", "error", err)
		}
		return
	}
	c.events.raise(func(f *eventFlags) { f.refreshed = true })
}

// session is one stream that is open.
type session struct {
	*connection
	engine      *engine.Engine
	creds       Credentials
	lines       <-chan readLine
	prefetching bool
}

// batch takes a line, and those that follow without delay, in one transaction.
func (s *session) batch(ctx context.Context, first readLine) (engine.Outcome, error) {
	var all engine.Outcome
	var ended error // ends the stream, but not the transaction
	err := s.db.exclusive(ctx, func(*local.Conn) error {
		return s.db.quietly(func(*store) error {
			begin := time.Now()
			waiting := s.db.writer.Stats().WaitCount
			for line, ok := first, true; ok; {
				if line.err != nil {
					ended = line.err
					return nil
				}
				o, err := s.engine.Line(line.line, line.size, now())
				if e := (*engine.ProtocolError)(nil); errors.As(err, &e) {
					ended = err
					return nil
				}
				if err != nil {
					return err
				}
				all = join(all, o)
				took := time.Since(begin)
				if o.Close || took > longBatchTime || took > batchTime && s.db.writer.Stats().WaitCount != waiting {
					return nil
				}
				select {
				case line, ok = <-s.lines:
				default:
					return nil
				}
			}
			return nil
		})
	})
	if err != nil {
		return engine.Outcome{}, fmt.Errorf("store what was downloaded: %w", err)
	}
	s.report(&all)
	return all, ended
}

func join(a, b engine.Outcome) engine.Outcome {
	return engine.Outcome{
		Close: a.Close || b.Close, Again: a.Again || b.Again, Prefetch: a.Prefetch || b.Prefetch,
		Expired: a.Expired || b.Expired, Completed: a.Completed || b.Completed, Applied: max(a.Applied, b.Applied),
		Notes: append(a.Notes, b.Notes...),
	}
}

// react gives the engine what happened elsewhere.
func (s *session) react(ctx context.Context, f eventFlags) (engine.Outcome, error) {
	if f.refreshed {
		return engine.Outcome{Close: true, Again: true}, nil
	}
	var all engine.Outcome
	active := s.db.activeStreams()
	err := s.db.exclusive(ctx, func(*local.Conn) error {
		return s.db.quietly(func(*store) error {
			if f.uploaded {
				o, err := s.engine.Uploaded(now())
				if err != nil {
					return err
				}
				all = join(all, o)
			}
			if f.subscribed {
				o, err := s.engine.Subscribed(active, now())
				if err != nil {
					return err
				}
				all = join(all, o)
			}
			return nil
		})
	})
	if err != nil {
		return engine.Outcome{}, fmt.Errorf("go on with the sync: %w", err)
	}
	s.report(&all)
	return all, nil
}

// report makes the outcome of a committed transaction known.
func (s *session) report(o *engine.Outcome) {
	s.notes(o)
	status := s.engine.Status()
	s.db.board.update(func(b *Status) {
		b.download(status)
		b.applied = max(b.applied, o.Applied)
		if o.Completed {
			b.DownloadError = nil
		}
	})
}

// quietly runs fn on the store with changes untracked, but for those that the engine
// makes visible. The caller holds the writer.
func (d *DB) quietly(fn func(*store) error) error {
	d.conn.Quiet(true)
	defer d.conn.Quiet(false)
	return fn(d.store)
}

func now() int64 { return time.Now().UnixMicro() }

// readLine is a line, or the error that ends the stream.
type readLine struct {
	line protocol.Line
	size int
	err  error
}

// readLines passes on the lines of a body until it ends or ctx does, and closes lines.
func readLines(ctx context.Context, body io.Reader, codec protocol.Codec, lines chan<- readLine) {
	defer close(lines)
	r := protocol.NewReader(body, codec, maxLine)
	for {
		line, err := r.Next()
		l := readLine{line: keepLine(line), size: r.Size(), err: err}
		if codec != protocol.BSON {
			l.size-- // the line feed
		}
		if err != nil && !errors.Is(err, io.EOF) {
			l.err = fmt.Errorf("read the sync stream: %w", err)
		}
		select {
		case lines <- l:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// keepLine copies what a line shares with its reader's buffer.
func keepLine(line protocol.Line) protocol.Line {
	chunk, ok := line.(*protocol.DataChunk)
	if !ok {
		return line
	}
	size := 0
	for i := range chunk.Ops {
		size += len(chunk.Ops[i].Data) + len(chunk.Ops[i].Subkey)
	}
	buf := make([]byte, 0, size)
	kept := *chunk
	kept.Ops = make([]protocol.Op, len(chunk.Ops))
	for i, op := range chunk.Ops {
		for _, b := range []*[]byte{&op.Data, &op.Subkey} {
			if *b != nil {
				at := len(buf)
				buf = append(buf, *b...)
				*b = buf[at:len(buf):len(buf)]
			}
		}
		kept.Ops[i] = op
	}
	return &kept
}
