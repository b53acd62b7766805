package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/millrace-sync/millrace/internal/config"
	"github.com/millrace-sync/millrace/internal/streams"
)

// planCmd shows what a sync config compiles to.
type planCmd struct {
	SyncConfig string `required:"" placeholder:"FILE" help:"Sync config to compile."`
}

// Run prints, for each stream, its buckets, keys and lookups and the tables they
// read; it fails if there is a mistake.
func (c *planCmd) Run(p *process) error {
	src, err := config.SyncFile(c.SyncConfig)
	if err != nil {
		return fmt.Errorf("the sync config %s %w", c.SyncConfig, err)
	}
	plan, diagnostics := streams.Compile(src)
	problems := asProblems(diagnostics)
	if len(problems) > 0 {
		fmt.Fprintln(p.err, problems)
	}
	if plan == nil {
		return errors.New(count(problems.Errors(), "mistake"))
	}
	_, err = io.WriteString(p.out, plan.Describe())
	return err
}
