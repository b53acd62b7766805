package main

import (
	"fmt"

	"github.com/millrace-sync/millrace/internal/server"
	"github.com/millrace-sync/millrace/protocol"
)

// teardownWord is what has to be written to tear down.
const teardownWord = "TEARDOWN"

// teardownCmd removes what a service leaves behind.
type teardownCmd struct {
	Word string `arg:"" optional:"" placeholder:"TEARDOWN" help:"The word TEARDOWN, to confirm."`
	configFlags
}

// Run drops the slot and removes the storage.
func (c *teardownCmd) Run(p *process) error {
	if c.Word != teardownWord {
		return &exitError{exitStart, protocol.Errorf(protocol.TeardownUnconfirmed,
			"teardown drops the replication slot and removes the storage, so that every client downloads everything again: write millrace teardown %s", teardownWord)}
	}
	cfg, _, err := c.load(p)
	if err != nil {
		return &exitError{exitStart, err}
	}
	ctx, stop := p.notify()
	defer stop()
	removed, err := server.Teardown(ctx, cfg, newLogger(p.err, cfg.Logging))
	if err != nil {
		return storageError(err, "Stop the service first.")
	}
	what := "there was no storage"
	if removed != "" {
		what = "the storage in " + removed + " is removed"
	}
	_, err = fmt.Fprintf(p.out, "The replication slot is dropped, and %s.\n", what)
	return err
}

// testConnectionCmd checks the way to the source.
type testConnectionCmd struct{ configFlags }

// Run connects and says what it found.
func (c *testConnectionCmd) Run(p *process) error {
	cfg, _, err := c.load(p)
	if err != nil {
		return err
	}
	ctx, stop := p.notify()
	defer stop()
	version, warnings, err := server.TestConnection(ctx, cfg)
	for _, w := range warnings {
		fmt.Fprintln(p.err, "warning:", w)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.out, "connected to %s on %s as %s: Postgres %s, ready for replication\n", cfg.Connection.Database, cfg.Connection.Host, cfg.Connection.User, version)
	return err
}
