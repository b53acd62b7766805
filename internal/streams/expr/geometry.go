package expr

import (
	"encoding/binary"
	"encoding/hex"
	"math"

	"github.com/millrace-sync/millrace/internal/source"
)

// Geometry columns of PostGIS arrive as EWKB in hexadecimal. The functions here
// decode that form: the types of OGC's simple features, with Z, M and SRID.

type geometryKind uint32

const (
	geomPoint geometryKind = iota + 1
	geomLineString
	geomPolygon
	geomMultiPoint
	geomMultiLineString
	geomMultiPolygon
	geomCollection
)

// geometryNames holds the names in WKT and in GeoJSON.
var geometryNames = [...]struct{ wkt, geoJSON string }{
	geomPoint:           {"POINT", "Point"},
	geomLineString:      {"LINESTRING", "LineString"},
	geomPolygon:         {"POLYGON", "Polygon"},
	geomMultiPoint:      {"MULTIPOINT", "MultiPoint"},
	geomMultiLineString: {"MULTILINESTRING", "MultiLineString"},
	geomMultiPolygon:    {"MULTIPOLYGON", "MultiPolygon"},
	geomCollection:      {"GEOMETRYCOLLECTION", "GeometryCollection"},
}

// geometryReader decodes EWKB and writes it as WKT or GeoJSON as it goes.
type geometryReader struct {
	op   string
	in   []byte
	out  []byte
	json bool
}

// geometryHead is what precedes the content of a geometry.
type geometryHead struct {
	order binary.ByteOrder
	kind  geometryKind
	z, m  bool
}

func (h geometryHead) dimensions() int {
	n := 2
	if h.z {
		n++
	}
	if h.m {
		n++
	}
	return n
}

func newGeometryReader(op string, o Options, v source.Value) (*geometryReader, error) {
	if v.Kind() == source.KindBlob {
		return &geometryReader{op: op, in: []byte(v.Str())}, nil
	}
	s := textOf(o, v)
	in, err := hex.DecodeString(s)
	if err != nil {
		return nil, badValue(op, "%s is not a geometry: EWKB in hexadecimal is wanted, as PostGIS prints geometry columns", quoteShort(s))
	}
	return &geometryReader{op: op, in: in}, nil
}

func (r *geometryReader) broken() error {
	return badValue(r.op, "the value is not a geometry: its EWKB is cut short or malformed")
}

func (r *geometryReader) uint32(order binary.ByteOrder) (uint32, error) {
	if len(r.in) < 4 {
		return 0, r.broken()
	}
	n := order.Uint32(r.in)
	r.in = r.in[4:]
	return n, nil
}

func (r *geometryReader) head() (geometryHead, error) {
	var h geometryHead
	if len(r.in) == 0 || r.in[0] > 1 {
		return h, r.broken()
	}
	h.order = binary.ByteOrder(binary.BigEndian)
	if r.in[0] == 1 {
		h.order = binary.LittleEndian
	}
	r.in = r.in[1:]
	t, err := r.uint32(h.order)
	if err != nil {
		return h, err
	}
	h.z, h.m = t&0x80000000 != 0, t&0x40000000 != 0
	srid := t&0x20000000 != 0
	t &= 0x1FFFFFFF
	switch t / 1000 { // the numbering of ISO 13249-3
	case 1:
		h.z = true
	case 2:
		h.m = true
	case 3:
		h.z, h.m = true, true
	}
	h.kind = geometryKind(t % 1000)
	if t >= 4000 || h.kind < geomPoint || h.kind > geomCollection {
		return h, badValue(r.op, "geometries of type %d (curves and surfaces) are not supported; convert them in the source", t)
	}
	if srid {
		_, err = r.uint32(h.order)
	}
	return h, err
}

// count reads how many parts follow, each of at least size bytes.
func (r *geometryReader) count(h geometryHead, size int) (int, error) {
	n, err := r.uint32(h.order)
	if err != nil || uint64(n)*uint64(size) > uint64(len(r.in)) {
		return 0, r.broken()
	}
	return int(n), nil
}

func (r *geometryReader) position(h geometryHead) (p [4]float64, err error) {
	n := h.dimensions()
	if len(r.in) < 8*n {
		return p, r.broken()
	}
	for i := range n {
		p[i] = math.Float64frombits(h.order.Uint64(r.in[8*i:]))
	}
	r.in = r.in[8*n:]
	return p, nil
}

func (h geometryHead) isEmpty(p [4]float64) bool {
	for i := range h.dimensions() {
		if !math.IsNaN(p[i]) {
			return false
		}
	}
	return true
}

// write appends the geometry that comes next.
func (r *geometryReader) write(depth int) error {
	if depth > MaxGeometryDepth {
		return tooLarge(r.op, "geometry collections are nested deeper than %d", MaxGeometryDepth)
	}
	h, err := r.head()
	if err != nil {
		return err
	}
	names := geometryNames[h.kind]
	if !r.json {
		r.out = append(r.out, names.wkt...)
		switch {
		case h.z && h.m:
			r.out = append(r.out, " ZM "...)
		case h.z:
			r.out = append(r.out, " Z "...)
		case h.m:
			r.out = append(r.out, " M "...)
		}
		return r.content(h, depth)
	}
	r.out = append(append(append(r.out, `{"type":"`...), names.geoJSON...), `","`...)
	if h.kind == geomCollection {
		r.out = append(r.out, `geometries":`...)
	} else {
		r.out = append(r.out, `coordinates":`...)
	}
	err = r.content(h, depth)
	r.out = append(r.out, '}')
	return err
}

