package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/millrace-sync/millrace/internal/admin"
	"github.com/millrace-sync/millrace/internal/httpapi"
	"github.com/millrace-sync/millrace/protocol"
)

// operator notes what was asked of it.
type operator struct {
	asked  []string
	backup *archive
}

func (o *operator) note(what string) { o.asked = append(o.asked, what) }

func (o *operator) Diagnostics(_ context.Context, content bool) (*admin.Diagnostics, error) {
	o.note("diagnostics")
	d := &admin.Diagnostics{Connections: []admin.Connection{}}
	if content {
		d.Active = &admin.SyncConfig{Content: "text"}
	}
	return d, nil
}

func (o *operator) Schema(context.Context) (*admin.Schema, error) {
	o.note("schema")
	return &admin.Schema{DefaultSchema: "public"}, nil
}

func (o *operator) ExecuteSQL(_ context.Context, r *admin.SQLRequest) (*admin.SQLResult, error) {
	o.note("sql " + r.SQL.Query)
	return &admin.SQLResult{Success: true}, nil
}

func (o *operator) Validate(_ context.Context, content string) (*admin.SyncConfig, error) {
	o.note("validate " + content)
	return &admin.SyncConfig{Content: content}, nil
}

func (o *operator) Check(_ context.Context, content string) (*admin.Checked, error) {
	o.note("check " + content)
	return &admin.Checked{Valid: true}, nil
}

func (o *operator) Deploy(_ context.Context, content string) (*admin.Slot, error) {
	o.note("deploy " + content)
	if content == "bad" {
		return nil, protocol.Errorf(protocol.SyncConfigInvalid, "The sync config has mistakes")
	}
	return &admin.Slot{SlotName: "slot_1"}, nil
}

func (o *operator) Reload(context.Context) (*admin.Slot, error) {
	o.note("reload")
	return &admin.Slot{SlotName: "slot_1"}, nil
}

func (o *operator) Reprocess(context.Context) (*admin.Slot, error) {
	o.note("reprocess")
	return &admin.Slot{SlotName: "slot_1"}, nil
}

func (o *operator) Current(context.Context) (*admin.Current, error) {
	o.note("current")
	return &admin.Current{}, nil
}

func (o *operator) DryRun(_ context.Context, content *string) (*admin.DryRun, error) {
	if content == nil {
		o.note("dry run")
	} else {
		o.note("dry run " + *content)
	}
	return &admin.DryRun{}, nil
}

func (o *operator) Status(context.Context) (*admin.Status, error) {
	o.note("status")
	return &admin.Status{Checkpoint: "1@0/1"}, nil
}

// archive is a backup.
type archive struct {
	text   string
	fail   error
	closed int
}

func (a *archive) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, a.text)
	return int64(n), errors.Join(err, a.fail)
}

func (a *archive) Close() error {
	a.closed++
	return nil
}

func (o *operator) Backup(context.Context) (httpapi.Backup, error) {
	o.note("backup")
	return o.backup, nil
}

