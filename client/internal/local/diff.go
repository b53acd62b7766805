package local

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// errNotObject says that a text that triggers pass is no JSON object.
var errNotObject = errors.New("expected a JSON object")

// diff returns the members of after that before lacks or has otherwise, in the
// order of their names, and null for those that only before has. A null member
// counts as absent, so an insert (a diff from nothing) has no nulls.
func diff(before, after string) (string, error) {
	old, err := object(before)
	if err != nil {
		return "", fmt.Errorf("old values: %w", err)
	}
	changed, err := object(after)
	if err != nil {
		return "", fmt.Errorf("new values: %w", err)
	}
	for name, was := range old {
		is, ok := changed[name]
		switch {
		case !ok:
			changed[name] = nil
		case equal(was, is):
			delete(changed, name)
		}
	}
	return string(appendValue(nil, changed)), nil
}

// object parses a JSON object and leaves out its null members.
func object(text string) (map[string]any, error) {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("%w: %w", errNotObject, err)
	}
	if d.More() {
		return nil, fmt.Errorf("%w: text follows it", errNotObject)
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, errNotObject
	}
	maps.DeleteFunc(m, func(_ string, v any) bool { return v == nil })
	return m, nil
}

// equal compares values as they will be printed: 1 and 1.0 differ, 1.0 and 1.00 do not.
func equal(a, b any) bool { return bytes.Equal(appendValue(nil, a), appendValue(nil, b)) }

// appendValue prints v with sorted names and no spaces.
func appendValue(dst []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...)
	case bool:
		return strconv.AppendBool(dst, v)
	case string:
		return appendString(dst, v)
	case json.Number:
		return appendNumber(dst, v.String())
	case []any:
		dst = append(dst, '[')
		for i, e := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendValue(dst, e)
		}
		return append(dst, ']')
	case map[string]any:
		dst = append(dst, '{')
		for i, name := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendString(dst, name)
			dst = append(dst, ':')
			dst = appendValue(dst, v[name])
		}
		return append(dst, '}')
	}
	panic(fmt.Sprintf("local: a JSON decoder made a %T", v))
}

// appendString quotes s and escapes what JSON requires, nothing else.
func appendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for i := range len(s) {
		switch c := s[i]; c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, `\b`...)
		case '\f':
			dst = append(dst, `\f`...)
		case '\n':
			dst = append(dst, `\n`...)
		case '\r':
			dst = append(dst, `\r`...)
		case '\t':
			dst = append(dst, `\t`...)
		default:
			if c < 0x20 {
				dst = append(dst, `\u00`...)
				dst = append(dst, hex[c>>4], hex[c&15])
			} else {
				dst = append(dst, c)
			}
		}
	}
	return append(dst, '"')
}

// appendNumber prints a number as the official clients do: integers of 64 bits as
// they are, all else as the shortest double that reads back, always with a point or
// an exponent.
func appendNumber(dst []byte, text string) []byte {
	if !strings.ContainsAny(text, ".eE") && text != "-0" {
		if _, err := strconv.ParseInt(text, 10, 64); err == nil {
			return append(dst, text...)
		}
		if _, err := strconv.ParseUint(text, 10, 64); err == nil {
			return append(dst, text...)
		}
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		// Beyond a double's range: there is no value to print but the text itself.
		return append(dst, text...)
	}
	s := strconv.FormatFloat(f, 'e', -1, 64)
	if s[0] == '-' {
		dst = append(dst, '-')
		s = s[1:]
	}
	mantissa, exponent, _ := strings.Cut(s, "e")
	digits := strings.Replace(mantissa, ".", "", 1)
	e, _ := strconv.Atoi(exponent) // FormatFloat wrote it
	point := e + 1                 // where the point lies, counted from the first digit
	switch {
	case f == 0:
		return append(dst, "0.0"...)
	case len(digits) <= point && point <= 16:
		dst = append(dst, digits...)
		dst = append(dst, strings.Repeat("0", point-len(digits))...)
		return append(dst, ".0"...)
	case 0 < point && point <= 16:
		dst = append(dst, digits[:point]...)
		dst = append(dst, '.')
		return append(dst, digits[point:]...)
	case -5 < point && point <= 0:
		dst = append(dst, "0."...)
		dst = append(dst, strings.Repeat("0", -point)...)
		return append(dst, digits...)
	}
	dst = append(dst, digits[0])
	if len(digits) > 1 {
		dst = append(dst, '.')
		dst = append(dst, digits[1:]...)
	}
	dst = append(dst, 'e')
	if e > 0 {
		dst = append(dst, '+')
	}
	return strconv.AppendInt(dst, int64(e), 10)
}

// merge joins JSON objects by their text. Their names must not meet.
func merge(objects []string) (string, error) {
	var b strings.Builder
	b.WriteByte('{')
	for _, o := range objects {
		if len(o) < 2 || o[0] != '{' || o[len(o)-1] != '}' {
			return "", errNotObject
		}
		members := o[1 : len(o)-1]
		if b.Len() > 1 && members != "" {
			b.WriteByte(',')
		}
		b.WriteString(members)
	}
	b.WriteByte('}')
	return b.String(), nil
}
