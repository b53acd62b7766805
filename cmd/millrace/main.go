// Command millrace is the sync service's binary. Each command has its own file;
// this one knows what they are called and how the process ends.
package main

import (
	"io"
	"os"

	"github.com/alecthomas/kong"
)

// commands is the command line.
type commands struct {
	Keygen keygenCmd `cmd:"" help:"Make a key pair for users' tokens and print it."`
}

func main() {
	var c commands
	ctx := kong.Parse(&c,
		kong.Name("millrace"),
		kong.Description("Streams a Postgres database, in slices that each user may see, to SQLite databases on their devices."),
		kong.BindTo(os.Stdout, (*io.Writer)(nil)),
		kong.UsageOnError())
	ctx.FatalIfErrorf(ctx.Run())
}
