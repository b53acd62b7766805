package attachments

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/millrace-sync/millrace/client"
)

// columns are what an Attachment is read from.
const columns = `id AS ID, filename AS Filename, ifnull(local_uri, '') AS LocalURI, ifnull(media_type, '') AS MediaType,
ifnull(meta_data, '') AS MetaData, ifnull(size, 0) AS Size, state AS State, ifnull(has_synced, 0) AS HasSynced, ifnull(timestamp, 0) AS Timestamp`

func get(ctx context.Context, q client.Querier, id string) (Attachment, error) {
	a, err := client.Get[Attachment](ctx, q, `SELECT `+columns+` FROM attachments WHERE id = ?`, id)
	if errors.Is(err, client.ErrNoRow) {
		return Attachment{}, ErrUnknown
	}
	return a, err
}

func list(ctx context.Context, q client.Querier, where string, args ...any) ([]Attachment, error) {
	return client.GetAll[Attachment](ctx, q, `SELECT `+columns+` FROM attachments WHERE `+where, args...)
}

// put writes an attachment. Empty texts are null, as official clients have them.
func put(ctx context.Context, tx *sql.Tx, a Attachment) error {
	_, err := tx.ExecContext(ctx, `INSERT OR REPLACE INTO attachments(id, filename, local_uri, media_type, meta_data, size, state, has_synced, timestamp)
VALUES (?, ?, nullif(?, ''), nullif(?, ''), nullif(?, ''), ?, ?, ?, ?)`,
		a.ID, a.Filename, a.LocalURI, a.MediaType, a.MetaData, a.Size, int64(a.State), a.HasSynced, a.Timestamp)
	return err
}

// change applies a change to an attachment unless its state has changed meanwhile.
func (q *Queue) change(ctx context.Context, a Attachment, apply func(*Attachment)) error {
	return q.db.WriteTx(ctx, func(tx *sql.Tx) error {
		is, err := get(ctx, tx, a.ID)
		if errors.Is(err, ErrUnknown) || err == nil && is.State != a.State {
			return nil // somebody decided otherwise; that is next
		}
		if err != nil {
			return err
		}
		apply(&is)
		is.Timestamp = now()
		return put(ctx, tx, is)
	})
}

// reference is a row's naming of an attachment.
type reference struct {
	ID        sql.NullString
	Filename  sql.NullString
	MediaType sql.NullString `db:"media_type"`
	MetaData  sql.NullString `db:"meta_data"`
}

// reconcile queues what is newly named and archives what is named no more.
func (q *Queue) reconcile(ctx context.Context, named []reference) error {
	return q.db.WriteTx(ctx, func(tx *sql.Tx) error {
		all, err := list(ctx, tx, `TRUE`)
		if err != nil {
			return err
		}
		known := make(map[string]Attachment, len(all))
		for _, a := range all {
			known[a.ID] = a
		}
		seen := make(map[string]bool, len(named))
		for _, r := range named {
			id := r.ID.String
			if id == "" || seen[id] {
				continue
			}
			seen[id] = true
			a, ok := known[id]
			delete(known, id)
			switch {
			case !ok:
				a = Attachment{ID: id, Filename: id, MediaType: r.MediaType.String, MetaData: r.MetaData.String, State: QueuedDownload}
				if r.Filename.String != "" {
					a.Filename = r.Filename.String
				}
			case a.State != Archived:
				continue
			case a.HasSynced:
				a.State = Synced
			case a.LocalURI == "":
				a.State = QueuedDownload
			default:
				a.State = QueuedUpload
			}
			a.Timestamp = now()
			if err := put(ctx, tx, a); err != nil {
				return err
			}
		}
		for _, a := range known {
			// What waits for upload may have been saved just before its row.
			if a.State == QueuedUpload || a.State == QueuedDelete || a.State == Archived {
				continue
			}
			a.State, a.Timestamp = Archived, now()
			if err := put(ctx, tx, a); err != nil {
				return err
			}
		}
		return nil
	})
}

// work tries each transfer that is queued once.
func (q *Queue) work(ctx context.Context) error {
	after := ""
	for {
		queued, err := list(ctx, q.db, `state IN (0, 1, 2) AND id > ? ORDER BY id LIMIT ?`, after, batch)
		if err != nil || len(queued) == 0 {
			return err
		}
		for _, a := range queued {
			after = a.ID
			if ctx.Err() != nil {
				return nil
			}
			if err := q.transfer(ctx, a); err != nil {
				return err
			}
		}
	}
}

