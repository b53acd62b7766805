package docs

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// suite is what a package's tests are made of.
type suite struct {
	dir   string
	tests map[string]bool
	// texts are the string literals of its Go files, and the names of its data files.
	texts map[string]bool
	data  [][]byte // of its data files
}

var (
	factRow  = regexp.MustCompile(`^\| (\d+) \| (.+) \| (.+) \|$`)
	testName = regexp.MustCompile(`^([a-z0-9]+)\.([A-Z]\w*)(?:/(.+))?$`)
)

// TestAudit checks that each fact of protocol-audit.md names tests, and that they are
// there: the functions, and the cases of their tables or data.
func TestAudit(t *testing.T) {
	text, err := os.ReadFile("protocol-audit.md")
	if err != nil {
		t.Fatal(err)
	}
	suites := readSuites(t)
	facts := 0
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| |") || strings.HasPrefix(line, "| ---") {
			continue
		}
		m := factRow.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			t.Errorf("not a fact: %s", line)
			continue
		}
		if facts++; m[1] != strconv.Itoa(facts) {
			t.Errorf("fact %s stands where %d is to be", m[1], facts)
		}
		for ref := range strings.SplitSeq(m[3], ", `") {
			if err := find(suites, strings.Trim(ref, "`")); err != nil {
				t.Errorf("fact %s: %s: %v", m[1], ref, err)
			}
		}
	}
	if facts < 250 {
		t.Errorf("%d facts", facts)
	}
}

// find looks for a test, or for a promise that the storage suite has by name.
func find(suites map[string][]*suite, ref string) error {
	m := testName.FindStringSubmatch(ref)
	if m == nil {
		return fmt.Errorf("not the name of a test")
	}
	list := suites[m[1]]
	if len(list) != 1 {
		return fmt.Errorf("%d packages of that name have tests", len(list))
	}
	s := list[0]
	if function := strings.HasPrefix(m[2], "Test") || strings.HasPrefix(m[2], "Fuzz"); function && !s.tests[m[2]] || !function && !s.texts[m[2]] {
		return fmt.Errorf("there is no such test in %s", s.dir)
	}
	if m[3] != "" && !s.has(m[3]) {
		return fmt.Errorf("there is no such case in %s", s.dir)
	}
	return nil
}

func (s *suite) has(name string) bool {
	if s.texts[name] {
		return true
	}
	for _, b := range s.data {
		if bytes.Contains(b, []byte(name)) {
			return true
		}
	}
	return false
}

// readSuites returns the packages that have tests, or are a suite, by name.
func readSuites(t *testing.T) map[string][]*suite {
	suites := map[string][]*suite{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() {
			return nil
		}
		if name := d.Name(); name == "node_modules" || name == "testdata" || strings.HasPrefix(name, ".git") {
			return filepath.SkipDir
		}
		s, err := readSuite(path)
		if err == nil && s != nil {
			name := filepath.Base(path)
			suites[name] = append(suites[name], s)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return suites
}

// readSuite reads a folder; nil if there is no test in it, and it is none of the suite
// that stores share.
func readSuite(dir string) (*suite, error) {
	pattern := "*_test.go"
	if filepath.Base(dir) == "storagetest" {
		pattern = "*.go"
	}
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(files) == 0 {
		return nil, err
	}
	s := &suite{dir: dir, tests: map[string]bool{}, texts: map[string]bool{}}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Recv == nil {
					s.tests[n.Name.Name] = true
				}
			case *ast.BasicLit:
				if text, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
					s.texts[text] = true
				}
			}
			return true
		})
	}
	err = filepath.WalkDir(filepath.Join(dir, "testdata"), func(path string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		s.texts[strings.TrimSuffix(d.Name(), filepath.Ext(path))] = true
		b, err := os.ReadFile(path)
		s.data = append(s.data, b)
		return err
	})
	return s, err
}
