package pgtypes

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-sync/millrace/internal/source"
)

// oids of user types in tests
const (
	oidMood = 20_001 + iota
	oidMoods
	oidReal
	oidReals
	oidPair
	oidPairs
	oidGeometry
	oidGeometries
	oidStampDomain
	oidMoodRange
	oidNested // and the ten after it: each a composite of the one before
)

func testRegistry() *Registry {
	r := NewRegistry()
	for _, i := range []Info{
		{OID: oidMoods, Name: "_mood", Kind: Base, Elem: oidMood},
		{OID: oidMood, Name: "mood", Kind: Enum},
		{OID: oidReals, Name: "_positive", Kind: Base, Elem: oidReal},
		{OID: oidReal, Name: "positive", Kind: Domain, Base: 700},
		{OID: oidPairs, Name: "_pair", Kind: Base, Elem: oidPair},
		{OID: oidPair, Name: "pair", Kind: Composite, Fields: []Field{{"n", 23}, {`the "label"`, 25}}},
		{OID: oidGeometry, Name: "geometry", Kind: Base, Delim: ':'},
		{OID: oidGeometries, Name: "_geometry", Kind: Base, Elem: oidGeometry, Delim: ':'},
		{OID: oidStampDomain, Name: "stamp", Kind: Domain, Base: 1184},
		{OID: oidMoodRange, Name: "moodrange", Kind: Range, Subtype: oidMood},
		{OID: oidNested, Name: "nested0", Kind: Composite, Fields: []Field{{"v", 1007}}},
	} {
		r.Add(i)
	}
	for i := uint32(1); i <= 10; i++ {
		r.Add(Info{OID: oidNested + i, Name: "nested", Kind: Composite, Fields: []Field{{"v", oidNested + i - 1}}})
	}
	return r
}

