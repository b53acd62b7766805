package streams

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/streams/expr"
)

// origin is a part of a request.
type origin uint8

const (
	originToken        origin = iota // the verified token's payload
	originTokenParams                // its parameters claim and, as user_id, its sub
	originConnection                 // the request's parameters
	originSubscription               // the subscription's parameters
	originBucket                     // a legacy bucket's parameters; only in data queries
)

// trusted reports whether the client cannot choose the value.
func (o origin) trusted() bool { return o == originToken || o == originTokenParams }

// accessor reads one value of a request. It is comparable.
type accessor struct {
	origin origin
	// whole gives the whole object as JSON text; otherwise key is read, which is a
	// path if it begins with $.
	whole bool
	key   string
	// asText gives text whatever the value is: legacy user ids.
	asText bool
}

// canonical is the accessor's text in canonical forms and in printed plans.
func (a accessor) canonical() string {
	name := [...]string{"auth", "token_parameters", "connection", "subscription", "bucket"}[a.origin]
	switch {
	case a.whole:
		return name + ".parameters()"
	case a.origin == originToken && a.key == "sub" && a.asText:
		return "request.user_id()"
	case a.origin == originToken && a.key == "sub":
		return "auth.user_id()"
	case a.origin == originBucket, a.origin == originTokenParams:
		return name + "." + a.key
	}
	return fmt.Sprintf("%s.parameter(%s)", name, renderValue(source.String(a.key)))
}

// object is a JSON object of a request, read key by key.
type object struct {
	raw    []byte
	fields map[string]json.RawMessage
}

func newObject(raw []byte) (object, error) {
	if len(bytes.TrimSpace(raw)) == 0 || string(bytes.TrimSpace(raw)) == "null" {
		raw = []byte("{}")
	}
	o := object{raw: raw}
	if err := json.Unmarshal(raw, &o.fields); err != nil {
		return object{}, errNoObject
	}
	return o, nil
}

var errNoObject = errors.New("the parameters are not a JSON object")

// get reads a key, or a path: $ alone is the whole object, $.a.b descends. What is
// not there is NULL.
func (o object) get(key string) (source.Value, error) {
	if key != "$" && !strings.HasPrefix(key, "$.") {
		return fromJSON(o.fields[key])
	}
	raw, parts := json.RawMessage(o.raw), strings.Split(key, ".")
	for _, part := range parts[1:] {
		raw = member(raw, part)
		if raw == nil {
			return source.Value{}, nil
		}
	}
	return fromJSON(raw)
}

func fromJSON(raw json.RawMessage) (source.Value, error) {
	if raw == nil {
		return source.Value{}, nil
	}
	return expr.FromJSON(raw)
}

// member returns a field of an object or an element of an array; nil if there is none.
func member(raw json.RawMessage, name string) json.RawMessage {
	raw = bytes.TrimSpace(raw)
	if len(raw) > 0 && raw[0] == '[' {
		i, err := strconv.Atoi(name)
		var list []json.RawMessage
		if err != nil || i < 0 || json.Unmarshal(raw, &list) != nil || i >= len(list) {
			return nil
		}
		return list[i]
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil {
		return nil
	}
	return fields[name]
}

// caller is one subscription's view of a request: who asks, and with what.
type caller struct {
	token, connection, subscription object
}

// read evaluates an accessor.
func (c *caller) read(a accessor) (source.Value, error) {
	o := &c.token
	key := a.key
	switch a.origin {
	case originConnection:
		o = &c.connection
	case originSubscription:
		o = &c.subscription
	case originTokenParams:
		if a.key == "user_id" && !a.whole {
			key = "sub"
			break
		}
		params, err := newObject(c.token.fields["parameters"])
		if err != nil {
			return source.Value{}, errors.New("the token's claim parameters is not a JSON object")
		}
		if a.whole {
			params.fields["user_id"] = c.token.fields["sub"]
			if params.raw, err = json.Marshal(params.fields); err != nil {
				return source.Value{}, err
			}
		}
		o = &params
	}
	if a.whole {
		return expr.FromJSON(o.raw)
	}
	v, err := o.get(key)
	if err != nil || !a.asText || v.Kind() == source.KindText {
		return v, err
	}
	// Numbers and the like as they stand in the token; null as the text null.
	if raw := bytes.TrimSpace(o.fields[key]); len(raw) > 0 {
		return source.String(string(raw)), nil
	}
	return v, nil
}
