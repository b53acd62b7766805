//go:build unix

package chaos

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-sync/millrace/internal/demo"
	"github.com/millrace-sync/millrace/internal/pgtest"
)

const (
	shortClientRun = 3  // rounds, unless -rounds says otherwise
	operations     = 60 // of each device, and of the writer in Postgres, in a round
	fullTable      = 25 // rows from which on devices rather delete than insert
	app            = "../../examples/notes"
)

func TestMain(m *testing.M) {
	if config, ok := os.LookupEnv(deviceEnv); ok {
		if err := goDevice(config); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// auditSQL makes Postgres keep what it applies to the notes' table. Writers wait for
// each other, so that the order of the records is that of the commits.
const auditSQL = `
CREATE TABLE applied(seq bigserial PRIMARY KEY, xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
	writer text NOT NULL DEFAULT coalesce(current_setting('chaos.writer', true), ''), owner text NOT NULL, what text NOT NULL, id text NOT NULL, value text NOT NULL);
CREATE FUNCTION wait_for_turn() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_advisory_xact_lock(1);
	RETURN NULL;
END $$;
CREATE FUNCTION note_applied() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
	IF TG_OP = 'DELETE' THEN
		INSERT INTO applied(owner, what, id, value) VALUES (old.owner, 'delete', old.id, '');
	ELSE
		INSERT INTO applied(owner, what, id, value) VALUES (new.owner, 'put', new.id, new.message);
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER wait_for_turn BEFORE INSERT OR UPDATE OR DELETE ON greeting FOR EACH STATEMENT EXECUTE FUNCTION wait_for_turn();
CREATE TRIGGER note_applied AFTER INSERT OR UPDATE OR DELETE ON greeting FOR EACH ROW EXECUTE FUNCTION note_applied();
`

// TestClientRounds has devices of both SDKs and a writer in Postgres change the rows
// of one user, while devices, their networks and the servers fail. What they did and
// saw must be a history that Verify finds no fault with.
func TestClientRounds(t *testing.T) {
	n, first := *rounds, *seed
	if n == 0 {
		n = shortClientRun
	}
	if first == 0 {
		first = uint64(time.Now().UnixNano())
	}
	s := startServers(t)
	for i := range n {
		plan := ClientPlan(first+uint64(i), len(sdks), *faults)
		if !t.Run(fmt.Sprint("seed", plan.Seed), func(t *testing.T) { runClientRound(t, s, plan) }) {
			return
		}
	}
}

// servers is what the devices of all rounds share.
type servers struct {
	*demo.Stack
	program demo.Program // the backend
	backend *demo.Process
	addr    string // of the backend
}

func startServers(t *testing.T) *servers {
	t.Helper()
	bin, dir := binaries(t), t.TempDir()
	t.Cleanup(func() {
		if err := demo.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	ctx := t.Context()
	stack, err := demo.New(ctx, demo.Config{Dir: dir, Millrace: filepath.Join(bin, "millrace"), App: app})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stack.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := stack.StartPostgres(ctx); err != nil {
		t.Fatal(err)
	}
	db, err := stack.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(ctx)
	if _, err := db.PgConn().Exec(ctx, auditSQL).ReadAll(); err != nil {
		t.Fatal(err)
	}
	if err := stack.StartService(ctx); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	s := &servers{Stack: stack, addr: l.Addr().String()}
	s.program = demo.Program{
		Name: "backend", Path: filepath.Join(bin, "notes-backend"), Log: filepath.Join(stack.LogDir(), "backend.log"),
		Args: []string{"-development-sign-in", "-listen", s.addr, "-service", stack.ServiceURL()},
		Env:  []string{"NOTES_DATABASE_URL=" + stack.DatabaseURL(), "POWERSYNC_PRIVATE_KEY=" + stack.PrivateKey()},
	}
	if err := s.startBackend(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.backend.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *servers) startBackend() (err error) {
	s.backend, err = demo.Start(s.program)
	return err
}

// sdks are the devices of a round.
var sdks = []string{"go", "go", "go", "node", "node over sockets"}

// clientRound is a client round under way.
type clientRound struct {
	*servers
	t       *testing.T
	plan    Plan
	dir     string
	user    string
	devices []*device
	done    Progress // operations of devices and of the writer

	mu      sync.Mutex
	history History
}

func (r *clientRound) record(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history = append(r.history, e)
}

func runClientRound(t *testing.T, s *servers, plan Plan) {
	ctx, cancel := context.WithTimeoutCause(t.Context(), roundLasts, errors.New("the round took too long"))
	defer cancel()
	dir, err := os.MkdirTemp("", "millrace-chaos-")
	if err != nil {
		t.Fatal(err)
	}
	r := &clientRound{servers: s, t: t, plan: plan, dir: dir, user: fmt.Sprint("user", plan.Seed)}
	err = r.run(ctx)
	verdict := r.verify(context.WithoutCancel(ctx))
	if err = errors.Join(err, verdict); err == nil {
		os.RemoveAll(dir)
		return
	}
	for _, name := range []string{"service", "backend"} {
		text, err := os.ReadFile(filepath.Join(s.LogDir(), name+".log"))
		if err = errors.Join(err, os.WriteFile(filepath.Join(dir, name+".log"), text, 0o600)); err != nil {
			t.Error(err)
		}
	}
	t.Fatalf("%.8000v\n%v\nreplay with: make chaos-client ROUNDS=1 SEED=%d\nhistory, logs and files are kept in %s", err, plan, plan.Seed, dir)
}

// run does the round, and leaves the devices at rest and ended.
func (r *clientRound) run(ctx context.Context) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	for i, sdk := range sdks {
		d := r.newDevice(i, sdk)
		r.devices = append(r.devices, d)
		if err := d.open(); err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, d.kill) // so that nobody waits for its answer
		defer d.close(stop)
	}
	var users sync.WaitGroup
	next := uint64(10)
	use := func(name string, work func(context.Context, *rand.Rand) error) {
		next++
		rng := rand.New(rand.NewPCG(r.plan.Seed, next))
		users.Go(func() {
			if err := work(ctx, rng); err != nil {
				fail(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	for _, d := range r.devices {
		use(d.name, d.use)
	}
	use("pg", r.writeInPostgres)
	err := r.play(ctx)
	if err != nil {
		fail(err)
	}
	users.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return r.settle(ctx)
}

// play carries out the plan.
func (r *clientRound) play(ctx context.Context) error {
	for _, s := range r.plan.Steps {
		if err := r.step(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

// wait waits for operations. When devices have done all of theirs there are no more
// to come, and what is left of the plan happens at once.
func (r *clientRound) wait(ctx context.Context, n int) error {
	left := (len(r.devices)+1)*operations - r.done.Count()
	return r.done.Wait(ctx, max(0, min(n, left/2)))
}

func (r *clientRound) step(ctx context.Context, s Step) error {
	if err := r.wait(ctx, s.After); err != nil {
		return err
	}
	var d *device
	var network *Proxy
	if s.Device > 0 {
		d = r.devices[s.Device-1]
		network = map[string]*Proxy{"service": d.service, "backend": d.backend}[s.Network]
	}
	var over func() error
	switch s.Fault {
	case KillDevice:
		d.kill()
	case PauseDevice:
		over = d.pause()
	case KillService:
		r.KillService()
		over = func() error { return r.StartService(ctx) }
	case PauseService:
		pid := r.Service.PID()
		over = func() error { return syscall.Kill(pid, syscall.SIGCONT) }
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			return err
		}
	case KillBackend:
		r.backend.Kill()
		over = r.startBackend
	case QuitPostgres:
		return r.Postgres.Restart(ctx, pgtest.Immediate)
	default:
		network.Break(s)
		over = func() error { network.Mend(s); return nil }
	}
	if over == nil {
		return nil
	}
	if err := r.wait(ctx, s.Lasts); err != nil {
		return errors.Join(err, over())
	}
	return over()
}

// settle waits until nothing of any device is on its way, and each shows what Postgres
// holds; what it shows then is on record.
func (r *clientRound) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, settles, fmt.Errorf("not within %v", settles))
	defer cancel()
	for _, d := range r.devices {
		state := ""
		err := poll(ctx, func() (bool, error) {
			a, err := d.ask(deviceCommand{Do: "state"})
			if errors.Is(err, errDied) {
				return false, d.reopen()
			}
			state = a.Detail
			return a.Confirmed, err
		})
		if err != nil {
			return fmt.Errorf("device %s: its writes do not arrive: %w; %s", d.name, err, state)
		}
	}
	want, err := r.table(ctx)
	if err != nil {
		return err
	}
	for _, d := range r.devices {
		err := poll(ctx, func() (bool, error) {
			a, err := d.ask(deviceCommand{Do: "read"})
			d.rows = a.Rows
			return maps.Equal(a.Rows, want), err
		})
		r.record(Event{Kind: Read, Device: d.name, Rows: d.rows, Final: true})
		if err != nil {
			return fmt.Errorf("device %s does not get to what Postgres holds: %w", d.name, err)
		}
	}
	return nil
}

// poll asks until ok holds. It is for what cannot tell that it has changed.
func poll(ctx context.Context, ok func() (bool, error)) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if holds, err := ok(); holds || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// table returns the user's rows in Postgres.
func (r *clientRound) table(ctx context.Context) (Values, error) {
	db, err := r.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer db.Close(ctx)
	rows, err := db.Query(ctx, "SELECT id::text, message FROM greeting WHERE owner = $1", r.user)
	if err != nil {
		return nil, err
	}
	values := Values{}
	var id, value string
	_, err = pgx.ForEachRow(rows, []any{&id, &value}, func() error { values[id] = value; return nil })
	return values, err
}

// verify adds what Postgres applied to the history, keeps that, and checks it.
func (r *clientRound) verify(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settles)
	defer cancel()
	var db *pgx.Conn
	if err := poll(ctx, func() (ok bool, err error) { // it may be starting still, if the round broke off
		db, err = r.Connect(ctx)
		return err == nil, nil
	}); err != nil {
		return err
	}
	defer db.Close(ctx)
	rows, err := db.Query(ctx, "SELECT xid::text, writer, what, id, value FROM applied WHERE owner = $1 ORDER BY seq", r.user)
	if err != nil {
		return err
	}
	var applied History
	var last, xid, writer string
	var op Op
	_, err = pgx.ForEachRow(rows, []any{&xid, &writer, &op.Do, &op.ID, &op.Value}, func() error {
		if xid != last {
			applied = append(applied, Event{Kind: Apply, Device: writer})
			last = xid
		}
		e := &applied[len(applied)-1]
		e.Ops = append(e.Ops, op)
		return nil
	})
	if err != nil {
		return err
	}
	history := slices.Concat(applied, r.history)
	file, err := os.Create(filepath.Join(r.dir, "history.jsonl"))
	if err != nil {
		return err
	}
	if err := errors.Join(history.Append(file), file.Close()); err != nil {
		return err
	}
	counts := map[Kind]int{}
	for _, e := range history {
		counts[e.Kind]++
	}
	r.t.Logf("%v, %d faults", counts, len(r.plan.Steps))
	return Verify(history)
}

// writeInPostgres is a program that changes the user's rows where they come from.
func (r *clientRound) writeInPostgres(ctx context.Context, rng *rand.Rand) error {
	for n := range operations {
		ops := randomOps(rng, fmt.Sprintf("pg %d", n), nil)
		write := func() error {
			db, err := r.Connect(ctx)
			if err != nil {
				return err
			}
			defer db.Close(ctx)
			return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, "SET LOCAL chaos.writer = 'pg'"); err != nil {
					return err
				}
				for i, op := range ops {
					const one = "(SELECT id FROM greeting WHERE owner = $1 AND message NOT LIKE 'stamp %' ORDER BY md5(id::text || $2) LIMIT 1)"
					sql := "INSERT INTO greeting(owner, message) VALUES ($1, $2)"
					switch {
					case i == 1:
						sql = "UPDATE greeting SET message = $2 WHERE id = " + one
					case i == 2:
						sql = "DELETE FROM greeting WHERE id = " + one
					}
					if _, err := tx.Exec(ctx, sql, r.user, op.Value); err != nil {
						return err
					}
				}
				return nil
			})
		}
		// Whether a commit that broke off was one does not matter: the record tells.
		if err := write(); err != nil && ctx.Err() != nil {
			return nil
		}
		r.done.Add()
		if err := think(ctx, rng); err != nil {
			return nil
		}
	}
	return nil
}

// think is what a user does between two operations.
func think(ctx context.Context, rng *rand.Rand) error {
	timer := time.NewTimer(time.Duration(rng.IntN(40)) * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// randomOps makes up to four ops on a device that shows rows. Their values differ.
func randomOps(rng *rand.Rand, name string, rows Values) []Op {
	var known []string
	for _, id := range slices.Sorted(maps.Keys(rows)) {
		if _, _, stamp := parseStamp(rows[id]); !stamp {
			known = append(known, id)
		}
	}
	var ops []Op
	for i := range 1 + rng.IntN(4) {
		op := Op{Value: fmt.Sprintf("%s.%d", name, i)}
		switch n := rng.IntN(10); {
		case len(known) == 0 || n < 4 && len(known) < fullTable:
			op.Do, op.ID = Put, uuid(rng)
		case n < 8 && len(known) < fullTable:
			op.Do, op.ID = Patch, known[rng.IntN(len(known))]
		default:
			op.Do, op.Value = Delete, ""
			at := rng.IntN(len(known))
			op.ID = known[at]
			known = slices.Delete(known, at, at+1)
		}
		ops = append(ops, op)
	}
	return ops
}

func uuid(rng *rand.Rand) string {
	return fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", rng.Uint32(), rng.IntN(1<<16), rng.IntN(1<<12), rng.IntN(1<<12), rng.Int64N(1<<48))
}

// device is a device of a round, and its user. Its process may be killed and paused by
// others; all else is the user's.
type device struct {
	round            *clientRound
	name, sdk        string
	config           deviceConfig
	service, backend *Proxy
	stamp            string // the id of its stamp
	rows             Values // as it last showed them
	made             int    // transactions

	mu      sync.Mutex
	process *demo.Process
	answers *bufio.Scanner
}

func (r *clientRound) newDevice(i int, sdk string) *device {
	host := func(link string) string {
		u, err := url.Parse(link)
		if err != nil {
			r.t.Fatal(err)
		}
		return u.Host
	}
	d := &device{
		round: r, sdk: sdk, name: fmt.Sprintf("%s%d", strings.Fields(sdk)[0], i+1), rows: Values{},
		service: runProxy(r.t, host(r.ServiceURL())), backend: runProxy(r.t, r.addr),
	}
	d.stamp = uuid(rand.New(rand.NewPCG(r.plan.Seed, 1000+uint64(i))))
	d.config = deviceConfig{
		File: filepath.Join(r.dir, d.name+".db"), User: r.user, Socket: strings.HasSuffix(sdk, "sockets"),
		Backend: "http://" + d.backend.Addr(), Service: "http://" + d.service.Addr(),
	}
	return d
}

// open starts the device's program.
func (d *device) open() error {
	config, err := json.Marshal(d.config)
	if err != nil {
		return err
	}
	program := demo.Program{Name: d.name, Log: filepath.Join(d.round.dir, d.name+".log"), Piped: true}
	if d.sdk == "go" {
		program.Path, program.Env = os.Args[0], []string{deviceEnv + "=" + string(config)}
	} else {
		terminal := absolute(d.round.t, filepath.Join(app, "terminal"))
		program.Path = filepath.Join(terminal, "node_modules", ".bin", "node")
		program.Args = []string{absolute(d.round.t, "testdata/device.mjs"), terminal, string(config)}
	}
	p, err := demo.Start(program)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.process, d.answers = p, bufio.NewScanner(p.Stdout)
	d.answers.Buffer(nil, maxLine)
	return nil
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

// kill ends the device's program as a crash does.
func (d *device) kill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case <-d.process.Done(): // already
	default:
		d.process.Kill()
	}
}

// pause stops the device's program until the function that it returns is called.
func (d *device) pause() (resume func() error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	pid := d.process.PID()
	syscall.Kill(pid, syscall.SIGSTOP) // fails if it was killed
	return func() error {
		syscall.Kill(pid, syscall.SIGCONT)
		return nil
	}
}

// close ends the device, orderly if nothing has gone wrong, and waits for it.
func (d *device) close(stop func() bool) {
	if !stop() {
		d.kill()
	}
	d.process.Stdin.Close() // at the end of its input it ends
	select {
	case <-d.process.Done():
		if code := d.process.ExitCode(); code > 0 {
			d.round.t.Errorf("device %s ended with code %d", d.name, code)
		}
	case <-time.After(settles):
		d.round.t.Errorf("device %s does not end", d.name)
	}
	d.process.Kill()
	d.process.Stdout.Close()
}

// errDied: the device's program has ended.
var errDied = errors.New("the device was killed")

// ask has the device do something.
func (d *device) ask(c deviceCommand) (a deviceAnswer, err error) {
	d.mu.Lock()
	process, answers := d.process, d.answers
	d.mu.Unlock()
	line, err := json.Marshal(c)
	if err != nil {
		return a, err
	}
	if _, err := process.Stdin.Write(append(line, '\n')); err != nil || !answers.Scan() {
		return a, errDied
	}
	if err := json.Unmarshal(answers.Bytes(), &a); err != nil {
		return a, fmt.Errorf("device %s says %q: %w", d.name, answers.Bytes(), err)
	}
	if a.Error != "" {
		return a, fmt.Errorf("device %s: %s: %s", d.name, c.Do, a.Error)
	}
	return a, nil
}

// reopen starts a device that was killed on its file, and looks at what it has.
func (d *device) reopen() error {
	<-d.process.Done()
	if code := d.process.ExitCode(); code >= 0 {
		return fmt.Errorf("device %s ended by itself, with code %d", d.name, code)
	}
	d.process.Stdin.Close()
	d.process.Stdout.Close()
	if err := d.open(); err != nil {
		return err
	}
	return d.read()
}

func (d *device) read() error {
	a, err := d.ask(deviceCommand{Do: "read"})
	if errors.Is(err, errDied) {
		return d.reopen()
	}
	if err != nil {
		return err
	}
	d.rows, d.made = Values{}, 0 // a copy: what is on record stays as it is
	maps.Copy(d.rows, a.Rows)
	if value, ok := a.Rows[d.stamp]; ok {
		_, d.made, _ = parseStamp(value)
	}
	d.round.record(Event{Kind: Read, Device: d.name, Rows: a.Rows})
	return nil
}

// write makes a transaction.
func (d *device) write(rng *rand.Rand) error {
	n := d.made + 1
	ops := randomOps(rng, fmt.Sprintf("%s %d", d.name, n), d.rows)
	stamp := Op{Do: Patch, ID: d.stamp, Value: stampValue(d.name, n)}
	if n == 1 {
		stamp.Do = Put
	}
	ops = append(ops, stamp)
	d.round.record(Event{Kind: Write, Device: d.name, Number: n, Ops: ops})
	_, err := d.ask(deviceCommand{Do: "write", Ops: ops})
	if errors.Is(err, errDied) {
		return d.reopen() // what it shows then says whether it was committed
	}
	if err != nil {
		return err
	}
	d.round.record(Event{Kind: Done, Device: d.name, Number: n})
	d.made = n
	for _, op := range ops {
		d.rows.apply(op)
	}
	return nil
}

// use is what its user does.
func (d *device) use(ctx context.Context, rng *rand.Rand) error {
	for range operations {
		var err error
		if rng.IntN(2) == 0 {
			err = d.write(rng)
		} else {
			err = d.read()
		}
		if err == nil {
			d.round.done.Add()
			err = think(ctx, rng)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}
