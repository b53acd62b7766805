package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"github.com/millrace-sync/millrace/internal/streams"
)

// parse reads the document's tree. It returns nil and the problem if the text is
// not one YAML or JSON document.
func (d *document) parse() (*yaml.Node, *Problem) {
	if p := d.checkText(); p != nil {
		return nil, p
	}
	text := d.text
	if trimmed := strings.TrimSpace(text); strings.HasPrefix(trimmed, "{") && json.Valid([]byte(trimmed)) {
		text = jsonToYAML(text)
	}
	dec := yaml.NewDecoder(strings.NewReader(text))
	var tree yaml.Node
	switch err := dec.Decode(&tree); {
	case errors.Is(err, io.EOF):
		return nil, d.problem(0, 0, "the file is empty")
	case err != nil:
		return nil, d.syntaxProblem(text, err)
	}
	var next yaml.Node
	if err := dec.Decode(&next); err == nil {
		p := d.problem(next.Line, next.Column, "there is more than one document")
		p.Hint = "remove all but the first, and the line --- before it"
		return nil, p
	} else if !errors.Is(err, io.EOF) {
		return nil, d.syntaxProblem(text, err)
	}
	if tree.Kind != yaml.DocumentNode || len(tree.Content) != 1 {
		return nil, d.problem(0, 0, "the file is empty")
	}
	return tree.Content[0], nil
}

func (d *document) problem(line, column int, message string) *Problem {
	return &Problem{Severity: streams.Error, File: d.file, Line: line, Column: column, Message: message, Width: 1}
}

// checkText finds bytes that no YAML file may hold: the parser tells no place for
// them, and takes some for the end of the file.
func (d *document) checkText() *Problem {
	if strings.HasPrefix(d.text, "\xff\xfe") || strings.HasPrefix(d.text, "\xfe\xff") {
		p := d.problem(1, 1, "the file is UTF-16")
		p.Hint = "save it as UTF-8"
		return p
	}
	for i, line := range d.lines {
		column := 1
		for rest := line; rest != ""; column++ {
			c, n := utf8.DecodeRuneInString(rest)
			if c == utf8.RuneError && n == 1 {
				p := d.problem(i+1, column, "the file is not UTF-8")
				p.Hint = "save it as UTF-8"
				return p
			}
			if c < ' ' && c != '\t' || c == 0x7f {
				return d.problem(i+1, column, fmt.Sprintf("the file holds the control character %U", c))
			}
			rest = rest[n:]
		}
	}
	return nil
}

// syntaxProblem turns the parser's error into a problem, in words that do not
// repeat the text.
func (d *document) syntaxProblem(text string, err error) *Problem {
	p := d.problem(0, 0, "not valid YAML")
	var le *yaml.LoadError
	if !errors.As(err, &le) {
		// The decoder's older errors tell less; the loader's tell the place.
		var n yaml.Node
		err = yaml.Load([]byte(text), &n)
	}
	if errors.As(err, &le) {
		p.Line, p.Column = le.Mark.Line, le.Mark.Column
		p.Message = "not valid YAML: " + le.Message
		if strings.HasPrefix(le.Message, "unknown anchor") {
			// The only message that repeats what is written.
			p.Message = "not valid YAML: the alias (*) has no anchor (&)"
			p.Hint = "put text that begins with * in quotes"
		}
		if le.ContextMsg != "" {
			p.Message += " " + le.ContextMsg
			if le.ContextMark.Line > 0 && le.ContextMark.Line != p.Line {
				p.Message += fmt.Sprintf(" that starts on line %d", le.ContextMark.Line)
			}
		}
	}
	if strings.ContainsRune(d.line(p.Line), '\t') && strings.Contains(p.Message, "cannot start any token") {
		p.Message, p.Hint = "not valid YAML: a line may not be indented by tabs", "indent by blanks"
	}
	if strings.Contains(p.Message, "mapping values are not allowed") {
		p.Hint = "a colon and a blank begin a value: put text that holds them in quotes, and check the indentation"
	}
	return p
}

