package pgtypes

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/millrace-sync/millrace/internal/source"
)

// fuzzText decodes arbitrary text as each of the types. Of what is accepted, the
// JSON is valid, unless the text itself claims to hold JSON, and as large as the
// text allows.
func fuzzText(f *testing.F, r *Registry, oids []uint32, seeds ...string) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, oid := range oids {
			typ := r.Type(oid).(*typ)
			for _, form := range []source.Form{newForm, oldForm, source.CanonicalForm} {
				v, err := typ.Decode(source.Datum{Bytes: []byte(s), Encoding: source.Text}, form)
				if err != nil || typ.shape == scalarShape || typ.ownText(form) || v == source.String(emptyRange) {
					continue
				}
				if !json.Valid([]byte(v.Str())) {
					t.Fatalf("%s %q gives invalid JSON %q", typ.Name(), s, v.Str())
				}
				if limit := 100 * (len(s) + 1); len(v.Str()) > limit {
					t.Fatalf("%s: %d bytes give %d", typ.Name(), len(s), len(v.Str()))
				}
			}
		}
	})
}

func FuzzArrayText(f *testing.F) {
	fuzzText(f, testRegistry(), []uint32{1007, 1009, 1020, 1000, 1185, 1001, 3905, 6151, oidMoods, oidReals, oidPairs, oidGeometries},
		"{}", "{1,NULL,3}", "[0:1]={7,8}", "{{1,2},{3,4}}", `{"a b","q\"\\",NULL,""}`, "{(1,1),(0,0);(3,3),(2,2)}", `{"(1,\"a,b\")",NULL}`, `{"[1,2)",empty}`, `{"2024-02-29 12:34:56.7+02"}`, `{"\\x00ff"}`)
}

func FuzzRecordText(f *testing.F) {
	r := testRegistry()
	r.Add(Info{OID: 40, Name: "many", Kind: Composite, Fields: []Field{{"p", oidPair}, {"ps", oidPairs}, {"r", 3904}, {"m", 4532}, {"b", 17}, {"t", 1184}, {"f", 700}}})
	fuzzText(f, r, []uint32{oidPair, oidNested + 10, 40},
		"(,)", `(7,"a ""q"" \\ b")`, `("(1,x)","{""(2,y)"",NULL}","[1,5)","{[1.5,2),(3,)}","\\x00","2024-02-29 12:34:56+00",1.5)`, `("(""(""""({1})"""")"")")`)
}

func FuzzRangeText(f *testing.F) {
	fuzzText(f, testRegistry(), []uint32{3904, 3908, 3906, 3912, 4451, 4532, 4533, oidMoodRange},
		"empty", "[1,5)", "(,)", `["2024-01-01 00:00:00","2024-02-01 00:00:00.5")`, "{}", "{[1.5,2.5),(3,)}", `["",sad]`, "[-infinity,infinity]")
}

func FuzzScalarText(f *testing.F) {
	var oids []uint32
	for _, s := range scalars {
		oids = append(oids, s.oid)
	}
	fuzzText(f, NewRegistry(), oids, "t", "-12", "1.5e+300", "NaN", `\x00ff`, `a\000\\`, "16/B374D848", "2024-02-29", "12:34:56.7", "2024-02-29 12:34:56.7+02:30 BC", "infinity")
}

// fuzzBinary decodes arbitrary bytes as each of the types. What is accepted decodes
// to the same from the text that it prints as.
func fuzzBinary(f *testing.F, r *Registry, oids []uint32) {
	wanted := map[uint32]bool{}
	for _, oid := range oids {
		wanted[oid] = true
	}
	for _, v := range readValues(f) {
		if wanted[v.oid] && v.send != nil && len(v.send) < 200 {
			f.Add(v.send)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, oid := range oids {
			typ := r.Type(oid).(*typ)
			text, err := typ.unpack(nil, b, 0)
			// A server's text is valid UTF-8, its JSON too, and its characters are not NUL.
			if err != nil || !utf8.Valid(text) || strings.ContainsRune(string(text), 0) {
				text = nil
			}
			for _, form := range []source.Form{newForm, oldForm, source.CanonicalForm} {
				v, err := typ.Decode(source.Datum{Bytes: b, Encoding: source.Binary}, form)
				if err != nil || text == nil {
					continue
				}
				w, err := typ.Decode(source.Datum{Bytes: text, Encoding: source.Text}, form)
				if err != nil || v != w {
					t.Fatalf("%s from binary %x: %v; from its text %q: %v, %v", typ.Name(), b, v, text, w, err)
				}
			}
		}
	})
}

