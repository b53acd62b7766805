package httpapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"regexp"
	"strings"

	"github.com/millrace-sync/millrace/internal/admin"
	"github.com/millrace-sync/millrace/protocol"
)

// Admin answers the admin API. Its errors are *protocol.Error, or failures of the
// service.
type Admin interface {
	// Diagnostics says how replication is doing; content asks for the sync configs'
	// texts too.
	Diagnostics(ctx context.Context, content bool) (*admin.Diagnostics, error)
	// Schema lists the source's tables.
	Schema(context.Context) (*admin.Schema, error)
	// ExecuteSQL runs a statement on the source, if that is allowed.
	ExecuteSQL(context.Context, *admin.SQLRequest) (*admin.SQLResult, error)
	// Validate holds a sync config against the source, Check against nothing.
	Validate(ctx context.Context, content string) (*admin.SyncConfig, error)
	Check(ctx context.Context, content string) (*admin.Checked, error)
	// Deploy makes a sync config the wanted one, Reload the configuration's; they
	// return when it is stored. Reprocess has everything read anew.
	Deploy(ctx context.Context, content string) (*admin.Slot, error)
	Reload(context.Context) (*admin.Slot, error)
	Reprocess(context.Context) (*admin.Slot, error)
	// Current returns what is served and what is on its way.
	Current(context.Context) (*admin.Current, error)
	// DryRun says what deploying a sync config, or the configuration's, would do.
	DryRun(ctx context.Context, content *string) (*admin.DryRun, error)
	// Status says how a deploy is getting on.
	Status(context.Context) (*admin.Status, error)
	// Backup copies the storage as it is.
	Backup(context.Context) (Backup, error)
}

// adminRoute returns the handler of a route of the admin API; nil if it is none.
func (h *Handler) adminRoute(route string) http.HandlerFunc {
	if h.Admin == nil {
		return nil
	}
	a := h.Admin
	switch route {
	case "POST /api/admin/v1/diagnostics":
		return adminCall(h, wrapped, func(ctx context.Context, r *diagnosticsRequest) (any, error) { return a.Diagnostics(ctx, r.Content) })
	case "POST /api/admin/v1/schema":
		return adminCall(h, wrapped, func(ctx context.Context, _ *noRequest) (any, error) { return a.Schema(ctx) })
	case "POST /api/admin/v1/execute-sql":
		return adminCall(h, wrapped, func(ctx context.Context, r *sqlRequest) (any, error) { return a.ExecuteSQL(ctx, &r.SQLRequest) })
	case "POST /api/admin/v1/validate":
		return adminCall(h, wrapped, func(ctx context.Context, r *rulesRequest) (any, error) { return a.Validate(ctx, r.Rules) })
	case "POST /api/admin/v1/reprocess":
		return adminCall(h, wrapped, func(ctx context.Context, _ *noRequest) (any, error) {
			slot, err := a.Reprocess(ctx)
			if err != nil {
				return nil, err
			}
			return &admin.Reprocessed{Connections: []admin.SlotConnection{{Tag: "default", Slot: *slot}}}, nil
		})
	case "POST /api/sync-rules/v1/reprocess":
		return adminCall(h, wrapped, func(ctx context.Context, _ *noRequest) (any, error) { return a.Reprocess(ctx) })
	case "POST /api/sync-rules/v1/deploy":
		return adminCall(h, wrapped, func(ctx context.Context, r *contentRequest) (any, error) { return a.Deploy(ctx, r.Content) })
	case "POST /api/sync-rules/v1/validate":
		return adminCall(h, bare, func(ctx context.Context, r *contentRequest) (any, error) { return a.Check(ctx, r.Content) })
	case "GET /api/sync-rules/v1/current":
		return adminCall(h, pretty, func(ctx context.Context, _ *noRequest) (any, error) { return a.Current(ctx) })
	case "POST /api/millrace/v1/reload":
		return adminCall(h, wrapped, func(ctx context.Context, _ *noRequest) (any, error) { return a.Reload(ctx) })
	case "POST /api/millrace/v1/dry-run":
		return adminCall(h, wrapped, func(ctx context.Context, r *dryRunRequest) (any, error) { return a.DryRun(ctx, r.Content) })
	case "GET /api/millrace/v1/backup":
		return h.backup
	case "GET /api/millrace/v1/status":
		return adminCall(h, wrapped, func(ctx context.Context, _ *noRequest) (any, error) { return a.Status(ctx) })
	}
	return nil
}

// form is the form of an answer's body.
type form uint8

const (
	wrapped form = iota // {"data": …}
	bare                // as it is, indented
	pretty              // wrapped and indented
)

// adminRequest is the body of a request: what is missing is told before the token is
// looked at.
type adminRequest[T any] interface {
	*T
	// missing names the members that must be there and are not.
	missing() []string
}

