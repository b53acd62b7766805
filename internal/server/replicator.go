package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace-sync/millrace/internal/checkpoint"
	"github.com/millrace-sync/millrace/internal/httpapi"
	"github.com/millrace-sync/millrace/internal/postgres"
	"github.com/millrace-sync/millrace/internal/replicate"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// Bounds of the replicator.
const (
	// eventQueue is how many events may be evaluated ahead: transactions, or parts of
	// one, which postgres bounds in size. More wait in the stream.
	eventQueue = 8
	// groupTxns is how many transactions may share a commit.
	groupTxns = 512
	// idleProgress is how often the position is recorded while nothing concerns us.
	idleProgress = time.Second
)

// replicaStore is what a replicator needs of the store. Its methods are described
// at pebblestore.Store.
type replicaStore interface {
	replicate.Rows
	Recover(context.Context) (storage.Recovered, error)
	Commit(context.Context, *storage.Batch) error
	Snapshot() (httpapi.Snapshot, error)
	DurableLSN() source.LSN
	ResetWriteCheckpoints(context.Context, source.LSN) error
}

// replicator brings the source's changes into the store: it connects, backfills
// what is new, follows the stream, and starts again when the connection is lost.
type replicator struct {
	config   postgres.Config
	deployer *deployer // says what to replicate
	store    replicaStore
	// hub is told of every checkpoint; nil if those who serve learn of them from the
	// store.
	hub      *checkpoint.Hub
	deploys  *deploys
	health   *health
	activity *activity
	// readers is how many chunks of tables are read at once.
	readers int
	// backfills shows how far the tables are that are being read.
	backfills *backfills
	log       *slog.Logger
	// heartbeat is the interval of the marks that let the slot advance while nothing
	// that concerns us happens on the source.
	heartbeat time.Duration
	// lookEvery is how often the source's catalog is looked at.
	lookEvery time.Duration

	state *state
	// position is how far the source's log had come at the last connect.
	position source.LSN
	// slotLost is why the slot has to be replaced; nil if it need not.
	slotLost error
}

// errRedeploy: another sync config is wanted.
var errRedeploy = errors.New("another sync config is wanted")

// failuresToGiveUp is how often replication may fail on account of a sync config,
// and not of the source, before the one that is current is gone back to.
const failuresToGiveUp = 3

// Run replicates until ctx ends. It returns an error only if the store fails.
func (r *replicator) Run(ctx context.Context) error {
	delay, failures := minRetry, 0
	var last *target
	for {
		wanted, changed := r.deployer.target()
		if wanted != last {
			delay, failures, last = minRetry, 0, wanted
		}
		if wanted == nil {
			r.health.trouble("no sync config is deployed yet: write one to a file and run millrace deploy FILE, or name it in sync_config.path")
			if err := r.pause(ctx, changed, maxRetry); err != nil {
				return nil
			}
			continue
		}
		started := time.Now()
		err := r.live(ctx, wanted, changed)
		if errors.Is(err, storage.ErrFailed) || errors.Is(err, storage.ErrCorrupt) {
			return fmt.Errorf("replicate: %w", err)
		}
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errRedeploy) {
			continue
		}
		if time.Since(started) > maxRetry {
			delay = minRetry
		}
		if errors.Is(err, postgres.ErrSlotLost) {
			r.slotLost = err
		}
		r.health.trouble(err.Error())
		r.log.Error("replication stopped; trying again", "error", err, "retry_in", delay)
		if _, ofSource := errors.AsType[*postgres.Error](err); !ofSource && !errors.Is(err, storage.ErrUnavailable) {
			if failures++; failures == failuresToGiveUp {
				if err := r.giveUp(ctx, wanted, err); err != nil {
					return err
				}
			}
		}
		if err := r.pause(ctx, changed, delay); err != nil {
			return nil
		}
		delay = min(2*delay, maxRetry)
	}
}

// live is one life of the connection to the source. It ends with errRedeploy when
// changed is closed.
func (r *replicator) live(ctx context.Context, wanted *target, changed <-chan struct{}) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-changed:
			cancel(errRedeploy)
		case <-ctx.Done():
		}
	})
	defer watch.Wait()
	defer cancel(nil)
	f, stream, err := r.connect(ctx, wanted)
	if err == nil {
		err = f.run(ctx, stream)
		f.conns.close()
	}
	if err != nil && !errors.Is(err, storage.ErrFailed) && errors.Is(context.Cause(ctx), errRedeploy) {
		return errRedeploy
	}
	return err
}

