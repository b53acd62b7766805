package engine

import "fmt"

// Store runs SQL in the caller's transaction. Arguments are int64, float64, string,
// []byte (text that is not kept) or nil.
type Store interface {
	Exec(sql string, args ...any) error
	// Query calls row for each row of the result. A Row is valid during the call.
	Query(sql string, row func(Row) error, args ...any) error
	// Syncing marks what is written as coming from the service, so that triggers
	// do not queue it.
	Syncing(on bool)
}

// Row is a row of a result. Columns count from 0.
type Row interface {
	Int64(column int) int64
	Text(column int) string
	// Bytes returns a text, valid until the row is.
	Bytes(column int) []byte
	Null(column int) bool
}

// The keys of ps_kv that make up the gate.
const (
	keyTarget  = "target_checkpoint_request_id"
	keySeen    = "last_seen_checkpoint_request_id"
	keyApplied = "last_applied_checkpoint_request_id"
)

// number reads a number from ps_kv.
func number(s Store, key string) (n int64, ok bool, err error) {
	err = s.Query(`SELECT CAST(value AS INTEGER) FROM ps_kv WHERE key = ?`, func(r Row) error {
		n, ok = r.Int64(0), true
		return nil
	}, key)
	if err != nil {
		return 0, false, fmt.Errorf("read %s: %w", key, err)
	}
	return n, ok, nil
}

func setNumber(s Store, key string, n int64) error {
	err := s.Exec(`INSERT INTO ps_kv(key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value`, key, n)
	if err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return nil
}

// Target returns the write checkpoint that the gate waits for; without one it is open.
func Target(s Store) (target int64, waits bool, err error) { return number(s, keyTarget) }

// SetTarget makes the gate wait for a write checkpoint.
func SetTarget(s Store, target int64) error { return setNumber(s, keyTarget, target) }

// gateOpen reports whether downloaded rows may become visible: nothing waits for
// upload, and what was uploaded has come back.
func gateOpen(s Store) (bool, error) {
	target, waits, err := number(s, keyTarget)
	if err != nil {
		return false, err
	}
	if waits {
		seen, _, err := number(s, keySeen)
		if err != nil || target > seen {
			return false, err
		}
	}
	open := true
	err = s.Query(`SELECT 1 FROM ps_crud LIMIT 1`, func(Row) error {
		open = false
		return nil
	})
	return open, err
}
