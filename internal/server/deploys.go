package server

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/millrace-sync/millrace/internal/deploy"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/streams"
)

// deploys holds the deploy that sessions use and the one on its way to replace it.
//
// A deploy keeps every definition whose hash stands and backfills the new ones
// while the current deploy goes on serving; then it becomes current in one commit
// that also drops what it does not have.
type deploys struct {
	mu       sync.Mutex
	current  *deploy.Deploy
	text     string        // current's sync config
	replaced chan struct{} // closed when current changes
}

func newDeploys() *deploys { return &deploys{replaced: make(chan struct{})} }

// Current implements httpapi.Deploys.
func (d *deploys) Current() (*deploy.Deploy, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.current, d.replaced
}

// served returns the plan of the current deploy and its sync config; nil if there is
// none yet.
func (d *deploys) served() (*streams.Plan, string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current == nil {
		return nil, ""
	}
	return d.current.Plan, d.text
}

func (d *deploys) set(next *deploy.Deploy, text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.current, d.text = next, text
	close(d.replaced)
	d.replaced = make(chan struct{})
}

// state is what a replicator works towards: the stored definitions, the deploy
// that is served, and the one that is to be.
type state struct {
	epoch   string
	nextID  storage.DefinitionID
	stored  []storage.Definition // as committed
	nextSeq uint64
	current *deploy.Deploy
	text    string // current's sync config
	next    *deploy.Deploy
	record  storage.Deploy // of next
	new     []storage.Definition
	drop    []storage.DefinitionID
	// abandoned are of a deploy that was on its way and is not wanted any more.
	abandoned []storage.DefinitionID
	switched  bool // the switch to next is still to be committed
}

// prepare compares what the store holds with the plan to be deployed.
func prepare(rec storage.Recovered, plan *streams.Plan, text string) *state {
	s := &state{epoch: rec.Epoch, stored: rec.Definitions, nextID: rec.NextDefinition, nextSeq: 1}
	var serving *storage.Deploy
	for i := range rec.Deploys {
		s.nextSeq = rec.Deploys[i].ID + 1
		if rec.Deploys[i].State == storage.DeployPending && rec.Deploys[i].SyncConfig == text {
			s.nextSeq = rec.Deploys[i].ID // it goes on
		}
		if rec.Deploys[i].State == storage.DeployServing {
			serving = &rec.Deploys[i]
		}
	}
	var served []storage.DefinitionID
	if serving != nil {
		served = serving.Definitions
	}
	diff := deploy.Compare(rec.Definitions, served, plan, rec.NextDefinition)
	next := deploy.New(plan, diff.Definitions, rec.Epoch)
	s.abandoned = diff.Abandoned
	if serving != nil && len(diff.New) == 0 && len(diff.Drop) == 0 && len(diff.Abandoned) == 0 {
		s.current, s.text = next, text
		if serving.SyncConfig == text {
			return s
		}
	} else if serving != nil {
		s.current, s.text = restore(rec, serving), serving.SyncConfig
	}
	s.next, s.drop, s.switched = next, diff.Drop, true
	for _, i := range diff.New {
		s.new = append(s.new, diff.Definitions[i])
	}
	for _, d := range diff.Definitions {
		s.record.Definitions = append(s.record.Definitions, d.ID)
		s.nextID = max(s.nextID, d.ID+1)
	}
	s.record.ID, s.record.SyncConfig, s.record.State = s.nextSeq, text, storage.DeployPending
	return s
}

// newestDeploy returns the newest stored deploy that was not given up, nil if there is
// none.
func newestDeploy(rec *storage.Recovered) *storage.Deploy {
	for i := len(rec.Deploys) - 1; i >= 0; i-- {
		if rec.Deploys[i].State != storage.DeployFailed {
			return &rec.Deploys[i]
		}
	}
	return nil
}

// committer is what a sync config is stored by.
type committer interface {
	Commit(context.Context, *storage.Batch) error
}