// knownKey matches the beginning of a line that has not been parsed: a key.
var knownKey = regexp.MustCompile(`^[\s{\-]*(["']?[a-z][a-z0-9_]*["']?)\s*:`)

// showKey marks the key at the beginning of a line as public, if it is one of the
// configuration's. It serves lines with syntax errors.
func (d *document) showKey(line int) {
	m := knownKey.FindStringSubmatchIndex(d.line(line))
	if m == nil {
		return
	}
	key := strings.Trim(d.line(line)[m[2]:m[3]], `"'`)
	if allKeys[key] {
		d.shown[line] = append(d.shown[line], span{
			utf8.RuneCountInString(d.line(line)[:m[2]]), utf8.RuneCountInString(d.line(line)[:m[3]]),
		})
	}
}

// jsonToYAML rewrites what JSON allows and YAML does not: tabs between values, and
// surrogate pairs in escapes. Places stay what they are, save that columns after
// such a pair are two less.
func jsonToYAML(text string) string {
	text = strings.ReplaceAll(text, "\t", " ") // JSON text holds no raw tabs
	return surrogates.ReplaceAllStringFunc(text, func(s string) string {
		m := surrogates.FindStringSubmatch(s)
		hi, _ := strconv.ParseUint(m[2], 16, 16)
		lo, _ := strconv.ParseUint(m[3], 16, 16)
		return m[1] + fmt.Sprintf(`\U%08X`, utf16.DecodeRune(rune(hi), rune(lo)))
	})
}

// surrogates matches a surrogate pair's escapes after an even number of backslashes.
var surrogates = regexp.MustCompile(`((?:^|[^\\])(?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})`)

// source takes the text of n out of the document so that places in it can be
// traced back. Text that does not stand in the document line by line, such as a
// folded scalar or one with escapes, becomes a document of its own.
func (d *document) source(n node, text string) streams.Source {
	src := streams.Source{File: fmt.Sprintf("%s(%s)", d.file, n.path), Text: text}
	if n.Tag == "!env" {
		return src
	}
	if n.Style&yaml.LiteralStyle != 0 {
		if line, indent, ok := d.block(n.Node); ok {
			src.File, src.Line, src.Column, src.Indent = d.file, line, indent+1, indent
		}
		return src
	}
	if w := d.written(n.Node); w != "" && !strings.ContainsAny(text, "\r\n") {
		src.File, src.Line, src.Column = d.file, n.Line, n.Column
		if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
			src.Column++
		}
	}
	return src
}

// block returns the line on which a literal block's text begins and by how much it
// is indented. It reports failure if the text does not stand there.
func (d *document) block(n *yaml.Node) (line, indent int, ok bool) {
	line = n.Line
	rest := d.from(n.Line, n.Column)
	for { // past the tag, anchor and comments, to the |
		rest = strings.TrimLeft(rest, " \t")
		switch {
		case strings.HasPrefix(rest, "|"):
			return d.blockText(n, line+1)
		case rest == "" || rest[0] == '#':
			if line++; line > len(d.lines) {
				return 0, 0, false
			}
			rest = d.line(line)
		case rest[0] == '!' || rest[0] == '&':
			i := strings.IndexAny(rest, " \t")
			if i < 0 {
				i = len(rest)
			}
			rest = rest[i:]
		default:
			return 0, 0, false
		}
	}
}

func (d *document) blockText(n *yaml.Node, first int) (line, indent int, ok bool) {
	text := strings.Split(strings.TrimRight(n.Value, "\n"), "\n")
	indent = -1
	for i, t := range text {
		s := d.line(first + i)
		if indent < 0 {
			if t == "" {
				continue
			}
			if indent = len(s) - len(t); indent < 0 {
				return 0, 0, false
			}
		}
		if t != "" && s != strings.Repeat(" ", indent)+t {
			return 0, 0, false
		}
	}
	return first, indent, indent >= 0
}

// trimBOM removes the mark at the beginning of some files.
func trimBOM(b []byte) []byte { return bytes.TrimPrefix(b, []byte("\ufeff")) }
