package streams

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ncruces/go-sqlite3"

	"github.com/millrace-sync/millrace/internal/conformance"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/streams/expr"
)

var (
	seeds     = flag.Int("seeds", 60, "how many seeds the differential test runs")
	firstSeed = flag.Uint64("seed", 1, "the first of them")
)

// tagged decodes what datumOf writes: a letter for the kind, then the value.
type tagged struct{}

func (tagged) Name() string { return "any" }

func (tagged) Decode(d source.Datum, _ source.Form) (source.Value, error) {
	if d.Encoding == source.Null {
		return source.Value{}, nil
	}
	s := string(d.Bytes[1:])
	switch d.Bytes[0] {
	case 'i':
		i, err := strconv.ParseInt(s, 10, 64)
		return source.Int(i), err
	case 'r':
		f, err := strconv.ParseFloat(s, 64)
		return source.Real(f), err
	case 't':
		return source.String(s), nil
	}
	return source.Value{}, fmt.Errorf("unknown tag %q", d.Bytes[:1])
}

func datumOf(v source.Value) source.Datum {
	var b []byte
	switch v.Kind() {
	case source.KindNull:
		return source.Datum{}
	case source.KindInteger:
		i, _ := v.Int()
		b = fmt.Appendf(nil, "i%d", i)
	case source.KindReal:
		b = strconv.AppendFloat([]byte("r"), v.Real(), 'g', -1, 64)
	default:
		b = []byte("t" + v.Str())
	}
	return source.Datum{Bytes: b, Encoding: source.Text}
}

// world is a small random database, a request, and the same database in SQLite.
type world struct {
	*rand.Rand
	tables []sourceTable
	values [][][]source.Value
	claims map[string]source.Value // by parameter name; arrays as JSON text
	db     *sqlite3.Conn
	nextID int
	names  int
	// negations says whether queries may negate and compare with NULL: only where
	// both engines agree on what that gives.
	negations bool
}

var scalarColumns = []string{"a", "b", "c"}

// scalarValues are few, so that rows meet; some differ only in kind.
var scalarValues = []source.Value{{}, source.Int(1), source.Int(1), source.Int(1), source.Int(2), source.String("x"), source.String("x"), source.String("x"), source.String("y"), source.String("1"), source.Real(1), source.Real(2.5)}

func (w *world) scalar() source.Value { return scalarValues[w.IntN(len(scalarValues))] }

func (w *world) array() source.Value {
	if w.IntN(6) == 0 {
		return source.Value{}
	}
	b := []byte("[")
	for i := range w.IntN(4) {
		if i > 0 {
			b = append(b, ',')
		}
		b, _ = expr.AppendJSON(b, w.scalar())
	}
	return source.String(string(append(b, ']')))
}

func newWorld(t testing.TB, r *rand.Rand, negations bool) *world {
	t.Helper()
	db, err := sqlite3.Open(":memory:")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	w := &world{Rand: r, db: db, negations: negations, claims: map[string]source.Value{}}
	for i := range 3 {
		st := sourceTable{table: &source.Table{ID: source.TableID(i + 1), Schema: "public", Name: fmt.Sprintf("t%d", i), Columns: []source.Column{{Name: "id", Type: tagged{}, Key: true}}}}
		for _, c := range append(slices.Clone(scalarColumns), "arr") {
			st.table.Columns = append(st.table.Columns, source.Column{Name: c, Type: tagged{}})
		}
		w.tables = append(w.tables, st)
		w.values = append(w.values, nil)
		w.exec(t, fmt.Sprintf("CREATE TABLE t%d (id, a, b, c, arr)", i))
		for range 3 + w.IntN(12) {
			w.insert(t, i)
		}
	}
	for _, p := range []string{"p", "q", "r"} {
		w.claims[p] = w.scalar()
	}
	for _, p := range []string{"xs", "ys"} {
		w.claims[p] = w.array()
	}
	return w
}

