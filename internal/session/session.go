// Package session is one client's sync connection: from what the client asks for
// and what it holds to the protocol lines that bring it up to date.
//
// A Session is a state machine without clock, socket or goroutine. Its driver
// (httpapi) gives it views of the store and writes out the lines that it appends:
//
//	Advance   a new view: appends checkpoint or checkpoint_diff if it differs
//	Chunk     appends the next data lines, then the completing line
//
// Invariants:
//   - A client that has applied everything up to checkpoint_complete holds exactly
//     the buckets of that checkpoint's view: each one's ops from 0 to the
//     checkpoint, no more, whose checksums sum to the one announced.
//   - Between a checkpoint line and its completing line only ops up to that
//     checkpoint are sent. A newer view may interrupt; nothing is then completed
//     until it is.
//   - A line appended is final: its memory is the caller's.
package session

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/checkpoint"
	"github.com/millrace-sync/millrace/internal/deploy"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/streams"
	"github.com/millrace-sync/millrace/protocol"
)

// View is the store as of one checkpoint.
type View interface {
	Checkpoint() storage.Checkpoint
	// BucketStates fills out, parallel to keys; a bucket without ops has the zero State.
	BucketStates(keys []storage.BucketKey, out []bucket.State) error
	// Ops yields a bucket's ops after the given one, ascending.
	Ops(key storage.BucketKey, after bucket.OpID, yield func(*bucket.Op) bool) error
	// Lookup yields the values of each row that contributes to a lookup.
	Lookup(key storage.LookupKey, yield func(values []byte) error) error
}

// Chunks shares encoded data lines between the sessions of one store. Implementations
// are safe for concurrent use, and may forget whatever they like.
type Chunks interface {
	// Get returns a line that a session has put. The line must not be changed.
	Get(ChunkKey) (EncodedChunk, bool)
	// Put offers a line, which is the caller's again when it returns.
	Put(ChunkKey, EncodedChunk)
}

// ChunkKey says what a data line holds: the first of a bucket's operations after
// After and up to Until, as many as fit in a line. Lines of equal keys may differ if
// the bucket was compacted between them; either serves.
type ChunkKey struct {
	Bucket       storage.BucketKey
	After, Until bucket.OpID
	Codec        protocol.Codec
}

// EncodedChunk is a data line, and what it does to a session.
type EncodedChunk struct {
	Line []byte
	Ops  int
	Next bucket.OpID // sent up to here
	More bool
}

// A data line holds at most chunkOps operations and is ended at chunkBytes; one
// call of Chunk appends lines until batchBytes or one of those limits is reached.
const (
	chunkOps   = 1000
	chunkBytes = 1 << 20
	batchBytes = 128 << 10
)

// Config is what a session is opened with.
type Config struct {
	Deploy *deploy.Deploy
	// Request is the client's, with its verified claims.
	Request streams.Request
	// Positions are the buckets that the client holds, and up to which op.
	Positions map[string]bucket.OpID
	Codec     protocol.Codec
	Limits    streams.Limits
	// Chunks is asked for data lines before they are read; nil if nothing is shared.
	Chunks Chunks
}

// Session is one client's connection. It is used by one goroutine.
type Session struct {
	config  Config
	streams []streams.RequestedStream
	entries []entry // by priority, then name
	lookups []storage.LookupKey
	begun   bool
	sending bool // a checkpoint is announced and not completed
	write   uint64

	at      storage.Checkpoint // of the view being sent
	pending []int              // positions of the entries announced and not completed
	cursor  int                // in pending
}

// entry is one bucket of the client's view.
type entry struct {
	key      storage.BucketKey
	name     string
	priority int
	defaults []int
	subs     []int
	state    bucket.State // as announced
	after    bucket.OpID  // sent up to here
}

// New opens a session. Nothing is sent before the first Advance.
func New(c Config) *Session { return &Session{config: c} }

// Redeploy makes another deploy the session's. The next Advance must be given a view
// that has all of it, and Dirty.All. Buckets of definitions that both deploys have go
// on where they are: their names and ids are the same.
func (s *Session) Redeploy(d *deploy.Deploy) { s.config.Deploy = d }

