package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-sync/millrace/internal/streams"
)

// minimal is a configuration whose port tells where it came from.
func minimal(port string) string {
	return `replication: {connections: [{type: postgresql, uri: "postgresql://u:p@h/d"}]}
client_auth: {supabase_jwt_secret: s}
sync_config: {content: "streams: {}"}
port: ` + port + "\n"
}

func encode(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func noEnv(string) (string, bool) { return "", false }

// TestSources checks where a configuration is looked for, first to last.
func TestSources(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	byFlag, byEnv := write("flag.yaml", minimal("3")), write("env.yaml", minimal("4"))
	write(defaultFile, "\ufeff"+minimal("5"))

	in := Input{Base64: encode(minimal("1")), Path: byFlag}
	vars := map[string]string{envBase64: encode(minimal("2")), envPath: byEnv}
	in.LookupEnv = with(noEnv, vars)
	steps := []struct {
		port   int
		file   string
		remove func()
	}{
		{1, "--config-base64", func() { in.Base64 = "" }},
		{2, envBase64, func() { delete(vars, envBase64) }},
		{3, byFlag, func() { in.Path = "" }},
		{4, byEnv, func() { delete(vars, envPath) }},
		{5, defaultFile, func() { os.Remove(defaultFile) }},
	}
	for _, s := range steps {
		cfg, _, err := Load(in)
		if err != nil {
			t.Fatalf("port %d: %v", s.port, err)
		}
		if cfg.Port != s.port || cfg.File != s.file {
			t.Errorf("got port %d of %s, want %d of %s", cfg.Port, cfg.File, s.port, s.file)
		}
		s.remove()
	}
	_, _, err := Load(in)
	if err == nil || !strings.Contains(err.Error(), "name one by -c FILE") {
		t.Errorf("without any: %v", err)
	}
}

// TestSourceFailures checks that each way to fail says where and why.
func TestSourceFailures(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large.yaml")
	f, err := os.Create(large)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(maxFile + 1); err != nil {
		t.Fatal(err)
	}
	f.Close()
	for _, c := range []struct {
		in   Input
		want string
	}{
		{Input{Base64: "%%%"}, "--config-base64: error: is not base64"},
		{Input{Path: dir}, dir + ": error: cannot be read: is a directory"},
		{Input{Path: dir + "/no.yaml"}, dir + "/no.yaml: error: cannot be read: no such file or directory"},
		{Input{Path: large}, large + ": error: is larger than 8 MiB"},
		{Input{Base64: encode(minimal("1")), SyncBase64: "?"}, "--sync-base64: error: is not base64"},
		{Input{Base64: encode(minimal("1")), SyncBase64: encode("\xff")}, "--sync-base64: error: holds text that is not UTF-8"},
		{Input{Base64: encode(minimal("1") + "system: {logging: {}}"), LookupEnv: with(noEnv, map[string]string{"PS_LOG_LEVEL": "loud"})},
			"PS_LOG_LEVEL: error: must be one of error, warn, info, http, verbose, debug, silly"},
		{Input{Base64: encode(minimal("1")), LookupEnv: with(noEnv, map[string]string{"PS_LOG_FORMAT": "xml"})},
			"PS_LOG_FORMAT: error: must be json or text"},
	} {
		if c.in.LookupEnv == nil {
			c.in.LookupEnv = noEnv
		}
		_, _, err := Load(c.in)
		var invalid *Invalid
		if !errors.As(err, &invalid) || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("got %v\nwant %s …", err, c.want)
		}
	}
}

// TestSyncBase64 checks that the flag wins over the variables, and they over the
// file.
func TestSyncBase64(t *testing.T) {
	vars := map[string]string{envSyncBase64: encode("b"), envSyncOld: encode("c")}
	in := Input{Base64: encode(minimal("1")), SyncBase64: encode("a"), LookupEnv: with(noEnv, vars)}
	for _, want := range []streams.Source{
		{File: "--sync-base64", Text: "a"}, {File: envSyncBase64, Text: "b"}, {File: envSyncOld, Text: "c"},
		{File: "--config-base64", Text: "streams: {}", Line: 3, Column: 25},
	} {
		cfg, warnings, err := Load(in)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, cfg.Sync.Source); diff != "" {
			t.Error(diff)
		}
		if overridden := want.Line == 0; overridden != (len(warnings) == 1) {
			t.Errorf("%s: warnings %v", want.File, warnings)
		}
		switch want.Text {
		case "a":
			in.SyncBase64 = ""
		case "b":
			delete(vars, envSyncBase64)
		case "c":
			delete(vars, envSyncOld)
		}
	}
	// The flag alone suffices.
	in.SyncBase64 = encode("a")
	in.Base64 = encode(strings.Replace(minimal("1"), `sync_config: {content: "streams: {}"}`, "", 1))
	if _, _, err := Load(in); err != nil {
		t.Error(err)
	}
}