func (w *world) exec(t testing.TB, sql string) {
	t.Helper()
	if err := w.db.Exec(sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func (w *world) randomRow(id source.Value) []source.Value {
	return []source.Value{id, w.scalar(), w.scalar(), w.scalar(), w.array()}
}

func literalOf(v source.Value) string {
	if v.Kind() == source.KindText {
		return "'" + strings.ReplaceAll(v.Str(), "'", "''") + "'"
	}
	b, _ := expr.AppendJSON(nil, v)
	return string(b)
}

func (w *world) insert(t testing.TB, table int) {
	w.nextID++
	w.put(t, table, -1, w.randomRow(source.String(fmt.Sprintf("r%d", w.nextID))))
}

// put writes a row: at ≥ 0 replaces that one.
func (w *world) put(t testing.TB, table, at int, row []source.Value) {
	t.Helper()
	data := make([]source.Datum, len(row))
	lits := make([]string, len(row))
	for i, v := range row {
		data[i], lits[i] = datumOf(v), literalOf(v)
	}
	st := &w.tables[table]
	if at >= 0 {
		w.exec(t, fmt.Sprintf("DELETE FROM t%d WHERE id = %s", table, literalOf(w.values[table][at][0])))
		st.rows[at], w.values[table][at] = data, row
	} else {
		st.rows, w.values[table] = append(st.rows, data), append(w.values[table], row)
	}
	w.exec(t, fmt.Sprintf("INSERT INTO t%d VALUES (%s)", table, strings.Join(lits, ", ")))
}

func (w *world) delete(t testing.TB, table, at int) {
	w.exec(t, fmt.Sprintf("DELETE FROM t%d WHERE id = %s", table, literalOf(w.values[table][at][0])))
	w.tables[table].rows = slices.Delete(w.tables[table].rows, at, at+1)
	w.values[table] = slices.Delete(w.values[table], at, at+1)
}

// request is the world's request, with the parameters spread over its parts.
func (w *world) request() *Request {
	object := func(names ...string) []byte {
		m := map[string]json.RawMessage{}
		for _, n := range names {
			v := w.claims[n]
			b, _ := expr.AppendJSON(nil, v)
			if v.Kind() == source.KindText && strings.HasPrefix(v.Str(), "[") {
				b = []byte(v.Str())
			}
			m[n] = b
		}
		out, err := json.Marshal(m)
		if err != nil {
			panic(err)
		}
		return out
	}
	claims := object("p", "xs")
	return &Request{
		Claims:     append(append([]byte(`{"sub":`), literalJSON(w.claims["q"])...), append([]byte(","), claims[1:]...)...),
		Parameters: object("r"), Subscriptions: []Subscription{{Stream: "s", Parameters: object("ys")}},
	}
}

func literalJSON(v source.Value) []byte {
	b, _ := expr.AppendJSON(nil, v)
	return b
}

// both is one piece of SQL as a stream has it and as SQLite has it.
type both struct{ ours, lite string }

func same(s string) both { return both{s, s} }

func (b both) with(format string, others ...both) both {
	o, l := []any{b.ours}, []any{b.lite}
	for _, x := range others {
		o, l = append(o, x.ours), append(l, x.lite)
	}
	return both{fmt.Sprintf(format, o...), fmt.Sprintf(format, l...)}
}

func (w *world) parameter() both {
	switch w.IntN(3) {
	case 0:
		return both{"auth.parameter('p')", literalOf(w.claims["p"])}
	case 1:
		return both{"auth.user_id()", literalOf(w.claims["q"])}
	}
	return both{"connection.parameters() ->> 'r'", literalOf(w.claims["r"])}
}

func (w *world) arrayParameter() both {
	if w.IntN(2) == 0 {
		return both{"auth.parameter('xs')", literalOf(w.claims["xs"])}
	}
	return both{"subscription.parameter('ys')", literalOf(w.claims["ys"])}
}

// inScope is a FROM item that expressions may name.
type inScope struct {
	alias   string
	columns []string
	arr     bool
}

func (w *world) name(prefix string) string {
	w.names++
	return fmt.Sprintf("%s%d", prefix, w.names)
}

func (w *world) column(s inScope) both {
	c := s.alias + "." + s.columns[w.IntN(len(s.columns))]
	b := same(c)
	// The engines differ in what a CAST does to a comparison.
	if w.negations && w.IntN(8) == 0 {
		b = b.with("CAST(%s AS " + []string{"TEXT", "INTEGER", "REAL", "NUMERIC"}[w.IntN(4)] + ")")
	}
	return b
}

func (w *world) constant() both { return same(literalOf(scalarValues[1+w.IntN(len(scalarValues)-1)])) }

// rowCondition is a condition on one row only.
func (w *world) rowCondition(s inScope, depth int) both {
	if depth > 0 {
		switch w.IntN(5) {
		case 0:
			return w.rowCondition(s, depth-1).with("(%s AND %s)", w.rowCondition(s, depth-1))
		case 1:
			return w.rowCondition(s, depth-1).with("(%s OR %s)", w.rowCondition(s, depth-1))
		case 2:
			if w.negations {
				return w.rowCondition(s, depth-1).with("NOT (%s)")
			}
		}
	}
	c := w.column(s)
	switch w.IntN(8) {
	case 0:
		return c.with("%s IS NULL")
	case 1:
		return c.with("%s = %s", w.column(s))
	case 2:
		return c.with("%s > %s", w.constant())
	case 3:
		if w.negations {
			return c.with("%s != %s", w.constant())
		}
	case 4:
		if s.arr {
			arr := s.alias + ".arr"
			return both{c.ours + " IN " + arr, c.lite + " IN (SELECT value FROM json_each(" + arr + "))"}
		}
	case 5:
		if w.negations {
			return c.with("%s NOT IN (%s, %s)", w.constant(), w.constant())
		}
	case 6:
		return c.with("%s BETWEEN %s AND %s", w.constant(), w.constant())
	}
	return c.with("%s = %s", w.constant())
}

// condition is any condition on the FROM items in scope, innermost last.
func (w *world) condition(scope []inScope, depth int) both {
	if depth > 0 {
		switch w.IntN(6) {
		case 0, 1:
			return w.condition(scope, depth-1).with("(%s AND %s)", w.condition(scope, depth-1))
		case 2, 3:
			return w.condition(scope, depth-1).with("(%s OR %s)", w.condition(scope, depth-1))
		}
	}
	s := scope[w.IntN(len(scope))]
	if w.IntN(2) == 0 {
		s = scope[len(scope)-1]
	}
	x := w.column(s)
	switch w.IntN(14) {
	case 0, 1:
		return x.with("%s = %s", w.parameter())
	case 2:
		return w.parameter().with("%s = %s", x)
	case 3:
		return w.parameter().with("%s = %s", w.constant())
	case 4:
		a := w.arrayParameter()
		return both{x.ours + " IN " + a.ours, x.lite + " IN (SELECT value FROM json_each(" + a.lite + "))"}
	case 5:
		if s.arr {
			p := w.parameter()
			return both{p.ours + " IN " + s.alias + ".arr", p.lite + " IN (SELECT value FROM json_each(" + s.alias + ".arr))"}
		}
	case 6:
		if s.arr {
			a := w.arrayParameter()
			e, f := w.name("e"), w.name("e")
			return both{s.alias + ".arr && " + a.ours, fmt.Sprintf("EXISTS (SELECT 1 FROM json_each(%s.arr) %s, json_each(%s) %s WHERE %s.value = %s.value)", s.alias, e, a.lite, f, e, f)}
		}
	case 7, 8, 9:
		left := x
		if w.IntN(4) == 0 {
			left = w.parameter()
		}
		return left.with("%s IN (%s)", w.subquery(scope, depth))
	case 10:
		o := scope[w.IntN(len(scope))]
		return x.with("%s = %s", w.column(o))
	case 11:
		a := w.arrayParameter()
		e := w.name("e")
		inner := w.rowCondition(inScope{alias: e, columns: []string{"value"}}, 0)
		return x.with("%s IN (SELECT %s FROM json_each(%s) AS %s WHERE %s)", same(e+".value"), a, same(e), inner)
	case 12:
		p, q := w.parameter(), w.constant()
		return x.with("%s IN (%s, %s)", p, q)
	}
	return w.rowCondition(s, depth)
}

// subquery selects one column, correlated or not.
func (w *world) subquery(scope []inScope, depth int) both {
	item, from := w.table()
	inner := append(slices.Clone(scope), item)
	on := same("")
	if w.IntN(5) == 0 {
		second, more := w.table()
		on = w.column(item).with(" JOIN %[3]s ON %[1]s = %[2]s", w.column(second), more)
		inner = append(inner, second)
	}
	if w.IntN(3) > 0 {
		inner = inner[len(scope):]
	}
	return w.column(item).with("SELECT %s FROM %s%s WHERE %s", from, on, w.condition(inner, max(depth-1, 0)))
}

func (w *world) table() (inScope, both) {
	alias := w.name("q")
	return inScope{alias: alias, columns: append([]string{"id"}, scalarColumns...), arr: true}, same(fmt.Sprintf("t%d AS %s", w.IntN(3), alias))
}

// query is a whole query: SELECT … FROM … WHERE.
func (w *world) query() both {
	out, from := w.table()
	scope := []inScope{out}
	for range w.IntN(3) {
		switch w.IntN(4) {
		case 0:
			e := inScope{alias: w.name("e"), columns: []string{"value"}}
			host := scope[w.IntN(len(scope))]
			if host.arr {
				from = from.with("%s JOIN json_each(%[2]s.arr) AS %[3]s ON %[4]s = %[5]s", same(host.alias), same(e.alias), w.column(e), w.column(scope[w.IntN(len(scope))]))
				scope = append(scope, e)
			}
		case 1:
			sub, subFrom := w.table()
			d := inScope{alias: w.name("d"), columns: []string{"x", "y"}}
			from = from.with("%s JOIN (SELECT %[2]s AS x, %[3]s AS y FROM %[4]s WHERE %[5]s) AS %[6]s ON %[7]s = %[8]s",
				w.column(sub), w.column(sub), subFrom, w.condition([]inScope{sub}, 1), same(d.alias), w.column(d), w.column(scope[w.IntN(len(scope))]))
			scope = append(scope, d)
		default:
			item, more := w.table()
			from = from.with("%s JOIN %[2]s ON %[3]s = %[4]s", more, w.column(item), w.column(scope[w.IntN(len(scope))]))
			scope = append(scope, item)
		}
	}
	columns := same(fmt.Sprintf("%[1]s.id, %[1]s.a, %[1]s.b AS bb, %[1]s.c IS NULL AS n", out.alias))
	return columns.with("SELECT %s FROM %s WHERE %s", from, w.condition(scope, 3))
}

// ask returns what SQLite gives for a query, as sorted row JSON.
func (w *world) ask(t testing.TB, query string) []string {
	t.Helper()
	stmt, _, err := w.db.Prepare(query)
	if err != nil {
		t.Fatalf("SQLite: %s: %v", query, err)
	}
	defer stmt.Close()
	var out []string
	for stmt.Step() {
		b := []byte("{")
		for i := range stmt.ColumnCount() {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(expr.AppendString(b, stmt.ColumnName(i)), ':')
			var v source.Value
			switch stmt.ColumnType(i) {
			case sqlite3.INTEGER:
				v = source.Int(stmt.ColumnInt64(i))
			case sqlite3.FLOAT:
				v = source.Real(stmt.ColumnFloat(i))
			case sqlite3.TEXT:
				v = source.String(stmt.ColumnText(i))
			}
			b, _ = expr.AppendJSON(b, v)
		}
		out = append(out, string(append(b, '}')))
	}
	if err := stmt.Err(); err != nil {
		t.Fatalf("SQLite: %s: %v", query, err)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// answer returns what a request reaches, as sorted row JSON.
func (m *model) answer(t testing.TB, req *Request) []string {
	t.Helper()
	set, err := m.plan.Buckets(req, m, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range set.Streams {
		for _, e := range s.Errors {
			t.Fatalf("stream error: %s", e.Message)
		}
	}
	var out []string
	for _, b := range set.Buckets {
		for _, r := range m.buckets[bucketID{b.Def, b.Params}] {
			out = append(out, r.data)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// TestDifferential holds random streams on random data against SQLite: the rows
// that reach the user must be those that the query gives with the parameters
// filled in.
func TestDifferential(t *testing.T) {
	for _, engine := range []string{"sqlite", "reference"} {
		t.Run(engine, func(t *testing.T) {
			compiled, refused, rows, hits := 0, 0, 0, 0
			for seed := *firstSeed; seed < *firstSeed+uint64(*seeds); seed++ {
				w := newWorld(t, rand.New(rand.NewPCG(seed, 0)), engine == "sqlite")
				for i := range 25 {
					q := w.query()
					text := fmt.Sprintf("config: {edition: 3, unstable_sqlite_expression_engine: %t}\nstreams:\n  s:\n    query: %s\n    accept_potentially_dangerous_queries: true\n", engine == "sqlite", conformance.Quote(q.ours))
					p, diags := Compile(Source{File: "s.yaml", Text: text})
					if p == nil {
						if !strings.Contains(Format(diags), "mixes") && !strings.Contains(Format(diags), "multiplied out") {
							t.Fatalf("seed %d, query %d does not compile:\n%s", seed, i, Format(diags))
						}
						refused++
						continue
					}
					compiled++
					m := newModel(p)
					m.load(w.tables)
					for _, e := range m.errors {
						t.Fatalf("seed %d, query %d: row error %s", seed, i, e.Message)
					}
					want, got := w.ask(t, q.lite), m.answer(t, w.request())
					rows += len(want)
					if len(want) > 0 {
						hits++
					}
					if !slices.Equal(want, got) {
						t.Fatalf("seed %d, query %d:\n%s\n%s\nrequest %s %s %s\nwant %v\n got %v\n%s", seed, i, q.ours, q.lite, w.request().Claims, w.request().Parameters, w.request().Subscriptions[0].Parameters, want, got, p.Describe())
					}
				}
			}
			t.Logf("seeds %d to %d: %d queries agree, %d of them with rows (%d); %d were refused", *firstSeed, *firstSeed+uint64(*seeds)-1, compiled, hits, rows, refused)
			if compiled < 10*(*seeds) || hits < compiled/10 {
				t.Errorf("only %d queries compiled, and %d gave rows", compiled, hits)
			}
		})
	}
}
