package httpapi

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/checkpoint"
	"github.com/millrace-sync/millrace/internal/deploy"
	"github.com/millrace-sync/millrace/internal/session"
	"github.com/millrace-sync/millrace/internal/streams"
	"github.com/millrace-sync/millrace/protocol"
)

const (
	// keepalive is the interval of token_expires_in lines, give or take a tenth.
	keepalive = 20 * time.Second
	// expiryNotice is how long before its end a client is told to renew its token.
	expiryNotice = 20 * time.Second
	// flushBytes is how much is gathered before it is written out.
	flushBytes = 64 << 10
	// interruptOps is how many operations of a checkpoint are sent before a newer
	// checkpoint may interrupt it.
	interruptOps = 1000
	// maxIdleBuffer bounds the buffers that are kept for reuse.
	maxIdleBuffer = 2 << 20
)

// stream serves POST /sync/stream: it validates, authenticates, and then carries
// the session until the client leaves, the token expires, another deploy becomes
// current or the process stops.
func (h *Handler) stream(w http.ResponseWriter, r *http.Request) {
	b, err := body(w, r)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	req, err := protocol.DecodeRequest(b)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	claims, err := h.Verifier.Verify(r.Context(), r.Header.Get("Authorization"))
	if err != nil {
		h.fail(w, r, err)
		return
	}
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	default:
		h.Log.Warn("stream refused: too many connections", "limit", h.Connections, "setting", "api.parameters.max_concurrent_connections")
		w.WriteHeader(http.StatusTooManyRequests)
		return
	}
	d, replaced := h.Deploys.Current()
	if d == nil {
		h.fail(w, r, protocol.Errorf(protocol.NoSyncConfig, "No sync config is active yet: the first backfill is still under way, or replication has not started. Try again shortly."))
		return
	}
	c := &connection{
		handler: h, w: w, rc: http.NewResponseController(w), replaced: replaced,
		user: userKey(claims, req.ClientID), expires: claims.Expires,
		codec: protocol.NegotiateCodec(strings.Join(r.Header.Values("Accept"), ","), req.RawData),
	}
	c.session = session.New(session.Config{
		Deploy: d, Request: sessionRequest(req, claims.Payload), Positions: positions(req), Codec: c.codec, Limits: h.Limits,
	})
	c.watcher = h.Hub.Watch(c.user)
	defer c.watcher.Close()
	defer c.release()

	log := h.Log.With("user", claims.Subject, "client_id", req.ClientID, "user_agent", userAgent(r))
	start := time.Now()
	err = c.run(r.Context(), d)
	log.Info("stream ended", "seconds", time.Since(start).Seconds(), "operations", c.ops, "bytes", c.bytes, "reason", endReason(err))
	switch {
	case errors.Is(err, errClosed) || err == nil:
	case !c.headerSent:
		h.fail(w, r, err)
	default:
		// The status is out: cutting the connection is the only way left to say that
		// the stream is not whole.
		log.Error("stream failed", "error", err)
		panic(http.ErrAbortHandler)
	}
}

func sessionRequest(req *protocol.Request, claims []byte) streams.Request {
	out := streams.Request{Claims: claims, Parameters: req.Parameters, IncludeDefaults: req.IncludeDefaults}
	for _, s := range req.Subscriptions {
		out.Subscriptions = append(out.Subscriptions, streams.Subscription{
			Stream: s.Stream, Parameters: s.Parameters, Priority: s.Priority,
		})
	}
	return out
}

func positions(req *protocol.Request) map[string]bucket.OpID {
	m := make(map[string]bucket.OpID, len(req.Buckets))
	for _, b := range req.Buckets {
		m[b.Name] = bucket.OpID(b.After)
	}
	return m
}

// errClosed: the client is gone, or no longer reads.
var errClosed = errors.New("client closed the connection")

// The reasons for which a stream ends in order.
var (
	errExpired  = errors.New("token expired")
	errReplaced = errors.New("another deploy is current")
	errDraining = errors.New("the service stops")
)

func endReason(err error) string {
	if err == nil {
		return "end"
	}
	return err.Error()
}

// connection drives one session.
type connection struct {
	handler    *Handler
	w          http.ResponseWriter
	rc         *http.ResponseController
	session    *session.Session
	watcher    *checkpoint.Watcher
	codec      protocol.Codec
	user       string
	expires    time.Time
	replaced   <-chan struct{}
	buf        *[]byte // nil while there is nothing to send
	headerSent bool
	watched    bool
	ops        int
	bytes      int64
}

// run carries the session to its end. An end in order is nil or an error that
// stream knows.
func (c *connection) run(ctx context.Context, d *deploy.Deploy) error {
	if !time.Now().Before(c.expires) {
		c.sendExpiry(0)
		return nil
	}
	ticker := time.NewTicker(keepalive + time.Duration((rand.Float64()-0.5)*0.2*float64(keepalive)))
	defer ticker.Stop()
	notice := time.NewTimer(time.Until(c.expires) - expiryNotice)
	defer notice.Stop()
	for {
		again, err := c.advance(ctx)
		if err == errReplaced {
			return c.end(err)
		}
		if err != nil {
			return err
		}
		if again {
			if err := c.interrupted(ctx); err != nil {
				return c.end(err)
			}
			continue
		}
		c.release()
		select {
		case <-c.watcher.C():
		case <-ticker.C:
			err = c.sendExpiry(c.remaining())
		case <-notice.C:
			left := c.remaining()
			err = c.sendExpiry(left)
			if left <= 0 {
				return err
			}
			notice.Reset(time.Until(c.expires))
		case <-c.replaced:
			return c.end(errReplaced)
		case <-c.handler.Draining:
			return c.end(errDraining)
		case <-ctx.Done():
			return errClosed
		}
		if err != nil {
			return err
		}
	}
}

