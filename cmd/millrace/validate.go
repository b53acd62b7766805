package main

import (
	"errors"
	"fmt"

	"github.com/millrace-sync/millrace/internal/config"
	"github.com/millrace-sync/millrace/internal/server"
	"github.com/millrace-sync/millrace/internal/streams"
)

// validateCmd checks files without running anything.
type validateCmd struct {
	SyncConfig string `placeholder:"FILE" help:"Sync config to check; without it, the configuration's own."`
	configFlags
}

// Run prints every mistake and hint; it fails if there is a mistake. With a
// configuration it asks the source database too.
func (c *validateCmd) Run(p *process) error {
	var problems config.Problems
	var source *streams.Source
	var cfg *config.Config
	if c.given() || c.SyncConfig == "" {
		loaded, warnings, err := c.load(p)
		var invalid *config.Invalid
		switch {
		case errors.As(err, &invalid):
			problems = invalid.Problems
		case err != nil:
			return err
		default:
			problems, cfg = warnings, loaded
			if loaded.Sync.Supplied() {
				source = &loaded.Sync.Source
			}
		}
	}
	if c.SyncConfig != "" {
		src, err := config.SyncFile(c.SyncConfig)
		if err != nil {
			return fmt.Errorf("the sync config %s %w", c.SyncConfig, err)
		}
		source = &src
	}
	summary := "no sync config"
	var report server.Report
	if source != nil {
		plan, diagnostics := streams.Compile(*source)
		problems = append(problems, asProblems(diagnostics)...)
		if plan != nil {
			summary = fmt.Sprintf("%s: %s, %s", source.File, count(len(plan.Streams), "stream"), count(len(plan.Definitions), "definition"))
		}
		if plan != nil && cfg != nil {
			ctx, stop := p.notify()
			defer stop()
			found, err := server.CheckSource(ctx, cfg, plan)
			if err != nil {
				return err
			}
			report = *found
			problems = append(problems, asProblems(report.Diagnostics)...)
		}
	}
	if len(problems) > 0 {
		fmt.Fprintln(p.err, problems)
	}
	for _, w := range report.Warnings {
		fmt.Fprintln(p.err, "warning:", w)
	}
	for _, m := range report.Mistakes {
		fmt.Fprintln(p.err, "error:", m)
	}
	if n := problems.Errors() + len(report.Mistakes); n > 0 {
		return errors.New(count(n, "mistake"))
	}
	_, err := fmt.Fprintf(p.out, "%s: no mistakes\n", summary)
	return err
}

func asProblems(diagnostics []streams.Diagnostic) config.Problems {
	out := make(config.Problems, len(diagnostics))
	for i, d := range diagnostics {
		out[i] = config.FromDiagnostic(d)
	}
	return out
}

// count returns a number of things, as "1 stream" or "2 streams".
func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}
