package streams

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"github.com/millrace-sync/millrace/internal/streams/sql"
)

// document is a sync config's text as YAML, and what was found wrong with it.
type document struct {
	src   Source
	lines []int // byte offset at which each line starts
	diags []Diagnostic
	// errors says, once diags is full, that one of them is an Error.
	errors bool
}

// place is a range of one scalar's value, such as a name in a query. Its position
// in the file is computed when it is asked for: most places never are.
type place struct {
	node *yaml.Node
	span sql.Span
}

func newDocument(src Source) *document {
	d := &document{src: src, lines: []int{0}}
	for i := 0; i < len(src.Text); i++ {
		if src.Text[i] == '\n' {
			d.lines = append(d.lines, i+1)
		}
	}
	return d
}

// parse returns the root mapping, or nil after reporting why there is none.
func (d *document) parse() *yaml.Node {
	var root yaml.Node
	dec := yaml.NewDecoder(strings.NewReader(d.src.Text))
	err := dec.Decode(&root)
	if errors.Is(err, io.EOF) || err == nil && len(root.Content) == 0 {
		d.report(Error, "", 0, 0, "the sync config is empty", "declare streams:\nconfig:\n  edition: 3\nstreams:\n  …")
		return nil
	}
	if err != nil {
		d.yamlError(err)
		return nil
	}
	var more yaml.Node
	if err := dec.Decode(&more); err == nil {
		d.reportNode(Error, &more, "", "a second YAML document follows", "put everything in one document, without ---")
	} else if !errors.Is(err, io.EOF) {
		d.yamlError(err)
		return nil
	}
	top := root.Content[0]
	if top.Kind != yaml.MappingNode {
		d.reportNode(Error, top, "", "the sync config must be a mapping of keys such as config and streams", "")
		return nil
	}
	return top
}

func (d *document) yamlError(err error) {
	var load *yaml.LoadError
	if !errors.As(err, &load) {
		d.report(Error, "", 0, 0, "the text is not valid YAML: "+strings.TrimPrefix(err.Error(), "yaml: "), "")
		return
	}
	hint := ""
	switch {
	case strings.Contains(load.Message, "cannot start any token"):
		hint = "YAML is indented with spaces, not tabs; text that begins with one of @`%*&!|> needs quotes"
	case strings.Contains(load.Message, "mapping values are not allowed"):
		hint = `text that contains ": " needs quotes, or a block: write | and the text indented on the next lines`
	}
	d.report(Error, "", d.offset(load.Mark.Line, load.Mark.Column), 0, "the text is not valid YAML: "+load.Message, hint)
}

// offset returns the byte offset of a line and column (in characters) of the text.
func (d *document) offset(line, column int) int {
	if line < 1 || line > len(d.lines) {
		return len(d.src.Text)
	}
	at := d.lines[line-1]
	for ; column > 1 && at < len(d.src.Text) && d.src.Text[at] != '\n'; column-- {
		_, n := utf8.DecodeRuneInString(d.src.Text[at:])
		at += n
	}
	return at
}

// line returns the 0-based number and the text of the line that off is in.
func (d *document) line(off int) (int, string) {
	i := sort.SearchInts(d.lines, off+1) - 1
	end := len(d.src.Text)
	if i+1 < len(d.lines) {
		end = d.lines[i+1] - 1
	}
	return i, strings.TrimSuffix(d.src.Text[d.lines[i]:end], "\r")
}

// maxDiagnostics bounds what is reported about one config.
const maxDiagnostics = 500

func (d *document) report(s Severity, stream string, off, length int, message, hint string) {
	if !d.full(s) {
		d.diags = append(d.diags, d.diagnose(s, stream, off, length, message, hint))
	}
}

// full reports whether no more is to be reported. An error always finds a place:
// what holds errors must not pass for what holds warnings only.
func (d *document) full(s Severity) bool {
	if len(d.diags) < maxDiagnostics {
		return false
	}
	d.errors = d.errors || slices.ContainsFunc(d.diags, func(x Diagnostic) bool { return x.Severity == Error })
	return s == Warning || d.errors
}

