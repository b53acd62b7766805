package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bounds of a request.
const (
	maxBody     = 4 << 20 // bytes
	maxUser     = 128     // bytes of a user name
	workTimeout = 20 * time.Second
)

// uploader is what the upload route needs of store.
type uploader interface {
	upload(ctx context.Context, user string, writes []write) ([]*rejection, error)
	ping(ctx context.Context) error
}

// api serves the backend's routes:
//
//	GET  /api/auth/token?user=NAME  a token for NAME and where to sync (development sign-in)
//	GET  /api/auth/keys             the public keys of the tokens (JWKS)
//	POST /api/data                  a batch of writes
//	GET  /api/health                200 when the database answers
type api struct {
	signer     *signer
	store      uploader
	serviceURL string // of the sync service, for clients
	origin     string // allowed for browsers; "*" is any
	signIn     bool   // whether /api/auth/token is served
	log        *slog.Logger
}

func (a *api) handler() http.Handler {
	mux := http.NewServeMux()
	if a.signIn {
		mux.HandleFunc("GET /api/auth/token", a.token)
	}
	mux.HandleFunc("GET /api/auth/keys", func(w http.ResponseWriter, _ *http.Request) { a.json(w, http.StatusOK, a.signer.jwks()) })
	mux.HandleFunc("POST /api/data", a.upload)
	mux.HandleFunc("GET /api/health", a.health)
	return a.cors(http.TimeoutHandler(mux, workTimeout+5*time.Second, `{"error":{"code":"timeout","message":"the request took too long"}}`))
}

// cors lets web pages of the allowed origin call the API. Tokens travel in a
// header, never in cookies, so credentials need no permission.
func (a *api) cors(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", a.origin)
		h.Add("Vary", "Origin")
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			h.Set("Access-Control-Allow-Methods", "GET, POST")
			h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type")
			h.Set("Access-Control-Max-Age", "3600")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (a *api) token(w http.ResponseWriter, r *http.Request) {
	user := r.URL.Query().Get("user")
	if err := checkUser(user); err != nil {
		a.fail(w, http.StatusBadRequest, "bad_user", err)
		return
	}
	token, expires, err := a.signer.issue(user)
	if err != nil {
		a.fail(w, http.StatusInternalServerError, "internal", err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	a.json(w, http.StatusOK, map[string]string{
		"token":      token,
		"endpoint":   a.serviceURL,
		"expires_at": expires.UTC().Format(time.RFC3339),
	})
}

func checkUser(user string) error {
	switch {
	case user == "":
		return errors.New("name the user: /api/auth/token?user=NAME")
	case len(user) > maxUser:
		return fmt.Errorf("a user name has at most %d bytes", maxUser)
	case !utf8.ValidString(user) || strings.ContainsFunc(user, func(r rune) bool { return !unicode.IsPrint(r) }):
		return errors.New("a user name holds printable characters only")
	}
	return nil
}

func (a *api) upload(w http.ResponseWriter, r *http.Request) {
	user, err := a.signer.user(r)
	if err != nil {
		w.Header().Set("WWW-Authenticate", "Bearer")
		a.fail(w, http.StatusUnauthorized, "bad_token", err)
		return
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		a.fail(w, http.StatusUnsupportedMediaType, "bad_content_type", errors.New("send the header `Content-Type: application/json`"))
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		a.fail(w, http.StatusRequestEntityTooLarge, "too_large", fmt.Errorf("an upload has at most %d bytes: send fewer writes at a time", maxBody))
		return
	}
	if err != nil {
		a.fail(w, http.StatusBadRequest, "bad_request", fmt.Errorf("read body: %w", err))
		return
	}
	if !utf8.Valid(body) {
		a.fail(w, http.StatusBadRequest, "bad_request", errors.New("the body is not UTF-8"))
		return
	}
	writes, err := parseUpload(body)
	if err != nil {
		a.fail(w, http.StatusBadRequest, "bad_request", err)
		return
	}

	ctx, cancel := context.WithTimeout(r.Context(), workTimeout)
	defer cancel()
	rejected, err := a.store.upload(ctx, user, writes)
	if err != nil {
		a.log.Error("upload failed; the client will send it again", "user", user, "writes", len(writes), "error", err)
		w.Header().Set("Retry-After", "5")
		a.fail(w, http.StatusServiceUnavailable, "unavailable", errors.New("nothing was written; send the same writes again"))
		return
	}
	for _, rej := range rejected {
		a.log.Warn("write refused and kept in upload_dead_letter", "user", user, "table", rej.Type, "row", rej.ID, "code", rej.Code, "reason", rej.Reason)
	}
	if rejected == nil {
		rejected = []*rejection{}
	}
	a.json(w, http.StatusOK, map[string]any{"applied": len(writes) - len(rejected), "rejected": rejected})
}

func (a *api) health(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	if err := a.store.ping(ctx); err != nil {
		a.log.Error("database does not answer", "error", err)
		a.fail(w, http.StatusServiceUnavailable, "unavailable", errors.New("the database does not answer"))
		return
	}
	a.json(w, http.StatusOK, map[string]bool{"ok": true})
}

func (a *api) fail(w http.ResponseWriter, status int, code string, err error) {
	a.json(w, status, map[string]any{"error": map[string]string{"code": code, "message": err.Error()}})
}

func (a *api) json(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		a.log.Debug("answer not sent", "error", err)
	}
}
