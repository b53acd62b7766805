// Package sim drives the whole pipeline under a seed: a scripted source with
// transactions and backfill chunks, the real replication core, the real embedded
// store on a file system that crashes, the real session core, and model clients
// that drop, lag and come back, while compactions go on. After every completed checkpoint a client's rows
// must be those of its queries on the source as of that checkpoint.
//
// It belongs to the tests of all these packages. It has no clock, socket or
// goroutine: a failure replays from its seed.
package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/checkpoint"
	"github.com/millrace-sync/millrace/internal/deploy"
	"github.com/millrace-sync/millrace/internal/replicate"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/pebblestore"
	"github.com/millrace-sync/millrace/internal/streams"
)

// Config says what to simulate.
type Config struct {
	Seed  uint64
	Steps int
	// SyncConfig is the config under test; its streams read the tables notes and memos
	// (id, owner, body) only. Ids of notes begin with n, those of memos with m.
	SyncConfig string
	// Want gives the ids and bodies that a user must end up with.
	Want func(user string, rows map[string]Note) map[string]string
}

// Note is a row of a simulated table, but for its id.
type Note struct{ Owner, Body string }

// notes and memos are the simulated tables.
var (
	notes  = newTable(7, "notes")
	memos  = newTable(9, "memos")
	tables = []*source.Table{notes, memos}
)

func newTable(id source.TableID, name string) *source.Table {
	return &source.Table{
		ID: id, Schema: "public", Name: name,
		Columns: []source.Column{{Name: "id", Type: text{}, Key: true}, {Name: "owner", Type: text{}}, {Name: "body", Type: text{}}},
	}
}

// tableOf returns the table that a row is of.
func tableOf(id string) *source.Table {
	if id[0] == 'm' {
		return memos
	}
	return notes
}

// text is a type whose values are their bytes.
type text struct{}

func (text) Name() string { return "text" }

func (text) Decode(d source.Datum, _ source.Form) (source.Value, error) {
	if d.Encoding == source.Null {
		return source.Value{}, nil
	}
	return source.String(string(d.Bytes)), nil
}

func datum(s string) source.Datum {
	return source.Datum{Encoding: source.Text, Bytes: []byte(s)}
}

func row(id string, n Note) []source.Datum {
	return []source.Datum{datum(id), datum(n.Owner), datum(n.Body)}
}

// users own notes; the last owns none.
var users = []string{"ann", "bob", "cem", "dia"}

// event is one place in the source's log.
type event struct {
	txn *source.Txn
	// low and high are the watermarks of a chunk, and table what the former is of.
	low, high uint64
	table     *source.Table
}

// World is one simulated run.
type World struct {
	config Config
	rng    *rand.Rand
	plan   *streams.Plan

	// the source
	rows    map[string]Note   // of all tables
	log     []event           // log[i] ends at LSN i+1
	history []map[string]Note // history[lsn] is rows as of lsn
	chunk   uint64            // the last that was begun

	// the service
	fs          *vfs.MemFS
	store       *pebblestore.Store
	hub         *checkpoint.Hub
	applier     *replicate.Applier
	deploy      *deploy.Deploy
	serving     bool
	at          source.LSN // applied
	confirmed   source.LSN
	changes     checkpoint.Changes
	unpublished bool // the store has parts that are not published
	published   map[bucket.OpID]source.LSN
	parts       []*part // of tables, that are left to be read

	clients []*client
	// Completed counts the checkpoints that clients completed, Crashes the crashes.
	Completed, Crashes int
	// Rereads counts the chunks that were read again, Ahead those merged before one
	// that precedes them.
	Rereads, Ahead int
	Compacted      bucket.Compacted
}

// part is a range of a table's key that is left to be read, and the chunk of it that
// is being read, if there is one. As many as chunksAtOnce are read beside each other.
type part struct {
	table        *source.Table
	reading      replicate.Reading
	after, until []string
	chunk        *chunk
}

const chunksAtOnce = 3

