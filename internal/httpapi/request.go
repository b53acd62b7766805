package httpapi

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"maps"
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
	// positionBytes is allowed in addition for each bucket that a client may hold: one
	// that holds as many as it may must be able to come back and say so.
	positionBytes = 256
	// unknownBody is how much of a stream's request is read of someone whose token was
	// not checked yet: what anybody can make the service hold is little.
	unknownBody = 64 << 10
)

// maxRequest is the largest request for a stream.
func (h *Handler) maxRequest() int64 { return maxBody + positionBytes*int64(h.Limits.Buckets) }

// limitBody bounds how long the body of a request may take that no route reads: the
// HTTP server reads it before the next request, without a bound of its own.
func limitBody(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 {
		// An error means that the server cannot set deadlines, as in tests.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(readTimeout))
	}
}

// body reads a request's JSON body within its limits. Plain text is accepted and
// ignored.
func body(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	_, b, err := bodyOf(w, r, maxBody)
	return b, err
}

// doubtful is a body of someone unknown: beyond unknownBody it needs admission.
type doubtful struct {
	io.ReadCloser
	left  int64
	admit func() error
}

func (d *doubtful) Read(b []byte) (int, error) {
	if d.admit == nil {
		return d.ReadCloser.Read(b)
	}
	if d.left == 0 {
		if err := d.admit(); err != nil {
			return 0, err
		}
		d.admit = nil
		return d.ReadCloser.Read(b)
	}
	n, err := d.ReadCloser.Read(b[:min(int64(len(b)), d.left)])
	d.left -= int64(n)
	return n, err
}

// bodyOf is body with a limit, for a route that also takes bodies of other media types.
// It returns the body's, which is empty if the client did not say. An error in reading
// that is a *protocol.Error is returned as it is.
func bodyOf(w http.ResponseWriter, r *http.Request, limit int64, others ...string) (mediaType string, b []byte, err error) {
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
	b, err = io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		// The deadline stays, or the server would wait for the rest of the body.
		w.Header().Set("Connection", "close")
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return mediaType, nil, protocol.Errorf(protocol.BodyTooLarge, "Request body is too large: the limit is %d bytes", limit)
		}
		if e, ok := errors.AsType[*protocol.Error](err); ok {
			return mediaType, nil, e
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
		return short(a)
	}
	return short(r.UserAgent())
}

// Bounds of what a client says of itself in one line of the log.
const (
	maxSaid     = 256 // bytes of one text
	maxMetadata = 16  // entries
)

// short shortens a client's text for the log.
func short(s string) string {
	if len(s) <= maxSaid {
		return s
	}
	return strings.ToValidUTF8(s[:maxSaid], "") + "…"
}

// shortMetadata shortens a client's metadata for the log.
func shortMetadata(all map[string]string) map[string]string {
	said := make(map[string]string, min(len(all), maxMetadata))
	for _, k := range slices.Sorted(maps.Keys(all)) {
		if len(said) == maxMetadata {
			break
		}
		said[short(k)] = short(all[k])
	}
	return said
}

// maxClientID is the length from which a client's id is replaced by a digest of it in
// what is kept for the client. Those of official clients are UUIDs.
const maxClientID = 256

var subjects = strings.NewReplacer("%", "%25", "/", "%2F")

// userKey names whom a write checkpoint belongs to: the user, or the user's client.
// No two users share one, whatever the ids of their clients.
func userKey(c *auth.Claims, clientID string) string {
	user := subjects.Replace(c.Subject)
	if clientID == "" {
		return user
	}
	if len(clientID) > maxClientID {
		digest := sha256.Sum256([]byte(clientID))
		clientID = "sha256:" + hex.EncodeToString(digest[:])
	}
	return user + "/" + clientID
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