// The bounds of the pause before replication is tried again.
const (
	minRetry = 500 * time.Millisecond
	maxRetry = 10 * time.Second
)

// pause waits for as long, or until changed is closed, showing that the process is
// alive.
func (r *replicator) pause(ctx context.Context, changed <-chan struct{}, d time.Duration) error {
	end := time.NewTimer(d)
	defer end.Stop()
	r.health.touch(time.Now())
	select {
	case <-end.C:
		r.health.touch(time.Now())
		return nil
	case <-changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// connect makes everything ready to follow the stream. Reaching the source may
// take long; the process shows meanwhile that it is alive.
func (r *replicator) connect(ctx context.Context, wanted *target) (_ *follower, _ *postgres.Stream, err error) {
	done := make(chan struct{})
	var alive sync.WaitGroup
	alive.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				r.health.touch(time.Now())
			case <-done:
				return
			}
		}
	})
	defer alive.Wait()
	defer close(done)

	recovered, err := r.store.Recover(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("recover the store: %w", err)
	}
	if err := r.take(ctx, wanted, &recovered); err != nil {
		return nil, nil, err
	}
	facts, err := postgres.Check(ctx, r.config)
	if err != nil {
		return nil, nil, err
	}
	for _, w := range facts.Warnings {
		r.log.Warn("source", "warning", w.Error())
	}
	r.position = facts.Position
	recovered, from, err := r.resume(ctx, recovered, facts)
	if err != nil {
		return nil, nil, err
	}
	r.state = prepare(recovered, wanted.plan, wanted.source.Text)
	r.state.record.Source = originOf(facts).String()
	if wanted.anew {
		r.log.Info("every table is read anew, as asked for; clients are served the old state until that is done")
		r.state.startOver(wanted.plan, wanted.source.Text)
	}
	c, err := connectAll(ctx, r.config)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	f, err := r.newFollower(ctx, c, wanted, recovered, from)
	if err != nil {
		return nil, nil, err
	}
	stream, err := postgres.OpenStream(ctx, r.config, c.registry, from)
	if err != nil {
		return nil, nil, err
	}
	// An idle source may say nothing more for half a minute.
	r.health.progress(time.Now())
	r.log.Info("replicating", "server_version", facts.Version, "slot", r.config.Slot, "from", from)
	return f, stream, nil
}

// follower follows one stream.
type follower struct {
	*replicator
	wanted   *target
	conns    *conns
	secret   [32]byte
	stream   *postgres.Stream
	applier  *replicate.Applier
	readers  *readers
	backfill *backfiller
	watch    *catalogWatch
	gone     []source.TableID // to be forgotten before anything is applied
	blocked  []string         // what keeps the next deploy from becoming current
	changes  changeSet
	lsn      source.LSN // everything up to here has been applied
	saved    source.LSN // of the last commit
	held     bool       // what is stored is being compared with the source
	torn     bool       // nothing is published before an altered table is read
	parts    bool       // something is committed that is not published
	inTxn    bool
	txns     int  // since the last flush
	marked   bool // a write checkpoint's marker has come since the last commit
}

