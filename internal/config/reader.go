package config

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/millrace-sync/millrace/internal/streams"
)

// reader walks a document's tree and gathers its problems. Its methods return a
// usable value in any case, so that reading goes on past a mistake.
type reader struct {
	doc       *document
	lookupEnv func(string) (string, bool)
	problems  []*Problem
}

// node is a value of the document with its path. The zero node is an absent value.
type node struct {
	*yaml.Node
	path string
}

func (n node) present() bool { return n.Node != nil }

// child returns the node below n, with aliases followed.
func (n node) child(y *yaml.Node, step string) node {
	path := n.path + step
	if n.path == "" {
		path = strings.TrimPrefix(step, ".")
	}
	return node{follow(y), path}
}

// follow returns the node that an alias stands for.
func follow(y *yaml.Node) *yaml.Node {
	for y != nil && y.Kind == yaml.AliasNode {
		y = y.Alias
	}
	return y
}

// report adds a problem at a node.
func (r *reader) report(s Severity, n node, format string, args ...any) *Problem {
	p := &Problem{Severity: s, File: r.doc.file, Path: n.path, Message: fmt.Sprintf(format, args...), Width: 1}
	if n.present() {
		p.Line, p.Column, p.Width = n.Line, n.Column, r.doc.width(n.Node)
	}
	r.problems = append(r.problems, p)
	return p
}

func (r *reader) errorf(n node, format string, args ...any) *Problem {
	return r.report(streams.Error, n, format, args...)
}

func (r *reader) warnf(n node, format string, args ...any) *Problem {
	return r.report(streams.Warning, n, format, args...)
}

// inert warns of a key of the PowerSync Service that is read and has no function.
func (r *reader) inert(n node) {
	if n.present() {
		r.warnf(n, "has no function here")
	}
}

// mistakes counts the problems so far that are no warnings.
func (r *reader) mistakes() int {
	n := 0
	for _, p := range r.problems {
		if p.Severity == streams.Error {
			n++
		}
	}
	return n
}

// hint sets what to write instead.
func (p *Problem) hint(format string, args ...any) *Problem {
	p.Hint = fmt.Sprintf(format, args...)
	return p
}

// code sets the PSYNC_… code.
func (p *Problem) code(code string) *Problem {
	p.Code = code
	return p
}

// mapping is a mapping's values by key; absent and null values are zero nodes.
type mapping struct {
	node
	at map[string]node
	ok bool // it is there and is a mapping
}

// plainKey matches keys that cannot be anything secret.
var plainKey = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_#.-]{0,63}$`)

// mapping reads a mapping with the given keys; others are warned of. It returns an
// empty mapping if n is absent or is not a mapping.
func (r *reader) mapping(n node, keys ...string) mapping {
	m := mapping{node: n, at: map[string]node{}}
	if !n.present() || !r.isKind(n, yaml.MappingNode, "a mapping of keys to values") {
		return m
	}
	m.ok = true
	places := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		kn := node{follow(k), n.path}
		switch {
		case kn.Kind != yaml.ScalarNode || kn.Tag != "!!str" && !plainKey.MatchString(kn.Value) && kn.Tag != "!!merge":
			r.errorf(kn, "a key must be plain text")
			continue
		case kn.Tag == "!!merge":
			r.errorf(kn, "merge keys (<<) are not supported").hint("write the keys out, or use an alias for a whole value")
			continue
		case !plainKey.MatchString(kn.Value):
			p := r.warnf(kn, "unknown key")
			if name, _, ok := strings.Cut(kn.Value, ":"); ok && slices.Contains(keys, name) {
				p.Severity = streams.Error
				p.Message = fmt.Sprintf("a blank is missing after %q", name+":")
			}
			continue
		}
		r.doc.show(kn.Node)
		if line, ok := places[kn.Value]; ok {
			r.errorf(kn, "the key %q is already on line %d", kn.Value, line).hint("remove one of the two")
			continue
		}
		places[kn.Value] = kn.Line
		c := n.child(v, "."+kn.Value)
		if !slices.Contains(keys, kn.Value) {
			p := r.warnf(node{kn.Node, c.path}, "unknown key, ignored")
			if s := suggest(kn.Value, keys); s != "" {
				p.hint("did you mean %q?", s)
			} else if note, ok := foreignKeys[kn.Value]; ok {
				p.hint("%s", note)
			}
			continue
		}
		if c.Kind == yaml.ScalarNode && c.Tag == "!!null" {
			continue
		}
		m.at[kn.Value] = c
	}
	return m
}

