package client

import (
	"os/exec"
	"strings"
	"testing"
)

// What apps link is ours, the protocol, SQLite and the standard library: no server, no cgo.
func TestDependencies(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	const ours = "github.com/millrace-sync/millrace/"
	allowed := []string{
		ours + "client", ours + "protocol",
		"github.com/ncruces/", "golang.org/x/sys/", "go.mongodb.org/mongo-driver/v2/",
	}
	packages := strings.Fields(string(out))
	if len(packages) < 3 {
		t.Fatalf("go list found only %v", packages)
	}
next:
	for _, p := range packages {
		for _, prefix := range allowed {
			if strings.HasPrefix(p, prefix) {
				continue next
			}
		}
		t.Errorf("the client depends on %s", p)
	}
}

func TestNoCgo(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "-f", "{{if and (not .Standard) .CgoFiles}}{{.ImportPath}}{{end}}", ".")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	if p := strings.Fields(string(out)); len(p) > 0 {
		t.Errorf("packages with cgo: %v", p)
	}
}
