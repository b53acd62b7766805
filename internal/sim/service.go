package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/millrace-sync/millrace/internal/checkpoint"
	"github.com/millrace-sync/millrace/internal/deploy"
	"github.com/millrace-sync/millrace/internal/replicate"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/pebblestore"
	"github.com/millrace-sync/millrace/internal/streams"
)

// service is the replicating side of the service, as package server wires it, but
// step by step.
type service struct {
	*dice
	db    *database
	plans []plan
	fs    *vfs.MemFS
	store *pebblestore.Store
	hub   *checkpoint.Hub

	wanted  int // of plans: to be deployed
	current *deploy.Deploy
	next    *deploy.Deploy
	record  storage.Deploy       // of next
	pending []storage.Definition // of next, not complete
	drop    []storage.DefinitionID
	secret  [32]byte
	epoch   string

	eval      *replicate.Evaluator
	applier   *replicate.Applier
	seen      map[source.TableID]*source.Table // as the stream last showed them
	at        source.LSN                       // applied
	confirmed source.LSN
	changes   checkpoint.Changes
	parts     bool // the store has parts that are not published
	held      bool // until what is stored has been compared

	reading []*part
	chunk   uint64 // the last

	views map[storage.Checkpoint]*view // what clients must see
	sent  *journal
	// committed is called when something was published and nobody has been told yet.
	committed func() error
	// replaced is called when another deploy has become current.
	replaced func()

	Crashes, Rereads, Ahead, Reconciled, Deploys, Altered int
}

// part is a part of a table that is still to be read, or, with sweep, all that is
// stored of it and still to be looked up.
type part struct {
	table        *table
	version      *source.Table
	reading      replicate.Reading
	after, until []string
	sweep        bool
	stored       []source.RowKey
	chunk        *chunk // nil if none is on its way
	asked        int    // of stored, by chunk
}

// chunksAtOnce is how many chunks are on their way at the same time.
const chunksAtOnce = 3

// view is the state of the source that a checkpoint shows.
type view struct {
	rows map[string]Note
	// loose says that a table was altered and is still being read: its rows may show in
	// either version, but as the same transactions left them.
	loose bool
}

// plan is a compiled sync config.
type plan struct {
	Variant
	compiled *streams.Plan
}

// start opens the store and makes a replicator that goes on from its checkpoint.
func (s *service) start() error {
	var err error
	s.store, err = pebblestore.Open(context.Background(), pebblestore.Options{Dir: "data", FS: s.fs, CacheSize: 1 << 20, MemTableSize: 256 << 10, IngestSize: s.IntN(4000)})
	if err != nil {
		return err
	}
	s.hub = checkpoint.NewHub(s.store.Recovered().Checkpoint)
	return s.connect()
}

// connect begins a life of the connection to the source.
func (s *service) connect() error {
	ctx := context.Background()
	rec, err := s.store.Recover(ctx)
	if err != nil {
		return err
	}
	s.sent.takeBack()
	s.parts, s.changes = false, checkpoint.Changes{All: true}
	if rec, err = s.resume(ctx, rec); err != nil {
		return err
	}
	if err := s.prepare(rec); err != nil {
		return err
	}
	s.eval = replicate.NewEvaluator(rec.Secret, s.current, s.next)
	limits := replicate.Limits{Ops: 1 + s.IntN(12), Bytes: 1 << 20}
	s.applier = replicate.NewApplier(s.store, s.refetch, s.eval, rec.NextOp, limits)
	defs := rec.Definitions
	if s.next != nil {
		if err := s.store.Commit(ctx, &storage.Batch{Definitions: s.pending, Deploy: &s.record, LSN: rec.Checkpoint.LSN, Publish: true}); err != nil {
			return err
		}
		for _, d := range s.pending {
			defs = slices.DeleteFunc(defs, func(had storage.Definition) bool { return had.ID == d.ID })
			defs = append(defs, d)
		}
	}
	defs = slices.DeleteFunc(slices.Clone(defs), func(d storage.Definition) bool {
		return !(s.current != nil && s.current.Has(d.ID)) && !(s.next != nil && s.next.Has(d.ID))
	})
	s.applier.Backfill(defs, s.db.now(), s.reads)
	s.applier.Resumed(s.db.end())
	s.seen, s.reading, s.held = map[source.TableID]*source.Table{}, nil, s.applier.Reconciling()
	for _, t := range s.db.tables {
		s.seen[t.id] = t.now
		s.divide(t)
	}
	return s.switchDeploy()
}