// TestLogging checks what decides the log's level and format.
func TestLogging(t *testing.T) {
	for _, c := range []struct {
		file string
		vars map[string]string
		want string
	}{
		{"", nil, "INFO false"},
		{"", map[string]string{"NODE_ENV": "production"}, "INFO true"},
		{"system: {logging: {format: text, level: warn}}", map[string]string{"NODE_ENV": "production"}, "WARN false"},
		{"system: {logging: {format: text, level: warn}}", map[string]string{"PS_LOG_LEVEL": "debug", "PS_LOG_FORMAT": "json"}, "DEBUG true"},
	} {
		cfg, _, err := Load(Input{Base64: encode(minimal("1") + c.file), LookupEnv: with(noEnv, c.vars)})
		if err != nil {
			t.Fatal(err)
		}
		if got := cfg.Logging.Level.String() + " " + map[bool]string{true: "true", false: "false"}[cfg.Logging.JSON]; got != c.want {
			t.Errorf("%q %v: got %s, want %s", c.file, c.vars, got, c.want)
		}
	}
}

// TestContentPlaces checks where embedded text says that it begins, for every way
// of writing it.
func TestContentPlaces(t *testing.T) {
	const head = "replication: {connections: [{type: postgresql, uri: \"postgresql://u:p@h/d\"}]}\nclient_auth: {supabase_jwt_secret: s}\n"
	for _, c := range []struct {
		name, text string
		want       streams.Source
	}{
		{"literal", "sync_config:\n  content: |\n    a:\n      b\n",
			streams.Source{Text: "a:\n  b\n", Line: 5, Column: 5, Indent: 4}},
		{"blank lines first", "sync_config:\n  content: |-\n\n   \n      a\n",
			streams.Source{Text: "\n\na", Line: 5, Column: 7, Indent: 6}},
		{"explicit indentation", "sync_config:\n  content: |2-\n        lead\n    a",
			streams.Source{Text: "    lead\na", Line: 5, Column: 5, Indent: 4}},
		{"comment", "sync_config:\n  content: | # here\n   a\n",
			streams.Source{Text: "a\n", Line: 5, Column: 4, Indent: 3}},
		{"anchor and tag on lines of their own", "sync_config:\n  content: &x !!str # y\n    |\n    a\n",
			streams.Source{Text: "a\n", Line: 6, Column: 5, Indent: 4}},
		{"alias", "metadata: {a: &x \"streams: {}\"}\nsync_config: {content: *x}\n",
			streams.Source{File: "--config-base64(sync_config.content)", Text: "streams: {}"}},
		{"carriage returns", "sync_config:\r\n  content: |\r\n    a\r\n    b\r\n",
			streams.Source{Text: "a\nb\n", Line: 5, Column: 5, Indent: 4}},
		{"wide characters before", "sync_config: {exit_on_error: true, \"content\": 'é: [ñ]'}\n",
			streams.Source{Text: "é: [ñ]", Line: 3, Column: 48}},
		{"plain", "sync_config: {content: streams}\n",
			streams.Source{Text: "streams", Line: 3, Column: 24}},
		{"folded", "sync_config:\n  content: >\n    a\n    b\n",
			streams.Source{File: "--config-base64(sync_config.content)", Text: "a b\n"}},
		{"escapes", "sync_config: {content: \"a\\n\"}\n",
			streams.Source{File: "--config-base64(sync_config.content)", Text: "a\n"}},
		{"variable", "sync_config: {content: !env PS_SYNC}\n",
			streams.Source{File: "--config-base64(sync_config.content)", Text: "from outside"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, _, err := Load(Input{Base64: encode(head + c.text), LookupEnv: with(noEnv, map[string]string{"PS_SYNC": "from outside"})})
			if err != nil {
				t.Fatal(err)
			}
			if c.want.File == "" {
				c.want.File = "--config-base64"
			}
			if diff := cmp.Diff(c.want, cfg.Sync.Source); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// selfSigned makes a certificate and its key, both PEM.
func selfSigned(t *testing.T) (cert, key []byte) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}

// TestSSLModes checks the modes and the certificates they need.
func TestSSLModes(t *testing.T) {
	cert, key := selfSigned(t)
	indent := func(b []byte) string {
		return "|\n      " + strings.ReplaceAll(strings.TrimSpace(string(b)), "\n", "\n      ") + "\n"
	}
	base := "client_auth: {supabase_jwt_secret: s}\nsync_config: {content: \"streams: {}\"}\n" +
		"replication:\n  connections:\n  - type: postgresql\n    uri: postgresql://u:p@h/d\n"
	for _, c := range []struct{ keys, want string }{
		{"    sslmode: verify-ca\n    cacert: " + indent(cert), ""},
		{"    client_certificate: " + indent(cert) + "    client_private_key: " + indent(key), ""},
		{"    client_certificate: " + indent(cert) + "    client_private_key: " + indent(cert), "is not the certificate of client_private_key"},
		{"    client_private_key: " + indent(key), "needs client_certificate"},
		{"    cacert: " + indent(key), "holds no certificate [PSYNC_S1104]"},
		{"    sslmode: prefer", "prefer does not check whom it talks to"},
	} {
		cfg, _, err := Load(Input{Base64: encode(base + c.keys), LookupEnv: noEnv})
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.keys, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got %v, want %s", c.keys, err, c.want)
		case err == nil && cfg.Connection.CACert+cfg.Connection.ClientCert != string(cert):
			t.Errorf("%s: the certificate did not arrive", c.keys)
		case err != nil && strings.Contains(err.Error(), strings.Split(string(key), "\n")[1]):
			t.Errorf("the key is shown: %v", err)
		}
	}
}
