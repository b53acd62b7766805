package expr

import (
	"os"
	"strings"
	"testing"

	"github.com/millrace-sync/millrace/internal/source"
)

// TestCompatibilityPage makes each row of the tables of the compatibility page a
// test: column by column as its heading says, and the sqlite column against a real
// SQLite as well.
func TestCompatibilityPage(t *testing.T) {
	text, err := os.ReadFile("../../../docs/compatibility-expressions.md")
	if err != nil {
		t.Fatal(err)
	}
	headings := map[string]Options{
		"default":            {FixedJSONExtract: true},
		"sqlite":             {Engine: SQLite},
		"edition 3":          {FixedJSONExtract: true},
		"editions 1 and 2":   {Legacy: true},
		"fixed_json_extract": {FixedJSONExtract: true},
		"without":            {},
	}
	db := newOracle(t)
	var columns []string
	rows := 0
	for i, line := range strings.Split(string(text), "\n") {
		cells := tableCells(line)
		switch {
		case cells == nil:
			columns = nil
			continue
		case columns == nil:
			columns = cells
			continue
		case strings.HasPrefix(cells[0], "---"):
			continue
		}
		rows++
		if len(cells) != len(columns) {
			t.Fatalf("line %d: %d cells below %d headings", i+1, len(cells), len(columns))
		}
		expr := strings.Trim(cells[0], "`")
		for c, heading := range columns[1:] {
			o, ok := headings[heading]
			if !ok {
				t.Fatalf("line %d: no options for the heading %q", i+1, heading)
			}
			want := strings.Trim(cells[c+1], "`")
			if msg := checkCase(t, expr, want, o); msg != "" {
				t.Errorf("line %d: %s: %s: %s", i+1, heading, expr, msg)
			}
			if o.Engine == SQLite {
				checkOracle(t, db, i+1, expr, want)
			}
		}
	}
	if rows < 80 {
		t.Errorf("only %d rows were found", rows)
	}
}

func checkOracle(t *testing.T, db *oracle, line int, expr, want string) {
	t.Helper()
	n, _, err := parseExpr(expr)
	if err != nil {
		t.Fatal(err)
	}
	var inputs []source.Value
	n = withoutConstants(n, &inputs)
	v, err := db.eval(sqlText(n), inputs)
	if want == "error" {
		if err == nil {
			t.Errorf("line %d: %s: SQLite gives %s, not an error", line, expr, show(v))
		}
		return
	}
	w, _, perr := parseExpr(want)
	if err != nil || perr != nil {
		t.Errorf("line %d: %s: %v, %v", line, expr, err, perr)
		return
	}
	if c, ok := w.(Const); !ok || !same(v, c.Value) {
		t.Errorf("line %d: %s: SQLite gives %s, not %s", line, expr, show(v), want)
	}
}

// tableCells splits a row of a Markdown table; nil for another line.
func tableCells(line string) []string {
	if !strings.HasPrefix(line, "| ") || !strings.HasSuffix(line, " |") {
		return nil
	}
	const bar = "\x00"
	line = strings.ReplaceAll(line[2:len(line)-2], `\|`, bar)
	cells := strings.Split(line, "|")
	for i := range cells {
		cells[i] = strings.ReplaceAll(strings.TrimSpace(cells[i]), bar, "|")
	}
	return cells
}
