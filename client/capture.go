package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ncruces/go-sqlite3"

	"github.com/millrace-sync/millrace/client/internal/engine"
	"github.com/millrace-sync/millrace/client/internal/local"
)

// ErrRawTable says that a raw table cannot be used: the schema does not have it, or the
// database does not, or it has no column id.
var ErrRawTable = errors.New("unusable raw table")

// CaptureWrites has the app's writes to a raw table queued for upload, by triggers on it.
// Name is that of the schema. Call it once the app has created the table, and again
// whenever it has altered its columns; where nothing has changed it does nothing.
// Triggers of another kind that change the table should not run while
// powersync_in_sync_operation() is true.
func (d *DB) CaptureWrites(ctx context.Context, name string) error {
	d.mu.Lock()
	at := slices.IndexFunc(d.schema.RawTables, func(r RawTable) bool { return r.Name == name })
	var raw RawTable
	if at >= 0 {
		raw = d.schema.RawTables[at]
	}
	d.mu.Unlock()
	err := ErrRawTable
	switch {
	case at < 0:
		err = fmt.Errorf("%w: the schema has none of this name", err)
	case raw.Table == "":
		err = fmt.Errorf("%w: the schema does not say which Table it is", err)
	default:
		err = d.exclusive(ctx, func(c *local.Conn) error { return raw.capture(c.Conn, d.store) })
	}
	if err != nil {
		return fmt.Errorf("capture writes to raw table %s: %w", name, err)
	}
	return nil
}

// capture makes the triggers what they should be.
func (r *RawTable) capture(db *sqlite3.Conn, s *store) error {
	columns, err := engine.RawColumns(s, r.Table, r.Columns)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRawTable, err)
	}
	if r.Previous != nil {
		for _, c := range r.Previous.Columns {
			if !slices.Contains(columns, c) {
				return fmt.Errorf("%w: Previous: the table has no synced column %q", ErrRawTable, c)
			}
		}
	}
	existing, err := strings2(db, `SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND name GLOB 'ps_raw_*'`)
	if err != nil {
		return err
	}
	for _, t := range r.triggers(columns) {
		if existing[t.name] == t.sql {
			continue
		}
		if err := db.Exec("DROP TRIGGER IF EXISTS " + quoteID(t.name) + ";" + t.sql); err != nil {
			return fmt.Errorf("create trigger %q: %w", t.name, err)
		}
	}
	return nil
}

// triggers returns the triggers that queue writes. Their texts are those that the official
// extension generates.
func (r *RawTable) triggers(columns []string) []namedSQL {
	t := Table{Name: r.Name, Previous: r.Previous, IgnoreEmptyUpdates: r.IgnoreEmptyUpdates, InsertOnly: r.InsertOnly}
	for _, c := range columns {
		t.Columns = append(t.Columns, Text(c))
	}
	row := t.object("NEW", nil)
	var changed string
	if r.Columns != nil {
		// Columns that are not synced may change as they like.
		changed = " AND\n("
		for i, c := range columns {
			if i > 0 {
				changed += " OR "
			}
			changed += "OLD." + quoteID(c) + " IS NOT NEW." + quoteID(c)
		}
		changed += ")"
	}
	const refuse = "SELECT RAISE(FAIL, 'Unexpected update on insert-only table');\n"
	inserted := t.queue("PUT", "NEW.id", fmt.Sprintf("json(powersync_diff('{}', %s))", row), "")
	updated := checkSameID + t.queue("PATCH", "NEW.id", fmt.Sprintf("json(powersync_diff(%s, %s))", t.object("OLD", nil), row), "")
	deleted := t.queue("DELETE", "OLD.id", "", "")
	if r.InsertOnly {
		inserted, updated, deleted = t.queueInsert(), refuse, refuse
	}
	return []namedSQL{
		r.trigger("INSERT", "", inserted), r.trigger("UPDATE", changed, updated), r.trigger("DELETE", "", deleted),
	}
}

func (r *RawTable) trigger(event, when, body string) namedSQL {
	name := r.triggerName(event)
	return namedSQL{name, fmt.Sprintf("CREATE TRIGGER %s AFTER %s ON %s FOR EACH ROW WHEN NOT powersync_in_sync_operation()%s BEGIN\n%sEND",
		quoteID(name), event, quoteID(r.Table), when, body)}
}

func (r *RawTable) triggerName(event string) string {
	return "ps_raw_" + strings.ToLower(event) + "_" + r.Table
}

// clear removes the synced rows.
func (r *RawTable) clear(c *local.Conn) error {
	if r.Clear != "" {
		return c.Exec(r.Clear)
	}
	if r.Table == "" {
		return nil
	}
	there, err := strings2(c.Conn, `SELECT name, '' FROM sqlite_master WHERE type = 'table' AND name = `+quoteText(r.Table))
	if err != nil || len(there) == 0 {
		return err
	}
	return c.Exec("DELETE FROM " + quoteID(r.Table))
}