// isKind reports a node that is not of the kind wanted.
func (r *reader) isKind(n node, kind yaml.Kind, want string) bool {
	if n.Kind == kind {
		if n.Style&yaml.TaggedStyle == 0 || strings.HasPrefix(n.Tag, "!!") {
			return true
		}
		r.errorf(n, "the tag %s does not go with %s", n.Tag, want)
		return false
	}
	is := "text"
	switch n.Kind {
	case yaml.MappingNode:
		is = "a mapping"
	case yaml.SequenceNode:
		is = "a list"
	case yaml.ScalarNode:
		if n.Tag == "!env" {
			is = "a variable"
		}
	}
	r.errorf(n, "must be %s, is %s", want, is)
	return false
}

// list returns the items of a list. It reports whether there is one.
func (r *reader) list(n node) ([]node, bool) {
	if !n.present() || !r.isKind(n, yaml.SequenceNode, "a list") {
		return nil, false
	}
	items := make([]node, len(n.Content))
	for i, c := range n.Content {
		items[i] = n.child(c, fmt.Sprintf("[%d]", i))
	}
	return items, true
}

// oneOrMore returns the items of a list, or the value itself if it is not a list.
func (r *reader) oneOrMore(n node) []node {
	if n.present() && n.Kind == yaml.ScalarNode {
		return []node{n}
	}
	items, _ := r.list(n)
	return items
}

// scalar is a single value with the variable, if any, resolved.
type scalar struct {
	kind scalarKind
	text string
	env  string // the variable it came from
}

type scalarKind uint8

const (
	textKind scalarKind = iota + 1
	numberKind
	boolKind
	nullKind
)

func (k scalarKind) String() string {
	return [...]string{"", "text", "a number", "true or false", "empty"}[k]
}

// scalar reads a single value. want names what is expected, for messages.
func (r *reader) scalar(n node, want string) (scalar, bool) {
	if !n.present() {
		return scalar{}, false
	}
	if n.Tag == "!env" || strings.HasPrefix(n.Tag, "!env:") {
		return r.variable(n)
	}
	if !r.isKind(n, yaml.ScalarNode, want) {
		return scalar{}, false
	}
	s := scalar{kind: textKind, text: n.Value}
	switch n.Tag {
	case "!!int", "!!float":
		s.kind = numberKind
	case "!!bool":
		s.kind = boolKind
	case "!!null":
		s.kind = nullKind
	case "!!str", "!!timestamp", "!!merge":
		// A date is plain text in YAML 1.2.
	default:
		r.errorf(n, "the tag %s is unknown", n.Tag).hint("the only tag is !env, as in !env PS_NAME")
		return scalar{}, false
	}
	return s, true
}

