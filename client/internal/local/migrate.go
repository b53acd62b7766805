package local

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ncruces/go-sqlite3"
)

// Version is the layout's migration.
const Version = 14

// oldest is the oldest migration that Migrate can bring up to date: clients since
// the summer of 2024 write it.
const oldest = 8

// ErrTooOld says that a file is of a layout from before the official clients of 2024.
var ErrTooOld = errors.New("the database is of a layout that is too old: open it once with a current official client, which brings it up to date")

// Migrate creates the tables in an empty database and brings the layout of others to
// [Version], forward by our steps or back by those that the later version left in
// the file. It must run in a transaction, and leaves views to be made again.
func Migrate(db *sqlite3.Conn) error {
	if err := db.Exec(`CREATE TABLE IF NOT EXISTS ps_migration(id INTEGER PRIMARY KEY, down_migrations TEXT)`); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	at, err := version(db)
	for err == nil && at > Version {
		at, err = goBack(db, at)
	}
	switch {
	case err != nil:
	case at == 0:
		err = create(db)
	case at < oldest:
		err = fmt.Errorf("migration %d: %w", at, ErrTooOld)
	default:
		for v := at + 1; v <= Version && err == nil; v++ {
			err = errors.Join(db.Exec(steps[v]), record(db, v))
		}
	}
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

func version(db *sqlite3.Conn) (int, error) {
	s, _, err := db.Prepare(`SELECT ifnull(max(id), 0) FROM ps_migration`)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	if !s.Step() {
		return 0, s.Err()
	}
	return s.ColumnInt(0), nil
}

func create(db *sqlite3.Conn) error {
	if err := db.Exec(tables); err != nil {
		return fmt.Errorf("create tables: %w", err)
	}
	for v := 1; v <= Version; v++ {
		if err := record(db, v); err != nil {
			return err
		}
	}
	s, _, err := db.Prepare(`INSERT INTO ps_kv(key, value) VALUES ('client_id', ?)`)
	if err != nil {
		return err
	}
	return errors.Join(s.BindText(1, UUID()), s.Exec(), s.Close())
}

// record notes that migration v has been done and how to go back.
func record(db *sqlite3.Conn, v int) error {
	s, _, err := db.Prepare(`INSERT INTO ps_migration(id, down_migrations) VALUES (?, ?)`)
	if err != nil {
		return err
	}
	err = s.BindInt(1, v)
	if down := wayBack(v); down != nil {
		err = errors.Join(err, s.BindRawText(2, down))
	}
	if err = errors.Join(err, s.Exec(), s.Close()); err != nil {
		return fmt.Errorf("record migration %d: %w", v, err)
	}
	return nil
}

// step is an element of a migration's down_migrations. The clients write params for
// migration 2 alone, and nobody reads them.
type step struct {
	SQL    string    `json:"sql"`
	Params *[]string `json:"params,omitempty"`
}

// wayBack returns the JSON text of a migration's steps back, nil if there is none.
func wayBack(v int) []byte {
	if down[v] == nil {
		return nil
	}
	list := make([]step, len(down[v]))
	for i, sql := range down[v] {
		list[i].SQL = sql
		if v == 2 {
			list[i].Params = &[]string{}
		}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(list) // strings into a buffer: nothing can fail
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// goBack runs the steps that the file holds for leaving migration at.
func goBack(db *sqlite3.Conn, at int) (int, error) {
	s, _, err := db.Prepare(`SELECT down_migrations FROM ps_migration WHERE id = ?`)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	if err := s.BindInt(1, at); err != nil {
		return 0, err
	}
	if !s.Step() {
		return 0, s.Err()
	}
	var steps []step
	if err := json.Unmarshal(s.ColumnBlob(0, nil), &steps); err != nil {
		return 0, fmt.Errorf("the way back from migration %d: %w", at, err)
	}
	if err := s.Reset(); err != nil {
		return 0, err
	}
	for _, step := range steps {
		if err := db.Exec(step.SQL); err != nil {
			return 0, fmt.Errorf("the way back from migration %d: %w", at, err)
		}
	}
	now, err := version(db)
	if err == nil && now >= at {
		err = fmt.Errorf("the way back from migration %d led nowhere; open the database with the client that wrote it", at)
	}
	return now, err
}
