package server

import (
	"testing"

	"github.com/millrace-sync/millrace/internal/pgtest"
)

// What depends on the source's version, and the way from it to a client.
func TestOtherPostgresVersions(t *testing.T) {
	pgtest.OnOtherVersions(t,
		"TestConformance", "TestChangesReachTheirOwners", "TestSchemaChanges", "TestTableWithoutKey",
		"TestLiveDeploy", "TestDeployKeepsWhatStands", "TestInterruptedDeploys", "TestLostConnectionAndSlot",
		"TestSlotDroppedWhileConnected", "TestInterruptedReconciliation", "TestSlotInvalidated", "TestSourceWithAnotherPast")
}
