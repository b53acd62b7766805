package expr

import (
	"flag"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/millrace-sync/millrace/internal/source"
)

var (
	seeds     = flag.Int("seeds", 20, "how many seeds the differential test of the SQLite engine runs")
	firstSeed = flag.Uint64("seed", 1, "the first of them")
)

// TestSQLiteDifferential holds the SQLite engine against a real SQLite: random
// expressions over random values must give the same kind and content, or both an
// error.
func TestSQLiteDifferential(t *testing.T) {
	db := newOracle(t)
	const perSeed = 3000
	for seed := *firstSeed; seed < *firstSeed+uint64(*seeds); seed++ {
		g := generator{rand.New(rand.NewPCG(seed, 0)), seed%2 == 0}
		wrong := 0
		for i := range perSeed {
			n := g.expression(1 + g.IntN(3))
			inputs := g.values(4)
			want, wantErr := db.evalRow(t, sqlText(n), inputs)
			p, err := Compile(n, Options{Engine: SQLite})
			if err != nil {
				t.Fatalf("seed %d, expression %d: %s: %v", seed, i, sqlText(n), err)
			}
			got, gotErr := p.Eval(inputs)
			if (gotErr != nil) == (wantErr != nil) && (gotErr != nil || same(got, want)) {
				continue
			}
			if skipsError(n, gotErr, wantErr) {
				continue
			}
			var in []string
			for _, v := range inputs {
				in = append(in, show(v))
			}
			t.Errorf("seed %d, expression %d: %s with %s:\n got %s, %v\nwant %s, %v",
				seed, i, sqlText(n), strings.Join(in, ", "), show(got), gotErr, show(want), wantErr)
			if wrong++; wrong > 5 {
				t.Fatalf("seed %d: too many differences", seed)
			}
		}
	}
}

// skipsError admits the two latitudes that there are. Which operands of an operator
// that does not need them all are evaluated, and so whether an error among them
// shows, SQLite decides by its optimiser, this engine always from the left. And a
// blob that has the outward form of JSONB but is malformed inside is always an error
// here, while SQLite may not notice.
func skipsError(n Node, gotErr, wantErr error) bool {
	if gotErr != nil && strings.Contains(gotErr.Error(), "malformed JSONB") {
		return true
	}
	return (gotErr == nil) != (wantErr == nil) && hasOptional(n)
}

func hasOptional(n Node) bool {
	switch n := n.(type) {
	case Case:
		return true
	case Call:
		switch n.Op {
		case "AND", "OR", "coalesce", "ifnull", "iif", "IN LIST", "NOT IN LIST", "IN", "NOT IN", "BETWEEN", "NOT BETWEEN", "LIKE", "NOT LIKE":
			return true
		}
		for _, a := range n.Args {
			if hasOptional(a) {
				return true
			}
		}
	}
	return false
}

type generator struct {
	*rand.Rand
	columns bool // inputs are columns, not parameters
}

func pick[T any](g generator, of ...T) T { return of[g.IntN(len(of))] }

func (g generator) expression(depth int) Node {
	if depth == 0 {
		return g.leaf()
	}
	sub := func() Node { return g.expression(g.IntN(depth)) }
	subs := func(n int) []Node {
		out := make([]Node, n)
		for i := range out {
			out[i] = sub()
		}
		return out
	}
	switch g.IntN(10) {
	case 0:
		return Call{pick(g, "AND", "OR"), subs(2 + g.IntN(2))}
	case 1:
		return Call{pick(g, "NOT", "~", "NEG", "IS NULL", "IS NOT NULL", "IS TRUE", "IS NOT TRUE", "IS FALSE", "IS NOT FALSE"), subs(1)}
	case 2:
		return Call{pick(g, "=", "!=", "<", "<=", ">", ">=", "IS", "IS NOT"), subs(2)}
	case 3:
		return Call{pick(g, "+", "-", "*", "/", "%", "&", "|", "<<", ">>", "||"), subs(2)}
	case 4:
		return Call{"CAST " + pick(g, "text", "numeric", "integer", "real", "blob"), subs(1)}
	case 5:
		return g.special(subs)
	case 6:
		c := Case{Whens: [][2]Node{{sub(), sub()}}}
		if g.IntN(2) == 0 {
			c.Base = sub()
		}
		if g.IntN(2) == 0 {
			c.Else = sub()
		}
		return c
	}
	return g.call(subs)
}

