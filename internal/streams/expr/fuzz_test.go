package expr

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/millrace-sync/millrace/internal/source"
)

func FuzzReadJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5,"x\u00e9",null,true]}`, `"\ud834\udd1e"`, `-0`, `1e999`, `[[[[]]]]`, ` {} `, `{"1":1,"1":2}`, `[1,]`, `"\x"`, "\"\x01\"", `123456789012345678901234567890`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		j, err := checkJSON("test", s)
		if utf8.ValidString(s) && len(s) < 500 && (err == nil) != json.Valid([]byte(s)) {
			t.Fatalf("%q: %v, encoding/json differs", s, err)
		}
		if err != nil {
			return
		}
		out, err := j.appendCompact("test", nil)
		if err != nil {
			return
		}
		again, err := checkJSON("test", string(out))
		if err != nil {
			t.Fatalf("%q is written as %q: %v", s, out, err)
		}
		if twice, err := again.appendCompact("test", nil); err != nil || string(twice) != string(out) {
			t.Fatalf("%q is written as %q, then as %q (%v)", s, out, twice, err)
		}
		if v, err := FromJSON([]byte(s)); err == nil && v.Kind() != source.KindText {
			AppendParam(nil, v)
		}
	})
}

func FuzzJSON5(f *testing.F) {
	for _, s := range []string{`{a:1,'b':[+1,.5,5.,0x1F,Infinity,NaN],"c":"x\
y"}`, `"\x41\v\0"`, `/**/[1,]//`, `{$a:1}`, `-Infinity`, `"\ud834"`, `{"a":{}}`} {
		f.Add(s, "$.a[0]")
	}
	f.Fuzz(func(t *testing.T, s, path string) {
		j, _, ok := parseJSON5(s)
		if !ok {
			return
		}
		if !j.valid(1) && strings.Count(s, "[")+strings.Count(s, "{") < MaxJSONDepth {
			t.Fatalf("%q gives malformed JSONB %x", s, string(j))
		}
		out := j.appendText(nil)
		again, _, ok := parseJSON5(string(out))
		if !ok {
			t.Fatalf("%q is written as %q, which is no JSON", s, out)
		}
		if twice := again.appendText(nil); string(twice) != string(out) {
			t.Fatalf("%q is written as %q, then as %q", s, out, twice)
		}
		j.value()
		if strings.HasPrefix(path, "$") {
			if elem, found, _ := j.lookup(path[1:]); found {
				elem.value()
			}
		}
	})
}

// FuzzJSONB hands blobs to everything that takes JSONB.
func FuzzJSONB(f *testing.F) {
	for _, s := range []string{"\x00", "\x7b\x17a\x131\x17b\x132", "\xcb\x03\x131\x01", "\x13", "\xfc", "\xec\xff\xff\xff\xff", "\x49\\u00"} {
		f.Add(s, "$[0].a")
	}
	o := Options{Engine: SQLite}
	f.Fuzz(func(t *testing.T, s, path string) {
		v, p := source.Blob(s), source.String(path)
		_, _ = arrowSQLite("->", v, p)
		_, _ = arrowSQLite("->>", v, p)
		_, _ = jsonExtractSQLite("json_extract", []source.Value{v, p, p})
		_, _ = jsonArrayLengthSQLite("json_array_length", []source.Value{v, p})
		_, _ = jsonValidSQLite("json_valid", []source.Value{v, source.Int(15)})
		_ = JSONEach(v, o, func(_, _ source.Value) bool { return true })
	})
}

func FuzzGeometry(f *testing.F) {
	for _, s := range []string{"0101000000000000000000F03F0000000000000040", "0101000020E6100000000000000000F83F00000000000004C0",
		"0107000000010000000101000000000000000000F03F0000000000000040", "0102000000FFFFFFFF", "00000000013FF00000000000004000000000000000"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v := source.String(s)
		text, err := geometryAsText(Options{}, v)
		geo, jerr := geometryAsGeoJSON(Options{}, v)
		if (err == nil) != (jerr == nil) {
			t.Fatalf("%q: %v as text, %v as GeoJSON", s, err, jerr)
		}
		if err == nil && (!json.Valid([]byte(geo.Str())) || len(text.Str()) > 100+20*len(s)) {
			t.Fatalf("%q gives %q and %q", s, text.Str(), geo.Str())
		}
		_, _ = geometryX(Options{}, v)
		_, _ = geometryY(Options{}, v)
	})
}

