package server

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/millrace-sync/millrace/internal/httpapi"
)

// probeDir is where probe files are, in the working directory.
const probeDir = ".probes"

// probeEvery is how often they are brought up to date.
const probeEvery = time.Second

// probeFiles shows the state of the process as files, for those who look by running a
// command: startup is there once the process has started, ready while it is ready, and
// poll holds when replication was last seen alive. Each holds milliseconds since 1970.
type probeFiles struct {
	dir    string
	status func() httpapi.Status
	log    *slog.Logger

	shown  map[string]int64 // contents, by name
	failed bool
}

// Run keeps the files until ctx ends, and then removes them: nobody is to take a
// process that has ended for one that runs.
func (p *probeFiles) Run(ctx context.Context) error {
	p.shown = map[string]int64{}
	for _, name := range []string{"startup", "ready", "poll"} {
		p.remove(name)
	}
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		p.update(p.status())
		select {
		case <-tick.C:
		case <-ctx.Done():
			for name := range p.shown {
				p.remove(name)
			}
			return nil
		}
	}
}

func (p *probeFiles) update(s httpapi.Status) {
	p.show("poll", s.Touched.UnixMilli())
	if now := time.Now().UnixMilli(); s.Started && p.shown["startup"] == 0 {
		p.show("startup", now)
	}
	switch _, shown := p.shown["ready"]; {
	case s.Ready && !shown:
		p.show("ready", time.Now().UnixMilli())
	case !s.Ready && shown:
		p.remove("ready")
	}
}

// show writes a file in one step.
func (p *probeFiles) show(name string, content int64) {
	if p.shown[name] == content {
		return
	}
	path := filepath.Join(p.dir, name)
	err := os.MkdirAll(p.dir, 0o755)
	if err == nil {
		if err = os.WriteFile(path+".new", strconv.AppendInt(nil, content, 10), 0o644); err == nil {
			err = os.Rename(path+".new", path)
		}
	}
	if p.report(err); err == nil {
		p.shown[name] = content
	}
}

func (p *probeFiles) remove(name string) {
	delete(p.shown, name)
	if err := os.Remove(filepath.Join(p.dir, name)); !errors.Is(err, fs.ErrNotExist) {
		p.report(err)
	}
}

// report tells of a failure once, until it has gone well again.
func (p *probeFiles) report(err error) {
	if err != nil && !p.failed {
		p.log.Warn("probe files cannot be written; set healthcheck.probes.use_filesystem to false if nobody reads them", "folder", p.dir, "error", err)
	}
	p.failed = err != nil
}
