package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/millrace-sync/millrace/internal/config"
	"github.com/millrace-sync/millrace/internal/streams"
)

// planCmd shows what a sync config compiles to.
type planCmd struct {
	SyncConfig string `required:"" placeholder:"FILE" help:"Sync config to compile."`
}

// Run prints the streams and the definitions; it fails if there is a mistake.
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
	return printPlan(p.out, plan)
}

func printPlan(out io.Writer, plan *streams.Plan) error {
	var b strings.Builder
	for _, s := range plan.Streams {
		how := "on subscription"
		if s.AutoSubscribe {
			how = "subscribed automatically"
		}
		fmt.Fprintf(&b, "stream %s: %s, priority %d\n", s.Name, how, s.Priority)
	}
	for _, d := range plan.Definitions {
		kind := "buckets"
		if d.Kind == streams.LookupIndex {
			kind = "lookup"
		}
		tables := make([]string, len(d.Tables))
		for i, t := range d.Tables {
			tables[i] = t.Schema + "." + t.Name
		}
		fmt.Fprintf(&b, "%s %s: reads %s, hash %s\n", kind, d.Label, strings.Join(tables, ", "), d.Hash)
		for line := range strings.Lines(d.Canonical) {
			fmt.Fprintf(&b, "    %s\n", strings.TrimRight(line, "\n"))
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}
