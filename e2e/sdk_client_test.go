package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// sdkFolder holds the SDKs and the clients that drive them.
const sdkFolder = "sdk"

// sdkClient is a client on an official SDK, in a process of its own: sdk/client.js
// has its commands.
type sdkClient struct {
	t       *testing.T
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	answers chan []byte // closed when its output ends
	mu      sync.Mutex
	said    strings.Builder
}

// startSDK runs a client's host, which ends with the test.
func startSDK(t *testing.T, args ...string) *sdkClient {
	t.Helper()
	node := absolute(t, filepath.Join(sdkFolder, "node_modules", ".bin", "node"))
	if _, err := os.Stat(node); err != nil {
		t.Fatal("the SDKs are missing; run: scripts/deps sdks chromium")
	}
	c := &sdkClient{t: t, cmd: exec.Command(node, args...), answers: make(chan []byte, 1)}
	c.cmd.Dir = sdkFolder
	c.cmd.Stderr, c.cmd.WaitDelay = c, 5*time.Second
	var err error
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.answers)
		lines := bufio.NewScanner(stdout)
		lines.Buffer(nil, 64<<20)
		for lines.Scan() {
			c.answers <- []byte(lines.Text())
		}
	}()
	t.Cleanup(func() {
		if t.Failed() {
			c.mu.Lock()
			text := c.said.String()
			c.mu.Unlock()
			t.Logf("the client said:\n%s", text[max(0, len(text)-4000):])
		}
		// A host ends, and takes its browser with it, when its input does.
		c.stdin.Close()
		kill := time.AfterFunc(10*time.Second, func() { _ = c.cmd.Process.Kill() })
		defer kill.Stop()
		for range c.answers {
		}
		_ = c.cmd.Wait()
	})
	return c
}

// Write takes what the host says beside its answers.
func (c *sdkClient) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said.Write(b)
}

type object = map[string]any

// call runs a command and decodes its answer into result, unless that is nil.
func (c *sdkClient) call(command string, args object, result any) {
	c.t.Helper()
	request, err := json.Marshal(object{"command": command, "args": args})
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.stdin.Write(append(request, '\n')); err != nil {
		c.t.Fatalf("%s: the client has gone: %v", command, err)
	}
	select {
	case line, ok := <-c.answers:
		if !ok {
			c.t.Fatalf("%s: the client has ended", command)
		}
		var answer struct {
			Error  string
			Result json.RawMessage
		}
		if err := json.Unmarshal(line, &answer); err != nil {
			c.t.Fatalf("%s: answer %.200q: %v", command, line, err)
		}
		if answer.Error != "" {
			c.t.Fatalf("%s: %s", command, answer.Error)
		}
		if result != nil {
			if err := json.Unmarshal(answer.Result, result); err != nil {
				c.t.Fatalf("%s: answer %.200q: %v", command, line, err)
			}
		}
	case <-time.After(2 * patience):
		c.t.Fatalf("%s: no answer", command)
	}
}

// sdkStatus is what an SDK says of its connection; First and Last are whether
// priorities 1 and 3 were synced.
type sdkStatus struct {
	Connected, Synced, First, Last bool
	DownloadError, UploadError     *string
}

// sdkSeen is what a client last saw of a query's rows.
type sdkSeen struct {
	OK       bool // they are those expected
	Rows     json.RawMessage
	Status   json.RawMessage
	Warnings []string
}

// look waits for a query's rows for a time.
func (c *sdkClient) look(sql string, want json.RawMessage, patience time.Duration) (seen sdkSeen) {
	c.t.Helper()
	c.call("until", object{"sql": sql, "want": want, "timeoutMs": patience.Milliseconds()}, &seen)
	return seen
}

// until waits until a query gives the rows.
func (c *sdkClient) until(what, sql string, want json.RawMessage) {
	c.t.Helper()
	if seen := c.look(sql, want, patience); !seen.OK {
		var buckets, subscriptions json.RawMessage
		c.call("query", object{"sql": "SELECT name, last_op, last_applied_op FROM ps_buckets"}, &buckets)
		c.call("query", object{"sql": "SELECT * FROM ps_stream_subscriptions"}, &subscriptions)
		c.t.Fatalf("waited in vain until %s\nrows %.2000s\nwant %.2000s\nstatus %s\nwarnings %q\nbuckets %s\nsubscriptions %s",
			what, seen.Rows, want, seen.Status, seen.Warnings, buckets, subscriptions)
	}
}

// count waits until a query that counts gives n.
func (c *sdkClient) count(what, sql string, n int) {
	c.t.Helper()
	c.until(what, sql, json.RawMessage(fmt.Sprintf(`[{"n":%d}]`, n)))
}

func (c *sdkClient) status() (s sdkStatus) {
	c.t.Helper()
	c.call("status", nil, &s)
	return s
}

// history returns the statuses since the last call.
func (c *sdkClient) history() (list []sdkStatus) {
	c.t.Helper()
	c.call("history", nil, &list)
	return list
}
