package server

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/millrace-sync/millrace/internal/admin"
	"github.com/millrace-sync/millrace/internal/httpapi"
	"github.com/millrace-sync/millrace/protocol"
)

// backupStore is a store that can be copied while it is used.
type backupStore interface {
	// Backup makes a copy in a folder that must not exist. It takes as long as a commit:
	// files are linked where they can be.
	Backup(ctx context.Context, dir string) error
}

// backupPrefix begins the names of the folders, inside of the storage's, in which
// copies lie while they are being sent.
const backupPrefix = "backup-"

// Backup implements httpapi.Admin.
func (o *operator) Backup(ctx context.Context) (httpapi.Backup, error) {
	store, ok := o.store.(backupStore)
	if !ok {
		return nil, protocol.Errorf(protocol.DeployDisabled, "The storage is in Postgres: back that database up by its own means, such as pg_dump, and see docs/operations.md for what a restored one needs.")
	}
	dir := filepath.Join(o.storage, backupPrefix+strings.ToLower(rand.Text()))
	if err := store.Backup(ctx, dir); err != nil {
		return nil, err
	}
	o.log.Info("a backup is being sent", "checkpoint", o.activity.checkpoint())
	return &copied{dir}, nil
}

// removeBackups removes the copies that a process that was killed has left.
func removeBackups(storage string) error {
	entries, err := os.ReadDir(storage)
	if err != nil {
		return fmt.Errorf("look for unfinished backups: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), backupPrefix) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(storage, e.Name())))
		}
	}
	if err != nil {
		return fmt.Errorf("remove unfinished backups: %w", err)
	}
	return nil
}

// copied is a copy of the storage in a folder of its own.
type copied struct{ dir string }

// WriteTo writes the copy as a tar archive, whose files have no folders.
func (c *copied) WriteTo(w io.Writer) (int64, error) {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return 0, fmt.Errorf("send a backup: %w", err)
	}
	archive, sent := tar.NewWriter(w), int64(0)
	for _, e := range entries {
		n, err := c.file(archive, e.Name())
		if sent += n; err != nil {
			return sent, fmt.Errorf("send a backup: %s: %w", e.Name(), err)
		}
	}
	end := &tar.Header{Typeflag: tar.TypeReg, Name: admin.BackupEnd, Mode: 0o600}
	return sent, errors.Join(archive.WriteHeader(end), archive.Close())
}

func (c *copied) file(archive *tar.Writer, name string) (int64, error) {
	f, err := os.Open(filepath.Join(c.dir, name))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, errors.New("is no file")
	}
	if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: info.Size(), Mode: 0o600, Format: tar.FormatPAX}); err != nil {
		return 0, err
	}
	return io.Copy(archive, io.LimitReader(f, info.Size()))
}

// Close removes the copy.
func (c *copied) Close() error { return os.RemoveAll(c.dir) }
