package engine

import (
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strings"

	"github.com/millrace-sync/millrace/protocol"
)

// Options is what the engine is to ask of the service.
type Options struct {
	ClientID        string
	Parameters      []byte // connection parameters, a JSON object; nil is {}
	AppMetadata     map[string]string
	IncludeDefaults bool
	// Active lists the subscriptions that are in use: they do not expire.
	Active    []StreamKey
	RawTables []RawTable
}

// Engine follows one sync stream.
type Engine struct {
	store Store
	opts  Options

	// local names the buckets held before the first checkpoint.
	local []string
	// asked holds the subscriptions of the request, and their ids in the table.
	asked    []protocol.Subscription
	askedIDs []int64

	// target is the checkpoint that data is coming for; nil before the first.
	target *checkpoint
	// pending is a checkpoint that came whole while the gate was shut.
	pending *checkpoint
	status  Status

	// keys holds the key sets of buckets seen, nil for those without; keysLeft is
	// the room in them, below 0 once it has been used up.
	keys     map[string]*keySet
	keysLeft int
	seed     maphash.Seed
}

// checkpoint is a state to reach.
type checkpoint struct {
	lastOp          uint64
	writeCheckpoint uint64 // 0 is none
	buckets         map[string]protocol.Bucket
	streams         []protocol.Stream
}

