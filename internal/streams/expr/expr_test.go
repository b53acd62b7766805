package expr

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/millrace-sync/millrace/internal/source"
)

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name string
		args int
		kind error
		hint string
	}{
		{"upper", 1, nil, ""},
		{"UPPER", 1, nil, ""},
		{"substr", 3, nil, ""},
		{"json_extract", 5, nil, ""},
		{"uper", 1, ErrUnknown, "did you mean upper?"},
		{"json_array_lenght", 1, ErrUnknown, "did you mean json_array_length?"},
		{"concat", 2, ErrUnknown, "use the operator ||"},
		{"completely_different", 1, ErrUnknown, ""},
		{"count", 1, ErrUnknown, "keep such a value in the source, as a column of its own"},
		{"length", 2, ErrArity, ""},
		{"iif", 2, ErrArity, ""},
		{"ifnull", 1, ErrArity, ""},
		{"now", 0, ErrNonDeterministic, clockHint},
		{"random", 0, ErrNonDeterministic, randomHint},
		{"datetime", 0, ErrNonDeterministic, clockHint},
	} {
		err := Check(c.name, c.args)
		if !errors.Is(err, c.kind) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.kind)
			continue
		}
		var call *CallError
		if errors.As(err, &call) && (call.Hint != c.hint || call.Name != c.name || !strings.Contains(call.Message, c.name)) {
			t.Errorf("%s: message %q, hint %q, want %q", c.name, call.Message, call.Hint, c.hint)
		}
	}
}

func TestFunctionsAreSorted(t *testing.T) {
	for i, f := range functions {
		if i > 0 && functions[i-1].name >= f.name {
			t.Errorf("%s stands after %s", f.name, functions[i-1].name)
		}
		forms := 0
		for _, set := range []bool{f.one != nil, f.two != nil, f.few != nil, f.many != nil, f.lazy != nil} {
			if set {
				forms++
			}
		}
		if forms != 1 || (f.few != nil && (f.hi < 0 || f.hi > 3)) {
			t.Errorf("%s has %d forms for %d to %d arguments", f.name, forms, f.lo, f.hi)
		}
	}
}

func TestCompileErrors(t *testing.T) {
	one := Const{source.Int(1)}
	deep := Node(one)
	for range MaxNodeDepth {
		deep = Call{"NOT", []Node{deep}}
	}
	for name, c := range map[string]struct {
		node Node
		kind error
	}{
		"nothing":           {nil, nil},
		"unknown operator":  {Call{"@@", []Node{one, one}}, ErrUnknown},
		"operator's arity":  {Call{"+", []Node{one}}, ErrArity},
		"missing argument":  {Call{"NOT", []Node{nil}}, nil},
		"missing condition": {Case{Whens: [][2]Node{{nil, one}}}, nil},
		"no WHEN":           {Case{Else: one}, nil},
		"negative input":    {Input{Index: -1}, nil},
		"too deep":          {deep, ErrLimit},
		"long literal":      {Const{source.BigInt(strings.Repeat("9", MaxDigits+1))}, ErrLimit},
		"the time of day":   {Call{"unixepoch", []Node{Const{source.String("now")}}}, ErrNonDeterministic},
	} {
		_, err := Compile(c.node, Options{})
		if err == nil || (c.kind != nil && !errors.Is(err, c.kind)) {
			t.Errorf("%s: got %v, want %v", name, err, c.kind)
		}
	}
	p, err := Compile(Call{"+", []Node{Input{Index: 2}, one}}, Options{})
	if err != nil || p.Inputs() != 3 {
		t.Fatalf("%d inputs, %v", p.Inputs(), err)
	}
	if _, err := p.Eval(make([]source.Value, 2)); err == nil {
		t.Error("too few inputs are not an error")
	}
	if _, ok := p.Constant(); ok {
		t.Error("an input counts as constant")
	}
	p, err = Compile(Call{"+", []Node{one, one}}, Options{})
	if v, ok := p.Constant(); err != nil || !ok || v != source.Int(2) {
		t.Errorf("1 + 1: %s, %v, %v", show(v), ok, err)
	}
}

