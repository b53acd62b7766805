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
	// keyRequested is the newest number that the client itself gave a checkpoint.
	keyRequested = "last_requested_checkpoint_request_id"
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

// unknownTarget stands in the gate for local writes whose checkpoint has no number yet.
const unknownTarget = 1<<63 - 1

// FirstRequest returns the number with which a client that numbers its checkpoints
// itself asks the service, at the begin of a connection, for the newest that both know.
func FirstRequest(s Store) (int64, error) {
	target, _, err := Target(s)
	if err != nil {
		return 0, err
	}
	if target == unknownTarget {
		target = 0
	}
	requested, _, err := number(s, keyRequested)
	return max(requested, target, 1), err
}

// SeedRequests records the number that the service has answered.
func SeedRequests(s Store, id int64) error { return setNumber(s, keyRequested, id) }

// NextRequest returns the number after the last. It needs SeedRequests before.
func NextRequest(s Store) (int64, error) {
	last, ok, err := number(s, keyRequested)
	if err != nil {
		return 0, err
	}
	if !ok {
		return 0, fmt.Errorf("number a checkpoint request: the service has not told the last number yet")
	}
	return last + 1, setNumber(s, keyRequested, last+1)
}

// LastRequest returns the number of the last request if the gate waits for it or an
// earlier one that has not been seen; 0 if it does not.
func LastRequest(s Store) (int64, error) {
	target, waits, err := Target(s)
	if err != nil || !waits || target == unknownTarget {
		return 0, err
	}
	seen, _, err := number(s, keySeen)
	if err != nil || seen >= target {
		return 0, err
	}
	requested, _, err := number(s, keyRequested)
	return max(requested, target), err
}

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
