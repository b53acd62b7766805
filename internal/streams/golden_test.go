package streams

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-sync/millrace/internal/conformance"
)

var update = flag.Bool("update", false, "write what the golden tests get as what they want")

// golden compares got with the file beside a test's input, or writes it.
func golden(t *testing.T, input, got string) {
	t.Helper()
	path := strings.TrimSuffix(input, filepath.Ext(input)) + ".golden"
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want := conformance.ReadFile(t, path); got != want {
		t.Errorf("%s differs; run with -update and review the difference\n--- want\n%s\n--- got\n%s", path, want, got)
	}
}

func inputs(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no files %s: %v", pattern, err)
	}
	return files
}

// TestDiagnostics holds what is reported about faulty configs.
func TestDiagnostics(t *testing.T) {
	for _, path := range inputs(t, "testdata/diagnostics/*.yaml") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			p, diags := Compile(Source{File: filepath.Base(path), Text: conformance.ReadFile(t, path)})
			if p != nil {
				t.Error("the config is accepted")
			}
			golden(t, path, Format(diags))
		})
	}
}

// TestPlans holds the plans of configs: as people see them, and the canonical
// forms by which definitions are known. A change here that is no change of what a
// config means makes every client download everything again.
func TestPlans(t *testing.T) {
	for _, path := range inputs(t, "testdata/plans/*.yaml") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			p, diags := Compile(Source{File: filepath.Base(path), Text: conformance.ReadFile(t, path)})
			if p == nil {
				t.Fatal(Format(diags))
			}
			var b strings.Builder
			b.WriteString(Format(diags))
			b.WriteString(p.Describe())
			for _, d := range p.Definitions {
				fmt.Fprintf(&b, "\n%s %s\n%s", d.Hash, d.Label, d.Canonical)
			}
			golden(t, path, b.String())
		})
	}
}
