package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzLoad reads any bytes as a configuration. Whatever they are, Load gives either
// a Config or problems whose places exist; it shows no variable's value; and
// embedded text stands where its Source says.
func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"testdata/good/*.yaml", "testdata/good/*.json", "testdata/bad/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatal("no files", err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	const canary = "c4n4ry-v4lu3"
	lookup := func(name string) (string, bool) {
		switch name {
		case "PS_SECRET":
			return canary, true
		case "PS_PORT":
			return "8123", true
		case "PS_DATA_SOURCE_URI":
			return "postgresql://u:" + canary + "@h/d", true
		}
		return "", false
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) == 0 || strings.Contains(string(data), "path") {
			return // an empty flag means none; files are out of bounds
		}
		cfg, _, err := Load(Input{Base64: encode(string(data)), LookupEnv: lookup})
		lines := splitLines(string(trimBOM(data)))
		if err != nil {
			var invalid *Invalid
			if cfg != nil || !errors.As(err, &invalid) || invalid.Problems.Errors() == 0 {
				t.Fatalf("got %v, %#v", cfg, err)
			}
			if strings.Contains(err.Error(), canary) {
				t.Errorf("a variable's value is shown:\n%v", err)
			}
			for _, p := range invalid.Problems {
				if p.Line < 0 || p.Line > len(lines)+1 || (p.Line > 0) != (p.Column > 0) || p.Message == "" {
					t.Errorf("the place is not in %d lines: %v", len(lines), p)
				}
				if n := len([]rune(p.Snippet)); p.Snippet != "" && (p.Caret > n || p.Width < 1 || n > snippetWidth+4) {
					t.Errorf("the caret is not below the line: %d+%d, %v", p.Caret, p.Width, p)
				}
			}
			return
		}
		c := cfg.Connection
		if c.Host == "" || c.User == "" || c.Database == "" || c.Port < minPort || c.Password == "" && c.Host[0] != '/' ||
			c.SSLMode == VerifyCA && c.CACert == "" || c.SlotPrefix == "" || c.MaxPoolSize < 1 || c.ConnectTimeout <= 0 || c.Heartbeat <= 0 {
			t.Errorf("the connection is incomplete: %+v", c)
		}
		if cfg.Storage.String() == "" || cfg.Port < 0 || cfg.Port > 65535 || cfg.API.Limits.CheckpointRequestRetention <= 0 {
			t.Errorf("the configuration is incomplete: %v", cfg)
		}
		src := cfg.Sync.Source
		if strings.TrimSpace(src.Text) == "" {
			t.Errorf("there is no sync config: %+v", src)
		}
		if src.Line == 0 {
			return
		}
		doc := newDocument("", string(trimBOM(data)))
		for i, line := range strings.Split(strings.TrimRight(src.Text, "\n"), "\n") {
			column := src.Indent + 1
			if i == 0 {
				column = src.Column
			}
			if got := doc.from(src.Line+i, column); line != "" && !strings.HasPrefix(strings.ReplaceAll(got, "\t", " "), strings.ReplaceAll(line, "\t", " ")) {
				t.Errorf("line %d of the text is %q, but %q stands there", i, line, got)
			}
		}
	})
}
