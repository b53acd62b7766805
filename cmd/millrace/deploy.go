package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-sync/millrace/internal/admin"
	"github.com/millrace-sync/millrace/internal/config"
	"github.com/millrace-sync/millrace/internal/server"
	"github.com/millrace-sync/millrace/internal/streams"
	"github.com/millrace-sync/millrace/protocol"
)

// adminFlags say where the running service is.
type adminFlags struct {
	configFlags
	URL string `placeholder:"URL" help:"The running service (default: on this machine, at the configured port). Its admin token is the first of api.tokens."`
}

// client returns a client of the running service. There is no limit on the time that
// an answer takes: the commands end by a signal.
func (f *adminFlags) client(cfg *config.Config) (*admin.Client, error) {
	if len(cfg.API.Tokens) == 0 {
		return nil, fmt.Errorf("%s has no api.tokens: the running service takes orders only from those who have one", cfg.File)
	}
	url := f.URL
	if url == "" {
		url = "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(cfg.Port))
	}
	return &admin.Client{URL: url, Token: string(cfg.API.Tokens[0]), HTTP: &http.Client{}}, nil
}

// deployCmd deploys a sync config.
type deployCmd struct {
	File   string `arg:"" optional:"" placeholder:"FILE" help:"Sync config; without it, the one that the service's configuration names."`
	DryRun bool   `help:"Say what it would do, and do nothing."`
	NoWait bool   `help:"Do not wait until it is current."`
	adminFlags
}

// Run deploys to the running service and waits, or to the storage of a stopped one.
func (c *deployCmd) Run(p *process) error {
	cfg, _, err := c.load(p)
	if err != nil {
		return err
	}
	client, err := c.client(cfg)
	if err != nil {
		return err
	}
	var src *streams.Source
	if c.File != "" && !sameFile(c.File, cfg.Sync.Source.File) {
		file, err := config.SyncFile(c.File)
		if err != nil {
			return fmt.Errorf("the sync config %s %w", c.File, err)
		}
		src = &file
	}
	ctx, stop := p.notify()
	defer stop()
	if c.DryRun {
		return c.dryRun(ctx, p, cfg, client, src)
	}
	if src != nil {
		err = client.Deploy(ctx, src.Text)
	} else {
		err = client.Reload(ctx)
	}
	switch {
	case errors.Is(err, admin.ErrNotRunning):
		return c.stopped(ctx, p, cfg, src, err)
	case err != nil:
		return refusal(err)
	case c.NoWait:
		_, err := fmt.Fprintln(p.out, "The sync config is taken; what is new in it is being backfilled while the one before is served.")
		return err
	}
	return wait(ctx, p.out, client, time.Second)
}

func sameFile(a, b string) bool {
	x, errX := filepath.Abs(a)
	y, errY := filepath.Abs(b)
	return errX == nil && errY == nil && x == y
}

// refusal shows all that a service says.
func refusal(err error) error {
	if e, ok := errors.AsType[*protocol.Error](err); ok && e.Details != "" {
		return fmt.Errorf("%s\n%s", e.Description, e.Details)
	}
	return err
}

// stopped deploys to a service that does not run.
func (c *deployCmd) stopped(ctx context.Context, p *process, cfg *config.Config, src *streams.Source, reason error) error {
	if src == nil {
		return fmt.Errorf("%w. It deploys the sync config of its configuration when it starts", reason)
	}
	if cfg.Sync.Supplied() {
		return fmt.Errorf("%w, and will deploy %s when it starts. To deploy another one, change that, or take sync_config out of %s", reason, cfg.Sync.Source.File, cfg.File)
	}
	if c.URL != "" {
		return reason
	}
	if err := server.Deploy(ctx, cfg, *src, newLogger(p.err, cfg.Logging)); err != nil {
		return storageError(err, "It runs, but not where it was looked for: see --url.")
	}
	_, err := fmt.Fprintln(p.out, "The service does not run. The sync config is stored and is deployed when it starts.")
	return err
}

