// Package pebblestore keeps a store in a folder, with Pebble: one process, nothing
// to install. The server opens it; replication writes through Commit, sessions
// read through Snapshot.
//
// Keys are in keys.go, values in codec.go. Batches are applied one at a time and
// synced to the write-ahead log. A Snapshot is a Pebble snapshot that is taken
// right after a batch with Publish was applied, and shared by all who read that
// checkpoint; so whatever is committed later, published or not, does not show.
//
// The parts of a transaction that are committed without Publish change rows,
// lookups, states and definitions in place, as the writer wants to read its own
// writes and a transaction may be larger than memory. What they overwrite goes,
// in the same batch, into an undo log, which the batch with Publish removes. Open
// and Recover play it backwards and delete the ops beyond the checkpoint: the
// store is then as the checkpoint left it, and the transaction can be replayed.
// Only the numbering of ops and definitions is not taken back.
//
// Compact drops what no client needs any more, beside everything else: it reads
// without holding anybody up, and writes small batches between those of Commit, of
// published ops and when no undo log is there. Backup copies the store as it is.
//
// Invariants, besides those of package storage:
//   - A store whose medium failed is never written again: every write returns
//     ErrFailed until the process opens it anew. A full disk is no failure: writes
//     wait until there is room.
//   - DurableLSN is never ahead of what a crash would leave.
package pebblestore

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/record"
)

// Options say where a store is and what it may use. Only Dir must be set.
type Options struct {
	// Dir is the store's folder, which is created if it does not exist.
	Dir string
	// FS is the file system; nil means the machine's.
	FS vfs.FS
	// CacheSize is the number of bytes of tables to keep in memory, out of which
	// the memtables are reserved; 0 means 64 MiB.
	CacheSize int64
	// MemTableSize is the number of bytes to collect in memory before they are
	// sorted into a table, of which up to four exist; 0 means 8 MiB.
	MemTableSize int64
	// OpenFiles is about how many tables to keep open; 0 means 1000.
	OpenFiles int
	// IngestSize is the number of bytes from which a batch is written as sorted tables
	// instead of by the log; 0 means 1 MiB.
	IngestSize int
	// Logger gets what the store has to say; nil means nobody does.
	Logger *slog.Logger

	roomPause time.Duration // the pause between attempts to write on a full disk; 0 means one second
}

const (
	// Large batches do without memtables, so that these are for small ones.
	defaultCacheSize    = 64 << 20
	defaultMemTableSize = 8 << 20
	defaultIngestSize   = 1 << 20
	epochLen            = 5
)

// Store is an open store. One goroutine at a time should write; writes of several
// are carried out one after the other. Any number may read.
type Store struct {
	dir    string
	fs     vfs.FS
	log    *slog.Logger
	db     *pebble.DB
	lock   *pebble.Lock
	health *health
	epoch  string
	secret [32]byte
	opened storage.Recovered

	ingestSize int
	tables     sstable.WriterOptions // of what is ingested

	durable atomic.Uint64 // source.LSN
	closing atomic.Bool

	// compacting has room for one: who compacts.
	compacting chan struct{}

	// writing is held while a batch is prepared and applied.
	writing sync.Mutex
	writer  writer

	mu         sync.Mutex
	idle       sync.Cond          // on mu: active fell to 0
	active     int                // reads under way
	current    *view              // what Snapshot returns next
	checkpoint storage.Checkpoint // of current
	views      map[*view]struct{} // with references; current is one of them
}

