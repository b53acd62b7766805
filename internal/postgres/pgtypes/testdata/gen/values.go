package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
)

// set is values of one type.
type set struct {
	typ      string
	literals []string
	// want is SQL for the JSON that clients get in the new form of v, as far as the
	// server can say; for containers it is what their text must be equal to as JSON.
	want string
}

const (
	wantTimestamp   = `CASE WHEN isfinite(v) THEN CASE WHEN extract(year FROM v) < 1 THEN 'null' ELSE to_json(lpad(extract(year FROM v)::text, greatest(4, length(extract(year FROM v)::text)), '0') || to_char(v, '-MM-DD"T"HH24:MI:SS.US'))::text END END`
	wantTimestamptz = `CASE WHEN isfinite(v) THEN CASE WHEN extract(year FROM v) NOT BETWEEN 1 AND 9999 THEN 'null' ELSE to_json(to_char(v, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))::text END END`
	wantText        = `to_json(v::text)::text`
	wantJSON        = `to_json(v)::text`
)

var texts = []string{
	"", " ", "a", "NULL", "null", "nUlL", "a b", " a", "a ", `"`, `\`, `""`, `\\`, "{", "}", "{}", "(", ")", "[", "]", ",", ";", ",,",
	`"quoted"`, "tab\tnl\ncr\rvt\vff\fbs\b", "é", "𝄞", "日本語", "\u2028\u2029", "\u00a0", "\x01\x1f\x7f", `\x00ff`, `a\"b`, "empty", "'", "<a&b>",
	"[1,2)", "{1,2}", "(a,b)", strings.Repeat("long ", 60),
}

// generate draws n values, the same in every run.
func generate(n int, draw func(r *rand.Rand) string) []string {
	r := rand.New(rand.NewPCG(1, 2))
	var s []string
	for range n {
		s = append(s, draw(r))
	}
	return s
}

func join(lists ...[]string) []string {
	var all []string
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// float32s are hard to print: random bits, powers of two, and neighbours of both.
func float32s() []string {
	var s []string
	add := func(f float32) { s = append(s, fmt.Sprintf("%.9e", f)) }
	for exp := -149; exp < 128; exp += 3 {
		f := float32(math.Ldexp(1, exp))
		add(f)
		add(math.Nextafter32(f, math.MaxFloat32))
	}
	s = append(s, "5e-45", "1e-45", "3e-45", "1.17549435e-38", "9.007199e+15", "8.5899346e+09", "33554434", "67108868", "134217736", "4.1943045e6")
	return join(s, generate(300, func(r *rand.Rand) string {
		for {
			f := math.Float32frombits(r.Uint32())
			if f == f && !math.IsInf(float64(f), 0) {
				return fmt.Sprintf("%.9e", f)
			}
		}
	}), generate(100, func(r *rand.Rand) string { return fmt.Sprintf("%g", float32(r.IntN(2000000))/1000) }))
}

func float64s() []string {
	var s []string
	add := func(f float64) { s = append(s, fmt.Sprintf("%.17e", f)) }
	for exp := -1074; exp < 1024; exp += 37 {
		f := math.Ldexp(1, exp)
		add(f)
		add(math.Nextafter(f, math.MaxFloat64))
	}
	for i := range 60 {
		add(math.Ldexp(1, 54) + 4*float64(i)) // some lie half-way between short decimals
		add(math.Ldexp(1, 57) + 32*float64(i))
	}
	return join(s, generate(200, func(r *rand.Rand) string {
		for {
			f := math.Float64frombits(r.Uint64())
			if f == f && !math.IsInf(f, 0) {
				return fmt.Sprintf("%.17e", f)
			}
		}
	}), generate(60, func(r *rand.Rand) string { return fmt.Sprintf("%g", float64(r.IntN(20000000))/1000) }))
}

var floatEdges = []string{"0", "-0", "1", "-1", "1.1", "0.1", "100", "99999", "100000", "123456", "999999", "1000000", "1234567", "0.001", "0.0001", "0.00012", "0.00001",
	"99999999999999", "100000000000000", "123456789012345", "999999999999999", "1e15", "1234567890123456", "1e20", "1e21", "NaN", "Infinity", "-Infinity", "3.4028235e38"}

func digits(r *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = '0' + byte(r.IntN(10))
		if r.IntN(3) == 0 {
			b[i] = '0'
		}
	}
	return string(b)
}

