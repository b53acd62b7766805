package attachments

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-sync/millrace/client"
)

// bucket is a Remote in memory.
type bucket struct {
	mu    sync.Mutex
	files map[string]string
	fail  error
	tries int
}

func (b *bucket) try() error {
	b.tries++
	return b.fail
}

func (b *bucket) Upload(_ context.Context, a Attachment, file io.Reader) error {
	text, err := io.ReadAll(file)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.try(); err != nil {
		return err
	}
	b.files[a.Filename] = string(text)
	return nil
}

var errAbsent = errors.New("no such file in the bucket")

func (b *bucket) Download(_ context.Context, a Attachment) (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.try(); err != nil {
		return nil, err
	}
	text, ok := b.files[a.Filename]
	if !ok {
		return nil, errAbsent
	}
	return io.NopCloser(strings.NewReader(text)), nil
}

func (b *bucket) Delete(_ context.Context, a Attachment) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.try(); err != nil {
		return err
	}
	delete(b.files, a.Filename)
	return nil
}

func (b *bucket) set(fail error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail = fail
}

func (b *bucket) tried() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tries
}

func (b *bucket) has(name string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.files[name]
}

// scene is a queue at work in fake time.
type scene struct {
	t      *testing.T
	db     *client.DB
	q      *Queue
	remote *bucket
	dir    string
	stop   func() error
}