// storeTarget stores a sync config as a pending deploy, unless the store has it.
func storeTarget(ctx context.Context, s committer, wanted *target, rec *storage.Recovered) error {
	newest := newestDeploy(rec)
	if newest != nil && newest.SyncConfig == wanted.source.Text {
		return nil
	}
	record := storage.Deploy{ID: 1, SyncConfig: wanted.source.Text, State: storage.DeployPending}
	if n := len(rec.Deploys); n > 0 {
		record.ID, record.Source = rec.Deploys[n-1].ID+1, rec.Deploys[n-1].Source
	}
	if err := s.Commit(ctx, &storage.Batch{Deploy: &record, LSN: rec.Checkpoint.LSN, Publish: true}); err != nil {
		return fmt.Errorf("store the sync config: %w", err)
	}
	rec.Deploys = append(rec.Deploys, record)
	return nil
}

// take stores the wanted sync config: from then on it survives whatever happens.
func (r *replicator) take(ctx context.Context, wanted *target, rec *storage.Recovered) error {
	if err := storeTarget(ctx, r.store, wanted, rec); err != nil {
		return err
	}
	select {
	case <-wanted.taken:
	default:
		close(wanted.taken)
	}
	return nil
}

// giveUp goes back to the current deploy if there is another one on its way, which
// fails again and again.
func (r *replicator) giveUp(ctx context.Context, wanted *target, reason error) error {
	rec, err := r.store.Recover(ctx)
	if err != nil {
		return fmt.Errorf("recover the store: %w", err)
	}
	newest, back := newestDeploy(&rec), storedTarget(rec, true)
	if back == nil || newest == nil || newest.State != storage.DeployPending || newest.SyncConfig != wanted.source.Text {
		return nil
	}
	newest.State = storage.DeployFailed
	if err := r.store.Commit(ctx, &storage.Batch{Deploy: newest, LSN: rec.Checkpoint.LSN, Publish: true}); err != nil {
		return fmt.Errorf("give the sync config up: %w", err)
	}
	r.deployer.giveUp(back, reason)
	return nil
}

// missing says which tables the next deploy cannot be without: those named by
// definitions that the current one does not have. The first deploy, and one that
// replaces what has missed changes, wait for nothing.
func (s *state) missing(set *tableSet) []string {
	if s.next == nil || s.current == nil {
		return nil
	}
	stands := map[string]bool{}
	for _, d := range s.current.Plan.Definitions {
		stands[d.Hash] = true
	}
	var list []string
	for _, d := range s.next.Plan.Definitions {
		if stands[d.Hash] {
			continue
		}
		for _, p := range d.Tables {
			for _, problem := range set.problems {
				if text := problem.Err.Error(); problem.Omitted && problem.Table == p.String() && !slices.Contains(list, text) {
					list = append(list, text)
				}
			}
		}
	}
	return list
}

// restore compiles the deploy that was being served when the process ended; nil if
// this version of the program makes something else of its text.
func restore(rec storage.Recovered, serving *storage.Deploy) *deploy.Deploy {
	plan, _ := streams.Compile(deploySource(serving))
	if plan == nil {
		return nil
	}
	byHash := map[string]storage.Definition{}
	for _, d := range rec.Definitions {
		if slices.Contains(serving.Definitions, d.ID) {
			byHash[d.Hash] = d
		}
	}
	defs := make([]storage.Definition, len(plan.Definitions))
	for i, d := range plan.Definitions {
		def, ok := byHash[d.Hash]
		if !ok {
			return nil
		}
		defs[i] = def
	}
	return deploy.New(plan, defs, rec.Epoch)
}

// startOver gives every definition of the plan a new id, as somebody asked for. Those
// that there are go on being served, and kept up to date, until the new ones are
// complete.
func (s *state) startOver(plan *streams.Plan, text string) {
	diff := deploy.Compare(nil, nil, plan, s.nextID)
	s.drop, s.new, s.record.Definitions = nil, diff.Definitions, nil
	for _, d := range s.stored {
		if !slices.Contains(s.abandoned, d.ID) {
			s.drop = append(s.drop, d.ID)
		}
	}
	for _, d := range diff.Definitions {
		s.record.Definitions = append(s.record.Definitions, d.ID)
		s.nextID = max(s.nextID, d.ID+1)
	}
	s.next = deploy.New(plan, diff.Definitions, s.epoch)
	s.record.ID, s.record.SyncConfig, s.record.State = s.nextSeq, text, storage.DeployPending
	s.switched = true
}
