package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/millrace-sync/millrace/internal/admin"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/protocol"
)

// The questions of the admin API that the process that replicates answers.
const (
	askDeploy      = "deploy"
	askReload      = "reload"
	askReprocess   = "reprocess"
	askStatus      = "status"
	askCurrent     = "current"
	askDiagnostics = "diagnostics"
	askDryRun      = "dry-run"
)

// relayTime is how long a question and its answer may take on their way, besides what
// answering takes.
const relayTime = 5 * time.Second

// asker is a store by which the process that replicates is asked.
type asker interface {
	Ask(ctx context.Context, kind string, body []byte, wait bool) ([]byte, error)
}

// relay answers the admin API of one of several processes. What concerns replication is
// answered by the process that replicates, wherever the question was put: this one or,
// by way of the store, another.
type relay struct {
	*operator // of what any process knows
	store     asker
	// leading returns who answers while this process replicates; nil while it does not.
	leading func() *operator
}

// question is the body of a question: what it is about, if it is about a sync config.
type question struct {
	Content *string `json:"content,omitempty"`
	Texts   bool    `json:"texts,omitempty"`
}

// answer is what comes back: one of the two.
type answer struct {
	Data   json.RawMessage `json:"data,omitempty"`
	Error  json.RawMessage `json:"error,omitempty"`
	Status int             `json:"status,omitempty"` // of Error
}

// Deploy implements httpapi.Admin. While no process replicates, one may be about to take
// over: it is waited for.
func (r *relay) Deploy(ctx context.Context, content string) (*admin.Slot, error) {
	if o := r.leading(); o != nil {
		return o.Deploy(ctx, content)
	}
	return ask[admin.Slot](ctx, r, askDeploy, question{Content: &content}, takeTimeout, true)
}

// Reload implements httpapi.Admin.
func (r *relay) Reload(ctx context.Context) (*admin.Slot, error) {
	if o := r.leading(); o != nil {
		return o.Reload(ctx)
	}
	return ask[admin.Slot](ctx, r, askReload, question{}, takeTimeout, true)
}

// Reprocess implements httpapi.Admin.
func (r *relay) Reprocess(ctx context.Context) (*admin.Slot, error) {
	if o := r.leading(); o != nil {
		return o.Reprocess(ctx)
	}
	return ask[admin.Slot](ctx, r, askReprocess, question{}, takeTimeout, true)
}

// Status implements httpapi.Admin.
func (r *relay) Status(ctx context.Context) (*admin.Status, error) {
	if o := r.leading(); o != nil {
		return o.Status(ctx)
	}
	return ask[admin.Status](ctx, r, askStatus, question{}, relayTime, false)
}

// Current implements httpapi.Admin. What is served this process knows by itself.
func (r *relay) Current(ctx context.Context) (*admin.Current, error) {
	if o := r.leading(); o != nil {
		return o.Current(ctx)
	}
	c, err := ask[admin.Current](ctx, r, askCurrent, question{}, relayTime, false)
	if errors.Is(err, storage.ErrUnavailable) {
		return r.operator.Current(ctx)
	}
	return c, err
}

// Diagnostics implements httpapi.Admin. That no process replicates is something to be
// diagnosed.
func (r *relay) Diagnostics(ctx context.Context, content bool) (*admin.Diagnostics, error) {
	if o := r.leading(); o != nil {
		return o.Diagnostics(ctx, content)
	}
	d, err := ask[admin.Diagnostics](ctx, r, askDiagnostics, question{Texts: content}, adminTimeout, false)
	if !errors.Is(err, storage.ErrUnavailable) {
		return d, err
	}
	nobody := admin.Problem{Level: admin.Fatal, Message: err.Error()}
	if d, err = r.operator.Diagnostics(ctx, content); err == nil && d.Active != nil {
		d.Active.Errors = append(d.Active.Errors, nobody)
	}
	return d, err
}

// DryRun implements httpapi.Admin. The configuration that counts is that of the process
// that replicates.
func (r *relay) DryRun(ctx context.Context, content *string) (*admin.DryRun, error) {
	if o := r.leading(); o != nil {
		return o.DryRun(ctx, content)
	}
	return ask[admin.DryRun](ctx, r, askDryRun, question{Content: content}, adminTimeout, false)
}

// ask puts a question to the process that replicates, which may take so long.
func ask[T any](ctx context.Context, r *relay, kind string, q question, limit time.Duration, wait bool) (*T, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit+relayTime)
	defer cancel()
	value, err := r.store.Ask(ctx, kind, body, wait)
	switch {
	case errors.Is(err, storage.ErrUnavailable):
		e := protocol.Errorf(protocol.ShuttingDown, "No process replicates at the moment, and it takes one to answer this: start one, or try again when it has taken over.")
		e.Err = err
		return nil, e
	case errors.Is(err, context.DeadlineExceeded):
		return nil, protocol.Errorf(protocol.ShuttingDown, "The process that replicates did not answer in time; try again.")
	case err != nil:
		return nil, err
	}
	var a answer
	out := new(T)
	if err = json.Unmarshal(value, &a); err == nil && a.Error != nil {
		return nil, protocol.DecodeError(a.Status, a.Error)
	}
	if err == nil {
		err = json.Unmarshal(a.Data, out)
	}
	if err != nil {
		return nil, fmt.Errorf("read the answer to %s: %w", kind, err)
	}
	return out, nil
}

// answer answers what other processes ask of the one that replicates.
func (o *operator) answer(ctx context.Context, kind string, body []byte) ([]byte, error) {
	var q question
	if err := json.Unmarshal(body, &q); err != nil {
		return nil, fmt.Errorf("read a question of kind %q: %w", kind, err)
	}
	var data any
	var err error
	switch kind {
	case askDeploy:
		if q.Content == nil {
			return nil, errors.New("a sync config is missing")
		}
		data, err = o.Deploy(ctx, *q.Content)
	case askReload:
		data, err = o.Reload(ctx)
	case askReprocess:
		data, err = o.Reprocess(ctx)
	case askStatus:
		data, err = o.Status(ctx)
	case askCurrent:
		data, err = o.Current(ctx)
	case askDiagnostics:
		data, err = o.Diagnostics(ctx, q.Texts)
	case askDryRun:
		data, err = o.DryRun(ctx, q.Content)
	default:
		return nil, fmt.Errorf("another version of millrace asks for %q, which this one does not know", kind)
	}
	var a answer
	if err != nil {
		e := protocol.AsError(err)
		if e.Status >= 500 {
			o.log.Error("a question of another process failed", "kind", kind, "error", err)
		}
		a.Error, a.Status = e.AppendJSON(nil), e.Status
	} else if a.Data, err = json.Marshal(data); err != nil {
		return nil, err
	}
	return json.Marshal(a)
}
