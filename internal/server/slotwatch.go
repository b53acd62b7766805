package server

import (
	"context"
	"fmt"

	"github.com/millrace-sync/millrace/internal/postgres"
)

// slotDanger is the share of the log that the server keeps for the slot at which there
// is reason to warn.
const slotDanger = 0.5

// lookAtSlot tells how much of the server's log may still be written before the slot
// is lost. It fails if the slot is.
func (w *catalogWatch) lookAtSlot(ctx context.Context) error {
	name := w.conns.config.Slot
	slot, err := postgres.Slot(ctx, w.conns.catalog, name)
	if err != nil {
		return err
	}
	if err := slot.Gone(name); err != nil {
		return err
	}
	text, grave := slotTrouble(slot, name)
	w.health.note(slotNote, text, grave)
	// Told anew whenever another tenth of what is left has gone.
	left := 10
	if text != "" {
		left = int(10 * float64(slot.SafeWAL) / float64(slot.Budget))
	}
	if text != "" && left < w.left {
		w.log.Warn("the replication slot may be lost", "slot", name, "reason", text)
	}
	w.left = left
	return nil
}

// slotTrouble says what threatens a slot, "" if nothing does, and whether it is grave.
func slotTrouble(s *postgres.SlotState, name string) (text string, grave bool) {
	if s.Budget <= 0 {
		return "", false
	}
	if grave = s.WALStatus == "unreserved" || s.SafeWAL <= 0; !grave && float64(s.SafeWAL) > slotDanger*float64(s.Budget) {
		return "", false
	}
	return fmt.Sprintf("%d MB of log may still be written on the source until it gives up replication slot %s (max_slot_wal_keep_size is %d MB): "+
		"find what keeps replication from advancing, or raise the setting; should the slot be lost, everything is compared anew",
		max(s.SafeWAL, 0)>>20, name, s.Budget>>20), grave
}