func FuzzArrayBinary(f *testing.F) {
	fuzzBinary(f, testRegistry(), []uint32{1007, 1009, 1000, 1231, 1185, 1001, 2951, oidMoods, oidReals})
}

func FuzzNumericBinary(f *testing.F) {
	fuzzBinary(f, NewRegistry(), []uint32{1700})
}

func FuzzScalarBinary(f *testing.F) {
	var oids []uint32
	r := NewRegistry()
	for _, s := range scalars {
		// Postgres' own range of timestamps and dates prints years of at most seven
		// digits and is held against its server in TestTextEqualsBinary.
		if r.BinaryReadable(s.oid) && s.oid != 1114 && s.oid != 1184 {
			oids = append(oids, s.oid)
		}
	}
	fuzzBinary(f, r, oids)
}

// FuzzTimestamp holds the calendar against package time's.
func FuzzTimestamp(f *testing.F) {
	for _, micros := range []int64{0, 1, -1, math.MaxInt64, math.MinInt64, dayMicros, -dayMicros, 252_455_615_999_999_999, -63_113_904_000_000_000} {
		f.Add(micros, int16(0))
		f.Add(micros, int16(-12_345))
	}
	epoch := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	f.Fuzz(func(t *testing.T, micros int64, zone int16) {
		var b [8]byte
		for i := range b {
			b[i] = byte(uint64(micros) >> (56 - 8*i))
		}
		s, err := readStamp(b[:])
		if err != nil {
			t.Fatal(err)
		}
		text := string(s.appendText(nil, true))
		if s.ends != 0 {
			if back, ok := parseStamp(text, true); !ok || back != s {
				t.Fatalf("%s reads back as %v", text, back)
			}
			return
		}
		seconds := floorDiv(micros, secondMicros)
		want := time.Unix(epoch+seconds, (micros-seconds*secondMicros)*1000).UTC()
		if s.year != want.Year() || s.month != int(want.Month()) || s.day != want.Day() {
			t.Fatalf("%d microseconds: got %v, want %v", micros, s, want)
		}
		if want.Year() < -4713 || want.Year() > 294_276 {
			return
		}
		if back, ok := parseStamp(text, true); !ok || back != s {
			t.Fatalf("%s reads back as %v", text, back)
		}
		got := s.value(true, newForm)
		if want.Year() < 1 || want.Year() > 9999 {
			if !got.IsNull() {
				t.Fatalf("%s gives %v, want null", text, got)
			}
			return
		}
		if got != source.String(want.Format("2006-01-02T15:04:05.000000Z")) {
			t.Fatalf("%s gives %v", text, got)
		}
		if y := want.Year(); y == 1 || y == 9999 {
			return // another zone may be in another era, which package time has no form for
		}
		// The same moment as a session in another zone prints it.
		offset := int(zone) % (16 * 60) * 60
		local := want.In(time.FixedZone("", offset)).Format("2006-01-02 15:04:05.999999-07:00")
		if back, ok := parseStamp(local, true); !ok || back != s {
			t.Fatalf("%s reads as %v, want %v", local, back, s)
		}
	})
}

// FuzzStampText reads arbitrary text as a timestamp.
func FuzzStampText(f *testing.F) {
	fuzzText(f, NewRegistry(), []uint32{1083, 1114, 1184, 1115, 1185},
		"2024-02-29 12:34:56.789012", "2024-02-29 12:34:56+02", "0044-03-15 12:00:00+00:19:32 BC", "infinity", "24:00:00")
}
