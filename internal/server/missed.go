package server

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/millrace-sync/millrace/internal/checkpoint"
	"github.com/millrace-sync/millrace/internal/postgres"
	"github.com/millrace-sync/millrace/internal/replicate"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// origin says where stored data came from: a database of a cluster, and the
// timeline on which it was read, 0 if that is not known.
type origin struct {
	system   string
	database uint32
	timeline int32
}

func originOf(f *postgres.Facts) origin { return origin{f.SystemID, f.DatabaseOID, f.Timeline} }

// String returns the form in which deploys are stored: system/database/timeline.
func (o origin) String() string { return fmt.Sprintf("%s/%d/%d", o.system, o.database, o.timeline) }

// parseOrigin reads what String gives, also without the timeline.
func parseOrigin(s string) (origin, bool) {
	parts := strings.Split(s, "/")
	if len(parts) < 2 {
		return origin{}, false
	}
	database, err := strconv.ParseUint(parts[1], 10, 32)
	if err != nil {
		return origin{}, false
	}
	o := origin{system: parts[0], database: uint32(database)}
	if len(parts) > 2 {
		timeline, err := strconv.ParseInt(parts[2], 10, 32)
		if err != nil {
			return origin{}, false
		}
		o.timeline = int32(timeline)
	}
	return o, true
}

// storedOrigin returns where what is stored came from; false if nothing is stored.
func storedOrigin(rec *storage.Recovered) (origin, bool) {
	for i := len(rec.Deploys) - 1; i >= 0; i-- {
		if o, ok := parseOrigin(rec.Deploys[i].Source); ok {
			return o, true
		}
	}
	return origin{}, false
}

// missed says why changes that followed what is stored cannot be had from the source;
// "" if they can. Whatever is stored is then reconciled (see replicate.Distrust).
func (r *replicator) missed(ctx context.Context, rec *storage.Recovered, facts *postgres.Facts, slot *postgres.SlotState) (string, error) {
	at, now := rec.Checkpoint.LSN, originOf(facts)
	was, known := storedOrigin(rec)
	switch {
	case len(rec.Definitions) == 0:
		return "", nil
	case r.slotLost != nil:
		return r.slotLost.Error(), nil
	case known && (was.system != now.system || was.database != now.database):
		return fmt.Sprintf("the storage is of another database (%s, this is %s)", was, now), nil
	case known && was.timeline != 0 && was.timeline != now.timeline:
		left, descends, err := postgres.LeftAt(ctx, r.config, now.timeline, was.timeline)
		if err != nil {
			return "", err
		}
		if !descends || left < at {
			return fmt.Sprintf("the source is on timeline %d, which does not contain what is stored of timeline %d up to %s (a standby took over that had not received it, or the source was restored)",
				now.timeline, was.timeline, at), nil
		}
	}
	switch {
	case facts.Position < at:
		return fmt.Sprintf("the source's log ends at %s, before what is stored (%s): it was set back to an earlier state", facts.Position, at), nil
	case slot == nil:
		return fmt.Sprintf("replication slot %s does not exist any more", r.config.Slot), nil
	case slot.Lost != "":
		return fmt.Sprintf("replication slot %s is unusable: %s", r.config.Slot, slot.Lost), nil
	case slot.Confirmed > at:
		return fmt.Sprintf("replication slot %s is at %s, ahead of what is stored (%s): the storage is an older copy, or another process used the slot",
			r.config.Slot, slot.Confirmed, at), nil
	}
	return "", nil
}

// resume makes the slot ready and returns what is stored, and the position from
// which to follow. If changes were missed, what is stored is marked stale first, in
// one durable step: wherever this is interrupted, it is reconciled in the end.
func (r *replicator) resume(ctx context.Context, rec storage.Recovered, facts *postgres.Facts) (storage.Recovered, source.LSN, error) {
	fail := func(err error) (storage.Recovered, source.LSN, error) { return storage.Recovered{}, 0, err }
	slot, err := postgres.FindSlot(ctx, r.config)
	if err != nil {
		return fail(err)
	}
	why, err := r.missed(ctx, &rec, facts, slot)
	if err != nil {
		return fail(err)
	}
	if why != "" && !stale(rec.Definitions) {
		r.log.Warn("changes of the source were missed: every table is compared with what is stored; clients are served the old state until that is done", "reason", why)
		if rec, err = r.distrust(ctx, rec, facts); err != nil {
			return fail(err)
		}
	}
	if r.slotLost != nil || slot != nil && slot.Lost != "" {
		r.log.Warn("the replication slot cannot give what is needed any more and is replaced", "slot", r.config.Slot)
		if err := postgres.DropSlot(ctx, r.config); err != nil {
			return fail(err)
		}
		r.slotLost = nil
	}
	start, created, err := postgres.EnsureSlot(ctx, r.config)
	if err != nil {
		return fail(err)
	}
	if created || stale(rec.Definitions) || rec.Checkpoint.LSN == 0 {
		return rec, start, nil
	}
	if err := r.adopt(ctx, &rec, originOf(facts)); err != nil {
		return fail(err)
	}
	return rec, rec.Checkpoint.LSN, nil
}

// stale reports whether missed changes are on record: something that is served awaits
// its comparison with the source.
func stale(defs []storage.Definition) bool {
	for _, d := range defs {
		if d.State == storage.Stale {
			return true
		}
	}
	return false
}

// distrust marks what is stored as stale. No position that was given out counts any
// more: sessions that wait for one wait until all is compared.
func (r *replicator) distrust(ctx context.Context, rec storage.Recovered, facts *postgres.Facts) (storage.Recovered, error) {
	due := max(facts.Position, 1)
	if err := r.store.ResetWriteCheckpoints(ctx, due); err != nil {
		return rec, err
	}
	b := &storage.Batch{Definitions: replicate.Distrust(rec.Definitions), Publish: true}
	for i := range rec.Deploys {
		if d := &rec.Deploys[i]; d.State == storage.DeployServing {
			d.Source = originOf(facts).String()
			b.Deploy = d
		}
	}
	if err := r.store.Commit(ctx, b); err != nil {
		return rec, fmt.Errorf("mark what is stored as stale: %w", err)
	}
	if r.hub != nil {
		at := rec.Checkpoint
		at.LSN = 0
		r.hub.Publish(at, checkpoint.Changes{})
	}
	return r.store.Recover(ctx)
}

// adopt records that the source has moved to another timeline, which contains all
// that is stored.
func (r *replicator) adopt(ctx context.Context, rec *storage.Recovered, now origin) error {
	for i := range rec.Deploys {
		d := &rec.Deploys[i]
		if d.State != storage.DeployServing || d.Source == now.String() {
			continue
		}
		r.log.Info("the source has another identity than before", "was", d.Source, "is", now)
		d.Source = now.String()
		if err := r.store.Commit(ctx, &storage.Batch{Deploy: d, LSN: rec.Checkpoint.LSN, Publish: true}); err != nil {
			return fmt.Errorf("record where data comes from: %w", err)
		}
	}
	return nil
}

// comparing is what probes show while nothing is published.
const comparing = "changes of the source were missed, so what is stored is being compared with it; until that is done clients are served the old state, and their uploads are not confirmed"

// reconciled notes that what is stored has been compared and is published.
func (f *follower) reconciled(at storage.Checkpoint) {
	f.held = false
	f.health.note(compareNote, "", false)
	f.log.Info("what is stored has been compared with the source: clients are served the present state", "checkpoint", at)
}