// A backup that is not whole does not look whole, and is closed all the same.
func TestAdminBackup(t *testing.T) {
	for _, fail := range []error{nil, io.ErrNoProgress} {
		inBubble(t, func(t *testing.T, s *service, client *http.Client) {
			a := &archive{text: strings.Repeat("x", 100_000), fail: fail}
			s.handler.Admin, s.handler.AdminTokens = &operator{backup: a}, []string{"t"}
			req, err := http.NewRequest("GET", "http://test/api/millrace/v1/backup", nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range []struct {
				token  string
				status int
			}{{"Bearer wrong", 401}, {"Bearer t", 200}} {
				req.Header.Set("Authorization", c.token)
				resp, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode != c.status || c.status == 200 && (err != nil) != (fail != nil) {
					t.Errorf("%s: status %d, %d bytes, %v", c.token, resp.StatusCode, len(b), err)
				}
			}
			if a.closed != 1 {
				t.Errorf("closed %d times", a.closed)
			}
		})
	}
}

func TestAdmin(t *testing.T) {
	const right = "Bearer second"
	for _, c := range []struct {
		route, contentType, body, token string
		status                          int
		want                            string // the beginning of the body without blanks, or the error's code
		asked                           string
	}{
		{"POST /api/admin/v1/diagnostics", "application/json", `{}`, right, 200, `{"data":{"connections":[]}}`, "diagnostics"},
		{"POST /api/admin/v1/diagnostics", "application/json", `{"sync_rules_content":true,"more":1}`, "Token first", 200, `{"data":{"connections":[],"active_sync_rules":{"content":"text"`, "diagnostics"},
		{"POST /api/admin/v1/schema", "", ``, right, 200, `{"data":{"connections":null,"defaultConnectionTag":"","defaultSchema":"public"}}`, "schema"},
		{"POST /api/admin/v1/execute-sql", "application/json", `{"sql":{"query":"SELECT 1","args":[]}}`, right, 200, `{"data":{"success":true`, "sql SELECT 1"},
		{"POST /api/admin/v1/validate", "application/json", `{"sync_rules":"x"}`, right, 200, `{"data":{"content":"x"`, "validate x"},
		{"POST /api/admin/v1/reprocess", "application/json", `{}`, right, 200, `{"data":{"connections":[{"tag":"default","slot_name":"slot_1"}]}}`, "reprocess"},
		{"POST /api/sync-rules/v1/deploy", "application/yaml", "a: b", right, 200, `{"data":{"slot_name":"slot_1"}}`, "deploy a: b"},
		{"POST /api/sync-rules/v1/deploy", "application/json; charset=utf-8", `{"content":"a: b"}`, right, 200, `{"data":{"slot_name":"slot_1"}}`, "deploy a: b"},
		{"POST /api/sync-rules/v1/deploy", "application/json", `{"content":"bad"}`, right, 422, "PSYNC_R0001", "deploy bad"},
		{"POST /api/sync-rules/v1/validate", "application/yaml", "a: b", right, 200, `{"valid":true}`, "check a: b"},
		{"GET /api/sync-rules/v1/current", "", "", right, 200, `{"data":{"current":null,"next":null}}`, "current"},
		{"POST /api/sync-rules/v1/reprocess", "", "", right, 200, `{"data":{"slot_name":"slot_1"}}`, "reprocess"},
		{"POST /api/millrace/v1/reload", "", "", right, 200, `{"data":{"slot_name":"slot_1"}}`, "reload"},
		{"POST /api/millrace/v1/dry-run", "", "", right, 200, `{"data":{`, "dry run"},
		{"POST /api/millrace/v1/dry-run", "application/yaml", "a: b", right, 200, `{"data":{`, "dry run a: b"},
		{"GET /api/millrace/v1/status", "", "", right, 200, `{"data":{"deploying":false`, "status"},

		{"POST /api/admin/v1/diagnostics", "application/json", `{}`, "", 401, "PSYNC_S2101", ""},
		{"POST /api/admin/v1/diagnostics", "application/json", `{}`, "Bearer third", 401, "PSYNC_S2101", ""},
		{"POST /api/admin/v1/diagnostics", "application/json", `{}`, "bearer second", 401, "PSYNC_S2101", ""},
		{"POST /api/admin/v1/diagnostics", "application/json", `{}`, "Bearer  second", 401, "PSYNC_S2101", ""},
		{"POST /api/sync-rules/v1/deploy", "application/yaml", "a: b", "Bearer secon", 401, "PSYNC_S2101", ""},
		// What is wrong with a body is told first.
		{"POST /api/admin/v1/validate", "application/json", `{}`, "", 400, "PSYNC_S2001", ""},
		{"POST /api/admin/v1/validate", "application/json", `{"sync_rules":1}`, "", 400, "PSYNC_S2001", ""},
		{"POST /api/admin/v1/validate", "application/json", `[]`, "", 400, "PSYNC_S2001", ""},
		{"POST /api/admin/v1/validate", "application/json", `{"sync_rules"`, "", 400, "FST_ERR_CTP_INVALID_JSON_BODY", ""},
		{"POST /api/admin/v1/validate", "application/json", ``, "", 400, "FST_ERR_CTP_EMPTY_JSON_BODY", ""},
		{"POST /api/admin/v1/validate", "application/yaml", `a: b`, "", 415, "FST_ERR_CTP_INVALID_MEDIA_TYPE", ""},
		{"POST /api/sync-rules/v1/deploy", "text/csv", `a: b`, right, 415, "FST_ERR_CTP_INVALID_MEDIA_TYPE", ""},
		{"POST /api/sync-rules/v1/deploy", "application/yaml", strings.Repeat("a", 2<<20), right, 413, "FST_ERR_CTP_BODY_TOO_LARGE", ""},
		{"GET /api/sync-rules/v1/deploy", "", "", right, 404, "PSYNC_S2002", ""},
		{"POST /api/admin/v1/nothing", "", "", right, 404, "PSYNC_S2002", ""},
	} {
		t.Run(c.route+" "+c.body[:min(len(c.body), 20)], func(t *testing.T) {
			o := &operator{}
			s := newService(t, func(h *httpapi.Config) { h.Admin, h.AdminTokens = o, []string{"first", "second"} })
			method, path, _ := strings.Cut(c.route, " ")
			r := httptest.NewRequest(method, path, strings.NewReader(c.body))
			r.Header.Set("Content-Type", c.contentType)
			if c.contentType == "" {
				r.Header.Del("Content-Type")
			}
			r.Header.Set("Authorization", c.token)
			w := httptest.NewRecorder()
			s.handler.ServeHTTP(w, r)
			got := w.Body.String()
			if w.Code == 200 {
				got = strings.NewReplacer(" ", "", "\n", "").Replace(got)
			} else {
				got = string(protocol.DecodeError(w.Code, w.Body.Bytes()).Code)
			}
			if w.Code != c.status || !strings.HasPrefix(got, c.want) {
				t.Errorf("%d %s, want %d %s", w.Code, got, c.status, c.want)
			}
			if asked := strings.Join(o.asked, ", "); asked != c.asked {
				t.Errorf("the operator was asked %q, want %q", asked, c.asked)
			}
		})
	}
}

// Without tokens nobody is let in, and without an operator there are no routes.
func TestAdminOff(t *testing.T) {
	for want, change := range map[int]func(*httpapi.Config){
		http.StatusUnauthorized: func(h *httpapi.Config) { h.Admin = &operator{} },
		http.StatusNotFound:     func(h *httpapi.Config) { h.AdminTokens = []string{"t"} },
	} {
		s := newService(t, change)
		r := httptest.NewRequest("GET", "/api/sync-rules/v1/current", nil)
		r.Header.Set("Authorization", "Bearer t")
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("status %d, want %d", w.Code, want)
		}
	}
}