// wait waits until a deploy has gone well or badly, and says how it is getting on.
func wait(ctx context.Context, out io.Writer, client *admin.Client, every time.Duration) error {
	said := ""
	for {
		s, err := client.Status(ctx)
		if e, ok := errors.AsType[*protocol.Error](err); ok && e.Code == protocol.ShuttingDown {
			// Another process takes over, or the service is being started again.
			s, err = &admin.Status{Deploying: true, Reason: e.Description}, nil
		}
		if err != nil {
			return refusal(err)
		}
		switch {
		case s.Failed != "" && !s.Deploying:
			return errors.New("the sync config was given up, and the one before is served: " + s.Failed)
		case !s.Deploying:
			_, err := fmt.Fprintf(out, "The sync config is current, at checkpoint %s.\n", s.Checkpoint)
			return err
		}
		if now := progress(s); now != said {
			said = now
			fmt.Fprintln(out, now)
		}
		select {
		case <-time.After(every):
		case <-ctx.Done():
			return errors.New("not waited for: the deploy goes on without this command")
		}
	}
}

func progress(s *admin.Status) string {
	switch {
	case len(s.Waits) > 0:
		return "waiting: " + strings.Join(s.Waits, "\n")
	case len(s.Backfill) > 0:
		parts := make([]string, len(s.Backfill))
		for i, t := range s.Backfill {
			parts[i] = fmt.Sprintf("%s (%s)", t.Table, count(int(t.Rows), "row"))
		}
		return "reading: " + strings.Join(parts, ", ")
	case !s.Ready && s.Reason != "":
		return "waiting: " + s.Reason
	}
	return "deploying"
}

func (c *deployCmd) dryRun(ctx context.Context, p *process, cfg *config.Config, client *admin.Client, src *streams.Source) error {
	var content *string
	if src != nil {
		content = &src.Text
	}
	d, err := client.DryRun(ctx, content)
	if errors.Is(err, admin.ErrNotRunning) && c.URL == "" {
		if src == nil {
			if !cfg.Sync.Supplied() {
				return fmt.Errorf("%s names no sync config: give the file to deploy", cfg.File)
			}
			src = &cfg.Sync.Source
		}
		d, err = server.DryRun(ctx, cfg, *src, newLogger(p.err, cfg.Logging))
		if err != nil {
			return storageError(err, "It runs, but not where it was looked for: see --url.")
		}
	}
	if err != nil {
		return refusal(err)
	}
	_, err = io.WriteString(p.out, describeDryRun(d))
	return err
}

// describeDryRun says what a deploy would do.
func describeDryRun(d *admin.DryRun) string {
	var b strings.Builder
	if d.Unchanged {
		b.WriteString("This sync config is deployed already.\n")
	}
	fmt.Fprintf(&b, "%s kept, %d new, %d dropped\n", count(d.Keep, "definition"), d.New, d.Drop)
	if len(d.Reads) > 0 {
		b.WriteString("\ntables to be read\n")
		for _, t := range d.Reads {
			rows := "about " + count(int(t.Rows), "row")
			if t.Rows < 0 {
				rows = "number of rows not known"
			}
			fmt.Fprintf(&b, "  %s: %s\n", t.Table, rows)
		}
	}
	if len(d.Streams) > 0 {
		b.WriteString("\nstreams\n")
	}
	for _, s := range d.Streams {
		what := map[string]string{
			"unchanged": "clients keep what they have", "added": "new", "resent": "clients download it again", "removed": "clients lose it",
		}[s.Fate]
		fmt.Fprintf(&b, "  %s: %s\n", s.Name, what)
	}
	for _, w := range d.Waits {
		fmt.Fprintf(&b, "\nIt would wait, and the sync config before it be served, until this is mended:\n  %s\n", w)
	}
	for _, w := range d.Warnings {
		fmt.Fprintf(&b, "\nwarning: %s\n", w)
	}
	return b.String()
}