func TestDecode(t *testing.T) {
	r := testRegistry()
	precise := func(p source.Precision) source.Form {
		return source.Form{ISOTimestamps: true, CustomTypes: true, Precision: p}
	}
	stamps := source.Form{ISOTimestamps: true}
	custom := source.Form{CustomTypes: true}
	s := source.String
	for _, c := range []struct {
		oid  uint32
		text string
		form source.Form
		want source.Value
	}{
		// Timestamps in each precision: cut, never rounded, never beyond six digits.
		{1184, "2024-02-29 12:34:56.999999+00", precise(source.PrecisionSeconds), s("2024-02-29T12:34:56Z")},
		{1184, "2024-02-29 12:34:56.999999+00", precise(source.PrecisionMilliseconds), s("2024-02-29T12:34:56.999Z")},
		{1184, "2024-02-29 12:34:56+00", precise(source.PrecisionMilliseconds), s("2024-02-29T12:34:56.000Z")},
		{1184, "2024-02-29 12:34:56.1+00", precise(source.PrecisionMicroseconds), s("2024-02-29T12:34:56.100000Z")},
		{1184, "2024-02-29 12:34:56.1+00", precise(source.PrecisionNanoseconds), s("2024-02-29T12:34:56.100000Z")},
		{1114, "2024-02-29 12:34:56.999999", precise(source.PrecisionSeconds), s("2024-02-29T12:34:56")},
		{1114, "infinity", precise(source.PrecisionMilliseconds), s("9999-12-31T23:59:59.000")},
		{1083, "12:34:56.789", precise(source.PrecisionSeconds), s("12:34:56")},
		{1083, "12:34:56.789", precise(source.PrecisionMilliseconds), s("12:34:56.789")},
		{1114, "2024-02-29 12:34:56.5", source.Form{Precision: source.PrecisionSeconds}, s("2024-02-29 12:34:56.5")},
		{1115, `{"2024-02-29 12:34:56.789",infinity}`, precise(source.PrecisionSeconds), s(`["2024-02-29T12:34:56","9999-12-31T23:59:59"]`)},
		// Infinities and years out of range.
		{1114, "infinity", newForm, s("9999-12-31T23:59:59.000000")},
		{1114, "-infinity", newForm, s("0000-01-01T00:00:00.000000")},
		{1184, "infinity", oldForm, s("9999-12-31 23:59:59Z")},
		{1184, "-infinity", oldForm, s("0000-01-01 00:00:00Z")},
		{1114, "0044-03-15 12:00:00 BC", newForm, source.Value{}},
		{1114, "0044-03-15 12:00:00 BC", oldForm, source.Value{}},
		{1184, "0044-03-15 12:00:00+00 BC", newForm, source.Value{}},
		{1114, "10000-01-01 00:00:00", newForm, s("10000-01-01T00:00:00.000000")},
		{1184, "10000-01-01 00:00:00+00", newForm, source.Value{}},
		{1184, "10000-01-01 00:00:00+00", oldForm, source.Value{}},
		{1184, "9999-12-31 23:30:00-01", newForm, source.Value{}},
		{1184, "0001-01-01 00:30:00+01", newForm, source.Value{}},
		{1184, "2024-03-01 00:19:31+00:19:32", newForm, s("2024-02-29T23:59:59.000000Z")},
		{1115, `{"0044-03-15 12:00:00 BC"}`, newForm, s(`[null]`)},
		{1082, "infinity", newForm, s("9999-12-31")},
		{1082, "-infinity", oldForm, s("0000-01-01")},
		{1082, "2024-01-02 BC", newForm, s("2024-01-02 BC")},
		{1182, "{infinity,2024-01-02}", oldForm, s(`["9999-12-31","2024-01-02"]`)},
		{oidStampDomain, "2024-02-29 12:34:56+00", oldForm, s("2024-02-29 12:34:56Z")},
		// The two options apart.
		{3908, `["2024-01-01 00:00:00",)`, custom, s(`{"lower":"2024-01-01 00:00:00","upper":null,"lower_exclusive":0,"upper_exclusive":1}`)},
		{3908, `["2024-01-01 00:00:00",)`, stamps, s(`["2024-01-01 00:00:00",)`)},
		{1115, `{"2024-01-01 00:00:00"}`, custom, s(`["2024-01-01 00:00:00"]`)},
		// Numbers.
		{700, "1.1", newForm, source.Real(1.1)},
		{1021, "{1.1,2,NaN,Infinity,-0,1e+20,1e+21}", newForm, s("[1.1,2.0,null,null,0.0,100000000000000000000.0,1e+21]")},
		{1231, "{1.50,NaN}", oldForm, s(`["1.50","NaN"]`)},
		{oidReal, "2.5", newForm, source.Real(2.5)},
		{oidReal, "2.5", oldForm, source.Real(2.5)},
		{oidReals, "{1,2.5}", newForm, s("[1.0,2.5]")},
		{oidReals, "{1,2.5}", oldForm, s("{1,2.5}")},
		{26, "4294967295", newForm, source.Int(4294967295)},
		{3220, "16/B374D848", oldForm, s("00000016/B374D848")},
		{3221, "{16/B374D848}", newForm, s(`["00000016/B374D848"]`)},
		// Text, and types with only a text.
		{1042, "ch      ", newForm, s("ch      ")},
		{790, "$1,234.56", newForm, s("$1,234.56")},
		{791, `{"$1,234.56",$0.00}`, oldForm, s(`["$1,234.56","$0.00"]`)},
		{99_999, "{whatever}", newForm, s("{whatever}")},
		{oidGeometry, "0101000020E6100000", newForm, s("0101000020E6100000")},
		{oidGeometries, "{0101:NULL}", newForm, s(`["0101",null]`)},
		{oidGeometries, "{0101:NULL}", oldForm, s("{0101:NULL}")},
		{22, "1 2 3", newForm, s("1 2 3")},
		{17, `\x00fF`, newForm, source.Blob("\x00\xff")},
		{17, `a\000\\b`, newForm, source.Blob("a\x00\\b")},
		{1001, `{"\\x00",NULL}`, newForm, s("[null,null]")},
		// Arrays.
		{1007, "{}", newForm, s("[]")},
		{1007, "[0:1]={7,8}", newForm, s("[7,8]")},
		{1007, "[-2:-1][5:6]={{1,2},{3,NULL}}", oldForm, s("[[1,2],[3,null]]")},
		{1000, "{t,f,NULL}", newForm, s("[1,0,null]")},
		{1009, `{"NULL",NULL,"","a,b","q\"\\x",é}`, newForm, s(`["NULL",null,"","a,b","q\"\\x","é"]`)},
		{199, `{"{\"a\" : [1.0, 2e5]}",NULL,"null"}`, newForm, s(`[{"a" : [1.0, 2e5]},null,null]`)},
		{1020, "{(1,1),(0,0);NULL}", newForm, s(`["(1,1),(0,0)",null]`)},
		{oidMoods, "{sad,NULL}", newForm, s(`["sad",null]`)},
		{oidMoods, "{sad,NULL}", oldForm, s("{sad,NULL}")},
		// Composites.
		{oidPair, `(7,"a ""q"" \\ b")`, newForm, s(`{"n":7,"the \"label\"":"a \"q\" \\ b"}`)},
		{oidPair, `(,)`, newForm, s(`{"n":null,"the \"label\"":null}`)},
		{oidPair, `(,"")`, newForm, s(`{"n":null,"the \"label\"":""}`)},
		{oidPair, `(,NULL)`, newForm, s(`{"n":null,"the \"label\"":"NULL"}`)},
		{oidPair, `(7,x)`, oldForm, s(`(7,x)`)},
		{oidPairs, `{"(1,\"a,b\")",NULL}`, newForm, s(`[{"n":1,"the \"label\"":"a,b"},null]`)},
		{oidPairs, `{"(1,\"a,b\")",NULL}`, oldForm, s(`{"(1,\"a,b\")",NULL}`)},
		// Ranges.
		{3904, "[1,5)", newForm, s(`{"lower":1,"upper":5,"lower_exclusive":0,"upper_exclusive":1}`)},
		{3904, "(,)", newForm, s(`{"lower":null,"upper":null,"lower_exclusive":1,"upper_exclusive":1}`)},
		{3904, "empty", newForm, s("empty")},
		{3904, "empty", oldForm, s("empty")},
		{3905, `{empty,"[1,2)"}`, newForm, s(`["empty",{"lower":1,"upper":2,"lower_exclusive":0,"upper_exclusive":1}]`)},
		{3905, `{empty,"[1,2)"}`, oldForm, s(`{empty,"[1,2)"}`)},
		{4532, "{[1.5,2.5],(3,)}", newForm, s(`[{"lower":"1.5","upper":"2.5","lower_exclusive":0,"upper_exclusive":0},{"lower":"3","upper":null,"lower_exclusive":1,"upper_exclusive":1}]`)},
		{4532, "{}", newForm, s("[]")},
		{oidMoodRange, `["",sad]`, newForm, s(`{"lower":"","upper":"sad","lower_exclusive":0,"upper_exclusive":0}`)},
	} {
		typ := r.Type(c.oid)
		got, err := typ.Decode(source.Datum{Bytes: []byte(c.text), Encoding: source.Text}, c.form)
		if err != nil || got != c.want {
			t.Errorf("%s %q in form %+v: got %v, %v, want %v", typ.Name(), c.text, c.form, got, err, c.want)
		}
	}
}

