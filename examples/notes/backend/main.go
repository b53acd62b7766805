// Command backend is the notes app's own server: it signs users in, publishes
// the key that their tokens verify with, and writes what their clients upload
// to Postgres. The sync service reads from the same Postgres; the two do not
// talk to each other.
//
// Invariants:
//   - A user's token decides whose rows an upload may touch; the upload's own
//     "owner" never does.
//   - A write that was acknowledged is in its table or in upload_dead_letter.
//   - What could work later (database down, rights missing) is answered with
//     5xx, and nothing of that upload is kept.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// settings is the backend's configuration. Each flag defaults to an environment
// variable, so that secrets need not stand in a process list.
type settings struct {
	listen, database, key, audience, service, origin string
	ttl                                              time.Duration
	signIn                                           bool
}

func parseSettings(args []string, env func(string) string, usage io.Writer) (settings, error) {
	or := func(name, fallback string) string {
		if v := env(name); v != "" {
			return v
		}
		return fallback
	}
	var s settings
	f := flag.NewFlagSet("backend", flag.ContinueOnError)
	f.SetOutput(usage)
	f.StringVar(&s.listen, "listen", or("NOTES_LISTEN", "127.0.0.1:6060"), "`address` to serve on (NOTES_LISTEN)")
	f.StringVar(&s.service, "service", or("NOTES_SERVICE_URL", "http://127.0.0.1:8080"), "`URL` of the sync service, for clients (NOTES_SERVICE_URL)")
	f.StringVar(&s.audience, "audience", or("NOTES_AUDIENCE", "powersync"), "audience of the tokens, as in client_auth.audience (NOTES_AUDIENCE)")
	f.StringVar(&s.origin, "allow-origin", or("NOTES_ALLOW_ORIGIN", "*"), "web `origin` that may call the API (NOTES_ALLOW_ORIGIN)")
	f.DurationVar(&s.ttl, "token-lifetime", 5*time.Minute, "how long a token is valid, at most 24h")
	f.BoolVar(&s.signIn, "development-sign-in", false, "give a token for any user name to whoever asks; never in production")
	if err := f.Parse(args); err != nil {
		return settings{}, err
	}
	if f.NArg() > 0 {
		return settings{}, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	s.database, s.key = env("NOTES_DATABASE_URL"), env("POWERSYNC_PRIVATE_KEY")
	if s.database == "" {
		return settings{}, errors.New("no database: set NOTES_DATABASE_URL, for example postgresql://notes_backend@127.0.0.1:5432/notes")
	}
	// The service refuses tokens that live longer than a day.
	if s.ttl < time.Second || s.ttl > 24*time.Hour {
		return settings{}, fmt.Errorf("-token-lifetime %s: must be between 1s and 24h", s.ttl)
	}
	return s, nil
}

// Exit codes.
const (
	exitFailure = 1
	exitUsage   = 2
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	s, err := parseSettings(os.Args[1:], os.Getenv, os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		log.Error(err.Error())
		os.Exit(exitUsage)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, s, log); err != nil {
		log.Error(err.Error())
		stop()
		os.Exit(exitFailure)
	}
}

// run serves until ctx ends, then lets the requests under way finish.
func run(ctx context.Context, s settings, log *slog.Logger) error {
	key, err := parseKey(s.key)
	if err != nil {
		return err
	}
	config, err := pgxpool.ParseConfig(s.database)
	if err != nil {
		// The parser's error redacts the password.
		return fmt.Errorf("NOTES_DATABASE_URL: %w", err)
	}
	config.MaxConns = 8
	config.ConnConfig.ConnectTimeout = 5 * time.Second
	// The pool connects when it is first used, so the backend starts, and
	// answers 503, while the database is down.
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("open database pool: %w", err)
	}
	defer pool.Close()

	a := &api{
		signer:     &signer{key: key, audience: s.audience, ttl: s.ttl, now: time.Now},
		store:      &store{pool: pool},
		serviceURL: s.service,
		origin:     s.origin,
		signIn:     s.signIn,
		log:        log,
	}
	srv := &http.Server{
		Handler:           a.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      40 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	listener, err := net.Listen("tcp", s.listen)
	if err != nil {
		return fmt.Errorf("%w: stop what uses that address, or choose another with -listen", err)
	}
	if s.signIn {
		log.Warn("development sign-in is on: anybody who reaches this address can be any user")
	}
	log.Info("serving", "address", listener.Addr().String())

	served := make(chan error, 1)
	go func() { served <- srv.Serve(listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	log.Info("stopping")
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), 8*time.Second)
	defer cancel()
	err = srv.Shutdown(drain)
	if err != nil {
		// Requests that did not finish in time are cut off; their clients retry.
		err = errors.Join(fmt.Errorf("stop: %w", err), srv.Close())
	}
	<-served
	return err
}