func (g generator) special(subs func(int) []Node) Node {
	switch g.IntN(4) {
	case 0:
		return Call{pick(g, "BETWEEN", "NOT BETWEEN"), subs(3)}
	case 1:
		return Call{pick(g, "IN LIST", "NOT IN LIST"), subs(2 + g.IntN(3))}
	case 2:
		args := append(subs(1), g.json())
		if g.IntN(8) == 0 {
			args = subs(2)
		}
		return Call{pick(g, "IN", "NOT IN"), args}
	}
	args := append(subs(1), Const{source.String(g.pattern())})
	if g.IntN(3) == 0 {
		args = append(args, Const{source.String(pick(g, "\\", "a", "%", "_", "ab", "é"))})
	}
	return Call{pick(g, "LIKE", "NOT LIKE"), args}
}

func (g generator) call(subs func(int) []Node) Node {
	switch g.IntN(6) {
	case 0:
		name := pick(g, "->", "->>", "json_extract", "json_array_length", "json_extract")
		args := []Node{g.json(), g.path()}
		if g.IntN(10) == 0 {
			args[0] = subs(1)[0]
		}
		if name == "json_extract" && g.IntN(3) == 0 {
			args = append(args, g.path())
		}
		if name == "json_array_length" && g.IntN(2) == 0 {
			args = args[:1]
		}
		return Call{name, args}
	case 1:
		if g.IntN(3) == 0 {
			return Call{"json_valid", []Node{g.json()}}
		}
		return Call{"json_valid", []Node{g.json(), Const{source.Int(int64(g.IntN(18)))}}}
	case 2:
		args := []Node{Const{g.time()}}
		if g.IntN(10) == 0 {
			args = subs(1)
		}
		for range g.IntN(3) {
			args = append(args, Const{g.modifier()})
		}
		return Call{pick(g, "datetime", "unixepoch"), args}
	}
	switch name := pick(g, "abs", "coalesce", "hex", "ifnull", "iif", "instr", "length", "lower", "upper", "ltrim", "rtrim", "trim",
		"nullif", "replace", "round", "substring", "typeof", "substring", "round"); name {
	case "abs", "hex", "length", "lower", "upper", "typeof":
		return Call{name, subs(1)}
	case "ifnull", "nullif", "instr":
		return Call{name, subs(2)}
	case "coalesce":
		return Call{name, subs(2 + g.IntN(2))}
	case "iif", "replace":
		return Call{name, subs(3)}
	case "substring":
		args := subs(1)
		for range 1 + g.IntN(2) {
			args = append(args, Const{source.Int(int64(g.IntN(14) - 7))})
		}
		return Call{name, args}
	case "round":
		args := subs(1)
		if g.IntN(2) == 0 {
			args = append(args, Const{source.Int(int64(g.IntN(20) - 2))})
		}
		return Call{name, args}
	default:
		return Call{name, subs(1 + g.IntN(2))}
	}
}

func (g generator) leaf() Node {
	if g.IntN(3) == 0 {
		return Const{g.value()}
	}
	return Input{Index: g.IntN(4), Column: g.columns}
}

func (g generator) values(n int) []source.Value {
	out := make([]source.Value, n)
	for i := range out {
		out[i] = g.value()
	}
	return out
}