func FuzzDatetime(f *testing.F) {
	f.Add("2024-02-29 12:34:56.789+02:30", "+1 month", "weekday 0")
	f.Add("2440587.5", "unixepoch", "subsec")
	f.Add("-4713-11-24 12:00", "-0001-02-03 04:05", "floor")
	f.Add("9999-12-31", "+99999 years", "start of year")
	f.Add("1e300", "auto", "+1e14 seconds")
	f.Fuzz(func(t *testing.T, s, m1, m2 string) {
		args := []source.Value{source.String(s), source.String(m1), source.String(m2)}
		for _, o := range []Options{{}, {Engine: SQLite}} {
			for n := 1; n <= 3; n++ {
				d, err := datetime(o, args[:n])
				u, uerr := unixepoch(o, args[:n])
				if (err == nil) != (uerr == nil) || d.IsNull() != u.IsNull() {
					t.Fatalf("%q: datetime gives %s, %v, unixepoch %s, %v", []string{s, m1, m2}[:n], show(d), err, show(u), uerr)
				}
				// What datetime prints is a time value for the same moment.
				if i, ok := u.Int(); ok && n == 1 {
					again, err := unixepoch(o, []source.Value{d})
					if j, _ := again.Int(); err != nil || i != j {
						t.Fatalf("%q is %d, but %s is %s (%v)", s, i, d.Str(), show(again), err)
					}
				}
			}
		}
	})
}

// FuzzLike compares with a matcher that tries everything.
func FuzzLike(f *testing.F) {
	f.Add("abc", "a%c", "\\")
	f.Add("aXbXc", "%X_X%", "X")
	f.Add("日本", "日_", "")
	f.Fuzz(func(t *testing.T, s, pattern, escape string) {
		if len(s) > 40 || len(pattern) > 12 {
			return
		}
		e := rune(-1)
		if escape != "" {
			e, _ = readLike(escape)
		}
		got, err := matchLike(s, pattern, e)
		if err != nil {
			t.Fatal(err)
		}
		if want := slowLike(s, pattern, e); got != want {
			t.Fatalf("%q LIKE %q ESCAPE %q: got %v", s, pattern, escape, got)
		}
	})
}

func slowLike(s, pattern string, escape rune) bool {
	if pattern == "" {
		return s == ""
	}
	w, n := readLike(pattern)
	if w == '%' && w != escape {
		for {
			if slowLike(s, pattern[n:], escape) {
				return true
			}
			if s == "" {
				return false
			}
			_, size := readLike(s)
			s = s[size:]
		}
	}
	if s == "" {
		return false
	}
	c, size := readLike(s)
	if w == escape {
		if len(pattern) == n {
			return false
		}
		var m int
		w, m = readLike(pattern[n:])
		n += m
	} else if w == '_' {
		w = c
	}
	return foldASCII(c) == foldASCII(w) && slowLike(s[size:], pattern[n:], escape)
}

// FuzzEval evaluates any expression that the test's parser reads, in both engines.
func FuzzEval(f *testing.F) {
	for _, s := range []string{"a + 1", "substring(a, b, c)", "CASE a WHEN b THEN c END", "'{}' -> a", "a IN (b, c)", "upper(a) || x'ff'", "round(a, 3)", "hex(replace(a, b, c))",
		"datetime(a, b)", "CAST(a AS numeric) % b", "trim(a, b)", "a LIKE b ESCAPE c", "json_extract(a, '$.x[1]')", "abs(a) << b", "st_astext(a)"} {
		f.Add(s, "1.5", int64(-3), "é😀")
	}
	f.Fuzz(func(t *testing.T, sql, x string, y int64, z string) {
		n, names, err := parseExpr(sql)
		if err != nil || len(sql) > 200 {
			return
		}
		inputs := make([]source.Value, len(names))
		for i := range inputs {
			inputs[i] = []source.Value{source.String(x), source.Int(y), source.String(z), source.Blob(z), source.Real(float64(y) / 7), {}}[i%6]
		}
		for _, o := range []Options{{}, {FixedJSONExtract: true, Legacy: true}, {Engine: SQLite}} {
			p, err := Compile(n, o)
			if err != nil {
				continue
			}
			v, err := p.Eval(inputs)
			if err != nil {
				continue
			}
			Truth(v, o)
			if out, ok := AppendJSON(nil, v); ok && !json.Valid(out) {
				t.Fatalf("%s gives the row value %s", sql, out)
			}
		}
	})
}