// Open opens the store in a folder, or makes a new one there. It fails with
// ErrLocked if another process has it open, with ErrFormat if it is of another
// version or is no store, with ErrCorrupt if it cannot be understood.
func Open(ctx context.Context, opts Options) (*Store, error) {
	if opts.Dir == "" {
		return nil, errors.New("open storage: no folder given")
	}
	if opts.FS == nil {
		opts.FS = vfs.Default
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.CacheSize <= 0 {
		opts.CacheSize = defaultCacheSize
	}
	if opts.MemTableSize <= 0 {
		opts.MemTableSize = defaultMemTableSize
	}
	if opts.IngestSize <= 0 {
		opts.IngestSize = defaultIngestSize
	}
	s := &Store{dir: opts.Dir, fs: opts.FS, log: opts.Logger, ingestSize: opts.IngestSize, health: newHealth(opts.Logger), views: map[*view]struct{}{}, compacting: make(chan struct{}, 1)}
	s.idle.L = &s.mu
	if err := s.open(ctx, opts); err != nil {
		return nil, fmt.Errorf("open storage in %s: %w", opts.Dir, err)
	}
	return s, nil
}

func (s *Store) open(ctx context.Context, opts Options) (err error) {
	if err := makeDir(opts.FS, opts.Dir); err != nil {
		return fmt.Errorf("create the folder: %w", err)
	}
	if s.lock, err = pebble.LockDirectory(opts.Dir, opts.FS); err != nil {
		// A file that cannot be created is a PathError; a lock that is held is not.
		if _, ok := errors.AsType[*fs.PathError](err); ok {
			return fmt.Errorf("create the lock file: %w", err)
		}
		return fmt.Errorf("%w: end the other millrace process that uses the folder, or give this one another folder (%w)", storage.ErrLocked, err)
	}
	defer func() {
		if err != nil {
			s.abandon()
		}
	}()
	created, err := s.openDB(opts)
	if err != nil {
		return err
	}
	s.writer.init(s.db)
	if created {
		if err := s.create(); err != nil {
			return err
		}
	}
	if err := s.recover(ctx); err != nil {
		return err
	}
	if s.opened, err = s.state(); err != nil {
		return err
	}
	s.publish(s.writer.checkpoint, true)
	if opts.roomPause == 0 {
		opts.roomPause = roomPause
	}
	s.health.bePatient(opts.roomPause)
	return nil
}

// abandon gives back what a failed open took.
func (s *Store) abandon() {
	if s.db != nil && s.health.err() == nil {
		_ = s.writer.probe.reset()
		_ = s.health.guard(s.db.Close)
	}
	if s.health.err() == nil {
		_ = s.lock.Close()
	}
}

var errOtherProgram = fmt.Errorf("%w: the folder holds another program's Pebble database; give an empty folder, or one that does not exist", storage.ErrFormat)

// openDB opens Pebble and reports whether the store is still to be created.
func (s *Store) openDB(opts Options) (created bool, err error) {
	desc, err := pebble.Peek(opts.Dir, opts.FS)
	if err != nil {
		if _, ok := errors.AsType[*fs.PathError](err); ok {
			return false, fmt.Errorf("read the folder: %w", err)
		}
		return false, fmt.Errorf("%w: %w; use the version that wrote it, or another folder", storage.ErrFormat, err)
	}
	if desc.Exists && desc.FormatMajorVersion > formatMajorVersion {
		return false, fmt.Errorf("%w: written by a newer version of millrace; use that version, or another folder", storage.ErrFormat)
	}
	if !desc.Exists {
		names, err := opts.FS.List(opts.Dir)
		if err != nil {
			return false, fmt.Errorf("list the folder: %w", err)
		}
		for _, name := range names {
			if foreign(name) {
				return false, fmt.Errorf("%w: the folder holds %q, which is not of a store; give an empty folder, or one that does not exist", storage.ErrFormat, name)
			}
		}
	}
	options := pebbleOptions(opts, s.lock, s.health)
	options.EnsureDefaults()
	err = s.health.guard(func() (err error) {
		s.db, err = pebble.Open(opts.Dir, options)
		return err
	})
	if err != nil {
		// Pebble has no kind of error for this; it is told by its words.
		if strings.Contains(err.Error(), "comparer name from file") {
			return false, errOtherProgram
		}
		return false, corrupt(err)
	}
	s.tables = options.MakeWriterOptions(0, s.db.TableFormat())
	s.tables.DisableValueBlocks = true // see pebbleOptions on values
	if err := s.removeTables(); err != nil {
		return false, err
	}
	format, ok, err := get(s.db, []byte(metaFormat))
	if err != nil {
		return false, err
	}
	if !ok {
		empty, err := s.empty()
		if err == nil && !empty {
			err = errOtherProgram
		}
		return true, err
	}
	if len(format) != 4 {
		return false, fmt.Errorf("format version of %d bytes: %w", len(format), storage.ErrCorrupt)
	}
	if v := binary.BigEndian.Uint32(format); v != storage.FormatVersion {
		return false, fmt.Errorf("%w: it is %d and this millrace reads %d; use the version that wrote it, or remove the folder to sync again from the source", storage.ErrFormat, v, storage.FormatVersion)
	}
	return false, nil
}

// makeDir creates a folder and what is missing above it, durably.
func makeDir(files vfs.FS, dir string) error {
	var parents []string
	for d := dir; ; {
		if _, err := files.Stat(d); err == nil || !errors.Is(err, fs.ErrNotExist) {
			break
		}
		parent := files.PathDir(d)
		if parent == d {
			break
		}
		parents = append(parents, parent)
		d = parent
	}
	if err := files.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, p := range parents {
		f, err := files.OpenDir(p)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// foreign reports whether a file in a folder without database was made by someone
// else: Pebble creates files before the folder counts as a database.
func foreign(name string) bool {
	return name != "LOCK" && name != "lost+found" &&
		!strings.HasPrefix(name, "marker.") && !strings.HasPrefix(name, "MANIFEST-") &&
		!strings.HasPrefix(name, "OPTIONS-") && !strings.HasSuffix(name, ".log") &&
		!strings.HasPrefix(name, "temporary.")
}

func (s *Store) empty() (bool, error) {
	it, err := s.db.NewIter(nil)
	if err != nil {
		return false, err
	}
	empty := !it.First()
	return empty, errors.Join(it.Error(), it.Close())
}

// create writes what makes an empty database a store, in one batch.
func (s *Store) create() error {
	var secret [len(s.secret)]byte
	_, _ = rand.Read(secret[:]) // never fails
	epoch := strings.ToLower(rand.Text()[:epochLen])

	b := s.db.NewBatch()
	_ = b.Set([]byte(metaFormat), binary.BigEndian.AppendUint32(nil, storage.FormatVersion), nil)
	_ = b.Set([]byte(metaIdentity), append([]byte(epoch), secret[:]...), nil)
	_ = b.Set([]byte(metaNext), appendNext(nil, 1, 1), nil)
	_ = b.Set([]byte(metaCheckpoint), appendCheckpoint(nil, storage.Checkpoint{}), nil)
	return s.apply(b, true)
}

// recover reads the meta keys and takes back an unfinished transaction.
func (s *Store) recover(ctx context.Context) error {
	w := &s.writer
	id, err := s.meta(metaIdentity)
	if err != nil {
		return err
	}
	if len(id) != epochLen+len(s.secret) {
		return fmt.Errorf("identity of %d bytes: %w", len(id), storage.ErrCorrupt)
	}
	s.epoch = string(id[:epochLen])
	copy(s.secret[:], id[epochLen:])

	value, err := s.meta(metaNext)
	if err != nil {
		return err
	}
	if w.nextOp, w.nextDef, err = decodeNext(value); err != nil {
		return err
	}
	if value, err = s.meta(metaCheckpoint); err != nil {
		return err
	}
	if w.checkpoint, err = decodeCheckpoint(value); err != nil {
		return err
	}
	if err := s.rollback(ctx); err != nil {
		return fmt.Errorf("take back an unfinished transaction: %w", err)
	}
	// What was just read may have been written without syncing.
	if err := s.apply(s.db.NewBatch(), true); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	s.durable.Store(uint64(w.checkpoint.LSN))
	return nil
}

// Recovered returns what the store held when it was opened.
func (s *Store) Recovered() storage.Recovered { return s.opened }

// Recover takes back every batch since the last one with Publish, as Open does,
// and returns what the store then holds. The writer calls it before it starts, and
// before it starts again after a failure of the source, to replay a transaction
// from its beginning. Snapshots are not affected, nor is the numbering.
func (s *Store) Recover(ctx context.Context) (storage.Recovered, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.writable(ctx); err != nil {
		return storage.Recovered{}, fmt.Errorf("recover: %w", err)
	}
	if s.writer.undo > 0 {
		// Half a rollback is no state to go on from, so it is not interrupted.
		if err := s.rollback(context.WithoutCancel(ctx)); err != nil {
			s.health.fail(err)
			return storage.Recovered{}, fmt.Errorf("recover: take back an unfinished transaction: %w", err)
		}
	}
	r, err := s.state()
	if err != nil {
		return storage.Recovered{}, fmt.Errorf("recover: %w", err)
	}
	return r, nil
}

// state returns what the store holds now.
func (s *Store) state() (storage.Recovered, error) {
	w := &s.writer
	r := storage.Recovered{
		Epoch: s.epoch, Secret: s.secret,
		NextOp: w.nextOp, NextDefinition: w.nextDef, Checkpoint: w.checkpoint,
	}
	if err := s.loadDefinitions(&r); err != nil {
		return storage.Recovered{}, fmt.Errorf("load definitions: %w", err)
	}
	return r, nil
}

// loadDefinitions fills r's definitions and deploys.
func (s *Store) loadDefinitions(r *storage.Recovered) error {
	err := s.scan([]byte{spaceDefinition}, []byte{spaceDefinition + 1}, func(key, value []byte) error {
		id, err := definitionOf(key)
		if err != nil {
			return err
		}
		def, err := record.DecodeDefinition(id, value)
		r.Definitions = append(r.Definitions, def)
		return err
	})
	if err != nil {
		return err
	}
	return s.scan([]byte{spaceDeploy}, []byte{spaceDeploy + 1}, func(key, value []byte) error {
		if len(key) != 1+8 {
			return fmt.Errorf("deploy key of %d bytes: %w", len(key), storage.ErrCorrupt)
		}
		d, err := record.DecodeDeploy(binary.BigEndian.Uint64(key[1:]), value)
		r.Deploys = append(r.Deploys, d)
		return err
	})
}

// DurableLSN returns the LSN of the newest checkpoint that survives a crash: what
// may be confirmed to the source.
func (s *Store) DurableLSN() source.LSN { return source.LSN(s.durable.Load()) }

// Failed is closed when the medium fails; Err then says how.
func (s *Store) Failed() <-chan struct{} { return s.health.failed }

// Err returns why the store can no longer be written, which is ErrFailed, or nil.
func (s *Store) Err() error { return s.health.err() }

// Waiting returns ErrFull while the disk is full and a write waits for room on it, or
// nil. Reads go on; whoever writes waits, beyond the end of its context.
func (s *Store) Waiting() error { return s.health.waiting() }

// Impatient makes a full disk a failure (ErrFailed) from now on, also for the writes
// that wait: the process is about to end.
func (s *Store) Impatient() { s.health.impatient() }

// Close waits for reads and writes under way and closes the store. Snapshots that
// are still open return ErrClosed from then on. A second Close does nothing.
//
// A store that failed is not flushed, and keeps its lock until the process ends.
func (s *Store) Close() error {
	if s.closing.Swap(true) {
		return nil
	}
	s.health.impatient()
	s.writing.Lock()
	defer s.writing.Unlock()
	s.writer.settle() // who waits finds that the store is closed
	s.mu.Lock()
	for s.active > 0 {
		s.idle.Wait()
	}
	views := s.views
	s.current, s.views = nil, nil
	s.mu.Unlock()
	if s.health.err() != nil {
		return nil
	}
	if err := s.writer.probe.reset(); err != nil {
		return fmt.Errorf("close storage in %s: %w", s.dir, err)
	}
	for v := range views {
		if err := v.snap.Close(); err != nil {
			return fmt.Errorf("close storage in %s: %w", s.dir, err)
		}
	}
	// What is in memory is written out, so that the next start has no log to replay.
	err := s.health.guard(func() error { return errors.Join(s.db.Flush(), s.db.Close()) })
	if err != nil {
		return fmt.Errorf("close storage in %s: %w", s.dir, err)
	}
	if err := s.lock.Close(); err != nil {
		return fmt.Errorf("release the lock of storage in %s: %w", s.dir, err)
	}
	return nil
}

// begin marks a read as under way; end must follow.
func (s *Store) begin() error {
	if s.closing.Load() {
		return storage.ErrClosed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		return storage.ErrClosed
	}
	s.active++
	return nil
}

func (s *Store) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active--; s.active == 0 {
		s.idle.Broadcast()
	}
}
