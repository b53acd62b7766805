package expr

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace-sync/millrace/internal/source"
)

// evalBoth evaluates an expression as it stands and with its literals as inputs;
// both must agree.
func evalBoth(t *testing.T, n Node, o Options, inputs []source.Value) (source.Value, error) {
	t.Helper()
	eval := func(n Node, inputs []source.Value) (source.Value, error) {
		p, err := Compile(n, o)
		if err != nil {
			return source.Value{}, err
		}
		return p.Eval(inputs)
	}
	v, err := eval(n, inputs)
	var call *CallError
	if errors.As(err, &call) {
		return v, err
	}
	inputs = append([]source.Value(nil), inputs...)
	w, werr := eval(withoutConstants(n, &inputs), inputs)
	if (err == nil) != (werr == nil) || !same(v, w) {
		t.Errorf("%s (%+v): %s, %v with literals, %s, %v with inputs", Canonical(n), o, show(v), err, show(w), werr)
	}
	return v, err
}

func options(t *testing.T, words string) Options {
	var o Options
	for _, w := range strings.Fields(words) {
		switch w {
		case "reference":
		case "sqlite":
			o.Engine = SQLite
		case "fixed":
			o.FixedJSONExtract = true
		case "legacy":
			o.Legacy = true
		default:
			t.Fatalf("unknown engine or option %q", w)
		}
	}
	return o
}

// TestRecorded replays what the existing service gave for the columns and filters
// of the shared conformance cases.
func TestRecorded(t *testing.T) {
	f, err := os.Open("testdata/recorded.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	count := 0
	for lines.Scan() {
		var c struct {
			Engine, Case, Expr, Want string
			Row                      map[string]json.RawMessage
		}
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		count++
		n, names, err := parseExpr(c.Expr)
		if err != nil {
			t.Fatal(err)
		}
		inputs := make([]source.Value, len(names))
		for i, name := range names {
			inputs[i] = recordedValue(t, c.Row[name])
		}
		o := options(t, c.Engine)
		o.FixedJSONExtract = o.FixedJSONExtract || !o.Legacy // edition 3
		v, err := evalBoth(t, n, o, inputs)
		got := ""
		switch want, isFilter := strings.CutPrefix(c.Want, "filter "); {
		case err != nil:
			got = "error"
		case isFilter:
			c.Want, got = want, strconv.FormatBool(Truth(v, o))
		default:
			out, _ := AppendJSON(nil, v)
			got = string(out)
		}
		if got != c.Want {
			t.Errorf("%s: %s: %s with %s: got %s (%v), want %s", c.Engine, c.Case, c.Expr, c.Row, got, err, c.Want)
		}
	}
	if err := lines.Err(); err != nil || count < 800 {
		t.Fatalf("%d cases, %v", count, err)
	}
}

func recordedValue(t *testing.T, raw json.RawMessage) source.Value {
	t.Helper()
	var special struct{ Real, Hex *string }
	if err := json.Unmarshal(raw, &special); err == nil && special.Real != nil {
		f, err := strconv.ParseFloat(*special.Real, 64)
		if err != nil {
			t.Fatal(err)
		}
		return source.Real(f)
	} else if err == nil && special.Hex != nil {
		b, err := hex.DecodeString(*special.Hex)
		if err != nil {
			t.Fatal(err)
		}
		return source.Blob(string(b))
	}
	v, err := FromJSON(raw)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// oursOnly finds what SQLite itself does not have, or does not reject.
var oursOnly = regexp.MustCompile(`base64|json_keys|uuid_blob|st_|&&|ARRAY|'ow'`)

// TestData runs the tables in testdata/*.txt. A line is an expression, =>, and the
// literal that it gives, error, or rejected; a line in brackets names the engine and
// options for what follows; # begins a comment.
func TestData(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no data files: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			db := newOracle(t)
			var engines []Options
			for i, line := range strings.Split(string(text), "\n") {
				if line == "" || line[0] == '#' {
					continue
				}
				if section, ok := strings.CutPrefix(line, "["); ok {
					engines = nil
					for _, words := range strings.Split(strings.TrimSuffix(section, "]"), ",") {
						engines = append(engines, options(t, words))
					}
					continue
				}
				expr, want, ok := strings.Cut(line, " => ")
				if !ok || len(engines) == 0 {
					t.Fatalf("line %d: want an expression, => and a result in a section", i+1)
				}
				for _, o := range engines {
					if msg := checkCase(t, expr, want, o); msg != "" {
						t.Errorf("line %d: %s: %s: %s", i+1, o.Engine, expr, msg)
					}
					if o.Engine == SQLite && want != "rejected" && !oursOnly.MatchString(expr) {
						checkOracle(t, db, i+1, expr, want)
					}
				}
			}
		})
	}
}

// checkCase evaluates an expression and compares the result with a literal, error
// or rejected.
func checkCase(t *testing.T, expr, want string, o Options) string {
	t.Helper()
	n, names, err := parseExpr(expr)
	if err != nil {
		return err.Error()
	}
	if len(names) > 0 {
		return "a name in a constant expression: " + names[0]
	}
	v, err := evalBoth(t, n, o, nil)
	var call *CallError
	switch {
	case want == "rejected":
		if !errors.As(err, &call) {
			return "got " + show(v) + ", want it rejected"
		}
		return ""
	case want == "error":
		if err == nil || errors.As(err, &call) {
			return "got " + show(v) + ", want an error"
		}
		return ""
	case err != nil:
		return err.Error() + ", want " + want
	}
	w, _, err := parseExpr(want)
	if err != nil {
		return err.Error()
	}
	c, ok := w.(Const)
	if !ok {
		return "the result wanted is not a literal: " + want
	}
	if !same(v, c.Value) {
		return "got " + show(v) + ", want " + show(c.Value)
	}
	return ""
}
