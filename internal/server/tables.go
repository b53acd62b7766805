package server

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace-sync/millrace/internal/deploy"
	"github.com/millrace-sync/millrace/internal/postgres"
	"github.com/millrace-sync/millrace/internal/replicate"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/streams"
)

// catalogInterval is how often the source's catalog is looked at: tables that are
// altered, created or dropped say nothing in the stream before their next change.
const catalogInterval = 10 * time.Second

// tableSet is what the catalog says of the tables that the live deploys read.
type tableSet struct {
	tables   []*source.Table
	problems []postgres.Problem
	// gone are tables that rows are held of and that no longer exist, or no longer
	// match; a table that merely cannot be read at the moment is not among them.
	gone []source.TableID
}

// unreadable reports whether a table that rows are held of cannot be read.
func (s *tableSet) unreadable(id source.TableID) bool {
	return !slices.Contains(s.gone, id) && !slices.ContainsFunc(s.tables, func(t *source.Table) bool { return t.ID == id })
}

// digest tells sets apart.
func (s *tableSet) digest() string {
	var b strings.Builder
	for _, t := range s.tables {
		fmt.Fprintf(&b, "%d %s\n", t.ID, t.Shape())
	}
	for _, p := range s.problems {
		fmt.Fprintf(&b, "%s %v\n", p.Table, p.Err)
	}
	fmt.Fprintln(&b, s.gone)
	return b.String()
}

// readTables looks the tables of the patterns up, and those that rows are held of.
func (c *conns) readTables(ctx context.Context, patterns []streams.TablePattern, held []source.TableID) (*tableSet, error) {
	list := make([]postgres.Pattern, len(patterns))
	for i, p := range patterns {
		list[i] = postgres.Pattern{Schema: p.Schema, Name: p.Name}
	}
	set := new(tableSet)
	var err error
	set.tables, set.problems, err = postgres.Tables(ctx, c.catalog, c.config.Publication, c.registry, list)
	if err != nil {
		return nil, err
	}
	var missing []source.TableID
	for _, id := range held {
		if !slices.ContainsFunc(set.tables, func(t *source.Table) bool { return t.ID == id }) {
			missing = append(missing, id)
		}
	}
	if len(missing) == 0 {
		return set, nil
	}
	names, err := postgres.Names(ctx, c.catalog, missing)
	if err != nil {
		return nil, err
	}
	for _, id := range missing {
		t, exists := names[id]
		if !exists || !slices.ContainsFunc(patterns, func(p streams.TablePattern) bool { return p.Matches(t) }) {
			set.gone = append(set.gone, id)
		}
	}
	return set, nil
}

// readers says which definitions of the live deploys read which tables.
type readers struct {
	patterns map[storage.DefinitionID][]streams.TablePattern
	all      []streams.TablePattern
}

func newReaders(deploys ...*deploy.Deploy) *readers {
	r := &readers{patterns: map[storage.DefinitionID][]streams.TablePattern{}}
	for _, d := range deploys {
		if d == nil {
			continue
		}
		for i, def := range d.Plan.Definitions {
			r.patterns[d.IDs[i]] = def.Tables
			for _, p := range def.Tables {
				if !slices.Contains(r.all, p) {
					r.all = append(r.all, p)
				}
			}
		}
	}
	return r
}

func (r *readers) reads(id storage.DefinitionID, t *source.Table) bool {
	return slices.ContainsFunc(r.patterns[id], func(p streams.TablePattern) bool { return p.Matches(t) })
}

// catalogWatch looks at the catalog now and then. What it finds new is handed over
// at a mark in the stream, so that it is acted upon after every change that was
// made before. By the same connection it writes the heartbeat, which lets the slot
// advance, and shows that it does, while nothing happens on the source.
type catalogWatch struct {
	conns     *conns
	stream    *postgres.Stream
	run       string
	every     time.Duration
	heartbeat time.Duration
	health    *health
	log       *slog.Logger
	left      int // tenths of the slot's log, as last told

	mu    sync.Mutex
	all   []streams.TablePattern
	held  []source.TableID
	seen  string // digest of what was last handed over
	last  uint64
	found map[uint64]*tableSet
}

// expect changes what is looked at.
func (w *catalogWatch) expect(all []streams.TablePattern, held []source.TableID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all, w.held = all, held
}

// again makes the next look count as news.
func (w *catalogWatch) again() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = ""
}

// take returns what was found before the mark; nil if it is not ours.
func (w *catalogWatch) take(id uint64) *tableSet {
	w.mu.Lock()
	defer w.mu.Unlock()
	set := w.found[id]
	delete(w.found, id)
	return set
}

