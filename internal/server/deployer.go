package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/streams"
	"github.com/millrace-sync/millrace/protocol"
)

// target is a sync config that the replicator works towards: until it is current,
// and then to keep what it serves up to date.
type target struct {
	source streams.Source
	plan   *streams.Plan
	// anew asks for every definition to be read again although it stands.
	anew bool
	// back says that it is what was gone back to when another one failed.
	back bool
	// taken is closed when the store holds the sync config: from then on it survives a
	// restart.
	taken chan struct{}
}

// deployer takes sync configs that are to replace the current one. It knows which is
// wanted, what keeps it from being current, and which was given up and why.
//
// Its methods may be called from any goroutine.
type deployer struct {
	log *slog.Logger
	// turn holds a token while a sync config is being taken: one at a time.
	turn chan struct{}

	mu       sync.Mutex
	wanted   *target       // nil: none was ever deployed
	changed  chan struct{} // closed when wanted changes
	supplied string        // names where the configuration has its sync config; "" if it has none
	working  bool          // wanted is not current yet
	waits    []string      // for what
	failed   *failedDeploy // the last that was refused or given up, since one went well
}

// failedDeploy is a sync config that did not become current.
type failedDeploy struct {
	source streams.Source
	reason error
	at     time.Time
}

func newDeployer(log *slog.Logger) *deployer {
	return &deployer{log: log, turn: make(chan struct{}, 1), changed: make(chan struct{})}
}

// target returns what is wanted, nil if nothing is, and a channel that is closed when
// that changes.
func (d *deployer) target() (*target, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.wanted, d.changed
}

// begin sets what is wanted when the process starts.
func (d *deployer) begin(t *target, supplied string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wanted, d.supplied, d.working = t, supplied, t != nil
}

// errUnchanged: the sync config is the one that is current or on its way.
var errUnchanged = errors.New("the sync config is deployed already")

// deploy makes a sync config the wanted one. It returns when the store holds it, or
// with a *SyncConfigError, errUnchanged, or ctx's error: then the wish stays.
func (d *deployer) deploy(ctx context.Context, src streams.Source, supplied string) error {
	plan, diagnostics := streams.Compile(src)
	logWarnings(d.log, diagnostics)
	if plan == nil {
		err := &SyncConfigError{diagnostics}
		d.refuse(src, err)
		return err
	}
	return d.want(ctx, &target{source: src, plan: plan, taken: make(chan struct{})}, supplied)
}

// reprocess has everything of the current sync config read anew.
func (d *deployer) reprocess(ctx context.Context) error {
	wanted, _ := d.target()
	if wanted == nil {
		return protocol.Errorf(protocol.NothingToReprocess, "No sync config is active, so there is nothing to reprocess; deploy one.")
	}
	if busy, _, _ := d.status(); busy {
		return protocol.Errorf(protocol.DeployBusy, "A sync config is being processed already; wait until it is current, or deploy another one.")
	}
	return d.want(ctx, &target{source: wanted.source, plan: wanted.plan, anew: true, taken: make(chan struct{})}, d.suppliedBy())
}

func (d *deployer) want(ctx context.Context, t *target, supplied string) error {
	select {
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	d.mu.Lock()
	if d.supplied = supplied; !t.anew && d.wanted != nil && d.wanted.source.Text == t.source.Text {
		if !d.wanted.back {
			d.failed = nil // whoever tried another one has come back
		}
		d.mu.Unlock()
		return errUnchanged
	}
	d.wanted, d.working, d.waits = t, true, nil
	close(d.changed)
	d.changed = make(chan struct{})
	d.mu.Unlock()
	d.log.Info("a sync config is to be deployed", "sync_config", t.source.File, "streams", len(t.plan.Streams), "anew", t.anew)
	select {
	case <-t.taken:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the sync config was not stored in time: %w", ctx.Err())
	}
}

// suppliedBy names where the configuration has its sync config; "" if it has none.
func (d *deployer) suppliedBy() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.supplied
}

// refuse notes that a sync config was not taken.
func (d *deployer) refuse(src streams.Source, reason error) {
	d.log.Error("a sync config is refused; the one before goes on being served", "sync_config", src.File, "reason", reason)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failed = &failedDeploy{src, reason, time.Now()}
}

// giveUp goes back to a sync config from the one that is wanted.
func (d *deployer) giveUp(back *target, reason error) {
	d.refuse(d.wantedSource(), reason)
	d.mu.Lock()
	defer d.mu.Unlock()
	back.back = true
	d.wanted, d.working, d.waits = back, true, nil
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *deployer) wantedSource() streams.Source {
	if t, _ := d.target(); t != nil {
		return t.source
	}
	return streams.Source{}
}

// wait notes what keeps the wanted sync config from being current.
func (d *deployer) wait(reasons []string) {
	d.mu.Lock()
	news := strings.Join(reasons, "\n") != strings.Join(d.waits, "\n")
	d.waits = reasons
	d.mu.Unlock()
	if news && len(reasons) > 0 {
		d.log.Error("the sync config cannot become current yet; the one before goes on being served", "reasons", strings.Join(reasons, "; "))
	}
}

// current notes that a target is current.
func (d *deployer) current(t *target) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.wanted == t && d.working {
		if d.working, d.waits = false, nil; !t.back {
			d.failed = nil
		}
	}
}

// status reports whether the wanted sync config is still on its way, what it waits
// for, and what failed last.
func (d *deployer) status() (working bool, waits []string, failed *failedDeploy) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.working, d.waits, d.failed
}

func logWarnings(log *slog.Logger, diagnostics []streams.Diagnostic) {
	for _, w := range diagnostics {
		if w.Severity == streams.Warning {
			log.Warn("sync config", "place", w.Start.String(), "stream", w.Stream, "warning", w.Message, "hint", w.Hint)
		}
	}
}

// newTarget compiles a sync config that was compiled before; nil if this version of
// the program no longer can.
func newTarget(src streams.Source) *target {
	plan, _ := streams.Compile(src)
	if plan == nil {
		return nil
	}
	return &target{source: src, plan: plan, taken: make(chan struct{})}
}

// storedTarget returns the sync config that the store holds as the newest, or, with
// serving, as the current one; nil if there is none that compiles.
func storedTarget(rec storage.Recovered, serving bool) *target {
	for i := len(rec.Deploys) - 1; i >= 0; i-- {
		d := &rec.Deploys[i]
		if d.State == storage.DeployServing || d.State == storage.DeployPending && !serving {
			if t := newTarget(deploySource(d)); t != nil {
				return t
			}
		}
	}
	return nil
}

// deploySource is the sync config of a stored deploy.
func deploySource(d *storage.Deploy) streams.Source {
	return streams.Source{File: fmt.Sprintf("deploy %d", d.ID), Text: d.SyncConfig}
}