func numerics() []string {
	edges := []string{"0", "0.0", "0.00000", "1", "-1", "1.50", "10000", "9999", "0.0001", "0.00001", "-0.00000000000000000001", "100000000", "12345678.12345678", "NaN", "Infinity", "-Infinity",
		"1e100", "1e-100", "1.00000000000000000000000000000", "1e1000", "-1e-1000", "123456789012345678901234567890.123456789", "0.9999", "9999.9999", "10000.00001"}
	return join(edges, generate(250, func(r *rand.Rand) string {
		s := []string{"", "-"}[r.IntN(2)] + digits(r, 1+r.IntN(30))
		if r.IntN(3) > 0 {
			s += "." + digits(r, 1+r.IntN(30))
		}
		return s
	}))
}

func stamps(n int, years int) []string {
	return generate(n, func(r *rand.Rand) string {
		y, suffix := 1+r.IntN(years), ""
		if r.IntN(8) == 0 {
			y, suffix = 1+r.IntN(4713), " BC"
		}
		s := fmt.Sprintf("%04d-%02d-%02d %02d:%02d:%02d", y, 1+r.IntN(12), 1+r.IntN(28), r.IntN(24), r.IntN(60), r.IntN(60))
		if r.IntN(2) == 0 {
			s += "." + digits(r, 1+r.IntN(6))
		}
		return s + suffix
	})
}

var stampEdges = []string{"infinity", "-infinity", "2024-02-29 12:34:56.789012", "2024-02-29 12:34:56.7", "2000-01-01 00:00:00", "1999-12-31 23:59:59.999999", "0001-01-01 00:00:00",
	"0001-12-31 23:59:59.999999 BC", "0044-03-15 12:00:00 BC", "4713-01-01 00:00:00 BC", "9999-12-31 23:59:59.999999", "10000-01-01 00:00:00", "294276-12-31 23:59:59.999999", "1970-01-01 00:00:00", "0099-01-01 00:00:00",
	"1900-02-28 00:00:00", "1900-03-01 00:00:00", "2000-02-29 00:00:00", "0004-02-29 00:00:00", "0001-02-28 00:00:00 BC", "0005-02-28 00:00:00 BC"}

var addresses = []string{"0.0.0.0", "255.255.255.255", "192.168.0.1/24", "10.0.0.0/8", "1.2.3.4/0", "1.2.3.4/32", "::", "::1", "::2", "::/0", "::1/128", "::1.2.3.4", "::ffff:1.2.3.4", "::ffff:0:1.2.3.4",
	"1::", "1::/16", "1::8", "1:0:0:4:0:0:0:8", "1:0:0:0:5:0:0:8", "0:0:3::", "2001:db8::ff00:42:8329/64", "fe80::1", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:0", "0:2:3:4:5:6:7:8", "::ffff:ffff:1.2.3.4", "64:ff9b::192.0.2.33",
	"::1:0:0/112", "0:0:0:0:0:1:2:3", "0:0:0:0:0:0:1:3", "1:0:3:0:5:0:7:0"}

var words = []string{"sad", "ok", `very "happy"`, "", "NULL", "a,b", "{x}"}

var jsons = []string{`null`, `1`, `1.10`, `"str"`, `{}`, `[]`, `{"a" : [1.0, 2e5, null]}`, `{"b": 1, "a": {"c": [[], {}, "\"\\\u00e9\n"]}}`, `[1,2,[3,[4,[5,[6,[7,[8,[9,[10,[11,[12]]]]]]]]]]]`, `"\ud834\udd1e"`, `" , } ]"`, `true`}

