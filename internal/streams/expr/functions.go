package expr

import (
	"fmt"
	"slices"
	"strings"

	"github.com/millrace-sync/millrace/internal/source"
)

// function is one entry of the table of functions. Exactly one of the forms is set.
type function struct {
	name   string
	lo, hi int // numbers of arguments; hi < 0 means any
	// one, two, few and many are for functions that see all their arguments; strict says
	// that a NULL among them makes the result NULL.
	strict bool
	one    func(o Options, a source.Value) (source.Value, error)
	two    func(o Options, a, b source.Value) (source.Value, error)
	few    func(o Options, a few) (source.Value, error)
	many   func(o Options, a []source.Value) (source.Value, error)
	// lazy is for functions that evaluate only some of their arguments.
	lazy func(c *compiler, a []operand) operand
}

// few is up to three arguments; passed by value, they need no memory of their own.
type few struct {
	v [3]source.Value
	n int
}

// functions is sorted by name.
var functions = []function{
	{name: "abs", lo: 1, hi: 1, strict: true, one: absolute},
	{name: "base64", lo: 1, hi: 1, one: base64Of},
	{name: "coalesce", lo: 2, hi: -1, lazy: (*compiler).coalesce},
	{name: "datetime", lo: 1, hi: -1, strict: true, many: datetime},
	{name: "hex", lo: 1, hi: 1, one: hexOf},
	{name: "ifnull", lo: 2, hi: -1, lazy: (*compiler).coalesce},
	{name: "iif", lo: 3, hi: 3, lazy: (*compiler).iif},
	{name: "instr", lo: 2, hi: 2, strict: true, two: instr},
	{name: "json_array_length", lo: 1, hi: 2, many: jsonArrayLength},
	{name: "json_extract", lo: 2, hi: -1, many: jsonExtract},
	{name: "json_keys", lo: 1, hi: 1, strict: true, one: jsonKeys},
	{name: "json_valid", lo: 1, hi: 2, many: jsonValid},
	{name: "length", lo: 1, hi: 1, strict: true, one: length},
	{name: "lower", lo: 1, hi: 1, strict: true, one: lower},
	{name: "ltrim", lo: 1, hi: 2, strict: true, few: trimmer(true, false)},
	{name: "nullif", lo: 2, hi: 2, two: nullif},
	{name: "replace", lo: 3, hi: 3, few: replace},
	{name: "round", lo: 1, hi: 2, strict: true, few: round},
	{name: "rtrim", lo: 1, hi: 2, strict: true, few: trimmer(false, true)},
	{name: "st_asgeojson", lo: 1, hi: 1, strict: true, one: geometryAsGeoJSON},
	{name: "st_astext", lo: 1, hi: 1, strict: true, one: geometryAsText},
	{name: "st_x", lo: 1, hi: 1, strict: true, one: geometryX},
	{name: "st_y", lo: 1, hi: 1, strict: true, one: geometryY},
	{name: "substring", lo: 2, hi: 3, strict: true, few: substring},
	{name: "trim", lo: 1, hi: 2, strict: true, few: trimmer(true, true)},
	{name: "typeof", lo: 1, hi: 1, one: typeOf},
	{name: "unixepoch", lo: 1, hi: -1, strict: true, many: unixepoch},
	{name: "upper", lo: 1, hi: 1, strict: true, one: upper},
	{name: "uuid_blob", lo: 1, hi: 1, strict: true, one: uuidBlob},
}

// rejected names functions of SQLite and Postgres whose results do not follow from
// their arguments.
var rejected = []struct{ name, hint string }{
	{"changes", ""},
	{"clock_timestamp", clockHint},
	{"current_date", clockHint},
	{"current_time", clockHint},
	{"current_timestamp", clockHint},
	{"gen_random_uuid", randomHint},
	{"last_insert_rowid", ""},
	{"localtime", clockHint},
	{"localtimestamp", clockHint},
	{"now", clockHint},
	{"random", randomHint},
	{"randomblob", randomHint},
	{"statement_timestamp", clockHint},
	{"timeofday", clockHint},
	{"total_changes", ""},
	{"transaction_timestamp", clockHint},
	{"uuid_generate_v4", randomHint},
}

