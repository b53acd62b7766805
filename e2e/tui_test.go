//go:build linux

package e2e

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/charmbracelet/x/vt"
)

// display shows what a program on a terminal has drawn, and answers its questions about it.
type display struct {
	*screen
	emulator *vt.SafeEmulator
	drawn    int // bytes of the screen's text that the emulator has
}

func openDisplay(t *testing.T, path string, args ...string) *display {
	t.Helper()
	d := &display{screen: openScreen(t, path, args...), emulator: vt.NewSafeEmulator(100, 24)}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		_, _ = io.Copy(d.master, d.emulator) // until the emulator closes
	}()
	t.Cleanup(func() {
		if err := d.emulator.Close(); err != nil {
			t.Error(err)
		}
		<-answered
	})
	return d
}

// picture returns the screen as a person sees it.
func (d *display) picture(t *testing.T) string {
	t.Helper()
	text := d.all()
	if _, err := d.emulator.Write([]byte(text[d.drawn:])); err != nil {
		t.Fatal(err)
	}
	d.drawn = len(text)
	return d.emulator.String()
}

func (d *display) shows(t *testing.T, parts ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("the screen shows %q", parts), func() (bool, string) {
		picture := d.picture(t)
		for _, part := range parts {
			if !strings.Contains(picture, part) {
				return false, picture
			}
		}
		return true, picture
	})
}

// TestTUI drives the Go terminal client by keys, as a person does: online, with the
// backend away, and after a restart.
func TestTUI(t *testing.T) {
	s := startStack(t)
	db := connect(t, s)
	exec1(t, db, "INSERT INTO greeting (owner, message) VALUES ('ann', E'colour \\x1b[31m and\\nlines')")
	args := []string{"-user", "ann", "-backend", s.BackendURL(), "-database", filepath.Join(t.TempDir(), "ann.db")}
	d := openDisplay(t, filepath.Join(bin, "notes-tui"), args...)
	rows := func(want string) {
		t.Helper()
		eventually(t, "Postgres holds "+want, func() (bool, string) {
			var got string
			err := db.QueryRow(t.Context(), "SELECT coalesce(string_agg(message, ',' ORDER BY created_at, id), '') FROM greeting WHERE message NOT LIKE 'colour%'").Scan(&got)
			return err == nil && got == want, fmt.Sprint(got, err)
		})
	}

	d.shows(t, "notes of ann", "● connected", "synced ", "colour ·[31m and·lines", "1 note", "q quit")
	d.keys(t, "a")
	d.shows(t, "new note:")
	d.keys(t, "typed by hannd\x7f\x7fd\r")
	d.shows(t, "typed by hand", "2 notes")
	rows("typed by hand")
	d.shows(t, "all uploaded")
	exec1(t, db, "UPDATE greeting SET message = 'from Postgres' WHERE message = 'typed by hand'")
	d.shows(t, "from Postgres")

	if err := s.StopBackend(); err != nil {
		t.Fatal(err)
	}
	d.keys(t, "\x1b[B") // down
	d.keys(t, "d")
	d.shows(t, "1 note", "1 to upload")
	rows("from Postgres")
	d.keys(t, "q")
	select {
	case <-d.done:
	case <-patient(t).Done():
		t.Fatalf("it does not quit:\n%s", d.picture(t))
	}
	if err := d.cmd.Wait(); err != nil {
		t.Error(err)
	}
	if screen := d.all(); strings.Contains(screen, "colour \x1b[31m") || !strings.Contains(screen, "\x1b[?1049l") {
		t.Errorf("the terminal is not given back: the output ends in %q", screen[max(0, len(screen)-60):])
	}

	// The delete is in the file, and goes up once there is a backend.
	d = openDisplay(t, filepath.Join(bin, "notes-tui"), args...)
	d.shows(t, "1 note", "1 to upload")
	if err := s.StartBackend(t.Context()); err != nil {
		t.Fatal(err)
	}
	rows("")
	d.shows(t, "● connected", "all uploaded")
	d.keys(t, "o")
	d.shows(t, "○ offline")
	d.keys(t, "q")
	select {
	case <-d.done:
	case <-patient(t).Done():
		t.Fatalf("it does not quit:\n%s", d.picture(t))
	}
	if err := d.cmd.Wait(); err != nil {
		t.Error(err)
	}
}
