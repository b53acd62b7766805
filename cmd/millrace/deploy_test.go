package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/millrace-sync/millrace/internal/admin"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/protocol"
)

// scripted is a service that answers as told and notes what it was asked.
type scripted struct {
	mu     sync.Mutex
	asked  []string
	status []admin.Status // the last one stays
	away   int            // so many times nobody knows the status
	refuse *protocol.Error
	dry    admin.DryRun
}

func (s *scripted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	if r.Header.Get("Authorization") != "Bearer operator" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	var data any
	switch r.URL.Path {
	case "/api/millrace/v1/status":
		if s.away > 0 {
			s.away--
			e := protocol.Errorf(protocol.ShuttingDown, "No process replicates at the moment")
			w.WriteHeader(e.Status)
			_, _ = w.Write(e.AppendJSON(nil))
			return
		}
		data = s.status[0]
		if len(s.status) > 1 {
			s.status = s.status[1:]
		}
	case "/api/millrace/v1/dry-run":
		data = s.dry
		fallthrough
	default:
		s.asked = append(s.asked, r.URL.Path+" "+string(body))
	}
	if s.refuse != nil {
		w.WriteHeader(s.refuse.Status)
		_, _ = w.Write(s.refuse.AppendJSON(nil))
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"data": data})
}

func TestDeployCommand(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sync.yaml")
	const text = "config: {edition: 3}\nstreams:\n  tags: {query: SELECT * FROM tags}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	current := admin.Status{Checkpoint: "7@0/8"}
	details := protocol.Errorf(protocol.SyncConfigInvalid, "The sync config has mistakes")
	details.Details = "sync config:1:1: here"
	for _, c := range []struct {
		name   string
		args   []string
		script *scripted
		code   int
		asked  string
		want   []string
	}{
		{"the configuration's", nil, &scripted{status: []admin.Status{current}}, 0, "/api/millrace/v1/reload ", []string{"current, at checkpoint 7@0/8"}},
		{"a file", []string{file}, &scripted{status: []admin.Status{
			{Deploying: true, Backfill: []admin.TableProgress{{Table: "public.tags", Rows: 1}}}, current,
		}}, 0, "/api/sync-rules/v1/deploy " + text, []string{"reading: public.tags (1 row)\n", "current, at"}},
		{"while another process takes over", []string{file}, &scripted{away: 1, status: []admin.Status{current}}, 0,
			"/api/sync-rules/v1/deploy " + text, []string{"waiting: No process replicates at the moment\n", "current, at"}},
		{"not waited for", []string{file, "--no-wait"}, &scripted{}, 0, "/api/sync-rules/v1/deploy " + text, []string{"is taken"}},
		{"given up", []string{file}, &scripted{status: []admin.Status{{Failed: "because"}}}, 1, "/api/sync-rules/v1/deploy " + text, []string{"given up", "because"}},
		{"mistakes", []string{file}, &scripted{refuse: details}, 1, "/api/sync-rules/v1/deploy " + text, []string{"The sync config has mistakes\nsync config:1:1: here"}},
		{"dry run", []string{file, "--dry-run"}, &scripted{dry: admin.DryRun{
			Keep: 9, New: 1, Reads: []admin.TableEstimate{{Table: "public.tags", Rows: 1000}, {Table: "public.x", Rows: -1}},
			Streams: []admin.StreamFate{{Name: "tags", Fate: "added"}, {Name: "notes", Fate: "unchanged"}}, Waits: []string{"there is no table"}, Warnings: []string{"careful"},
		}}, 0, "/api/millrace/v1/dry-run " + text, []string{`9 definitions kept, 1 new, 0 dropped

tables to be read
  public.tags: about 1000 rows
  public.x: number of rows not known

streams
  tags: new
  notes: clients keep what they have

It would wait, and the sync config before it be served, until this is mended:
  there is no table

warning: careful
`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			service := httptest.NewServer(c.script)
			defer service.Close()
			stdout, stderr, code := millrace(t, serviceEnv(t, "0"), append([]string{"deploy", "-c", "good.yaml", "--url", service.URL}, c.args...)...)
			if code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			for _, want := range c.want {
				if !strings.Contains(stdout+stderr, want) {
					t.Errorf("it says\n%s%s\nwithout %q", stdout, stderr, want)
				}
			}
			c.script.mu.Lock()
			defer c.script.mu.Unlock()
			if asked := strings.Join(c.script.asked, "\n"); asked != c.asked {
				t.Errorf("it asked %q, want %q", asked, c.asked)
			}
		})
	}
}

// A service that does not run gets a sync config by its storage.
func TestDeployStopped(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sync.yaml")
	if err := os.WriteFile(file, []byte("config: {edition: 3}\nstreams:\n  tags: {query: SELECT * FROM tags}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := serviceEnv(t, "1") // a port that nobody listens on
	var dir string
	for _, v := range env {
		if d, ok := strings.CutPrefix(v, "PS_DATA="); ok {
			dir = d
		}
	}
	if err := openStore(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	run := func(wantCode int, wantIn string, args ...string) {
		t.Helper()
		stdout, stderr, code := millrace(t, env, args...)
		if code != wantCode || !strings.Contains(stdout+stderr, wantIn) {
			t.Fatalf("millrace %s: exit code %d, want %d and %q\n%s%s", strings.Join(args, " "), code, wantCode, wantIn, stdout, stderr)
		}
	}
	run(1, "take sync_config out of good.yaml", "deploy", file, "-c", "good.yaml")
	run(1, "It deploys the sync config of its configuration when it starts", "deploy", "-c", "good.yaml")
	run(0, "the source did not tell about its tables", "deploy", file, "--dry-run", "-c", "good.yaml")
	run(0, "is deployed when it starts", "deploy", file, "-c", "bare.yaml")
	s := openStore(t, dir)
	if deploys := s.Recovered().Deploys; len(deploys) != 1 || deploys[0].State != storage.DeployPending || !strings.Contains(deploys[0].SyncConfig, "tags") {
		t.Errorf("stored: %+v", deploys)
	}
	run(1, "It runs, but not where it was looked for", "deploy", file, "-c", "bare.yaml")
}