// resume returns what is stored, marked stale if changes were missed, and makes the
// slot ready.
func (s *service) resume(ctx context.Context, rec storage.Recovered) (storage.Recovered, error) {
	stale := slices.ContainsFunc(rec.Definitions, func(d storage.Definition) bool { return d.State == storage.Stale })
	if !stale && rec.Checkpoint.LSN < s.confirmed {
		return rec, fmt.Errorf("confirmed %s to the source, and have only %s after a crash", s.confirmed, rec.Checkpoint.LSN)
	}
	if s.db.noSlot && len(rec.Definitions) > 0 && !stale {
		if err := s.store.Commit(ctx, &storage.Batch{Definitions: replicate.Distrust(rec.Definitions), Publish: true}); err != nil {
			return rec, err
		}
		was := s.views[rec.Checkpoint]
		var err error
		if rec, err = s.store.Recover(ctx); err != nil {
			return rec, err
		}
		s.views[rec.Checkpoint] = was // the old state, without a position
		s.hub.Publish(rec.Checkpoint, checkpoint.Changes{})
		s.confirmed, stale = 0, true
	}
	if s.db.noSlot {
		s.db.noSlot, s.db.slot, s.confirmed = false, s.db.end(), 0
		s.at = s.db.slot
		return rec, nil
	}
	if s.at = rec.Checkpoint.LSN; stale || s.at == 0 {
		s.at = s.db.slot
	}
	return rec, nil
}

// prepare compares what is stored with the plan that is wanted.
func (s *service) prepare(rec storage.Recovered) error {
	s.secret, s.epoch = rec.Secret, rec.Epoch
	s.current, s.next, s.drop, s.pending = nil, nil, nil, nil
	s.record = storage.Deploy{ID: 1, SyncConfig: s.plans[s.wanted].Text, State: storage.DeployPending}
	var serving *storage.Deploy
	for i := range rec.Deploys {
		s.record.ID = rec.Deploys[i].ID + 1
		if rec.Deploys[i].State == storage.DeployServing {
			serving = &rec.Deploys[i]
		}
	}
	p := &s.plans[s.wanted]
	var served []storage.DefinitionID
	if serving != nil {
		served = serving.Definitions
	}
	diff := deploy.Compare(rec.Definitions, served, p.compiled, rec.NextDefinition)
	for i, d := range diff.Definitions {
		for _, had := range rec.Definitions {
			if had.Hash == p.compiled.Definitions[i].Hash && had.ID != d.ID {
				return fmt.Errorf("definition %d became %d: its buckets are renamed", had.ID, d.ID)
			}
		}
	}
	if len(diff.Abandoned) > 0 {
		if err := s.store.Commit(context.Background(), &storage.Batch{Drop: diff.Abandoned, LSN: rec.Checkpoint.LSN, Publish: true}); err != nil {
			return err
		}
	}
	next := deploy.New(p.compiled, diff.Definitions, rec.Epoch)
	if serving != nil {
		if s.current = s.restore(rec, serving); serving.SyncConfig == p.Text && len(diff.New) == 0 && len(diff.Drop) == 0 {
			return nil
		}
	}
	s.next, s.drop, s.record.Definitions = next, diff.Drop, next.IDs
	for _, i := range diff.New {
		s.pending = append(s.pending, diff.Definitions[i])
	}
	return nil
}

// restore returns the deploy that was being served.
func (s *service) restore(rec storage.Recovered, serving *storage.Deploy) *deploy.Deploy {
	i := slices.IndexFunc(s.plans, func(p plan) bool { return p.Text == serving.SyncConfig })
	p := &s.plans[i]
	defs := make([]storage.Definition, len(p.compiled.Definitions))
	for j, d := range p.compiled.Definitions {
		defs[j] = rec.Definitions[slices.IndexFunc(rec.Definitions, func(had storage.Definition) bool { return had.Hash == d.Hash })]
	}
	return deploy.New(p.compiled, defs, rec.Epoch)
}

// want gives the rows that a user of a deploy must see.
func (s *service) want(d *deploy.Deploy, user string, rows map[string]Note) map[string]string {
	i := slices.IndexFunc(s.plans, func(p plan) bool { return p.compiled == d.Plan })
	return s.plans[i].Want(user, rows)
}

// reads reports whether a definition reads a table.
func (s *service) reads(id storage.DefinitionID, t *source.Table) bool {
	for _, d := range []*deploy.Deploy{s.current, s.next} {
		if d == nil {
			continue
		}
		if at := slices.Index(d.IDs, id); at >= 0 {
			return slices.ContainsFunc(d.Plan.Definitions[at].Tables, func(p streams.TablePattern) bool { return p.Matches(t) })
		}
	}
	return false
}