// aggregates are the functions over several rows that people try most.
var aggregates = []string{"array_agg", "avg", "bool_and", "bool_or", "count", "group_concat", "json_group_array", "json_group_object", "max", "min", "string_agg", "sum", "total"}

const (
	clockHint  = "rows are not evaluated again as time passes; keep such a condition in the source, as a column that a job updates"
	randomHint = "a row must give the same result each time; let the source fill a column instead"
)

func findFunction(name string) *function {
	i, ok := slices.BinarySearchFunc(functions, name, func(f function, name string) int { return strings.Compare(f.name, name) })
	if !ok {
		return nil
	}
	return &functions[i]
}

// Check reports whether there is a function of that name and number of arguments,
// otherwise a *CallError: ErrUnknown with the nearest name as the hint, ErrArity,
// or ErrNonDeterministic with the reason. The name's case does not matter. Whether
// datetime and unixepoch are given 'now' only Compile can tell.
func Check(name string, nargs int) error {
	lower := canonicalOp(strings.ToLower(name))
	if f := findFunction(lower); f != nil {
		if nargs == 0 && (lower == "datetime" || lower == "unixepoch") {
			return &CallError{Name: name, Kind: ErrNonDeterministic, Message: name + "() is the time of day", Hint: clockHint}
		}
		if nargs < f.lo || (f.hi >= 0 && nargs > f.hi) {
			return arityError(name, f.lo, f.hi, nargs)
		}
		return nil
	}
	for _, r := range rejected {
		if r.name == lower {
			return &CallError{Name: name, Kind: ErrNonDeterministic,
				Message: fmt.Sprintf("%s is not allowed: its result does not follow from its arguments alone", name), Hint: r.hint}
		}
	}
	if slices.Contains(aggregates, lower) {
		return &CallError{Name: name, Kind: ErrUnknown, Message: fmt.Sprintf("%s is an aggregate, but rows are evaluated one by one", name),
			Hint: "keep such a value in the source, as a column of its own"}
	}
	return &CallError{Name: name, Kind: ErrUnknown, Message: fmt.Sprintf("there is no function %s", name), Hint: nearest(lower)}
}

func arityError(name string, lo, hi, got int) error {
	want := fmt.Sprint(lo)
	switch {
	case hi < 0:
		want = fmt.Sprintf("at least %d", lo)
	case hi != lo:
		want = fmt.Sprintf("%d to %d", lo, hi)
	}
	plural := "s"
	if want == "1" || want == "at least 1" {
		plural = ""
	}
	return &CallError{Name: name, Kind: ErrArity, Message: fmt.Sprintf("%s takes %s argument%s, not %d", name, want, plural, got)}
}

// checkClock rejects date functions that a literal makes depend on the clock or on
// the time zone of the machine.
func checkClock(name string, args []Node) error {
	if name != "datetime" && name != "unixepoch" {
		return nil
	}
	for i, a := range args {
		k, ok := a.(Const)
		if !ok || k.Value.Kind() != source.KindText {
			continue
		}
		if word := strings.ToLower(k.Value.Str()); usesClock(word, i == 0) {
			return &CallError{Name: name, Kind: ErrNonDeterministic,
				Message: fmt.Sprintf("%s with '%s' depends on the time or the time zone of the server", name, k.Value.Str()), Hint: clockHint}
		}
	}
	return nil
}

// usesClock reports whether a lower-case time value or modifier is the time of day
// or refers to the machine's time zone.
func usesClock(word string, timeValue bool) bool {
	if timeValue {
		return word == "now" || word == "subsec" || word == "subsecond"
	}
	return word == "localtime" || word == "utc"
}

