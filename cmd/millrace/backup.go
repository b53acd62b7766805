package main

import (
	"fmt"

	"github.com/millrace-sync/millrace/internal/server"
)

// backupCmd copies the storage.
type backupCmd struct {
	Dir string `arg:"" placeholder:"DIR" help:"Folder to make; it must not exist."`
	configFlags
}

// Run makes the copy and says how to use it.
func (c *backupCmd) Run(p *process) error {
	cfg, _, err := c.load(p)
	if err != nil {
		return err
	}
	ctx, stop := p.notify()
	defer stop()
	at, err := server.Backup(ctx, cfg, c.Dir, newLogger(p.err, cfg.Logging))
	if err != nil {
		return storageError(err, "Stop the service for as long as the backup takes; its clients come back by themselves.")
	}
	_, err = fmt.Fprintf(p.out, "%s holds %s as of checkpoint %s. To restore it, set storage.path to a copy of it.\n", c.Dir, cfg.Storage.Path, at)
	return err
}
