// Command demo shows the notes app: it starts Postgres, the backend and the
// service, runs the guide's three checks, and keeps everything running until it
// is interrupted. `make demo` builds what it needs and calls it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/millrace-sync/millrace/internal/demo"
)

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", ".demo", "`folder` of everything that the demo writes")
	flag.StringVar(&o.bin, "bin", "bin", "`folder` with the binaries millrace and notes-backend")
	flag.StringVar(&o.app, "app", filepath.Join("examples", "notes"), "`folder` of the notes app")
	flag.IntVar(&o.servicePort, "service-port", 8080, "port of the service, if it is free")
	flag.IntVar(&o.backendPort, "backend-port", 6060, "port of the backend, if it is free")
	once := flag.Bool("once", false, "end after the checks")
	remove := flag.Bool("remove", false, "remove what earlier runs have written, and end")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	var err error
	if *remove {
		err = o.remove()
	} else {
		err = o.run(ctx, os.Stdout, *once)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		stop()
		os.Exit(1)
	}
}

type options struct {
	dir, bin, app            string
	servicePort, backendPort int
}

// errBusy: another demo uses the folder.
var errBusy = errors.New("a demo is running there: stop it first (Ctrl-C)")

// lock keeps the folder for this process, and makes it if need be.
func (o *options) lock() (unlock func() error, err error) {
	var dir string
	if dir, err = filepath.Abs(o.dir); err == nil {
		o.dir = dir
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", dir, errBusy), f.Close())
	}
	return f.Close, nil
}

func (o *options) remove() error {
	if _, err := os.Stat(o.dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	unlock, err := o.lock()
	if err != nil {
		return err
	}
	return errors.Join(demo.Remove(o.dir), unlock())
}

// run shows the demo until ctx ends.
func (o *options) run(ctx context.Context, out io.Writer, once bool) (err error) {
	unlock, err := o.lock()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	scratch := filepath.Join(o.dir, "checks")
	if err := errors.Join(os.RemoveAll(scratch), os.MkdirAll(scratch, 0o755)); err != nil {
		return err
	}

	config := demo.Config{
		Dir:         o.dir,
		Millrace:    filepath.Join(o.bin, "millrace"),
		Backend:     filepath.Join(o.bin, "notes-backend"),
		Terminal:    filepath.Join(o.app, "terminal", "notes"),
		App:         o.app,
		ServicePort: o.servicePort,
		BackendPort: o.backendPort,
	}
	fmt.Fprintf(out, "Setting up in %s\n", o.dir)
	stack, err := demo.New(ctx, config)
	if err != nil {
		return err
	}
	defer func() {
		stopped := stack.Stop()
		if ctx.Err() != nil && !once {
			// Being interrupted is how the demo ends, whatever it was doing.
			err = nil
		}
		err = errors.Join(err, stopped)
		if stopped == nil {
			fmt.Fprintln(out, "Stopped everything.")
		}
	}()
	fmt.Fprintln(out, "Starting Postgres, the backend and the service")
	if err := stack.Start(ctx); err != nil {
		return err
	}

	fmt.Fprintln(out, "\nThe guide's three checks, with the official client SDK:")
	err = stack.RunAll(ctx, scratch, func(c demo.Check, seen string, took time.Duration, err error) {
		if err != nil {
			fmt.Fprintf(out, "  FAILED  %s\n          %v\n", c.Name, err)
			return
		}
		fmt.Fprintf(out, "  passed  %s (%.1f s)\n          %s\n", c.Name, took.Seconds(), seen)
	})
	if err != nil {
		return errors.New("a check failed; the logs are in " + stack.LogDir())
	}
	fmt.Fprintln(out, "All three checks passed.")
	if once {
		return nil
	}

	fmt.Fprintf(out, guide, stack.DatabaseURL(), stack.ServiceURL(), stack.BackendURL(),
		filepath.Join(o.app, "terminal", "notes"), stack.BackendURL(), filepath.Join(o.dir, "ann.db"),
		filepath.Join(o.bin, "notes-tui"), stack.BackendURL(), filepath.Join(o.dir, "ann-go.db"), stack.LogDir())
	select {
	case <-ctx.Done():
		fmt.Fprintln(out, "\nStopping")
		return nil
	case <-stack.Service.Done():
		return errors.New("the service ended by itself; see " + stack.LogDir())
	case <-stack.Backend.Done():
		return errors.New("the backend ended by itself; see " + stack.LogDir())
	case <-stack.Postgres.Done():
		return errors.New("Postgres ended by itself; see " + stack.Postgres.Dir())
	}
}

const guide = `
Everything is running. Have a look, in other terminals:

  Postgres   psql '%s'
             for example: UPDATE greeting SET message = upper(message);
  service    %s   (probe: /probes/readiness)
  backend    %s   (a token: /api/auth/token?user=ann)
  client     %s --user ann --backend %s --database %s
  in Go      %s -user ann -backend %s -database %s
  logs       %s

Press Ctrl-C to stop it all.
`
