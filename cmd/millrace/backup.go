package main

import (
	"errors"
	"fmt"

	"github.com/millrace-sync/millrace/internal/admin"
	"github.com/millrace-sync/millrace/internal/server"
)

// backupCmd copies the storage.
type backupCmd struct {
	Dir string `arg:"" placeholder:"DIR" help:"Folder to make; it must not exist."`
	adminFlags
}

// Run makes the copy and says how to use it.
func (c *backupCmd) Run(p *process) error {
	cfg, _, err := c.load(p)
	if err != nil {
		return err
	}
	ctx, stop := p.notify()
	defer stop()
	if len(cfg.API.Tokens) > 0 {
		client, err := c.client(cfg)
		if err != nil {
			return err
		}
		err = client.Backup(ctx, c.Dir)
		if err == nil {
			_, err = fmt.Fprintf(p.out, "%s holds what the service had stored. To restore it, set storage.path to a copy of it.\n", c.Dir)
			return err
		}
		if !errors.Is(err, admin.ErrNotRunning) || c.URL != "" {
			return refusal(err)
		}
	}
	at, err := server.Backup(ctx, cfg, c.Dir, newLogger(p.err, cfg.Logging))
	if err != nil {
		return storageError(err, "The service runs: give it api.tokens to be asked for a backup, or stop it for as long as that takes.")
	}
	_, err = fmt.Fprintf(p.out, "%s holds %s as of checkpoint %s. To restore it, set storage.path to a copy of it.\n", c.Dir, cfg.Storage.Path, at)
	return err
}