// quote writes an array element so that any text survives.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// arrays builds array literals of the elements: empty, one and many, with NULLs, of
// several dimensions and with bounds.
func arrays(elems []string, delim string) []string {
	s := []string{"{}", "{NULL}", "{NULL" + delim + "NULL}"}
	quoted := make([]string, len(elems))
	for i, e := range elems {
		quoted[i] = quote(e)
	}
	for _, q := range quoted[:min(len(quoted), 12)] {
		s = append(s, "{"+q+"}")
	}
	at := func(i int) string { return quoted[i%len(quoted)] }
	pair := func(i int) string { return "{" + at(i) + delim + at(i+1) + "}" }
	s = append(s,
		"{"+strings.Join(quoted[:min(len(quoted), 60)], delim)+"}",
		"{"+at(0)+delim+"NULL"+delim+at(1)+"}",
		"[0:1]={"+at(0)+delim+at(1)+"}",
		"[-3:-2]={"+at(2)+delim+"NULL}",
		"[5:5]={"+at(1)+"}",
		"{"+pair(0)+delim+pair(2)+"}",
		"[1:2][-1:0]={"+pair(1)+delim+pair(3)+"}",
		"{{"+pair(0)+delim+pair(1)+"}"+delim+"{"+pair(2)+delim+"{NULL"+delim+"NULL}}}",
		"{{{{{{"+at(0)+"}}}}}}",
	)
	return s
}

