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

// gapStart and gapEnd match the punctuation between what may be secret and the
// public parts before and after it.
var (
	gapStart = regexp.MustCompile(`^\s*(?:[:,?\]}]\s*)*(?:[\[{]\s*|-\s+)*["']?`)
	gapEnd   = regexp.MustCompile(`["']?[\]}]*,\s*$`)
)

// snippet returns what of a line may be shown, and where in it a column, and how
// wide the given number of characters from there, comes out.
func (d *document) snippet(line, column, width int) (text string, caret, wide int) {
	runes := []rune(d.line(line))
	spans := slices.Clone(d.shown[line])
	slices.SortFunc(spans, func(a, b span) int { return a.start - b.start })
	var out []rune
	at := make([]int, len(runes)+1) // where each character of the line is in out
	keep := func(start, end int) {
		for i := start; i < end; i++ {
			at[i] = len(out)
			out = append(out, runes[i])
		}
	}
	gap := func(start, end int) {
		text := string(runes[start:end])
		head := utf8.RuneCountInString(gapStart.FindString(text))
		keep(start, start+head)
		rest := string(runes[start+head : end])
		if strings.TrimSpace(rest) == "" {
			keep(start+head, end)
			return
		}
		tail := ""
		if end < len(runes) {
			if tail = gapEnd.FindString(rest); tail == "" {
				tail = " "
			}
		}
		for i := start + head; i < end; i++ {
			at[i] = len(out)
		}
		out = append(append(out, []rune(hidden)...), []rune(tail)...)
	}
	done := 0
	for _, s := range spans {
		if s.start < done || s.end > len(runes) {
			continue // an anchor that was read twice
		}
		gap(done, s.start)
		keep(s.start, s.end)
		done = s.end
	}
	gap(done, len(runes))
	at[len(runes)] = len(out)
	if strings.TrimSpace(strings.Trim(string(out), hidden+"-:\"'")) == "" {
		return "", 0, 0 // nothing to recognise the line by
	}
	from := min(max(column-1, 0), len(runes))
	last := min(from+max(width, 1)-1, len(runes))
	text, caret = clip(string(out), at[from])
	return text, caret, max(1, min(at[last]-at[from]+1, utf8.RuneCountInString(text)-caret))
}

// clip cuts a long line to the part around the caret.
func clip(s string, caret int) (string, int) {
	s = strings.TrimRight(s, " \t")
	runes := []rune(s)
	caret = min(caret, len(runes)) // it may be behind blanks at the end
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
