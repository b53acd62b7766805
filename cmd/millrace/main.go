// Command millrace is the sync service's binary. Each command has its own file;
// this one knows what they are called and how the process ends.
//
// Exit codes: 0 done; 1 a command failed, its command line is wrong, the sync config
// has mistakes, or a second signal forced the end; 150 the service could not start;
// 151 storage failed for good.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/millrace-sync/millrace/internal/config"
)

// commands is the command line.
type commands struct {
	Start          startCmd          `cmd:"" help:"Run the service."`
	Validate       validateCmd       `cmd:"" help:"Check a sync config, and a configuration, without running anything."`
	Plan           planCmd           `cmd:"" help:"Show what a sync config compiles to."`
	Deploy         deployCmd         `cmd:"" help:"Deploy a sync config to the running service, or say what that would do."`
	Compact        compactCmd        `cmd:"" help:"Make the storage smaller; a folder, while the service does not run."`
	Backup         backupCmd         `cmd:"" help:"Copy the storage to a folder, also while the service runs."`
	Migrate        migrateCmd        `cmd:"" help:"Create or update the tables of storage in Postgres."`
	Teardown       teardownCmd       `cmd:"" help:"Drop the replication slot and remove the storage."`
	TestConnection testConnectionCmd `cmd:"" help:"Check the connection to the source database."`
	Keygen         keygenCmd         `cmd:"" help:"Make a key pair for users' tokens and print it."`
	Version        versionCmd        `cmd:"" help:"Show the version."`
}

// The exit codes besides 0.
const (
	exitFailed  = 1
	exitStart   = 150
	exitStorage = 151
)

// process is what a command sees of the process it runs in.
type process struct {
	out, err  io.Writer
	lookupEnv func(string) (string, bool)
	// notify returns a context that ends at the first signal to stop; at the second,
	// or when stopping takes too long, the process ends at once. The function it
	// returns must be called when the work is over.
	notify func() (context.Context, context.CancelFunc)
	// hangups returns a channel that receives when the configuration is to be read
	// again, until the function is called.
	hangups func() (<-chan os.Signal, func())
}

// exitError is an error that ends the process with a code. err is nil if it has
// been reported.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func main() {
	p := &process{out: os.Stdout, err: os.Stderr, lookupEnv: os.LookupEnv, notify: notifySignals, hangups: notifyHangups}
	os.Exit(p.run(os.Args[1:]))
}

// run runs one command line and returns the exit code.
func (p *process) run(args []string) (code int) {
	// kong ends the process itself after printing help; exited carries its code out.
	type exited int
	defer func() {
		if e, ok := recover().(exited); ok {
			code = int(e)
		} else if r := recover(); r != nil {
			panic(r)
		}
	}()
	parser, err := kong.New(&commands{},
		kong.Name("millrace"),
		kong.Description("Streams a Postgres database, in slices that each user may see, to SQLite databases on their devices."),
		kong.Writers(p.out, p.err),
		kong.BindTo(p.out, (*io.Writer)(nil)),
		kong.Bind(p),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.Exit(func(code int) { panic(exited(code)) }),
	)
	if err != nil {
		panic(err) // the commands' tags are wrong
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	ctx, err := parser.Parse(longFlags(args))
	if err != nil {
		fmt.Fprintf(p.err, "millrace: %v\nmillrace --help shows the commands and their flags.\n", err)
		return exitFailed
	}
	if err := ctx.Run(); err != nil {
		return p.report(err)
	}
	return 0
}

// report prints a command's error, unless that has been done, and returns its code.
func (p *process) report(err error) int {
	var invalid *config.Invalid
	switch text := strings.TrimRight(err.Error(), "\n"); {
	case text == "":
	case errors.As(err, &invalid): // its lines begin with their places
		fmt.Fprintln(p.err, text)
	default:
		fmt.Fprintf(p.err, "millrace: %s\n", text)
	}
	var e *exitError
	if errors.As(err, &e) {
		return e.code
	}
	return exitFailed
}

// longFlags rewrites the flags of the PowerSync Service that have one dash and more
// than one letter, as -c64 VALUE or -c64=VALUE.
func longFlags(args []string) []string {
	long := map[string]string{"-c64": "--config-base64", "-sync64": "--sync-base64"}
	out := make([]string, len(args))
	for i, arg := range args {
		if arg == "--" {
			copy(out[i:], args[i:])
			break
		}
		name, value, ok := strings.Cut(arg, "=")
		if l := long[name]; l != "" {
			arg = l
			if ok {
				arg += "=" + value
			}
		}
		out[i] = arg
	}
	return out
}
