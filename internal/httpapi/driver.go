package httpapi

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/millrace-sync/millrace/internal/auth"
	"github.com/millrace-sync/millrace/internal/checkpoint"
	"github.com/millrace-sync/millrace/internal/deploy"
	"github.com/millrace-sync/millrace/internal/session"
	"github.com/millrace-sync/millrace/internal/storage"
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

// errClosed: the client is gone, or no longer reads.
var errClosed = errors.New("client closed the connection")

// The reasons for which a stream ends in order.
var (
	errExpired  = errors.New("token expired")
	errDraining = errors.New("the service stops")
)

// sink is where a driver's lines go. It is used by the driver's goroutine only.
type sink interface {
	// send writes out whole lines, or keeps those that the client is not ready for.
	// lines is the caller's again when it returns. Errors wrap errClosed.
	send(lines []byte) error
	// held reports whether lines are kept; the driver then makes no more of them
	// until resume has sent them all.
	held() bool
	// more receives when resume may get on.
	more() <-chan struct{}
	resume() error
	// sent returns the bytes of all lines so far, before compression.
	sent() int64
}

// driverConfig is what a driver is opened with.
type driverConfig struct {
	request *protocol.Request
	claims  *auth.Claims
	codec   protocol.Codec
	sink    sink
	// keepalive asks for token_expires_in lines at intervals, not only near the end.
	keepalive bool
	userAgent string
}

// driver carries one session until the client leaves, the token expires or the
// process stops. When another deploy becomes current, the session goes on by it.
type driver struct {
	driverConfig
	handler  *Handler
	session  *session.Session
	watcher  *checkpoint.Watcher
	user     string
	replaced <-chan struct{}
	buf      *[]byte // nil while there is nothing to send
	watched  bool
	ops      int
}

// open prepares a session; run or stop must follow.
func (h *Handler) open(c driverConfig) (*driver, error) {
	current, replaced := h.Deploys.Current()
	if current == nil {
		return nil, protocol.Errorf(protocol.NoSyncConfig, "No sync config is active yet: the first backfill is still under way, or replication has not started. Try again shortly.")
	}
	return &driver{
		driverConfig: c, handler: h, replaced: replaced, user: userKey(c.claims, c.request.ClientID),
		session: session.New(session.Config{
			Deploy: current, Request: sessionRequest(c.request, c.claims.Payload), Positions: positions(c.request), Codec: c.codec, Limits: h.Limits,
			Chunks: h.chunks,
		}),
	}, nil
}

// start evaluates the request and gathers the first line, without sending it: what
// is wrong with a request shows here.
func (d *driver) start(ctx context.Context) error {
	d.watcher = d.handler.Hub.Watch(d.user)
	if d.remaining() == 0 {
		return nil
	}
	snap, err := d.update(ctx)
	if err != nil {
		return err
	}
	snap.Close()
	return nil
}

// stop gives back what the driver holds.
func (d *driver) stop() {
	d.watcher.Close()
	d.release()
}

// run carries the session to its end and logs it; start must have gone well. An end
// in order is nil; errClosed is a client that left or was cut off; anything else is
// a failure that the client is to be told of, if there still is a way.
func (d *driver) run(ctx context.Context) error {
	start := time.Now()
	defer d.stop()
	err := d.loop(ctx)
	log := d.handler.Log.With("user", d.claims.Subject, "client_id", short(d.request.ClientID), "user_agent", d.userAgent,
		"seconds", time.Since(start).Seconds(), "operations", d.ops, "bytes", d.sink.sent())
	if len(d.request.AppMetadata) > 0 {
		log = log.With("app_metadata", shortMetadata(d.request.AppMetadata))
	}
	switch {
	case errors.Is(err, errExpired):
		err = d.sendExpiry(0)
		log.Info("stream ended", "reason", errExpired)
	case errors.Is(err, errDraining):
		log.Info("stream ended", "reason", err)
		err = nil
	case errors.Is(err, errClosed):
		log.Info("stream ended", "reason", err)
	default:
		log.Error("stream failed", "error", err)
	}
	return err
}

// apart calls f in a goroutine of its own and waits for it: the stack that f needs is
// free then, where a goroutine that goes on to wait for hours would keep it.
func apart(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return <-done
}

