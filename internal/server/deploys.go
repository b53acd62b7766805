package server

import (
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
	replaced chan struct{} // closed when current changes
}

func newDeploys() *deploys { return &deploys{replaced: make(chan struct{})} }

// Current implements httpapi.Deploys.
func (d *deploys) Current() (*deploy.Deploy, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.current, d.replaced
}

func (d *deploys) set(next *deploy.Deploy) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.current = next
	close(d.replaced)
	d.replaced = make(chan struct{})
}

// state is what a replicator works towards: the stored definitions, the deploy
// that is served, and the one that is to be.
type state struct {
	epoch    string
	nextID   storage.DefinitionID
	nextSeq  uint64
	stored   []storage.Definition // as committed
	current  *deploy.Deploy
	next     *deploy.Deploy
	record   storage.Deploy // of next
	new      []storage.Definition
	drop     []storage.DefinitionID
	switched bool   // the switch to next is still to be committed
	source   string // the database that what is stored is of; "" if nothing is
}

// prepare compares what the store holds with the plan to be deployed.
func prepare(rec storage.Recovered, plan *streams.Plan, text string) *state {
	s := &state{epoch: rec.Epoch, stored: rec.Definitions, nextID: rec.NextDefinition, nextSeq: 1}
	var serving *storage.Deploy
	for i := range rec.Deploys {
		s.nextSeq = rec.Deploys[i].ID + 1
		if rec.Deploys[i].State == storage.DeployServing {
			serving = &rec.Deploys[i]
		}
		s.source = rec.Deploys[i].Source
	}
	diff := deploy.Compare(rec.Definitions, plan, rec.NextDefinition)
	next := deploy.New(plan, diff.Definitions, rec.Epoch)
	if serving != nil && len(diff.New) == 0 && len(diff.Drop) == 0 {
		s.current = next
		if serving.SyncConfig == text {
			return s
		}
	} else if serving != nil {
		s.current = restore(rec, serving)
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

// restore compiles the deploy that was being served when the process ended; nil if
// this version of the program makes something else of its text.
func restore(rec storage.Recovered, serving *storage.Deploy) *deploy.Deploy {
	plan, _ := streams.Compile(streams.Source{File: fmt.Sprintf("deploy %d", serving.ID), Text: serving.SyncConfig})
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

// startOver gives every definition of the plan a new id: what is stored has missed
// changes and cannot be brought up to date any more. It returns the stored
// definitions, to be marked stale; they are served until the new ones are complete.
func (s *state) startOver(plan *streams.Plan, text string) []storage.Definition {
	diff := deploy.Compare(nil, plan, s.nextID)
	s.drop, s.new, s.record.Definitions = nil, diff.Definitions, nil
	stale := slices.Clone(s.stored)
	for i := range stale {
		s.drop = append(s.drop, stale[i].ID)
		stale[i].State = storage.Stale
	}
	for _, d := range diff.Definitions {
		s.record.Definitions = append(s.record.Definitions, d.ID)
		s.nextID = max(s.nextID, d.ID+1)
	}
	s.next = deploy.New(plan, diff.Definitions, s.epoch)
	s.record.ID, s.record.SyncConfig, s.record.State = s.nextSeq, text, storage.DeployPending
	s.switched = true
	return stale
}
