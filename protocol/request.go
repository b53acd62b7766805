package protocol

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Request is what a client asks of a sync stream.
type Request struct {
	// Buckets is what the client already holds.
	Buckets []BucketPosition
	// RawData asks for rows as JSON strings rather than embedded objects.
	RawData bool
	// ClientID names the client's database; it ties write checkpoints to the client.
	ClientID string
	// Parameters holds the connection parameters as the text of a JSON object; it is
	// nil if the request has none.
	Parameters []byte
	// AppMetadata is for the server's log.
	AppMetadata map[string]string
	// IncludeDefaults asks for the streams that every client is subscribed to. It is
	// true unless the request says otherwise.
	IncludeDefaults bool
	Subscriptions   []Subscription
}

// BucketPosition says up to which operation a client holds a bucket.
type BucketPosition struct {
	Name  string
	After uint64
}

// Subscription is a client's use of a stream with parameters.
type Subscription struct {
	Stream string
	// Parameters is the text of a JSON object; nil means {}.
	Parameters []byte
	// Priority overrides that of the stream's buckets; 0 to 3.
	Priority *int
}

// DecodeRequest reads and checks the JSON body of a sync request. Fields that it
// does not know, or that only old services used, are ignored. Errors are *Error:
// BodyEmpty, BodyNotJSON, or BadRequest with every mistake in Details. The
// request's Parameters alias body.
func DecodeRequest(body []byte) (*Request, error) {
	r := &Request{IncludeDefaults: true}
	err := decodeBody(body, func(v *validator, key string) {
		switch key {
		case "buckets":
			r.Buckets = r.Buckets[:0]
			v.array("/buckets", func(i int) { r.Buckets = append(r.Buckets, v.bucket(i)) })
		case "raw_data":
			r.RawData = v.boolean("/raw_data")
		case "client_id":
			r.ClientID = v.text("/client_id")
		case "parameters":
			r.Parameters = v.rawObject("/parameters")
		case "app_metadata":
			r.AppMetadata = make(map[string]string)
			v.object("/app_metadata", func(key string) {
				r.AppMetadata[key] = v.text("/app_metadata/" + pointer(key))
			})
		case "streams":
			r.IncludeDefaults, r.Subscriptions = true, nil
			v.object("/streams", func(key string) {
				switch key {
				case "include_defaults":
					r.IncludeDefaults = v.boolean("/streams/include_defaults")
				case "subscriptions":
					r.Subscriptions = r.Subscriptions[:0]
					v.array("/streams/subscriptions", func(i int) {
						r.Subscriptions = append(r.Subscriptions, v.subscription(i))
					})
				default:
					v.skip()
				}
			})
		default:
			v.skip()
		}
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (v *validator) bucket(i int) (b BucketPosition) {
	var name, after bool
	at := func() string { return "/buckets/" + strconv.Itoa(i) }
	if !v.is('{', at, "must be object") {
		return b
	}
	v.object("", func(key string) {
		switch key {
		case "name":
			name = true
			if v.is('"', func() string { return at() + "/name" }, "must be string") {
				b.Name = v.str()
			}
		case "after":
			after = true
			where := func() string { return at() + "/after" }
			if !v.is('"', where, "must be string") {
				return
			}
			n, ok := parseID([]byte(v.str()))
			if !ok {
				v.fail(where(), "must be a decimal number from 0 to 9223372036854775807")
			}
			b.After = n
		default:
			v.skip()
		}
	})
	v.require(name, at, "name")
	v.require(after, at, "after")
	return b
}

func (v *validator) subscription(i int) (s Subscription) {
	var stream, parameters, priority bool
	at := func() string { return "/streams/subscriptions/" + strconv.Itoa(i) }
	if !v.is('{', at, "must be object") {
		return s
	}
	v.object("", func(key string) {
		switch key {
		case "stream":
			stream = true
			s.Stream = v.text(at() + "/stream")
		case "parameters":
			parameters = true
			s.Parameters = nil
			if v.peek() == 'n' {
				v.skip()
			} else {
				s.Parameters = v.rawObject(at() + "/parameters")
			}
		case "override_priority":
			priority = true
			s.Priority = v.priority(at() + "/override_priority")
		default:
			v.skip()
		}
	})
	v.require(stream, at, "stream")
	v.require(parameters, at, "parameters")
	v.require(priority, at, "override_priority")
	return s
}

func (v *validator) priority(at string) *int {
	c := v.peek()
	if c == 'n' {
		v.skip()
		return nil
	}
	if c != '-' && (c < '0' || c > '9') {
		v.fail(at, "must be number,null")
		v.skip()
		return nil
	}
	n, ok := v.integer()
	if !ok || n < 0 || n > 3 {
		v.fail(at, "must be 0, 1, 2 or 3")
		return nil
	}
	p := int(n)
	return &p
}

// AppendJSON appends the request as a client sends it. Its raw parts must be JSON
// objects.
func (r *Request) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"buckets":[`...)
	for i, b := range r.Buckets {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"name":`...)
		dst = appendJSONString(dst, b.Name)
		dst = append(dst, `,"after":"`...)
		dst = strconv.AppendUint(dst, b.After, 10)
		dst = append(dst, `"}`...)
	}
	dst = append(dst, `],"include_checksum":true,"raw_data":`...)
	dst = strconv.AppendBool(dst, r.RawData)
	dst = append(dst, `,"client_id":`...)
	dst = appendJSONString(dst, r.ClientID)
	dst = append(dst, `,"parameters":`...)
	dst = appendObject(dst, r.Parameters)
	dst = append(dst, `,"streams":{"include_defaults":`...)
	dst = strconv.AppendBool(dst, r.IncludeDefaults)
	dst = append(dst, `,"subscriptions":[`...)
	for i, s := range r.Subscriptions {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"stream":`...)
		dst = appendJSONString(dst, s.Stream)
		dst = append(dst, `,"parameters":`...)
		dst = appendObject(dst, s.Parameters)
		dst = append(dst, `,"override_priority":`...)
		if s.Priority == nil {
			dst = append(dst, `null`...)
		} else {
			dst = strconv.AppendInt(dst, int64(*s.Priority), 10)
		}
		dst = append(dst, '}')
	}
	dst = append(dst, `]}`...)
	if len(r.AppMetadata) > 0 {
		dst = append(dst, `,"app_metadata":{`...)
		for i, k := range slices.Sorted(maps.Keys(r.AppMetadata)) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendJSONString(dst, k)
			dst = append(dst, ':')
			dst = appendJSONString(dst, r.AppMetadata[k])
		}
		dst = append(dst, '}')
	}
	return append(dst, '}')
}

// appendObject appends raw, or {} in place of nothing: the reference refuses null.
func appendObject(dst, raw []byte) []byte {
	if len(raw) == 0 {
		return append(dst, `{}`...)
	}
	return append(dst, raw...)
}

// parseID reads the decimal form of an id: 0 to 2⁶³−1, without sign or spaces.
func parseID(s []byte) (uint64, bool) {
	if len(s) == 0 || s[0] == '+' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(s), 10, 63)
	return n, err == nil
}

// decodeBody checks that body is JSON and calls field to read the value of each
// key of the object in it.
func decodeBody(body []byte, field func(v *validator, key string)) error {
	body = bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))
	if len(body) == 0 {
		return Errorf(BodyEmpty, "Body cannot be empty when content-type is set to 'application/json'")
	}
	if !utf8.Valid(body) {
		body = bytes.ToValidUTF8(body, []byte("\uFFFD"))
	}
	whole := scanner{src: body}
	err := whole.skip()
	if err == nil {
		err = whole.end()
	}
	if err != nil {
		var syntax *syntaxError
		if errors.As(err, &syntax) && syntax.what == errDepth {
			return badRequest([]string{"body must not nest deeper than " + strconv.Itoa(MaxDepth) + " levels"})
		}
		e := Errorf(BodyNotJSON, "Body is not valid JSON but content-type is set to 'application/json'")
		e.Details = err.Error()
		return e
	}
	v := &validator{s: scanner{src: body}}
	if v.is('{', func() string { return "" }, "must be object") {
		v.object("", func(key string) { field(v, key) })
	}
	if v.broken != nil {
		return Internal(fmt.Errorf("decode a request: %w", v.broken))
	}
	if len(v.mistakes) > 0 {
		return badRequest(v.mistakes)
	}
	return nil
}

func badRequest(mistakes []string) *Error {
	e := Errorf(BadRequest, "Request does not have the form it must have; see the details")
	details := []byte{'['}
	for i, m := range mistakes {
		if i > 0 {
			details = append(details, ',')
		}
		details = appendJSONString(details, m)
	}
	e.Details = string(append(details, ']'))
	return e
}

// maxMistakes bounds how many mistakes one answer lists.
const maxMistakes = 10

// validator reads a text that is known to be JSON and notes where it is not of
// the form asked for. Each method reads one whole value.
type validator struct {
	s        scanner
	mistakes []string
	broken   error // a syntax error, which the check before should have found
}

func (v *validator) fail(at, what string) {
	if len(v.mistakes) < maxMistakes {
		v.mistakes = append(v.mistakes, at+" "+what)
	}
}

func (v *validator) note(err error) {
	if err != nil && v.broken == nil {
		v.broken = err
		v.s.pos = len(v.s.src)
	}
}

func (v *validator) require(present bool, at func() string, key string) {
	if !present {
		v.fail(at(), "must have required property '"+key+"'")
	}
}

func (v *validator) peek() byte { return v.s.peek() }

func (v *validator) skip() { v.note(v.s.skip()) }

// is reports whether the next value begins with c. If not, it notes the mistake
// and skips the value.
func (v *validator) is(c byte, at func() string, otherwise string) bool {
	if v.peek() == c {
		return true
	}
	v.fail(at(), otherwise)
	v.skip()
	return false
}

func (v *validator) str() string {
	b, err := v.s.str()
	v.note(err)
	return string(b)
}

func (v *validator) text(at string) string {
	if !v.is('"', func() string { return at }, "must be string") {
		return ""
	}
	return v.str()
}

func (v *validator) boolean(at string) bool {
	if c := v.peek(); c != 't' && c != 'f' {
		v.fail(at, "must be boolean")
		v.skip()
		return false
	}
	b, err := v.s.boolean()
	v.note(err)
	return b
}

// integer reads a number and reports whether it is whole.
func (v *validator) integer() (int64, bool) {
	text, err := v.s.raw()
	v.note(err)
	if n, err := strconv.ParseInt(string(text), 10, 64); err == nil {
		return n, true
	}
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		return math.MaxInt64, false
	}
	return wholeNumber(f)
}

func (v *validator) rawObject(at string) []byte {
	if !v.is('{', func() string { return at }, "must be object") {
		return nil
	}
	raw, err := v.s.raw()
	v.note(err)
	return raw
}

func (v *validator) object(at string, field func(key string)) {
	if !v.is('{', func() string { return at }, "must be object") {
		return
	}
	v.note(v.s.object(func(key []byte) error {
		field(string(key))
		return v.broken
	}))
}

func (v *validator) array(at string, item func(i int)) {
	if !v.is('[', func() string { return at }, "must be array") {
		return
	}
	v.note(v.s.array(func(i int) error {
		item(i)
		return v.broken
	}))
}

// pointer escapes a key for use in a JSON pointer.
func pointer(key string) string {
	return strings.ReplaceAll(strings.ReplaceAll(key, "~", "~0"), "/", "~1")
}
