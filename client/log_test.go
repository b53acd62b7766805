package client

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/millrace-sync/millrace/client/internal/local"
)

// A log that has grown is moved into the database in the background: the next write begins it
// anew.
func TestLogMoves(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.db")
	d := openDB(t, file, todos)
	raw(t, d, func(*local.Conn) { d.softLog = 400 })
	size := func(name string) int64 {
		t.Helper()
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	pages := func() (n int) {
		t.Helper()
		raw(t, d, func(c *local.Conn) {
			var err error
			if n, _, err = c.WALCheckpoint("main", sqlite3.CHECKPOINT_PASSIVE); err != nil {
				t.Fatal(err)
			}
		})
		return n
	}
	moved := func() {
		t.Helper()
		d.mu.Lock()
		moving := d.moving
		d.mu.Unlock()
		if moving {
			d.background.Wait()
		}
	}
	mustExec(t, d, `INSERT INTO todos(id, title) SELECT 't' || value, hex(zeroblob(250000)) FROM json_each('[1, 2, 3, 4]')`)
	moved()
	if got := size(file); got < 400*4096 {
		t.Errorf("the database has %d bytes", got)
	}
	if got := size(file + "-wal"); got < 400*4096 {
		t.Errorf("the log has %d bytes", got)
	}
	mustExec(t, d, `UPDATE todos SET done = 1 WHERE id = 'absent'; INSERT INTO todos(id, title) VALUES ('x', 'small')`)
	if got := pages(); got > 50 {
		t.Errorf("the log has %d pages afterwards", got)
	}

	// A reader in the middle of something holds it back; nothing waits for that.
	tx, err := d.Reader().BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(`SELECT count(*) FROM todos`); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for range 2 {
		if _, err := d.ExecContext(ctx, `UPDATE todos SET title = title || 'x' `); err != nil {
			t.Fatal(err)
		}
	}
	moved()
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	mustExec(t, d, `UPDATE todos SET title = title || 'y' WHERE id = 't1'`)
	moved()
	mustExec(t, d, `INSERT INTO todos(id, title) VALUES ('y', 'small')`)
	if got := pages(); got > 50 {
		t.Errorf("the log has %d pages at the end", got)
	}
}

// Rows as large as services send them, 15 MB, are synced, written and read.
func TestLargeRows(t *testing.T) {
	scripted(t, &user{}, func(t *testing.T, d *DB, p *peer) {
		const size = 15 << 20
		s := <-p.streams
		s.send(t, oneBucket, oneRow, complete1)
		s.send(t, bigRow(size)...)
		for _, sql := range []string{
			`DELETE FROM todos WHERE id = 'x'`,
			`UPDATE todos SET title = title || 'x'`,
		} {
			mustExec(t, d, sql)
		}
		if got := len(titles(t, d)); got != size+1 {
			t.Errorf("%d characters", got)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := queued(t, d); got != "" {
			t.Errorf("queue %q", got)
		}
		if st := d.Status(); st.UploadError != nil || st.DownloadError != nil {
			t.Errorf("status %+v", st)
		}
	})
}
