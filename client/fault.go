package client

import (
	"errors"
	"fmt"

	"github.com/ncruces/go-sqlite3"
)

// What can be wrong with the file. Errors of a DB, those in its status too, are of these
// kinds where they are due to it. In none of these cases is anything lost that was
// committed; what syncs goes on by itself once the cause is gone.
var (
	// ErrDiskFull says that there is no room for what was to be written.
	ErrDiskFull = errors.New("the disk is full: make room")
	// ErrLocked says that another process, or another DB, has kept the file locked for longer
	// than Options.LockTimeout.
	ErrLocked = errors.New("the database is locked by somebody else: only one DB may write to a file")
	// ErrDamaged says that the file is not, or no longer, a database that SQLite can read. Move it
	// away, and open a new one: what was uploaded comes back with the next sync.
	ErrDamaged = errors.New("the database is damaged: move the file away and sync anew")
)

// explain adds the kind to an error of SQLite's.
func explain(err error) error {
	if err == nil {
		return nil
	}
	for code, kind := range map[sqlite3.ErrorCode]error{
		sqlite3.FULL: ErrDiskFull, sqlite3.BUSY: ErrLocked, sqlite3.LOCKED: ErrLocked,
		sqlite3.CORRUPT: ErrDamaged, sqlite3.NOTADB: ErrDamaged,
	} {
		if errors.Is(err, code) && !errors.Is(err, kind) {
			return fmt.Errorf("%w (%w)", kind, err)
		}
	}
	return err
}
