package client

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/driver"

	"github.com/millrace-sync/millrace/client/internal/engine"
	"github.com/millrace-sync/millrace/client/internal/local"
)

// Options sets what most apps leave as it is. The zero Options is what [Open] with
// nil uses.
type Options struct {
	// Readers is the number of connections for reading; 0 means 5.
	Readers int
	// LockTimeout is how long a connection waits for another process that has
	// locked the file; 0 means 30 s.
	LockTimeout time.Duration
	// CacheSize is the memory of one connection's page cache, in bytes, 128 MiB at most; 0
	// means 50 MiB. On 32-bit machines it is 16 MiB at most, and 8 MiB.
	CacheSize int
	// Logger gets what goes wrong and right in the background; nil is slog.Default.
	Logger *slog.Logger
}

const (
	defaultReaders     = 5
	defaultLockTimeout = 30 * time.Second
	// maxIdleLog is what is left of the log's file once it is in the database, in bytes.
	maxIdleLog = 6 << 20
	// softLog is the length of the log, in pages of 4 KiB, at which it is moved into the
	// database in the background; SQLite's own choice of 1,000 would write what a first
	// sync downloads several times. At hardLog the one who commits does it and waits,
	// so that a log that grows faster than it is moved ends here.
	softLog, hardLog = 8000, 32000
)

// memory returns the memory of connections, in bytes. SQLite's lives in a space of limited size, and the
// process ends when that is full: it must hold the cache and several copies of the
// largest rows, which services send up to 15 MB. It is reserved, and used only as needed.
func memory() (defaultCache, maxCache int, writer int64) {
	if strconv.IntSize == 32 {
		return 8 << 20, 16 << 20, 256 << 20
	}
	return 50 << 20, 128 << 20, 1 << 30
}

// DB is a local database. It is safe for concurrent use. Close it when done.
type DB struct {
	file    string
	log     *slog.Logger
	writer  *sql.DB
	readers *sql.DB
	changes hub
	board   board

	// conn is the writer's one connection, and store the engine's view of it; whoever
	// holds it from the pool uses them.
	conn  *local.Conn
	store *store

	// softLog and hardLog are the constants of these names; tests set others.
	softLog, hardLog int
	// background is what moves the log into the database; it ends with stopping.
	background sync.WaitGroup
	stopping   context.Context
	stop       context.CancelFunc

	// connecting is held while a connection is set up or torn down.
	connecting sync.Mutex

	mu         sync.Mutex
	schema     Schema
	closed     bool
	moving     bool                     // the log is being moved in the background
	connection *connection              // nil if there is none
	streams    map[engine.StreamKey]int // how often each subscription is held
	statements map[string]*sql.Stmt     // of ExecContext; they end with the writer
}

// Open opens the database in a file, creates it if there is none, and makes its
// tables what the schema declares. Official clients can open the same file, though
// not at the same time: no client hears of what another process writes.
func Open(ctx context.Context, file string, schema Schema, opts *Options) (*DB, error) {
	if err := schema.validate(); err != nil {
		return nil, fmt.Errorf("open %s: %w", file, err)
	}
	o := Options{}
	if opts != nil {
		o = *opts
	}
	if o.Readers < 0 || o.LockTimeout < 0 || o.CacheSize < 0 {
		return nil, fmt.Errorf("open %s: Readers, LockTimeout and CacheSize cannot be negative", file)
	}
	defaultCache, maxCache, writerMemory := memory()
	if o.CacheSize > maxCache {
		return nil, fmt.Errorf("open %s: a CacheSize of %d; at most %d fit", file, o.CacheSize, maxCache)
	}
	o.Readers = orDefault(o.Readers, defaultReaders)
	o.LockTimeout = orDefault(o.LockTimeout, defaultLockTimeout)
	o.CacheSize = orDefault(o.CacheSize, defaultCache)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	name, err := uri(file)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", file, err)
	}
	d := &DB{file: file, log: o.Logger, streams: make(map[engine.StreamKey]int), statements: make(map[string]*sql.Stmt)}
	d.softLog, d.hardLog = softLog, hardLog
	d.stopping, d.stop = context.WithCancel(context.Background())
	d.writer, err = driver.Open(name+"?_txlock=immediate", func(c *sqlite3.Conn) error { return d.initWriter(c, &o) }, d.term)
	if err == nil {
		d.writer.SetMaxOpenConns(1)
		d.writer.SetMaxIdleConns(1)
		d.readers, err = driver.Open(name, func(c *sqlite3.Conn) error { return initReader(c, &o) })
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", file, errors.Join(explain(err), d.closePools()))
	}
	d.readers.SetMaxOpenConns(o.Readers)
	d.readers.SetMaxIdleConns(o.Readers)
	// The first to use the writer opens its connection.
	if err := d.UpdateSchema(sqlite3.WithMaxMemory(ctx, writerMemory), schema); err != nil {
		return nil, fmt.Errorf("open %s: %w", file, errors.Join(err, d.closePools()))
	}
	if err := d.readStatus(ctx); err != nil {
		return nil, fmt.Errorf("open %s: %w", file, errors.Join(err, d.closePools()))
	}
	return d, nil
}

// readStatus shows what earlier connections have achieved.
func (d *DB) readStatus(ctx context.Context) error {
	var offline engine.Status
	err := d.exclusive(ctx, func(*local.Conn) (err error) {
		offline, err = engine.Offline(d.store)
		return err
	})
	if err == nil {
		d.board.update(func(s *Status) { s.download(offline) })
	}
	return err
}

