package config

import (
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// snippetWidth bounds the characters shown of a line.
const snippetWidth = 120

// hidden stands for text that may be secret.
const hidden = "…"

// document is the text of a configuration file, and what of it may be shown.
//
// Hiding is the rule: a password may sit under a misspelt key, in the place of a
// mapping, or behind a syntax error. So a snippet shows the parts that were marked
// by show, and of the rest nothing but the punctuation around it.
type document struct {
	file  string
	text  string
	lines []string
	shown map[int][]span // by line, from 1
}

// span is a range of characters in a line, from 0, end excluded.
type span struct{ start, end int }

func newDocument(file, text string) *document {
	return &document{file: file, text: text, lines: splitLines(text), shown: map[int][]span{}}
}

// splitLines splits at every line break that the YAML reader counts.
func splitLines(text string) []string {
	var lines []string
	start := 0
	for i := 0; i < len(text); {
		c, n := utf8.DecodeRuneInString(text[i:])
		switch {
		case c == '\r' && i+1 < len(text) && text[i+1] == '\n':
			n = 2
			fallthrough
		case c == '\r', c == '\n', c == '\u0085', c == '\u2028', c == '\u2029':
			lines = append(lines, text[start:i])
			start = i + n
		}
		i += n
	}
	return append(lines, text[start:])
}

// line returns the text of a line, counted from 1, and "" beyond the end.
func (d *document) line(n int) string {
	if n < 1 || n > len(d.lines) {
		return ""
	}
	return d.lines[n-1]
}

// from returns the rest of a line from a column, both counted from 1.
func (d *document) from(line, column int) string {
	s := d.line(line)
	for ; column > 1 && s != ""; column-- {
		_, n := utf8.DecodeRuneInString(s)
		s = s[n:]
	}
	return s
}

// envTag matches the use of a variable; the name of one is no secret.
var envTag = regexp.MustCompile(`^!env\s+["']?PS_[A-Z0-9_]+(::[a-z]+)?["']?`)

// written returns the characters that a scalar takes up in its line, or "" if it
// does not stand there letter by letter, as with escapes or several lines.
func (d *document) written(n *yaml.Node) string {
	rest := d.from(n.Line, n.Column)
	switch {
	case n.Style&yaml.TaggedStyle != 0:
		return envTag.FindString(rest)
	case n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0:
		if rest == "" {
			return ""
		}
		if q := rest[:1] + n.Value + rest[:1]; strings.HasPrefix(rest, q) {
			return q
		}
	case n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) == 0 && strings.HasPrefix(rest, n.Value):
		return n.Value
	}
	return ""
}

// show marks a scalar as public.
func (d *document) show(n *yaml.Node) {
	if w := utf8.RuneCountInString(d.written(n)); w > 0 {
		d.shown[n.Line] = append(d.shown[n.Line], span{n.Column - 1, n.Column - 1 + w})
	}
}

// width returns the number of characters to underline at a node, at least 1.
func (d *document) width(n *yaml.Node) int {
	return max(1, utf8.RuneCountInString(d.written(n)))
}

// gapStart matches the punctuation between a public part and what may be secret.
var gapStart = regexp.MustCompile(`^\s*(?:[:,?\]}]\s*)*(?:[\[{]\s*|-\s+)*["']?`)

// snippet returns what of a line may be shown, and where in it a column is.
func (d *document) snippet(line, column int) (string, int) {
	runes := []rune(d.line(line))
	spans := slices.Clone(d.shown[line])
	slices.SortFunc(spans, func(a, b span) int { return a.start - b.start })
	var out []rune
	caret, at := -1, 0
	// place notes where the caret is once the characters up to end are in out.
	gap := func(end int) {
		if end <= at {
			return
		}
		text := string(runes[at:end])
		kept := []rune(gapStart.FindString(text))
		if column-1 >= at && column-1 < end {
			caret = len(out) + min(column-1-at, len(kept))
		}
		out = append(out, kept...)
		if strings.TrimSpace(string(runes[at+len(kept):end])) != "" {
			out = append(out, []rune(hidden)...)
			if end < len(runes) {
				out = append(out, ' ')
			}
		} else {
			out = append(out, runes[at+len(kept):end]...)
		}
		at = end
	}
	for _, s := range spans {
		if s.start < at || s.end > len(runes) {
			continue // an anchor that was read twice
		}
		gap(s.start)
		if column-1 >= s.start && column-1 < s.end {
			caret = len(out) + column - 1 - s.start
		}
		out = append(out, runes[s.start:s.end]...)
		at = s.end
	}
	gap(len(runes))
	if caret < 0 {
		caret = len(out)
	}
	if strings.TrimSpace(strings.Trim(string(out), hidden+"-:\"'")) == "" {
		return "", 0 // nothing to recognise the line by
	}
	return clip(string(out), caret)
}

// clip cuts a long line to the part around the caret.
func clip(s string, caret int) (string, int) {
	s = strings.TrimRight(s, " \t")
	runes := []rune(s)
	if len(runes) <= snippetWidth {
		return s, caret
	}
	start := max(0, min(caret-snippetWidth/2, len(runes)-snippetWidth))
	end := start + snippetWidth
	out, at := runes[start:end], caret-start
	if start > 0 {
		out, at = append([]rune("… "), out...), at+2
	}
	if end < len(runes) {
		out = append(slices.Clip(out), []rune(" …")...)
	}
	return string(out), at
}