// newFollower prepares the evaluation of both deploys and what is to be read.
func (r *replicator) newFollower(ctx context.Context, c *conns, wanted *target, recovered storage.Recovered, at source.LSN) (*follower, error) {
	s := r.state
	f := &follower{replicator: r, wanted: wanted, conns: c, secret: recovered.Secret, lsn: at, saved: at, changes: newChangeSet()}
	eval := replicate.NewEvaluator(recovered.Secret, s.current, s.next)
	var visible source.XID // the last that was
	refetch := func(t *source.Table, identity []source.Datum, after source.XID) (replicate.Refetched, error) {
		if after != visible {
			if err := postgres.AwaitVisible(ctx, c.follower, after); err != nil {
				return replicate.Refetched{}, err
			}
			visible = after
		}
		row, at, err := postgres.ReadRow(ctx, c.follower, t, identity)
		if errors.Is(err, postgres.ErrTableChanged) {
			f.watch.again() // the stream may have nothing to say of it
			return replicate.Refetched{Altered: true}, nil
		}
		return replicate.Refetched{Row: row, At: at}, err
	}
	f.applier = replicate.NewApplier(r.store, refetch, eval, recovered.NextOp, replicate.DefaultLimits)
	if s.current != nil {
		if current, _ := r.deploys.Current(); current == nil {
			r.deploys.set(s.current, s.text)
			r.health.setServing()
		}
	}
	defs := slices.Clone(recovered.Definitions)
	lsn := at
	if stale(defs) {
		lsn = recovered.Checkpoint.LSN // clients are still served what they were
	}
	if len(s.abandoned) > 0 {
		if err := r.store.Commit(ctx, &storage.Batch{Drop: s.abandoned, LSN: lsn, Publish: true}); err != nil {
			return nil, fmt.Errorf("drop definitions that are not wanted any more: %w", err)
		}
	}
	if s.next != nil {
		batch := &storage.Batch{Definitions: s.new, Deploy: &s.record, LSN: lsn, Publish: true}
		if err := r.store.Commit(ctx, batch); err != nil {
			return nil, fmt.Errorf("store deploy: %w", err)
		}
		wanted.anew = false // what is new is stored: it is not begun with again
		for _, d := range s.new {
			defs = slices.DeleteFunc(defs, func(had storage.Definition) bool { return had.ID == d.ID })
			defs = append(defs, d)
		}
	}
	f.readers = newReaders(s.current, s.next)
	defs = slices.DeleteFunc(defs, func(d storage.Definition) bool { return f.readers.patterns[d.ID] == nil })
	set, err := c.readTables(ctx, f.readers.all, heldTables(defs))
	if err != nil {
		return nil, err
	}
	f.look(set)
	f.gone = set.gone
	f.applier.Backfill(defs, set.tables, f.readers.reads)
	f.applier.Resumed(r.position)
	f.giveUpTables(set)
	r.health.note(alterNote, "", false) // what a former life waited for was taken back
	if f.held = f.applier.Reconciling(); f.held {
		r.health.note(compareNote, comparing, true)
	}
	// Whoever may write to the database may write messages like ours: the name of
	// this life is not to be guessed.
	run := rand.Text()
	r.backfills.clear()
	f.backfill = newBackfiller(c, r.store, eval, run, r.readers, r.backfills, r.log)
	f.watch = &catalogWatch{
		conns: c, run: run, every: r.lookEvery, heartbeat: r.heartbeat, health: r.health, log: r.log, left: 10,
		all: f.readers.all, held: f.applier.Tables(), seen: set.digest(), found: map[uint64]*tableSet{},
	}
	f.backfill.lookAgain = f.watch.again
	for _, t := range set.tables {
		f.backfill.want(t, f.applier)
	}
	return f, nil
}

