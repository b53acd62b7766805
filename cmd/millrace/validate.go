package main

import (
	"errors"
	"fmt"

	"github.com/millrace-sync/millrace/internal/config"
	"github.com/millrace-sync/millrace/internal/streams"
)

// validateCmd checks files without running anything.
type validateCmd struct {
	SyncConfig string `placeholder:"FILE" help:"Sync config to check; without it, the configuration's own."`
	configFlags
}

// Run prints every mistake and hint; it fails if there is a mistake.
func (c *validateCmd) Run(p *process) error {
	var problems config.Problems
	var source *streams.Source
	if c.given() || c.SyncConfig == "" {
		cfg, warnings, err := c.load(p)
		var invalid *config.Invalid
		switch {
		case errors.As(err, &invalid):
			problems = invalid.Problems
		case err != nil:
			return err
		default:
			problems, source = warnings, &cfg.Sync.Source
		}
	}
	if c.SyncConfig != "" {
		src, err := config.SyncFile(c.SyncConfig)
		if err != nil {
			return fmt.Errorf("the sync config %s %w", c.SyncConfig, err)
		}
		source = &src
	}
	summary := ""
	if source != nil {
		plan, diagnostics := streams.Compile(*source)
		problems = append(problems, asProblems(diagnostics)...)
		if plan != nil {
			summary = fmt.Sprintf("%s: %s, %s", source.File, count(len(plan.Streams), "stream"), count(len(plan.Definitions), "definition"))
		}
	}
	if len(problems) > 0 {
		fmt.Fprintln(p.err, problems)
	}
	if n := problems.Errors(); n > 0 {
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