// envForm matches what may follow !env.
var envForm = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]*)(?:::([A-Za-z]*))?$`)

// variable resolves !env PS_NAME[::type].
func (r *reader) variable(n node) (scalar, bool) {
	m := envForm.FindStringSubmatch(n.Value)
	if n.Kind != yaml.ScalarNode || n.Tag != "!env" || m == nil {
		r.errorf(n, "!env must be followed by the name of a variable").
			hint("write !env PS_NAME, !env PS_NAME::number or !env PS_NAME::boolean")
		return scalar{}, false
	}
	name, as := m[1], m[2]
	if !strings.HasPrefix(name, "PS_") {
		r.errorf(n, "!env reads only variables whose names start with PS_").hint("rename the variable to PS_%s", name)
		return scalar{}, false
	}
	r.doc.show(n.Node)
	text, ok := r.lookupEnv(name)
	if !ok {
		r.errorf(n, "the environment variable %s is not set", name)
		return scalar{}, false
	}
	s := scalar{text: text, env: name}
	switch as {
	case "", "string":
		s.kind = textKind
	case "number":
		s.kind = numberKind
		s.text = strings.TrimSpace(text)
		if f, err := strconv.ParseFloat(s.text, 64); err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			r.errorf(n, "the environment variable %s must hold a number", name)
			return scalar{}, false
		}
	case "boolean":
		s.kind = boolKind
		s.text = strings.ToLower(strings.TrimSpace(text))
		if s.text != "true" && s.text != "false" {
			r.errorf(n, "the environment variable %s must hold true or false", name)
			return scalar{}, false
		}
	default:
		r.errorf(n, "!env knows no type %q", as).hint("write ::string, ::number or ::boolean")
		return scalar{}, false
	}
	return s, true
}

// text reads text that may be shown.
func (r *reader) text(n node) string {
	s := r.secret(n)
	if n.present() && n.Kind == yaml.ScalarNode {
		r.doc.show(n.Node)
	}
	return string(s)
}

// secret reads text that is never shown. It returns "" if there is none.
func (r *reader) secret(n node) Secret {
	s, ok := r.scalar(n, "text")
	if !ok {
		return ""
	}
	if s.kind != textKind {
		p := r.errorf(n, "must be text, is %s", s.kind)
		if s.env != "" {
			p.hint("write !env %s without a type", s.env)
		} else {
			p.hint("put it in quotes")
		}
		return ""
	}
	if strings.ContainsRune(s.text, 0) {
		r.errorf(n, "must not hold a zero byte")
		return ""
	}
	return Secret(s.text)
}

// word reads text that is one of the given words, and returns def if it is absent
// or another.
func (r *reader) word(n node, def string, words ...string) string {
	if !n.present() {
		return def
	}
	before := len(r.problems)
	s := r.text(n)
	if slices.Contains(words, s) {
		return s
	}
	if len(r.problems) > before {
		return def
	}
	p := r.errorf(n, "must be one of %s", strings.Join(words, ", "))
	if near := suggest(s, words); near != "" {
		p.hint("did you mean %q?", near)
	}
	return def
}

// truth reads true or false.
func (r *reader) truth(n node, def bool) bool {
	s, ok := r.scalar(n, "true or false")
	if !ok {
		return def
	}
	r.doc.show(n.Node)
	if s.kind != boolKind {
		p := r.errorf(n, "must be true or false, is %s", s.kind)
		if s.env != "" {
			p.hint("write !env %s::boolean", s.env)
		} else {
			p.hint("write true or false, without quotes")
		}
		return def
	}
	return strings.EqualFold(s.text, "true")
}

// integer reads a whole number from lo to hi.
func (r *reader) integer(n node, def, lo, hi int) int {
	s, ok := r.scalar(n, "a whole number")
	if !ok {
		return def
	}
	r.doc.show(n.Node)
	if s.kind != numberKind {
		p := r.errorf(n, "must be a whole number, is %s", s.kind)
		if s.env != "" {
			p.hint("write !env %s::number", s.env)
		} else if _, ok := parseInt(s.text); ok {
			p.hint("write it without quotes")
		}
		return def
	}
	return r.inRange(n, s.text, def, lo, hi)
}

// port reads a port number. Text of digits will do, as it does for the PowerSync
// Service: configurations often have port: !env PS_PORT.
func (r *reader) port(n node, def, lo int) int {
	s, ok := r.scalar(n, "a port number")
	if !ok {
		return def
	}
	r.doc.show(n.Node)
	if s.kind != numberKind && s.kind != textKind {
		r.errorf(n, "must be a port number, is %s", s.kind)
		return def
	}
	return r.inRange(n, strings.TrimSpace(s.text), def, lo, 65535)
}

// inRange parses a whole number and reports one out of range.
func (r *reader) inRange(n node, text string, def, lo, hi int) int {
	i, ok := parseInt(text)
	if !ok || i < lo || i > hi {
		r.errorf(n, "must be a whole number from %d to %d", lo, hi)
		return def
	}
	return i
}

// parseInt reads a whole number as YAML 1.2 writes it: 010 is ten.
func parseInt(s string) (int, bool) {
	base := 10
	switch {
	case strings.HasPrefix(s, "0x"):
		base, s = 16, s[2:]
	case strings.HasPrefix(s, "0o"):
		base, s = 8, s[2:]
	}
	if strings.Contains(s, "_") {
		return 0, false
	}
	i, err := strconv.ParseInt(s, base, 64)
	return int(i), err == nil
}

// anyDepth bounds the nesting of a value whose form is free.
const anyDepth = 100

// any reads a value whose form is free: only its variables are checked.
func (r *reader) any(n node) { r.anyAt(n, anyDepth, map[*yaml.Node]bool{}) }

func (r *reader) anyAt(n node, depth int, seen map[*yaml.Node]bool) {
	if !n.present() || seen[n.Node] {
		return // an anchor may hold itself
	}
	seen[n.Node] = true
	if depth == 0 {
		r.errorf(n, "is nested more than %d levels deep", anyDepth)
		return
	}
	switch {
	case strings.HasPrefix(n.Tag, "!env") || n.Kind == yaml.ScalarNode:
		r.scalar(n, "a value")
	case n.Kind == yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			step := ".?"
			if k := n.Content[i]; k.Kind == yaml.ScalarNode && plainKey.MatchString(k.Value) {
				step = "." + k.Value
				r.doc.show(k)
			}
			r.anyAt(n.child(n.Content[i+1], step), depth-1, seen)
		}
	case n.Kind == yaml.SequenceNode:
		for i, c := range n.Content {
			r.anyAt(n.child(c, fmt.Sprintf("[%d]", i)), depth-1, seen)
		}
	}
}