// chunk is a chunk on its way: its low watermark is written, then it is read, then
// its high watermark is written.
type chunk struct {
	id   uint64
	read bool
	high bool
	rows map[string]Note
	last []string
	done bool

	unseen []source.XID
	next   source.XID
}

// New returns a World with some rows in its table and nothing replicated.
func New(c Config) (*World, error) {
	plan, diagnostics := streams.Compile(streams.Source{File: "sim.yaml", Text: c.SyncConfig})
	if plan == nil {
		return nil, fmt.Errorf("sync config: %s", streams.Format(diagnostics))
	}
	w := &World{
		config: c, plan: plan, rng: rand.New(rand.NewPCG(c.Seed, 0)), rows: map[string]Note{},
		fs: vfs.NewCrashableMem(), published: map[bucket.OpID]source.LSN{},
	}
	for range w.rng.IntN(150) {
		w.rows[w.id()] = w.note()
	}
	w.history = append(w.history, maps.Clone(w.rows))
	for _, u := range users {
		w.clients = append(w.clients, newClient(w, u))
	}
	return w, w.start()
}

func (w *World) id() string { return w.idOf(tables[w.rng.IntN(len(tables))]) }

func (w *World) idOf(t *source.Table) string { return fmt.Sprintf("%c%d", t.Name[0], w.rng.IntN(150)) }

func (w *World) note() Note {
	return Note{users[w.rng.IntN(len(users)-1)], strings.Repeat("x", w.rng.IntN(5))}
}

// start opens the store and makes a replicator that goes on from its checkpoint.
func (w *World) start() error {
	ctx := context.Background()
	var err error
	if w.store, err = pebblestore.Open(ctx, pebblestore.Options{Dir: "data", FS: w.fs, CacheSize: 1 << 20, MemTableSize: 256 << 10, IngestSize: w.rng.IntN(4000)}); err != nil {
		return err
	}
	return w.recover()
}

// recover makes a replicator that goes on from the store's checkpoint.
func (w *World) recover() error {
	ctx := context.Background()
	rec, err := w.store.Recover(ctx)
	if err != nil {
		return err
	}
	if rec.Checkpoint.LSN < w.confirmed {
		return fmt.Errorf("confirmed %s to the source, and have only %s after a crash", w.confirmed, rec.Checkpoint.LSN)
	}
	w.at, w.unpublished = rec.Checkpoint.LSN, false
	w.hub = checkpoint.NewHub(rec.Checkpoint)
	w.published[rec.Checkpoint.Op] = w.at
	diff := deploy.Compare(rec.Definitions, w.plan, rec.NextDefinition)
	w.deploy = deploy.New(w.plan, diff.Definitions, rec.Epoch)
	w.serving = len(diff.New) == 0
	w.changes = checkpoint.Changes{}
	limits := replicate.Limits{Ops: 1 + w.rng.IntN(12), Bytes: 1 << 20}
	refetch := func(*source.Table, []source.Datum) ([]source.Datum, bool, error) {
		return nil, false, errors.New("nothing was left out")
	}
	w.applier = replicate.NewApplier(w.store, refetch, replicate.NewEvaluator(rec.Secret, w.deploy, nil), rec.NextOp, limits)
	if !w.serving {
		var pending []storage.Definition
		for _, i := range diff.New {
			pending = append(pending, diff.Definitions[i])
		}
		if err := w.store.Commit(ctx, &storage.Batch{Definitions: pending, LSN: w.at, Publish: true}); err != nil {
			return err
		}
	}
	w.applier.Backfill(diff.Definitions, tables, w.reads)
	w.divide()
	return nil
}

// reads reports whether a definition reads a table.
func (w *World) reads(id storage.DefinitionID, t *source.Table) bool {
	at := slices.Index(w.deploy.IDs, id)
	return slices.ContainsFunc(w.plan.Definitions[at].Tables, func(p streams.TablePattern) bool { return p.Matches(t) })
}