// record writes a composite literal; nil is NULL.
func record(fields ...any) string {
	var b strings.Builder
	b.WriteByte('(')
	for i, f := range fields {
		if i > 0 {
			b.WriteByte(',')
		}
		if f != nil {
			b.WriteString(`"` + strings.NewReplacer(`\`, `\\`, `"`, `""`).Replace(f.(string)) + `"`)
		}
	}
	return b.String() + ")"
}

func pairs() []string {
	s := []string{"(,)", `(1,)`, `(,"")`}
	for _, t := range texts {
		s = append(s, record("7", t))
	}
	return s
}

func manys() []string {
	full := record(record("1", `a "b" \ c`), `{`+quote(record("1", "x,y"))+`,NULL}`, "[1,5]", "{[1.5,2.5),(3,)}", `{"k": [1, "é"]}`, `\x00ff`, "2024-02-29 12:34:56.7+02", "1.1",
		`very "happy"`, `{sad,"a,b",NULL}`, "2.5", "[0:1]={7,8}", "t", "{(1,1),(0,0);(3,3),(2,2)}")
	return []string{record(make([]any, 14)...), full,
		record(record(nil, nil), "{}", "empty", "{}", "null", `\x`, "infinity", "NaN", "", "{}", "-Infinity", "{}", "f", "{}")}
}

// sets lists all values. The arrays of a type hold some of its own values.
func sets() []set {
	var all []set
	add := func(typ, want string, literals ...string) {
		all = append(all, set{typ: typ, literals: literals, want: want})
	}
	// both adds a type and its array.
	both := func(typ, want, arrayWant string, literals ...string) {
		add(typ, want, literals...)
		add(typ+"[]", arrayWant, arrays(literals, ",")...)
	}
	integers := func(bits int) []string {
		s := []string{"0", "1", "-1", fmt.Sprint(int64(1)<<(bits-1) - 1), fmt.Sprint(-int64(1) << (bits - 1))}
		return join(s, generate(40, func(r *rand.Rand) string { return fmt.Sprint(int64(r.Uint64()) >> (r.IntN(bits) + 64 - bits)) }))
	}
	both("bool", "v::int::text", "to_json(v::int[])::text", "t", "f")
	both("int2", wantJSON, wantJSON, integers(16)...)
	both("int4", wantJSON, wantJSON, integers(32)...)
	both("int8", wantJSON, wantJSON, integers(64)...)
	both("oid", "v::text", "", "0", "1", "2147483648", "4294967295")
	both("float4", "", "", join(floatEdges, float32s())...)
	both("float8", "", "", join(floatEdges, []string{"1.7976931348623157e308", "5e-324", "1e-7"}, float64s())...)
	both("numeric", wantText, "to_json(v::text[])::text", numerics()...)
	add("numeric(12,3)", wantText, "1.5", "-0.001", "100000000.5", "0")
	for _, typ := range []string{"text", "varchar", "citext", "d_text", "d_deep"} {
		both(typ, wantText, "to_json(v::text[])::text", texts...)
	}
	both("name", wantText, "to_json(v::text[])::text", texts[:len(texts)-1]...)
	both("refcursor", "", "", "c", "a b")
	both("bpchar(8)", "", "", "ch", "", "12345678", " x", "é𝄞")
	both(`"char"`, "", "", "a", "", `\`, ",")
	both("bytea", "", "", `\x`, `\x00`, `\x00010203ff`, `\x5c22`, `\x`+strings.Repeat("ab", 100))
	both("uuid", wantText, "to_json(v::text[])::text", join([]string{"00000000-0000-0000-0000-000000000000", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"},
		generate(20, func(r *rand.Rand) string { return fmt.Sprintf("%016x%016x", r.Uint64(), r.Uint64()) }))...)
	var dates []string
	for _, s := range join(stampEdges, stamps(150, 20000), []string{"5874897-12-31", "4714-11-24 BC"}) {
		day, _, _ := strings.Cut(s, " ")
		if strings.HasSuffix(s, " BC") {
			day += " BC"
		}
		dates = append(dates, day)
	}
	both("date", "CASE WHEN isfinite(v) THEN "+wantText+" END", "", dates...)
	both("time", `CASE WHEN v < '24:00' THEN to_json(to_char(v, 'HH24:MI:SS.US'))::text END`, "", join([]string{"00:00:00", "24:00:00", "23:59:59.999999", "12:00:00.5", "00:00:00.000001"}, generate(60, func(r *rand.Rand) string {
		return fmt.Sprintf("%02d:%02d:%02d.%s", r.IntN(24), r.IntN(60), r.IntN(60), digits(r, 1+r.IntN(6)))
	}))...)
	both("timetz", wantText, "", join([]string{"00:00:00+00", "24:00:00-12", "12:34:56+02:30", "12:00:00.5+14", "00:00:00+15:59:59", "00:00:00-15:59:59", "01:02:03.000001-00:00:01", "01:02:03+01:00:01"}, generate(60, func(r *rand.Rand) string {
		return fmt.Sprintf("%02d:%02d:%02d.%s%+03d:%02d", r.IntN(24), r.IntN(60), r.IntN(60), digits(r, 1+r.IntN(6)), r.IntN(27)-13, 15*r.IntN(4))
	}))...)
	both("timestamp", wantTimestamp, "", join(stampEdges, stamps(200, 20000))...)
	var zoned []string
	for i, s := range join(stampEdges[2:], stamps(200, 12000)) {
		s, bc := strings.CutSuffix(s, " BC")
		if i >= len(stampEdges) {
			s += []string{"+00", "+02", "-11:30", "+05:45"}[i%4]
		}
		if bc {
			s += " BC"
		}
		zoned = append(zoned, s)
	}
	both("timestamptz", wantTimestamptz, "", join(stampEdges[:2], zoned)...)
	both("timestamp(3)", wantTimestamp, "", "2024-02-29 12:34:56.7", "2024-02-29 12:34:56.78949")
	both("d_stamp", wantTimestamptz, "", stampEdges...)
	both("interval", wantText, "to_json(v::text[])::text", "0", "1 year 2 mons 3 days 04:05:06.789", "-1 days", "178000000 years", "-04:05:06", "1 mon -1 day")
	both("json", "", wantJSON, jsons...)
	both("jsonb", "", wantJSON, jsons...)
	both("inet", "", "", addresses...)
	both("cidr", "", "", "10.0.0.0/8", "1.2.3.4/32", "0.0.0.0/0", "::/0", "::1/128", "2001:db8::/32", "::ffff:1.2.3.0/120", "10.1.0.0/16")
	both("macaddr", wantText, "to_json(v::text[])::text", "08:00:2b:01:02:03", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00")
	both("macaddr8", wantText, "to_json(v::text[])::text", "08:00:2b:01:02:03:04:05", "ff:ff:ff:ff:ff:ff:ff:ff")
	both("money", wantText, "to_json(v::text[])::text", "$1,234.56", "-$0.01", "0")
	both("bit(8)", wantText, "to_json(v::text[])::text", "10101010", "00000000", "11111111")
	both("varbit", wantText, "to_json(v::text[])::text", "", "1", "101", "0000000011111111", "101010101")
	both("pg_lsn", "", "", "0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF", "0/1", "A/ABCDE")
	both("point", wantText, "to_json(v::text[])::text", "(1.5,-2)", "(1e300,1)")
	both("lseg", wantText, "", "[(1,2),(3,4)]")
	both("path", wantText, "", "[(1,2),(3,4)]", "((1,2),(3,4))")
	both("polygon", wantText, "", "((1,2),(3,4))")
	both("line", wantText, "", "{1,2,3}")
	both("circle", wantText, "", "<(1,2),3>")
	boxes := []string{"(1,1),(0,0)", "(1e300,1),(-2,-2.5)"}
	add("box", wantText, boxes...)
	add("box[]", "to_json(v::text[])::text", arrays(boxes, ";")...)
	add("d_box", wantText, boxes...)
	add("d_box[]", "", arrays(boxes, ";")...)
	both("xml", "", "", "<a>b</a>", "", "<a x=\"1\"/>", `<?xml version="1.0"?><a/>`)
	both("tsvector", wantText, "", "'fat':1 'cat':2A", "")
	both("tsquery", wantText, "", "'fat' & 'rat'", "")
	both("jsonpath", wantText, "", "$.a[*]")
	both("xid", wantText, "", "0", "4294967295")
	both("xid8", wantText, "", "18446744073709551615")
	both("cid", wantText, "", "1")
	both("tid", wantText, "", "(1,2)")
	both("regclass", wantText, "", "pg_class")
	both("regtype", wantText, "", "integer", "-")
	both("regproc", wantText, "", "now")
	both("regrole", wantText, "", "postgres")
	both("pg_snapshot", wantText, "", "10:20:10,14,15")
	both("int2vector", "", "", "1 2 3", "")
	both("oidvector", "", "", "1 2 3")
	both("aclitem", "", "", "postgres=r/postgres")
	both("mood", wantText, "to_json(v::text[])::text", words...)
	both("d_mood", wantText, "to_json(v::text[])::text", words...)
	both("d_real", "", "", join(floatEdges, float32s())...)
	both("d_double", "", "", join(floatEdges, float64s())...)
	both("d_bytea", "", "", `\x`, `\x00ff`)
	both("d_ints", wantJSON, "", arrays([]string{"1", "-2", "3"}, ",")...)
	both("pair", wantJSON, wantJSON, pairs()...)
	both("d_pair", "", "", pairs()...)
	both("many", "", "", manys()...)
	add("nothing", wantJSON, "()")
	both("int4range", "", "", "empty", "[1,10)", "(,)", "(,5]", "[3,)", "[1,1]")
	both("int8range", "", "", "empty", "[-9223372036854775808,9223372036854775806]")
	both("numrange", "", "", "empty", "[1.50,2.5]", "(,)", "(-Infinity,NaN]", "[1,1]")
	both("tsrange", "", "", "empty", "[2024-01-01 00:00,2024-02-01 00:00:00.5)", "(,infinity]", "[-infinity,)", "[0044-03-15 00:00:00 BC,10000-01-01]")
	both("tstzrange", "", "", "empty", "[2024-01-01 00:00+02,2024-02-01 00:00:00.5+00)", "(,)")
	both("daterange", "", "", "empty", "[2024-01-01,2024-02-01]", "[-infinity,infinity]")
	both("floatrange", "", "", "empty", "[1.5,2)", "[-Infinity,NaN]")
	var bounds []string
	for i, t := range texts[:len(texts)-1] {
		bounds = append(bounds, `["`+strings.NewReplacer(`\`, `\\`, `"`, `""`).Replace(t)+`",)`, []string{`(,"`, `[,"`}[i%2]+strings.NewReplacer(`\`, `\\`, `"`, `""`).Replace(t)+`"]`)
	}
	both("textrange", "", "", bounds...)
	both("pairrange", "", "", "empty", `["(1,a)","(2,""b,c"")")`)
	both("int4multirange", "", "", "{}", "{[1,2),[5,)}", "{(,)}")
	both("nummultirange", "", "", "{}", "{[1.5,2.5),(3,)}", "{[-1,0],(0.5,1)}")
	both("tsmultirange", "", "", "{}", "{[2024-01-01 00:00,2024-02-01 00:00)}")
	both("textmultirange", "", "", "{}", `{["a,b","c]"),["d}",)}`, `{["""",)}`)
	return all
}