// TestLimits checks that what is too large is an error of that kind, in time.
func TestLimits(t *testing.T) {
	big := source.String(strings.Repeat("x", MaxText/2+1))
	nested := source.String(strings.Repeat("[", MaxJSONDepth+1) + strings.Repeat("]", MaxJSONDepth+1))
	deepEnough := source.String(strings.Repeat("[", MaxJSONDepth) + strings.Repeat("]", MaxJSONDepth))
	collection := strings.Repeat("010700000001000000", MaxGeometryDepth+2) + "0101000000000000000000F03F0000000000000040"
	for _, c := range []struct {
		expr string
		a    source.Value
		kind error // nil: no error
		both bool  // in both engines
	}{
		{"hex(a)", big, ErrLimit, true},
		{"base64(a)", big, ErrLimit, true},
		{"a || a", big, ErrLimit, true},
		{"replace(a, 'x', 'xxx')", big, ErrLimit, true},
		{"ARRAY[a, a]", big, ErrLimit, true},
		{"length(a)", big, nil, true},
		{"upper('é' || a)", big, ErrLimit, false},
		{"lower('É' || a)", big, ErrLimit, false},
		{"'' LIKE a", big, ErrLimit, true},
		{"a LIKE '%xxxxxxxxxxxxxxxxxxxxxxxxy%'", big, ErrLimit, true},
		{"trim('a', a)", big, ErrLimit, true},
		{"a * a", source.BigInt(strings.Repeat("9", MaxDigits/2+10)), ErrLimit, false},
		{"a + 1", source.BigInt(strings.Repeat("9", MaxDigits/2)), nil, false},
		{"a ->> 0", nested, ErrLimit, false},
		{"a ->> 0", deepEnough, nil, true},
		{"a -> 0", source.String("[" + strings.Repeat("9", MaxDigits+1) + "]"), ErrLimit, false},
		{"st_astext(a)", source.String(collection), ErrLimit, true},
		{"st_asgeojson(a)", source.String(collection), ErrLimit, true},
	} {
		for _, e := range []Engine{Reference, SQLite} {
			if e == SQLite && !c.both {
				continue
			}
			_, err := benchProgram(t, c.expr, Options{Engine: e}).Eval([]source.Value{c.a})
			if (c.kind == nil && err != nil) || !errors.Is(err, c.kind) {
				t.Errorf("%s: %s: got %v, want %v", e, c.expr, err, c.kind)
			}
		}
	}
}

func TestCanonical(t *testing.T) {
	for expr, want := range map[string]string{
		"a = 'x'":                               `("=" $0 "x")`,
		"a <> 1":                                `("!=" $0 1)`,
		"a != 1.0":                              `("!=" $0 real:3ff0000000000000)`,
		"substr(a, NULL)":                       `("substring" $0 null)`,
		"x'00ff' || '\"'":                       `("||" x'00ff' "\"")`,
		"CASE a WHEN 1 THEN b ELSE 2 END":       `(case $0 1 $1 else 2)`,
		"CASE WHEN a THEN 1 END":                `(case - $0 1 else -)`,
		"123456789012345678901 + a":             `("+" 123456789012345678901 $0)`,
		"CAST(a AS text) IN ('x', a) AND NOT b": `("AND" ("IN LIST" ("CAST text" $0) "x" $0) ("NOT" $1))`,
	} {
		n, _, err := parseExpr(expr)
		if err != nil {
			t.Fatal(err)
		}
		if got := Canonical(n); got != want {
			t.Errorf("%s: got %s, want %s", expr, got, want)
		}
	}
}

func TestAppendJSON(t *testing.T) {
	for _, c := range []struct {
		v           source.Value
		json, param string // "" if there is no such form
	}{
		{source.Value{}, "null", ""},
		{source.Int(-42), "-42", "-42"},
		{source.BigInt("9007199254740993000000"), "9007199254740993000000", "9007199254740993000000"},
		{source.Real(3), "3.0", "3"},
		{source.Real(math.Copysign(0, -1)), "0.0", "0"},
		{source.Real(0.1), "0.1", "0.1"},
		{source.Real(1e20), "100000000000000000000.0", "100000000000000000000"},
		{source.Real(1e21), "1e+21", "1e+21"},
		{source.Real(-1.5e-7), "-1.5e-7", "-1.5e-7"},
		{source.Real(1e-6), "0.000001", "0.000001"},
		{source.Real(1.7976931348623157e308), "1.7976931348623157e+308", "1.7976931348623157e+308"},
		{source.Real(5e-324), "5e-324", "5e-324"},
		{source.Real(math.NaN()), "null", ""},
		{source.Real(math.Inf(-1)), "null", ""},
		{source.Blob("x"), "", ""},
		{source.String("a\"\\/\b\f\n\r\t\x00\x1f"), `"a\"\\/\b\f\n\r\t\u0000\u001f"`, `"a\"\\/\b\f\n\r\t\u0000\u001f"`},
		{source.String("<a>&\u2028é𝄞"), "\"<a>&\u2028é𝄞\"", "\"<a>&\u2028é𝄞\""},
		{source.String("x\xed\xa0\xb4y"), `"x\ud834y"`, `"x\ud834y"`},
		{source.String("a\xffb\xc3"), "\"a\uFFFDb\uFFFD\"", "\"a\uFFFDb\uFFFD\""},
	} {
		out, ok := AppendJSON([]byte("="), c.v)
		if ok != (c.json != "") || string(out) != "="+c.json {
			t.Errorf("%s: got %s, %v, want %s", show(c.v), out, ok, c.json)
		}
		out, ok = AppendParam([]byte("="), c.v)
		if ok != (c.param != "") || string(out) != "="+c.param {
			t.Errorf("%s as a parameter: got %s, %v, want %s", show(c.v), out, ok, c.param)
		}
	}
}

