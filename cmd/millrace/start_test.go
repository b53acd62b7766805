package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/millrace-sync/millrace/internal/config"
	"github.com/millrace-sync/millrace/internal/server"
	"github.com/millrace-sync/millrace/internal/storage"
)

// keys returns the variables that keygen prints.
func keys(t *testing.T) []string {
	t.Helper()
	stdout, stderr, code := millrace(t, nil, "keygen")
	if code != 0 {
		t.Fatalf("keygen: exit code %d, %s", code, stderr)
	}
	var env []string
	for line := range strings.Lines(stdout) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			env = append(env, line)
		}
	}
	return env
}

// serviceEnv returns the variables of testdata/good.yaml, for a source that nobody
// listens for.
func serviceEnv(t *testing.T, port string) []string {
	return append(keys(t), "PS_SOURCE=postgresql://u:p@127.0.0.1:1024/d", "PS_DATA="+t.TempDir()+"/data", "PS_PORT="+port)
}

// TestKeygenConfig checks that a configuration takes the variables as they are.
func TestKeygenConfig(t *testing.T) {
	vars := map[string]string{}
	for _, v := range serviceEnv(t, "0") {
		name, value, _ := strings.Cut(v, "=")
		vars[name] = value
	}
	cfg, warnings, err := config.Load(config.Input{Path: "testdata/good.yaml",
		LookupEnv: func(name string) (string, bool) { v, ok := vars[name]; return v, ok }})
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	if !strings.Contains(string(cfg.ClientAuth.Keys[0].JWK), vars["PS_JWK_N"]) {
		t.Error("the key did not arrive")
	}
}

// TestStart starts the service without a source, waits until it serves, and ends it
// by a signal.
func TestStart(t *testing.T) {
	cmd := exec.Command(binary, "start", "-c", "good.yaml", "-r", "unified")
	cmd.Dir, cmd.Env = "testdata", serviceEnv(t, "0")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	served := false
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		fmt.Fprintln(&log, lines.Text())
		var line struct{ Msg string }
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Errorf("not a JSON line: %s", lines.Text())
		}
		if line.Msg == "serving" && !served {
			served = true
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
	}
	err = cmd.Wait()
	if err != nil || !served {
		t.Errorf("served: %v, end: %v, log:\n%s", served, err, &log)
	}
	if strings.Contains(log.String(), "u:p@") {
		t.Errorf("the log shows the password:\n%s", &log)
	}
}

// TestStartPortTaken checks the code and the words of a start that fails.
func TestStartPortTaken(t *testing.T) {
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, stderr, code := millrace(t, serviceEnv(t, port), "start", "-c", "good.yaml")
	if code != exitStart || !strings.Contains(stderr, `"error":"listen on port `+port) {
		t.Errorf("exit code %d, %s", code, stderr)
	}
}

// TestStartRole checks that a folder is refused as storage of several processes.
func TestStartRole(t *testing.T) {
	for _, role := range []string{"api", "sync"} {
		_, stderr, code := millrace(t, append(serviceEnv(t, "0"), "PS_RUNNER_TYPE="+role), "start", "-c", "good.yaml")
		if code != exitStart || !strings.Contains(stderr, "the runner type "+role+" needs storage that several processes can share") {
			t.Errorf("exit code %d, %s", code, stderr)
		}
	}
}

// TestMigrateFolder checks that migrate has nothing to do for storage in a folder.
func TestMigrateFolder(t *testing.T) {
	stdout, stderr, code := millrace(t, serviceEnv(t, "0"), "migrate", "-c", "good.yaml")
	if code != 0 || !strings.Contains(stdout, "storage in a folder has no tables") {
		t.Errorf("exit code %d, %s%s", code, stdout, stderr)
	}
}

// TestStartSyncConfig checks that mistakes in the sync config end with code 1.
func TestStartSyncConfig(t *testing.T) {
	_, stderr, code := millrace(t, serviceEnv(t, "0"), "start", "-c", "good.yaml", "-sync64", "c3RyZWFtczoge2E6IHtxdWVyeTogU0VMRUMgfX0K")
	if code != exitFailed || !strings.Contains(stderr, "--sync-base64:1:") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
}

func TestExitCode(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{&server.SyncConfigError{}, exitFailed},
		{fmt.Errorf("apply: %w", storage.ErrFailed), exitStorage},
		{errors.New("listen on port 80: permission denied"), exitStart},
	} {
		if got := exitCode(fmt.Errorf("run: %w", c.err)); got != c.want {
			t.Errorf("%v: exit code %d, want %d", c.err, got, c.want)
		}
	}
}