// refetch reads a row as it is now, or was a little before: at least as after left it.
func (s *service) refetch(t *source.Table, identity []source.Datum, after source.XID) (replicate.Refetched, error) {
	if t != s.db.table(t.ID).now {
		return replicate.Refetched{Altered: true}, nil
	}
	out := replicate.Refetched{At: s.db.end()}
	if n, there := s.db.lately(source.LSN(after))[string(identity[0].Bytes)]; there {
		out.Row = row(string(identity[0].Bytes), n)
	}
	return out, nil
}

// divide divides what is left of a table into parts.
func (s *service) divide(t *table) {
	s.reading = slices.DeleteFunc(s.reading, func(p *part) bool { return p.table == t })
	reading, progress, pending := s.applier.Reading(t.id)
	if !pending {
		return
	}
	add := func(after, until []string) {
		s.reading = append(s.reading, &part{table: t, version: t.now, reading: reading, after: after, until: until})
	}
	var bounds []string
	for range s.IntN(4) {
		if id := s.db.idOf(t); progress.After == nil || id > progress.After[0] {
			bounds = append(bounds, id)
		}
	}
	slices.Sort(bounds)
	after := progress.After
	for _, id := range slices.Compact(bounds) {
		add(after, []string{id})
		after = []string{id}
	}
	add(after, nil)
}

// readChunk goes on with one of the chunks that are being read, or begins another.
// Whatever the dice put there comes between.
func (s *service) readChunk() error {
	if len(s.reading) == 0 {
		return nil
	}
	p := s.reading[s.IntN(len(s.reading))]
	switch c := p.chunk; {
	case p.version != p.table.now && (c == nil || !c.read):
		// It cannot be read any more: the stream will tell of the new version.
		s.reading = slices.DeleteFunc(s.reading, func(other *part) bool { return other.table == p.table && (other.chunk == nil || !other.chunk.high) })
	case c == nil:
		busy := 0
		for _, p := range s.reading {
			if p.chunk != nil {
				busy++
			}
		}
		if busy < chunksAtOnce {
			s.chunk++
			p.chunk = &chunk{id: s.chunk}
			s.db.append(event{low: s.chunk, table: p.version})
		}
	case !c.read:
		c.read = true
		if !p.sweep {
			s.db.readRows(p.table, c, p.after, p.until)
			return nil
		}
		p.asked = min(len(p.stored), s.IntN(40))
		c.done = p.asked == len(p.stored)
		return s.db.lookUp(p.table, c, p.stored[:p.asked])
	case !c.high:
		c.high = true
		s.db.append(event{high: c.id, table: p.version})
	}
	return nil
}

// follow lets the replicator apply the next events and perhaps publish.
func (s *service) follow() error {
	for range 1 + s.IntN(4) {
		if s.at == s.db.end() {
			break
		}
		if err := s.apply(s.db.log[s.at]); err != nil {
			return err
		}
	}
	if s.IntN(2) == 0 {
		return s.flush()
	}
	return nil
}

func (s *service) apply(e event) error {
	// A transaction may come in parts.
	tx := *e.txn
	for i := range tx.Changes {
		if t := tx.Changes[i].Table; t != s.seen[t.ID] {
			s.sees(t)
		}
	}
	for len(tx.Changes) > 1 && s.IntN(3) == 0 {
		cut := 1 + s.IntN(len(tx.Changes)-1)
		part := tx
		part.Changes, part.More = tx.Changes[:cut], true
		tx.Changes = tx.Changes[cut:]
		if err := s.applier.Apply(&part, s.commit); err != nil {
			return err
		}
	}
	if err := s.applier.ApplyPrepared(replicate.NewPreparer(s.eval).Prepare(&tx), s.commit); err != nil {
		return err
	}
	s.at++
	if e.low != 0 {
		s.applier.Low(e.low, e.table.ID)
	}
	if e.altered {
		s.sees(e.table)
	}
	if e.high != 0 {
		return s.merge(e.high)
	}
	return nil
}

// sees takes notice of the version of a table that the stream shows.
func (s *service) sees(t *source.Table) {
	s.seen[t.ID] = t
	if s.applier.Bind(t) != nil && s.applier.Reread(t, s.reads) {
		s.divide(s.db.table(t.ID))
	}
}

