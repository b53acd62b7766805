package client

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/millrace-sync/millrace/client/internal/local"
)

// bigRow returns a checkpoint of one row of some size, and its lines.
func bigRow(size int) []string {
	return []string{
		`{"checkpoint":{"last_op_id":"2","buckets":[{"bucket":"b","checksum":12,"count":2}],"streams":[]}}`,
		fmt.Sprintf(`{"data":{"bucket":"b","data":[{"op_id":"2","op":"PUT","object_type":"todos","object_id":"y","checksum":7,"data":"{\"title\":\"%s\"}"}]}}`, strings.Repeat("x", size)),
		`{"checkpoint_complete":{"last_op_id":"2"}}`,
	}
}

// A disk that is full, here by a limit that SQLite reports in the same way, stops what is to be
// written and nothing else. Once there is room, the download goes on by itself.
func TestDiskFull(t *testing.T) {
	scripted(t, &user{}, func(t *testing.T, d *DB, p *peer) {
		limit := func(pages string) {
			t.Helper()
			if got := dump(t, d, `PRAGMA max_page_count = `+pages); len(got) != 1 {
				t.Fatal(got)
			}
		}
		s := <-p.streams
		s.send(t, oneBucket, oneRow, complete1)
		limit("1") // SQLite makes it what the database has
		for _, l := range bigRow(100_000) {
			_, _ = io.WriteString(s.out, l+"\n") // it may not read to the end
		}
		synctest.Wait()
		if st := d.Status(); !errors.Is(st.DownloadError, ErrDiskFull) || st.Connected {
			t.Errorf("status: %+v", st)
		}
		big := strings.Repeat("y", 100_000)
		if _, err := d.ExecContext(t.Context(), `INSERT INTO todos(id, title) VALUES ('z', ?)`, big); !errors.Is(err, ErrDiskFull) {
			t.Errorf("a write: %v", err)
		}
		err := d.WriteTx(t.Context(), func(tx *sql.Tx) error {
			_, err := tx.Exec(`INSERT INTO todos(id, title) VALUES ('z', ?)`, big)
			return err
		})
		if !errors.Is(err, ErrDiskFull) {
			t.Errorf("a transaction: %v", err)
		}
		if got := titles(t, d); got != "milk" || queued(t, d) != "" {
			t.Errorf("rows %q, queue %q", got, queued(t, d))
		}
		limit("1000000")
		s = <-p.streams
		s.send(t, bigRow(100_000)...)
		if st := d.Status(); st.DownloadError != nil || !st.Connected || len(titles(t, d)) != 100_000+len("milk,") {
			t.Errorf("afterwards: %d characters, status %+v", len(titles(t, d)), st)
		}
	})
}