// diagnose makes a Diagnostic about length bytes at off of the text.
func (d *document) diagnose(s Severity, stream string, off, length int, message, hint string) Diagnostic {
	off = max(0, min(off, len(d.src.Text)))
	i, text := d.line(off)
	before := utf8.RuneCountInString(text[:min(off-d.lines[i], len(text))])
	pos := Position{File: d.src.File, Line: i + 1, Column: before + 1}
	if d.src.Line > 0 {
		pos.Line += d.src.Line - 1
		shift := d.src.Indent
		if i == 0 {
			shift = max(d.src.Column-1, 0)
		}
		pos.Column += shift
		text = strings.Repeat(" ", shift) + text
	}
	end := min(off+length, d.lines[i]+len(text), len(d.src.Text))
	n := 0
	if end > off {
		n = utf8.RuneCountInString(d.src.Text[off:end])
	}
	return Diagnostic{Severity: s, Start: pos, Stream: stream, Message: message, Hint: hint, Snippet: text, SnippetLen: n}
}

func (d *document) reportNode(s Severity, n *yaml.Node, stream, message, hint string) {
	d.report(s, stream, d.offset(n.Line, n.Column), len(n.Value), message, hint)
}

func (d *document) reportAt(s Severity, stream string, p place, message, hint string) {
	if !d.full(s) {
		d.diags = append(d.diags, d.diagnoseAt(s, stream, p, message, hint))
	}
}

func (d *document) diagnoseAt(s Severity, stream string, p place, message, hint string) Diagnostic {
	if p.node == nil {
		return d.diagnose(s, stream, 0, 0, message, hint)
	}
	at := d.align(p.node)
	start := at[min(p.span.Start, len(at)-1)]
	end := start
	if p.span.End > p.span.Start {
		end = at[min(p.span.End, len(at)-1)-1] + 1
	}
	return d.diagnose(s, stream, start, end-start, message, hint)
}