func (s *service) merge(id uint64) error {
	at := slices.IndexFunc(s.reading, func(p *part) bool { return p.chunk != nil && p.chunk.id == id })
	if at < 0 {
		s.applier.Abandon(id) // read in an earlier life, or of an earlier version
		return nil
	}
	p := s.reading[at]
	c := p.chunk
	p.chunk = nil
	bound := s.eval.Bind(p.version)
	if bound == nil {
		s.applier.Abandon(id)
		s.divide(p.table)
		return nil
	}
	merging := &replicate.Chunk{
		Table: bound, Reading: p.reading, After: p.after, Last: c.last, Done: c.done, Sweep: p.sweep, Gone: c.gone, Unseen: c.unseen, Next: c.next,
	}
	var scratch replicate.Scratch
	for _, id := range slices.Sorted(maps.Keys(c.rows)) {
		r, err := bound.Evaluate(row(id, c.rows[id]), &scratch)
		if err != nil {
			return err
		}
		merging.Rows = append(merging.Rows, r)
	}
	err := s.applier.Merge(id, merging, s.at, s.commit)
	if errors.Is(err, replicate.ErrWindow) {
		s.Rereads++
		if reading, _, pending := s.applier.Reading(p.table.id); !pending || reading != p.reading {
			s.divide(p.table)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if at > 0 {
		s.Ahead++
	}
	if err := s.advance(p, c); err != nil {
		return err
	}
	return s.flush()
}

// advance goes on after a chunk that was merged.
func (s *service) advance(p *part, c *chunk) error {
	switch {
	case p.sweep:
		p.stored = p.stored[p.asked:]
	default:
		p.after = c.last
	}
	if !c.done && (p.until == nil || p.after[0] != p.until[0]) {
		return nil
	}
	s.reading = slices.DeleteFunc(s.reading, func(other *part) bool { return other == p })
	if p.sweep || slices.ContainsFunc(s.reading, func(other *part) bool { return other.table == p.table }) {
		return nil
	}
	reading, progress, pending := s.applier.Reading(p.table.id)
	if !pending || !progress.Sweep {
		return nil
	}
	sweep := &part{table: p.table, version: p.version, reading: reading, sweep: true}
	s.reading = append(s.reading, sweep)
	return s.store.RowsOf(p.table.id, func(key source.RowKey, _ *storage.RowRecord) error {
		sweep.stored = append(sweep.stored, key)
		return nil
	})
}

func (s *service) flush() error {
	if !s.applier.Pending() && s.parts && !s.applier.Consistent(s.at) {
		return nil
	}
	if err := s.applier.Flush(s.at, s.commit); err != nil {
		return err
	}
	return s.switchDeploy()
}

// switchDeploy makes the next deploy current once nothing of it is left to read.
func (s *service) switchDeploy() error {
	if s.next == nil || s.parts || !s.applier.Backfilled() || !s.applier.Consistent(s.at) {
		return nil
	}
	if s.applier.Pending() {
		if err := s.applier.Flush(s.at, s.commit); err != nil {
			return err
		}
	}
	s.record.State = storage.DeployServing
	if err := s.commit(&storage.Batch{Deploy: &s.record, LSN: s.at, Publish: true}); err != nil {
		return err
	}
	drop := s.drop
	s.current, s.next, s.drop = s.next, nil, nil
	s.eval = replicate.NewEvaluator(s.secret, s.current, nil)
	s.applier.SetEvaluator(s.eval, s.current.Has)
	s.Deploys++
	s.replaced()
	if len(drop) == 0 {
		return nil
	}
	s.changes.All = true
	return s.commit(&storage.Batch{Drop: drop, LSN: s.at, Publish: true})
}

func (s *service) commit(b *storage.Batch) error {
	if !b.Publish || !s.applier.Consistent(b.LSN) {
		b.Publish, b.NoSync = false, true
	}
	if err := s.store.Commit(context.Background(), b); err != nil {
		return err
	}
	if err := s.sent.add(b); err != nil {
		return err
	}
	for i := range b.Ops {
		if k := b.Ops[i].Bucket; !slices.Contains(s.changes.Buckets, k) {
			s.changes.Buckets = append(s.changes.Buckets, k)
		}
	}
	for i := range b.Lookups {
		if k := b.Lookups[i].Lookup; !slices.Contains(s.changes.Lookups, k) {
			s.changes.Lookups = append(s.changes.Lookups, k)
		}
	}
	if s.parts = !b.Publish; s.parts {
		return nil
	}
	s.sent.keep()
	if s.held {
		s.held, s.Reconciled = false, s.Reconciled+1
	}
	snap, err := s.store.Snapshot()
	if err != nil {
		return err
	}
	defer snap.Close()
	c := snap.Checkpoint()
	s.views[c] = &view{rows: s.db.history[c.LSN], loose: slices.ContainsFunc(s.applier.Definitions(), func(d storage.Definition) bool {
		return d.State == storage.Serving && slices.ContainsFunc(d.Tables, func(p storage.TableProgress) bool { return !p.Done })
	})}
	// The store shows what is new a little before anybody is told.
	if err := s.committed(); err != nil {
		return err
	}
	s.hub.Publish(c, s.changes)
	s.changes = checkpoint.Changes{}
	s.confirmed = max(s.confirmed, s.store.DurableLSN())
	return nil
}
