package httpapi

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/millrace-sync/millrace/internal/auth"
	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/streams"
	"github.com/millrace-sync/millrace/protocol"
)

// The bounds of a request.
const (
	maxBody     = 1 << 20
	readTimeout = 30 * time.Second // for its body
)

// body reads a request's JSON body within its limits. Plain text is accepted and
// ignored.
func body(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	_, b, err := bodyOf(w, r)
	return b, err
}

// bodyOf is body for a route that also takes bodies of other media types. It returns
// the body's, which is empty if the client did not say.
func bodyOf(w http.ResponseWriter, r *http.Request, others ...string) (mediaType string, b []byte, err error) {
	mediaType, _, _ = strings.Cut(r.Header.Get("Content-Type"), ";")
	mediaType = strings.ToLower(strings.TrimSpace(mediaType))
	other := slices.Contains(others, mediaType)
	switch mediaType {
	case "application/json", "text/plain", "":
	default:
		if other {
			break
		}
		w.Header().Set("Connection", "close")
		return mediaType, nil, protocol.Errorf(protocol.BodyTypeUnsupported, "Unsupported Media Type: %.100s; send application/json", mediaType)
	}
	rc := http.NewResponseController(w)
	// Errors mean that the server cannot set deadlines, as in tests.
	_ = rc.SetReadDeadline(time.Now().Add(readTimeout))
	b, err = io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		// The deadline stays, or the server would wait for the rest of the body.
		w.Header().Set("Connection", "close")
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return mediaType, nil, protocol.Errorf(protocol.BodyTooLarge, "Request body is too large: the limit is %d bytes", maxBody)
		}
		return mediaType, nil, protocol.Errorf(protocol.BodyNotJSON, "Request body could not be read: %v", err)
	}
	_ = rc.SetReadDeadline(time.Time{})
	if mediaType == "text/plain" && !other {
		return mediaType, []byte("{}"), nil
	}
	return mediaType, b, nil
}

// userAgent names the client for logs.
func userAgent(r *http.Request) string {
	if a := r.Header.Get("X-User-Agent"); a != "" {
		return a
	}
	return r.UserAgent()
}

// userKey names whom a write checkpoint belongs to: the user, or the user's client.
func userKey(c *auth.Claims, clientID string) string {
	if clientID == "" {
		return c.Subject
	}
	return c.Subject + "/" + clientID
}

// sessionRequest translates a client's request for the plan.
func sessionRequest(req *protocol.Request, claims []byte) streams.Request {
	out := streams.Request{Claims: claims, Parameters: req.Parameters, IncludeDefaults: req.IncludeDefaults}
	for _, s := range req.Subscriptions {
		out.Subscriptions = append(out.Subscriptions, streams.Subscription{
			Stream: s.Stream, Parameters: s.Parameters, Priority: s.Priority,
		})
	}
	return out
}

func positions(req *protocol.Request) map[string]bucket.OpID {
	m := make(map[string]bucket.OpID, len(req.Buckets))
	for _, b := range req.Buckets {
		m[b.Name] = bucket.OpID(b.After)
	}
	return m
}
