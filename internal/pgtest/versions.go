//go:build unix

package pgtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The oldest version of Postgres that can be replicated from, and the newest; folder
// servers names packages that hold them.
const (
	oldest = 14
	newest = 18
)

// OnOtherVersions runs tests of the calling package again on each of the other
// versions of Postgres, by running the test binary anew with BinariesEnv set. A test
// that does not run counts as failed, and so does a version that is not installed.
func OnOtherVersions(t *testing.T, tests ...string) {
	t.Helper()
	for _, version := range []int{oldest, newest} {
		t.Run(strconv.Itoa(version), func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.timeout=10m", "-test.run=^("+strings.Join(tests, "|")+")$")
			cmd.Env = append(os.Environ(), BinariesEnv+"="+otherServer(t, version))
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			for _, name := range tests {
				if !strings.Contains(string(out), "--- PASS: "+name+" (") {
					t.Errorf("%s has not passed on Postgres %d", name, version)
				}
			}
		})
	}
}

// otherServer returns the directory of a version's binaries: where distributions put
// them, or of the package.
func otherServer(t *testing.T, version int) string {
	t.Helper()
	for _, dir := range installed() {
		if versionIn(dir) == version {
			return dir
		}
	}
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "internal", "pgtest", "servers", "node_modules", fmt.Sprintf("postgres-%d", version), "native")
	if !hasServer(filepath.Join(dir, "bin")) {
		t.Fatalf("Postgres %d is missing; run scripts/deps servers, or where that has no package (it is for Linux on x64), "+
			"install it from the distribution, beside the one that is there", version)
	}
	user, err := serverUser()
	if err != nil {
		t.Fatal(err)
	}
	if user != nil {
		// Whoever the server runs as need not be able to enter this repository.
		dir = copyServer(t, dir)
	}
	return filepath.Join(dir, "bin")
}

// copyServer copies a server to where everybody may read it, until the test has ended.
func copyServer(t *testing.T, from string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pgtest-server-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := errors.Join(os.Chmod(dir, 0o755), os.CopyFS(dir, os.DirFS(from))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// moduleRoot returns the folder of go.mod, in or above the working directory.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return "", err
		}
		if slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == "go.mod" }) {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("the working directory is in no module")
		}
		dir = filepath.Dir(dir)
	}
}
