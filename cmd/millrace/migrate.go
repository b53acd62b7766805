package main

import (
	"fmt"

	"github.com/millrace-sync/millrace/internal/server"
)

// migrateCmd prepares storage in Postgres.
type migrateCmd struct {
	Direction string `arg:"" optional:"" default:"up" enum:"up" help:"up; there is no way down: an older version needs a schema of its own."`
	configFlags
}

// Run creates or changes the tables and says that they are as they should be.
func (c *migrateCmd) Run(p *process) error {
	cfg, _, err := c.load(p)
	if err != nil {
		return err
	}
	ctx, stop := p.notify()
	defer stop()
	tables, err := server.Migrate(ctx, cfg, newLogger(p.err, cfg.Logging))
	if err != nil {
		return err
	}
	if !tables {
		_, err = fmt.Fprintf(p.out, "%s: storage in a folder has no tables; the service prepares it when it starts\n", &cfg.Storage)
		return err
	}
	_, err = fmt.Fprintf(p.out, "%s: the tables have the format of this version\n", &cfg.Storage)
	return err
}
