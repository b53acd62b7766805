package admin

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// BackupEnd is the name of the last entry of a backup's archive, which is no file: a tar
// archive that was cut between two entries looks whole.
const BackupEnd = "END"

// Backup has the running service copy its storage, and unpacks the copy into a folder
// that must not exist. The folder is there only once all of it is durable.
func (c *Client) Backup(ctx context.Context, dir string) error {
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("back up to %s: it exists already", dir)
	}
	resp, err := c.send(ctx, "GET", "/api/millrace/v1/backup", "", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	part, err := os.MkdirTemp(filepath.Dir(filepath.Clean(dir)), filepath.Base(dir)+".part-*")
	if err != nil {
		return fmt.Errorf("back up to %s: %w", dir, err)
	}
	if err = unpack(resp.Body, part); err == nil {
		if err = os.Rename(part, dir); err == nil {
			return syncFolder(filepath.Dir(filepath.Clean(dir)))
		}
	}
	return errors.Join(fmt.Errorf("back up to %s: %w", dir, err), os.RemoveAll(part))
}

// unpack writes the files of an archive, which must be whole, into a folder.
func unpack(r io.Reader, dir string) error {
	archive, whole := tar.NewReader(r), false
	for !whole {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("read the archive: %w", err)
		}
		if whole = h.Name == BackupEnd; whole {
			break
		}
		if h.Typeflag != tar.TypeReg || !filepath.IsLocal(h.Name) || strings.ContainsAny(h.Name, `/\`) {
			return fmt.Errorf("the archive holds %q, which is no file of a storage", h.Name)
		}
		if err := write(filepath.Join(dir, h.Name), archive); err != nil {
			return err
		}
	}
	return syncFolder(dir)
}

func write(name string, r io.Reader) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err = io.Copy(f, r); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
