package main

import (
	"errors"
	"io"
	"log/slog"

	"github.com/millrace-sync/millrace/internal/config"
	"github.com/millrace-sync/millrace/internal/server"
	"github.com/millrace-sync/millrace/internal/storage"
)

// configFlags say where the configuration is.
type configFlags struct {
	ConfigPath   string `short:"c" placeholder:"FILE" help:"Configuration file (POWERSYNC_CONFIG_PATH; default powersync.yaml)."`
	ConfigBase64 string `name:"config-base64" placeholder:"BASE64" help:"Configuration as base64, also -c64 (POWERSYNC_CONFIG_B64)."`
	SyncBase64   string `name:"sync-base64" placeholder:"BASE64" help:"Sync config as base64, also -sync64 (POWERSYNC_SYNC_CONFIG_B64)."`
}

// given tells whether a flag names a configuration.
func (f *configFlags) given() bool { return f.ConfigPath != "" || f.ConfigBase64 != "" }

func (f *configFlags) load(p *process) (*config.Config, config.Problems, error) {
	return config.Load(config.Input{
		Base64: f.ConfigBase64, Path: f.ConfigPath, SyncBase64: f.SyncBase64, LookupEnv: p.lookupEnv,
	})
}

// startCmd runs the service.
type startCmd struct {
	configFlags
	RunnerType string `short:"r" default:"unified" env:"PS_RUNNER_TYPE" placeholder:"TYPE" help:"What to run: unified replicates and serves clients; api only serves and sync only replicates, beside other processes, with storage in Postgres."`
}

// Run runs the service until a signal ends it.
func (c *startCmd) Run(p *process) error {
	role, err := server.ParseRole(c.RunnerType)
	if err != nil {
		return &exitError{exitStart, err}
	}
	cfg, warnings, err := c.load(p)
	if err != nil {
		return &exitError{exitStart, err}
	}
	log := newLogger(p.err, cfg.Logging)
	for _, w := range warnings {
		attrs := []any{"place", w.Place(), "key", w.Path}
		if w.Hint != "" {
			attrs = append(attrs, "hint", w.Hint)
		}
		log.Warn("configuration: "+w.Message, attrs...)
	}
	ctx, stop := p.notify()
	defer stop()
	hangups, ignore := p.hangups()
	defer ignore()
	log.Info("starting", "config", cfg) // from here on signals are heard
	reload := server.Reload{Signals: hangups, Load: func() (*config.Config, error) {
		again, _, err := c.load(p)
		return again, err
	}}
	err = server.Run(ctx, cfg, role, reload, log)
	if err == nil {
		return nil
	}
	end := &exitError{exitCode(err), err}
	if cfg.Logging.JSON { // whoever collects the log expects nothing else
		log.Error("the service ended", "error", err.Error(), "exit_code", end.code)
		end.err = nil
	}
	return end
}

// exitCode returns the code for an error of the service.
func exitCode(err error) int {
	var sync *server.SyncConfigError
	switch {
	case errors.As(err, &sync):
		return exitFailed
	case errors.Is(err, storage.ErrFailed):
		return exitStorage
	}
	return exitStart
}

// newLogger makes the service's log.
func newLogger(w io.Writer, c config.Logging) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.Level}
	if c.JSON {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
