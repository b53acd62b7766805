package local

import (
	"encoding/json"
	"testing"
)

func TestDiff(t *testing.T) {
	for _, tc := range []struct{ before, after, want string }{
		{`{}`, `{}`, `{}`},
		{`{}`, `{"b":null,"a":1}`, `{"a":1}`},
		{`{"a":1,"b":2}`, `{"b":2,"a":null}`, `{"a":null}`},
		{`{"a":1}`, `{"a":1.0}`, `{"a":1.0}`},
		{`{"a":1.0}`, `{"a":1.00}`, `{}`},
		{`{"a":"x"}`, `{"a":"\u0078"}`, `{}`},
		{`{"a":{"c":[1,true]}}`, `{"a":{"c":[1,false],"b":null}}`, `{"a":{"b":null,"c":[1,false]}}`},
		{`{}`, `{"a":18446744073709551615,"b":18446744073709551616}`, `{"a":18446744073709551615,"b":1.8446744073709552e+19}`},
		{`{}`, `{"a":-0,"b":-0.0,"c":1e999}`, `{"a":-0.0,"b":-0.0,"c":1e999}`},
		{`{}`, "{\"a\":\"\\u0001\\b\\f\\n\\r\\t\\\"\\\\/\u007f\u2028\"}", "{\"a\":\"\\u0001\\b\\f\\n\\r\\t\\\"\\\\/\u007f\u2028\"}"},
	} {
		got, err := diff(tc.before, tc.after)
		if err != nil || got != tc.want {
			t.Errorf("diff(%s, %s) = %s, %v; want %s", tc.before, tc.after, got, err, tc.want)
		}
	}
	for _, bad := range []string{``, `1`, `[]`, `null`, `{`, `{} {}`} {
		if got, err := diff(`{}`, bad); err == nil {
			t.Errorf("diff({}, %s) = %s", bad, got)
		}
		if got, err := diff(bad, `{}`); err == nil {
			t.Errorf("diff(%s, {}) = %s", bad, got)
		}
	}
}

// Whatever the objects, the difference is valid JSON, and there is none to itself.
func FuzzDiff(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1,"b":null}`, `{"a":{"b":[1,2.5e300,"x\n"]}}`, `{"a":-0,"b":1e-7}`, `{"é":"\ud800"}`} {
		f.Add(s, `{"a":2}`)
		f.Add(`{"z":true}`, s)
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		got, err := diff(before, after)
		if err != nil {
			return
		}
		if !json.Valid([]byte(got)) {
			t.Errorf("diff(%q, %q) is not JSON: %q", before, after, got)
		}
		if same, err := diff(after, after); err != nil || same != "{}" {
			t.Errorf("diff(%q, itself) = %q, %v", after, same, err)
		}
	})
}

func TestMerge(t *testing.T) {
	for _, tc := range []struct {
		objects []string
		want    string
	}{
		{nil, `{}`},
		{[]string{`{}`, `{"a":1}`, `{}`, `{"b":2,"c":3}`}, `{"a":1,"b":2,"c":3}`},
	} {
		if got, err := merge(tc.objects); err != nil || got != tc.want {
			t.Errorf("merge(%v) = %s, %v; want %s", tc.objects, got, err, tc.want)
		}
	}
	if _, err := merge([]string{`[]`}); err == nil {
		t.Error("merged an array")
	}
}
