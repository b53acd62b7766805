package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-sync/millrace/internal/admin"
	"github.com/millrace-sync/millrace/internal/httpapi"
	"github.com/millrace-sync/millrace/internal/postgres"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// A backup that is taken while everything goes on is a storage to start from. What
// happened since comes from the source.
func TestBackupWhileServing(t *testing.T) {
	in, conn, c := serving(t,
		"CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)",
		"INSERT INTO notes SELECT 'n'||i, 'u', 'body '||i FROM generate_series(1, 20000) i")

	stop := make(chan struct{})
	var writer sync.WaitGroup
	other := shared.Cluster(t).Conn(t, strings.Replace(in.dsn, ":none@", "@", 1))
	writer.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := other.Exec(t.Context(), "UPDATE notes SET body = $1 WHERE id = $2", fmt.Sprint("changed ", i), fmt.Sprint("n", i%1000+1)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	backup, dir := filepath.Join(t.TempDir(), "copy"), fmt.Sprint(in.storage["path"])
	client := &admin.Client{URL: in.url, Token: adminToken, HTTP: http.DefaultClient}
	err := client.Backup(t.Context(), backup)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Backup(t.Context(), backup); err == nil {
		t.Error("a backup took the place of another one")
	}
	close(stop)
	writer.Wait()
	c.untilEqual("changes during the backup", conn, notesOf("u"))
	if left, _ := filepath.Glob(filepath.Join(dir, backupPrefix+"*")); len(left) > 0 {
		t.Errorf("the service keeps %v", left)
	}

	// The storage is lost, the backup restored: the client comes to the same rows.
	in.stop()
	exec(t, conn, "DELETE FROM notes WHERE id = 'n5'", "INSERT INTO notes VALUES ('late', 'u', 'after the backup')")
	in.storage["path"] = backup
	dir = backup
	c.ahead.Store(true)
	if err := os.Mkdir(filepath.Join(dir, backupPrefix+"of a killed process"), 0o700); err != nil {
		t.Fatal(err)
	}
	in.start(ownNotes)
	c.untilEqual("after the restore", conn, notesOf("u"))
	exec(t, conn, "UPDATE notes SET body = 'live' WHERE id = 'late'")
	c.untilEqual("changes after the restore", conn, notesOf("u"))
	if left, _ := filepath.Glob(filepath.Join(dir, backupPrefix+"*")); len(left) > 0 {
		t.Errorf("the service keeps %v", left)
	}
}

func TestMetrics(t *testing.T) {
	inEachStorage(t, testMetrics)
}

// inEachStorage runs a test on a folder, and on a database that is not the source's.
func inEachStorage(t *testing.T, test func(t *testing.T, in func(dsn string) *instance)) {
	t.Run("pebble", func(t *testing.T) {
		test(t, func(dsn string) *instance { return newInstance(t, dsn) })
	})
	t.Run("postgresql", func(t *testing.T) {
		kept, _ := database(t, shared.Cluster(t))
		test(t, func(dsn string) *instance { return newInstance(t, dsn).inPostgres(kept) })
	})
}

func testMetrics(t *testing.T, with func(dsn string) *instance) {
	dsn, conn := database(t, shared.Cluster(t),
		"CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)",
		"INSERT INTO notes SELECT 'n'||i, 'u', 'body '||i FROM generate_series(1, 500) i")
	free, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	in := with(dsn)
	in.metrics = free.Addr().(*net.TCPAddr).Port
	_ = free.Close()
	in.start(ownNotes)
	c := in.connect("u")
	c.untilEqual("first sync", conn, notesOf("u"))
	exec(t, conn, "UPDATE notes SET body = 'new' WHERE id = 'n1'")
	c.untilEqual("a change", conn, notesOf("u"))
	for deadline := time.Now().Add(patience); ; <-time.After(50 * time.Millisecond) {
		got := in.scrape()
		missing := ""
		for name, least := range map[string]float64{
			"powersync_operations_synced_total": 501, "powersync_data_synced_bytes_total": 10_000, "powersync_data_sent_bytes_total": 1000,
			"powersync_rows_replicated_total": 501, "powersync_transactions_replicated_total": 1, "powersync_chunks_replicated_total": 1,
			"powersync_data_replicated_bytes_total": 5, "powersync_concurrent_connections": 1, "powersync_replication_lag_seconds": 0,
			"powersync_operation_storage_size_bytes": 0, "powersync_parameter_storage_size_bytes": 0, "powersync_replication_storage_size_bytes": 0,
			"millrace_storage_bytes": 1, "millrace_replication_lag_bytes": 0, `millrace_slot_wal_status{status="reserved"}`: 1, "millrace_slot_active": 1,
			"millrace_ready": 1, "millrace_source_reachable": 1, "millrace_commit_seconds_count": 2, "millrace_checkpoint_age_seconds": 0,
			"millrace_deploying": 0, "go_goroutines": 5,
		} {
			if value, ok := got[name]; !ok || value < least {
				missing += fmt.Sprintf(" %s is %v (%t), want at least %v;", name, value, ok, least)
			}
		}
		if missing == "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(missing)
		}
	}
	resp, err := http.Get(in.url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 404 {
		t.Errorf("metrics on the main port: status %d", resp.StatusCode)
	}
}

var metricLine = regexp.MustCompile(`(?m)^([a-z_]+(?:\{[^}]*\})?) ([0-9.e+-]+)$`)

// scrape returns the values that Prometheus would get, by name and labels.
func (in *instance) scrape() map[string]float64 {
	in.t.Helper()
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", in.metrics))
	if err != nil {
		in.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		in.t.Fatal(err)
	}
	out := map[string]float64{}
	for _, m := range metricLine.FindAllStringSubmatch(string(b), -1) {
		if out[m[1]], err = strconv.ParseFloat(m[2], 64); err != nil {
			in.t.Error(err)
		}
	}
	return out
}

// The lag is the age of the oldest position that replication has not come to.
func TestLag(t *testing.T) {
	l := &lag{activity: newActivity(storage.Checkpoint{LSN: 100})}
	start := time.Now()
	for _, c := range []struct {
		seconds  int
		now      source.LSN // of the source
		reached  source.LSN
		want     float64
		confirms source.LSN
	}{
		{0, 100, 100, 0, 0},
		{5, 200, 100, 0, 0},
		{10, 300, 100, 5, 0},
		{15, 300, 150, 10, 0},
		{20, 400, 200, 10, 0},
		{25, 400, 399, 5, 0},
		{30, 400, 400, 0, 0},
		{35, 500, 400, 0, 500}, // nothing in it concerned us
	} {
		when := start.Add(time.Duration(c.seconds) * time.Second)
		l.activity.at.LSN = c.reached
		l.note(c.now, &postgres.SlotState{Confirmed: c.confirms}, when)
		if got := l.seconds(when); got != c.want {
			t.Errorf("after %d s: %v, want %v", c.seconds, got, c.want)
		}
	}
	for range 2 * lagSamples {
		l.note(l.now+1, nil, start)
	}
	if len(l.samples) > lagSamples {
		t.Errorf("%d samples are kept", len(l.samples))
	}
}

func TestProbeFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), ".probes")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, old := range []string{"startup", "ready"} {
		if err := os.WriteFile(filepath.Join(dir, old), []byte("1"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		status := httpapi.Status{Touched: time.UnixMilli(1000)}
		p := &probeFiles{dir: dir, log: slog.New(slog.DiscardHandler), status: func() httpapi.Status {
			mu.Lock()
			defer mu.Unlock()
			return status
		}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		is := func(when string, want ...string) {
			t.Helper()
			time.Sleep(probeEvery + time.Millisecond)
			synctest.Wait()
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range entries {
				got = append(got, e.Name())
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: files %v, want %v", when, got, want)
			}
		}
		set := func(s httpapi.Status) {
			mu.Lock()
			defer mu.Unlock()
			status = s
		}
		is("at first", "poll")
		set(httpapi.Status{Started: true, Ready: true, Touched: time.UnixMilli(2000)})
		is("ready", "poll", "ready", "startup")
		if b, err := os.ReadFile(filepath.Join(dir, "poll")); err != nil || string(b) != "2000" {
			t.Errorf("poll holds %q %v", b, err)
		}
		set(httpapi.Status{Started: true, Touched: time.UnixMilli(2000)})
		is("not ready", "poll", "startup")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		is("ended")
	})
}

// Teardown leaves nothing behind, and nothing is torn down under a running service.
func TestTeardown(t *testing.T) { inEachStorage(t, testTeardown) }

func testTeardown(t *testing.T, with func(dsn string) *instance) {
	dsn, conn := database(t, shared.Cluster(t),
		"CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)", "INSERT INTO notes VALUES ('a', 'u', 'one')")
	in := with(dsn)
	in.start(ownNotes)
	c := in.connect("u")
	c.untilEqual("first sync", conn, notesOf("u"))
	cfg, err := in.load()
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	if version, _, err := TestConnection(t.Context(), cfg); err != nil || version == "" {
		t.Errorf("test of the connection: %q %v", version, err)
	}
	if _, err := Teardown(t.Context(), cfg, log); !errors.Is(err, storage.ErrLocked) {
		t.Fatalf("teardown of a running service: %v", err)
	}
	in.stop()
	removed, err := Teardown(t.Context(), cfg, log)
	if err != nil || removed != cfg.Storage.String() {
		t.Fatalf("teardown: %q %v", removed, err)
	}
	slots := 0
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()").Scan(&slots); err != nil || slots != 0 {
		t.Errorf("%d slots are left, %v", slots, err)
	}
	if _, err := os.Stat(removed); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the storage is left: %v", err)
	}
	if again, err := Teardown(t.Context(), cfg, log); err != nil || again != "" { // also of tables
		t.Errorf("teardown of nothing: %q %v", again, err)
	}
	in.start(ownNotes)
	exec(t, conn, "INSERT INTO notes VALUES ('b', 'u', 'two')")
	c.untilEqual("a new beginning", conn, notesOf("u"))
}