func TestFromJSON(t *testing.T) {
	for raw, want := range map[string]source.Value{
		`null`: {}, ` 1 `: source.Int(1), `1.0`: source.Real(1), `1e2`: source.Real(100), `-0`: source.Int(0), `-0.0`: source.Real(0),
		`true`: source.Int(1), `false`: source.Int(0), `"x"`: source.String("x"), `"\ud834\udd1e\ud834"`: source.String("𝄞\xed\xa0\xb4"),
		`18446744073709551616`: source.BigInt("18446744073709551616"), `[1, 2.0]`: source.String("[1,2.0]"),
		`{"b" : 1, "a":[true ]}`: source.String(`{"b":1,"a":[true]}`), `1e999`: source.Real(math.Inf(1)),
	} {
		got, err := FromJSON(json.RawMessage(raw))
		if err != nil || !same(got, want) {
			t.Errorf("%s: got %s, %v, want %s", raw, show(got), err, show(want))
		}
	}
	for _, raw := range []string{"", "{", "[1,]", "tru", "01", "1.", "'a'", "NaN", "1 2", "\"\n\"", "+1", "\uFEFF1"} {
		if v, err := FromJSON([]byte(raw)); !errors.Is(err, ErrValue) {
			t.Errorf("%q: got %s, %v", raw, show(v), err)
		}
	}
}

func TestJSONEach(t *testing.T) {
	reference, sqlite := Options{FixedJSONExtract: true}, Options{Engine: SQLite}
	for _, c := range []struct {
		v    source.Value
		o    Options
		want string // key:value …, or error
	}{
		{source.String(`["a",1,null,true,[2]]`), reference, `0:"a" 1:1 2:null 3:1 4:"[2]"`},
		{source.String(`["a",1,null,true,[2.50]]`), sqlite, `0:"a" 1:1 2:null 3:1 4:"[2.50]"`},
		{source.String(`{"x":1,"y":"b"}`), reference, `"x":1 "y":"b"`},
		{source.String(`{"x":1,"y":"b","x":2}`), sqlite, `"x":1 "y":"b" "x":2`},
		{source.String(`"p5"`), reference, `null:"p5"`},
		{source.String(`"p5"`), sqlite, `null:"p5"`},
		{source.String(`[]`), reference, ``},
		{source.Value{}, reference, ``},
		{source.Value{}, sqlite, ``},
		{source.String(`o1`), reference, `error`},
		{source.String(`o1`), sqlite, `error`},
		{source.Int(5), reference, `error`},
		{source.Int(5), sqlite, `null:5`},
		{source.Blob("[1]"), reference, `error`},
		{source.Blob("[1]"), sqlite, `0:1`},
	} {
		var got []string
		err := JSONEach(c.v, c.o, func(k, v source.Value) bool {
			got = append(got, show(k)+":"+show(v))
			return true
		})
		s := strings.Join(got, " ")
		if err != nil {
			s = "error"
		}
		if s != c.want {
			t.Errorf("%s: %s: got %s (%v), want %s", c.o.Engine, show(c.v), s, err, c.want)
		}
	}
	stopped := 0
	for _, o := range []Options{reference, sqlite} {
		if err := JSONEach(source.String("[1,2,3]"), o, func(_, _ source.Value) bool { stopped++; return false }); err != nil {
			t.Error(err)
		}
	}
	if stopped != 2 {
		t.Errorf("went on after false: %d elements", stopped)
	}
}

func TestCompare(t *testing.T) {
	nan := source.Real(math.NaN())
	ordered := []source.Value{{}, source.Real(math.Inf(-1)), source.Int(math.MinInt64), source.Real(-1.5), source.Int(0), source.Real(0.5), source.Int(1 << 53), source.Int(1<<53 + 1),
		source.Int(math.MaxInt64), source.Real(1 << 63), source.Real(math.Inf(1)), source.String(""), source.String("a"), source.String("b"), source.Blob("")}
	for _, o := range []Options{{}, {Engine: SQLite}} {
		for i, a := range ordered {
			for j, b := range ordered {
				if i == j && a.Kind() == source.KindBlob && o.Engine == Reference {
					continue // two blobs do not compare
				}
				r, err := Compare(a, b, o)
				if want := min(1, max(-1, i-j)); err != nil || r != want {
					t.Errorf("%s: %s and %s: got %d, %v, want %d", o.Engine, show(a), show(b), r, err, want)
				}
			}
		}
		if Truth(nan, o) || Truth(source.Value{}, o) || !Truth(source.BigInt("18446744073709551616"), o) {
			t.Errorf("%s: truth of NaN, NULL or a large integer is wrong", o.Engine)
		}
		v, err := benchProgram(t, "a < 1 OR a >= 1 OR a = a", Options{Engine: o.Engine}).Eval([]source.Value{nan})
		if err != nil || Truth(v, o) {
			t.Errorf("%s: NaN compares as %s, %v", o.Engine, show(v), err)
		}
	}
	if _, err := Compare(source.Blob("a"), source.Blob("a"), Options{}); !errors.Is(err, ErrValue) {
		t.Errorf("two blobs compare: %v", err)
	}
}
