package config

import (
	"fmt"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/millrace-sync/millrace/internal/streams"
)

// Severity tells mistakes from hints; it is that of a sync config's diagnostics.
type Severity = streams.Severity

// Problem is one mistake or hint about a configuration.
type Problem struct {
	Severity Severity
	// File names the document, or the environment variable or flag at fault. Line and
	// Column count from 1, Column in characters; both are 0 if there is no place.
	File         string
	Line, Column int
	// Path is the key concerned, such as "replication.connections[0].port".
	Path string
	// Code is the PSYNC_… code, if there is one.
	Code string
	// Message says what is wrong; Hint, if any, what to write instead.
	Message, Hint string
	// Snippet is the line concerned with everything hidden that may be secret, Caret
	// the number of characters before the place in it, and Width the number of
	// characters concerned. Snippet is empty if there is nothing to show.
	Snippet      string
	Caret, Width int
}

// Place returns file:line:column, or the file alone if there is no place in it.
func (p Problem) Place() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// String renders the problem: a line with place, path and message, then the line
// concerned with a caret, then the hint. It does not end in a newline.
func (p Problem) String() string {
	var b strings.Builder
	if place := p.Place(); place != "" {
		b.WriteString(place + ": ")
	}
	fmt.Fprintf(&b, "%s: ", p.Severity)
	if p.Path != "" {
		fmt.Fprintf(&b, "%s: ", p.Path)
	}
	b.WriteString(p.Message)
	if p.Code != "" {
		fmt.Fprintf(&b, " [%s]", p.Code)
	}
	if p.Snippet != "" {
		fmt.Fprintf(&b, "\n    %s\n    %s^%s", p.Snippet,
			caretIndent(p.Snippet, p.Caret), strings.Repeat("~", max(0, p.Width-1)))
	}
	if p.Hint != "" {
		fmt.Fprintf(&b, "\n  hint: %s", p.Hint)
	}
	return b.String()
}

// caretIndent returns blanks as wide as the first n characters of s, with tabs kept
// so that a caret below stands right at any tab width.
func caretIndent(s string, n int) string {
	var b strings.Builder
	for _, c := range s {
		if n == 0 {
			break
		}
		n--
		if c != '\t' {
			c = ' '
		}
		b.WriteRune(c)
	}
	return b.String() + strings.Repeat(" ", n)
}

// Problems is a list of problems, in the order of their places.
type Problems []Problem

// String renders each problem, one below the other.
func (ps Problems) String() string {
	parts := make([]string, len(ps))
	for i, p := range ps {
		parts[i] = p.String()
	}
	return strings.Join(parts, "\n")
}

// Errors counts the problems that are mistakes.
func (ps Problems) Errors() int {
	n := 0
	for _, p := range ps {
		if p.Severity == streams.Error {
			n++
		}
	}
	return n
}

// sort orders the problems by document and place, and drops repetitions: an anchor
// that is used twice is read twice.
func (ps Problems) sort() Problems {
	sort.SliceStable(ps, func(i, j int) bool {
		a, b := &ps[i], &ps[j]
		if a.File != b.File {
			return false // documents stay in the order in which they were read
		}
		if a.Line != b.Line {
			return a.Line < b.Line
		}
		return a.Column < b.Column
	})
	var out Problems
	for i, p := range ps {
		if i > 0 && p.File == ps[i-1].File && p.Line == ps[i-1].Line &&
			p.Column == ps[i-1].Column && p.Message == ps[i-1].Message {
			continue
		}
		out = append(out, p)
	}
	return out
}

// Invalid is the error of a configuration with mistakes. It holds every problem,
// warnings included.
type Invalid struct {
	Problems Problems
}

// Error renders every problem and, last, the number of mistakes.
func (e *Invalid) Error() string {
	n := e.Problems.Errors()
	noun := "mistakes"
	if n == 1 {
		noun = "mistake"
	}
	return fmt.Sprintf("%s\nthe configuration has %d %s", e.Problems, n, noun)
}

// FromDiagnostic turns a sync config's diagnostic into a Problem, so that both are
// shown alike.
func FromDiagnostic(d streams.Diagnostic) Problem {
	p := Problem{
		Severity: d.Severity,
		File:     d.Start.File, Line: d.Start.Line, Column: d.Start.Column,
		Path:    d.Stream,
		Message: d.Message,
		Hint:    d.Hint,
		Width:   max(1, d.SnippetLen),
	}
	p.Snippet, p.Caret = clip(d.Snippet, max(0, d.Start.Column-1))
	if rest := utf8.RuneCountInString(p.Snippet) - p.Caret; p.Width > rest {
		p.Width = max(1, rest)
	}
	return p
}
