//go:build unix

package chaos

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
)

// A History is what happened in a client round: what each device did, in its order,
// and what Postgres applied, in the order of commits. It is kept as lines of JSON, one
// Event each.
type History []Event

// Event is one line. Which fields are there depends on Kind.
type Event struct {
	Kind   Kind   `json:"kind"`
	Device string `json:"device,omitempty"` // empty for Apply, unless a writer in Postgres did it
	Number int    `json:"number,omitempty"` // of Write, Done and Read: the device's transaction, from 1
	Ops    []Op   `json:"ops,omitempty"`    // of Write and Apply
	Rows   Values `json:"rows,omitempty"`   // of Read: all that the device shows
	Final  bool   `json:"final,omitempty"`  // of Read: all has come to rest
}

// Kind says what happened.
type Kind string

// The kinds of Event.
const (
	Write Kind = "write" // a device begins a local transaction
	Done  Kind = "done"  // it was committed: from here on it must not be lost
	Read  Kind = "read"  // a device read everything, in one transaction
	Apply Kind = "apply" // Postgres committed a transaction
)

// Values is the state of the table: row ids to values.
type Values map[string]string

// An Op sets or deletes a row. Every transaction of a device ends with an op on the
// device's stamp, a row that nobody else writes, whose value is its number.
type Op struct {
	Do    Do     `json:"do"`
	ID    string `json:"id"`
	Value string `json:"value,omitempty"`
}

// Do says what an Op does.
type Do string

// What an Op does. Postgres reports Put and Delete only.
const (
	Put    Do = "put"    // insert, or replace
	Patch  Do = "patch"  // change the row if it is there
	Delete Do = "delete" // delete the row if it is there
)

// stampPrefix begins the value of a stamp: "stamp DEVICE NUMBER".
const stampPrefix = "stamp"

// stampValue returns the value of a device's stamp after so many transactions.
func stampValue(device string, number int) string {
	return fmt.Sprintf("%s %s %d", stampPrefix, device, number)
}

// parseStamp tells whose stamp a value is, if it is one.
func parseStamp(value string) (device string, number int, ok bool) {
	n, err := fmt.Sscanf(value, stampPrefix+" %s %d", &device, &number)
	return device, number, n == 2 && err == nil
}

// apply does what an op does.
func (v Values) apply(op Op) {
	_, there := v[op.ID]
	switch {
	case op.Do == Put, op.Do == Patch && there:
		v[op.ID] = op.Value
	case op.Do == Delete:
		delete(v, op.ID)
	}
}

// Append writes events as lines.
func (h History) Append(w io.Writer) error {
	for _, e := range h {
		line, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("write history: %w", err)
		}
		if _, err := w.Write(append(line, '\n')); err != nil {
			return fmt.Errorf("write history: %w", err)
		}
	}
	return nil
}

// ReadHistory reads lines.
func ReadHistory(r io.Reader) (h History, err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		if len(lines.Bytes()) == 0 {
			continue
		}
		var e Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("history, line %d: %w", n, err)
		}
		h = append(h, e)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	return h, nil
}
