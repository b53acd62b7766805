package pgstore

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/storage"
)

// check returns how a batch breaks the contract, or nil.
func (w *writer) check(b *storage.Batch) error {
	if len(b.Drop) > 0 && !b.Publish {
		return errors.New("definitions are dropped by a batch without Publish")
	}
	fresh := make(map[storage.DefinitionID]struct{}, len(b.Definitions))
	for i := range b.Definitions {
		id := b.Definitions[i].ID
		if _, ok := w.defs[id]; !ok && id < w.nextDef {
			return fmt.Errorf("definition id %d was used before", id)
		}
		if slices.Contains(b.Drop, id) {
			return fmt.Errorf("definition %d is stored and dropped", id)
		}
		fresh[id] = struct{}{}
	}
	var good storage.DefinitionID // the last one found usable, from 1
	usable := func(id storage.DefinitionID) error {
		if id == good && good > 0 {
			return nil
		}
		_, stored := w.defs[id]
		_, here := fresh[id]
		if !stored && !here || slices.Contains(b.Drop, id) {
			return fmt.Errorf("definition %d is not stored", id)
		}
		good = id
		return nil
	}
	next := w.nextOp
	for i := range b.Ops {
		o := &b.Ops[i]
		if o.Op.ID < next || o.Op.ID > bucket.MaxOpID {
			return fmt.Errorf("op id %s, want %s or more", o.Op.ID, next)
		}
		next = o.Op.ID + 1
		if o.Op.Kind < bucket.Put || o.Op.Kind > bucket.Clear {
			return fmt.Errorf("op %s has unknown kind %d", o.Op.ID, o.Op.Kind)
		}
		if err := usable(o.Bucket.Def); err != nil {
			return fmt.Errorf("op %s: %w", o.Op.ID, err)
		}
		if strings.IndexByte(o.Bucket.Params, 0) >= 0 {
			return fmt.Errorf("op %s: zero byte in bucket parameters %q", o.Op.ID, o.Bucket.Params)
		}
	}
	for i := range b.Lookups {
		if err := usable(b.Lookups[i].Lookup.Def); err != nil && b.Lookups[i].Values != nil {
			return fmt.Errorf("lookup: %w", err)
		}
	}
	if d := b.Deploy; d != nil && (d.State < storage.DeployPending || d.State > storage.DeployFailed) {
		return fmt.Errorf("deploy %d has unknown state %d", d.ID, d.State)
	}
	return nil
}
