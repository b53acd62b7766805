// Command load measures a running service from its clients' side: downloads, idle
// connections, fan-out, delay from commit to client, storms of reconnects, wide
// sessions, write checkpoints; over HTTP and WebSocket, as JSON lines and BSON,
// compressed or not. bench/README.md says how to run it.
//
// Its figures are of the service and of itself together: they share the machine.
// With -pid it prints what the service alone took.
package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/jackc/pgx/v5"
)

// options are the flags of all verbs.
type options struct {
	address   string
	dsn       string
	secret    string
	kid       string
	subject   string
	subjects  int
	transport string
	codec     string
	encoding  string
	clients   int
	downloads int
	rows      int
	rate      int
	duration  time.Duration
	pid       int

	signer jose.Signer
}

type verb struct {
	name, help string
	run        func(context.Context, *options) error
}

var verbs = []verb{
	{"prepare", "make the table greeting, with -rows rows of 100 owners and as many of the owner big", prepare},
	{"download", "first sync of -clients at once", download},
	{"hold", "memory of -clients idle connections", hold},
	{"storm", "-clients that are up to date reconnect at once, while another one follows commits", storm},
	{"fanout", "one commit to -clients", fanout},
	{"latency", "from commit to client at -rate for -for, beside -clients idle ones and -downloads of the owner big", latency},
	{"wide", "one session with -rows buckets: connecting, one bucket changing, memory", wide},
	{"writes", "write checkpoints, -clients at once for -for", writes},
}

func main() {
	o := &options{}
	f := flag.NewFlagSet("load", flag.ExitOnError)
	f.StringVar(&o.address, "address", "127.0.0.1:8080", "host and port of the service")
	f.StringVar(&o.dsn, "pg", "", "connection string of the source database")
	f.StringVar(&o.secret, "secret", "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldC1zZWNyZXQ", "HS256 key that the service accepts, as base64url")
	f.StringVar(&o.kid, "kid", "dev", "its id")
	f.StringVar(&o.subject, "sub", "user%d", "subject of the clients; %d is a client's number modulo -subs")
	f.IntVar(&o.subjects, "subs", 100, "distinct subjects")
	f.StringVar(&o.transport, "transport", "http", "http or ws")
	f.StringVar(&o.codec, "codec", "json", "json or bson; ws is always bson")
	f.StringVar(&o.encoding, "encoding", "identity", "identity, gzip or zstd; for ws anything but identity offers deflate")
	f.IntVar(&o.clients, "clients", 1, "clients")
	f.IntVar(&o.downloads, "downloads", 0, "downloads that go on meanwhile")
	f.IntVar(&o.rows, "rows", 10_000, "rows or buckets")
	f.IntVar(&o.rate, "rate", 200, "commits per second")
	f.DurationVar(&o.duration, "for", 10*time.Second, "how long")
	f.IntVar(&o.pid, "pid", 0, "process of the service")
	f.Usage = func() {
		fmt.Fprintln(f.Output(), "usage: load VERB [flags]")
		for _, v := range verbs {
			fmt.Fprintf(f.Output(), "  %-9s %s\n", v.name, v.help)
		}
		f.PrintDefaults()
	}
	if len(os.Args) < 2 {
		f.Usage()
		os.Exit(2)
	}
	_ = f.Parse(os.Args[2:]) // ExitOnError
	i := slices.IndexFunc(verbs, func(v verb) bool { return v.name == os.Args[1] })
	if i < 0 {
		f.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := o.run(ctx, verbs[i]); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func (o *options) run(ctx context.Context, v verb) error {
	key, err := base64.RawURLEncoding.DecodeString(o.secret)
	if err != nil {
		return fmt.Errorf("read the secret: %w", err)
	}
	if o.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: key}, new(jose.SignerOptions).WithHeader("kid", o.kid)); err != nil {
		return fmt.Errorf("use the secret: %w", err)
	}
	before := o.usage()
	if err := v.run(ctx, o); err != nil {
		return fmt.Errorf("%s: %w", v.name, err)
	}
	if o.pid > 0 {
		after := o.usage()
		fmt.Printf("service: %.2f s of CPU, %d MB resident\n", after.cpu-before.cpu, after.resident>>20)
	}
	return nil
}

// subjectOf returns the subject of client i.
func (o *options) subjectOf(i int) string {
	if strings.Contains(o.subject, "%d") {
		return fmt.Sprintf(o.subject, i%o.subjects)
	}
	return o.subject
}

// token signs a token for an hour.
func (o *options) token(subject string) (string, error) {
	now := time.Now().Unix()
	payload, err := json.Marshal(map[string]any{"sub": subject, "aud": "powersync", "iat": now, "exp": now + 3600})
	if err != nil {
		return "", err
	}
	signed, err := o.signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

func (o *options) connect(ctx context.Context) (*pgx.Conn, error) {
	if o.dsn == "" {
		return nil, fmt.Errorf("-pg is needed")
	}
	return pgx.Connect(ctx, o.dsn)
}

// usage is what the service has taken.
type usage struct {
	cpu      float64 // seconds
	resident int64   // bytes
}

// ticks is the unit of CPU time in /proc, per second.
const ticks = 100

// usage reads /proc; it is zero without -pid.
func (o *options) usage() (u usage) {
	if o.pid == 0 {
		return u
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", o.pid))
	if err != nil {
		return u
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	for _, i := range []int{11, 12} { // user and system time
		n, _ := strconv.ParseFloat(fields[i], 64)
		u.cpu += n / ticks
	}
	pages, _ := strconv.ParseInt(fields[21], 10, 64)
	u.resident = pages * int64(os.Getpagesize())
	return u
}

// durations are measured ones.
type durations []time.Duration

func (d durations) String() string {
	if len(d) == 0 {
		return "nothing measured"
	}
	slices.Sort(d)
	at := func(q float64) time.Duration {
		return d[min(len(d)-1, int(q*float64(len(d))))].Round(10 * time.Microsecond)
	}
	return fmt.Sprintf("n=%d first=%v p50=%v p90=%v p99=%v last=%v", len(d), at(0), at(.5), at(.9), at(.99), at(1))
}
