package auth

import (
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"strings"
	"unicode/utf8"

	"github.com/millrace-sync/millrace/protocol"
)

// Check names the step at which a token was refused.
type Check string

// The checks, in the order in which they are made.
const (
	CheckHeader     Check = "header"     // the Authorization header
	CheckForm       Check = "form"       // the token's outer form
	CheckAlgorithm  Check = "algorithm"  // one that is supported, and that the key is for
	CheckKeys       Check = "keys"       // getting hold of the keys
	CheckKey        Check = "key"        // finding the token's key among them
	CheckSignature  Check = "signature"  // verifying with it
	CheckClaims     Check = "claims"     // claims that must be there, and their types
	CheckAudience   Check = "audience"   // aud
	CheckTime       Check = "time"       // nbf and exp
	CheckLifetime   Check = "lifetime"   // exp − iat
	CheckParameters Check = "parameters" // the claim parameters
)

// Rejection says why a token was refused: to the client by the protocol.Error in
// it, to the operator's log by its LogValue.
type Rejection struct {
	Err   *protocol.Error
	Check Check
	// Said is what the token says of itself. Unless Check comes after CheckSignature
	// anybody may have written it.
	Said Said
	// Want is what would have passed, where that is of help: the configured
	// audiences, or the ids of the known keys.
	Want []string
}

// Said is what a token says of itself, each part shortened; numbers and lists are
// JSON text. Parts that are missing or unreadable are empty.
type Said struct {
	KeyID, Algorithm                                 string
	Issuer, Subject, Audience, Issued, Expires, From string
}

// Error returns the text for the client.
func (r *Rejection) Error() string { return r.Err.Error() }

// Unwrap returns the protocol.Error.
func (r *Rejection) Unwrap() error { return r.Err }

// LogValue lists the failed check and what the token said, never the token.
func (r *Rejection) LogValue() slog.Value {
	attrs := []slog.Attr{
		slog.String("code", string(r.Err.Code)),
		slog.String("check", string(r.Check)),
		slog.String("reason", r.Err.Description),
	}
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	if r.Err.Err != nil {
		add("cause", r.Err.Err.Error())
	}
	add("kid", r.Said.KeyID)
	add("alg", r.Said.Algorithm)
	add("iss", r.Said.Issuer)
	add("sub", r.Said.Subject)
	add("aud", r.Said.Audience)
	add("iat", r.Said.Issued)
	add("exp", r.Said.Expires)
	add("nbf", r.Said.From)
	if r.Want != nil {
		attrs = append(attrs, slog.Any("want", r.Want))
	}
	return slog.GroupValue(attrs...)
}

// said reads what a token says of itself without verifying anything.
func said(token string) Said {
	head, rest, _ := strings.Cut(token, ".")
	body, _, _ := strings.Cut(rest, ".")
	h, c := members(head), members(body)
	return Said{
		KeyID: short(h["kid"]), Algorithm: short(h["alg"]),
		Issuer: short(c["iss"]), Subject: short(c["sub"]), Audience: short(c["aud"]),
		Issued: short(c["iat"]), Expires: short(c["exp"]), From: short(c["nbf"]),
	}
}

func members(part string) map[string]json.RawMessage {
	text, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return nil
	}
	var m map[string]json.RawMessage
	if json.Unmarshal(text, &m) != nil {
		return nil
	}
	return m
}

// short returns a JSON value for the log: a string as it is, others as their text,
// shortened.
func short(raw json.RawMessage) string {
	text := string(raw)
	var s string
	if json.Unmarshal(raw, &s) == nil && text != "null" {
		text = s
	}
	return shorten(text)
}

// shorten returns a text for the log, of not much more than 100 bytes.
func shorten(text string) string {
	const most = 100
	if len(text) <= most {
		return text
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "…"
}
