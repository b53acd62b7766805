package source

import (
	"encoding/json"
	"math"
	"testing"
	"unicode/utf8"
)

func TestValueAppendJSON(t *testing.T) {
	for _, c := range []struct {
		v    Value
		want string
	}{
		{Value{}, `null`},
		{Int(math.MinInt64), `-9223372036854775808`},
		{BigInt("92233720368547758080"), `92233720368547758080`},
		{Real(3), `3.0`},
		{Real(-0.25), `-0.25`},
		{Real(math.Copysign(0, -1)), `0.0`},
		{Real(1e20), `100000000000000000000.0`},
		{Real(1e21), `1e+21`},
		{Real(1e-6), `0.000001`},
		{Real(1e-7), `1e-7`},
		{Real(3.4028235e38), `3.4028235e+38`},
		{Real(5e-324), `5e-324`},
		{Real(math.MaxFloat64), `1.7976931348623157e+308`},
		{Real(1.25e-10), `1.25e-10`},
		{Real(math.NaN()), `null`},
		{Real(math.Inf(-1)), `null`},
		{Blob("x"), `null`},
		{String("a\"b\\c\n\r\t\b\f\x00\x1f\x7f</é\u2028𝄞"), `"a\"b\\c\n\r\t\b\f\u0000\u001f` + "\x7f</é\u2028𝄞\""},
		{String("x\xed\xa0\xb4y\xed\xbf\xbf"), `"x\ud834y\udfff"`},
		{String("x\xffy\xed\xa0"), `"x` + "\uFFFDy\uFFFD\uFFFD" + `"`},
	} {
		if got := string(c.v.AppendJSON(nil)); got != c.want {
			t.Errorf("%v: got %s, want %s", c.v, got, c.want)
		}
	}
}

func FuzzAppendJSONString(f *testing.F) {
	f.Add("plain")
	f.Add("\"\\\x00\xed\xa0\x80\xff𝄞")
	f.Fuzz(func(t *testing.T, s string) {
		b := AppendJSONString(nil, s)
		var back string
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatalf("%q gives invalid JSON %q: %v", s, b, err)
		}
		if utf8.ValidString(s) && back != s {
			t.Fatalf("%q reads back as %q", s, back)
		}
	})
}
