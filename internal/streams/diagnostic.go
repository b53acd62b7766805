package streams

import (
	"fmt"
	"strings"
)

// Severity tells mistakes from hints.
type Severity uint8

// The severities.
const (
	Warning Severity = iota + 1
	Error
)

// String returns the lower-case word.
func (s Severity) String() string {
	if s == Warning {
		return "warning"
	}
	return "error"
}

// Position is a place in a Source's file; Line and Column count from 1, Column
// in characters.
type Position struct {
	File         string
	Line, Column int
}

// String returns file:line:column.
func (p Position) String() string { return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column) }

// Diagnostic is one mistake or hint about a sync config.
type Diagnostic struct {
	Severity Severity
	Start    Position
	// Stream is the stream or bucket definition concerned, if any.
	Stream string
	// Message says what is wrong; Hint, if any, what to write instead.
	Message string
	Hint    string
	// Snippet is the line of the file that Start is in, and SnippetLen the number of
	// characters from Start that are concerned; both may be zero.
	Snippet    string
	SnippetLen int
}

// Format renders diagnostics for people: the place and message of each, the line
// with a caret under what is concerned, and the hint.
func Format(diags []Diagnostic) string {
	var b strings.Builder
	for i := range diags {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(diags[i].String())
	}
	return b.String()
}

// String renders one diagnostic as Format does; it ends with a line break.
func (d Diagnostic) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s: ", d.Start, d.Severity)
	if d.Stream != "" {
		fmt.Fprintf(&b, "%s: ", d.Stream)
	}
	b.WriteString(d.Message)
	b.WriteByte('\n')
	if d.Snippet != "" {
		line, caret := d.snippet()
		fmt.Fprintf(&b, "    %s\n    %s\n", line, caret)
	}
	if d.Hint != "" {
		fmt.Fprintf(&b, "  hint: %s\n", strings.ReplaceAll(d.Hint, "\n", "\n        "))
	}
	return b.String()
}

// maxSnippet is the number of characters of a line that are shown.
const maxSnippet = 120

// snippet returns the line, cut to what fits, and the carets below it.
func (d Diagnostic) snippet() (line, caret string) {
	chars := []rune(d.Snippet)
	at := max(0, min(d.Start.Column-1, len(chars)))
	n := max(1, d.SnippetLen)
	from := 0
	if len(chars) > maxSnippet {
		from = max(0, min(at-maxSnippet/3, len(chars)-maxSnippet))
		chars = chars[from:min(from+maxSnippet, len(chars))]
		at -= from
		if from > 0 {
			chars = append([]rune("…"), chars[1:]...)
		}
	}
	n = max(1, min(n, len(chars)-at))
	var pad strings.Builder
	for _, c := range chars[:at] {
		if c != '\t' {
			c = ' '
		}
		pad.WriteRune(c)
	}
	return string(chars), pad.String() + strings.Repeat("^", n)
}
