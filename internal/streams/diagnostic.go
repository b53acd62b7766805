package streams

import "fmt"

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
