package expr

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace-sync/millrace/internal/source"
)

// TestSQLiteNumbers compares the conversion of reals to text and back, bit by bit.
func TestSQLiteNumbers(t *testing.T) {
	db := newOracle(t)
	stmt, _, err := db.db.Prepare("SELECT CAST(?1 AS TEXT), CAST(?2 AS REAL), round(?1, ?3)")
	if err != nil {
		t.Fatal(err)
	}
	defer stmt.Close()
	const seed = 1
	g := generator{Rand: rand.New(rand.NewPCG(seed, 0))}
	wrong := 0
	for i := range 100_000 {
		f := math.Float64frombits(g.Uint64())
		switch i % 6 {
		case 1:
			f = g.NormFloat64() * 1000
		case 2:
			f = math.Trunc(g.NormFloat64()*1e6) / 1e3
		case 3:
			f = float64(g.Int64N(1<<53)) / float64(int64(1)<<g.IntN(60))
		case 4:
			f = math.Nextafter(math.Pow10(g.IntN(40)-20), float64(g.IntN(3)-1)*1e30)
		}
		if math.IsNaN(f) {
			continue
		}
		s := g.decimal()
		digits := g.IntN(18)
		if err := stmt.Reset(); err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{stmt.BindFloat(1, f), stmt.BindText(2, s), stmt.BindInt(3, digits)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if !stmt.Step() {
			t.Fatal(stmt.Err())
		}
		if got, want := formatRealSQLite(f), stmt.ColumnText(0); got != want {
			t.Errorf("seed %d: text of %g: got %s, want %s", seed, f, got, want)
			wrong++
		}
		if got, _ := parseFloatSQLite(s); got != stmt.ColumnFloat(1) {
			t.Errorf("seed %d: real of %q: got %g, want %g", seed, s, got, stmt.ColumnFloat(1))
			wrong++
		}
		got, err := round(Options{Engine: SQLite}, few{[3]source.Value{source.Real(f), source.Int(int64(digits))}, 2})
		if err != nil || got.Real() != stmt.ColumnFloat(2) {
			t.Errorf("seed %d: round(%g, %d): got %g, want %g", seed, f, digits, got.Real(), stmt.ColumnFloat(2))
			wrong++
		}
		if wrong > 20 {
			t.FailNow()
		}
	}
}

func (g generator) decimal() string {
	var b strings.Builder
	b.WriteString(pick(g, "", "", "-", "+", " "))
	digits := func(n int) {
		for range n {
			b.WriteByte(byte('0' + g.IntN(10)))
		}
	}
	switch g.IntN(4) {
	case 0:
		b.WriteString(strconv.FormatFloat(math.Abs(math.Float64frombits(g.Uint64()&^(1<<62))), 'g', -1, 64))
		return b.String()
	case 1:
		digits(g.IntN(30))
	default:
		digits(g.IntN(5))
	}
	if g.IntN(3) > 0 {
		b.WriteByte('.')
		digits(g.IntN(26))
	}
	if g.IntN(3) == 0 {
		fmt.Fprintf(&b, "%s%d", pick(g, "e", "E", "e+", "e-"), g.IntN(400))
	}
	b.WriteString(pick(g, "", "", "", " ", "x"))
	return b.String()
}