func (g generator) value() source.Value {
	switch g.IntN(12) {
	case 0:
		return source.Value{}
	case 1, 2:
		return source.Int(int64(g.IntN(9) - 3))
	case 3:
		return source.Int(pick(g, math.MaxInt64, math.MinInt64, 1<<53+1, -1<<53-1, 1<<62, 1<<32, g.Int64(), -g.Int64()))
	case 4:
		return source.Real(pick(g, 0.5, -1.5, 2, 3, 1e20, -1e20, 1e300, 5e-324, math.Inf(1), math.Inf(-1), 9007199254740993, 9223372036854775807, 0.1, 2.5, 1e15, 1e16, 1e17))
	case 5:
		return source.Real(pick(g, g.NormFloat64()*1000, math.Trunc(g.NormFloat64()*1e4)/100, math.Float64frombits(g.Uint64()&^(1<<62)), g.Float64()))
	case 6:
		return source.String(pick(g, "", "1", "1.0", " 12 ", "-3abc", "1e3", "1e3x", ".5", "5.", "+7", "0x10", "abc", "ABC", "9223372036854775808",
			"-9223372036854775808", "9223372036854775807x", "18446744073709551616", "1e400", "-", "e5", "1_000", "\u00a01", "1e", "1.5e+", "nan", "inf"))
	case 7:
		return source.String(pick(g, "é", "ß ñ 日本 𝄞", "a%b_c", "\xff\xfe", "a\xffb", "\xed\xa0\x80", "  x  ", "ÀB", "\t 1\n", "u1", "a'b", "{}", "[1,2]", "null"))
	case 8:
		n := g.IntN(4)
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(g.IntN(256))
		}
		return source.Blob(string(b))
	case 9:
		return source.Blob(pick(g, "", "1", "abc", "12x", "\x00", "a\x00b", "1\x002", "\xc3\xa9", "3.5"))
	case 10:
		return g.json().(Const).Value
	}
	return g.time()
}

func (g generator) pattern() string {
	var b strings.Builder
	for range g.IntN(6) {
		b.WriteString(pick(g, "%", "_", "a", "b", "A", "1", "\\", "é", "\\%", "\xff", " "))
	}
	return b.String()
}

func (g generator) json() Node {
	return Const{source.String(g.jsonText(3))}
}

func (g generator) jsonText(depth int) string {
	if depth > 0 {
		switch g.IntN(4) {
		case 0:
			var parts []string
			for range g.IntN(4) {
				parts = append(parts, g.space()+g.jsonText(depth-1)+g.space())
			}
			tail := ""
			if g.IntN(20) == 0 {
				tail = ","
			}
			return "[" + strings.Join(parts, ",") + tail + g.space() + "]"
		case 1, 2:
			var parts []string
			for range g.IntN(4) {
				key := pick(g, `"a"`, `"b"`, `"a.b"`, `"1"`, `"a\u0062"`, `"\n"`, `""`, `"é"`, `"a b"`, `"x\"y"`, `"[0]"`, `a`, `_b1`, `'q'`, `$a`, `"\/"`)
				parts = append(parts, g.space()+key+g.space()+":"+g.space()+g.jsonText(depth-1))
			}
			return "{" + strings.Join(parts, ",") + g.space() + "}"
		}
	}
	return pick(g, "1", "0", "-1", "2.50", "1e3", "-0", "-0.0", "9223372036854775807", "9223372036854775808", "123456789012345678901234567890", "true", "false", "null",
		`"x"`, `"a"`, `"1"`, `""`, `"\u00e9\n\t\"\\\/"`, `"\ud834\udd1e"`, `"\ud834"`, `"日本"`, "1.0", "1E+2", "0.1e-2",
		"0x1F", "-0xA", "+5", ".5", "5.", "'s'", `'it\'s'`, "NaN", "Infinity", "-Infinity", `"\x41"`, "\"a\\\nb\"", "tru", "01", "\"\tx\"", "", "1 2", `"\q"`, "nan", "inf", "1e999", "- 1", `"\v\0"`)
}

