package main

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"

	"github.com/millrace-sync/millrace/client"
)

// schema is what this client keeps: the columns of the server's table that it shows or writes.
var schema = client.Schema{Tables: []client.Table{{
	Name:    "greeting",
	Columns: []client.Column{client.Text("owner"), client.Text("message"), client.Text("author"), client.Text("created_at")},
}}}

// note is a row of the table.
type note struct {
	ID, Message, Author string
	CreatedAt           string `db:"created_at"`
}

const listing = `SELECT id, ifnull(message, '') AS message, ifnull(author, '') AS author, ifnull(created_at, '') AS created_at
FROM greeting ORDER BY created_at, id`

// maxMessage is the longest message, in characters.
const maxMessage = 10_000

// notes is the app without its screen.
type notes struct {
	db        *client.DB
	user      string
	connector client.Connector
}

func (n *notes) connect() error { return n.db.Connect(n.connector, nil) }

func (n *notes) add(ctx context.Context, message string) error {
	if err := check(message); err != nil {
		return err
	}
	_, err := n.db.ExecContext(ctx, `INSERT INTO greeting(id, owner, message, author, created_at) VALUES (uuid(), ?, ?, ?, ?)`,
		n.user, message, n.user, time.Now().UTC().Format("2006-01-02T15:04:05.000Z"))
	return err
}

func (n *notes) edit(ctx context.Context, id, message string) error {
	if err := check(message); err != nil {
		return err
	}
	_, err := n.db.ExecContext(ctx, `UPDATE greeting SET message = ? WHERE id = ?`, message, id)
	return err
}

func (n *notes) remove(ctx context.Context, id string) error {
	_, err := n.db.ExecContext(ctx, `DELETE FROM greeting WHERE id = ?`, id)
	return err
}

func check(message string) error {
	switch {
	case message == "":
		return errors.New("a note needs a text")
	case utf8.RuneCountInString(message) > maxMessage:
		return fmt.Errorf("a note has at most %d characters", maxMessage)
	}
	return nil
}

// What the screen is told of.
type (
	notesMsg    []note
	queueMsg    int64 // entries that wait for upload
	statusMsg   client.Status
	rejectedMsg client.Rejection
	failedMsg   struct{ err error }
)

func (n *notes) followNotes(ctx context.Context, send func(tea.Msg)) {
	for list, err := range client.Watch[note](ctx, n.db, nil, listing) {
		if err != nil {
			send(failedMsg{err})
			return
		}
		send(notesMsg(list))
	}
}

func (n *notes) followQueue(ctx context.Context, send func(tea.Msg)) {
	for count, err := range client.Watch[int64](ctx, n.db, nil, `SELECT count(*) FROM ps_crud`) {
		if err != nil {
			send(failedMsg{err})
			return
		}
		send(queueMsg(count[0]))
	}
}

func (n *notes) followStatus(ctx context.Context, send func(tea.Msg)) {
	for s := range n.db.StatusChanges(ctx) {
		send(statusMsg(s))
	}
}
