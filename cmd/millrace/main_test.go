package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// binary is the path of the command under test, which TestMain builds.
var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "millrace-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "millrace")
		build := exec.Command("go", "build", "-o", binary, ".")
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build millrace:", err)
			return 1
		}
		return m.Run()
	}())
}

// millrace runs the binary in testdata with the given variables alone, and returns
// what it wrote and its exit code.
func millrace(t *testing.T, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Dir = "testdata"
	cmd.Env = append(slices.Clone(env), "COLUMNS=100")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// TestCommandLine runs command lines and compares all that they write, and the exit
// code, with golden files.
func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		name string
		env  []string
		args string
	}{
		{name: "help", args: "--help"},
		{name: "nothing", args: ""},
		{name: "help-keygen", args: "keygen --help"},
		{name: "unknown-command", args: "serve"},
		{name: "unknown-flag", args: "--verbose"},
		{name: "keygen-weak", args: "keygen --bits 1024"},
		{name: "help-start", args: "start --help"},
		{name: "start-unknown-flag", args: "start --port 1"},
		{name: "start-nothing", args: "start"},
		{name: "start-bad", args: "start -c bad.yaml"},
		{name: "start-bad-base64", args: "start -c64 %"},
		{name: "start-base64-mistake", args: "start -c64=cG9ydDogMQo= -sync64 YQ=="},
		{name: "help-migrate", args: "migrate --help"},
		{name: "migrate-down", args: "migrate down"},
		{name: "start-unknown-type", args: "start -r both"},
		{name: "validate-good", args: "validate --sync-config streams.yaml"},
		{name: "validate-missing", args: "validate --sync-config none.yaml"},
		{name: "validate-nothing", args: "validate"},
		{name: "help-validate", args: "validate --help"},
		{name: "help-plan", args: "plan --help"},
		{name: "help-compact", args: "compact --help"},
		{name: "help-backup", args: "backup --help"},
		{name: "backup-nowhere", args: "backup"},
		{name: "help-deploy", args: "deploy --help"},
		{name: "help-teardown", args: "teardown --help"},
		{name: "plan-nothing", args: "plan"},
		{name: "plan-missing", args: "plan --sync-config none.yaml"},
	} {
		t.Run(c.name, func(t *testing.T) {
			stdout, stderr, code := millrace(t, c.env, strings.Fields(c.args)...)
			if strings.Contains(stdout+stderr, "hunter2") {
				t.Error("a secret is shown")
			}
			got := fmt.Sprintf("$ millrace %s\nexit code %d\n--- output\n%s--- errors\n%s", c.args, code, stdout, stderr)
			golden(t, filepath.Join("testdata", c.name+".txt"), got)
		})
	}
}

// TestSyncConfigCommands checks what validate and plan say of sync configs. The words
// of diagnostics and plans are the streams package's, so only places are compared.
func TestSyncConfigCommands(t *testing.T) {
	mistakes := []string{"streams-bad.yaml:5:12: error: one: ", "\n    " + "    query: SELEC * FROM greeting\n               ^",
		"streams-bad.yaml:7:21: error: two: ", "streams-bad.yaml:8:35: error: two: "}
	for _, c := range []struct {
		args string
		code int
		want []string
	}{
		{"validate --sync-config streams-bad.yaml", 1, append(mistakes, "millrace: 3 mistakes\n")},
		{"validate -c bad.yaml --sync-config streams-bad.yaml", 1,
			append(mistakes, "bad.yaml:4:12: error: replication.connections[0].uri: ", "millrace: 7 mistakes\n")},
		{"validate -c good.yaml", 1, []string{"the environment variable PS_SOURCE is not set", "millrace: 6 mistakes\n"}},
		{"plan --sync-config streams-bad.yaml", 1, append(mistakes, "millrace: 3 mistakes\n")},
		{"plan --sync-config streams.yaml", 0,
			[]string{"stream greetings: priority 3, subscribed by default\n", "  bucket greetings|0 [auth.user_id()]\n", "    rows of public.greeting where owner = auth.user_id()\n"}},
	} {
		stdout, stderr, code := millrace(t, nil, strings.Fields(c.args)...)
		if code != c.code {
			t.Errorf("millrace %s: exit code %d, want %d", c.args, code, c.code)
		}
		for _, want := range c.want {
			if !strings.Contains(stdout+stderr, want) {
				t.Errorf("millrace %s: no %q in\n%s%s", c.args, want, stdout, stderr)
			}
		}
	}
}

// golden compares with a file, or rewrites it under -update.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update rewrites it):\n%s", file, diff)
	}
}

func TestVersion(t *testing.T) {
	stdout, stderr, code := millrace(t, nil, "version")
	if code != 0 || stderr != "" || !strings.HasPrefix(stdout, "millrace ") || !strings.Contains(stdout, " go1.") {
		t.Errorf("code %d, output %q, errors %q", code, stdout, stderr)
	}
}

// TestLongFlags checks the flags that have one dash and several letters.
func TestLongFlags(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"start -c64 YTog -r unified", "start --config-base64 YTog -r unified"},
		{"start -c64=YTo= -sync64=Yg==", "start --config-base64=YTo= --sync-base64=Yg=="},
		{"start -c 64 --sync-base64 x", "start -c 64 --sync-base64 x"},
		{"start -- -c64 x", "start -- -c64 x"},
	} {
		if got := strings.Join(longFlags(strings.Fields(c.in)), " "); got != c.want {
			t.Errorf("%s: got %s, want %s", c.in, got, c.want)
		}
	}
}
