//go:build unix

package chaos

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-sync/millrace/internal/auth/keys"
	"github.com/millrace-sync/millrace/internal/demo"
	"github.com/millrace-sync/millrace/internal/pgtest"
	"github.com/millrace-sync/millrace/protocol"
)

var (
	rounds  = flag.Int("rounds", 0, "rounds of faults; 0: a few")
	seed    = flag.Uint64("seed", 0, "seed of the first round, and so of all; 0: from the clock")
	faults  = flag.Int("faults", 5, "faults in a round at most")
	storage = flag.String("storage", "pebble", "what the service stores in: pebble or postgresql")
)

const (
	// settles bounds how long everything may take to come right after the last fault.
	settles = 2 * time.Minute
	// roundLasts bounds a round.
	roundLasts = 4 * time.Minute
	shortRun   = 10 // rounds, unless -rounds says otherwise
)

// deploys are the sync configs of the service rounds. Each has the streams of
// members, and of a group by name; they differ in what they make of item and entry.
var deploys = map[string]string{
	"plain": syncConfig("*", "*"),
	"twice": syncConfig("*, amount * 2 AS twice", "*"),
	"odd":   syncConfig("*", "*, n % 2 AS odd"),
}

var deployNames = []string{"plain", "twice", "odd"}

func syncConfig(item, entry string) string {
	const mine = "grp IN (SELECT grp FROM member WHERE usr = request.user_id())"
	const named = "grp = subscription.parameter('grp')"
	var text strings.Builder
	text.WriteString("config:\n  edition: 3\nstreams:\n")
	stream := func(name string, auto bool, query string) {
		fmt.Fprintf(&text, "  %s:\n    auto_subscribe: %v\n    query: %s\n", name, auto, query)
	}
	stream("members", true, "SELECT * FROM member WHERE usr = request.user_id()")
	for _, s := range []struct{ name, columns string }{{"seal", "grp AS id, n, digest"}, {"item", item}, {"entry", entry}, {"tag", "*"}} {
		stream("my_"+s.name, true, fmt.Sprintf("SELECT %s FROM %s WHERE %s", s.columns, s.name, mine))
		stream("one_"+s.name, false, fmt.Sprintf("SELECT %s FROM %s WHERE %s", s.columns, s.name, named))
	}
	return text.String()
}

// want returns what a client must show, by the SQL of its streams. Of rows with one
// id, which entry may have, a client shows one; they are equal.
func want(ctx context.Context, dsn, deploy, user, group string) (Rows, error) {
	item, entry := "*", "*"
	switch deploy {
	case "twice":
		item = "*, amount * 2 AS twice"
	case "odd":
		entry = "*, n % 2 AS odd"
	}
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	rows := Rows{}
	read := func(table, query string, arg any) error {
		found, err := conn.Query(ctx, "SELECT q.id, row_to_json(q)::text FROM ("+query+") q", arg)
		if err != nil {
			return err
		}
		var id, text string
		_, err = pgx.ForEachRow(found, []any{&id, &text}, func() error {
			row, err := newRow(table, id, []byte(text))
			rows[rowKey{table, id}] = row
			return err
		})
		return err
	}
	filter, arg := "grp = $1", group
	if group == "" {
		filter, arg = "grp IN (SELECT grp FROM member WHERE usr = $1)", user
		if err := read("member", "SELECT * FROM member WHERE usr = $1", user); err != nil {
			return nil, err
		}
	}
	for _, s := range []struct{ table, columns string }{{"seal", "grp AS id, n, digest"}, {"item", item}, {"entry", entry}, {"tag", "*"}} {
		if err := read(s.table, fmt.Sprintf("SELECT %s FROM %s WHERE %s", s.columns, s.table, filter), arg); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// TestServiceRounds breaks the service, Postgres and the networks between them and
// the clients, at random moments under load. Clients must see nothing that never was,
// and end equal to Postgres.
func TestServiceRounds(t *testing.T) {
	n, first := *rounds, *seed
	if n == 0 {
		n = shortRun
	}
	if first == 0 {
		first = uint64(time.Now().UnixNano())
	}
	bin := binaries(t)
	cluster := pgtest.Start(t, pgtest.WithSetting("logical_decoding_work_mem", "64kB"), pgtest.WithSetting("deadlock_timeout", "100ms"))
	for i := range n {
		plan := ServicePlan(first+uint64(i), deployNames, *faults)
		if !t.Run(fmt.Sprint("seed", plan.Seed), func(t *testing.T) { serviceRound(t, bin, cluster, plan) }) {
			return // what comes after is not worth the time
		}
	}
}

// binaries builds the binaries under test into a folder, which it returns.
func binaries(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, pkg := range map[string]string{"millrace": "../../cmd/millrace", "notes-backend": "../../examples/notes/backend"} {
		if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, name), pkg).CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", pkg, err, out)
		}
	}
	return dir
}