// Advance brings the session to a view: d says what may differ from the last one,
// and is ignored the first time; write is the user's newest write checkpoint that
// the view includes, 0 for none. It appends a checkpoint line the first time and
// whenever the streams differ, a checkpoint_diff line if the client's buckets or
// write checkpoint differ, nothing otherwise; changed tells.
//
// Chunk continues from there, whether or not the last checkpoint was completed.
func (s *Session) Advance(dst []byte, v View, d checkpoint.Dirty, write uint64) (out []byte, changed bool, err error) {
	first := !s.begun
	var removed []string
	var updated []int
	full := first
	switch {
	case first || d.All || d.Lookups:
		var differ bool
		removed, updated, differ, err = s.reevaluate(v)
		full = full || differ
	case len(d.Buckets) > 0:
		updated, err = s.refresh(v, d.Buckets)
	}
	if err != nil {
		return dst, false, err
	}
	if full {
		updated = s.all()
	}
	if !full && len(removed) == 0 && len(updated) == 0 && write == s.write {
		return dst, false, nil
	}
	s.begun, s.sending, s.write, s.at = true, true, write, v.Checkpoint()
	s.queue(updated)
	if full {
		return s.config.Codec.AppendCheckpoint(dst, &protocol.Checkpoint{
			LastOpID: uint64(s.at.Op), WriteCheckpoint: write,
			Buckets: s.describe(updated), Streams: s.describeStreams(),
		}), true, nil
	}
	return s.config.Codec.AppendCheckpointDiff(dst, &protocol.CheckpointDiff{
		LastOpID: uint64(s.at.Op), WriteCheckpoint: write,
		RemovedBuckets: removed, UpdatedBuckets: s.describe(updated),
	}), true, nil
}

func (s *Session) all() []int {
	list := make([]int, len(s.entries))
	for i := range list {
		list[i] = i
	}
	return list
}

// queue makes the updated entries pending, beside those that an interrupted
// checkpoint left so.
func (s *Session) queue(updated []int) {
	left := s.pending[s.cursor:]
	if len(left) > 0 {
		updated = slices.Concat(left, updated)
		slices.Sort(updated)
		updated = slices.Compact(updated)
	}
	s.pending, s.cursor = updated, 0
}

// refresh reads again the states of the buckets at the given positions, and
// returns those that changed.
func (s *Session) refresh(v View, positions []int) ([]int, error) {
	keys := make([]storage.BucketKey, len(positions))
	for i, p := range positions {
		keys[i] = s.entries[p].key
	}
	states := make([]bucket.State, len(keys))
	if err := v.BucketStates(keys, states); err != nil {
		return nil, fmt.Errorf("read bucket states: %w", err)
	}
	var updated []int
	for i, p := range positions {
		if s.entries[p].state != states[i] {
			s.entries[p].state = states[i]
			updated = append(updated, p)
		}
	}
	slices.Sort(updated)
	return updated, nil
}

// lookupsOf adapts a view to the plan's positions.
type lookupsOf struct {
	view View
	ids  []storage.DefinitionID
}

func (l lookupsOf) Lookup(def int, key string, yield func([]byte) error) error {
	return l.view.Lookup(storage.LookupKey{Def: l.ids[def], Key: key}, yield)
}

