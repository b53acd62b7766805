package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/millrace-sync/millrace/protocol"
)

// Backend is a [Connector] for backends that speak the protocol of Millrace's backend kit:
//
//	POST {URL}/api/data  with a JSON array of entries and the user's token as Bearer
//
// answers 200 once every entry is settled: in the database or, for those listed as rejected,
// kept by the backend for its operator. Any other answer means that nothing was written.
// Exactly the entries that an answer settles are completed.
type Backend struct {
	// URL is the backend's.
	URL string
	// SignIn returns the user's credentials; its token serves both the sync service and the
	// backend. Nil asks the kit's development sign-in, GET {URL}/api/auth/token?user={User}.
	SignIn func(ctx context.Context) (Credentials, error)
	User   string
	// OnRejected is told of entries that the backend has refused for good, before they leave
	// the queue. It may hear of one again if the program ends in between.
	OnRejected func(Rejection)
	// Client makes the requests; nil is http.DefaultClient.
	Client *http.Client
	// MaxEntries and MaxBytes bound an upload, in entries and in bytes of its JSON; 0 means 1,000
	// and 1 MiB. A transaction beyond MaxEntries, or beyond what the backend takes, is
	// uploaded in parts, each a transaction of its own there; MaxBytes divides none.
	MaxEntries, MaxBytes int

	mu    sync.Mutex
	creds *Credentials
}

// Rejection is an entry that the backend refused for good, and why.
type Rejection struct {
	Entry Entry
	// Status is the HTTP status that the entry would have had alone; Code is stable,
	// Reason for people.
	Status       int
	Code, Reason string
}

const (
	defaultMaxEntries = 1000
	defaultMaxBytes   = 1 << 20
	// maxUploadAnswer bounds the answer to an upload, in bytes.
	maxUploadAnswer = 4 << 20
)

// FetchCredentials signs in.
func (b *Backend) FetchCredentials(ctx context.Context) (Credentials, error) {
	signIn := b.SignIn
	if signIn == nil {
		signIn = b.developmentSignIn
	}
	creds, err := signIn(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.creds = nil
	if err == nil {
		b.creds = &creds
	}
	return creds, err
}

func (b *Backend) developmentSignIn(ctx context.Context) (Credentials, error) {
	var answer struct{ Endpoint, Token string }
	err := b.ask(ctx, http.MethodGet, "/api/auth/token?user="+url.QueryEscape(b.User), "", nil, &answer)
	if err != nil {
		return Credentials{}, fmt.Errorf("sign in at the backend: %w", err)
	}
	return Credentials{Endpoint: answer.Endpoint, Token: answer.Token}, nil
}

// UploadData uploads the queue.
func (b *Backend) UploadData(ctx context.Context, db *DB) error {
	limit := orDefault(b.MaxEntries, defaultMaxEntries)
	for {
		batch, err := db.NextBatch(ctx, limit)
		if err != nil || batch == nil {
			return err
		}
		bounded(batch, orDefault(b.MaxBytes, defaultMaxBytes))
		rejected, err := b.upload(ctx, batch.Entries)
		if isStatus(err, http.StatusRequestEntityTooLarge) && len(batch.Entries) > 1 {
			limit = len(batch.Entries) / 2
			continue
		}
		if err != nil {
			return err
		}
		for _, r := range rejected {
			if b.OnRejected != nil {
				b.OnRejected(r)
			}
		}
		if err := batch.Complete(ctx); err != nil {
			return err
		}
	}
}

// bounded leaves of a batch the whole transactions within maxBytes, one at least. A transaction
// of which the batch has but a part stays only if nothing comes before it.
func bounded(b *Batch, maxBytes int) {
	bytes, end := 0, 0 // of the whole transactions so far
	for i := range b.Entries {
		bytes += len(b.Entries[i].Data) + len(b.Entries[i].Previous) + len(b.Entries[i].Metadata) + entryOverhead
		last := i == len(b.Entries)-1
		if last && b.More || !last && sameTransaction(&b.Entries[i], &b.Entries[i+1]) {
			continue // the transaction may go on
		}
		if bytes > maxBytes && end > 0 {
			break
		}
		end = i + 1
	}
	if end > 0 {
		b.Entries = b.Entries[:end]
	}
}

// entryOverhead is about what an entry's JSON has besides its values, in bytes.
const entryOverhead = 150

// sameTransaction reports whether two entries that follow each other belong together. One
// without a number stands alone.
func sameTransaction(a, b *Entry) bool { return a.Transaction != 0 && a.Transaction == b.Transaction }

// upload sends entries and returns those that were refused. It signs in again, once, if
// the token no longer holds.
func (b *Backend) upload(ctx context.Context, entries []Entry) ([]Rejection, error) {
	body, err := json.Marshal(entries)
	if err != nil {
		return nil, fmt.Errorf("upload: %w", err)
	}
	b.mu.Lock()
	creds := b.creds
	b.mu.Unlock()
	var answer struct {
		Applied  int
		Rejected []struct {
			Index, Status int
			Code, Reason  string
		}
	}
	for fresh := creds == nil; ; fresh = true {
		if fresh {
			c, err := b.FetchCredentials(ctx)
			if err != nil {
				return nil, fmt.Errorf("upload: %w", err)
			}
			creds = &c
		}
		err := b.ask(ctx, http.MethodPost, "/api/data", creds.Token, body, &answer)
		if isStatus(err, http.StatusUnauthorized) && !fresh {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("upload: %w", err)
		}
		break
	}
	if answer.Applied+len(answer.Rejected) != len(entries) {
		return nil, fmt.Errorf("upload: the backend settled %d entries of %d; they stay in the queue", answer.Applied+len(answer.Rejected), len(entries))
	}
	rejected := make([]Rejection, len(answer.Rejected))
	for i, r := range answer.Rejected {
		if r.Index < 0 || r.Index >= len(entries) {
			return nil, fmt.Errorf("upload: the backend refused entry %d of %d", r.Index, len(entries))
		}
		rejected[i] = Rejection{entries[r.Index], r.Status, r.Code, r.Reason}
	}
	return rejected, nil
}

// ask makes a request and decodes the JSON that answers it. An answer other than 200 is a *refusal.
func (b *Backend) ask(ctx context.Context, method, path, token string, body []byte, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(b.URL, "/")+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	client := b.Client
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return refused(resp)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxUploadAnswer)).Decode(answer); err != nil {
		return fmt.Errorf("the backend's answer is not the JSON expected; is %s right? %w", b.URL, err)
	}
	return nil
}

// isStatus reports whether an error is an answer of an HTTP status.
func isStatus(err error, status int) bool {
	e := (*protocol.Error)(nil)
	return errors.As(err, &e) && e.Status == status
}
