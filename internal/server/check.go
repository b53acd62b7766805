package server

import (
	"context"

	"github.com/millrace-sync/millrace/internal/config"
	"github.com/millrace-sync/millrace/internal/postgres"
	"github.com/millrace-sync/millrace/internal/streams"
)

// Report is what CheckSource finds.
type Report struct {
	// Mistakes keep a table, or everything, from being replicated; Warnings do not.
	// Each says how to repair it.
	Mistakes, Warnings []error
	// Diagnostics say where the sync config does not fit the tables.
	Diagnostics []streams.Diagnostic
}

// CheckSource holds a configuration and a plan against the source database: the
// server's settings, the publication, the rights, and the tables, columns and
// replica identities that the plan reads. It changes nothing there.
func CheckSource(ctx context.Context, cfg *config.Config, plan *streams.Plan) (*Report, error) {
	pg := sourceConfig(&cfg.Connection)
	r := new(Report)
	facts, err := postgres.Check(ctx, pg)
	if err != nil {
		r.Mistakes = []error{err}
		if _, one := err.(*postgres.Error); !one {
			if joined, ok := err.(interface{ Unwrap() []error }); ok {
				r.Mistakes = joined.Unwrap()
			}
		}
		return r, nil
	}
	for _, w := range facts.Warnings {
		r.Warnings = append(r.Warnings, w)
	}
	c, err := connectAll(ctx, pg)
	if err != nil {
		return nil, err
	}
	defer c.close()
	set, err := c.readTables(ctx, patternsOf(plan), nil)
	if err != nil {
		return nil, err
	}
	for _, p := range set.problems {
		if p.Omitted {
			r.Mistakes = append(r.Mistakes, p.Err)
		} else {
			r.Warnings = append(r.Warnings, p.Err)
		}
	}
	r.Diagnostics = plan.CheckTables(set.tables)
	return r, nil
}

func patternsOf(plan *streams.Plan) []streams.TablePattern {
	var list []streams.TablePattern
	for _, d := range plan.Definitions {
		list = append(list, d.Tables...)
	}
	return list
}