func TestMalformed(t *testing.T) {
	r := testRegistry()
	for _, c := range []struct {
		oid  uint32
		text string
	}{
		{16, ""}, {16, "true"}, {23, ""}, {23, "1.5"}, {23, "9223372036854775808"}, {700, "one"}, {701, "1e999"}, {17, `\x0`}, {17, `\xzz`}, {17, `\9`}, {17, `a\`}, {3220, "16"},
		{1114, "2024-02-29"}, {1114, "29.02.2024 12:34:56"}, {1114, "2024-02-29 12:34:56+00"}, {1184, "2024-02-29 12:34:56"}, {1184, "2024-02-29 12:34:56+0x"}, {1114, "2024-13-01 00:00:00"}, {1114, "2024-02-29 25:00:00"}, {1114, "2024-02-29 12:34:56.1234567"},
		{1007, ""}, {1007, "{"}, {1007, "{1"}, {1007, "{1,}"}, {1007, "{,1}"}, {1007, "{1}}"}, {1007, "[0:1]"}, {1007, "[x]={1}"}, {1007, "{{{{{{{1}}}}}}}"}, {1007, "1"}, {1009, `{"a",{}`}, {1009, `{"a}`}, {1009, `{"a\`},
		{oidPair, ""}, {oidPair, "(1)"}, {oidPair, "(1,a,b)"}, {oidPair, "(1,a"}, {oidPair, "(1,a)x"}, {oidPair, "1,a"},
		{3904, ""}, {3904, "[1"}, {3904, "[1,2"}, {3904, "[1,2)x"}, {3904, "1,2"}, {3904, "empt"}, {4451, "{"}, {4451, "{[1,2),}"}, {4451, "{[1,2)[3,4)}"}, {4451, "[1,2)"},
	} {
		typ := r.Type(c.oid)
		if v, err := typ.Decode(source.Datum{Bytes: []byte(c.text), Encoding: source.Text}, newForm); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s %q: got %v, %v, want ErrMalformed", typ.Name(), c.text, v, err)
		}
	}
	for _, oid := range []uint32{16, 20, 21, 23, 26, 700, 701, 869, 829, 774, 1082, 1083, 1114, 1184, 1266, 1560, 1700, 2950, 3220, 3802, 1007, oidReals} {
		typ := r.Type(oid)
		for _, b := range []string{"", "\xff\xff\xff", strings.Repeat("\xff", 13)} {
			if v, err := typ.Decode(source.Datum{Bytes: []byte(b), Encoding: source.Binary}, oldForm); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s from binary %x: got %v, %v, want ErrMalformed", typ.Name(), b, v, err)
			}
		}
	}
}

func TestDecodeErrors(t *testing.T) {
	r := testRegistry()
	if v, err := r.Type(23).Decode(source.Datum{}, newForm); err != nil || !v.IsNull() {
		t.Errorf("NULL gives %v, %v", v, err)
	}
	if _, err := r.Type(23).Decode(source.Datum{Encoding: source.Unchanged}, newForm); !errors.Is(err, ErrUnchanged) {
		t.Errorf("an unchanged value gives %v", err)
	}
	for _, oid := range []uint32{790, 3904, 4451, oidPair, oidPairs, 1017, 99_999} {
		if r.BinaryReadable(oid) {
			t.Errorf("%s claims to be readable as binary", r.Type(oid).Name())
		}
		if _, err := r.Type(oid).Decode(source.Datum{Bytes: []byte{1}, Encoding: source.Binary}, newForm); !errors.Is(err, ErrNotBinary) {
			t.Errorf("%s from binary gives %v, want ErrNotBinary", r.Type(oid).Name(), err)
		}
	}
	for _, oid := range []uint32{oidMood, oidMoods, oidReal, oidReals, oidGeometry, oidStampDomain, 1007, 1185} {
		if !r.BinaryReadable(oid) {
			t.Errorf("%s is not readable as binary", r.Type(oid).Name())
		}
	}
}

// TestDepth nests an integer array in ever more composites: ten levels are given.
func TestDepth(t *testing.T) {
	r := testRegistry()
	inner := func(array string, composites int) string {
		for range composites {
			array = `("` + strings.NewReplacer(`\`, `\\`, `"`, `""`).Replace(array) + `")`
		}
		return array
	}
	decode := func(text string, composites uint32) error {
		_, err := r.Type(oidNested+composites-1).Decode(source.Datum{Bytes: []byte(text), Encoding: source.Text}, newForm)
		return err
	}
	if err := decode(inner("{1}", 9), 9); err != nil {
		t.Errorf("ten levels: %v", err)
	}
	for text, composites := range map[string]uint32{inner("{1}", 10): 10, inner("{{1}}", 9): 9, inner("{{{1}}}", 8): 8} {
		err := decode(text, composites)
		if !errors.Is(err, ErrTooDeep) || !strings.Contains(err.Error(), "PSYNC_S1004") {
			t.Errorf("eleven levels: %v, want ErrTooDeep", err)
		}
	}
}

// TestTooLarge decodes a few kilobytes that would print as some dozen megabytes.
func TestTooLarge(t *testing.T) {
	numeric := "\x00\x00\x00\x0a" + "\x00\x01\x7f\xff\x00\x00\x00\x00\x00\x01" // 1e131068
	const count = 300
	array := "\x00\x00\x00\x01" + "\x00\x00\x00\x00" + "\x00\x00\x06\xa4" + "\x00\x00\x01\x2c" + "\x00\x00\x00\x01" + strings.Repeat(numeric, count)
	for _, f := range []source.Form{newForm, source.CanonicalForm} {
		if _, err := NewRegistry().Type(1231).Decode(source.Datum{Bytes: []byte(array), Encoding: source.Binary}, f); !errors.Is(err, ErrTooLarge) {
			t.Errorf("form %v: %v, want ErrTooLarge", f, err)
		}
	}
}

func TestMissing(t *testing.T) {
	r := NewRegistry()
	if got := r.Missing([]uint32{23, 1007, 3904, 50, 40, 50}); !slices.Equal(got, []uint32{40, 50}) {
		t.Errorf("got %v", got)
	}
	r.Add(Info{OID: 40, Name: "a", Kind: Composite, Fields: []Field{{"x", 23}, {"y", 41}}})
	r.Add(Info{OID: 50, Name: "_a", Kind: Base, Elem: 40})
	if got := r.Missing([]uint32{50}); !slices.Equal(got, []uint32{41}) {
		t.Errorf("got %v", got)
	}
	before := r.Type(50)
	r.Add(Info{OID: 41, Name: "b", Kind: Domain, Base: 23})
	if got := r.Missing([]uint32{50}); got != nil {
		t.Errorf("got %v", got)
	}
	d := source.Datum{Bytes: []byte(`{"(1,2)"}`), Encoding: source.Text}
	if v, err := r.Type(50).Decode(d, newForm); err != nil || v != source.String(`[{"x":1,"y":2}]`) {
		t.Errorf("after it is known: %v, %v", v, err)
	}
	if v, err := before.Decode(d, newForm); err != nil || v != source.String(`[{"x":1,"y":"2"}]`) {
		t.Errorf("a type handed out before: %v, %v", v, err)
	}
	r.Add(Info{OID: 23, Name: "impostor", Kind: Enum})
	if got := r.Type(23).Name(); got != "int4" {
		t.Errorf("a built-in type became %s", got)
	}
}

// TestCycles has a catalog claim types that contain themselves.
func TestCycles(t *testing.T) {
	r := NewRegistry()
	r.Add(Info{OID: 40, Name: "domain", Kind: Domain, Base: 40})
	r.Add(Info{OID: 41, Name: "array", Kind: Base, Elem: 41})
	r.Add(Info{OID: 42, Name: "record", Kind: Composite, Fields: []Field{{"r", 42}}})
	r.Add(Info{OID: 43, Name: "range", Kind: Range, Subtype: 43})
	r.Add(Info{OID: 44, Name: "multirange", Kind: Multirange, Subtype: 44})
	if got := r.Missing([]uint32{40, 41, 42, 43, 44}); got != nil {
		t.Errorf("got %v", got)
	}
	for oid, text := range map[uint32]string{40: "x", 41: "{{x}}", 42: strings.Repeat("(", 20), 43: strings.Repeat("[", 20) + ",", 44: "{{}}"} {
		typ := r.Type(oid)
		_ = r.BinaryReadable(oid)
		for _, f := range allForms() {
			for _, e := range []source.Encoding{source.Text, source.Binary} {
				v, err := typ.Decode(source.Datum{Bytes: []byte(text), Encoding: e}, f)
				if err == nil && v.IsNull() {
					t.Errorf("%s: null without an error", typ.Name())
				}
			}
		}
	}
}

func TestTextExpr(t *testing.T) {
	want := `CASE WHEN t."c" IS DISTINCT FROM NULL THEN pg_catalog.format('%s', t."c") END`
	if got := TextExpr(`t."c"`); got != want {
		t.Errorf("got %s", got)
	}
}
