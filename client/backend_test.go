package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// kit is a backend that does what the test says.
type kit struct {
	*httptest.Server
	signIns int
	uploads []string // what came, as token and ids
	answer  func(w http.ResponseWriter, entries []Entry)
}

func newKit(t *testing.T) *kit {
	k := &kit{}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/auth/token", func(w http.ResponseWriter, r *http.Request) {
		k.signIns++
		fmt.Fprintf(w, `{"token": "%s %d", "endpoint": "http://service"}`, r.URL.Query().Get("user"), k.signIns)
	})
	mux.HandleFunc("POST /api/data", func(w http.ResponseWriter, r *http.Request) {
		var entries []Entry
		text, err := io.ReadAll(r.Body)
		if err == nil {
			err = json.Unmarshal(text, &entries)
		}
		if err != nil || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("an upload of %q: %v", text, err)
		}
		ids := []string{strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")}
		for _, e := range entries {
			ids = append(ids, e.RowID)
		}
		k.uploads = append(k.uploads, strings.Join(ids, ","))
		if k.answer != nil {
			k.answer(w, entries)
			return
		}
		fmt.Fprintf(w, `{"applied": %d, "rejected": []}`, len(entries))
	})
	k.Server = httptest.NewServer(mux)
	t.Cleanup(k.Close)
	return k
}

func (k *kit) taken() string {
	s := strings.Join(k.uploads, "; ")
	k.uploads = nil
	return s
}

func queued(t *testing.T, d *DB) string {
	t.Helper()
	ids, err := GetAll[string](t.Context(), d, `SELECT data ->> 'id' FROM ps_crud ORDER BY id`)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(ids, ",")
}

// Uploads hold whole transactions as far as the bounds allow, and exactly what they settle
// leaves the queue.
func TestBackendUpload(t *testing.T) {
	large := fmt.Sprintf(`'%s'`, strings.Repeat("x", 1000))
	refuse := func(status int, code string) func(http.ResponseWriter, []Entry) {
		return func(w http.ResponseWriter, _ []Entry) {
			w.Header().Set("Retry-After", "7")
			http.Error(w, fmt.Sprintf(`{"error": {"code": %q, "message": "because"}}`, code), status)
		}
	}
	for name, tc := range map[string]struct {
		writes         []string // each a transaction
		entries, bytes int
		answer         func(http.ResponseWriter, []Entry)
		uploads        string
		queue          string
		err            string
		wait           time.Duration
	}{
		"nothing":  {},
		"together": {writes: []string{"('a'), ('b')", "('c')"}, uploads: "ann 1,a,b,c"},
		"bound": {
			writes: []string{"('a')", "('b'), ('c')", "('d')"}, entries: 2,
			uploads: "ann 1,a; ann 1,b,c; ann 1,d",
		},
		"too large a transaction": {
			writes: []string{"('a')", "('b'), ('c'), ('d')", "('e')"}, entries: 2,
			uploads: "ann 1,a; ann 1,b,c; ann 1,d,e",
		},
		"bytes": {
			writes: []string{"('a')", "('b'), ('c')", "('d')"}, bytes: 400,
			uploads: "ann 1,a; ann 1,b,c; ann 1,d",
		},
		"too large": {
			writes: []string{"('a')", "('b'), ('c'), ('d'), ('e')"},
			answer: func(w http.ResponseWriter, entries []Entry) {
				if len(entries) > 2 {
					http.Error(w, "", http.StatusRequestEntityTooLarge)
					return
				}
				fmt.Fprintf(w, `{"applied": %d}`, len(entries))
			},
			uploads: "ann 1,a,b,c,d,e; ann 1,a; ann 1,b,c; ann 1,d,e",
		},
		"one too large": {writes: []string{"(" + large + ")"}, answer: refuse(413, "too_large"), uploads: "ann 1," + large[1:1001], queue: large[1:1001], err: "[too_large] because", wait: 7 * time.Second},
		"down":          {writes: []string{"('a')"}, answer: refuse(503, "unavailable"), uploads: "ann 1,a", queue: "a", err: "[unavailable] because", wait: 7 * time.Second},
		"not for us":    {writes: []string{"('a')"}, answer: refuse(401, "bad_token"), uploads: "ann 1,a", queue: "a", err: "[bad_token] because", wait: 7 * time.Second},
		"no JSON": {
			writes: []string{"('a')"}, answer: func(w http.ResponseWriter, _ []Entry) { fmt.Fprint(w, "<p>Hello") },
			uploads: "ann 1,a", queue: "a", err: "is not the JSON expected",
		},
		"not all": {
			writes: []string{"('a'), ('b')"}, answer: func(w http.ResponseWriter, _ []Entry) { fmt.Fprint(w, `{"applied": 1}`) },
			uploads: "ann 1,a,b", queue: "a,b", err: "settled 1 entries of 2",
		},
		"beyond": {
			writes: []string{"('a')"}, answer: func(w http.ResponseWriter, _ []Entry) { fmt.Fprint(w, `{"rejected": [{"index": 1}]}`) },
			uploads: "ann 1,a", queue: "a", err: "refused entry 1 of 1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, k := newDB(t, todos), newKit(t)
			k.answer = tc.answer
			for _, values := range tc.writes {
				mustExec(t, d, `INSERT INTO todos(id) VALUES `+values)
			}
			b := Backend{URL: k.URL + "/", User: "ann", MaxEntries: tc.entries, MaxBytes: tc.bytes}
			err := b.UploadData(t.Context(), d)
			if (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("got %v, want %q", err, tc.err)
			}
			if got := waitFor(err); got != tc.wait {
				t.Errorf("asks for a wait of %v, want %v", got, tc.wait)
			}
			if got := k.taken(); got != tc.uploads {
				t.Errorf("uploads %q, want %q", got, tc.uploads)
			}
			if got := queued(t, d); got != tc.queue {
				t.Errorf("queue %q, want %q", got, tc.queue)
			}
		})
	}
}