// content appends what is within the parentheses, with them.
func (r *geometryReader) content(h geometryHead, depth int) error {
	switch h.kind {
	case geomPoint:
		return r.point(h)
	case geomLineString:
		return r.line(h)
	case geomPolygon:
		return r.list(h, 4, func() error { return r.line(h) })
	case geomCollection:
		return r.list(h, 5, func() error { return r.write(depth + 1) })
	}
	// The parts of a multi-geometry are geometries with heads of their own.
	return r.list(h, 5, func() error {
		part, err := r.head()
		if err != nil {
			return err
		}
		if part.kind != h.kind-geomMultiPoint+geomPoint {
			return r.broken()
		}
		if part.kind == geomPoint && !r.json {
			return r.barePoint(part)
		}
		return r.content(part, depth)
	})
}

func (r *geometryReader) empty() {
	if r.json {
		r.out = append(r.out, "[]"...)
		return
	}
	if n := len(r.out); n > 0 && r.out[n-1] != ' ' && r.out[n-1] != '(' && r.out[n-1] != ',' {
		r.out = append(r.out, ' ')
	}
	r.out = append(r.out, "EMPTY"...)
}

// list appends the parts that follow, each of at least size bytes.
func (r *geometryReader) list(h geometryHead, size int, part func() error) error {
	n, err := r.count(h, size)
	if err != nil {
		return err
	}
	if n == 0 {
		r.empty()
		return nil
	}
	open, closing := byte('('), byte(')')
	if r.json {
		open, closing = '[', ']'
	}
	for i := range n {
		if i == 0 {
			r.out = append(r.out, open)
		} else {
			r.out = append(r.out, ',')
		}
		if err := part(); err != nil {
			return err
		}
	}
	r.out = append(r.out, closing)
	return nil
}

func (r *geometryReader) line(h geometryHead) error {
	return r.list(h, 8*h.dimensions(), func() error {
		p, err := r.position(h)
		r.coordinates(h, p)
		return err
	})
}

func (r *geometryReader) point(h geometryHead) error {
	p, err := r.position(h)
	if err != nil {
		return err
	}
	if h.isEmpty(p) {
		r.empty()
		return nil
	}
	if r.json {
		r.coordinates(h, p)
		return nil
	}
	r.out = append(r.out, '(')
	r.coordinates(h, p)
	r.out = append(r.out, ')')
	return nil
}

// barePoint appends a point of a WKT MULTIPOINT, without parentheses.
func (r *geometryReader) barePoint(h geometryHead) error {
	p, err := r.position(h)
	if err != nil {
		return err
	}
	if h.isEmpty(p) {
		r.empty()
		return nil
	}
	r.coordinates(h, p)
	return nil
}

// coordinates appends a position; GeoJSON has no M.
func (r *geometryReader) coordinates(h geometryHead, p [4]float64) {
	n, sep := h.dimensions(), byte(' ')
	if r.json {
		sep = ','
		r.out = append(r.out, '[')
		if h.m {
			n--
		}
	}
	for i := range n {
		if i > 0 {
			r.out = append(r.out, sep)
		}
		if r.json && (math.IsNaN(p[i]) || math.IsInf(p[i], 0)) {
			r.out = append(r.out, "null"...)
			continue
		}
		r.out = appendNumberJS(r.out, p[i])
	}
	if r.json {
		r.out = append(r.out, ']')
	}
}

func geometryText(op string, o Options, v source.Value, json bool) (source.Value, error) {
	r, err := newGeometryReader(op, o, v)
	if err != nil {
		return source.Value{}, err
	}
	r.json = json
	if err := r.write(0); err != nil {
		return source.Value{}, err
	}
	if len(r.in) > 0 {
		return source.Value{}, r.broken()
	}
	return source.String(string(r.out)), nil
}

// geometryAsText is st_astext: WKT.
func geometryAsText(o Options, v source.Value) (source.Value, error) {
	return geometryText("st_astext", o, v, false)
}

// geometryAsGeoJSON is st_asgeojson: a GeoJSON geometry, without its SRID.
func geometryAsGeoJSON(o Options, v source.Value) (source.Value, error) {
	return geometryText("st_asgeojson", o, v, true)
}

// geometryX and geometryY are st_x and st_y: a coordinate of a point, NULL for an
// empty point and for other geometries.
func geometryX(o Options, v source.Value) (source.Value, error) {
	return geometryCoordinate("st_x", o, v, 0)
}

func geometryY(o Options, v source.Value) (source.Value, error) {
	return geometryCoordinate("st_y", o, v, 1)
}

func geometryCoordinate(op string, o Options, v source.Value, i int) (source.Value, error) {
	r, err := newGeometryReader(op, o, v)
	if err != nil {
		return source.Value{}, err
	}
	h, err := r.head()
	if err != nil || h.kind != geomPoint {
		return source.Value{}, err
	}
	p, err := r.position(h)
	if err != nil {
		return source.Value{}, err
	}
	return realOrNull(p[i]), nil
}
