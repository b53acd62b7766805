package attachments

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/millrace-sync/millrace/client"
)

// State is what is to be done with an attachment.
type State int

// The states. Their numbers are in the table.
const (
	QueuedUpload   State = 0
	QueuedDownload State = 1
	QueuedDelete   State = 2
	Synced         State = 3
	Archived       State = 4 // no row names it; it is kept for a while
)

// Attachment is a file and what the queue knows of it.
type Attachment struct {
	ID string
	// Filename is its name for Local and Remote, by default the id with an extension.
	Filename string
	// LocalURI is where Local has it; empty if it does not.
	LocalURI  string
	MediaType string
	MetaData  string // the app's own
	Size      int64
	State     State
	// HasSynced says that the file has been in both places.
	HasSynced bool
	// Timestamp is the time of the last change of state, in milliseconds since 1970.
	Timestamp int64
}

// table is the name of the table.
const table = "attachments"

// Table returns the table that a schema must contain for queues.
func Table() client.Table {
	return client.Table{Name: table, LocalOnly: true, Columns: []client.Column{
		client.Text("filename"), client.Text("local_uri"), client.Integer("timestamp"), client.Integer("size"),
		client.Text("media_type"), client.Integer("state"), client.Integer("has_synced"), client.Text("meta_data"),
	}}
}

// Remote is where files are shared.
type Remote interface {
	Upload(ctx context.Context, a Attachment, file io.Reader) error
	Download(ctx context.Context, a Attachment) (io.ReadCloser, error)
	// Delete deletes a file; one that is absent is no error.
	Delete(ctx context.Context, a Attachment) error
}

// Local is where files are on this device. A URI is what it likes, and stays valid
// while the app is installed.
type Local interface {
	URI(filename string) string
	// Save stores a file whole or not at all, and returns its size.
	Save(ctx context.Context, uri string, file io.Reader) (int64, error)
	Open(ctx context.Context, uri string) (io.ReadCloser, error)
	// Delete deletes a file; one that is absent is no error.
	Delete(ctx context.Context, uri string) error
	Exists(ctx context.Context, uri string) (bool, error)
}

// Dir is a Local that keeps files in a folder, which it creates. URIs are file names
// within it, so the folder may move.
type Dir string

// ErrName says that a file name leads out of the folder.
var ErrName = errors.New("not a plain file name")

func (d Dir) path(uri string) (string, error) {
	if uri != filepath.Base(uri) || !filepath.IsLocal(uri) || uri == "." {
		return "", fmt.Errorf("attachment %q: %w", uri, ErrName)
	}
	return filepath.Join(string(d), uri), nil
}

// URI returns the file's name.
func (d Dir) URI(filename string) string { return filename }

// Save writes a file under another name and renames it.
func (d Dir) Save(_ context.Context, uri string, file io.Reader) (n int64, err error) {
	path, err := d.path(uri)
	if err != nil {
		return 0, err
	}
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return 0, err
	}
	f, err := os.CreateTemp(string(d), ".saving-*")
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	n, err = io.Copy(f, file)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return n, err
}

// Open opens a file.
func (d Dir) Open(_ context.Context, uri string) (io.ReadCloser, error) {
	path, err := d.path(uri)
	if err != nil {
		return nil, err
	}
	return os.Open(path)
}

// Delete removes a file.
func (d Dir) Delete(_ context.Context, uri string) error {
	path, err := d.path(uri)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Exists reports whether there is a file.
func (d Dir) Exists(_ context.Context, uri string) (bool, error) {
	path, err := d.path(uri)
	if err != nil {
		return false, err
	}
	_, err = os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
