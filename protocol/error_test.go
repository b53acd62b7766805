package protocol_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/millrace-sync/millrace/protocol"
)

func TestErrorBody(t *testing.T) {
	missing := protocol.Errorf(protocol.TokenMissing, "Authentication required")
	_, invalid := protocol.DecodeRequest([]byte(`{"buckets":[{"name":"b"}]}`))
	for _, c := range []struct {
		err  error
		want string
	}{
		{missing, `{"error":{"code":"PSYNC_S2106","status":401,"description":"Authentication required","name":"AuthorizationError"}}`},
		{invalid, `{"error":{"code":"PSYNC_S2001","status":400,"description":"Request does not have the form it must have; see the details","details":"[\"/buckets/0 must have required property 'after'\"]","name":"ValidationError"}}`},
		{protocol.Errorf(protocol.RouteNotFound, "No such route"), `{"error":{"code":"PSYNC_S2002","status":404,"description":"No such route","severity":"info","name":"RouteNotFound"}}`},
		{io.ErrClosedPipe, `{"error":{"code":"PSYNC_S2001","status":500,"description":"Internal server error","name":"InternalServerError"}}`},
	} {
		e := protocol.AsError(fmt.Errorf("serve: %w", c.err))
		body := e.AppendJSON(nil)
		if string(body) != c.want {
			t.Errorf("got  %s\nwant %s", body, c.want)
		}
		again := protocol.DecodeError(e.Status, body)
		if diff := cmp.Diff(e, again, cmpopts.IgnoreFields(protocol.Error{}, "Err")); diff != "" {
			t.Errorf("read again (-want +got):\n%s", diff)
		}
	}
	e := protocol.Errorf(protocol.RouteNotFound, "No route %s", "/\xff\"")
	e.Details = "\xff"
	if body := e.AppendJSON(nil); !json.Valid(body) || !utf8.Valid(body) {
		t.Errorf("not JSON in UTF-8: %q", body)
	}
	if protocol.AsError(nil) != nil {
		t.Error("AsError(nil) is not nil")
	}
}

func TestErrorKinds(t *testing.T) {
	err := fmt.Errorf("serve: %w", protocol.Errorf(protocol.ShuttingDown, "cannot serve: %w", io.EOF))
	if !errors.Is(err, protocol.ShuttingDown) || !errors.Is(err, io.EOF) || !errors.Is(err, protocol.Errorf(protocol.ShuttingDown, "")) {
		t.Errorf("%v is not of its kinds", err)
	}
	if errors.Is(err, protocol.TokenExpired) {
		t.Errorf("%v is of another kind", err)
	}
	if !errors.Is(protocol.AsError(io.EOF), io.EOF) {
		t.Error("an internal error lost its cause")
	}
	if text := protocol.Errorf(protocol.TokenExpired, "token has expired").Error(); text != "[PSYNC_S2103] token has expired" {
		t.Errorf("error frames would carry %q", text)
	}
}

func TestForeignErrorBodies(t *testing.T) {
	long := strings.Repeat("é", 500)
	for body, want := range map[string]string{
		"":                                "HTTP status 502",
		" <html>bad gateway</html>\n":     "<html>bad gateway</html>",
		`{"error":"no"}`:                  `{"error":"no"}`,
		`{"error":{"code":""}}`:           `{"error":{"code":""}}`,
		long:                              long[:200] + "…",
		"\xff\xfe" + `{"error":{"code":1`: `{"error":{"code":1`,
	} {
		e := protocol.DecodeError(502, []byte(body))
		if e.Status != 502 || e.Code != "" || e.Description != want {
			t.Errorf("%q: %+v, want description %q", body, e, want)
		}
	}
}