func heldTables(defs []storage.Definition) []source.TableID {
	var list []source.TableID
	for _, d := range defs {
		for _, p := range d.Tables {
			list = append(list, p.Table)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// run follows the stream until it breaks or ctx ends.
func (f *follower) run(ctx context.Context, stream *postgres.Stream) error {
	ctx, cancel := context.WithCancelCause(ctx)
	f.stream, f.watch.stream = stream, stream
	events := make(chan event, eventQueue)
	var others sync.WaitGroup
	for _, work := range []func(context.Context) error{
		func(ctx context.Context) error { return f.read(ctx, stream, events) },
		f.backfill.Run,
		f.watch.Run,
	} {
		others.Go(func() { cancel(work(ctx)) })
	}
	err := f.apply(ctx, events)
	cancel(err)
	others.Wait()
	stream.Close()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// event is an event of the stream, its transaction prepared.
type event struct {
	postgres.Event
	txn *replicate.Prepared
}

// read takes events from the stream and evaluates their rows, ahead of apply.
func (f *follower) read(ctx context.Context, stream *postgres.Stream, events chan<- event) error {
	preparer := replicate.NewPreparer(f.backfill.evaluator())
	for {
		next, err := stream.Next(ctx)
		if err != nil {
			return err
		}
		ev := event{Event: next}
		if next.Txn != nil {
			if e := f.backfill.evaluator(); e != preparer.Evaluator() {
				preparer = replicate.NewPreparer(e)
			}
			ev.txn = preparer.Prepare(next.Txn)
		}
		select {
		case events <- ev:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// apply applies events as they come. Transactions that are waiting already share a
// commit; as soon as none waits, what was applied is committed and published.
func (f *follower) apply(ctx context.Context, events <-chan event) error {
	commit := func(b *storage.Batch) error { return f.commit(ctx, b) }
	for _, id := range f.gone {
		if err := f.applier.Forget(id, commit); err != nil {
			return err
		}
	}
	if err := f.switchDeploy(commit); err != nil { // nothing may be new
		return err
	}
	tick := time.NewTicker(idleProgress)
	defer tick.Stop()
	var ahead []event // taken from the queue, to be applied next
	for {
		var ev event
		if len(ahead) > 0 {
			ev, ahead = ahead[0], ahead[1:]
			if err := f.step(ev, commit); err != nil {
				return err
			}
			continue
		}
		select {
		case ev = <-events:
		default:
			if err := f.settle(commit); err != nil {
				return err
			}
			select {
			case ev = <-events:
			case <-tick.C:
				f.health.touch(time.Now())
				if err := f.idle(commit); err != nil {
					return err
				}
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		var err error
		if ahead, err = f.lookAhead(ev, events); err != nil {
			return err
		}
		if err := f.step(ev, commit); err != nil {
			return err
		}
	}
}

// step applies an event, and commits if much has gathered.
func (f *follower) step(ev event, commit replicate.CommitFunc) error {
	if err := f.event(ev, commit); err != nil {
		return err
	}
	if f.txns >= groupTxns {
		return f.settle(commit)
	}
	return nil
}

func (f *follower) event(ev event, commit replicate.CommitFunc) error {
	f.health.progress(time.Now())
	switch {
	case ev.txn != nil:
		return f.transaction(ev.txn, commit)
	case ev.Table != nil:
		return f.table(ev.Table, commit)
	case !f.inTxn:
		f.lsn = max(f.lsn, ev.LSN)
	}
	return nil
}

func (f *follower) transaction(tx *replicate.Prepared, commit replicate.CommitFunc) error {
	if err := f.applier.ApplyPrepared(tx, commit); err != nil {
		return err
	}
	f.activity.applied(tx.Txn)
	f.inTxn = tx.More
	if tx.More {
		return nil
	}
	f.lsn = max(f.lsn, tx.Commit)
	f.txns++
	for _, m := range tx.Messages {
		if err := f.message(m, commit); err != nil {
			return err
		}
	}
	return nil
}

// message acts on a mark that we wrote into the source's log. Marks of another
// process, or of an earlier life of this one, are for nobody.
func (f *follower) message(m source.Message, commit replicate.CommitFunc) error {
	if bytes.Equal(m.Content, checkpointMark) {
		f.marked = true
		return nil
	}
	words := strings.Fields(string(m.Content))
	if len(words) < 3 || words[1] != f.backfill.run {
		return nil
	}
	id, err := strconv.ParseUint(words[2], 10, 64)
	if err != nil {
		return nil
	}
	switch words[0] {
	case "low":
		if table, ok := f.backfill.tableOf(id); ok {
			f.applier.Low(id, table)
		}
	case "high":
		return f.merge(id, commit)
	case "catalog":
		if set := f.watch.take(id); set != nil {
			return f.catalog(set, commit)
		}
	}
	return nil
}

// merge applies a chunk whose high watermark has come.
func (f *follower) merge(id uint64, commit replicate.CommitFunc) error {
	chunk := f.backfill.arrived(id)
	if chunk == nil || chunk.Chunk == nil {
		f.applier.Abandon(id)
		return nil
	}
	err := f.applier.Merge(id, chunk.Chunk, f.lsn, commit)
	if err != nil && !errors.Is(err, replicate.ErrWindow) {
		return err
	}
	if err == nil {
		f.activity.merged(len(chunk.Rows))
	}
	reading, _, more := f.applier.Reading(chunk.Table.ID)
	chunk.merged <- merged{err: err, reading: reading, more: more}
	f.report()
	return f.switchDeploy(commit)
}

// settle commits and publishes what was applied.
func (f *follower) settle(commit replicate.CommitFunc) error {
	f.txns = 0
	if f.inTxn {
		return nil
	}
	if f.applier.Pending() || f.parts && f.applier.Consistent(f.lsn) {
		if err := f.applier.Flush(f.lsn, commit); err != nil {
			return err
		}
		f.report()
		if f.parts {
			return nil
		}
		return f.switchDeploy(commit)
	}
	// The source moved on without anything for us: sessions that wait for a write
	// checkpoint need to know. Where they learn of it from the store, it is recorded
	// at once if one may be waiting; otherwise the store can wait.
	publishable := !f.parts && f.applier.Consistent(f.lsn)
	if f.hub == nil {
		if f.marked && publishable {
			return f.idle(commit)
		}
	} else if latest := f.hub.Latest(); f.lsn > latest.LSN && publishable {
		latest.LSN = f.lsn
		f.hub.Publish(latest, checkpoint.Changes{})
	}
	if f.state.next != nil {
		return f.switchDeploy(commit) // it may have waited for the stream to come this far
	}
	return nil
}

// idle records the position now and then, so that the source can forget its log.
func (f *follower) idle(commit replicate.CommitFunc) error {
	if !f.inTxn && !f.applier.Pending() && f.lsn > f.saved && f.applier.Consistent(f.lsn) {
		return f.applier.Flush(f.lsn, commit)
	}
	return nil
}

// commit makes a batch durable and tells everyone concerned.
func (f *follower) commit(ctx context.Context, b *storage.Batch) error {
	if f.hub != nil {
		f.changes.add(b)
	}
	f.health.touch(time.Now())
	if !b.Publish || !f.applier.Consistent(b.LSN) {
		b.Publish, b.NoSync = false, true // it becomes durable with what is published in the end
	}
	began := time.Now()
	if err := f.store.Commit(ctx, b); err != nil {
		return err
	}
	f.activity.committed(b, began)
	if f.parts = !b.Publish; f.parts {
		f.explainHold()
		return nil
	}
	f.saved = b.LSN
	snap, err := f.store.Snapshot()
	if err != nil {
		return err
	}
	at := snap.Checkpoint()
	snap.Close()
	f.marked = false
	if f.hub != nil {
		f.hub.Publish(at, f.changes.take())
	}
	f.activity.published(at)
	f.stream.Confirm(f.store.DurableLSN())
	if f.held {
		f.reconciled(at)
	}
	if f.torn {
		f.torn = false
		f.health.note(alterNote, "", false)
		f.log.Info("the altered table is read: clients are served the present state again", "checkpoint", at)
	}
	return nil
}

// switchDeploy makes the next deploy current once nothing of it is left to read.
func (f *follower) switchDeploy(commit replicate.CommitFunc) error {
	s := f.state
	if s.next == nil {
		f.deployer.current(f.wanted)
		return nil
	}
	if !s.switched || len(f.blocked) > 0 || !f.applier.Backfilled() || !f.applier.Consistent(f.lsn) {
		return nil
	}
	if f.applier.Pending() {
		if err := f.applier.Flush(f.lsn, commit); err != nil {
			return err
		}
	}
	s.record.State = storage.DeployServing
	if err := commit(&storage.Batch{Deploy: &s.record, LSN: f.lsn, Publish: true}); err != nil {
		return fmt.Errorf("switch deploy: %w", err)
	}
	drop := s.drop
	s.current, s.text, s.next, s.switched, s.drop = s.next, s.record.SyncConfig, nil, false, nil
	eval := replicate.NewEvaluator(f.secret, s.current, nil)
	f.readers = newReaders(s.current)
	f.applier.SetEvaluator(eval, s.current.Has)
	f.backfill.setEvaluator(eval)
	f.watch.expect(f.readers.all, f.applier.Tables())
	// Sessions must know that their deploy was replaced before its data goes.
	f.deploys.set(s.current, s.text)
	f.health.setServing()
	f.deployer.current(f.wanted)
	f.log.Info("sync config is current", "deploy", s.record.ID, "streams", len(s.current.Plan.Streams), "definitions", len(s.current.IDs), "lsn", f.lsn)
	if len(drop) == 0 {
		return nil
	}
	if err := commit(&storage.Batch{Drop: drop, LSN: f.lsn, Publish: true}); err != nil {
		return fmt.Errorf("drop definitions of the former deploy: %w", err)
	}
	return nil
}

// report writes the problems of rows to the log.
func (f *follower) report() {
	list, dropped := f.applier.Problems()
	for _, p := range list {
		f.log.Warn("row problem", "table", p.Table, "definition", p.Definition, "problem", p.Message)
	}
	if dropped > 0 {
		f.log.Warn("more row problems", "count", dropped)
	}
}
