package pgtypes

import (
	"fmt"

	"github.com/millrace-sync/millrace/internal/source"
)

// shape is how a type's values are built.
type shape uint8

const (
	scalarShape shape = iota
	arrayShape
	recordShape
	rangeShape
	multirangeShape
)

// typ decodes one type. It is immutable once its Registry has resolved it. A
// domain is a copy of its base under another name.
type typ struct {
	oid    uint32
	name   string
	shape  shape
	codec  *codec  // of a scalar
	part   *typ    // an array's element, a range's bound, a multirange's range
	fields []field // of a record
	delim  byte    // between elements of arrays of this type
	binary bool    // binary form is understood
	// version holds the labels of an enum and the attributes of a composite, and those of
	// what the type is made of.
	version string
	// custom says that without Form.CustomTypes the value is Postgres' own text.
	custom bool
	// user says that the type is not built in, so that arrays of it are custom.
	user bool
}

// field is one attribute of a record.
type field struct {
	key string // as in JSON, quoted and with its colon
	typ *typ
}

// codec decodes one scalar type.
type codec struct {
	// parse returns the Value of the output text s, whose bytes it may share.
	parse func(s string, f source.Form) (source.Value, error)
	// unpack appends the output text of the send form b. Nil says that the binary
	// form is not understood.
	unpack func(dst, b []byte) ([]byte, error)
	// direct is parse of unpack in one step, for speed; nil if there is none.
	direct func(b []byte, f source.Form) (source.Value, error)
	// json says that the text is JSON, to be nested in arrays as it is.
	json bool
}

// Name returns the type's name without its schema.
func (t *typ) Name() string { return t.name }

// Version implements source.Versioned.
func (t *typ) Version() string { return t.version }

// Decode implements source.Type.
func (t *typ) Decode(d source.Datum, f source.Form) (source.Value, error) {
	var v source.Value
	var err error
	switch d.Encoding {
	case source.Null:
		return source.Value{}, nil
	case source.Text:
		v, err = t.text(share(d.Bytes), f)
	case source.Binary:
		v, err = t.send(d.Bytes, f)
	case source.Unchanged:
		err = ErrUnchanged
	default:
		err = fmt.Errorf("unknown encoding %d of a value", d.Encoding)
	}
	if err != nil {
		return source.Value{}, fmt.Errorf("decode %s: %w", t.name, err)
	}
	return v, nil
}

// ownText says that a container's value is the text that Postgres prints.
func (t *typ) ownText(f source.Form) bool {
	return f.Exact || t.custom && !f.CustomTypes
}

// text returns the Value of the output text s.
func (t *typ) text(s string, f source.Form) (source.Value, error) {
	if t.shape == scalarShape {
		return t.codec.parse(s, f)
	}
	if t.ownText(f) || t.shape == rangeShape && s == emptyRange {
		return source.String(s), nil
	}
	b, err := t.appendJSON(make([]byte, 0, len(s)+len(s)/4), s, f, 0)
	if err != nil {
		return source.Value{}, err
	}
	return source.String(share(b)), nil
}

// send returns the Value of the send form b.
func (t *typ) send(b []byte, f source.Form) (source.Value, error) {
	if !t.binary {
		return source.Value{}, ErrNotBinary
	}
	if t.shape == scalarShape {
		if t.codec.direct != nil {
			return t.codec.direct(b, f)
		}
		s, err := t.codec.unpack(nil, b)
		if err != nil {
			return source.Value{}, err
		}
		return t.codec.parse(share(s), f)
	}
	var out []byte
	var err error
	if t.ownText(f) {
		out, err = t.unpack(nil, b, 0)
	} else {
		out, err = t.sendJSON(nil, b, f, 0)
	}
	if err != nil {
		return source.Value{}, err
	}
	return source.String(share(out)), nil
}

// appendJSON appends the value with output text s as it stands inside a JSON
// container, of which depth are around it.
func (t *typ) appendJSON(dst []byte, s string, f source.Form, depth int) ([]byte, error) {
	switch t.shape {
	case arrayShape:
		return t.arrayJSON(dst, s, f, depth)
	case recordShape:
		return t.recordJSON(dst, s, f, depth)
	case rangeShape:
		dst, rest, err := t.rangeJSON(dst, s, f, depth)
		if err == nil && rest != "" {
			err = malformed("%d bytes after a range", len(rest))
		}
		return dst, err
	case multirangeShape:
		return t.multirangeJSON(dst, s, f, depth)
	}
	if t.codec.json && s != "" {
		return append(dst, s...), nil
	}
	v, err := t.codec.parse(s, f)
	if err != nil {
		return dst, err
	}
	return v.AppendJSON(dst), nil
}

// sendJSON is appendJSON of the send form b of a type whose binary form is understood.
func (t *typ) sendJSON(dst, b []byte, f source.Form, depth int) ([]byte, error) {
	if t.shape == arrayShape {
		return t.sendArrayJSON(dst, b, f, depth)
	}
	if t.codec.json || t.codec.direct == nil {
		s, err := t.codec.unpack(nil, b)
		if err != nil {
			return dst, err
		}
		return t.appendJSON(dst, share(s), f, depth)
	}
	v, err := t.codec.direct(b, f)
	if err != nil {
		return dst, err
	}
	return v.AppendJSON(dst), nil
}

// unpack appends the output text of the send form b.
func (t *typ) unpack(dst, b []byte, depth int) ([]byte, error) {
	if t.shape == arrayShape {
		return t.unpackArray(dst, b, depth)
	}
	return t.codec.unpack(dst, b)
}