func play(t *testing.T, opts Options, test func(t *testing.T, s *scene)) {
	synctest.Test(t, func(t *testing.T) {
		s := &scene{t: t, remote: &bucket{files: map[string]string{}}, dir: filepath.Join(t.TempDir(), "files")}
		quiet := slog.New(slog.DiscardHandler)
		var err error
		s.db, err = client.Open(t.Context(), filepath.Join(t.TempDir(), "a.db"), client.Schema{Tables: []client.Table{
			Table(), {Name: "users", Columns: []client.Column{client.Text("photo"), client.Text("kind")}},
		}}, &client.Options{Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		opts.Local, opts.Remote, opts.Logger = Dir(s.dir), s.remote, quiet
		opts.Query = `SELECT photo AS id, photo || '.jpg' AS filename, kind AS media_type FROM users`
		if s.q, err = New(s.db, opts); err != nil {
			t.Fatal(err)
		}
		s.run()
		test(t, s)
		if err := s.stop(); !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
		if err := s.db.Close(); err != nil {
			t.Error(err)
		}
	})
}

func (s *scene) run() {
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() { done <- s.q.Run(ctx) }()
	s.stop = func() error { cancel(); return <-done }
	s.settle()
}

// settle lets what is going on come to rest, short of the next attempt.
func (s *scene) settle() { time.Sleep(time.Second); synctest.Wait() }

func (s *scene) exec(sql string, args ...any) {
	s.t.Helper()
	if _, err := s.db.ExecContext(s.t.Context(), sql, args...); err != nil {
		s.t.Fatal(err)
	}
	s.settle()
}

func (s *scene) save(id, text string) Attachment {
	s.t.Helper()
	a, err := s.q.Save(s.t.Context(), File{ID: id, Extension: "jpg", MediaType: "image/jpeg"}, strings.NewReader(text),
		func(tx *sql.Tx, a Attachment) error {
			_, err := tx.Exec(`INSERT INTO users(id, photo) VALUES (uuid(), ?)`, a.ID)
			return err
		})
	if err != nil {
		s.t.Fatal(err)
	}
	s.settle()
	return a
}

// expect compares an attachment's state and local file; state -1 is none.
func (s *scene) expect(id string, state State, text string) {
	s.t.Helper()
	a, err := s.q.Get(s.t.Context(), id)
	if errors.Is(err, ErrUnknown) {
		a.State, err = -1, nil
	}
	if err != nil || a.State != state {
		s.t.Errorf("attachment %s is %+v, %v; want state %d", id, a, err, state)
	}
	got, err := os.ReadFile(filepath.Join(s.dir, id+".jpg"))
	if err != nil && !errors.Is(err, os.ErrNotExist) || string(got) != text {
		s.t.Errorf("file of %s holds %q, %v; want %q", id, got, err, text)
	}
}

func TestUpload(t *testing.T) {
	play(t, Options{}, func(t *testing.T, s *scene) {
		s.remote.set(errors.New("offline"))
		a := s.save("p", "picture")
		if a.Size != 7 || a.Filename != "p.jpg" {
			t.Errorf("saved %+v", a)
		}
		s.expect("p", QueuedUpload, "picture")
		tries := s.remote.tried()
		time.Sleep(5 * time.Minute)
		if n := s.remote.tried() - tries; n < 9 || n > 11 {
			t.Errorf("%d attempts in five minutes", n)
		}
		s.remote.set(nil)
		time.Sleep(31 * time.Second)
		s.settle()
		s.expect("p", Synced, "picture")
		if got := s.remote.has("p.jpg"); got != "picture" {
			t.Errorf("remote has %q", got)
		}
		file, err := s.q.Open(t.Context(), "p")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if text, err := io.ReadAll(file); err != nil || string(text) != "picture" {
			t.Errorf("read %q, %v", text, err)
		}
	})
}

func TestSaveFails(t *testing.T) {
	play(t, Options{}, func(t *testing.T, s *scene) {
		fail := errors.New("no")
		_, err := s.q.Save(t.Context(), File{ID: "p", Extension: "jpg"}, strings.NewReader("x"), func(*sql.Tx, Attachment) error { return fail })
		if !errors.Is(err, fail) {
			t.Errorf("got %v", err)
		}
		s.expect("p", -1, "")
		_, err = s.q.Save(t.Context(), File{ID: "../p"}, strings.NewReader("x"), nil)
		if !errors.Is(err, ErrName) {
			t.Errorf("got %v", err)
		}
		broken := io.MultiReader(bytes.NewReader(make([]byte, 1000)), failing{fail})
		if _, err := s.q.Save(t.Context(), File{ID: "p", Extension: "jpg"}, broken, nil); !errors.Is(err, fail) {
			t.Errorf("got %v", err)
		}
		if left, _ := filepath.Glob(filepath.Join(s.dir, "*")); len(left)+len(glob(s.dir, ".*")) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
}

func glob(dir, pattern string) []string {
	found, _ := filepath.Glob(filepath.Join(dir, pattern))
	return found
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestDownload(t *testing.T) {
	play(t, Options{}, func(t *testing.T, s *scene) {
		s.remote.files["q.jpg"] = "theirs"
		s.exec(`INSERT INTO users(id, photo, kind) VALUES ('1', 'q', 'image/jpeg'), ('2', NULL, NULL), ('3', 'q', NULL), ('4', 'late', NULL)`)
		s.expect("q", Synced, "theirs")
		s.expect("late", QueuedDownload, "")
		if a, _ := s.q.Get(t.Context(), "q"); a.MediaType != "image/jpeg" || a.Size != 6 || !a.HasSynced {
			t.Errorf("attachment %+v", a)
		}
		if _, err := s.q.Open(t.Context(), "late"); err == nil || !strings.Contains(err.Error(), "not been downloaded") {
			t.Errorf("got %v", err)
		}
		s.remote.mu.Lock()
		s.remote.files["late.jpg"] = "at last"
		s.remote.mu.Unlock()
		time.Sleep(31 * time.Second)
		s.settle()
		s.expect("late", Synced, "at last")
		// Named no more, it is kept; named again, it is there.
		s.exec(`DELETE FROM users WHERE photo = 'q'`)
		s.expect("q", Archived, "theirs")
		s.exec(`INSERT INTO users(id, photo) VALUES ('5', 'q')`)
		s.expect("q", Synced, "theirs")
	})
}

func TestDelete(t *testing.T) {
	play(t, Options{}, func(t *testing.T, s *scene) {
		s.save("p", "picture")
		s.remote.set(errors.New("offline"))
		err := s.q.Delete(t.Context(), "p", func(tx *sql.Tx, a Attachment) error {
			_, err := tx.Exec(`DELETE FROM users WHERE photo = ?`, a.ID)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		s.settle()
		s.expect("p", QueuedDelete, "picture")
		s.remote.set(nil)
		time.Sleep(31 * time.Second)
		s.settle()
		s.expect("p", -1, "")
		if got := s.remote.has("p.jpg"); got != "" {
			t.Errorf("remote has %q", got)
		}
		if err := s.q.Delete(t.Context(), "p", nil); !errors.Is(err, ErrUnknown) {
			t.Errorf("got %v", err)
		}
	})
}

// Of files that no row names the newest are kept.
func TestExpire(t *testing.T) {
	play(t, Options{Keep: 2}, func(t *testing.T, s *scene) {
		for i := range 4 {
			s.save(fmt.Sprint("p", i), "x")
		}
		for i := range 4 {
			s.exec(`DELETE FROM users WHERE photo = ?`, fmt.Sprint("p", i))
		}
		s.expect("p0", -1, "")
		s.expect("p1", -1, "")
		s.expect("p2", Archived, "x")
		s.expect("p3", Archived, "x")
		if err := s.q.Expire(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.expect("p3", -1, "")
	})
}

func TestGiveUp(t *testing.T) {
	play(t, Options{Retry: func(_ Attachment, err error) bool { return !errors.Is(err, errAbsent) }}, func(t *testing.T, s *scene) {
		s.exec(`INSERT INTO users(id, photo) VALUES ('1', 'never')`)
		// It holds nothing, so it is not kept beyond the limit either; it is not tried again.
		tries := s.remote.tried()
		time.Sleep(5 * time.Minute)
		s.settle()
		if s.remote.tried() != tries {
			t.Errorf("tried %d times more", s.remote.tried()-tries)
		}
		s.expect("never", Archived, "")
	})
}

// Files that have gone from the device come again, if they were ever uploaded.
func TestVerify(t *testing.T) {
	play(t, Options{}, func(t *testing.T, s *scene) {
		s.save("p", "picture")
		s.remote.set(errors.New("offline"))
		s.save("lost", "never uploaded")
		if err := s.stop(); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if err := os.RemoveAll(s.dir); err != nil {
			t.Fatal(err)
		}
		s.remote.set(nil)
		s.run()
		s.expect("p", Synced, "picture")
		s.expect("lost", QueuedDownload, "")
		if err := s.stop(); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if err := s.q.Clear(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.expect("p", -1, "")
		s.run()
	})
}

func TestMistakes(t *testing.T) {
	if _, err := New(nil, Options{}); err == nil {
		t.Error("a queue without anything")
	}
	play(t, Options{}, func(t *testing.T, s *scene) {
		q, err := New(s.db, Options{Local: Dir(s.dir), Remote: s.remote, Query: `SELECT nope FROM users`})
		if err != nil {
			t.Fatal(err)
		}
		if err := q.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "no such column") {
			t.Errorf("got %v", err)
		}
	})
}