// adminCall serves one route: body, then token, then the call.
func adminCall[T any, R adminRequest[T]](h *Handler, as form, call func(context.Context, R) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		req := R(new(T))
		err := decodeAdmin(w, r, req)
		if err == nil {
			err = h.authorizeAdmin(r.Header.Get("Authorization"))
		}
		var out any
		if err == nil {
			out, err = call(r.Context(), req)
		}
		if err != nil {
			h.fail(w, r, err)
			return
		}
		if as != bare {
			out = map[string]any{"data": out}
		}
		var b []byte
		if as == wrapped {
			b, err = json.Marshal(out)
		} else {
			b, err = json.MarshalIndent(out, "", "  ")
		}
		if err != nil {
			h.fail(w, r, err)
			return
		}
		reply(w, http.StatusOK, b)
	}
}

// yamlTypes are the media types by which a sync config may come as it is.
var yamlTypes = []string{"application/yaml", "application/x-yaml", "text/yaml"}

// decodeAdmin reads a request's body: JSON, or a sync config where one is wanted.
func decodeAdmin(w http.ResponseWriter, r *http.Request, into interface{ missing() []string }) error {
	if r.Method == http.MethodGet {
		return nil
	}
	text, takesText := into.(interface{ setContent(string) })
	var others []string
	if takesText {
		others = yamlTypes
	}
	mediaType, b, err := bodyOf(w, r, maxBody, others...)
	if err != nil {
		return err
	}
	switch {
	case takesText && strings.HasSuffix(mediaType, "yaml"):
		text.setContent(string(b))
		return nil
	case len(b) == 0 && mediaType == "application/json":
		return protocol.Errorf(protocol.BodyEmpty, "Body cannot be empty when content-type is set to 'application/json'")
	case len(b) == 0:
		b = []byte("{}")
	}
	if !json.Valid(b) {
		return protocol.Errorf(protocol.BodyNotJSON, "Body is not valid JSON but content-type is set to 'application/json'")
	}
	var problems []string
	if b = bytes.TrimSpace(b); b[0] != '{' {
		problems = []string{" must be object"}
	} else if err := json.Unmarshal(b, into); err != nil {
		problems = []string{wrongType(err)}
	} else {
		for _, name := range into.missing() {
			problems = append(problems, " must have required property '"+name+"'")
		}
	}
	if len(problems) == 0 {
		return nil
	}
	details, err := json.Marshal(problems)
	if err != nil {
		return err
	}
	e := protocol.Errorf(protocol.BadRequest, "Request does not have the form it must have; see the details")
	e.Details = string(details)
	return e
}

// wrongType says which member of a request is of the wrong type.
func wrongType(err error) string {
	if e, ok := err.(*json.UnmarshalTypeError); ok {
		return "/" + strings.ReplaceAll(e.Field, ".", "/") + " must be " + e.Type.String()
	}
	return " " + err.Error()
}

var adminHeader = regexp.MustCompile(`^(?:Token|Bearer) (\S+)$`)

// authorizeAdmin checks an Authorization header against the admin tokens. It takes as
// long for a wrong token as for a right one.
func (h *Handler) authorizeAdmin(header string) error {
	m := adminHeader.FindStringSubmatch(header)
	if m == nil {
		return protocol.Errorf(protocol.Unauthorized, "Authentication required: send one of api.tokens as Authorization: Bearer …")
	}
	given := sha256.Sum256([]byte(m[1]))
	right := 0
	for _, t := range h.AdminTokens {
		token := sha256.Sum256([]byte(t))
		right |= subtle.ConstantTimeCompare(given[:], token[:])
	}
	if right != 1 {
		return protocol.Errorf(protocol.Unauthorized, "The token is none of api.tokens")
	}
	return nil
}

// The bodies of requests. Other members are allowed and ignored.
type (
	noRequest          struct{}
	diagnosticsRequest struct {
		Content bool `json:"sync_rules_content"`
	}
	sqlRequest   struct{ admin.SQLRequest }
	rulesRequest struct {
		Rules string `json:"sync_rules"`
	}
	contentRequest struct {
		Content string `json:"content"`
	}
	dryRunRequest struct {
		Content *string `json:"content"`
	}
)

func (*noRequest) missing() []string          { return nil }
func (*diagnosticsRequest) missing() []string { return nil }
func (*dryRunRequest) missing() []string      { return nil }
func (r *sqlRequest) missing() []string       { return required("sql", r.SQL.Query == "") }
func (r *rulesRequest) missing() []string     { return required("sync_rules", r.Rules == "") }
func (r *contentRequest) missing() []string   { return required("content", r.Content == "") }

func (r *contentRequest) setContent(text string) { r.Content = text }
func (r *dryRunRequest) setContent(text string)  { r.Content = &text }

func required(name string, missing bool) []string {
	if missing {
		return []string{name}
	}
	return nil
}