// What was refused for good is told before it leaves the queue.
func TestBackendRejections(t *testing.T) {
	d, k := newDB(t, todos), newKit(t)
	k.answer = func(w http.ResponseWriter, _ []Entry) {
		fmt.Fprint(w, `{"applied": 1, "rejected": [{"index": 1, "status": 422, "code": "bad_value", "reason": "no"}]}`)
	}
	mustExec(t, d, `INSERT INTO todos(id) VALUES ('a'), ('b')`)
	var told []string
	b := Backend{URL: k.URL, User: "ann", OnRejected: func(r Rejection) {
		told = append(told, fmt.Sprint(r.Entry.Op, " ", r.Entry.RowID, " ", r.Status, " ", r.Code, " ", r.Reason, "; queue ", queued(t, d)))
	}}
	if err := b.UploadData(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(told), "[PUT b 422 bad_value no; queue a,b]"; got != want {
		t.Errorf("told %s, want %s", got, want)
	}
	if got := queued(t, d); got != "" {
		t.Errorf("queue %q", got)
	}
}

// A token that no longer holds is replaced once; the app may sign in as it likes.
func TestBackendSignIn(t *testing.T) {
	d, k := newDB(t, todos), newKit(t)
	k.answer = func(w http.ResponseWriter, entries []Entry) {
		if strings.Contains(k.uploads[len(k.uploads)-1], "ann 1") {
			http.Error(w, "", http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, `{"applied": 1}`)
	}
	b := &Backend{URL: k.URL, User: "ann"}
	if creds, err := b.FetchCredentials(t.Context()); err != nil || creds != (Credentials{"http://service", "ann 1"}) {
		t.Fatalf("got %+v, %v", creds, err)
	}
	mustExec(t, d, `INSERT INTO todos(id) VALUES ('a')`)
	if err := b.UploadData(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if got := k.taken(); got != "ann 1,a; ann 2,a" {
		t.Errorf("uploads %q", got)
	}
	b.SignIn = func(context.Context) (Credentials, error) { return Credentials{}, ErrSignedOut }
	if _, err := b.FetchCredentials(t.Context()); !errors.Is(err, ErrSignedOut) {
		t.Errorf("got %v", err)
	}
	mustExec(t, d, `INSERT INTO todos(id) VALUES ('b')`)
	if err := b.UploadData(t.Context(), d); !errors.Is(err, ErrSignedOut) || queued(t, d) != "b" {
		t.Errorf("got %v with %q in the queue", err, queued(t, d))
	}
}
