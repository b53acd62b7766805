package pebblestore

import (
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// medium is the file system as Pebble sees it: one on which writes do not fail.
//
// Pebble has no way on from a write that failed but to end the process, in places
// by unlocking what it has not locked. So whoever meets a failure waits there. If the
// disk is full, until there is room: the write is then carried out, and to Pebble it
// was slow. After any other failure for ever, holding what it holds, while health
// tells the rest that the store has failed; so too if a sync fails, for nobody knows
// then what is on the disk. Reads go on; writes are not begun any more. A backup is
// written to what may be another disk, and says itself when that fails.
type medium struct {
	vfs.FS
	health *health
}

// sound returns only if a write succeeded.
func (h *health) sound(err error) {
	if err != nil {
		h.fail(err)
		select {}
	}
}

// room carries out a write that needs room, again and again while there is none.
func (h *health) room(write func() error) {
	err := write()
	if err == nil {
		return
	}
	if h.wait(err, true) {
		for err = write(); err != nil && h.wait(err, false); err = write() {
		}
		h.waited()
	}
	h.sound(err)
}

func (m medium) Create(name string, c vfs.DiskWriteCategory) (f vfs.File, err error) {
	if m.health.isBackup(m.FS, name) {
		return m.FS.Create(name, c)
	}
	m.health.room(func() error { f, err = m.FS.Create(name, c); return err })
	return mediumFile{f, m.health}, nil
}

func (m medium) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (f vfs.File, err error) {
	if m.health.isBackup(m.FS, name) {
		return m.FS.OpenReadWrite(name, c, opts...)
	}
	m.health.room(func() error { f, err = m.FS.OpenReadWrite(name, c, opts...); return err })
	return mediumFile{f, m.health}, nil
}

func (m medium) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (f vfs.File, err error) {
	m.health.room(func() error { f, err = m.FS.ReuseForWrite(oldname, newname, c); return err })
	return mediumFile{f, m.health}, nil
}

func (m medium) OpenDir(name string) (vfs.File, error) {
	f, err := m.FS.OpenDir(name)
	if err != nil || m.health.isBackup(m.FS, name) {
		return f, err
	}
	return mediumFile{f, m.health}, nil
}

func (m medium) Rename(oldname, newname string) error {
	if m.health.isBackup(m.FS, newname) {
		return m.FS.Rename(oldname, newname)
	}
	m.health.room(func() error { return m.FS.Rename(oldname, newname) })
	return nil
}

// MkdirAll implements vfs.FS. What a store holds is private.
func (m medium) MkdirAll(dir string, _ os.FileMode) error { return m.FS.MkdirAll(dir, 0o700) }

// Unwrap implements vfs.FS.
func (m medium) Unwrap() vfs.FS { return m.FS }

type mediumFile struct {
	vfs.File
	health *health
}

func (f mediumFile) Write(b []byte) (int, error) {
	done := 0
	f.health.room(func() error {
		n, err := f.File.Write(b[done:])
		done += n
		return err
	})
	return done, nil
}

func (f mediumFile) WriteAt(b []byte, at int64) (int, error) {
	done := 0
	f.health.room(func() error {
		n, err := f.File.WriteAt(b[done:], at+int64(done))
		done += n
		return err
	})
	return done, nil
}

func (f mediumFile) Preallocate(offset, length int64) error {
	f.health.room(func() error { return f.File.Preallocate(offset, length) })
	return nil
}

func (f mediumFile) Sync() error {
	f.health.sound(f.File.Sync())
	return nil
}

func (f mediumFile) SyncData() error {
	f.health.sound(f.File.SyncData())
	return nil
}

func (f mediumFile) SyncTo(length int64) (bool, error) {
	full, err := f.File.SyncTo(length)
	f.health.sound(err)
	return full, nil
}