// rawTables returns the schema's raw tables for the engine.
func (d *DB) rawTables() []engine.RawTable {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.schema.raw()
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// uri returns the name by which SQLite opens a file whatever its name contains.
func uri(file string) (string, error) {
	if file == "" || strings.HasPrefix(file, ":memory:") {
		return "", errors.New("a file name is needed: databases in memory have no log, which watching needs")
	}
	abs, err := filepath.Abs(file)
	if err != nil {
		return "", err
	}
	path := filepath.ToSlash(abs)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	return "file:" + (&url.URL{Path: path}).EscapedPath(), nil
}

func (d *DB) initWriter(c *sqlite3.Conn, o *Options) error {
	if err := c.BusyTimeout(o.LockTimeout); err != nil {
		return err
	}
	lc, err := local.Attach(c)
	if err != nil {
		return err
	}
	if err := c.Exec(fmt.Sprintf(`
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA journal_size_limit = %d;
PRAGMA recursive_triggers = TRUE;
PRAGMA cache_size = -%d`, maxIdleLog, o.CacheSize>>10)); err != nil {
		return err
	}
	lc.Track(d.committed)
	d.conn, d.store = lc, newStore(lc)
	return nil
}

func initReader(c *sqlite3.Conn, o *Options) error {
	if err := c.BusyTimeout(o.LockTimeout); err != nil {
		return err
	}
	if _, err := local.Attach(c); err != nil {
		return err
	}
	return c.Exec(fmt.Sprintf(`PRAGMA query_only = TRUE; PRAGMA cache_size = -%d`, o.CacheSize>>10))
}

// committed runs on the writer's connection after each commit.
func (d *DB) committed(tables []string, logPages int) error {
	if len(tables) > 0 {
		d.changes.publish(tables)
	}
	switch {
	case logPages >= d.hardLog:
		return local.Checkpoint(d.conn.Conn)
	case logPages >= d.softLog:
		d.moveLog()
	}
	return nil
}

// moveLog moves the log into the database in the background, unless that goes on already.
// It takes a reader's connection: no writer has to wait for it.
func (d *DB) moveLog() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.moving || d.closed {
		return
	}
	d.moving = true
	d.background.Go(func() {
		err := d.onReader(d.stopping, local.Checkpoint)
		d.mu.Lock()
		d.moving = false
		d.mu.Unlock()
		if err != nil && d.stopping.Err() == nil {
			d.log.Warn("the log could not be moved into the database; trying again later", "error", err)
		}
	})
}

// onReader runs fn on a reader's connection, below database/sql.
func (d *DB) onReader(ctx context.Context, fn func(*sqlite3.Conn) error) error {
	conn, err := d.readers.Conn(ctx)
	if err == nil {
		defer conn.Close()
		err = conn.Raw(func(dc any) error { return fn(dc.(driver.Conn).Raw()) })
	}
	return explain(err)
}

// term runs before the writer's connection closes.
func (d *DB) term(*sqlite3.Conn) error { return errors.Join(d.store.close(), d.conn.Detach()) }

// UpdateSchema makes the tables what schema declares. Queries that are running see
// the old ones to their end. It is for times without a connection: one that stands
// would go on by the old schema.
func (d *DB) UpdateSchema(ctx context.Context, schema Schema) error {
	if err := schema.validate(); err != nil {
		return fmt.Errorf("update the schema: %w", err)
	}
	d.connecting.Lock()
	defer d.connecting.Unlock()
	d.mu.Lock()
	connected := d.connection != nil
	d.mu.Unlock()
	if connected {
		return errors.New("update the schema: the database is connected; call Disconnect first")
	}
	err := d.exclusive(ctx, func(c *local.Conn) error {
		if err := local.Migrate(c.Conn); err != nil {
			return err
		}
		return schema.apply(c.Conn)
	})
	if err != nil {
		return fmt.Errorf("update the schema: %w", err)
	}
	d.mu.Lock()
	d.schema = schema
	d.mu.Unlock()
	d.changes.publish([]string{schemaChange})
	return nil
}

// exclusive runs fn in a write transaction on the writer's connection, below
// database/sql.
func (d *DB) exclusive(ctx context.Context, fn func(*local.Conn) error) error {
	conn, err := d.writer.Conn(ctx)
	if err != nil {
		return explain(err)
	}
	defer conn.Close()
	err = conn.Raw(func(any) error {
		c := d.conn
		old := c.SetInterrupt(ctx)
		defer c.SetInterrupt(old)
		if err := c.Exec(`BEGIN IMMEDIATE`); err != nil {
			return err
		}
		if err := fn(c); err != nil {
			return errors.Join(err, rollback(c))
		}
		if err := c.Exec(`COMMIT`); err != nil {
			return errors.Join(err, rollback(c))
		}
		return nil
	})
	return explain(err)
}

// rollback ends a transaction, even one that was interrupted or that SQLite has
// ended already.
func rollback(c *local.Conn) error {
	if c.GetAutocommit() {
		return nil
	}
	old := c.SetInterrupt(context.Background())
	defer c.SetInterrupt(old)
	return c.Exec(`ROLLBACK`)
}

// Close stops everything that runs in the background, waits for it, and closes the file. Calls
// that are running may fail; later ones do.
func (d *DB) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	d.mu.Unlock()
	d.Disconnect()
	d.board.close()
	d.changes.close()
	if err := d.closePools(); err != nil {
		return fmt.Errorf("close %s: %w", d.file, err)
	}
	return nil
}

// closePools closes the writer last, so that it is the one to remove the log.
func (d *DB) closePools() error {
	d.stop()
	d.background.Wait()
	var err error
	for _, pool := range []*sql.DB{d.readers, d.writer} {
		if pool != nil {
			err = errors.Join(err, pool.Close())
		}
	}
	return err
}