// reevaluate asks the plan again which buckets the client's view consists of.
func (s *Session) reevaluate(v View) (removed []string, updated []int, differ bool, err error) {
	d := s.config.Deploy
	set, err := d.Plan.Buckets(&s.config.Request, lookupsOf{v, d.IDs}, s.config.Limits)
	if err != nil {
		if limit, ok := errors.AsType[*streams.LimitError](err); ok {
			return nil, nil, false, protocol.Errorf(protocol.LimitExceeded,
				"Too many %s for one connection: the limit is %d. Subscribe to fewer streams, or raise %s.", limit.What, limit.Limit, limit.Setting())
		}
		return nil, nil, false, fmt.Errorf("evaluate request: %w", err)
	}
	old := make(map[storage.BucketKey]*entry, len(s.entries))
	for i := range s.entries {
		old[s.entries[i].key] = &s.entries[i]
	}
	unfinished := make(map[storage.BucketKey]bool)
	for _, p := range s.pending[s.cursor:] {
		unfinished[s.entries[p].key] = true
	}
	entries := make([]entry, len(set.Buckets))
	keys := make([]storage.BucketKey, len(set.Buckets))
	for i := range set.Buckets {
		b := &set.Buckets[i]
		entries[i] = entry{
			key:      storage.BucketKey{Def: d.IDs[b.Def], Params: b.Params},
			name:     d.BucketName(b.Def, b.Params),
			priority: b.Priority, defaults: b.Defaults, subs: b.Subscriptions,
		}
	}
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.priority, b.priority), cmp.Compare(a.name, b.name))
	})
	for i := range entries {
		keys[i] = entries[i].key
	}
	states := make([]bucket.State, len(keys))
	if err := v.BucketStates(keys, states); err != nil {
		return nil, nil, false, fmt.Errorf("read bucket states: %w", err)
	}
	s.pending, s.cursor = s.pending[:0], 0
	for i := range entries {
		e := &entries[i]
		e.state = states[i]
		o := old[e.key]
		if o == nil {
			if !s.begun {
				// A client that claims more than there is will find that its sums differ;
				// what comes later must not be withheld from it.
				e.after = min(s.config.Positions[e.name], v.Checkpoint().Op)
			}
			updated = append(updated, i)
			continue
		}
		delete(old, e.key)
		e.after = o.after
		if unfinished[e.key] {
			s.pending = append(s.pending, i)
		}
		if e.state != o.state || e.priority != o.priority || !slices.Equal(e.defaults, o.defaults) || !slices.Equal(e.subs, o.subs) {
			updated = append(updated, i)
		}
	}
	for _, o := range old {
		removed = append(removed, o.name)
	}
	slices.Sort(removed)
	differ = !slices.EqualFunc(s.streams, set.Streams, func(a, b streams.RequestedStream) bool {
		return a.Name == b.Name && a.Default == b.Default && slices.Equal(a.Errors, b.Errors)
	})
	s.entries, s.streams = entries, set.Streams
	s.lookups = s.lookups[:0:0]
	for _, r := range set.Reads {
		s.lookups = append(s.lookups, storage.LookupKey{Def: d.IDs[r.Def], Key: r.Key})
	}
	if !s.begun {
		s.config.Positions = nil // held no longer than needed
	}
	return removed, updated, differ, nil
}

// Watched returns the buckets and lookups that the view depends on, for the
// checkpoint hub. Positions in buckets are those that Dirty.Buckets gives.
func (s *Session) Watched() ([]storage.BucketKey, []storage.LookupKey) {
	keys := make([]storage.BucketKey, len(s.entries))
	for i := range s.entries {
		keys[i] = s.entries[i].key
	}
	return keys, s.lookups
}

func (s *Session) describe(positions []int) []protocol.Bucket {
	list := make([]protocol.Bucket, len(positions))
	for i, p := range positions {
		e := &s.entries[p]
		list[i] = protocol.Bucket{
			Name: e.name, Checksum: uint32(e.state.Checksum), Count: e.state.Count, Priority: e.priority,
			Defaults: e.defaults, Subscriptions: e.subs,
		}
	}
	return list
}

func (s *Session) describeStreams() []protocol.Stream {
	list := make([]protocol.Stream, len(s.streams))
	for i, st := range s.streams {
		list[i] = protocol.Stream{Name: st.Name, Default: st.Default}
		for _, e := range st.Errors {
			list[i].Errors = append(list[i].Errors, protocol.StreamError{Subscription: e.Subscription, Message: e.Message})
		}
	}
	return list
}

// Progress is what a call of Chunk did.
type Progress struct {
	Ops int
	// Done says that the checkpoint is complete: there is nothing to send until the
	// next Advance.
	Done bool
}

