//go:build unix

package chaos

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// verdicts are the names of what Verify finds, as testdata has them.
var verdicts = map[string]error{
	"good": nil, "lost": ErrLost, "order": ErrOrder, "torn": ErrTorn, "view": ErrView, "diverged": ErrDiverged, "history": ErrHistory,
}

// TestVerify runs Verify over hand-made histories. A file of testdata/histories holds
// several, each below a line `# VERDICT: what happens`; lines before the first one are
// the beginning of all.
func TestVerify(t *testing.T) {
	files, err := filepath.Glob("testdata/histories/*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	found := map[error]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		beginning, cases, _ := strings.Cut(string(text), "\n# ")
		for c := range strings.SplitSeq(cases, "\n# ") {
			title, lines, _ := strings.Cut(c, "\n")
			verdict, what, _ := strings.Cut(title, ": ")
			t.Run(filepath.Base(file)+"/"+what, func(t *testing.T) {
				want, known := verdicts[verdict]
				if !known {
					t.Fatalf("no verdict %q", verdict)
				}
				h, err := ReadHistory(strings.NewReader(beginning + "\n" + lines))
				if err != nil {
					t.Fatal(err)
				}
				got := Verify(h)
				if want == nil && got != nil || !errors.Is(got, want) {
					t.Fatalf("found %v, want %v", got, want)
				}
				for _, other := range verdicts {
					if other != nil && other != want && errors.Is(got, other) {
						t.Errorf("found %v, want %v alone", got, want)
					}
				}
				found[want] = true
			})
		}
	}
	for name, verdict := range verdicts {
		if !found[verdict] {
			t.Errorf("no history shows %q", name)
		}
	}
}
