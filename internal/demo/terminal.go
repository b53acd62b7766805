package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
)

// maxEvent bounds one event of a terminal client: a list of every note.
const maxEvent = 64 << 20 // bytes

// A Note is a row of greeting as a client has it.
type Note struct {
	ID      string `json:"id"`
	Owner   string `json:"owner"`
	Message string `json:"message"`
}

// A Status is what the SDK says of its connection.
type Status struct {
	Connected     bool    `json:"connected"`
	Connecting    bool    `json:"connecting"`
	Downloading   bool    `json:"downloading"`
	Uploading     bool    `json:"uploading"`
	Synced        bool    `json:"synced"`
	DownloadError *string `json:"download_error"`
	UploadError   *string `json:"upload_error"`
}

// A State is where a client's own writes stand.
type State struct {
	Queued    int    `json:"queued"`    // not uploaded yet
	Confirmed bool   `json:"confirmed"` // all uploaded, and their write checkpoint has come back
	Target    string `json:"target"`    // write checkpoint waited for
	Applied   string `json:"applied"`   // newest write checkpoint seen
}

// A View is what a client has shown so far, unasked.
type View struct {
	Status   Status
	Notes    map[string]Note
	Rejected []string // ids of the rows whose writes the backend refused
}

// Terminal is a running terminal client, driven through its JSON lines. Do, List
// and State may be used by one goroutine at a time.
type Terminal struct {
	process *Process
	answers chan answer // one for each command, in order

	mu      sync.Mutex
	view    View
	changed chan struct{} // closed, and replaced, when view changes
	read    error         // why reading its events ended
}

type answer struct {
	Event   string `json:"event"` // done or failed
	Message string `json:"message"`
	ID      string `json:"id"`
	Notes   []Note `json:"notes"`
	State
}

// StartTerminal runs the terminal client as a user, with more arguments if need be.
// Its local database is at database, and may be there from an earlier run.
func (s *Stack) StartTerminal(user, database string, args ...string) (*Terminal, error) {
	p, err := Start(Program{
		Name: "terminal client of " + user,
		Path: s.config.Terminal,
		Args: append([]string{"--json", "--user", user, "--backend", s.BackendURL(), "--database", database, "--retry-ms", "500"}, args...),
		Log:  s.log("terminal"), Piped: true,
	})
	if err != nil {
		return nil, err
	}
	t := &Terminal{
		process: p,
		answers: make(chan answer, 1),
		view:    View{Notes: map[string]Note{}},
		changed: make(chan struct{}),
	}
	go t.follow(p.Stdout)
	return t, nil
}

// follow reads events until the client ends.
func (t *Terminal) follow(stdout io.ReadCloser) {
	defer stdout.Close()
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, maxEvent)
	var err error
	for err == nil && lines.Scan() {
		err = t.event(lines.Bytes())
	}
	if err = errors.Join(err, lines.Err()); err == nil {
		err = io.EOF
	}
	t.update(func() { t.read = err })
	close(t.answers)
}

func (t *Terminal) event(line []byte) error {
	var e struct {
		Event   string   `json:"event"`
		Added   []Note   `json:"added"`
		Updated []Note   `json:"updated"`
		Removed []string `json:"removed"`
		ID      string   `json:"id"`
	}
	if err := json.Unmarshal(line, &e); err != nil {
		return fmt.Errorf("event %.200q: %w", line, err)
	}
	switch e.Event {
	case "done", "failed":
		var a answer
		if err := json.Unmarshal(line, &a); err != nil {
			return fmt.Errorf("event %.200q: %w", line, err)
		}
		t.answers <- a
	case "status":
		var s Status
		if err := json.Unmarshal(line, &s); err != nil {
			return fmt.Errorf("event %.200q: %w", line, err)
		}
		t.update(func() { t.view.Status = s })
	case "changes":
		t.update(func() {
			for _, n := range append(e.Added, e.Updated...) {
				t.view.Notes[n.ID] = n
			}
			for _, id := range e.Removed {
				delete(t.view.Notes, id)
			}
		})
	case "rejected":
		t.update(func() { t.view.Rejected = append(t.view.Rejected, e.ID) })
	default:
		return fmt.Errorf("event %.200q: unknown", line)
	}
	return nil
}

