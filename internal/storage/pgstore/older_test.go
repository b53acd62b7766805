package pgstore

import (
	"log/slog"
	"testing"
	"time"

	"github.com/millrace-sync/millrace/internal/pgtest"
	"github.com/millrace-sync/millrace/internal/storage"
)

// A store of the first format is migrated with what it holds. Write checkpoints of then
// say nothing of how they were asked for: they are kept.
func TestMigrationFromFirstFormat(t *testing.T) {
	opts := at(t, shared.Cluster(t), freshSchema()).withDefaults()
	s := &Store{opts: opts, log: slog.New(slog.DiscardHandler), text: newText(opts.Schema)}
	pool, err := opts.pool(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	err = s.step(t.Context(), pool, 0)
	pool.Close()
	if err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, shared.Cluster(t).DSN("postgres"),
		s.text.in("INSERT INTO millrace.write_checkpoint (user_key, username, id, lsn, seq) VALUES ('u', 'u', 7, 0, 1)"))

	migrated := open(t, opts)
	request := storage.WriteCheckpointRequest{User: "u", AtLeast: 3, At: time.Unix(1_772_000_000, 0)}
	if ids, err := migrated.RequestWriteCheckpoints(t.Context(), []storage.WriteCheckpointRequest{request}); err != nil || ids[0] != 7 {
		t.Fatalf("got %v, %v, want 7", ids, err)
	}
	if n, err := migrated.ForgetCheckpointRequests(t.Context(), time.Now()); err != nil || n != 0 {
		t.Errorf("%d were removed, %v", n, err)
	}
	if wc, ok, err := migrated.WriteCheckpoint("u"); err != nil || !ok || wc.ID != 7 {
		t.Errorf("got %v, %v, %v", wc, ok, err)
	}
}
