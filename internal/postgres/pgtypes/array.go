package pgtypes

import (
	"encoding/binary"
	"strconv"
	"strings"

	"github.com/millrace-sync/millrace/internal/source"
)

// maxDims is the number of dimensions that Postgres allows an array.
const maxDims = 6

// arrayJSON appends the JSON of an array's text, such as {1,NULL,"a b"}, one JSON
// array a dimension. Lower bounds, as in [0:1]={7,8}, have no JSON.
func (t *typ) arrayJSON(dst []byte, s string, f source.Form, depth int) ([]byte, error) {
	if strings.HasPrefix(s, "[") {
		bounds, rest, ok := strings.Cut(s, "=")
		if !ok || strings.Trim(bounds, "[]:-0123456789") != "" {
			return dst, malformed("an array's bounds are not ended")
		}
		s = rest
	}
	var scratch []byte
	dst, rest, err := t.dimensionJSON(dst, s, f, depth, 1, &scratch)
	if err == nil && rest != "" {
		err = malformed("%d bytes after an array", len(rest))
	}
	return dst, err
}

// dimensionJSON appends the JSON of the braces that s begins with, which are the
// array's dim'th dimension, and returns what follows them.
func (t *typ) dimensionJSON(dst []byte, s string, f source.Form, depth, dim int, scratch *[]byte) ([]byte, string, error) {
	if depth >= maxDepth {
		return dst, "", ErrTooDeep
	}
	if s == "" || s[0] != '{' || dim > maxDims {
		return dst, "", malformed("an array is not in at most %d braces", maxDims)
	}
	s = s[1:]
	dst = append(dst, '[')
	if strings.HasPrefix(s, "}") {
		return append(dst, ']'), s[1:], nil
	}
	stops := ",}"
	if t.part.delim != ',' {
		stops = string([]byte{t.part.delim, '}'})
	}
	for {
		var err error
		if strings.HasPrefix(s, "{") {
			dst, s, err = t.dimensionJSON(dst, s, f, depth+1, dim+1, scratch)
		} else {
			var text string
			var quoted bool
			text, quoted, s, err = item(s, stops, scratch)
			switch {
			case err != nil:
			case text == "" && !quoted:
				err = malformed("an array's element is missing")
			case text == "NULL" && !quoted:
				dst = append(dst, "null"...)
			default:
				dst, err = t.part.appendJSON(dst, text, f, depth+1)
			}
		}
		switch {
		case err != nil:
			return dst, "", err
		case len(dst) > maxContainer:
			return dst, "", ErrTooLarge
		case strings.HasPrefix(s, "}"):
			return append(dst, ']'), s[1:], nil
		case s == "" || s[0] != t.part.delim:
			return dst, "", malformed("an array is not ended")
		}
		dst = append(dst, ',')
		s = s[1:]
	}
}

// sent is an array in send form: its dimensions and the elements one after
// another, the last dimension's index running fastest.
type sent struct {
	dims  int
	size  [maxDims]int
	lower [maxDims]int32
	items []byte
}

// receive reads the head of an array's send form. No dimension is empty, so that
// every step through the dimensions consumes an element.
func (t *typ) receive(b []byte) (sent, error) {
	var a sent
	if len(b) < 12 {
		return a, malformed("an array of %d bytes", len(b))
	}
	dims, elem := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[8:])
	if dims > maxDims || len(b) < 12+8*int(dims) {
		return a, malformed("an array of %d dimensions in %d bytes", dims, len(b))
	}
	if elem != t.part.oid {
		return a, malformed("an array of elements with oid %d, want %d", elem, t.part.oid)
	}
	b = b[12:]
	a.dims = int(dims)
	for i := range a.dims {
		size := int32(binary.BigEndian.Uint32(b))
		if size <= 0 {
			return a, malformed("an array's dimension of %d elements", size)
		}
		a.size[i], a.lower[i] = int(size), int32(binary.BigEndian.Uint32(b[4:]))
		b = b[8:]
	}
	a.items = b
	return a, nil
}

