package pgtypes

import (
	"encoding/hex"
	"testing"

	"github.com/millrace-sync/millrace/internal/source"
)

var benchValues = []struct {
	name       string
	oid        uint32
	text, send string
}{
	{"bool", 16, "t", "01"},
	{"int4", 23, "1234567", "0012d687"},
	{"int8", 20, "-9007199254740993", "ffdfffffffffffff"},
	{"float8", 701, "12345.678", "40c81cd6c8b43958"},
	{"float4", 700, "1.1", "3f8ccccd"},
	{"text", 25, "some text of a usual length", "736f6d652074657874206f662061207573"},
	{"uuid", 2950, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0eebc999c0b4ef8bb6d6bb9bd380a11"},
	{"timestamptz", 1184, "2024-02-29 10:34:56.789012+00", "0002b5ad3fbc1794"},
	{"date", 1082, "2024-02-29", "0000227c"},
	{"numeric", 1700, "10.5000", "0002000000000004000a1388"},
	{"jsonb", 3802, `{"a": [1.0, 200000, null], "b": 1}`, "017b2261223a20317d"},
	{"textArray", 1009, `{en,fr,"a b"}`, "000000010000000000000019000000030000000100000002656e00000002667200000003612062"},
	{"int4range", 3904, "[1,10)", ""},
}

func BenchmarkDecode(b *testing.B) {
	r := NewRegistry()
	for _, v := range benchValues {
		typ := r.Type(v.oid)
		run := func(name string, d source.Datum) {
			b.Run(v.name+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := typ.Decode(d, newForm); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		run("text", source.Datum{Bytes: []byte(v.text), Encoding: source.Text})
		if v.send == "" {
			continue
		}
		send, err := hex.DecodeString(v.send)
		if err != nil {
			b.Fatal(err)
		}
		run("binary", source.Datum{Bytes: send, Encoding: source.Binary})
	}
}