// So does a file that somebody else keeps locked.
func TestLockedFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "ours.db")
		d, err := Open(t.Context(), file, todos, &Options{Logger: slog.New(slog.DiscardHandler), LockTimeout: 100 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		p := &peer{t: t, streams: make(chan *peerStream)}
		if err := d.Connect(&user{}, &ConnectOptions{Client: &http.Client{Transport: p}}); err != nil {
			t.Fatal(err)
		}
		s := <-p.streams
		s.send(t, oneBucket, oneRow, complete1)
		other, err := sqlite3.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Exec(`BEGIN IMMEDIATE`); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(s.out, bigRow(10)[0]+"\n")
		time.Sleep(time.Second)
		synctest.Wait()
		if st := d.Status(); !errors.Is(st.DownloadError, ErrLocked) {
			t.Errorf("status: %+v", st)
		}
		if _, err := d.ExecContext(t.Context(), `DELETE FROM todos`); !errors.Is(err, ErrLocked) {
			t.Errorf("a write: %v", err)
		}
		if got := titles(t, d); got != "milk" {
			t.Errorf("rows %q", got)
		}
		if err := errors.Join(other.Exec(`ROLLBACK`), other.Close()); err != nil {
			t.Fatal(err)
		}
		s = <-p.streams
		s.send(t, bigRow(10)...)
		if st := d.Status(); st.DownloadError != nil || titles(t, d) != "milk,xxxxxxxxxx" {
			t.Errorf("afterwards: rows %q, status %+v", titles(t, d), st)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A damaged file is named as such when it is opened, read or synced into, and is left as it is.
func TestDamagedFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.db")
	d := openDB(t, file, todos)
	for i := range 200 {
		mustExec(t, d, `INSERT INTO todos(id, title) VALUES (?, ?)`, fmt.Sprint(i), strings.Repeat("x", 500))
	}
	root := dump(t, d, `SELECT rootpage FROM sqlite_master WHERE name = 'ps_data__todos'`)[0][0]
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var page int
	if _, err := fmt.Sscanf(root, "int %d", &page); err != nil {
		t.Fatal(err)
	}
	whole := append([]byte(nil), text...)
	copy(text[(page-1)*4096:page*4096], strings.Repeat("damaged ", 512))
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	d = openDB(t, file, todos)
	if _, err := GetAll[string](t.Context(), d, `SELECT title FROM todos`); !errors.Is(err, ErrDamaged) {
		t.Errorf("reading: %v", err)
	}
	if _, err := d.ExecContext(t.Context(), `UPDATE todos SET title = 'x'`); !errors.Is(err, ErrDamaged) {
		t.Errorf("writing: %v", err)
	}
	// What the damage spares is still there: the queue can be saved.
	if n, err := Get[int](t.Context(), d, `SELECT count(*) FROM ps_crud`); err != nil || n != 200 {
		t.Errorf("%d entries, %v", n, err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}

	for name, text := range map[string][]byte{"no database": []byte(strings.Repeat("not a database. ", 1000)), "cut off": whole[:len(whole)/8]} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := Open(t.Context(), file, todos, nil)
		if err == nil {
			_, err = GetAll[string](t.Context(), d, `SELECT title FROM todos`)
			if e := d.Close(); e != nil {
				t.Error(e)
			}
		}
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
		if left, err := os.ReadFile(file); err != nil || len(left) != len(text) {
			t.Errorf("%s: %d bytes of %d are left, %v", name, len(left), len(text), err)
		}
	}
}

// A download into a damaged file says so in the status.
func TestDamagedSync(t *testing.T) {
	scripted(t, &user{}, func(t *testing.T, d *DB, p *peer) {
		s := <-p.streams
		s.send(t, oneBucket, oneRow, complete1)
		// The schema says that the operations are where something else is.
		raw(t, d, func(c *local.Conn) {
			if err := c.Exec(`PRAGMA writable_schema = ON;
UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE name = 'ps_oplog_key') WHERE name = 'ps_oplog';
PRAGMA writable_schema = RESET`); err != nil {
				t.Fatal(err)
			}
		})
		for _, l := range bigRow(10) {
			_, _ = io.WriteString(s.out, l+"\n")
		}
		synctest.Wait()
		if st := d.Status(); !errors.Is(st.DownloadError, ErrDamaged) {
			t.Errorf("status: %+v", st)
		}
		if got := titles(t, d); got != "milk" {
			t.Errorf("rows %q", got)
		}
	})
}

// A schema that shrinks keeps the rows of what it lacks aside, uploads what was written to it,
// and has all of it back when it grows again.
func TestShrinkingSchema(t *testing.T) {
	var sent []string
	u := &user{upload: func(ctx context.Context, db *DB) error {
		tx, err := db.NextTransaction(ctx)
		if err != nil {
			return err
		}
		for _, e := range tx.Entries {
			sent = append(sent, fmt.Sprint(e.Op, " ", e.Table, " ", e.RowID))
		}
		return tx.Complete(ctx)
	}}
	scripted(t, u, func(t *testing.T, d *DB, p *peer) {
		s := <-p.streams
		s.send(t, oneBucket, oneRow, complete1)
		d.Disconnect()
		mustExec(t, d, `INSERT INTO todos(id, title) VALUES ('w', 'mine')`)
		if err := d.UpdateSchema(t.Context(), Schema{}); err != nil {
			t.Fatal(err)
		}
		if _, err := GetAll[string](t.Context(), d, `SELECT title FROM todos`); err == nil {
			t.Error("the table is still there")
		}
		if err := d.Connect(u, &ConnectOptions{Client: &http.Client{Transport: p}}); err != nil {
			t.Fatal(err)
		}
		s = <-p.streams
		synctest.Wait()
		if got := strings.Join(sent, ", "); got != "PUT todos w" {
			t.Errorf("uploaded %s", got)
		}
		lines := bigRow(3)
		lines[0] = strings.Replace(lines[0], `"last_op_id":"2"`, `"last_op_id":"2","write_checkpoint":"1"`, 1)
		s.send(t, lines...)
		d.Disconnect()
		if err := d.UpdateSchema(t.Context(), todos); err != nil {
			t.Fatal(err)
		}
		if got := titles(t, d); got != "milk,xxx" {
			t.Errorf("rows %q", got)
		}
	})
}

// An upload that fails for ever is tried at the pace of the retry delay, keeps its place and
// what was written later, and does not hold up what is downloaded, out of sight, nor
// priority 0.
func TestUploadFailsForEver(t *testing.T) {
	fail := errors.New("the backend does not like it")
	var tries atomic.Int32
	var mended atomic.Bool
	u := &user{}
	u.upload = func(ctx context.Context, db *DB) error {
		tries.Add(1)
		if !mended.Load() {
			return fail
		}
		tx, err := db.NextTransaction(ctx)
		if err != nil {
			return err
		}
		return tx.Complete(ctx)
	}
	scripted(t, u, func(t *testing.T, d *DB, p *peer) {
		s := <-p.streams
		s.send(t, oneBucket, oneRow, complete1)
		mustExec(t, d, `UPDATE todos SET title = 'mine'`)
		for range 20 {
			time.Sleep(time.Minute)
			synctest.Wait()
			if st := d.Status(); !errors.Is(st.UploadError, fail) || !st.Connected {
				t.Fatalf("status: %+v", st)
			}
			s.send(t, `{"token_expires_in":3000}`)
		}
		if n := tries.Load(); n < 200 || n > 280 {
			t.Errorf("%d tries in twenty minutes", n)
		}
		mustExec(t, d, `INSERT INTO todos(id, title) VALUES ('z', 'later')`)
		s.send(t, bigRow(3)...)
		if got := titles(t, d); got != "mine,later" {
			t.Errorf("rows %q", got)
		}
		urgent := `{"checkpoint":{"last_op_id":"3","buckets":[{"bucket":"u","checksum":9,"count":1,"priority":0},{"bucket":"b","checksum":12,"count":2}],"streams":[]}}`
		s.send(t, urgent, `{"data":{"bucket":"u","data":[{"op_id":"3","op":"PUT","object_type":"todos","object_id":"u","checksum":9,"data":"{\"title\":\"urgent\"}"}]}}`,
			`{"partial_checkpoint_complete":{"last_op_id":"3","priority":0}}`, `{"checkpoint_complete":{"last_op_id":"3"}}`)
		if got := titles(t, d); got != "urgent,mine,later" {
			t.Errorf("rows %q", got)
		}
		if got := queued(t, d); got != "x,z" {
			t.Errorf("queue %q", got)
		}
		mended.Store(true)
		time.Sleep(7 * time.Second)
		synctest.Wait()
		if st := d.Status(); st.UploadError != nil || queued(t, d) != "" {
			t.Errorf("queue %q, status %+v", queued(t, d), st)
		}
		s.send(t, strings.Replace(urgent, `"last_op_id":"3"`, `"last_op_id":"3","write_checkpoint":"1"`, 1), `{"checkpoint_complete":{"last_op_id":"3"}}`)
		if got := titles(t, d); got != "urgent,milk,xxx" {
			t.Errorf("rows %q", got)
		}
	})
}

// A server that is not there is tried again and again, at the pace of the retry delay.
func TestServerDown(t *testing.T) {
	refused := errors.New("connection refused")
	scripted(t, &user{}, func(t *testing.T, d *DB, p *peer) {
		s := <-p.streams
		s.send(t, oneBucket, oneRow, complete1)
		p.mu.Lock()
		p.down = refused
		p.mu.Unlock()
		s.out.CloseWithError(io.ErrUnexpectedEOF)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if st := d.Status(); !errors.Is(st.DownloadError, refused) || st.Connected || titles(t, d) != "milk" {
			t.Errorf("rows %q, status %+v", titles(t, d), st)
		}
		p.mu.Lock()
		p.down = nil
		tries := p.tries
		p.mu.Unlock()
		if tries < 105 || tries > 135 {
			t.Errorf("%d tries in ten minutes", tries)
		}
		s = <-p.streams
		s.send(t, bigRow(3)...)
		if st := d.Status(); st.DownloadError != nil || titles(t, d) != "milk,xxx" {
			t.Errorf("afterwards: rows %q, status %+v", titles(t, d), st)
		}
	})
}
