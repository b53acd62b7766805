package config

import (
	"fmt"
	"io"
	"log/slog"
)

// redacted is what a Secret prints as.
const redacted = "[secret]"

// Secret is text that is never printed: not by any verb of fmt, by slog, nor by an
// encoder of JSON or text. Convert it to a string where it is used.
type Secret string

// String returns "[secret]", or nothing if the secret is empty.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// Format writes what String returns, whatever the verb: the default for a verb that
// does not fit a string would print the value.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

// LogValue returns what String returns.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText returns what String returns; encoding/json uses it too.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
