package expr

import (
	"encoding/base64"
	"encoding/hex"
	"math"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/language"

	"github.com/millrace-sync/millrace/internal/source"
)

// textOf returns the text of a value that is not NULL.
func textOf(o Options, v source.Value) string {
	if v.Kind() == source.KindText {
		return v.Str()
	}
	if o.Engine == SQLite {
		return textSQLite(v)
	}
	return textReference(v)
}

// trimSpaceJS removes the white space that JavaScript skips before a number.
func trimSpaceJS(s string) string {
	return strings.TrimLeft(s, "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000\ufeff")
}

// decodeUTF8 replaces what is not UTF-8 by U+FFFD, one for each longest start of a
// character, as browsers do.
func decodeUTF8(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		if r != utf8.RuneError || size > 1 {
			b.WriteString(s[i : i+size])
			i += size
			continue
		}
		b.WriteString("\uFFFD")
		i += brokenPrefix(s[i:])
	}
	return b.String()
}

// brokenPrefix returns the length of the longest start of a character that s begins
// with, at least 1; s begins with no whole one.
func brokenPrefix(s string) int {
	var lo, hi byte = 0x80, 0xBF
	need := 0
	switch c := s[0]; {
	case c >= 0xC2 && c <= 0xDF:
		need = 1
	case c >= 0xE0 && c <= 0xEF:
		need = 2
		if c == 0xE0 {
			lo = 0xA0
		} else if c == 0xED {
			hi = 0x9F
		}
	case c >= 0xF0 && c <= 0xF4:
		need = 3
		if c == 0xF0 {
			lo = 0x90
		} else if c == 0xF4 {
			hi = 0x8F
		}
	}
	n := 1
	for n <= need && n < len(s) && s[n] >= lo && s[n] <= hi {
		lo, hi = 0x80, 0xBF
		n++
	}
	return n
}

// concat is a || b.
func (c *compiler) concat(a, b operand) operand {
	o := c.Options
	return strict2(a, b, func(x, y source.Value) (source.Value, error) {
		s, t := textOf(o, x), textOf(o, y)
		if len(s)+len(t) > MaxText {
			return source.Value{}, tooLarge("||", "the result is longer than %d bytes", MaxText)
		}
		if o.Engine == Reference {
			return source.String(joinUTF16(s, t)), nil
		}
		return source.String(s + t), nil
	})
}

// joinUTF16 joins two texts; halves of a surrogate pair that meet become one
// character again.
func joinUTF16(s, t string) string {
	if n := len(s); n >= 3 && len(t) >= 3 && t[0] == 0xED && s[n-3] == 0xED {
		hi, ok1 := loneSurrogate(s[n-3:])
		lo, ok2 := loneSurrogate(t)
		if ok1 && ok2 && hi < 0xDC00 && lo >= 0xDC00 {
			return s[:n-3] + string(0x10000+(hi-0xD800)<<10+(lo-0xDC00)) + t[3:]
		}
	}
	return s + t
}

// unitSize returns the bytes of the character that s begins with and the number of
// UTF-16 units it has.
func unitSize(s string) (size, units int) {
	if s[0] < utf8.RuneSelf {
		return 1, 1
	}
	r, size := utf8.DecodeRuneInString(s)
	if r == utf8.RuneError && size <= 1 {
		if _, ok := loneSurrogate(s); ok {
			return 3, 1
		}
		return 1, 1
	}
	if r > 0xFFFF {
		return size, 2
	}
	return size, 1
}

func lengthUTF16(s string) int {
	n := 0
	for i := 0; i < len(s); {
		size, units := unitSize(s[i:])
		n += units
		i += size
	}
	return n
}