func (g generator) space() string {
	if g.IntN(8) > 0 {
		return ""
	}
	return pick(g, " ", "\n", "\t", "\r\n", "/*c*/", "//x\n", "\u00a0", "\v", "\f", "\u2028", "\ufeff", "/*", "/")
}

func (g generator) path() Node {
	if g.IntN(4) == 0 {
		return Const{source.Int(int64(g.IntN(6) - 3))}
	}
	if g.IntN(3) == 0 {
		return Const{source.String(pick(g, "a", "b", "a.b", "1", "", "é", "a b", "[0]", "[#-1]", "0", "-1", "$", "x\"y", "\"a\"", "q", "ab", "\n", "1.5", "[a]", "/"))}
	}
	var b strings.Builder
	b.WriteString(pick(g, "$", "$", "$", "$", "$", "x", " $"))
	for range g.IntN(4) {
		b.WriteString(pick(g, ".a", ".b", "[0]", "[1]", "[#-1]", "[#]", `."a.b"`, ".1", `."a"`, ".", "[", "[x]", "[ 1]", `."a`, ".ab", "[#-2]", ".é", "[-1]", `."\n"`, `."x\"y"`, `.a b`, "[99999999999]", "a"))
	}
	return Const{source.String(b.String())}
}

func (g generator) time() source.Value {
	switch g.IntN(4) {
	case 0:
		return pick(g, source.Int(0), source.Int(1709287209), source.Int(2440587), source.Int(-1), source.Int(5373484), source.Int(5373485), source.Int(253402300799), source.Int(-210866760000),
			source.Real(2440587.5), source.Real(2460310.123456), source.Real(1.5), source.Real(1709287209.678), source.Real(-0.5), source.Real(1e18))
	case 1:
		return source.String(pick(g, "12:00", "23:59:59.999", "24:00", "1:00", "2460310.5", "1709287209", " 2024-01-01", "2024-01-01 ", "", "x", "-4713-11-24 12:00", "-0001-01-01", "9999-12-31 23:59:59.9999",
			"2024-02-30", "2024-02-29T12:34:56.789012Z", "2024-02-29 12:34:56+02:30", "2024-02-29 12:34:56 -05:00", "2024-02-29 12:34:56.Z", "2024-13-01", "2024-00-01", "2024-01-32", "0000-01-01", "2024-01-01 25:00",
			"2024-01-01T00:59:60", "2024-01-01 10:00:00.5z", "2024-01-01TT10:00", "2024-1-1", "20240101", "12024-01-01", "2024-01-01 10", "0.5", "1e5", "2024-06-15 12:00 +15:00", "2024-06-15 12:00 +14:60"))
	}
	y := pick(g, "1970", "2000", "2023", "2024", "1900", "0099")
	return source.String(y + pick(g, "-01-31", "-02-28", "-02-29", "-12-31", "-03-01", "-07-04") + pick(g, "", " 00:00", "T12:34:56.789", " 23:59:59", " 01:02:03.0005Z", " 11:59:59.9996"))
}

func (g generator) modifier() source.Value {
	return source.String(pick(g, "unixepoch", "subsec", "subsecond", "auto", "julianday", "start of day", "start of month", "start of year", "weekday 0", "weekday 3", "weekday 6", "weekday 7",
		"+1 day", "-1 days", "1 month", "+13 months", "-25 months", "+1 year", "-400 years", "+1.5 hours", "-90 minutes", "+0.25 seconds", "+100000 days", "+99999999999 seconds",
		"ceiling", "floor", "+0001-02-03", "-0001-00-01 12:00", "+01:30", "-00:00:01.5", "12:00", "bogus", "", "Start Of Day", "+1.5 months", "+2.5 years", "NNN days", "+1day", "1 weeks", "+5", "UNIXEPOCH", "+0000-13-01", "+1 DAYS", " +1 day"))
}