// upTo returns the names of the buckets up to a priority, sorted.
func (c *checkpoint) upTo(priority int) []string {
	names := make([]string, 0, len(c.buckets))
	for name, b := range c.buckets {
		if b.Priority <= priority {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Outcome is what the caller has to do after an event.
type Outcome struct {
	// Close ends the connection: at once to be opened again if Again, else after
	// the retry delay.
	Close, Again bool
	// Prefetch asks for new credentials while the old ones still hold; Expired says
	// that they no longer do.
	Prefetch, Expired bool
	// Completed says that a whole checkpoint has been applied; Applied is its write
	// checkpoint, 0 for none.
	Completed bool
	Applied   int64
	// Notes are for the log.
	Notes []Note
}

// Note is a line for the log.
type Note struct {
	Warning bool
	Text    string
}

func (o *Outcome) warn(format string, args ...any) {
	o.Notes = append(o.Notes, Note{true, fmt.Sprintf(format, args...)})
}

// ProtocolError is a line that the service should not have sent where it did. The
// transaction holds nothing of it and may be committed.
type ProtocolError struct{ What string }

func (e *ProtocolError) Error() string { return "sync protocol: " + e.What }

// Start prepares a request for a new connection. Times are in microseconds since 1970.
func Start(store Store, opts Options, now int64) (*Engine, *protocol.Request, error) {
	e := &Engine{store: store, opts: opts, keys: make(map[string]*keySet), keysLeft: maxKeys, seed: maphash.MakeSeed()}
	r, err := e.start(now)
	if err != nil {
		return nil, nil, fmt.Errorf("prepare a sync request: %w", err)
	}
	return e, r, nil
}

func (e *Engine) start(now int64) (*protocol.Request, error) {
	var err error
	if e.status, err = Offline(e.store); err != nil {
		return nil, err
	}
	r := &protocol.Request{
		RawData: true, ClientID: e.opts.ClientID, Parameters: e.opts.Parameters,
		AppMetadata: e.opts.AppMetadata, IncludeDefaults: e.opts.IncludeDefaults,
	}
	err = e.store.Query(`SELECT name, last_op FROM ps_buckets WHERE pending_delete = 0 ORDER BY id`, func(row Row) error {
		b := protocol.BucketPosition{Name: row.Text(0), After: uint64(row.Int64(1))}
		r.Buckets = append(r.Buckets, b)
		e.local = append(e.local, b.Name)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := renew(e.store, e.opts.Active, now); err != nil {
		return nil, err
	}
	if e.asked, e.askedIDs, err = subscriptions(e.store, now); err != nil {
		return nil, err
	}
	r.Subscriptions = e.asked
	return r, nil
}

// Status returns what is known of the download. It is the caller's to keep.
func (e *Engine) Status() Status { return e.status.clone() }

// Line takes the next line, which took size bytes on the wire.
func (e *Engine) Line(line protocol.Line, size int, now int64) (Outcome, error) {
	var o Outcome
	var err error
	switch l := line.(type) {
	case *protocol.Checkpoint:
		err = e.checkpoint(l, &o)
	case *protocol.CheckpointDiff:
		err = e.diff(l, &o)
	case *protocol.DataChunk:
		if err = e.storeOps(l, size); err == nil {
			e.status.count(l.Bucket, len(l.Ops))
		}
	case *protocol.PartialCheckpointComplete:
		err = e.complete(l.Priority, now, &o)
	case *protocol.CheckpointComplete:
		err = e.complete(complete, now, &o)
	case *protocol.TokenExpiresIn:
		err = e.token(l.Seconds, now, &o)
	case *protocol.Unknown:
		o.Notes = append(o.Notes, Note{Text: "skipped a line of unknown kind " + l.Key})
	default:
		err = &ProtocolError{fmt.Sprintf("a line of type %T", l)}
	}
	if err != nil {
		return Outcome{}, err
	}
	return o, nil
}

func (e *Engine) checkpoint(l *protocol.Checkpoint, o *Outcome) error {
	gone := make(map[string]bool)
	if e.target == nil {
		for _, name := range e.local {
			gone[name] = true
		}
	} else {
		for name := range e.target.buckets {
			gone[name] = true
		}
	}
	c := &checkpoint{
		lastOp: l.LastOpID, writeCheckpoint: l.WriteCheckpoint,
		buckets: make(map[string]protocol.Bucket, len(l.Buckets)), streams: slices.Clone(l.Streams),
	}
	for _, b := range l.Buckets {
		c.buckets[b.Name] = keep(b)
		delete(gone, b.Name)
	}
	return e.track(c, slices.Sorted(maps.Keys(gone)), o)
}

func (e *Engine) diff(l *protocol.CheckpointDiff, o *Outcome) error {
	if e.target == nil {
		return &ProtocolError{"a checkpoint_diff before any checkpoint"}
	}
	c := &checkpoint{
		lastOp: l.LastOpID, writeCheckpoint: l.WriteCheckpoint,
		buckets: maps.Clone(e.target.buckets), streams: e.target.streams,
	}
	for _, name := range l.RemovedBuckets {
		delete(c.buckets, name)
	}
	for _, b := range l.UpdatedBuckets {
		c.buckets[b.Name] = keep(b)
	}
	return e.track(c, l.RemovedBuckets, o)
}

// keep copies what a bucket shares with the line's buffers.
func keep(b protocol.Bucket) protocol.Bucket {
	b.Defaults, b.Subscriptions = slices.Clone(b.Defaults), slices.Clone(b.Subscriptions)
	return b
}

// track makes c the target and drops the buckets that are gone from it.
func (e *Engine) track(c *checkpoint, gone []string, o *Outcome) error {
	for _, name := range gone {
		if err := deleteBucket(e.store, name); err != nil {
			return err
		}
	}
	progress, err := progressOf(e.store, c)
	if err != nil {
		return err
	}
	streams, err := e.resolve(c, o)
	if err != nil {
		return fmt.Errorf("match streams with subscriptions: %w", err)
	}
	e.target, e.pending = c, nil
	e.status.progress, e.status.Streams = progress, streams
	return nil
}

// complete tries to apply the target up to a priority.
func (e *Engine) complete(priority int, now int64, o *Outcome) error {
	c := e.target
	if c == nil {
		return &ProtocolError{"a checkpoint is complete before it began"}
	}
	r, err := e.apply(c, priority, now)
	switch {
	case err != nil:
		return err
	case len(r.failed) > 0:
		o.warn("checksums differ, these buckets are downloaded again: %s", strings.Join(r.failed, ", "))
		o.Close = true
		return nil
	case r.gated && priority == complete:
		o.Notes = append(o.Notes, Note{Text: "downloaded rows wait until local writes have been uploaded and come back"})
		e.pending = c
		return nil
	case r.gated:
		return nil
	}
	return e.applied(c, priority, now, o)
}

// applied records in table and status what has become visible.
func (e *Engine) applied(c *checkpoint, priority int, now int64, o *Outcome) error {
	if err := markStreams(e.store, &e.status, priority, now); err != nil {
		return err
	}
	e.status.synced(priority, now)
	if priority == complete {
		o.Completed, o.Applied = true, int64(c.writeCheckpoint)
	}
	return nil
}

// token handles the keep-alive, which tells how long the credentials last.
func (e *Engine) token(seconds int, now int64, o *Outcome) error {
	if err := renew(e.store, e.opts.Active, now); err != nil {
		return err
	}
	const soon = 30
	switch {
	case seconds <= 0:
		o.Close, o.Expired = true, true
	case seconds <= soon:
		o.Prefetch = true
	default:
		// Subscriptions expire even if nobody touches them.
		return e.checkSubscriptions(now, o)
	}
	return nil
}

// checkSubscriptions closes the connection if a request would ask for others now.
func (e *Engine) checkSubscriptions(now int64, o *Outcome) error {
	asked, _, err := subscriptions(e.store, now)
	if err != nil {
		return err
	}
	if !slices.EqualFunc(asked, e.asked, sameSubscription) {
		o.Close, o.Again = true, true
	}
	return nil
}

// Subscribed takes the subscriptions in use after they, or the table of
// subscriptions, have changed.
func (e *Engine) Subscribed(active []StreamKey, now int64) (Outcome, error) {
	var o Outcome
	if err := renew(e.store, active, now); err != nil {
		return Outcome{}, err
	}
	e.opts.Active = active
	if err := e.checkSubscriptions(now, &o); err != nil {
		return Outcome{}, err
	}
	return o, nil
}

// Uploaded tells that the upload queue has been emptied: a checkpoint that waited
// may be applied, if it holds what was uploaded.
func (e *Engine) Uploaded(now int64) (Outcome, error) {
	var o Outcome
	c := e.pending
	if c == nil {
		return o, nil
	}
	e.pending = nil
	target, waits, err := Target(e.store)
	if err != nil || waits && int64(c.writeCheckpoint) < target {
		return o, err
	}
	r, err := e.apply(c, complete, now)
	if err != nil {
		return Outcome{}, err
	}
	if !r.applied() {
		o.warn("downloaded rows cannot be applied even after the upload")
		return o, nil
	}
	return o, e.applied(c, complete, now, &o)
}
