package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/millrace-sync/millrace/internal/server"
	"github.com/millrace-sync/millrace/internal/storage"
)

// compactCmd compacts the storage.
type compactCmd struct {
	configFlags
	Buckets          []string `short:"b" sep:"none" placeholder:"NAME" help:"Full name of a bucket to compact, and no others; may be given several times."`
	ParameterIndexes bool     `short:"p" negatable:"" default:"true" help:"Taken for the sake of existing scripts: lookups keep no history that would have to be compacted."`
	IncrementalOnly  bool     `help:"Leave buckets alone that have hardly grown since they were last compacted, as the running service does."`
}

// Run compacts, and says what that saved. What was done before a signal is kept.
func (c *compactCmd) Run(p *process) error {
	cfg, _, err := c.load(p)
	if err != nil {
		return err
	}
	ctx, stop := p.notify()
	defer stop()
	did, err := server.Compact(ctx, cfg, c.Buckets, c.IncrementalOnly, newLogger(p.err, cfg.Logging))
	if err != nil {
		return storageError(err, "A running service compacts by itself.")
	}
	var parts []string
	for _, part := range []struct {
		n    int64
		what string
	}{
		{did.Cleared, "operation"}, {did.Moved, "superseded operation"}, {did.Rows, "row record"},
	} {
		if part.n > 0 {
			parts = append(parts, count(int(part.n), part.what))
		}
	}
	what := "nothing"
	if len(parts) > 0 {
		what = strings.Join(parts, ", ")
	}
	_, err = fmt.Fprintf(p.out, "%s: looked at %s, dropped %s; the storage took %s and now takes %s\n",
		&cfg.Storage, count(int(did.Buckets), "bucket"), what, size(did.Before), size(did.After))
	return err
}

// storageError gives an error of the storage its exit code, and says what else is
// to know if a running service has the storage.
func storageError(err error, running string) error {
	switch {
	case errors.Is(err, storage.ErrLocked):
		return fmt.Errorf("%w. %s", err, running)
	case errors.Is(err, storage.ErrFailed):
		return &exitError{exitStorage, err}
	}
	return err
}

// size returns a number of bytes for people.
func size(n uint64) string {
	const kb, mb, gb = 1e3, 1e6, 1e9
	switch f := float64(n); {
	case f < kb:
		return fmt.Sprintf("%d bytes", n)
	case f < mb:
		return fmt.Sprintf("%.1f kB", f/kb)
	case f < gb:
		return fmt.Sprintf("%.1f MB", f/mb)
	default:
		return fmt.Sprintf("%.1f GB", f/gb)
	}
}
