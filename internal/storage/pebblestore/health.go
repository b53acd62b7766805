package pebblestore

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/millrace-sync/millrace/internal/storage"
)

// formatMajorVersion is Pebble's format on disk. Raising it cannot be undone.
const formatMajorVersion = pebble.FormatTableFormatV6

// health knows whether the store can be written, and lets no write begin once it
// cannot: medium tells it of failed writes and, as Pebble's Logger, it hears of
// what Pebble would end the process for.
type health struct {
	log    *slog.Logger
	failed chan struct{} // closed after cause is set

	backup atomic.Pointer[string] // the folder of a backup being written, if any

	mu    sync.Mutex
	cause error
	waits int       // writes that wait for room
	full  error     // what the last of them met
	since time.Time // when the first of them began to wait
	told  time.Time // of it, in the log
	// patience is the pause before a write that found no room is tried again; 0 makes
	// it a failure.
	patience time.Duration
	hurry    chan struct{} // closed when patience ends
}

const (
	// roomPause is the pause before a write that found no room is tried again.
	roomPause = time.Second
	// roomLog is how often the log tells that there is no room.
	roomLog = time.Minute
)

// bePatient lets writes wait for room from now on; impatient ends that, for the writes
// that wait, too.
func (h *health) bePatient(pause time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.patience = pause
}

func (h *health) impatient() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.patience > 0 {
		h.patience = 0
		close(h.hurry)
	}
}

// wait waits for a while if a write failed for want of room, and reports whether it
// is to be tried again. After the first time that it did, waited must be called.
func (h *health) wait(err error, first bool) bool {
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return false
	}
	h.mu.Lock()
	pause, now := h.patience, time.Now()
	if pause == 0 || h.cause != nil {
		h.mu.Unlock()
		return false
	}
	if first {
		if h.waits++; h.waits == 1 {
			h.since = now
		}
	}
	if h.full = err; now.Sub(h.told) >= roomLog {
		h.told = now
		h.log.Error("the disk of the storage is full: nothing is replicated until there is room on it; make some, nothing else is to be done", "error", err)
	}
	h.mu.Unlock()
	select {
	case <-time.After(pause):
	case <-h.hurry:
	}
	return true
}

// waited notes that a write waits no longer.
func (h *health) waited() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.waits--; h.waits == 0 && h.patience > 0 {
		h.log.Info("the disk of the storage has room again", "seconds", time.Since(h.since).Seconds())
	}
}

// waiting returns ErrFull with its cause while a write waits for room, or nil.
func (h *health) waiting() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.waits == 0 {
		return nil
	}
	return fmt.Errorf("%w since %s: %w", storage.ErrFull, h.since.UTC().Format(time.RFC3339), h.full)
}

// isBackup reports whether a file or folder is of the backup being written, or
// above it.
func (h *health) isBackup(fs vfs.FS, name string) bool {
	b := h.backup.Load()
	if b == nil {
		return false
	}
	sep := fs.PathJoin("a", "b")[1:2]
	return name == *b || strings.HasPrefix(name, *b+sep) || strings.HasPrefix(*b, strings.TrimSuffix(name, sep)+sep) || name == fs.PathDir(*b)
}

func newHealth(log *slog.Logger) *health {
	return &health{log: log, failed: make(chan struct{}), hurry: make(chan struct{})}
}

// err returns ErrFailed with its cause and remedy, or nil.
func (h *health) err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cause
}

func (h *health) fail(cause error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cause != nil {
		return
	}
	remedy := "check the disk, then start again"
	if errors.Is(cause, syscall.ENOSPC) {
		remedy = "the disk is full: make room on it, then start again; nothing acknowledged is lost"
	}
	h.cause = fmt.Errorf("%w: %s: %w", storage.ErrFailed, remedy, cause)
	h.log.Error("storage failed", "error", h.cause)
	close(h.failed)
}

// guard calls f, which is a call of Pebble that writes, in a goroutine of its own
// and returns when it is done, or as soon as the store has failed: f then waits for
// ever, and is left behind for the short rest of the process.
func (h *health) guard(f func() error) error {
	if err := h.err(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		err := errors.New("goroutine ended") // by Fatalf, which set the cause
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("pebble: %v", p)
				if e, ok := p.(error); ok {
					err = e
				}
				h.fail(err)
			}
			done <- err
		}()
		err = f()
	}()
	select {
	case err := <-done:
		// Pebble reports a failed commit to Fatalf only.
		if failed := h.err(); failed != nil {
			return failed
		}
		return err
	case <-h.failed:
		return h.err()
	}
}

// Infof implements pebble.Logger. Pebble tells of each flush and compaction.
func (h *health) Infof(string, ...any) {}

// Errorf implements pebble.Logger. After a failure Pebble goes on trying, and
// telling.
func (h *health) Errorf(format string, args ...any) {
	if h.err() == nil {
		h.log.Error("storage: " + fmt.Sprintf(format, args...))
	}
}

// Fatalf implements pebble.Logger.
func (h *health) Fatalf(format string, args ...any) {
	cause := fmt.Errorf("pebble: "+format, args...)
	for _, a := range args {
		if err, ok := a.(error); ok {
			cause = fmt.Errorf("pebble: %w", err)
		}
	}
	h.fail(cause)
	runtime.Goexit()
}

func pebbleOptions(opts Options, lock *pebble.Lock, h *health) *pebble.Options {
	o := &pebble.Options{
		FS:                 medium{opts.FS, h},
		Lock:               lock,
		Logger:             h,
		Comparer:           comparer(),
		FormatMajorVersion: formatMajorVersion,
		CacheSize:          opts.CacheSize,
		MemTableSize:       uint64(opts.MemTableSize),
		MaxOpenFiles:       opts.OpenFiles,
		// Room for bursts while a flush is under way.
		MemTableStopWritesThreshold: 4,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 2 },
		// An op's place in a bucket follows all earlier ones, so that tables of L0 are
		// read one after the other: more of them cost little, merging them often does.
		L0CompactionThreshold: 16,
		L0StopWritesThreshold: 1000,
		EventListener: &pebble.EventListener{
			// A table that cannot be read must not stop the rest.
			DataCorruption: func(info pebble.DataCorruptionInfo) { h.Errorf("%s", info) },
		},
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		o.Levels[i].BlockSize = 16 << 10
		o.Levels[i].IndexBlockSize = 64 << 10
	}
	o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionFastest })
	// Pebble takes what follows the prefix of a key for a version, and puts the
	// values of all but the first aside, as seldom read. Here they are the ops.
	o.Experimental.SpanPolicyFunc = func([]byte) (pebble.SpanPolicy, []byte, error) {
		return pebble.SpanPolicy{
			DisableValueSeparationBySuffix: true,
			ValueStoragePolicy:             pebble.ValueStorageLowReadLatency,
		}, nil, nil
	}
	// Dropped definitions are large ranges: give their space back soon.
	o.FlushDelayDeleteRange = 10 * time.Second
	return o
}