// interrupted reports why a stream in the middle of a checkpoint has to end, nil
// if it goes on.
func (c *connection) interrupted(ctx context.Context) error {
	select {
	case <-c.replaced:
		return errReplaced
	case <-c.handler.Draining:
		return errDraining
	case <-ctx.Done():
		return errClosed
	default:
	}
	if !time.Now().Before(c.expires) {
		return errExpired
	}
	return nil
}

// end closes the stream in order: the client sees it end and reconnects.
func (c *connection) end(reason error) error {
	if reason == errExpired {
		c.sendExpiry(0)
	}
	if reason == errClosed {
		return reason
	}
	c.handler.Log.Debug("stream ends", "user", c.user, "reason", reason)
	return nil
}

func (c *connection) remaining() int {
	left := time.Until(c.expires)
	if left <= 0 {
		return 0
	}
	return int((left + time.Second - 1) / time.Second)
}

func (c *connection) sendExpiry(seconds int) error {
	buf := c.buffer()
	*buf = c.codec.AppendTokenExpiresIn(*buf, &protocol.TokenExpiresIn{Seconds: seconds})
	return c.flush()
}

// advance brings the client to the newest checkpoint. It returns true if it
// stopped because a newer one may differ, or because it has sent a good part and
// others want to be heard.
func (c *connection) advance(ctx context.Context) (again bool, err error) {
	h := c.handler
	latest, dirty := c.watcher.Take()
	snap, err := h.Store.Snapshot()
	if err != nil {
		return false, fmt.Errorf("open snapshot: %w", err)
	}
	defer snap.Close()
	// A deploy is replaced before the data of the one before it goes: whoever is not
	// told so by now has a snapshot that still holds it.
	select {
	case <-c.replaced:
		return false, errReplaced
	default:
	}
	if at := snap.Checkpoint(); at.LSN > latest.LSN {
		latest.LSN = at.LSN
	}
	var write uint64
	wc, ok, err := h.Store.WriteCheckpoint(c.user)
	if err != nil {
		return false, fmt.Errorf("read write checkpoint: %w", err)
	}
	if ok && wc.LSN <= latest.LSN {
		write = wc.ID
	} else if ok {
		write = c.session.WriteCheckpoint() // the newer one is not in view yet
		c.watcher.Await(wc.LSN)
	}
	reevaluated := !c.watched || dirty.All || dirty.Lookups
	buf := c.buffer()
	*buf, _, err = c.session.Advance(*buf, snap, dirty, write)
	if err != nil {
		return false, err
	}
	if reevaluated {
		c.watched = true
		c.watcher.Set(c.session.Watched())
	}
	sent := 0
	for c.session.Sending() {
		var p session.Progress
		*buf, p, err = c.session.Chunk(*buf, snap)
		if err != nil {
			return false, err
		}
		sent += p.Ops
		c.ops += p.Ops
		if len(*buf) >= flushBytes || p.Done {
			if err := c.flush(); err != nil {
				return false, err
			}
		}
		if !p.Done && sent >= interruptOps && (c.watcher.Pending() || c.interrupted(ctx) != nil) {
			return true, c.flush()
		}
	}
	if !c.headerSent || len(*buf) > 0 {
		return false, c.flush()
	}
	return false, nil
}

// buffer returns the buffer that lines are gathered in.
func (c *connection) buffer() *[]byte {
	if c.buf == nil {
		c.buf = c.handler.buffers.Get().(*[]byte)
	}
	return c.buf
}

// release gives the buffer back while there is nothing to send.
func (c *connection) release() {
	if c.buf == nil {
		return
	}
	if cap(*c.buf) <= maxIdleBuffer {
		*c.buf = (*c.buf)[:0]
		c.handler.buffers.Put(c.buf)
	}
	c.buf = nil
}

// flush writes out what has gathered.
func (c *connection) flush() error {
	if !c.headerSent {
		c.headerSent = true
		header := c.w.Header()
		header.Set("Content-Type", c.codec.ContentType())
		header.Set("X-Accel-Buffering", "no")
		header.Set("Cache-Control", "no-store")
		c.w.WriteHeader(http.StatusOK)
	}
	buf := c.buffer()
	// An error means that the server cannot set deadlines, as in tests.
	_ = c.rc.SetWriteDeadline(time.Now().Add(writeTimeout))
	n, err := c.w.Write(*buf)
	c.bytes += int64(n)
	*buf = (*buf)[:0]
	if err == nil {
		err = c.rc.Flush()
	}
	if err != nil {
		return fmt.Errorf("%w: %v", errClosed, err)
	}
	return nil
}