func (w *catalogWatch) Run(ctx context.Context) error {
	look := time.NewTicker(w.every)
	defer look.Stop()
	beat := time.NewTicker(w.heartbeat)
	defer beat.Stop()
	for {
		select {
		case <-look.C:
			if err := w.look(ctx); err != nil {
				return err
			}
		case <-beat.C:
			if err := w.mark(ctx, "heartbeat"); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *catalogWatch) mark(ctx context.Context, content string) error {
	_, err := postgres.Emit(ctx, w.conns.catalog, postgres.MessagePrefix, []byte(content))
	return err
}

func (w *catalogWatch) look(ctx context.Context) error {
	if err := w.lookAtSlot(ctx); err != nil {
		return err
	}
	// What is not published any more is missed: the tables are read again once it is.
	if err := postgres.CheckPublication(ctx, w.conns.catalog, w.conns.config); err != nil {
		return err
	}
	w.mu.Lock()
	all, held := w.all, w.held
	w.mu.Unlock()
	set, err := w.conns.readTables(ctx, all, held)
	if postgres.Locked(err) {
		return nil // whoever alters a table is done at a later look
	}
	if err != nil {
		return err
	}
	digest := set.digest()
	w.mu.Lock()
	news := digest != w.seen
	if w.seen = digest; news {
		w.last++
		w.found[w.last] = set
	}
	id := w.last
	w.mu.Unlock()
	if !news {
		return nil
	}
	w.stream.Refresh()
	return w.mark(ctx, "catalog "+w.run+" "+strconv.FormatUint(id, 10))
}

// catalog acts on what the catalog says, at its place in the stream.
func (f *follower) catalog(set *tableSet, commit replicate.CommitFunc) error {
	f.look(set)
	for _, id := range set.gone {
		f.log.Info("a table is gone, or no longer read: its rows are taken back", "oid", id)
		if err := f.applier.Forget(id, commit); err != nil {
			return err
		}
	}
	f.giveUpTables(set)
	for _, t := range set.tables {
		if err := f.table(t, commit); err != nil {
			return err
		}
	}
	f.watch.expect(f.readers.all, f.applier.Tables())
	if len(f.blocked) == 0 {
		return f.switchDeploy(commit) // it may have waited for a table
	}
	return nil
}

// giveUpTables notes which tables can no longer be read.
func (f *follower) giveUpTables(set *tableSet) {
	for _, id := range f.applier.GiveUp(set.unreadable) {
		f.log.Warn("a table cannot be read any more: what is stored of it is served as it is, and compared once it can be", "oid", id)
	}
}

// table takes notice of a table as it now is.
func (f *follower) table(t *source.Table, commit replicate.CommitFunc) error {
	bound := f.applier.Bind(t)
	if bound == nil {
		if slices.Contains(f.applier.Tables(), t.ID) {
			f.log.Info("a table is no longer read under its new name: its rows are taken back", "table", t.QualifiedName())
			return f.applier.Forget(t.ID, commit)
		}
		return nil
	}
	if !f.applier.Reread(t, f.readers.reads) {
		return nil
	}
	for _, w := range bound.Warnings() {
		f.log.Warn("the sync config does not fit the table", "table", t.QualifiedName(), "warning", w.Message, "hint", w.Hint)
	}
	f.log.Info("a table is new, or was altered or written anew: it is read", "table", t.QualifiedName())
	f.backfill.want(t, f.applier)
	// The stream may be behind what the catalog was last seen to say, which would then
	// not come again.
	f.watch.again()
	return nil
}

// altering is what probes show while nothing is published on account of a table that was
// altered.
const altering = "a change of a table that was altered right after it cannot be completed before the table has been read again; until then clients are served the state before it, and their uploads are not confirmed"

// explainHold tells why nothing is published, if it is for a table that was altered.
func (f *follower) explainHold() {
	if f.torn || !f.applier.Torn() {
		return
	}
	f.torn = true
	f.health.note(alterNote, altering, true)
	f.log.Warn(altering)
}

// look takes notice of what the catalog says, before it is acted upon.
func (f *follower) look(set *tableSet) {
	f.reportTables(set)
	f.blocked = f.state.missing(set)
	f.deployer.wait(f.blocked)
}

func (f *follower) reportTables(set *tableSet) {
	for _, p := range set.problems {
		if p.Omitted {
			f.log.Error("a table cannot be replicated", "table", p.Table, "problem", p.Err)
		} else {
			f.log.Warn("a table may not be replicated as meant", "table", p.Table, "problem", p.Err)
		}
	}
}
