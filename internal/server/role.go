package server

import (
	"fmt"

	"github.com/millrace-sync/millrace/internal/config"
)

// Role is which part of the service a process is.
type Role string

// The roles.
const (
	Unified Role = "unified" // replicates if no other process does, and serves clients
	API     Role = "api"     // serves clients
	Sync    Role = "sync"    // replicates if no other process does
)

// ParseRole returns the role of a name.
func ParseRole(name string) (Role, error) {
	switch r := Role(name); r {
	case Unified, API, Sync:
		return r, nil
	}
	return "", fmt.Errorf("there is no runner type %q: set unified, api or sync, or leave -r and PS_RUNNER_TYPE out", name)
}

func (r Role) replicates() bool { return r != API }
func (r Role) serves() bool     { return r != Sync }

// check returns why a process cannot have the role with a configuration, or nil.
func (r Role) check(cfg *config.Config) error {
	if r != Unified && cfg.Storage.Type != config.PostgreSQL {
		return fmt.Errorf("the runner type %s needs storage that several processes can share, and the storage in %s is of type %s: "+
			"set storage.type to postgresql, or leave -r and PS_RUNNER_TYPE out", r, cfg.File, cfg.Storage.Type)
	}
	return nil
}
