package config

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// canaries are the secrets of testdata: no output may hold them.
var canaries = []string{"hunter2", "ter2", "canary"}

// env reads the variables of testdata/env.json.
func env(t testing.TB) func(string) (string, bool) {
	b, err := os.ReadFile("testdata/env.json")
	if err != nil {
		t.Fatal(err)
	}
	var vars map[string]string
	if err := json.Unmarshal(b, &vars); err != nil {
		t.Fatal(err)
	}
	return func(name string) (string, bool) { v, ok := vars[name]; return v, ok }
}

// with adds variables to an environment.
func with(env func(string) (string, bool), vars map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		if v, ok := vars[name]; ok {
			return v, true
		}
		return env(name)
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

func noSecrets(t *testing.T, what, text string) {
	t.Helper()
	for _, c := range canaries {
		if strings.Contains(text, c) {
			t.Errorf("%s shows the secret %q:\n%s", what, c, text)
		}
	}
}

// TestBad reads each file of testdata/bad and compares every problem.
func TestBad(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			cfg, warnings, err := Load(Input{Path: file, LookupEnv: env(t)})
			var invalid *Invalid
			if !errors.As(err, &invalid) || cfg != nil || warnings != nil {
				t.Fatalf("got %v, %v, %v; want *Invalid alone", cfg, warnings, err)
			}
			noSecrets(t, "the error", err.Error())
			golden(t, strings.TrimSuffix(file, ".yaml")+".txt", err.Error()+"\n")
		})
	}
}

// TestGood reads each file of testdata/good and compares the Config, secrets
// hidden, and the warnings.
func TestGood(t *testing.T) {
	for _, file := range []string{"guide.yaml", "guide-storage.yaml", "storage.yaml", "full.yaml", "json.json", "socket.yaml", "supabase.yaml"} {
		t.Run(file, func(t *testing.T) {
			path := filepath.Join("testdata/good", file)
			cfg, warnings, err := Load(Input{Path: path, LookupEnv: env(t)})
			if err != nil {
				t.Fatal(err)
			}
			b, err := json.MarshalIndent(cfg, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			var log strings.Builder
			slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "config", cfg)
			slog.New(slog.NewTextHandler(&log, nil)).Info("x", "config", cfg, "connection", cfg.Connection, "auth", cfg.ClientAuth)
			out := fmt.Sprintf("%s\n%s\n%s\n", b, warnings, cfg)
			noSecrets(t, "the config", out+log.String()+fmt.Sprintf("%v %+v %#v", *cfg, *cfg, *cfg))
			golden(t, path+".txt", out)
		})
	}
}

// TestSecretsArrive checks the secrets themselves, which golden files do not show.
func TestSecretsArrive(t *testing.T) {
	load := func(file string) *Config {
		cfg, _, err := Load(Input{Path: "testdata/good/" + file, LookupEnv: env(t)})
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	full, guide, js := load("full.yaml"), load("guide.yaml"), load("json.json")
	got := []string{
		string(full.Connection.Password), string(guide.Connection.Password), string(js.Connection.Password),
		string(load("guide-storage.yaml").Storage.Connection.Password), string(load("storage.yaml").Storage.Connection.Password),
		string(full.ClientAuth.SupabaseJWTSecret), string(full.API.Tokens[0]), string(full.ClientAuth.Keys[0].JWK),
		string(full.ClientAuth.Keys[2].JWK),
	}
	want := []string{
		`pass"word`, "canary-source", "p@w", "canary-store", "hunter2", "canary-secret", "canary-secret",
		`{"alg":"HS256","k":"c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA","kid":"h","kty":"oct"}`,
		`{"crv":"Ed25519","key_ops":["verify"],"kid":"o","kty":"OKP","use":"sig","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSecretNeverPrints(t *testing.T) {
	s := Secret("hunter2")
	type holder struct {
		S Secret
		P *Secret
		L []Secret
	}
	h := holder{s, &s, []Secret{s}}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%t", "%T", "%c"} {
		fmt.Fprintf(&out, verb+" "+verb+"\n", s, h)
	}
	b, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(b)
	fmt.Fprintln(&out, s, h, errors.New(s.String()))
	noSecrets(t, "a format", out.String())
	if string(s) != "hunter2" || Secret("").String() != "" {
		t.Error("a secret is not what it was")
	}
}

// TestDocumented checks that the documentation names every key.
func TestDocumented(t *testing.T) {
	b, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, keys := range [][]string{rootKeys, connectionKeys, storageKeys, authKeys, limitKeys} {
		for _, key := range keys {
			if !strings.Contains(string(b), key) {
				t.Errorf("docs/configuration.md does not name %q", key)
			}
		}
	}
}