// sliceUTF16 returns the UTF-16 units from, up to but not including, to. A pair that
// is cut in two leaves a lone surrogate, as three bytes.
func sliceUTF16(s string, from, to int) string {
	i, at := 0, 0
	skip := func(until int) (half string) {
		for i < len(s) && at < until {
			size, units := unitSize(s[i:])
			if units == 2 && at+1 == until {
				r, _ := utf8.DecodeRuneInString(s[i:])
				half = string(appendRune(nil, 0xD800+(r-0x10000)>>10))
				if until == from {
					half = string(appendRune(nil, 0xDC00+(r-0x10000)&0x3FF))
				}
			}
			i += size
			at += units
		}
		return half
	}
	if from >= to {
		return ""
	}
	head := skip(from)
	start := i
	tail := skip(to)
	if tail == "" {
		return head + s[start:i]
	}
	return head + s[start:i-4] + tail
}

// length counts bytes of a blob, else characters of the text: UTF-16 units in the
// Reference engine, code points up to the first NUL in SQLite.
func length(o Options, v source.Value) (source.Value, error) {
	if v.Kind() == source.KindBlob {
		return source.Int(int64(len(v.Str()))), nil
	}
	s := textOf(o, v)
	if o.Engine == SQLite {
		s, _, _ = strings.Cut(s, "\x00")
		return source.Int(int64(countSQLite(s))), nil
	}
	return source.Int(int64(lengthUTF16(s))), nil
}

// substring is substring(x, start [, count]): start counts from 1, or from the end
// if negative; a negative count takes the characters before start.
func substring(o Options, a few) (source.Value, error) {
	x := a.v[0]
	blob := x.Kind() == source.KindBlob
	s := ""
	total := int64(0)
	start := toInt64(a.v[1])
	switch {
	case blob && x.Str() == "" && o.Engine == SQLite:
		return source.Value{}, nil
	case blob:
		s = x.Str()
		total = int64(len(s))
	case o.Engine == SQLite:
		s, _, _ = strings.Cut(textOf(o, x), "\x00")
		if start < 0 {
			total = int64(countSQLite(s))
		}
	default:
		s = textOf(o, x)
		total = int64(lengthUTF16(s))
	}
	count := int64(math.MaxInt64)
	if a.n == 3 {
		count = toInt64(a.v[2])
	}
	from, to := substringRange(start, count, total)
	switch {
	case blob:
		from, to = min(from, total), min(to, total)
		return source.Blob(s[from:to]), nil
	case o.Engine == SQLite:
		return source.String(sliceSQLite(s, from, to)), nil
	}
	from, to = min(from, total), min(to, total)
	return source.String(sliceUTF16(s, int(from), int(to))), nil
}

// substringRange returns the positions, counted from 0, that substring selects; to
// is at least from. total matters for a negative start only.
func substringRange(start, count, total int64) (from, to int64) {
	switch {
	case start < 0:
		start += total
		if start < 0 {
			// The characters before the text's first count, but there are none.
			if count < 0 {
				count = 0
			} else {
				count += start
			}
			start = 0
		}
	case start > 0:
		start--
	case count > 0:
		count--
	}
	if count < 0 {
		if count < -start {
			count = start
		} else {
			count = -count
		}
		return start - count, start
	}
	return start, start + min(count, math.MaxInt64-start)
}

// instr returns the position of y in x, from 1, or 0: in bytes for two blobs, else
// in characters as length counts them.
func instr(o Options, x, y source.Value) (source.Value, error) {
	if x.Kind() == source.KindBlob && y.Kind() == source.KindBlob {
		return source.Int(int64(strings.Index(x.Str(), y.Str()) + 1)), nil
	}
	s, t := textOf(o, x), textOf(o, y)
	if o.Engine == SQLite {
		return source.Int(instrSQLite(s, t)), nil
	}
	i := strings.Index(s, t)
	if i < 0 {
		return source.Int(0), nil
	}
	return source.Int(int64(lengthUTF16(s[:i]) + 1)), nil
}