// nextItem splits the first element from elements in send form.
func nextItem(b []byte) (elem []byte, null bool, rest []byte, err error) {
	if len(b) < 4 {
		return nil, false, nil, malformed("an array's element is cut off")
	}
	n := int32(binary.BigEndian.Uint32(b))
	b = b[4:]
	if n == -1 {
		return nil, true, b, nil
	}
	if n < 0 || int(n) > len(b) {
		return nil, false, nil, malformed("an array's element of %d bytes in %d", n, len(b))
	}
	return b[:n], false, b[n:], nil
}

// each writes the array's brackets and separators and calls elem for each element.
func (a *sent) each(dst []byte, open, sep, end byte, elem func(dst, b []byte, null bool) ([]byte, error)) ([]byte, error) {
	rest := a.items
	var dimension func(dim int) error
	dimension = func(dim int) error {
		dst = append(dst, open)
		for i := range a.size[dim] {
			if i > 0 {
				dst = append(dst, sep)
			}
			if dim+1 < a.dims {
				if err := dimension(dim + 1); err != nil {
					return err
				}
				continue
			}
			b, null, r, err := nextItem(rest)
			if err != nil {
				return err
			}
			rest = r
			if dst, err = elem(dst, b, null); err != nil {
				return err
			}
			if len(dst) > maxContainer {
				return ErrTooLarge
			}
		}
		dst = append(dst, end)
		return nil
	}
	if a.dims == 0 {
		dst = append(dst, open, end)
	} else if err := dimension(0); err != nil {
		return dst, err
	}
	if len(rest) != 0 {
		return dst, malformed("%d bytes after an array", len(rest))
	}
	return dst, nil
}

// sendArrayJSON is arrayJSON of the send form b.
func (t *typ) sendArrayJSON(dst, b []byte, f source.Form, depth int) ([]byte, error) {
	a, err := t.receive(b)
	if err != nil {
		return dst, err
	}
	if depth+max(a.dims, 1) > maxDepth {
		return dst, ErrTooDeep
	}
	return a.each(dst, '[', ',', ']', func(dst, b []byte, null bool) ([]byte, error) {
		if null {
			return append(dst, "null"...), nil
		}
		return t.part.sendJSON(dst, b, f, depth+a.dims)
	})
}

// unpackArray appends the output text of the send form b.
func (t *typ) unpackArray(dst, b []byte, depth int) ([]byte, error) {
	if depth >= maxDepth {
		return dst, ErrTooDeep
	}
	a, err := t.receive(b)
	if err != nil {
		return dst, err
	}
	for _, lower := range a.lower[:a.dims] {
		if lower == 1 {
			continue
		}
		for i := range a.dims {
			dst = append(dst, '[')
			dst = strconv.AppendInt(dst, int64(a.lower[i]), 10)
			dst = append(dst, ':')
			dst = strconv.AppendInt(dst, int64(a.lower[i])+int64(a.size[i])-1, 10)
			dst = append(dst, ']')
		}
		dst = append(dst, '=')
		break
	}
	var text []byte
	return a.each(dst, '{', t.part.delim, '}', func(dst, b []byte, null bool) ([]byte, error) {
		if null {
			return append(dst, "NULL"...), nil
		}
		var err error
		if text, err = t.part.unpack(text[:0], b, depth+1); err != nil {
			return dst, err
		}
		return appendElement(dst, share(text), t.part.delim), nil
	})
}

// appendElement appends an element's output text, in quotes if array_out quotes it.
func appendElement(dst []byte, s string, delim byte) []byte {
	plain := s != "" && !strings.EqualFold(s, "NULL") &&
		!strings.ContainsAny(s, "\"\\{} \t\n\r\v\f") && strings.IndexByte(s, delim) < 0
	if plain {
		return append(dst, s...)
	}
	dst = append(dst, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, s[i])
	}
	return append(dst, '"')
}
