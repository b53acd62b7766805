package postgres_test

import (
	"testing"

	"github.com/millrace-sync/millrace/internal/pgtest"
)

// What asks the catalog, the slot or the stream for something that differs between
// versions.
func TestOtherPostgresVersions(t *testing.T) {
	pgtest.OnOtherVersions(t,
		"TestCheckNamesTheRepair", "TestCheckWarnings", "TestCheckWithALockedTable", "TestTables", "TestPublishedTables", "TestTableProblemsNameTheRepair",
		"TestStream", "TestLargeTransactionComesInParts", "TestResumeAtWhatWasConfirmed", "TestPositionsMoveOnAQuietDatabase",
		"TestSlotFailures", "TestInvalidatedSlot", "TestServerRestartIsTransientAndLosesNothing",
		"TestChunksAreTheTable", "TestChunkOfAlteredTable", "TestChunkLeavesOutGeneratedColumns", "TestRowsAreLookedUpByTheirStoredKeys",
		"TestSplit", "TestAwaitVisible")
}