// synonyms maps names that people try to what there is instead.
var synonyms = map[string]string{
	"char_length": "length", "character_length": "length", "len": "length", "strlen": "length", "octet_length": "length",
	"concat": "the operator ||", "nvl": "ifnull", "isnull": "ifnull", "left": "substring", "mid": "substring",
	"strpos": "instr", "position": "instr", "charindex": "instr", "locate": "instr",
	"strftime": "datetime or unixepoch", "date": "datetime", "time": "datetime", "julianday": "unixepoch", "extract": "unixepoch",
	"to_timestamp": "datetime", "date_part": "unixepoch", "epoch": "unixepoch",
	"jsonb_array_length": "json_array_length", "json_extract_path": "json_extract", "json_extract_path_text": "json_extract",
	"jsonb_extract_path": "json_extract", "json_object_keys": "json_keys", "jsonb_object_keys": "json_keys", "encode": "hex or base64",
	"ucase": "upper", "lcase": "lower", "btrim": "trim", "pg_typeof": "typeof", "uuid": "uuid_blob", "case": "iif",
}

// nearest suggests a function for a name that is none.
func nearest(name string) string {
	if s, ok := synonyms[name]; ok {
		return "use " + s
	}
	best, bestDistance := "", len(name)/3+1
	for _, f := range functions {
		if d := distance(name, f.name, bestDistance); d < bestDistance {
			best, bestDistance = f.name, d
		}
	}
	if best == "" {
		return ""
	}
	return "did you mean " + best + "?"
}

// distance is the number of inserted, deleted or changed bytes between a and b; at
// least limit if they differ too much in length.
func distance(a, b string, limit int) int {
	if len(a) > 64 || len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = row[j+1]
			row[j+1] = min(cost, row[j]+1, diag+1)
		}
	}
	return row[len(b)]
}

// function compiles a call that Check has admitted.
func (c *compiler) function(name string, args []operand) operand {
	f := findFunction(name)
	o := c.Options
	switch {
	case f.lazy != nil:
		return f.lazy(c, args)
	case f.one != nil:
		one, strict := f.one, f.strict
		return lift1(args[0], func(v source.Value) (source.Value, error) {
			if strict && v.IsNull() {
				return source.Value{}, nil
			}
			return one(o, v)
		})
	case f.two != nil:
		two, strict := f.two, f.strict
		return lift2(args[0], args[1], func(x, y source.Value) (source.Value, error) {
			if strict && (x.IsNull() || y.IsNull()) {
				return source.Value{}, nil
			}
			return two(o, x, y)
		})
	}
	if f.few != nil {
		return fewArguments(o, f, args)
	}
	many, strict := f.many, f.strict
	return operand{run: func(in []source.Value) (source.Value, error) {
		values := make([]source.Value, len(args))
		null := false
		for i := range args {
			v, err := args[i].run(in)
			if err != nil {
				return source.Value{}, err
			}
			values[i] = v
			null = null || v.IsNull()
		}
		if strict && null {
			return source.Value{}, nil
		}
		return many(o, values)
	}}
}

func fewArguments(o Options, f *function, args []operand) operand {
	call, strict := f.few, f.strict
	return operand{run: func(in []source.Value) (source.Value, error) {
		a := few{n: len(args)}
		for i := range args {
			v, err := args[i].run(in)
			if err != nil {
				return source.Value{}, err
			}
			a.v[i] = v
		}
		if strict && (a.v[0].IsNull() || a.v[a.n-1].IsNull() || a.v[a.n/2].IsNull()) {
			return source.Value{}, nil
		}
		return call(o, a)
	}}
}

// coalesce gives the first argument that is not NULL.
func (c *compiler) coalesce(args []operand) operand {
	return operand{run: func(in []source.Value) (source.Value, error) {
		for i := range args {
			v, err := args[i].run(in)
			if err != nil || !v.IsNull() {
				return v, err
			}
		}
		return source.Value{}, nil
	}}
}

func (c *compiler) iif(args []operand) operand {
	return c.caseOperand(false, operand{}, args[:1], []evalFunc{args[1].run}, args[2].run)
}

func typeOf(_ Options, v source.Value) (source.Value, error) { return source.String(Typeof(v)), nil }

// nullif gives NULL if the arguments are equal, else the first.
func nullif(o Options, x, y source.Value) (source.Value, error) {
	if x.IsNull() || y.IsNull() {
		return x, nil
	}
	r, err := Compare(x, y, o)
	if err != nil || r == 0 {
		return source.Value{}, err
	}
	return x, nil
}
