package pgtypes

import (
	"fmt"
	"reflect"
	"slices"
	"sync"

	"github.com/millrace-sync/millrace/internal/source"
)

// Kind is a type's kind, by the letter of pg_type.typtype.
type Kind byte

// The kinds of pg_type.typtype.
const (
	Base       Kind = 'b'
	Composite  Kind = 'c'
	Domain     Kind = 'd'
	Enum       Kind = 'e'
	Range      Kind = 'r'
	Multirange Kind = 'm'
	Pseudo     Kind = 'p'
)

// Info is what the catalog says of one type.
type Info struct {
	OID    uint32
	Schema string
	Name   string
	Kind   Kind
	// Elem is the element type of a true array, 0 for anything else (name and
	// point have a typelem too, but are no arrays).
	Elem uint32
	// Delim separates the elements of arrays of this type: a comma but for box.
	Delim byte
	// Base is the type that a domain constrains.
	Base uint32
	// Subtype is the type of a range's bounds, or the range type of a multirange.
	Subtype uint32
	// Fields are a composite's attributes, in order, without dropped ones.
	Fields []Field
	// Labels are an enum's, in order.
	Labels []string
}

// Field is one attribute of a composite type.
type Field struct {
	Name string
	Type uint32
}

// parts calls yield for each type that i is made of.
func (i *Info) parts(yield func(oid uint32)) {
	for _, oid := range []uint32{i.Elem, i.Base, i.Subtype} {
		if oid != 0 {
			yield(oid)
		}
	}
	for _, f := range i.Fields {
		yield(f.Type)
	}
}

// Registry knows types by oid: the built-in ones from the start, others once they
// are added. It is safe for concurrent use; the Types that it gives are immutable
// and stay as they were when the Registry learns more.
type Registry struct {
	mu       sync.Mutex
	infos    map[uint32]Info
	resolved map[uint32]*typ // derived from infos; emptied when infos change
}

// NewRegistry returns a Registry of the built-in types.
func NewRegistry() *Registry {
	return &Registry{infos: map[uint32]Info{}, resolved: map[uint32]*typ{}}
}

// Add makes a type known, or replaces what was known of it. Built-in types stay
// as they are. The order of additions is free.
func (r *Registry) Add(i Info) {
	if _, ok := builtins[i.OID]; ok {
		return
	}
	i.Fields, i.Labels = slices.Clone(i.Fields), slices.Clone(i.Labels)
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, known := r.infos[i.OID]; known && reflect.DeepEqual(old, i) {
		return
	}
	r.infos[i.OID] = i
	clear(r.resolved)
}

// Type returns the decoder of the type with that oid. A type that is not known is
// one whose text form is the value.
func (r *Registry) Type(oid uint32) source.Type {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.resolve(oid)
}

// BinaryReadable reports whether the type's binary form is understood. Columns of
// other types are read as text, see TextExpr.
func (r *Registry) BinaryReadable(oid uint32) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.resolve(oid).binary
}

// Missing returns, in order, those of the types, and of the types that they are
// made of, of which nothing is known: the ones to ask the catalog for.
func (r *Registry) Missing(oids []uint32) []uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	var missing []uint32
	seen := map[uint32]bool{}
	var visit func(oid uint32)
	visit = func(oid uint32) {
		if seen[oid] {
			return
		}
		seen[oid] = true
		if _, ok := builtins[oid]; ok {
			return
		}
		i, ok := r.infos[oid]
		if !ok {
			missing = append(missing, oid)
			return
		}
		i.parts(visit)
	}
	for _, oid := range oids {
		visit(oid)
	}
	slices.Sort(missing)
	return missing
}

// resolve returns the decoder, made if need be. r.mu is held.
func (r *Registry) resolve(oid uint32) *typ {
	if t := r.resolved[oid]; t != nil {
		return t
	}
	// A type that contains itself, which Postgres rules out, finds this unfinished
	// decoder rather than recursing for ever; decoding has maxDepth.
	t := &typ{oid: oid, delim: ','}
	r.resolved[oid] = t
	if b, ok := builtins[oid]; ok {
		t.fromBuiltin(b, r.resolve)
	} else if i, ok := r.infos[oid]; ok {
		t.fromInfo(&i, r.resolve)
	} else {
		t.name, t.codec, t.user = fmt.Sprintf("type with oid %d", oid), &opaqueCodec, true
	}
	if t.part != nil {
		t.version += t.part.version
	}
	switch t.shape {
	case scalarShape:
		t.binary = t.codec.unpack != nil
	case arrayShape:
		t.binary = t.part.binary
	}
	return t
}

func (t *typ) fromBuiltin(b builtin, resolve func(uint32) *typ) {
	t.name, t.shape, t.codec = b.name, b.shape, b.codec
	if b.delim != 0 {
		t.delim = b.delim
	}
	if b.part != 0 {
		t.part = resolve(b.part)
	}
	t.custom = b.shape == rangeShape || b.shape == multirangeShape || t.part != nil && t.part.custom
}

func (t *typ) fromInfo(i *Info, resolve func(uint32) *typ) {
	t.name, t.user = i.Name, true
	if i.Delim != 0 {
		t.delim = i.Delim
	}
	switch {
	case i.Kind == Domain:
		base := *resolve(i.Base)
		base.oid, base.name, base.user = t.oid, t.name, true
		*t = base
	case i.Kind == Composite:
		t.shape, t.custom = recordShape, true
		for _, f := range i.Fields {
			key := append(source.AppendJSONString(nil, f.Name), ':')
			part := resolve(f.Type)
			t.fields = append(t.fields, field{key: string(key), typ: part})
			t.version += string(key) + part.name + part.version
		}
	case i.Kind == Range && i.Subtype != 0:
		t.shape, t.custom, t.part = rangeShape, true, resolve(i.Subtype)
	case i.Kind == Multirange && resolve(i.Subtype).shape == rangeShape:
		t.shape, t.custom, t.part = multirangeShape, true, resolve(i.Subtype)
	case i.Elem != 0:
		t.shape, t.part = arrayShape, resolve(i.Elem)
		t.custom = t.part.custom || t.part.user
	case i.Kind == Enum:
		t.codec = &textCodec
		for _, l := range i.Labels {
			t.version += string(source.AppendJSONString(nil, l))
		}
	default:
		t.codec = extensionCodec(i.Name)
	}
	if t.shape == scalarShape && t.codec == nil {
		t.codec = &opaqueCodec // a domain over itself
	}
}

// extensionCodec knows types of extensions by name: their oids differ from
// database to database.
func extensionCodec(name string) *codec {
	switch name {
	case "geometry", "geography":
		return &geometryCodec
	case "citext":
		return &textCodec
	}
	return &opaqueCodec
}
