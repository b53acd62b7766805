package auth

import (
	"bytes"
	stdjson "encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4/json"

	"github.com/millrace-sync/millrace/protocol"
)

// Claims is what a verified token says. It is immutable and shared.
type Claims struct {
	// Subject is the claim sub as text: null is "null", numbers and booleans are as
	// JavaScript prints them, objects are compact JSON.
	Subject  string
	IssuedAt time.Time
	// Expires is the token's exp. It may have passed by up to a minute.
	Expires time.Time
	// Payload is the JSON object of all claims, as signed.
	Payload []byte
}

// tolerance is how far clocks may differ, in seconds.
const tolerance = 60

// maxTime is the last second of the year 9999; no claim of time may be later.
const maxTime = 253402300799

// flaw is a rejection in the making.
type flaw struct {
	check Check
	err   *protocol.Error
	want  []string
}

func flawf(check Check, code protocol.Code, format string, args ...any) *flaw {
	return &flaw{check: check, err: protocol.Errorf(code, format, args...)}
}

// readClaims checks a verified payload, at a time in seconds since 1970.
func readClaims(payload []byte, p policy, audience []string, now float64) (*Claims, *flaw) {
	// go-jose's JSON minds the case of names and refuses duplicates.
	var c struct {
		Subject    json.RawMessage `json:"sub"`
		Issued     json.RawMessage `json:"iat"`
		Expires    json.RawMessage `json:"exp"`
		From       json.RawMessage `json:"nbf"`
		Audience   json.RawMessage `json:"aud"`
		Parameters json.RawMessage `json:"parameters"`
	}
	if trimmed := bytes.TrimLeft(payload, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' {
		return nil, flawf(CheckClaims, protocol.Unauthorized, "The token's payload must be a JSON object")
	}
	if err := json.Unmarshal(payload, &c); err != nil {
		return nil, flawf(CheckClaims, protocol.Unauthorized, "The token's payload must be a JSON object, each key once")
	}
	for _, claim := range []struct {
		name string
		raw  json.RawMessage
	}{{"sub", c.Subject}, {"iat", c.Issued}, {"exp", c.Expires}} {
		if claim.raw == nil {
			return nil, flawf(CheckClaims, protocol.Unauthorized, "The token must have the claim %q", claim.name)
		}
	}
	iat, ok1 := seconds(c.Issued)
	exp, ok2 := seconds(c.Expires)
	if !ok1 || !ok2 {
		return nil, flawf(CheckClaims, protocol.Unauthorized, "The claims iat and exp must be numbers: seconds since 1970")
	}
	if !overlap(c.Audience, p, audience) {
		f := flawf(CheckAudience, protocol.AudienceMismatch, `Unexpected "aud" claim: the token must be issued for this service; compare it with client_auth.audience`)
		f.want = slices.Clone(audience)
		if p.audience != "" {
			f.want = append(f.want, p.audience)
		}
		return nil, f
	}
	if c.From != nil {
		from, ok := seconds(c.From)
		if !ok {
			return nil, flawf(CheckClaims, protocol.Unauthorized, "The claim nbf must be a number: seconds since 1970")
		}
		if from > now+tolerance {
			return nil, flawf(CheckTime, protocol.Unauthorized, "The token is not valid yet: its nbf is %d seconds ahead", int64(from-now))
		}
	}
	if exp <= now-tolerance {
		return nil, flawf(CheckTime, protocol.TokenExpired, "The token has expired, %d seconds ago: fetch a new one", int64(now-exp))
	}
	if exp-iat > p.lifetime {
		return nil, flawf(CheckLifetime, protocol.TokenLifetimeTooLong,
			"The token is valid for %d seconds, more than the %d allowed: issue tokens that expire sooner", int64(exp-iat), int64(p.lifetime))
	}
	if c.Parameters != nil && c.Parameters[0] != '{' {
		return nil, flawf(CheckParameters, protocol.Unauthorized, "The claim parameters must be an object")
	}
	return &Claims{Subject: subjectText(c.Subject), IssuedAt: moment(iat), Expires: moment(exp), Payload: payload}, nil
}

// seconds reads a NumericDate.
func seconds(raw json.RawMessage) (float64, bool) {
	if len(raw) == 0 || raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
		return 0, false
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	return f, err == nil && math.Abs(f) <= maxTime
}

func moment(seconds float64) time.Time {
	whole, part := math.Modf(seconds)
	return time.Unix(int64(whole), int64(part*1e9))
}

// overlap reports whether aud, a string or a list of them, holds an audience that
// is accepted.
func overlap(aud json.RawMessage, p policy, accepted []string) bool {
	var list []string
	var one string
	if json.Unmarshal(aud, &one) == nil {
		list = []string{one}
	} else if json.Unmarshal(aud, &list) != nil {
		return false
	}
	for _, a := range list {
		if slices.Contains(accepted, a) || p.audience != "" && a == p.audience {
			return true
		}
	}
	return false
}

// subjectText turns the claim sub into text.
func subjectText(raw json.RawMessage) string {
	switch c := raw[0]; {
	case c == '"':
		var s string
		if json.Unmarshal(raw, &s) == nil {
			return s
		}
	case c == '{' || c == '[':
		var b bytes.Buffer
		if stdjson.Compact(&b, raw) == nil {
			return b.String()
		}
	case c == '-' || c >= '0' && c <= '9':
		return numberText(string(raw))
	}
	return string(raw) // null, true, false
}

// numberText prints a JSON number as JavaScript does, except that integers keep all
// their digits.
func numberText(s string) string {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return strconv.FormatInt(n, 10)
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return s
	}
	if f == 0 {
		return "0"
	}
	if a := math.Abs(f); a >= 1e-6 && a < 1e21 {
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	mantissa, exponent, _ := strings.Cut(strconv.FormatFloat(f, 'e', -1, 64), "e")
	return mantissa + "e" + exponent[:1] + strings.TrimLeft(exponent[1:], "0")
}