// divide divides what is left of the tables into parts.
func (w *World) divide() {
	w.parts = nil
	for _, t := range tables {
		reading, progress, pending := w.applier.Reading(t.ID)
		if !pending {
			continue
		}
		var bounds []string
		for range w.rng.IntN(4) {
			if id := w.idOf(t); progress.After == nil || id > progress.After[0] {
				bounds = append(bounds, id)
			}
		}
		slices.Sort(bounds)
		after := progress.After
		for _, id := range slices.Compact(bounds) {
			w.parts = append(w.parts, &part{table: t, reading: reading, after: after, until: []string{id}})
			after = []string{id}
		}
		w.parts = append(w.parts, &part{table: t, reading: reading, after: after})
	}
}

// Run carries out the steps and then lets everything come to rest.
func (w *World) Run() error {
	for i := range w.config.Steps {
		if err := w.step(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	if err := w.rest(); err != nil {
		return fmt.Errorf("at the end: %w", err)
	}
	return w.store.Close()
}

func (w *World) step() error {
	switch n := w.rng.IntN(100); {
	case n < 20:
		w.transaction()
		return nil
	case n < 38:
		w.readChunk()
		return nil
	case n < 60:
		return w.follow()
	case n < 97:
		return w.anyClient().step()
	case n < 98:
		return w.compact()
	case n < 99:
		return w.breakConnection()
	default:
		return w.crash()
	}
}

func (w *World) anyClient() *client { return w.clients[w.rng.IntN(len(w.clients))] }

// compact compacts the store, all of it or until it is interrupted.
func (w *World) compact() error {
	if w.unpublished {
		return nil // it would wait for them to be published
	}
	left := 1 << 30
	if w.rng.IntN(2) == 0 {
		left = w.rng.IntN(30)
	}
	stats, err := w.store.Compact(&fuse{context.Background(), left}, storage.CompactOptions{Incremental: w.rng.IntN(2) == 0})
	w.Compacted.Add(stats.Compacted)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// fuse is a context that is canceled once it has been asked a number of times.
type fuse struct {
	context.Context
	left int
}

func (f *fuse) Err() error {
	if f.left--; f.left < 0 {
		return context.Canceled
	}
	return nil
}

// transaction changes the source.
func (w *World) transaction() {
	xid := source.XID(len(w.log) + 1)
	tx := &source.Txn{XID: xid, Commit: source.LSN(len(w.log) + 1)}
	if w.rng.IntN(100) == 0 {
		t := tables[w.rng.IntN(len(tables))]
		tx.Changes = append(tx.Changes, source.Change{Kind: source.Truncate, Table: t})
		maps.DeleteFunc(w.rows, func(id string, _ Note) bool { return tableOf(id) == t })
	}
	if w.rng.IntN(16) == 0 {
		// One row changes again and again.
		id := w.id()
		for i := range w.rng.IntN(60) {
			n := Note{users[0], strings.Repeat("x", i%5)}
			kind := source.Update
			if _, exists := w.rows[id]; !exists {
				kind = source.Insert
			}
			w.rows[id] = n
			tx.Changes = append(tx.Changes, source.Change{Kind: kind, Table: tableOf(id), New: row(id, n)})
		}
	}
	for range w.rng.IntN(5) {
		id := w.id()
		old, exists := w.rows[id]
		switch {
		case !exists:
			n := w.note()
			w.rows[id] = n
			tx.Changes = append(tx.Changes, source.Change{Kind: source.Insert, Table: tableOf(id), New: row(id, n)})
		case w.rng.IntN(3) == 0:
			delete(w.rows, id)
			tx.Changes = append(tx.Changes, source.Change{Kind: source.Delete, Table: tableOf(id), Old: []source.Datum{datum(id), {}, {}}})
		case w.rng.IntN(6) == 0:
			to := w.idOf(tableOf(id))
			if _, taken := w.rows[to]; taken {
				continue
			}
			delete(w.rows, id)
			w.rows[to] = old
			tx.Changes = append(tx.Changes, source.Change{Kind: source.Update, Table: tableOf(id), Old: []source.Datum{datum(id), {}, {}}, New: row(to, old)})
		default:
			n := w.note()
			if w.rng.IntN(4) == 0 {
				n = old
			}
			w.rows[id] = n
			tx.Changes = append(tx.Changes, source.Change{Kind: source.Update, Table: tableOf(id), New: row(id, n)})
		}
	}
	w.append(event{txn: tx})
}

func (w *World) append(e event) {
	if e.txn == nil {
		e.txn = &source.Txn{XID: source.XID(len(w.log) + 1), Commit: source.LSN(len(w.log) + 1)}
	}
	w.log = append(w.log, e)
	w.history = append(w.history, maps.Clone(w.rows))
}

// readChunk goes on with one of the chunks that are being read, or begins another.
// Whatever the dice put there comes between.
func (w *World) readChunk() {
	if len(w.parts) == 0 {
		return
	}
	p := w.parts[w.rng.IntN(len(w.parts))]
	switch c := p.chunk; {
	case c == nil:
		busy := 0
		for _, p := range w.parts {
			if p.chunk != nil {
				busy++
			}
		}
		if busy < chunksAtOnce {
			w.chunk++
			p.chunk = &chunk{id: w.chunk}
			w.append(event{low: w.chunk, table: p.table})
		}
	case !c.read:
		w.take(p)
	case !c.high:
		c.high = true
		w.append(event{high: c.id})
	}
}

// take reads the rows of a chunk. Its snapshot may lack the newest transactions
// though they are in the log, as Postgres' may.
func (w *World) take(p *part) {
	c := p.chunk
	c.read, c.rows, c.next = true, map[string]Note{}, source.XID(len(w.log)+1)
	seen := len(w.log)
	if w.rng.IntN(2) == 0 {
		seen = max(0, seen-w.rng.IntN(6))
	}
	for x := seen; x < len(w.log); x++ {
		c.unseen = append(c.unseen, source.XID(x+1))
	}
	if len(c.unseen) > 0 && w.rng.IntN(2) == 0 {
		// None of them has completed, so they are not even listed.
		c.next, c.unseen = c.unseen[0], nil
	}
	limit := 5 + w.rng.IntN(60)
	for _, id := range slices.Sorted(maps.Keys(w.history[seen])) {
		if tableOf(id) != p.table || p.after != nil && id <= p.after[0] || p.until != nil && id > p.until[0] {
			continue
		}
		c.rows[id] = w.history[seen][id]
		if c.last = []string{id}; len(c.rows) == limit {
			return
		}
	}
	if c.done = p.until == nil; !c.done {
		c.last = p.until
	}
}

// follow lets the replicator apply the next events and perhaps publish.
func (w *World) follow() error {
	for range 1 + w.rng.IntN(4) {
		if int(w.at) == len(w.log) {
			break
		}
		if err := w.apply(w.log[w.at]); err != nil {
			return err
		}
	}
	if w.rng.IntN(2) == 0 {
		return w.flush()
	}
	return nil
}

func (w *World) apply(e event) error {
	// A transaction may come in parts.
	tx := *e.txn
	for len(tx.Changes) > 1 && w.rng.IntN(3) == 0 {
		cut := 1 + w.rng.IntN(len(tx.Changes)-1)
		part := tx
		part.Changes, part.More = tx.Changes[:cut], true
		tx.Changes = tx.Changes[cut:]
		if err := w.applier.Apply(&part, w.commit); err != nil {
			return err
		}
	}
	if err := w.applier.Apply(&tx, w.commit); err != nil {
		return err
	}
	if e.low != 0 {
		w.applier.Low(e.low, e.table.ID)
	}
	w.at++
	if e.high != 0 {
		return w.merge(e.high)
	}
	return nil
}

func (w *World) merge(id uint64) error {
	at := slices.IndexFunc(w.parts, func(p *part) bool { return p.chunk != nil && p.chunk.id == id })
	if at < 0 {
		w.applier.Abandon(id) // read in an earlier life
		return nil
	}
	p := w.parts[at]
	c := p.chunk
	p.chunk = nil
	bound := w.applier.Bind(p.table)
	merging := &replicate.Chunk{Table: bound, Reading: p.reading, After: p.after, Last: c.last, Done: c.done, Unseen: c.unseen, Next: c.next}
	var s replicate.Scratch
	for _, id := range slices.Sorted(maps.Keys(c.rows)) {
		r, err := bound.Evaluate(row(id, c.rows[id]), &s)
		if err != nil {
			return err
		}
		merging.Rows = append(merging.Rows, r)
	}
	switch err := w.applier.Merge(id, merging, w.at, w.commit); {
	case errors.Is(err, replicate.ErrWindow):
		w.Rereads++
		return nil
	case err != nil:
		return err
	}
	if p.after = c.last; c.done || p.until != nil && p.after[0] == p.until[0] {
		w.parts = slices.Delete(w.parts, at, at+1)
	}
	if at > 0 {
		w.Ahead++
	}
	return w.flush()
}

func (w *World) flush() error {
	if err := w.applier.Flush(w.at, w.commit); err != nil {
		return err
	}
	w.serving = w.serving || w.applier.Backfilled()
	return nil
}

func (w *World) commit(b *storage.Batch) error {
	if err := w.store.Commit(context.Background(), b); err != nil {
		return err
	}
	for i := range b.Ops {
		if k := b.Ops[i].Bucket; !slices.Contains(w.changes.Buckets, k) {
			w.changes.Buckets = append(w.changes.Buckets, k)
		}
	}
	for i := range b.Lookups {
		if k := b.Lookups[i].Lookup; !slices.Contains(w.changes.Lookups, k) {
			w.changes.Lookups = append(w.changes.Lookups, k)
		}
	}
	if w.unpublished = !b.Publish; w.unpublished {
		return nil
	}
	snap, err := w.store.Snapshot()
	if err != nil {
		return err
	}
	defer snap.Close()
	c := snap.Checkpoint()
	w.published[c.Op] = c.LSN
	// The store shows what is new a little before anybody is told.
	for w.rng.IntN(10) == 0 {
		if err := w.anyClient().step(); err != nil {
			return err
		}
		if err := w.compact(); err != nil {
			return err
		}
	}
	w.hub.Publish(c, w.changes)
	w.changes = checkpoint.Changes{}
	w.confirmed = max(w.confirmed, w.store.DurableLSN())
	return nil
}

// breakConnection loses the connection to the source, perhaps in the middle of a
// transaction: the replicator starts again from the store's checkpoint.
func (w *World) breakConnection() error {
	w.disconnect()
	return w.recover()
}

func (w *World) disconnect() {
	for _, c := range w.clients {
		c.disconnect()
	}
}

// crash loses power: the file system keeps what was synced, and of the rest what
// the dice say.
func (w *World) crash() error {
	w.Crashes++
	w.disconnect()
	if len(w.log) > int(w.at) && w.rng.IntN(2) == 0 {
		// in the middle of a transaction
		tx := *w.log[w.at].txn
		tx.More = true
		if err := w.applier.Apply(&tx, w.commit); err != nil {
			return err
		}
	}
	after := w.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: w.rng.IntN(101), RNG: w.rng})
	if err := w.store.Close(); err != nil {
		return err
	}
	w.fs = after
	return w.start()
}

// rest finishes everything and compares every client with the source.
func (w *World) rest() error {
	for !w.serving || int(w.at) < len(w.log) {
		w.readChunk()
		if int(w.at) < len(w.log) {
			if err := w.apply(w.log[w.at]); err != nil {
				return err
			}
		}
		if err := w.flush(); err != nil {
			return err
		}
	}
	if err := w.flush(); err != nil {
		return err
	}
	for _, c := range w.clients {
		if err := c.settle(); err != nil {
			return err
		}
		if want := w.config.Want(c.user, w.rows); !maps.Equal(c.visible, want) {
			return fmt.Errorf("client %s ends with %v, want %v", c.user, c.visible, want)
		}
	}
	return nil
}