// Chunk appends the next lines of the checkpoint that Advance announced: some
// data, the line that completes a priority, or the one that completes the
// checkpoint. v must be the view of the last Advance, or a later one of which
// Advance said that nothing changed. When v fails, the lines before are appended all
// the same: they do not come again if the session goes on by another view.
func (s *Session) Chunk(dst []byte, v View) (out []byte, p Progress, err error) {
	start := len(dst)
	for s.cursor < len(s.pending) {
		e := &s.entries[s.pending[s.cursor]]
		more := false
		if e.after < e.state.Last {
			var n int
			if dst, n, more, err = s.data(dst, v, e); err != nil {
				return dst, p, err
			}
			p.Ops += n
		}
		if !more {
			s.cursor++
			if dst = s.completePriority(dst, e.priority); s.cursor == len(s.pending) {
				break
			}
		}
		if more || len(dst)-start >= batchBytes {
			return dst, p, nil
		}
	}
	s.pending, s.cursor, s.sending = nil, 0, false
	p.Done = true
	return s.config.Codec.AppendCheckpointComplete(dst, &protocol.CheckpointComplete{LastOpID: uint64(s.at.Op)}), p, nil
}

// completePriority appends partial_checkpoint_complete if the bucket just sent
// was the last of its priority and others follow.
func (s *Session) completePriority(dst []byte, priority int) []byte {
	if s.cursor == len(s.pending) || s.entries[s.pending[s.cursor]].priority == priority {
		return dst
	}
	return s.config.Codec.AppendPartialCheckpointComplete(dst, &protocol.PartialCheckpointComplete{LastOpID: uint64(s.at.Op), Priority: priority})
}

// data appends one data line of a bucket.
func (s *Session) data(dst []byte, v View, e *entry) (out []byte, ops int, more bool, err error) {
	shared, c := s.config.Chunks, s.config.Codec
	key := ChunkKey{Bucket: e.key, After: e.after, Until: e.state.Last, Codec: c}
	if shared != nil {
		if chunk, ok := shared.Get(key); ok {
			e.after = chunk.Next
			return append(dst, chunk.Line...), chunk.Ops, chunk.More, nil
		}
	}
	start := len(dst)
	dst, mark := c.BeginData(dst, e.name, uint64(e.after))
	last := e.after
	var pop protocol.Op
	var subkey [22]byte
	err = v.Ops(e.key, e.after, func(op *bucket.Op) bool {
		if op.ID > e.state.Last || ops == chunkOps || len(dst)-start >= chunkBytes {
			more = op.ID <= e.state.Last
			return false
		}
		pop = protocol.Op{ID: uint64(op.ID), Kind: protocol.OpKind(op.Kind), Checksum: uint32(op.Checksum)}
		if op.Kind == bucket.Put || op.Kind == bucket.Remove {
			pop.ObjectType, pop.ObjectID, pop.Data = op.ObjectType, op.ObjectID, op.Data
			pop.Subkey, _ = op.Subkey.AppendText(subkey[:0])
		}
		dst = c.AppendOp(dst, &mark, &pop)
		last = op.ID
		ops++
		return true
	})
	if err != nil {
		return dst[:start], 0, false, fmt.Errorf("read operations of bucket %s: %w", e.name, err)
	}
	e.after = last
	if !more {
		e.after = e.state.Last
	}
	if ops == 0 {
		return dst[:start], 0, false, nil // all of them were compacted away
	}
	dst = c.EndData(dst, mark, more, uint64(last))
	if shared != nil {
		shared.Put(key, EncodedChunk{Line: dst[start:], Ops: ops, Next: e.after, More: more})
	}
	return dst, ops, more, nil
}

// Sending reports whether a checkpoint is announced and not completed.
func (s *Session) Sending() bool { return s.sending }

// Reads reports whether the next Chunk has operations to read. One that has not costs
// next to nothing.
func (s *Session) Reads() bool {
	return slices.ContainsFunc(s.pending[s.cursor:], func(i int) bool { return s.entries[i].after < s.entries[i].state.Last })
}

// WriteCheckpoint returns the write checkpoint last announced.
func (s *Session) WriteCheckpoint() uint64 { return s.write }
