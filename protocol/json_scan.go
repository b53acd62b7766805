package protocol

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// MaxDepth is how deep JSON and BSON values may nest.
const MaxDepth = 100

// syntaxError says where and why bytes are not the JSON they should be.
type syntaxError struct {
	offset int
	what   string
}

func (e *syntaxError) Error() string { return fmt.Sprintf("%s at offset %d", e.what, e.offset) }

// errDepth is the what of a syntaxError for nesting beyond MaxDepth.
const errDepth = "nesting deeper than 100 levels"

// scanner reads one JSON text from front to back. It is strict about syntax. Keys
// and strings that it returns alias src or its scratch space.
type scanner struct {
	src   []byte
	pos   int
	depth int
	// scratch holds unescaped strings. It has room for all of src from the first
	// use on, so what was handed out stays where it is.
	scratch []byte
}

func (s *scanner) fail(what string) error { return &syntaxError{offset: s.pos, what: what} }

func (s *scanner) space() {
	for s.pos < len(s.src) {
		switch s.src[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

// peek skips space and returns the byte that the next value begins with, 0 at the end.
func (s *scanner) peek() byte {
	s.space()
	if s.pos == len(s.src) {
		return 0
	}
	return s.src[s.pos]
}

// end checks that nothing but space follows.
func (s *scanner) end() error {
	if s.peek(); s.pos != len(s.src) {
		return s.fail("unexpected text after the value")
	}
	return nil
}

func (s *scanner) enter() error {
	if s.depth++; s.depth > MaxDepth {
		return s.fail(errDepth)
	}
	s.pos++
	return nil
}

// object reads an object; field must read the value of each key.
func (s *scanner) object(field func(key []byte) error) error {
	if s.peek() != '{' {
		return s.fail("expected an object")
	}
	if err := s.enter(); err != nil {
		return err
	}
	if s.peek() == '}' {
		s.pos++
		s.depth--
		return nil
	}
	for {
		if s.peek() != '"' {
			return s.fail("expected a key")
		}
		key, err := s.str()
		if err != nil {
			return err
		}
		if s.peek() != ':' {
			return s.fail("expected ':'")
		}
		s.pos++
		if err := field(key); err != nil {
			return err
		}
		switch s.peek() {
		case ',':
			s.pos++
		case '}':
			s.pos++
			s.depth--
			return nil
		default:
			return s.fail("expected ',' or '}'")
		}
	}
}

// array reads an array; item must read the value at each index.
func (s *scanner) array(item func(i int) error) error {
	if s.peek() != '[' {
		return s.fail("expected an array")
	}
	if err := s.enter(); err != nil {
		return err
	}
	if s.peek() == ']' {
		s.pos++
		s.depth--
		return nil
	}
	for i := 0; ; i++ {
		if err := item(i); err != nil {
			return err
		}
		switch s.peek() {
		case ',':
			s.pos++
		case ']':
			s.pos++
			s.depth--
			return nil
		default:
			return s.fail("expected ',' or ']'")
		}
	}
}

// raw reads any value and returns its text.
func (s *scanner) raw() ([]byte, error) {
	s.space()
	start := s.pos
	if err := s.skip(); err != nil {
		return nil, err
	}
	return s.src[start:s.pos], nil
}

// skip reads any value.
func (s *scanner) skip() error {
	switch c := s.peek(); {
	case c == '{':
		return s.object(func([]byte) error { return s.skip() })
	case c == '[':
		return s.array(func(int) error { return s.skip() })
	case c == '"':
		_, err := s.str()
		return err
	case c == 't':
		return s.word("true")
	case c == 'f':
		return s.word("false")
	case c == 'n':
		return s.word("null")
	case c == '-' || c >= '0' && c <= '9':
		_, err := s.number()
		return err
	case s.pos == len(s.src):
		return s.fail("unexpected end")
	}
	return s.fail("unexpected character")
}

func (s *scanner) word(w string) error {
	if !bytes.HasPrefix(s.src[s.pos:], []byte(w)) {
		return s.fail("unexpected character")
	}
	s.pos += len(w)
	return nil
}

func (s *scanner) boolean() (bool, error) {
	switch s.peek() {
	case 't':
		return true, s.word("true")
	case 'f':
		return false, s.word("false")
	}
	return false, s.fail("expected true or false")
}

// number reads a number and returns its text.
func (s *scanner) number() ([]byte, error) {
	start := s.pos
	digits := func() bool {
		from := s.pos
		for s.pos < len(s.src) && s.src[s.pos]-'0' <= 9 {
			s.pos++
		}
		return s.pos > from
	}
	if s.pos < len(s.src) && s.src[s.pos] == '-' {
		s.pos++
	}
	if s.pos < len(s.src) && s.src[s.pos] == '0' {
		s.pos++
	} else if !digits() {
		return nil, s.fail("expected a number")
	}
	if s.pos < len(s.src) && s.src[s.pos] == '.' {
		s.pos++
		if !digits() {
			return nil, s.fail("expected a digit")
		}
	}
	if s.pos < len(s.src) && s.src[s.pos]|0x20 == 'e' {
		s.pos++
		if s.pos < len(s.src) && (s.src[s.pos] == '+' || s.src[s.pos] == '-') {
			s.pos++
		}
		if !digits() {
			return nil, s.fail("expected a digit")
		}
	}
	return s.src[start:s.pos], nil
}

// integer reads a whole number, which may be written as 5, 5.0 or 5e0.
func (s *scanner) integer() (int64, error) {
	if c := s.peek(); c != '-' && (c < '0' || c > '9') {
		return 0, s.fail("expected a number")
	}
	at := s.pos
	text, err := s.number()
	if err != nil {
		return 0, err
	}
	if n, err := strconv.ParseInt(string(text), 10, 64); err == nil {
		return n, nil
	}
	f, err := strconv.ParseFloat(string(text), 64)
	n, ok := wholeNumber(f)
	if err != nil || !ok {
		s.pos = at
		return 0, s.fail("expected a whole number")
	}
	return n, nil
}

// wholeNumber returns f as an integer if it is one that doubles hold exactly.
func wholeNumber(f float64) (int64, bool) {
	return int64(f), f == math.Trunc(f) && math.Abs(f) <= 1<<53
}

// str reads a string and returns its value. Escaped lone surrogates become U+FFFD.
func (s *scanner) str() ([]byte, error) {
	if s.peek() != '"' {
		return nil, s.fail("expected a string")
	}
	s.pos++
	start := s.pos
	if err := s.plain(); err != nil {
		return nil, err
	}
	if s.src[s.pos] == '"' {
		s.pos++
		return s.src[start : s.pos-1], nil
	}
	if s.scratch == nil {
		// The eight bytes more are for copying whole words.
		s.scratch = make([]byte, 0, len(s.src)+8)
	}
	from := len(s.scratch)
	s.scratch = append(s.scratch, s.src[start:s.pos]...)
	for s.src[s.pos] != '"' {
		if err := s.unescape(); err != nil {
			return nil, err
		}
		if err := s.copyPlain(); err != nil {
			return nil, err
		}
	}
	s.pos++
	return s.scratch[from:len(s.scratch):len(s.scratch)], nil
}

// plain moves to the next quote or backslash of a string.
func (s *scanner) plain() error {
	for s.pos+8 <= len(s.src) {
		m := special(binary.LittleEndian.Uint64(s.src[s.pos:]))
		if m != 0 {
			s.pos += bits.TrailingZeros64(m) >> 3
			break
		}
		s.pos += 8
	}
	return s.plainTail()
}

func (s *scanner) plainTail() error {
	for ; s.pos < len(s.src); s.pos++ {
		switch c := s.src[s.pos]; {
		case c == '"' || c == '\\':
			return nil
		case c < 0x20:
			return s.fail("control character in a string")
		}
	}
	return s.fail("unexpected end of a string")
}

// copyPlain is plain that copies what it passes to the scratch space.
func (s *scanner) copyPlain() error {
	out, n := s.scratch[:cap(s.scratch)], len(s.scratch)
	for s.pos+8 <= len(s.src) && n+8 <= len(out) {
		w := binary.LittleEndian.Uint64(s.src[s.pos:])
		binary.LittleEndian.PutUint64(out[n:], w)
		m := special(w)
		if m != 0 {
			k := bits.TrailingZeros64(m) >> 3
			s.pos += k
			s.scratch = out[:n+k]
			return s.plainTail()
		}
		s.pos += 8
		n += 8
	}
	s.scratch = out[:n]
	start := s.pos
	err := s.plainTail()
	s.scratch = append(s.scratch, s.src[start:s.pos]...)
	return err
}

// unescape reads one escape and appends its value to the scratch space.
func (s *scanner) unescape() error {
	s.pos++ // the backslash
	if s.pos == len(s.src) {
		return s.fail("unexpected end of a string")
	}
	c := s.src[s.pos]
	s.pos++
	switch c {
	case '"', '\\', '/':
	case 'b':
		c = '\b'
	case 'f':
		c = '\f'
	case 'n':
		c = '\n'
	case 'r':
		c = '\r'
	case 't':
		c = '\t'
	case 'u':
		r, err := s.hex4()
		if err != nil {
			return err
		}
		if utf16.IsSurrogate(r) && bytes.HasPrefix(s.src[s.pos:], []byte(`\u`)) {
			at := s.pos
			s.pos += 2
			low, err := s.hex4()
			if err != nil {
				return err
			}
			if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
				r = pair
			} else {
				s.pos = at
			}
		}
		s.scratch = utf8.AppendRune(s.scratch, r)
		return nil
	default:
		s.pos--
		return s.fail("unknown escape")
	}
	s.scratch = append(s.scratch, c)
	return nil
}

func (s *scanner) hex4() (rune, error) {
	if len(s.src)-s.pos < 4 {
		return 0, s.fail("unexpected end of an escape")
	}
	var r rune
	for range 4 {
		c := s.src[s.pos]
		switch {
		case c-'0' <= 9:
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, s.fail("expected a hexadecimal digit")
		}
		r = r<<4 | rune(c)
		s.pos++
	}
	return r, nil
}