// loop returns the reason for the end. It waits for most of a session's life, so
// what needs a deep stack is done apart.
func (d *driver) loop(ctx context.Context) error {
	if d.remaining() == 0 {
		return errExpired
	}
	var tick <-chan time.Time
	if d.keepalive {
		ticker := time.NewTicker(keepalive + time.Duration((rand.Float64()-0.5)*0.2*float64(keepalive)))
		defer ticker.Stop()
		tick = ticker.C
	}
	notice := time.NewTimer(time.Until(d.claims.Expires) - expiryNotice)
	defer notice.Stop()
	var patience *time.Timer // runs while lines are held
	defer func() {
		if patience != nil {
			patience.Stop()
		}
	}()
	for {
		if !d.sink.held() {
			var again bool
			if err := apart(func() (err error) {
				if again, err = d.advance(ctx); err == nil && again {
					err = d.interrupted(ctx)
				}
				return err
			}); err != nil {
				return err
			}
			if again && !d.sink.held() {
				continue
			}
		}
		d.release()
		var stuck <-chan time.Time
		replaced := d.replaced
		if d.sink.held() {
			replaced = nil // nothing is made meanwhile, by whichever deploy
			if patience == nil {
				patience = time.NewTimer(writeTimeout)
			}
			stuck = patience.C
		} else if patience != nil {
			patience.Stop()
			patience = nil
		}
		var err error
		select {
		case <-d.sink.more():
			if err = apart(d.sink.resume); patience != nil {
				patience.Reset(writeTimeout) // the client gets on, and nothing else counts
			}
		case <-d.watcher.C():
		case <-tick:
			err = apart(func() error { return d.sendExpiry(d.remaining()) })
		case <-notice.C:
			left := d.remaining()
			if left == 0 {
				return errExpired
			}
			err = apart(func() error { return d.sendExpiry(left) })
			notice.Reset(time.Until(d.claims.Expires))
		case <-stuck:
			return fmt.Errorf("%w: it asked for nothing more within %s", errClosed, writeTimeout)
		case <-replaced: // update goes on by the new one
		case <-d.handler.Draining:
			return errDraining
		case <-ctx.Done():
			return errClosed
		}
		if err != nil {
			return err
		}
	}
}

// interrupted returns why a stream in the middle of a checkpoint has to end, nil
// if it goes on.
func (d *driver) interrupted(ctx context.Context) error {
	select {
	case <-d.handler.Draining:
		return errDraining
	case <-ctx.Done():
		return errClosed
	default:
	}
	if d.remaining() == 0 {
		return errExpired
	}
	return nil
}

// remaining returns the seconds until the token expires, rounded up.
func (d *driver) remaining() int {
	left := time.Until(d.claims.Expires)
	if left <= 0 {
		return 0
	}
	return int((left + time.Second - 1) / time.Second)
}

func (d *driver) sendExpiry(seconds int) error {
	buf := d.buffer()
	*buf = d.codec.AppendTokenExpiresIn(*buf, &protocol.TokenExpiresIn{Seconds: seconds})
	return d.flush()
}

// update takes the newest checkpoint and gathers the line that announces it, if it
// concerns the client. The snapshot is the caller's to close.
//
// Many sessions have everything to evaluate at the same moment, when they come back
// after a restart or when a deploy is replaced. They take turns, so that those with a
// small change do not wait behind them all.
func (d *driver) update(ctx context.Context) (snap Snapshot, err error) {
	h := d.handler
	latest, dirty := d.watcher.Take()
	select {
	case <-d.replaced:
		dirty.All = true
	default:
	}
	if !d.watched || dirty.All {
		if err := h.turns.take(ctx, d.claims.Subject); err != nil {
			return nil, err
		}
		defer h.turns.give()
		var meanwhile checkpoint.Dirty
		latest, meanwhile = d.watcher.Take()
		dirty.All, dirty.Write = true, dirty.Write || meanwhile.Write
	}
	for {
		if snap, err = h.Store.Snapshot(); err != nil {
			return nil, fmt.Errorf("open snapshot: %w", err)
		}
		// A deploy is replaced before the data of the one before it goes: whoever is not
		// told so by now has a snapshot that still holds it. The others take a new one,
		// which has all of the new deploy.
		if !d.redeployed() {
			break
		}
		snap.Close()
		dirty.All = true
	}
	defer func() {
		if err != nil {
			snap.Close()
		}
	}()
	if snap.Checkpoint().Op > latest.Op {
		// The store shows a commit that the hub has not told of yet. Without what it
		// changed, a part of it could be sent as if it were all.
		dirty.All = true
	}
	write := d.session.WriteCheckpoint()
	if !d.watched || dirty.Write {
		if at := snap.Checkpoint(); at.LSN > latest.LSN {
			latest.LSN = at.LSN
		}
		wc, ok, err := h.Store.WriteCheckpoint(d.user)
		switch {
		case err != nil:
			return snap, fmt.Errorf("read write checkpoint: %w", err)
		case ok && wc.LSN <= latest.LSN:
			write = wc.ID
		case ok:
			d.watcher.Await(wc.LSN) // it is not in view yet
		}
	}
	reevaluated := !d.watched || dirty.All || dirty.Lookups
	buf := d.buffer()
	if *buf, _, err = d.session.Advance(*buf, snap, dirty, write); err != nil {
		return snap, err
	}
	if reevaluated {
		d.watched = true
		d.watcher.Set(d.session.Watched())
	}
	return snap, nil
}

