//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestScreen drives the terminal client by keys, as a person does.
func TestScreen(t *testing.T) {
	s := startStack(t)
	db := connect(t, s)
	exec1(t, db, "INSERT INTO greeting (owner, message) VALUES ('ann', E'colour \\x1b[31m and\\nlines')")
	p := openScreen(t, terminal, "--user", "ann", "--backend", s.BackendURL(), "--database", filepath.Join(t.TempDir(), "ann.db"))

	p.until(t, "notes of ann · connected", "› colour ·[31m and·lines", "q quit")
	p.keys(t, "a")
	p.until(t, "new note: ")
	p.keys(t, "typed by hannd\x7f\x7fd\r")
	p.until(t, "  typed by hand")
	rows := func(want string) {
		t.Helper()
		eventually(t, "Postgres holds "+want, func() (bool, string) {
			var got string
			err := db.QueryRow(t.Context(), "SELECT coalesce(string_agg(message, ',' ORDER BY created_at, id), '') FROM greeting WHERE message NOT LIKE 'colour%'").Scan(&got)
			return err == nil && got == want, fmt.Sprint(got, err)
		})
	}
	rows("typed by hand")
	p.until(t, "all uploaded")

	p.keys(t, "\x1b[B") // down
	p.until(t, "› typed by hand")
	p.keys(t, "e")
	p.until(t, "text: typed by hand")
	p.keys(t, "!\r")
	rows("typed by hand!")
	p.until(t, "› typed by hand!")
	p.keys(t, "d")
	rows("")
	p.keys(t, "a")
	p.until(t, "new note: ")
	p.keys(t, "never mind")
	p.until(t, "new note: never mind")
	p.keys(t, "\x1b") // escape
	eventually(t, "the input is left", func() (bool, string) {
		picture, _ := p.shown()
		return strings.Contains(picture, "q quit") && !strings.Contains(picture, "new note: "), picture
	})
	p.keys(t, "q")
	select {
	case <-p.done:
	case <-patient(t).Done():
		picture, _ := p.shown()
		t.Fatalf("it does not quit:\n%s", picture)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Error(err)
	}
	screen := p.all()
	if strings.Contains(screen, "\x1b[31m") {
		t.Error("a note's control characters reach the terminal")
	}
	if !strings.HasSuffix(screen, "\x1b[?25h\x1b[?1049l") {
		t.Errorf("the terminal is not given back: the output ends in %q", screen[max(0, len(screen)-40):])
	}
	rows("")
}

// screen is a program on a terminal of its own.
type screen struct {
	cmd    *exec.Cmd
	master *os.File
	done   chan struct{} // closed when its output has ended

	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{} // closed, and replaced, when there is more text
}

func openScreen(t *testing.T, path string, args ...string) *screen {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 100}); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	p := &screen{cmd: exec.Command(path, args...), master: master, done: make(chan struct{}), changed: make(chan struct{})}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = slave, slave, slave
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// It has ended already, unless the test failed.
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
			<-p.done
		}
	})
	go p.follow()
	return p
}

// follow reads the screen until the program ends.
func (p *screen) follow() {
	defer close(p.done)
	buffer := make([]byte, 64<<10)
	for {
		n, err := p.master.Read(buffer)
		p.mu.Lock()
		p.text.Write(buffer[:n])
		close(p.changed)
		p.changed = make(chan struct{})
		p.mu.Unlock()
		if err != nil {
			return // EIO: no program has the terminal open any more
		}
	}
}

// all returns everything written to the screen so far.
func (p *screen) all() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// shown returns the newest whole picture: the client draws each from the top left.
func (p *screen) shown() (string, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := p.text.String()
	if end := strings.LastIndex(text, "\x1b[J"); end >= 0 {
		text = text[:end]
	}
	return text[max(0, strings.LastIndex(text, "\x1b[H")):], p.changed
}

// until waits for a picture that holds all the parts.
func (p *screen) until(t *testing.T, parts ...string) {
	t.Helper()
	ctx := patient(t)
	for {
		picture, changed := p.shown()
		missing := ""
		for _, part := range parts {
			if !strings.Contains(picture, part) {
				missing = part
			}
		}
		if missing == "" {
			return
		}
		select {
		case <-changed:
		case <-p.done:
			t.Fatalf("it ended before it showed %q:\n%q", missing, picture)
		case <-ctx.Done():
			t.Fatalf("it does not show %q:\n%s", missing, picture)
		}
	}
}

func (p *screen) keys(t *testing.T, keys string) {
	t.Helper()
	if _, err := p.master.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}