// FuzzAdmin sends any body to routes of the admin API: each answer is JSON, and
// nothing but a well-formed request reaches the operator.
func FuzzAdmin(f *testing.F) {
	f.Add("application/json", []byte(`{"content":"a: b","sync_rules":"c","sql":{"query":"SELECT $1","args":[1,null,"x",{}]},"sync_rules_content":true}`))
	f.Add("application/yaml", []byte("a: b"))
	f.Add("", []byte(`{"sql":null}`))
	f.Add("application/json", []byte(` null`))
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		s := newService(t, func(h *httpapi.Config) { h.Admin, h.AdminTokens = &operator{}, []string{"t"} })
		for _, path := range []string{"/api/admin/v1/execute-sql", "/api/admin/v1/validate", "/api/admin/v1/diagnostics", "/api/sync-rules/v1/deploy", "/api/millrace/v1/dry-run"} {
			r := httptest.NewRequest("POST", path, strings.NewReader(string(body)))
			r.Header.Set("Content-Type", contentType)
			r.Header.Set("Authorization", "Token t")
			w := httptest.NewRecorder()
			s.handler.ServeHTTP(w, r)
			if !json.Valid(w.Body.Bytes()) || w.Code == 500 {
				t.Errorf("%s: %d %q", path, w.Code, w.Body)
			}
		}
	})
}