// redeployed takes the current deploy if the session's was replaced, and reports
// whether it was.
func (d *driver) redeployed() bool {
	select {
	case <-d.replaced:
	default:
		return false
	}
	var current *deploy.Deploy
	current, d.replaced = d.handler.Deploys.Current()
	d.session.Redeploy(current)
	return true
}

// outdated reports whether a newer checkpoint or deploy may change the client's view.
func (d *driver) outdated() bool {
	select {
	case <-d.replaced:
		return true
	default:
		return d.watcher.Pending()
	}
}

// advance brings the client to the newest checkpoint. It returns true if it
// stopped because a newer one may differ, or because the stream may have to end,
// and false also if the sink holds lines.
func (d *driver) advance(ctx context.Context) (again bool, err error) {
	behind := d.session.Sending() // since it began, or since a newer checkpoint interrupted
	snap, err := d.update(ctx)
	if err != nil {
		return false, err
	}
	defer snap.Close()
	for sent := 0; d.session.Sending(); {
		wait := behind || sent > 0
		p, err := d.chunk(ctx, snap, wait && d.session.Reads())
		if errors.Is(err, storage.ErrExpired) && wait {
			return true, d.flush() // the download takes long: on by the newest state
		}
		if err != nil {
			return false, err
		}
		sent += p.Ops
		if len(*d.buffer()) >= flushBytes || p.Done {
			if err := d.flush(); err != nil {
				return false, err
			}
			if d.sink.held() {
				return false, nil
			}
		}
		if !p.Done && sent >= interruptOps && (d.outdated() || d.interrupted(ctx) != nil) {
			return true, d.flush()
		}
	}
	return false, d.flush()
}

// chunk appends the next lines to the buffer. All but the first for a client that
// was up to date wait for their turn: so downloads delay each other, and not a small
// change.
func (d *driver) chunk(ctx context.Context, v session.View, wait bool) (p session.Progress, err error) {
	if wait {
		if err := d.handler.turns.take(ctx, d.claims.Subject); err != nil {
			return p, err
		}
		defer d.handler.turns.give()
	}
	buf := d.buffer()
	*buf, p, err = d.session.Chunk(*buf, v)
	d.ops += p.Ops
	d.handler.counters.Operations.Add(int64(p.Ops))
	return p, err
}

// buffer returns the buffer that lines are gathered in.
func (d *driver) buffer() *[]byte {
	if d.buf == nil {
		d.buf = d.handler.buffers.Get().(*[]byte)
	}
	return d.buf
}

// release gives the buffer back while there is nothing to send.
func (d *driver) release() {
	if d.buf == nil {
		return
	}
	d.handler.recycle(d.buf)
	d.buf = nil
}

// recycle keeps a buffer for reuse, unless it is large.
func (h *Handler) recycle(buf *[]byte) {
	if cap(*buf) <= maxIdleBuffer {
		*buf = (*buf)[:0]
		h.buffers.Put(buf)
	}
}

// flush sends what has gathered.
func (d *driver) flush() error {
	if d.buf == nil || len(*d.buf) == 0 {
		return nil
	}
	err := d.sink.send(*d.buf)
	*d.buf = (*d.buf)[:0]
	return err
}
