// Package deploy joins a compiled plan with the store that holds its data: which
// definition of the plan has which id there, and what its buckets are called.
//
// It is pure. replicate writes by it, session reads by it, server builds it.
//
// Invariant: a definition's id, label and so its bucket names stay as they are for
// as long as its hash is in some deploy; a config change renames no bucket whose
// content it does not change.
package deploy

import (
	"slices"
	"strconv"
	"strings"

	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/streams"
)

// Deploy is a plan and the ids and labels of its definitions in one store. It is
// immutable.
type Deploy struct {
	Plan *streams.Plan
	// IDs is parallel to Plan.Definitions.
	IDs []storage.DefinitionID

	prefixes []string // of bucket names, parallel to IDs
	position map[storage.DefinitionID]int
}

// Diff tells what a plan changes in a store.
type Diff struct {
	// Definitions are those of the plan, parallel to Plan.Definitions: as stored, or
	// new with State Backfilling.
	Definitions []storage.Definition
	// New holds the positions in Definitions that the store lacks or has not
	// completed. A stale definition is complete: it is served while it is compared.
	New []int
	// Drop holds the definitions that are served and that the plan does not have, or has a
	// newer one of.
	Drop []storage.DefinitionID
	// Abandoned holds those that are neither served nor in the plan: of a deploy that was
	// on its way. From now on changes leave them out, so they must go at once, or a later
	// plan would go on with them.
	Abandoned []storage.DefinitionID
}

// Compare matches a plan's definitions with the stored ones by hash. served are those of
// the current deploy. nextID is the first id never given out.
func Compare(stored []storage.Definition, served []storage.DefinitionID, plan *streams.Plan, nextID storage.DefinitionID) Diff {
	byHash := make(map[string]storage.Definition, len(stored))
	var diff Diff
	leave := func(d storage.Definition) {
		if slices.Contains(served, d.ID) {
			diff.Drop = append(diff.Drop, d.ID)
		} else {
			diff.Abandoned = append(diff.Abandoned, d.ID)
		}
	}
	for _, d := range stored {
		if older, ok := byHash[d.Hash]; ok {
			leave(older) // the newer one is to replace it
		}
		byHash[d.Hash] = d
	}
	for i, d := range plan.Definitions {
		def, ok := byHash[d.Hash]
		if !ok {
			def = storage.Definition{ID: nextID, Hash: d.Hash, Label: d.Label, State: storage.Backfilling}
			nextID++
		}
		delete(byHash, d.Hash)
		if def.State == storage.Backfilling {
			diff.New = append(diff.New, i)
		}
		diff.Definitions = append(diff.Definitions, def)
	}
	for _, d := range byHash {
		leave(d)
	}
	slices.Sort(diff.Drop)
	slices.Sort(diff.Abandoned)
	return diff
}

// New builds a Deploy from a plan and its definitions as stored, parallel to
// Plan.Definitions. epoch is the store's: bucket names of two stores never meet.
func New(plan *streams.Plan, defs []storage.Definition, epoch string) *Deploy {
	d := &Deploy{Plan: plan, position: make(map[storage.DefinitionID]int, len(defs))}
	for i, def := range defs {
		d.IDs = append(d.IDs, def.ID)
		d.position[def.ID] = i
		d.prefixes = append(d.prefixes, prefix(epoch, def))
	}
	return d
}

// Has reports whether the definition belongs to the deploy.
func (d *Deploy) Has(id storage.DefinitionID) bool {
	_, ok := d.position[id]
	return ok
}

// BucketName returns the name that clients know a bucket by, such as
// k3fq.7#todos|0["u1"]; def is a position in Plan.Definitions. Clients treat names
// as opaque, and keep what they hold of a bucket for as long as its name is listed.
func (d *Deploy) BucketName(def int, params string) string {
	var b strings.Builder
	b.Grow(len(d.prefixes[def]) + len(params))
	b.WriteString(d.prefixes[def])
	b.WriteString(params)
	return b.String()
}

// ParseBucketName finds the bucket that BucketName gave a name in a store; false if
// none of the definitions has such a bucket.
func ParseBucketName(epoch string, defs []storage.Definition, name string) (storage.BucketKey, bool) {
	for _, def := range defs {
		if params, ok := strings.CutPrefix(name, prefix(epoch, def)); ok && strings.HasPrefix(params, "[") && strings.HasSuffix(params, "]") {
			return storage.BucketKey{Def: def.ID, Params: params}, true
		}
	}
	return storage.BucketKey{}, false
}

// prefix is what the names of a definition's buckets begin with.
func prefix(epoch string, def storage.Definition) string {
	return epoch + "." + strconv.FormatUint(uint64(def.ID), 10) + "#" + def.Label
}
