package attachments_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/millrace-sync/millrace/client"
	"github.com/millrace-sync/millrace/client/attachments"
)

// shelf is where an app shares files: in practice a bucket or the app's backend.
type shelf struct{ files sync.Map }

func (s *shelf) Upload(_ context.Context, a attachments.Attachment, file io.Reader) error {
	text, err := io.ReadAll(file)
	s.files.Store(a.Filename, string(text))
	return err
}

func (s *shelf) Download(_ context.Context, a attachments.Attachment) (io.ReadCloser, error) {
	text, ok := s.files.Load(a.Filename)
	if !ok {
		return nil, fmt.Errorf("no file %s", a.Filename)
	}
	return io.NopCloser(strings.NewReader(text.(string))), nil
}

func (s *shelf) Delete(_ context.Context, a attachments.Attachment) error {
	s.files.Delete(a.Filename)
	return nil
}

// A picture is stored on this device at once, and goes up as soon as it can.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dir, err := os.MkdirTemp("", "attachments-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	db, err := client.Open(ctx, filepath.Join(dir, "app.db"), client.Schema{Tables: []client.Table{
		attachments.Table(),
		{Name: "users", Columns: []client.Column{client.Text("photo_id")}},
	}}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	queue, err := attachments.New(db, attachments.Options{
		Local: attachments.Dir(filepath.Join(dir, "photos")), Remote: new(shelf),
		Query: `SELECT photo_id AS id, photo_id || '.jpg' AS filename FROM users`,
	})
	if err != nil {
		log.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		if err := queue.Run(ctx); !errors.Is(err, context.Canceled) {
			log.Fatal(err)
		}
	})

	// The row that names the picture is written in the same transaction.
	photo, err := queue.Save(ctx, attachments.File{ID: "p1", Extension: "jpg"}, strings.NewReader("a picture"),
		func(tx *sql.Tx, a attachments.Attachment) error {
			_, err := tx.ExecContext(ctx, `INSERT INTO users(id, photo_id) VALUES (uuid(), ?)`, a.ID)
			return err
		})
	if err != nil {
		log.Fatal(err)
	}
	for states, err := range client.Watch[attachments.State](ctx, db, nil, `SELECT state FROM attachments WHERE id = ?`, photo.ID) {
		if err != nil {
			log.Fatal(err)
		}
		if states[0] == attachments.Synced {
			break
		}
	}
	fmt.Println(photo.Filename, photo.Size, "bytes, uploaded")
	cancel()
	running.Wait()
	// Output: p1.jpg 9 bytes, uploaded
}
