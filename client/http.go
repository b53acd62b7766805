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
	"strconv"
	"strings"
	"time"

	"github.com/millrace-sync/millrace/protocol"
)

const (
	// headerTimeout bounds the wait for an answer to begin.
	headerTimeout = 60 * time.Second
	// maxErrorBody and maxAnswer bound what is read of answers that are no stream.
	maxErrorBody = 16 << 10
	// maxLine bounds a line of a stream. Services send chunks of about 1 MB, and
	// rows of up to 15 MB.
	maxLine = 64 << 20
	// maxRetryAfter bounds the wait that a service can ask for.
	maxRetryAfter = 5 * time.Minute
	// answerTimeout bounds requests other than streams.
	answerTimeout = 60 * time.Second
)

// accept prefers BSON, which is cheaper to read.
const accept = protocol.BSONStreamType + ";q=0.9," + protocol.NDJSONType + ";q=0.8"

// refusal is an answer that is no success, with the wait that the service asks for.
type refusal struct {
	err   *protocol.Error
	after time.Duration
}

// waitFor returns the wait that an error asks for, of ours or of a connector, 0 for none.
func waitFor(err error) time.Duration {
	var r interface{ RetryAfter() time.Duration }
	if errors.As(err, &r) {
		return min(r.RetryAfter(), maxRetryAfter)
	}
	return 0
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// RetryAfter returns the wait that the answer asks for.
func (r *refusal) RetryAfter() time.Duration { return r.after }

// refused reads an answer that is no success, of the service or of a backend.
func refused(resp *http.Response) *refusal {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody)) // what there is of it
	r := &refusal{err: protocol.DecodeError(resp.StatusCode, text)}
	var kit struct{ Error struct{ Message string } } // the backend kit's form
	if json.Unmarshal(text, &kit) == nil && r.err.Description == "" {
		r.err.Description = kit.Error.Message
	}
	after := resp.Header.Get("Retry-After")
	if s, err := strconv.Atoi(after); err == nil {
		r.after = time.Duration(min(s, int(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(after); err == nil {
		r.after = min(time.Until(at), maxRetryAfter)
	}
	return r
}

// send makes a request with credentials. An answer other than 200 is a *refusal.
func (c *connection) send(ctx context.Context, creds Credentials, method, path string, body []byte, header http.Header) (*http.Response, error) {
	endpoint, err := url.Parse(creds.Endpoint)
	if err != nil {
		c.dropCredentials(creds.Token)
		return nil, fmt.Errorf("the endpoint from FetchCredentials: %w", err)
	}
	if endpoint.Scheme != "http" && endpoint.Scheme != "https" {
		c.dropCredentials(creds.Token)
		return nil, fmt.Errorf("the endpoint %q from FetchCredentials is no http or https URL", creds.Endpoint)
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(creds.Endpoint, "/")+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for name, values := range c.opts.Header {
		req.Header[name] = values
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("Authorization", "Token "+creds.Token)
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", "millrace-go")
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusUnauthorized {
		c.dropCredentials(creds.Token)
	}
	return nil, refused(resp)
}

// openStream asks for a sync stream. The caller closes the body.
func (c *connection) openStream(ctx context.Context, creds Credentials, r *protocol.Request) (io.ReadCloser, protocol.Codec, error) {
	resp, err := c.send(ctx, creds, http.MethodPost, "/sync/stream", r.AppendJSON(nil), http.Header{
		"Content-Type": {"application/json"}, "Accept": {accept},
	})
	if err != nil {
		return nil, 0, fmt.Errorf("open a sync stream: %w", err)
	}
	switch t := resp.Header.Get("Content-Type"); t {
	case protocol.BSONStreamType:
		return resp.Body, protocol.BSON, nil
	case protocol.NDJSONType:
		return resp.Body, protocol.JSONLines, nil
	default:
		resp.Body.Close()
		return nil, 0, fmt.Errorf("open a sync stream: the answer is %q, not a sync stream; is the endpoint %s right?", t, creds.Endpoint)
	}
}

// writeCheckpoint asks for the promise that what was uploaded comes back.
func (c *connection) writeCheckpoint(ctx context.Context, clientID string) (int64, error) {
	return c.askCheckpoint(ctx, http.MethodGet, "/write-checkpoint2.json?client_id="+url.QueryEscape(clientID), nil)
}

// askCheckpoint makes a request that is answered with the number of a checkpoint.
func (c *connection) askCheckpoint(ctx context.Context, method, path string, body []byte) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	creds, err := c.credentials(ctx)
	if err != nil {
		return 0, err
	}
	var header http.Header
	if body != nil {
		header = http.Header{"Content-Type": {"application/json"}}
	}
	var text []byte
	resp, err := c.send(ctx, creds, method, path, body, header)
	if err == nil {
		defer resp.Body.Close()
		text, err = io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	}
	var id uint64
	if err == nil {
		id, err = protocol.DecodeWriteCheckpoint(text)
	}
	if err != nil {
		return 0, fmt.Errorf("ask for a write checkpoint: %w", err)
	}
	return int64(id), nil
}