// lower and upper map ASCII letters only in SQLite, else all of Unicode without
// regard to a locale.
func lower(o Options, v source.Value) (source.Value, error) {
	s := textOf(o, v)
	if o.Engine == SQLite {
		return source.String(mapASCII(s, 'A', 'Z', 32)), nil
	}
	if isASCII(s) {
		return source.String(mapASCII(s, 'A', 'Z', 32)), nil
	}
	if len(s) > MaxText/3 {
		return source.Value{}, tooLarge("lower", "the text is longer than %d bytes", MaxText/3)
	}
	return source.String(mapUnicode(cases.Lower(language.Und), s)), nil
}

func upper(o Options, v source.Value) (source.Value, error) {
	s := textOf(o, v)
	if o.Engine == SQLite || isASCII(s) {
		return source.String(mapASCII(s, 'a', 'z', 0xE0)), nil
	}
	if len(s) > MaxText/3 {
		return source.Value{}, tooLarge("upper", "the text is longer than %d bytes", MaxText/3)
	}
	return source.String(mapUnicode(cases.Upper(language.Und), s)), nil
}

// mapUnicode maps what is UTF-8 in s and leaves other bytes as they are.
func mapUnicode(c cases.Caser, s string) string {
	if utf8.ValidString(s) {
		return c.String(s)
	}
	var b strings.Builder
	for s != "" {
		n := 0
		for n < len(s) {
			r, size := utf8.DecodeRuneInString(s[n:])
			if r == utf8.RuneError && size <= 1 {
				break
			}
			n += size
		}
		b.WriteString(c.String(s[:n]))
		if n < len(s) {
			b.WriteByte(s[n])
			n++
		}
		s = s[n:]
	}
	return b.String()
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// mapASCII adds delta to the bytes from lo to hi.
func mapASCII(s string, lo, hi, delta byte) string {
	for i := range len(s) {
		if s[i] < lo || s[i] > hi {
			continue
		}
		b := []byte(s)
		for ; i < len(b); i++ {
			if b[i] >= lo && b[i] <= hi {
				b[i] += delta
			}
		}
		return string(b)
	}
	return s
}

// hexOf gives the upper-case hexadecimal digits of a blob's bytes or of the text's.
// NULL gives the empty text.
func hexOf(o Options, v source.Value) (source.Value, error) {
	if v.IsNull() {
		return source.String(""), nil
	}
	s := bytesOf(o, v)
	if len(s) > MaxText/2 {
		return source.Value{}, tooLarge("hex", "the value is longer than %d bytes", MaxText/2)
	}
	b := hex.AppendEncode(nil, []byte(s))
	for i, c := range b {
		if c >= 'a' {
			b[i] = c - 32
		}
	}
	return source.String(string(b)), nil
}

// base64Of gives base64 with padding. NULL gives the empty text.
func base64Of(o Options, v source.Value) (source.Value, error) {
	if v.IsNull() {
		return source.String(""), nil
	}
	s := bytesOf(o, v)
	if len(s) > MaxText/2 {
		return source.Value{}, tooLarge("base64", "the value is longer than %d bytes", MaxText/2)
	}
	return source.String(base64.StdEncoding.EncodeToString([]byte(s))), nil
}

func bytesOf(o Options, v source.Value) string {
	if v.Kind() == source.KindBlob {
		return v.Str()
	}
	return textOf(o, v)
}

// uuidBlob gives the 16 bytes of a UUID's text form.
func uuidBlob(o Options, v source.Value) (source.Value, error) {
	s := textOf(o, v)
	if len(s) == 36 && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-' {
		if b, err := hex.DecodeString(s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:]); err == nil {
			return source.Blob(string(b)), nil
		}
	}
	return source.Value{}, badValue("uuid_blob", "%s is not a UUID", quoteShort(s))
}

// quoteShort quotes a text for a message, shortened.
func quoteShort(s string) string {
	if len(s) > 40 {
		n := 40
		for n > 36 && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n] + "…"
	}
	return "'" + strings.ToValidUTF8(s, "\uFFFD") + "'"
}
