package attachments

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/millrace-sync/millrace/client"
)

// Options says what a queue is for.
type Options struct {
	Local  Local
	Remote Remote
	// Query finds the attachments that rows name. Its columns are id, and filename,
	// media_type and meta_data as far as there are any. Rows whose id is null are
	// left out.
	Query string
	// Interval is the time between attempts at what has failed; 0 means 30 s.
	Interval time.Duration
	// Keep is how many files are kept that no row names any more, in case one does
	// again; 0 means 100, below 0 none.
	Keep int
	// Retry decides on a failed transfer; false gives it up and archives the
	// attachment. Nil tries for ever.
	Retry func(a Attachment, err error) bool
	// Logger gets failures; nil is slog.Default.
	Logger *slog.Logger
}

const (
	defaultInterval = 30 * time.Second
	defaultKeep     = 100
	// batch bounds the attachments that are worked on before the queue looks again.
	batch = 100
)

// Queue moves files. It is safe for concurrent use; one Run at a time.
type Queue struct {
	db   *client.DB
	opts Options
	wake chan struct{}
}

// New returns a queue. The database's schema must contain [Table].
func New(db *client.DB, opts Options) (*Queue, error) {
	if opts.Local == nil || opts.Remote == nil || opts.Query == "" {
		return nil, errors.New("attachments: Local, Remote and Query are needed")
	}
	if opts.Interval <= 0 {
		opts.Interval = defaultInterval
	}
	switch {
	case opts.Keep == 0:
		opts.Keep = defaultKeep
	case opts.Keep < 0:
		opts.Keep = 0
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	return &Queue{db: db, opts: opts, wake: make(chan struct{}, 1)}, nil
}

// Run works until ctx ends, or until the database fails.
func (q *Queue) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	if err := q.verify(ctx); err != nil {
		return fmt.Errorf("attachments: verify files: %w", err)
	}
	wg.Go(func() {
		for named, err := range client.Watch[reference](ctx, q.db, nil, q.opts.Query) {
			if err == nil {
				err = q.reconcile(ctx, named)
			}
			if err != nil {
				cancel(fmt.Errorf("attachments: follow the rows: %w", err))
				return
			}
			q.poke()
		}
	})
	timer := time.NewTicker(q.opts.Interval)
	defer timer.Stop()
	for {
		err := q.work(ctx)
		if err == nil {
			err = q.expire(ctx, q.opts.Keep)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("attachments: %w", err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
		case <-q.wake:
		}
	}
}

func (q *Queue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// File is a file to save. The id, which must be new, is made if it is empty; Filename is then the id and
// Extension, which has no dot.
type File struct {
	ID, Filename, Extension string
	MediaType, MetaData     string
}

// Save stores a file here and queues its upload. Hook, if not nil, runs in the same
// transaction: it writes the row that names the attachment.
func (q *Queue) Save(ctx context.Context, f File, file io.Reader, hook func(*sql.Tx, Attachment) error) (Attachment, error) {
	a := Attachment{ID: f.ID, Filename: f.Filename, MediaType: f.MediaType, MetaData: f.MetaData, State: QueuedUpload, Timestamp: now()}
	if a.ID == "" {
		id, err := client.Get[string](ctx, q.db, `SELECT uuid()`)
		if err != nil {
			return Attachment{}, fmt.Errorf("save an attachment: %w", err)
		}
		a.ID = id
	}
	if a.Filename == "" {
		a.Filename = a.ID
		if f.Extension != "" {
			a.Filename += "." + f.Extension
		}
	}
	a.LocalURI = q.opts.Local.URI(a.Filename)
	size, err := q.opts.Local.Save(ctx, a.LocalURI, file)
	if err != nil {
		return Attachment{}, fmt.Errorf("save attachment %s: %w", a.Filename, err)
	}
	a.Size = size
	err = q.db.WriteTx(ctx, func(tx *sql.Tx) error {
		if hook != nil {
			if err := hook(tx, a); err != nil {
				return err
			}
		}
		return put(ctx, tx, a)
	})
	if err != nil {
		return Attachment{}, fmt.Errorf("save attachment %s: %w", a.Filename, errors.Join(err, q.opts.Local.Delete(context.WithoutCancel(ctx), a.LocalURI)))
	}
	q.poke()
	return a, nil
}

// ErrUnknown says that there is no attachment of an id.
var ErrUnknown = errors.New("there is no such attachment")

// Delete queues the deletion of a file here and there. Hook, if not nil, runs in the
// same transaction: it removes the attachment from the row that names it.
func (q *Queue) Delete(ctx context.Context, id string, hook func(*sql.Tx, Attachment) error) error {
	err := q.db.WriteTx(ctx, func(tx *sql.Tx) error {
		a, err := get(ctx, tx, id)
		if err != nil {
			return err
		}
		if hook != nil {
			if err := hook(tx, a); err != nil {
				return err
			}
		}
		a.State, a.HasSynced, a.Timestamp = QueuedDelete, false, now()
		return put(ctx, tx, a)
	})
	if err != nil {
		return fmt.Errorf("delete attachment %s: %w", id, err)
	}
	q.poke()
	return nil
}

// Get returns an attachment, or [ErrUnknown].
func (q *Queue) Get(ctx context.Context, id string) (Attachment, error) {
	return get(ctx, q.db, id)
}

// Open opens the file of an attachment, which must be here.
func (q *Queue) Open(ctx context.Context, id string) (io.ReadCloser, error) {
	a, err := q.Get(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("open attachment %s: %w", id, err)
	}
	if a.LocalURI == "" {
		return nil, fmt.Errorf("open attachment %s: it has not been downloaded yet", id)
	}
	return q.opts.Local.Open(ctx, a.LocalURI)
}

// Expire removes the archived files at once, whatever Keep is.
func (q *Queue) Expire(ctx context.Context) error { return q.expire(ctx, 0) }

// Clear removes all files from this device and empties the queue, what has not been
// uploaded too. It is for signing out, while Run does not run.
func (q *Queue) Clear(ctx context.Context) error {
	all, err := list(ctx, q.db, `local_uri IS NOT NULL`)
	if err != nil {
		return fmt.Errorf("clear attachments: %w", err)
	}
	for _, a := range all {
		if err := q.opts.Local.Delete(ctx, a.LocalURI); err != nil {
			return fmt.Errorf("clear attachments: %s: %w", a.Filename, err)
		}
	}
	if _, err := q.db.ExecContext(ctx, `DELETE FROM attachments`); err != nil {
		return fmt.Errorf("clear attachments: %w", err)
	}
	return nil
}

func now() int64 { return time.Now().UnixMilli() }
