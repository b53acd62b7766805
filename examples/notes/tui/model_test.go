package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/millrace-sync/millrace/client"
)

// signedOut is a connector of somebody who never gets a connection.
type signedOut struct{}

func (signedOut) FetchCredentials(context.Context) (client.Credentials, error) {
	return client.Credentials{}, client.ErrSignedOut
}
func (signedOut) UploadData(context.Context, *client.DB) error { return client.ErrSignedOut }

// seat is a model whose commands run at once, on a database of its own.
type seat struct {
	t *testing.T
	m *model
}

func sit(t *testing.T) *seat {
	db, err := client.Open(t.Context(), filepath.Join(t.TempDir(), "a.db"), schema, &client.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &seat{t, newModel(t.Context(), &notes{db: db, user: "ann", connector: signedOut{}})}
	s.send(tea.WindowSizeMsg{Width: 80, Height: 24})
	s.refresh()
	return s
}

func (s *seat) send(msg tea.Msg) {
	s.t.Helper()
	_, cmd := s.m.Update(msg)
	if cmd == nil {
		return
	}
	switch msg := cmd().(type) {
	case failedMsg:
		s.send(msg)
	case tea.QuitMsg:
		s.m.said = "quit"
	}
}

// keys presses keys; names in <> are those of special ones.
func (s *seat) keys(text string) {
	s.t.Helper()
	special := map[string]rune{"enter": tea.KeyEnter, "esc": tea.KeyEscape, "up": tea.KeyUp, "down": tea.KeyDown, "back": tea.KeyBackspace}
	for text != "" {
		if name, rest, ok := strings.Cut(text[1:], ">"); text[0] == '<' && ok {
			s.send(tea.KeyPressMsg{Code: special[name]})
			text = rest
			continue
		}
		r := []rune(text)[0]
		s.send(tea.KeyPressMsg{Code: r, Text: string(r)})
		text = text[len(string(r)):]
	}
	s.refresh()
}

// refresh hands over what the followers would.
func (s *seat) refresh() {
	s.t.Helper()
	all, err := client.GetAll[note](s.t.Context(), s.m.notes.db, listing)
	if err != nil {
		s.t.Fatal(err)
	}
	s.send(notesMsg(all))
	stats, err := s.m.notes.db.UploadQueueStats(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	s.send(queueMsg(stats.Count))
}

func (s *seat) screen() string { return ansi.Strip(s.m.View().Content) }

func (s *seat) shows(parts ...string) {
	s.t.Helper()
	for _, p := range parts {
		if !strings.Contains(s.screen(), p) {
			s.t.Errorf("the screen lacks %q:\n%s", p, s.screen())
		}
	}
}

func (s *seat) lacks(part string) {
	s.t.Helper()
	if strings.Contains(s.screen(), part) {
		s.t.Errorf("the screen shows %q:\n%s", part, s.screen())
	}
}

func (s *seat) rows(want string) {
	s.t.Helper()
	all, err := client.GetAll[string](s.t.Context(), s.m.notes.db, `SELECT message FROM greeting ORDER BY created_at, id`)
	if err != nil || strings.Join(all, ",") != want {
		s.t.Errorf("notes %q, %v; want %q", all, err, want)
	}
}

func TestKeys(t *testing.T) {
	s := sit(t)
	s.shows("notes of ann", "never synced", "all uploaded", "No notes", "a add", "q quit")
	s.keys("ed") // without a note
	s.rows("")
	s.keys("amilk<enter>")
	s.shows("milk", "ann · 20", "1 to upload", "1 note")
	s.keys("abread <back>s")
	s.shows("new note: breads")
	s.keys("<esc>")
	s.lacks("breads")
	s.keys("abread<enter>")
	s.rows("milk,bread")
	s.keys("<down>e!<enter>")
	s.rows("milk,bread!")
	s.keys("a  <enter>")
	s.shows("a note needs a text")
	s.keys("/mil<enter>")
	s.lacks("bread")
	s.keys("<esc>")
	s.shows("bread!")
	s.keys("<up>d")
	s.rows("bread!")
	s.lacks("milk")
	s.shows("4 to upload")
	s.keys("q")
	s.shows("quit")
}

// What happens elsewhere does not move the selection away from its note.
func TestSelection(t *testing.T) {
	s := sit(t)
	s.send(notesMsg{{ID: "1", Message: "one"}, {ID: "2", Message: "two"}})
	s.send(tea.KeyPressMsg{Code: tea.KeyDown})
	s.send(notesMsg{{ID: "0", Message: "zero"}, {ID: "1", Message: "one"}, {ID: "2", Message: "two"}})
	if n, _ := s.m.selected(); n.ID != "2" {
		t.Errorf("selected %+v", n)
	}
	s.send(notesMsg{{ID: "0", Message: "zero"}})
	if n, _ := s.m.selected(); n.ID != "0" {
		t.Errorf("selected %+v", n)
	}
	s.send(notesMsg{{ID: "0", Message: "red \x1b[31m\nand\x07 more"}})
	s.shows("red ·[31m·and· more")
}

func TestStatusLines(t *testing.T) {
	s := sit(t)
	at := time.Now()
	for _, tc := range []struct {
		status client.Status
		want   []string
	}{
		{client.Status{}, []string{"○ not connected", "never synced"}},
		{client.Status{Connecting: true}, []string{"◌ connecting"}},
		{client.Status{Connected: true, Download: []client.Progress{{Priority: 1, Total: 10, Downloaded: 10}, {Priority: 3, Total: 30, Downloaded: 10}}}, []string{"● connected", "20 of 40", "50%"}},
		{client.Status{Connected: true, LastSyncedAt: at}, []string{"synced " + at.Format("15:04:05")}},
		{client.Status{DownloadError: errors.New("no\nnetwork")}, []string{"no·network"}},
		{client.Status{UploadError: errors.New("backend away"), Uploading: true}, []string{"backend away"}},
	} {
		s.send(statusMsg(tc.status))
		s.shows(tc.want...)
	}
	s.send(queueMsg(3))
	s.shows("uploading 3")
	s.send(rejectedMsg(client.Rejection{Reason: "not yours"}))
	s.shows("refused by the backend: not yours")
	s.keys("o")
	s.shows("○ offline")
	s.lacks("backend away")
	s.keys("o")
	s.lacks("○ offline")
	s.send(statusMsg(client.Status{DownloadError: errors.New(strings.Repeat("x", 500))}))
	for i, line := range strings.Split(s.screen(), "\n") {
		if n := ansi.StringWidth(line); n > 80 {
			t.Errorf("line %d is %d wide: %q", i, n, line)
		}
	}
	if n := strings.Count(s.screen(), "\n"); n > 23 {
		t.Errorf("%d lines", n+1)
	}
}

// The followers tell of each change, and end with their context.
func TestFollow(t *testing.T) {
	s := sit(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	news := make(chan tea.Msg)
	send := func(m tea.Msg) {
		select {
		case news <- m:
		case <-ctx.Done():
		}
	}
	n := s.m.notes
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, follow := range []func(context.Context, func(tea.Msg)){n.followNotes, n.followQueue, n.followStatus} {
		wg.Go(func() { follow(ctx, send) })
	}
	if err := n.add(ctx, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := n.connect(); err != nil {
		t.Fatal(err)
	}
	var notes, queue, status bool
	for !notes || !queue || !status {
		select {
		case m := <-news:
			switch m := m.(type) {
			case notesMsg:
				notes = notes || len(m) == 1
			case queueMsg:
				queue = queue || m == 1
			case statusMsg:
				status = status || errors.Is(m.DownloadError, client.ErrSignedOut)
			}
		case <-ctx.Done():
			t.Fatalf("told of notes: %v, queue: %v, status: %v", notes, queue, status)
		}
	}
}

func TestOptions(t *testing.T) {
	env := func(name string) string { return map[string]string{"NOTES_USER": "ann"}[name] }
	none := func(string) string { return "" }
	o, err := parseOptions(nil, env, io.Discard)
	if want := (options{"ann", "http://127.0.0.1:6060", "notes-ann.db"}); err != nil || o != want {
		t.Errorf("got %+v, %v", o, err)
	}
	for args, want := range map[string]string{
		"": "-user is missing", "-user a b": `unexpected argument "b"`, "-user a -backend ftp://x": "no http or https URL", "-nope": "not defined",
	} {
		if _, err := parseOptions(strings.Fields(args), none, io.Discard); err == nil || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%q: got %v, want %q", args, err, want)
		}
	}
}