// transfer does what an attachment's state asks for. Its error is the database's;
// that of a transfer is dealt with.
func (q *Queue) transfer(ctx context.Context, a Attachment) error {
	var err error
	done := func(a *Attachment) { a.State, a.HasSynced = Synced, true }
	switch a.State {
	case QueuedUpload:
		err = q.upload(ctx, a)
	case QueuedDownload:
		var size int64
		uri := q.opts.Local.URI(a.Filename)
		size, err = q.download(ctx, a, uri)
		done = func(a *Attachment) { a.State, a.HasSynced, a.LocalURI, a.Size = Synced, true, uri, size }
	case QueuedDelete:
		if err = q.opts.Remote.Delete(ctx, a); err == nil {
			return q.forget(ctx, a)
		}
	}
	if err == nil {
		return q.change(ctx, a, done)
	}
	if ctx.Err() != nil {
		return nil
	}
	if q.opts.Retry == nil || q.opts.Retry(a, err) {
		q.opts.Logger.Warn("attachments: trying again later", "attachment", a.Filename, "error", err)
		return nil
	}
	q.opts.Logger.Warn("attachments: given up", "attachment", a.Filename, "error", err)
	return q.change(ctx, a, func(a *Attachment) { a.State = Archived })
}

func (q *Queue) upload(ctx context.Context, a Attachment) error {
	file, err := q.opts.Local.Open(ctx, a.LocalURI)
	if err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	defer file.Close()
	if err := q.opts.Remote.Upload(ctx, a, file); err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	return nil
}

func (q *Queue) download(ctx context.Context, a Attachment, uri string) (int64, error) {
	file, err := q.opts.Remote.Download(ctx, a)
	if err != nil {
		return 0, fmt.Errorf("download: %w", err)
	}
	defer file.Close()
	size, err := q.opts.Local.Save(ctx, uri, file)
	if err != nil {
		return 0, fmt.Errorf("download: %w", err)
	}
	return size, nil
}

// forget removes a file here and its entry, if its state is still the same.
func (q *Queue) forget(ctx context.Context, a Attachment) error {
	gone := false
	err := q.db.WriteTx(ctx, func(tx *sql.Tx) error {
		is, err := get(ctx, tx, a.ID)
		if errors.Is(err, ErrUnknown) || err == nil && is.State != a.State {
			return nil
		}
		if err != nil {
			return err
		}
		gone = true
		_, err = tx.ExecContext(ctx, `DELETE FROM attachments WHERE id = ?`, a.ID)
		return err
	})
	if err != nil || !gone || a.LocalURI == "" {
		return err
	}
	// A file that stays behind does no harm but take room.
	if err := q.opts.Local.Delete(ctx, a.LocalURI); err != nil {
		q.opts.Logger.Warn("attachments: a file stays behind", "attachment", a.Filename, "error", err)
	}
	return nil
}

// expire removes the archived attachments but for the newest. Those that were never
// uploaded stay.
func (q *Queue) expire(ctx context.Context, keep int) error {
	old, err := list(ctx, q.db, `state = 4 AND (has_synced = 1 OR local_uri IS NULL) ORDER BY timestamp DESC, id LIMIT -1 OFFSET ?`, keep)
	if err != nil {
		return err
	}
	for _, a := range old {
		if err := q.forget(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

// verify finds files that have gone from this device, and has them downloaded again
// if they have ever been uploaded.
func (q *Queue) verify(ctx context.Context) error {
	all, err := list(ctx, q.db, `local_uri IS NOT NULL`)
	if err != nil {
		return err
	}
	for _, a := range all {
		there, err := q.opts.Local.Exists(ctx, a.LocalURI)
		if err != nil {
			return err
		}
		if there || a.State == QueuedDelete {
			continue
		}
		err = q.change(ctx, a, func(a *Attachment) {
			a.LocalURI = ""
			switch a.State {
			case Synced:
				a.State = QueuedDownload
			case QueuedUpload:
				// Nobody has the file any more, unless another version was uploaded before.
				a.State = Archived
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}
