package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace-sync/millrace/internal/admin"
	"github.com/millrace-sync/millrace/internal/httpapi"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/pgstore"
)

// leader replicates whenever this process has the storage's lease: it waits for the
// lease, works until another process has taken over or ctx ends, and waits again.
type leader struct {
	service  *service
	options  pgstore.Options
	deployer *deployer
	activity *activity
	log      *slog.Logger

	// newest is the sync config that was the newest deployed one when the process
	// started; led says that this process has replicated before, and said is the trouble
	// that was last told of. They belong to Run.
	newest string
	led    bool
	said   string

	mu     sync.Mutex
	health *health   // of the replicator, while there is one
	office *operator // answers of it, while there is one
	holder string    // of the lease, while it is waited for
	reason string    // why the lease cannot be had
}

// Run leads again and again. It returns an error if the storage cannot be used by
// this version of the program, or is corrupt.
func (l *leader) Run(ctx context.Context) error {
	delay := minRetry
	for ctx.Err() == nil {
		started := time.Now()
		err := l.lead(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, storage.ErrFormat), errors.Is(err, storage.ErrCorrupt):
			return fmt.Errorf("replicate: %w", err)
		}
		if time.Since(started) > maxRetry {
			delay = minRetry
		}
		l.wait("", err.Error())
		if kind := troubleOf(err); kind != l.said {
			l.said = kind
			l.log.Warn("replication has ended in this process; waiting for its turn again", "reason", err, "retry_in", delay)
		}
		pause := time.NewTimer(delay)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
		delay = min(2*delay, maxRetry)
	}
	return nil
}

// begin notes that this process replicates, and wait that it does not, and why.
func (l *leader) begin(h *health, office *operator) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.health, l.office, l.holder, l.reason = h, office, "", ""
}

func (l *leader) wait(holder, reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.health, l.office, l.holder, l.reason = nil, nil, holder, reason
}

// wanted gives the deployer what is to be served: the configuration's sync config if
// it is newer than what is stored, that is, if nothing was deployed since this
// process was started by it.
func (l *leader) wanted(rec storage.Recovered) {
	stored := newestDeploy(&rec)
	if !l.led && (stored == nil || stored.SyncConfig == l.newest) {
		l.service.wanted(rec, l.deployer)
	} else {
		l.deployer.begin(storedTarget(rec, false), l.service.cfg.Sync.Source.File)
	}
	l.led = true
}

// lead waits for the lease, and replicates until it is lost or ctx ends.
func (l *leader) lead(ctx context.Context) error {
	opts := l.options
	opts.Wait, opts.Waiting = true, func(holder string) { l.wait(holder, "") }
	store, err := pgstore.Open(ctx, opts)
	if err != nil {
		return err
	}
	l.said = ""
	l.log.Info("this process replicates", "storage", l.service.cfg.Storage.String(), "checkpoint", store.Recovered().Checkpoint)
	g, gctx := errgroup.WithContext(ctx)
	// Clients are served by the front, which sees what is published by way of the
	// store: the replicator needs neither its hub nor its deploys.
	l.wanted(store.Recovered())
	health, current := newHealth(time.Now(), newBackfills(l.log)), newDeploys()
	r := l.service.replicator(writing{store, health.touch}, nil, l.deployer, current, health, l.activity)
	office := l.service.operator(l.deployer, current, health, l.activity)
	select {
	case <-l.service.reload.Signals: // it was for who replicated then
	default:
	}
	l.begin(health, office)
	g.Go(func() error { return r.Run(gctx) })
	g.Go(func() error { return l.service.reloader(l.deployer).Run(gctx) })
	g.Go(func() error { return store.Run(gctx) })
	g.Go(func() error { return store.AnswerRequests(gctx, office.answer) })
	g.Go(func() error { return l.service.compactor(store, l.activity).Run(gctx) })
	g.Go(func() error { return l.service.forgetter(store).Run(gctx) })
	err = g.Wait()
	// Whoever waits can take the lease at once.
	return errors.Join(err, store.Close())
}

// heard implements vitals.
func (l *leader) heard() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.health == nil {
		return time.Time{}
	}
	return l.health.heard()
}

// reading implements vitals.
func (l *leader) reading() []admin.TableProgress {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.health == nil {
		return nil
	}
	return l.health.reading()
}

// operator returns who answers the admin API of what is replicated here; nil while
// nothing is.
func (l *leader) operator() *operator {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.office
}

// Status implements httpapi.Health.
func (l *leader) Status() httpapi.Status {
	l.mu.Lock()
	health, holder, reason := l.health, l.holder, l.reason
	l.mu.Unlock()
	switch {
	case health != nil:
		return health.Status()
	case holder != "":
		// Whoever waits is what it is meant to be, and says what for.
		return httpapi.Status{Started: true, Ready: true, Touched: time.Now(),
			Reason: "another process replicates (" + holder + "); this one takes over when it ends"}
	case reason != "":
		return httpapi.Status{Started: true, Touched: time.Now(), Reason: reason}
	}
	return httpapi.Status{Touched: time.Now(), Reason: "replication has not started"}
}
