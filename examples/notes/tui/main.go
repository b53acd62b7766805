// Command tui is the notes app in a terminal, on Millrace's Go client SDK: a list that
// follows the database, which is always there to read and write, connected or not.
//
// Three parts: notes.go knows the database, model.go decides what keys and news mean and
// what the screen shows, this file joins them. The model is changed by the screen's loop
// alone; what goes on elsewhere reaches it as messages.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"sync"
	"syscall"

	tea "charm.land/bubbletea/v2"

	"github.com/millrace-sync/millrace/client"
)

// options is what the command line says.
type options struct {
	user, backend, database string
}

func parseOptions(args []string, env func(string) string, usage io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("notes-tui", flag.ContinueOnError)
	f.SetOutput(usage)
	backend := env("NOTES_BACKEND_URL")
	if backend == "" {
		backend = "http://127.0.0.1:6060"
	}
	f.StringVar(&o.user, "user", env("NOTES_USER"), "`name` to sign in as (NOTES_USER)")
	f.StringVar(&o.backend, "backend", backend, "`URL` of the notes backend (NOTES_BACKEND_URL)")
	f.StringVar(&o.database, "database", "", "the local database's `file`; by default notes-NAME.db in this folder")
	if err := f.Parse(args); err != nil {
		return options{}, err
	}
	if f.NArg() > 0 {
		return options{}, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if o.user == "" {
		return options{}, errors.New("-user is missing")
	}
	if u, err := url.Parse(o.backend); err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return options{}, fmt.Errorf("-backend: %q is no http or https URL", o.backend)
	}
	if o.database == "" {
		o.database = "notes-" + url.PathEscape(o.user) + ".db"
	}
	return o, nil
}

func main() {
	o, err := parseOptions(os.Args[1:], os.Getenv, os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "notes-tui:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "notes-tui:", err)
		stop()
		os.Exit(1)
	}
}

// run shows the notes until somebody quits or ctx ends.
func run(ctx context.Context, o options) (err error) {
	// What the client would log, the screen shows as status.
	db, err := client.Open(ctx, o.database, schema, &client.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()

	connector := &client.Backend{URL: o.backend, User: o.user}
	n := &notes{db: db, user: o.user, connector: connector}
	program := tea.NewProgram(newModel(ctx, n), tea.WithContext(ctx))
	connector.OnRejected = func(r client.Rejection) { program.Send(rejectedMsg(r)) }
	if err := n.connect(); err != nil {
		return err
	}

	following, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for _, follow := range []func(context.Context, func(tea.Msg)){n.followNotes, n.followQueue, n.followStatus} {
		wg.Go(func() { follow(following, program.Send) })
	}
	_, err = program.Run()
	if errors.Is(err, tea.ErrProgramKilled) && ctx.Err() != nil {
		return nil // a signal is one way to quit
	}
	return err
}
