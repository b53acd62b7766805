package server

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/millrace-sync/millrace/internal/admin"
	"github.com/millrace-sync/millrace/internal/checkpoint"
	"github.com/millrace-sync/millrace/internal/deploy"
	"github.com/millrace-sync/millrace/internal/httpapi"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/pgstore"
)

// storageSilence is how long the storage may not answer before a process that serves
// from it is not ready.
const storageSilence = 5 * time.Second

// front brings what some process has published to the clients of this one: it
// watches the store, publishes what changed to the hub, and keeps the current deploy.
//
// Invariant: whoever gets a deploy from Current gets snapshots that have all of it;
// whoever gets a snapshot that lacks some of a deploy finds that it was replaced.
type front struct {
	store   *pgstore.Store
	hub     *checkpoint.Hub
	deploys *deploys
	// activity hears of the checkpoints of any process.
	activity *activity
	log      *slog.Logger

	// gate is held for writing while the next checkpoint and its deploy take the place
	// of those before.
	gate sync.RWMutex
	// serving is the deploy that is current, as it is stored. It belongs to Run.
	serving storage.Deploy
	// strange is why a stored deploy cannot be served; it is set before Run only.
	strange error
}

func newFront(store *pgstore.Store, activity *activity, log *slog.Logger) *front {
	rec := store.Recovered()
	f := &front{store: store, hub: checkpoint.NewHub(rec.Checkpoint), deploys: newDeploys(), activity: activity, log: log}
	activity.begin(rec.Checkpoint)
	var next *deploy.Deploy
	if next, f.strange = f.plan(&rec); next != nil {
		f.deploys.set(next, f.serving.SyncConfig)
	}
	return f
}

// Snapshot implements httpapi.Store.
func (f *front) Snapshot() (httpapi.Snapshot, error) {
	f.gate.RLock()
	defer f.gate.RUnlock()
	return f.store.Snapshot()
}

// WriteCheckpoint implements httpapi.Store.
func (f *front) WriteCheckpoint(user string) (storage.WriteCheckpoint, bool, error) {
	return f.store.WriteCheckpoint(user)
}

// Run brings what is published to clients until ctx ends. It returns an error if
// what is deployed cannot be served by this version of the program.
func (f *front) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err := f.store.Watch(ctx, func(c pgstore.Change) {
		if err := f.show(c); err != nil {
			cancel(err)
		}
	})
	if err == nil {
		if cause := context.Cause(ctx); cause != context.Canceled {
			err = cause
		}
	}
	return err
}

// show makes a change visible to clients.
func (f *front) show(c pgstore.Change) error {
	next, err := f.plan(c.Plan)
	if err != nil {
		return err
	}
	f.gate.Lock()
	c.Show()
	if next != nil {
		f.deploys.set(next, f.serving.SyncConfig)
	}
	f.gate.Unlock()
	if next != nil {
		f.log.Info("sync config is current", "deploy", f.serving.ID, "streams", len(next.Plan.Streams), "checkpoint", c.Checkpoint)
	}
	f.activity.published(c.Checkpoint)
	f.hub.Publish(c.Checkpoint, checkpoint.Changes{All: c.All, Buckets: c.Buckets, Lookups: c.Lookups, Many: c.Many})
	for _, u := range c.Uploads {
		f.hub.WriteCheckpoint(u.User, u.LSN)
	}
	return nil
}

// plan returns the deploy that is to be current from rec on; nil if it is the one
// that is.
func (f *front) plan(rec *storage.Recovered) (*deploy.Deploy, error) {
	if rec == nil {
		return nil, nil
	}
	i := slices.IndexFunc(rec.Deploys, func(d storage.Deploy) bool { return d.State == storage.DeployServing })
	if i < 0 || f.serving.ID == rec.Deploys[i].ID && slices.Equal(f.serving.Definitions, rec.Deploys[i].Definitions) {
		return nil, nil
	}
	next := restore(*rec, &rec.Deploys[i])
	if next == nil {
		return nil, fmt.Errorf("deploy %d was made by another version of millrace, which understands its sync config otherwise: "+
			"run the same version in every process", rec.Deploys[i].ID)
	}
	f.serving = rec.Deploys[i]
	return next, nil
}

// heard implements vitals: the source is not listened to.
func (f *front) heard() time.Time { return time.Time{} }

func (f *front) reading() []admin.TableProgress { return nil }

// Status implements httpapi.Health. A process that serves is well if it can serve:
// whether replication goes on is for the process that replicates to say.
func (f *front) Status() httpapi.Status {
	current, _ := f.deploys.Current()
	pulse := f.store.Pulse()
	s := httpapi.Status{Started: current != nil, Touched: time.Now()}
	switch {
	case pulse.Err != nil && time.Since(pulse.At) > storageSilence:
		s.Reason = "the storage does not answer: " + pulse.Err.Error()
	case time.Since(pulse.At) > 2*storageSilence:
		s.Reason = "the storage has not answered for " + time.Since(pulse.At).Round(time.Second).String()
	case f.strange != nil:
		s.Reason = f.strange.Error()
	case current == nil:
		s.Reason = "no sync config has been backfilled yet"
	default:
		if s.Ready = true; !pulse.Led {
			s.Reason = "no process replicates at the moment: clients are served what is stored"
		}
	}
	return s
}