// round is a service round under way.
type round struct {
	t       *testing.T
	plan    Plan
	cluster *pgtest.Cluster
	dsn     string
	dir     string
	binary  string
	env     []string
	key     *keys.Pair
	addr    string // of the service
	load    *Load
	source  *Proxy // between the service and Postgres
	clients *Proxy // between the clients and the service
	service *demo.Process
	starts  int // of the service, so far
	deploy  string
}

func serviceRound(t *testing.T, bin string, cluster *pgtest.Cluster, plan Plan) {
	ctx, cancel := context.WithTimeoutCause(t.Context(), roundLasts, errors.New("the round took too long"))
	defer cancel()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	r := newRound(t, bin, cluster, plan)
	t.Cleanup(func() { r.end() })
	rng := rand.New(rand.NewPCG(plan.Seed, 2))
	if err := r.load.Fill(ctx, rng, plan.Bulk); err != nil {
		t.Fatal(err)
	}

	var running sync.WaitGroup
	defer running.Wait()
	defer fail(nil)
	// run runs something beside the round, which ends if that fails.
	run := func(ctx context.Context, name string, work func(context.Context) error) {
		running.Go(func() {
			if err := work(ctx); err != nil {
				fail(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	viewers := r.viewers(rng)
	for _, v := range viewers {
		run(ctx, v.Name, v.Run)
	}
	r.start()
	writing, stop := context.WithCancel(ctx)
	defer stop()
	var writers sync.WaitGroup
	for i := range 2 {
		rng := rand.New(rand.NewPCG(plan.Seed, 10+uint64(i)))
		writers.Add(1)
		run(writing, "load", func(ctx context.Context) error { defer writers.Done(); return r.load.Run(ctx, rng) })
	}
	err := r.play(ctx, viewers)
	stop()
	writers.Wait()
	if err == nil {
		err = r.converge(ctx, viewers)
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause // it says more
	}
	if err != nil {
		t.Fatalf("%v\n%v\nreplay with: make chaos ROUNDS=1 SEED=%d", err, plan, plan.Seed)
	}
	completed := 0
	for _, v := range viewers {
		completed += v.Completed()
	}
	t.Logf("%d commits, %d checkpoints checked, %d faults", r.load.Commits.Count(), completed, len(plan.Steps))
}

func newRound(t *testing.T, bin string, cluster *pgtest.Cluster, plan Plan) *round {
	dir, err := os.MkdirTemp("", "millrace-chaos-")
	if err != nil {
		t.Fatal(err)
	}
	dsn := cluster.NewDatabase(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	r := &round{
		t: t, plan: plan, cluster: cluster, dsn: dsn, dir: dir, binary: filepath.Join(bin, "millrace"), addr: l.Addr().String(),
		load: &Load{DSN: dsn}, key: keys.NewSecret(), deploy: plan.Deploy,
	}
	at, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	r.source, r.clients = runProxy(t, at.Host), runProxy(t, r.addr)
	at.Host, at.User = r.source.Addr(), url.UserPassword("postgres", "none")
	stored := *at
	if *storage == "postgresql" { // by the same network, so that its faults meet both
		store, err := url.Parse(cluster.NewDatabase(t))
		if err != nil {
			t.Fatal(err)
		}
		stored.Path = store.Path
	}
	secret, _ := r.key.Private.Key.([]byte)
	_, port, _ := strings.Cut(r.addr, ":")
	r.env = []string{
		"PS_DATABASE_URI=" + at.String(), "PS_STORAGE_PATH=" + filepath.Join(dir, "store"), "PS_STORAGE_URI=" + stored.String(), "PS_PORT=" + port,
		"PS_KID=" + r.key.Private.KeyID, "PS_KEY=" + base64.RawURLEncoding.EncodeToString(secret),
	}
	return r
}

// viewers returns the round's clients: members over each transport, and some that
// name a group, one of them beside what it has as a member.
func (r *round) viewers(rng *rand.Rand) []*Viewer {
	var list []*Viewer
	add := func(user, group string, defaults bool, name string, over transport) {
		v := &Viewer{
			Name: fmt.Sprintf("%s over %s", user, name), Addr: r.clients.Addr(), Transport: over, Defaults: defaults,
			Token: func() string { return r.token(user) }, Rng: rand.New(rand.NewPCG(r.plan.Seed, 100+uint64(len(list)))),
		}
		v.Trace = func(lines []string) {
			file := filepath.Join(r.dir, strings.ReplaceAll(v.Name, " ", "-")+".log")
			if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
				r.t.Error(err)
			}
		}
		if group != "" {
			v.Name += " for " + group
			for _, table := range []string{"seal", "item", "entry", "tag"} {
				v.Subscriptions = append(v.Subscriptions, protocol.Subscription{Stream: "one_" + table, Parameters: fmt.Appendf(nil, `{"grp":%q}`, group)})
			}
		}
		list = append(list, v)
	}
	add("ann", "", true, "JSON lines", overHTTP(protocol.JSONLines))
	add("bob", "", true, "BSON", overHTTP(protocol.BSON))
	add("eve", "", true, "sockets", overSocket)
	add("zoe", loadGroups[rng.IntN(len(loadGroups))], false, "sockets", overSocket)
	add("zoe", bulkGroup, false, "JSON lines", overHTTP(protocol.JSONLines))
	return list
}

func (r *round) token(user string) string {
	now := time.Now()
	token, err := keys.Sign(r.key.Private, map[string]any{"sub": user, "aud": "powersync", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()})
	if err != nil {
		panic(err)
	}
	return token
}

const serviceConfig = `
replication: {connections: [{type: postgresql, uri: !env PS_DATABASE_URI, sslmode: disable}]}
storage: %s
port: !env PS_PORT::number
sync_config: {path: sync.yaml}
client_auth:
  audience: [powersync]
  jwks: {keys: [{kty: oct, alg: HS256, kid: !env PS_KID, k: !env PS_KEY}]}
`

// configure writes the configuration, with the present deploy.
func (r *round) configure() {
	store := "{type: pebble, path: !env PS_STORAGE_PATH}"
	if *storage == "postgresql" {
		store = "{type: postgresql, uri: !env PS_STORAGE_URI, sslmode: disable}"
	}
	for name, text := range map[string]string{"powersync.yaml": fmt.Sprintf(serviceConfig, store), "sync.yaml": deploys[r.deploy]} {
		if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
}

// start starts the service. It is not waited for.
func (r *round) start() {
	r.configure()
	p, err := demo.Start(demo.Program{
		Name: "service", Path: r.binary, Log: r.log(), Env: r.env,
		Args: []string{"start", "-c", filepath.Join(r.dir, "powersync.yaml"), "-r", "unified"},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.service = p
	r.starts++
}

// hears waits until the service hears signals: before, they would end it.
func (r *round) hears(ctx context.Context) error {
	for {
		text, err := os.ReadFile(r.log())
		if err != nil {
			return err
		}
		if bytes.Count(text, []byte("msg=starting ")) >= r.starts {
			return nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-r.service.Done():
			return errors.New("the service ended before it heard signals")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (r *round) log() string { return filepath.Join(r.dir, "service.log") }

// play carries out the plan.
func (r *round) play(ctx context.Context, viewers []*Viewer) error {
	if r.plan.Warm {
		for _, v := range viewers {
			if err := v.WaitCompleted(ctx); err != nil {
				return err
			}
		}
	}
	for _, s := range r.plan.Steps {
		if err := r.load.Commits.Wait(ctx, s.After); err != nil {
			return err
		}
		if err := r.step(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return r.load.Commits.Wait(ctx, 5)
}

func (r *round) step(ctx context.Context, s Step) error {
	select {
	case <-r.service.Done():
		return fmt.Errorf("the service has ended by itself, with code %d", r.service.ExitCode())
	default:
	}
	if err := r.begin(ctx, s); err != nil {
		return err
	}
	if err := r.load.Commits.Wait(ctx, s.Lasts); err != nil {
		return err
	}
	return r.over(ctx, s)
}

func (r *round) network(s Step) *Proxy {
	if s.Network == "clients" {
		return r.clients
	}
	return r.source
}

func (r *round) begin(ctx context.Context, s Step) error {
	switch s.Fault {
	case KillService:
		r.service.Kill()
	case StopService:
		if err := r.hears(ctx); err != nil {
			return err
		}
		return r.service.Stop()
	case PauseService:
		return syscall.Kill(r.service.PID(), syscall.SIGSTOP)
	case KillPostgres:
		return r.cluster.Restart(ctx, pgtest.Crash)
	case QuitPostgres:
		return r.cluster.Restart(ctx, pgtest.Immediate)
	case DeployLive:
		if err := r.hears(ctx); err != nil {
			return err
		}
		r.deploy = s.Deploy
		r.configure()
		return syscall.Kill(r.service.PID(), syscall.SIGHUP)
	default:
		r.network(s).Break(s)
	}
	return nil
}

func (r *round) over(ctx context.Context, s Step) error {
	switch s.Fault {
	case KillService, StopService:
		if s.DropSlot {
			if err := r.dropSlot(ctx); err != nil {
				return err
			}
		}
		if s.Compact && *storage == "pebble" {
			if err := r.compact(ctx); err != nil {
				return err
			}
		}
		if s.Deploy != "" {
			r.deploy = s.Deploy
		}
		r.start()
	case PauseService:
		return syscall.Kill(r.service.PID(), syscall.SIGCONT)
	case KillPostgres, QuitPostgres, DeployLive:
	default:
		r.network(s).Mend(s)
	}
	return nil
}

// dropSlot drops the stopped service's slot, if it has made one.
func (r *round) dropSlot(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, r.dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	// The server may not have noticed yet that the service is gone.
	for {
		var left int
		if err := conn.QueryRow(ctx, `SELECT count(*) FROM pg_replication_slots
			WHERE database = current_database() AND active AND pg_terminate_backend(active_pid, 1000) IS NOT NULL`).Scan(&left); err != nil {
			return err
		}
		if left == 0 {
			break
		}
	}
	_, err = conn.Exec(ctx, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()")
	return err
}

// compact compacts the stopped service's storage, if it has made one.
func (r *round) compact(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(r.dir, "store")); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	cmd := exec.CommandContext(ctx, r.binary, "compact", "-c", filepath.Join(r.dir, "powersync.yaml"))
	cmd.Env = append(os.Environ(), r.env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compact: %w\n%s", err, out)
	}
	return nil
}

// converge waits until each client shows what Postgres holds. Nothing is written any
// more.
func (r *round) converge(ctx context.Context, viewers []*Viewer) error {
	ctx, cancel := context.WithTimeoutCause(ctx, settles, fmt.Errorf("not within %v", settles))
	defer cancel()
	if err := r.load.Finish(ctx); err != nil {
		return err
	}
	for _, v := range viewers {
		v.Calm()
	}
	for _, v := range viewers {
		user, _, _ := strings.Cut(v.Name, " ")
		group := ""
		if !v.Defaults {
			_, group, _ = strings.Cut(v.Name, " for ")
		}
		rows, err := want(ctx, r.dsn, r.deploy, user, group)
		if err != nil {
			return err
		}
		if err := v.WaitEqual(ctx, rows); err != nil {
			return fmt.Errorf("%w\nreadiness: %s", err, readiness(r.addr))
		}
	}
	return nil
}

// readiness returns what the service says of itself.
func readiness(addr string) string {
	resp, err := http.Get("http://" + addr + "/probes/readiness")
	if err != nil {
		return err.Error()
	}
	resp.Body.Close()
	return resp.Status
}

// alarming is what must not be in a service's log, whatever went wrong around it.
var alarming = regexp.MustCompile(`(?m)^(panic:|fatal error:|goroutine ).*|.*(?i:corrupt|checksum|invariant).*`)

// end stops the service, looks at its log, and keeps the logs of a round that failed.
func (r *round) end() {
	if r.service != nil {
		select {
		case <-r.service.Done():
			r.service.Kill()
		default:
			// It may be paused, if the round broke off.
			syscall.Kill(r.service.PID(), syscall.SIGCONT)
			if err := r.service.Stop(); err != nil {
				r.t.Error(err)
			}
		}
	}
	if text, err := os.ReadFile(r.log()); err != nil {
		r.t.Error(err)
	} else if line := alarming.Find(text); line != nil {
		r.t.Errorf("the service's log says: %s", line)
	}
	if r.t.Failed() {
		if text, err := os.ReadFile(filepath.Join(r.cluster.Dir(), "server.log")); err == nil {
			err = os.WriteFile(filepath.Join(r.dir, "postgres.log"), text, 0o600)
			if err != nil {
				r.t.Error(err)
			}
		}
		r.t.Logf("logs and storage are kept in %s", r.dir)
		return
	}
	os.RemoveAll(r.dir)
}
