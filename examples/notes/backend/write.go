package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// maxWrites is how many writes one upload may hold.
const maxWrites = 1000

// A write is one entry of a client's upload queue, as the official SDKs print it.
type write struct {
	OpID int64                      `json:"op_id"`
	Op   string                     `json:"op"`   // PUT, PATCH or DELETE
	Type string                     `json:"type"` // table
	ID   string                     `json:"id"`   // row id
	Data map[string]json.RawMessage `json:"data"` // column → value; absent for DELETE

	raw json.RawMessage // as it was sent
}

// A rejection says why a write can never be applied: status is the HTTP status
// that it would have had alone, code is stable, reason is for people.
type rejection struct {
	Index  int    `json:"index"` // place in the upload, from 0
	OpID   int64  `json:"op_id,omitempty"`
	Type   string `json:"type"`
	ID     string `json:"id"`
	Status int    `json:"status"`
	Code   string `json:"code"`
	Reason string `json:"reason"`
}

func (r *rejection) Error() string { return r.Code + ": " + r.Reason }

func reject(status int, code, format string, args ...any) *rejection {
	return &rejection{Status: status, Code: code, Reason: fmt.Sprintf(format, args...)}
}

// A table is what clients may write: its columns with their Postgres types, by
// which the text form of a value is cast, and the column that names the owner.
type table struct {
	id      string // type of the column "id"
	owner   string
	columns map[string]string
}

// tables holds every table that clients may write to.
var tables = map[string]table{
	"greeting": {
		id:    "uuid",
		owner: "owner",
		columns: map[string]string{
			"owner":      "text",
			"message":    "text",
			"author":     "text",
			"created_at": "timestamptz",
		},
	},
}

// parseUpload reads the writes of an upload's body, a JSON array.
func parseUpload(body []byte) ([]write, error) {
	if trimmed := bytes.TrimSpace(body); len(trimmed) == 0 || trimmed[0] != '[' {
		return nil, errors.New("the body is not a JSON array of writes")
	}
	var raws []json.RawMessage
	if err := json.Unmarshal(body, &raws); err != nil {
		return nil, fmt.Errorf("the body is not a JSON array: %w", err)
	}
	if len(raws) > maxWrites {
		return nil, fmt.Errorf("%d writes in one upload: send at most %d", len(raws), maxWrites)
	}
	writes := make([]write, len(raws))
	for i, raw := range raws {
		if err := json.Unmarshal(raw, &writes[i]); err != nil {
			return nil, fmt.Errorf("write %d: %w", i, err)
		}
		if writes[i].Op == "" || writes[i].Type == "" || writes[i].ID == "" {
			return nil, fmt.Errorf("write %d: \"op\", \"type\" and \"id\" are needed", i)
		}
		writes[i].raw = raw
	}
	return writes, nil
}

// A statement is one SQL command with its parameters, all text, and the row it
// is about.
type statement struct {
	sql  string
	args []*string
	// exists asks whether the row is there, whoever owns it: it tells a write
	// that found no row from one that found somebody else's.
	exists string
	// missing is the rejection if the row is not there; nil when that is no
	// mistake (a delete that was sent twice).
	missing *rejection
}

// plan turns a user's write into SQL. Identifiers come from tables alone, never
// from the write.
func (w *write) plan(user string) (statement, *rejection) {
	t, ok := tables[w.Type]
	if !ok {
		return statement{}, reject(http.StatusUnprocessableEntity, "unknown_table",
			"no table %q is open to clients", w.Type)
	}
	columns := slices.Sorted(maps.Keys(w.Data))
	values := make(map[string]*string, len(columns))
	for _, c := range columns {
		if _, ok := t.columns[c]; !ok {
			return statement{}, reject(http.StatusUnprocessableEntity, "unknown_column",
				"table %q has no column %q that clients may write", w.Type, c)
		}
		values[c] = text(w.Data[c])
	}
	if owner, ok := values[t.owner]; ok && (owner == nil || *owner != user) {
		return statement{}, reject(http.StatusForbidden, "not_owner",
			"column %q names somebody other than the signed-in user", t.owner)
	}

	s := statement{exists: fmt.Sprintf("SELECT EXISTS (SELECT FROM %s WHERE id = $1::%s)", w.Type, t.id)}
	s.args = append(s.args, &w.ID, &user)
	var set []string
	param := func(c string) string {
		s.args = append(s.args, values[c])
		return fmt.Sprintf("$%d::text::%s", len(s.args), t.columns[c])
	}
	switch w.Op {
	case "PUT":
		names, params := []string{"id", t.owner}, []string{"$1::text::" + t.id, "$2::text"}
		set = append(set, t.owner+" = excluded."+t.owner)
		for _, c := range columns {
			if c == t.owner {
				continue
			}
			names, params = append(names, c), append(params, param(c))
			set = append(set, c+" = excluded."+c)
		}
		s.sql = fmt.Sprintf("INSERT INTO %s AS t (%s) VALUES (%s) ON CONFLICT (id) DO UPDATE SET %s WHERE t.%s = $2::text",
			w.Type, strings.Join(names, ", "), strings.Join(params, ", "), strings.Join(set, ", "), t.owner)
	case "PATCH":
		set = append(set, t.owner+" = "+t.owner)
		for _, c := range columns {
			if c != t.owner {
				set = append(set, c+" = "+param(c))
			}
		}
		s.sql = fmt.Sprintf("UPDATE %s SET %s WHERE id = $1::text::%s AND %s = $2::text",
			w.Type, strings.Join(set, ", "), t.id, t.owner)
		s.missing = reject(http.StatusNotFound, "row_missing", "the row to change does not exist")
	case "DELETE":
		s.sql = fmt.Sprintf("DELETE FROM %s WHERE id = $1::text::%s AND %s = $2::text", w.Type, t.id, t.owner)
	default:
		return statement{}, reject(http.StatusUnprocessableEntity, "unknown_op",
			"operation %q is none of PUT, PATCH and DELETE", w.Op)
	}
	return s, nil
}

// text returns a JSON value in the text form that Postgres casts from; nil is
// null. Objects and arrays stay JSON.
func text(raw json.RawMessage) *string {
	var s *string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	other := string(raw)
	return &other
}
