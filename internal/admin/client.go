package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"

	"github.com/millrace-sync/millrace/protocol"
)

// ErrNotRunning: nobody listens where the service should.
var ErrNotRunning = errors.New("the service does not run")

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 20

// Client asks a running service. The errors of its methods are *protocol.Error if the
// service refuses, ErrNotRunning if there is none.
type Client struct {
	// URL is the service's, such as http://127.0.0.1:8080; Token one of its api.tokens.
	URL, Token string
	HTTP       *http.Client
}

// Deploy makes a sync config the wanted one.
func (c *Client) Deploy(ctx context.Context, content string) error {
	return c.call(ctx, "POST", "/api/sync-rules/v1/deploy", "application/yaml", []byte(content), nil)
}

// Reload has the service read its configuration again.
func (c *Client) Reload(ctx context.Context) error {
	return c.call(ctx, "POST", "/api/millrace/v1/reload", "", nil, nil)
}

// DryRun says what deploying a sync config would do; nil stands for the one of the
// service's configuration.
func (c *Client) DryRun(ctx context.Context, content *string) (*DryRun, error) {
	out := &DryRun{}
	if content == nil {
		return out, c.call(ctx, "POST", "/api/millrace/v1/dry-run", "", nil, out)
	}
	return out, c.call(ctx, "POST", "/api/millrace/v1/dry-run", "application/yaml", []byte(*content), out)
}

// Status says how a deploy is getting on.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	out := &Status{}
	return out, c.call(ctx, "GET", "/api/millrace/v1/status", "", nil, out)
}

func (c *Client) call(ctx context.Context, method, path, contentType string, body []byte, into any) error {
	resp, err := c.send(ctx, method, path, contentType, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read the answer to %s: %w", path, err)
	}
	if into == nil {
		return nil
	}
	answer := struct {
		Data any `json:"data"`
	}{into}
	if err := json.Unmarshal(b, &answer); err != nil {
		return fmt.Errorf("%s%s answers something else than a millrace service: %w", c.URL, path, err)
	}
	return nil
}

// send sends a request; its answer, which is the caller's to close, has status 200.
func (c *Client) send(ctx context.Context, method, path, contentType string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.URL, "/")+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.HTTP.Do(req)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w: nobody listens at %s", ErrNotRunning, c.URL)
	case err != nil:
		return nil, fmt.Errorf("ask the service: %w", err)
	case resp.StatusCode == http.StatusOK:
		return resp, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the answer to %s: %w", path, err)
	}
	return nil, protocol.DecodeError(resp.StatusCode, b)
}
