//go:build unix

package chaos

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/millrace-sync/millrace/client"
)

// deviceEnv holds the deviceConfig of the process that is to be a Go device.
const deviceEnv = "CHAOS_DEVICE"

// deviceConfig is what a device's program is given, whichever SDK it is on.
type deviceConfig struct {
	File    string `json:"file"`
	User    string `json:"user"`
	Backend string `json:"backend"` // URL
	Service string `json:"service"` // URL; where to sync, whatever the backend says
	Socket  bool   `json:"socket"`  // sync over a WebSocket, where the SDK can
}

// A deviceCommand is a line that a device's program reads, a deviceAnswer the line that
// it writes when that is done.
type deviceCommand struct {
	Do  string `json:"do"` // write, read or state
	Ops []Op   `json:"ops,omitempty"`
}

type deviceAnswer struct {
	Error     string `json:"error,omitempty"`
	Rows      Values `json:"rows,omitempty"`      // of read
	Confirmed bool   `json:"confirmed,omitempty"` // of state: nothing waits, neither for upload nor to come back
	Detail    string `json:"detail,omitempty"`    // of state: for people
}

// retryAfter is a device's pause after something went wrong.
const retryAfter = 200 * time.Millisecond

// goDevice is the program of a Go device: it does what it reads until its input ends.
func goDevice(config string) error {
	var c deviceConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	ctx := context.Background()
	db, err := client.Open(ctx, c.File, client.Schema{Tables: []client.Table{{
		Name: "greeting", Columns: []client.Column{client.Text("owner"), client.Text("message"), client.Text("author"), client.Text("created_at")},
	}}}, nil)
	if err != nil {
		return err
	}
	backend := &client.Backend{URL: c.Backend, User: c.User, Client: &http.Client{Timeout: 5 * time.Second}}
	if err := db.Connect(connector{backend, c.Service}, &client.ConnectOptions{RetryDelay: retryAfter, UploadThrottle: 10 * time.Millisecond}); err != nil {
		return err
	}
	in, out := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	in.Buffer(nil, maxLine)
	for in.Scan() {
		var command deviceCommand
		if err := json.Unmarshal(in.Bytes(), &command); err != nil {
			return err
		}
		answer, err := doCommand(ctx, db, c.User, command)
		if err != nil {
			answer.Error = err.Error()
		}
		if err := out.Encode(answer); err != nil {
			return err
		}
	}
	return errors.Join(in.Err(), db.Close())
}

func doCommand(ctx context.Context, db *client.DB, user string, command deviceCommand) (answer deviceAnswer, err error) {
	switch command.Do {
	case "write":
		err = db.WriteTx(ctx, func(tx *sql.Tx) error {
			for _, op := range command.Ops {
				var err error
				switch op.Do {
				case Put:
					_, err = tx.ExecContext(ctx, `INSERT INTO greeting(id, owner, message) VALUES (?, ?, ?)`, op.ID, user, op.Value)
				case Patch:
					_, err = tx.ExecContext(ctx, `UPDATE greeting SET message = ? WHERE id = ?`, op.Value, op.ID)
				case Delete:
					_, err = tx.ExecContext(ctx, `DELETE FROM greeting WHERE id = ?`, op.ID)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	case "read":
		type row struct{ ID, Message string }
		rows, err := client.GetAll[row](ctx, db.Reader(), `SELECT id, message FROM greeting`)
		if err != nil {
			return answer, err
		}
		answer.Rows = Values{}
		for _, r := range rows {
			answer.Rows[r.ID] = r.Message
		}
	case "state":
		type state struct {
			Queued    int
			Confirmed bool
		}
		s, err := client.Get[state](ctx, db.Reader(), `
WITH kv AS (
	SELECT max(CASE key WHEN 'target_checkpoint_request_id' THEN CAST(value AS INTEGER) END) AS target,
	       max(CASE key WHEN 'last_applied_checkpoint_request_id' THEN CAST(value AS INTEGER) END) AS applied
	FROM ps_kv)
SELECT (SELECT count(*) FROM ps_crud) AS queued, target IS NULL OR coalesce(applied >= target, 0) AS confirmed FROM kv`)
		if err != nil {
			return answer, err
		}
		answer.Confirmed = s.Queued == 0 && s.Confirmed
		answer.Detail = fmt.Sprintf("%d writes queued, confirmed %v, %+v", s.Queued, s.Confirmed, db.Status())
	default:
		err = fmt.Errorf("no command %q", command.Do)
	}
	return answer, err
}

// connector is the notes app's backend for a device that has a way of its own to the service.
type connector struct {
	*client.Backend
	service string
}

func (c connector) FetchCredentials(ctx context.Context) (client.Credentials, error) {
	credentials, err := c.Backend.FetchCredentials(ctx)
	credentials.Endpoint = c.service
	return credentials, err
}
