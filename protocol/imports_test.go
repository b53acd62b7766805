package protocol_test

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestImportsArePure checks that the package stays free of I/O and clocks, and that
// clients can import it without importing anything else.
func TestImportsArePure(t *testing.T) {
	allowed := []string{"bufio", "bytes", "encoding/binary", "encoding/json", "errors", "fmt", "io", "maps", "math", "math/bits",
		"slices", "strconv", "strings", "unicode/utf16", "unicode/utf8"}
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range f.Imports {
			if path, _ := strconv.Unquote(spec.Path.Value); !slices.Contains(allowed, path) {
				t.Errorf("%s imports %s", file, path)
			}
		}
	}
}