// align returns for each byte of a scalar's value, and for its end, the offset in
// the text that it comes from. White space is only roughly so: YAML folds it.
func (d *document) align(n *yaml.Node) []int {
	text, value := d.src.Text, n.Value
	out := make([]int, len(value)+1)
	start := d.offset(n.Line, n.Column)
	at := d.content(n, start)
	double := n.Style&yaml.DoubleQuotedStyle != 0
	single := n.Style&yaml.SingleQuotedStyle != 0
	for i := 0; i < len(value); {
		if isSpace(value[i]) {
			out[i] = min(at, len(text))
			// A blank that the source has here is this one; else it comes from folding.
			if at < len(text) && text[at] == value[i] && value[i] != '\n' {
				at++
			} else if double && strings.HasPrefix(text[min(at, len(text)):], `\`) {
				if _, size := unescape(text[at:]); size > 0 {
					at += size
				}
			}
			i++
			continue
		}
		for at < len(text) && (isSpace(text[at]) || double && strings.HasPrefix(text[at:], "\\\n")) {
			if text[at] == '\\' {
				at++
			}
			at++
		}
		r, size := utf8.DecodeRuneInString(value[i:])
		from, width := at, 0
		switch rest := text[min(at, len(text)):]; {
		case double && strings.HasPrefix(rest, `\`):
			if got, n := unescape(rest); got == r {
				width = n
			}
		case single && strings.HasPrefix(rest, "''") && r == '\'':
			width = 2
		case strings.HasPrefix(rest, value[i:i+size]):
			width = size
		}
		if width == 0 {
			// Not as expected: point at the scalar, which is never wrong.
			for i := range out {
				out[i] = start
			}
			return out
		}
		for k := range size {
			out[i+k] = from + min(k, width-1)
		}
		at = from + width
		i += size
	}
	out[len(value)] = min(at, len(text))
	return out
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }

// content returns where a scalar's value begins: after its tag, anchor, opening
// quote or block header.
func (d *document) content(n *yaml.Node, at int) int {
	text := d.src.Text
	for at < len(text) {
		switch c := text[at]; {
		case c == '!' || c == '&':
			for at < len(text) && !isSpace(text[at]) {
				at++
			}
		case isSpace(c):
			at++
		default:
			if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
				return at + 1
			}
			if n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
				if i := strings.IndexByte(text[at:], '\n'); i >= 0 {
					return at + i + 1
				}
			}
			return at
		}
	}
	return at
}

// unescape reads one escape of a double-quoted scalar; size 0 means it is none.
func unescape(s string) (r rune, size int) {
	if len(s) < 2 {
		return 0, 0
	}
	digits := 0
	switch s[1] {
	case 'x':
		digits = 2
	case 'u':
		digits = 4
	case 'U':
		digits = 8
	default:
		if i := strings.IndexByte("0abtnvfre \"/\\N_LP", s[1]); i >= 0 {
			return []rune("\x00\a\b\t\n\v\f\r\x1b \"/\\\u0085\u00a0\u2028\u2029")[i], 2
		}
		if s[1] == '\t' {
			return '\t', 2
		}
		return 0, 0
	}
	if len(s) < 2+digits {
		return 0, 0
	}
	if _, err := fmt.Sscanf(s[2:2+digits], "%x", &r); err != nil {
		return 0, 0
	}
	return r, 2 + digits
}

// resolve follows an alias.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

// field reads one known key of a mapping.
type field struct {
	name string
	read func(key, value *yaml.Node)
}

// fields reads a mapping of known keys: unknown and repeated ones are reported.
func (d *document) fields(n *yaml.Node, stream, what string, known []field) {
	d.entries(n, stream, what, func(key, value *yaml.Node) {
		i := slices.IndexFunc(known, func(f field) bool { return f.name == key.Value })
		if i < 0 {
			names := make([]string, len(known))
			for i, f := range known {
				names[i] = f.name
			}
			hint := didYouMean(key.Value, names)
			if hint == "" {
				hint = "known here are " + strings.Join(names, ", ")
			}
			if slices.Contains([]string{"with", "queries"}, key.Value) {
				hint = key.Value + " needs edition 3"
			}
			if value.Tag == "!!null" && value.Value == "" && resolve(n).Style&yaml.FlowStyle != 0 {
				hint = "within braces a comma ends a text: put the text before it in double quotes"
			}
			d.reportNode(Error, key, stream, fmt.Sprintf("unknown key %q in %s", key.Value, what), hint)
			return
		}
		known[i].read(key, value)
	})
}

// entries calls read for every entry of a mapping with a scalar key, the first of
// each; others are reported.
func (d *document) entries(n *yaml.Node, stream, what string, read func(key, value *yaml.Node)) {
	n = resolve(n)
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.reportNode(Error, n, stream, what+" must be a mapping of keys to values", "")
		return
	}
	seen := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := resolve(n.Content[i]), resolve(n.Content[i+1])
		if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" {
			d.reportNode(Error, key, stream, "keys must be plain text in "+what, "")
			continue
		}
		if first := seen[key.Value]; first != nil {
			d.reportNode(Error, key, stream, fmt.Sprintf("key %q is given twice in %s", key.Value, what), fmt.Sprintf("remove one; the first is on line %d", first.Line+max(d.src.Line-1, 0)))
			continue
		}
		seen[key.Value] = key
		read(key, value)
	}
}

// str reads text; ok is false after reporting that it is none.
func (d *document) str(n *yaml.Node, stream, what string) (string, bool) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" || n.Tag == "!!binary" {
		d.reportNode(Error, n, stream, what+" must be text", "")
		return "", false
	}
	return n.Value, true
}

// boolean reads true or false.
func (d *document) boolean(n *yaml.Node, stream, what string, to *bool) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!bool" && (n.Value == "true" || n.Value == "false") {
		*to = n.Value == "true"
		return
	}
	d.reportNode(Error, n, stream, what+" must be true or false", "")
}

// integer reads a number from lo to hi.
func (d *document) integer(n *yaml.Node, stream, what string, lo, hi int, to *int) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!int" {
		for v := lo; v <= hi; v++ {
			if n.Value == fmt.Sprint(v) {
				*to = v
				return
			}
		}
	}
	d.reportNode(Error, n, stream, fmt.Sprintf("%s must be a whole number from %d to %d", what, lo, hi), "")
}