func (t *Terminal) update(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f()
	close(t.changed)
	t.changed = make(chan struct{})
}

// Wait returns once ok holds for what the client shows; what says for what it
// waits. ok must not keep the view.
func (t *Terminal) Wait(ctx context.Context, what string, ok func(View) bool) error {
	for {
		t.mu.Lock()
		holds, changed, ended := ok(t.view), t.changed, t.read
		shown := t.view
		shown.Notes = maps.Clone(shown.Notes)
		t.mu.Unlock()
		if holds {
			return nil
		}
		if ended != nil {
			return fmt.Errorf("wait for the client until %s: it ended: %w%s", what, ended, t.process.logTail())
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for the client until %s: %w; it shows %d notes, %s", what, ctx.Err(), len(shown.Notes), shown.Status)
		}
	}
}

func (s Status) String() string {
	b, err := json.Marshal(s)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// do sends one command and waits for its answer.
func (t *Terminal) do(ctx context.Context, command string) (answer, error) {
	if strings.ContainsAny(command, "\r\n") {
		return answer{}, fmt.Errorf("command %q: one line only", command)
	}
	if _, err := io.WriteString(t.process.Stdin, command+"\n"); err != nil {
		return answer{}, fmt.Errorf("command %.100q: %w%s", command, err, t.process.logTail())
	}
	select {
	case a, ok := <-t.answers:
		switch {
		case !ok:
			return answer{}, fmt.Errorf("command %.100q: the client ended: %w%s", command, t.readError(), t.process.logTail())
		case a.Event == "failed":
			return answer{}, fmt.Errorf("command %.100q: %s", command, a.Message)
		}
		return a, nil
	case <-ctx.Done():
		return answer{}, fmt.Errorf("command %.100q: %w", command, ctx.Err())
	}
}

// Add writes a note locally and returns its id.
func (t *Terminal) Add(ctx context.Context, message string) (id string, err error) {
	a, err := t.do(ctx, "add "+message)
	return a.ID, err
}

// Edit changes a note's text locally.
func (t *Terminal) Edit(ctx context.Context, id, message string) error {
	_, err := t.do(ctx, "edit "+id+" "+message)
	return err
}

// Delete deletes a note locally.
func (t *Terminal) Delete(ctx context.Context, id string) error {
	_, err := t.do(ctx, "delete "+id)
	return err
}

// List returns the notes in the local database, by id.
func (t *Terminal) List(ctx context.Context) (map[string]Note, error) {
	a, err := t.do(ctx, "list")
	if err != nil {
		return nil, err
	}
	notes := make(map[string]Note, len(a.Notes))
	for _, n := range a.Notes {
		notes[n.ID] = n
	}
	return notes, nil
}

// State returns where the client's own writes stand.
func (t *Terminal) State(ctx context.Context) (State, error) {
	a, err := t.do(ctx, "state")
	return a.State, err
}

// Disconnect stops syncing; Connect starts it again.
func (t *Terminal) Disconnect(ctx context.Context) error {
	_, err := t.do(ctx, "disconnect")
	return err
}

// Connect starts syncing.
func (t *Terminal) Connect(ctx context.Context) error {
	_, err := t.do(ctx, "connect")
	return err
}

// Close ends the client and waits for it.
func (t *Terminal) Close() error {
	// At the end of its input the client quits.
	err := errors.Join(t.process.Stdin.Close(), t.process.waitQuit())
	for range t.answers { // an answer that nobody waited for; closed when follow has ended
	}
	return err
}

// readError returns why reading the client's events ended.
func (t *Terminal) readError() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.read
}
