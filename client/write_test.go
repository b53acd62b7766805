package client

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-sync/millrace/client/internal/local"
	"github.com/millrace-sync/millrace/client/internal/oracle"
)

// both runs a statement on both databases and reports whether they took it alike.
func both(t *testing.T, c *local.Conn, o *oracle.Oracle, sql string) {
	t.Helper()
	_, want := o.Try(sql)
	got := c.Exec(sql)
	if (want == nil) != (got == nil) {
		t.Errorf("%s:\nofficial: %v\nours: %v", sql, want, got)
	}
	if want != nil && got != nil && strings.Contains(want.Error(), "id") && !strings.Contains(got.Error(), want.Error()) {
		t.Errorf("%s: error %q, officially %q", sql, got, want)
	}
}

// raw runs fn on the writer's connection, in no transaction.
func raw(t *testing.T, d *DB, fn func(*local.Conn)) {
	t.Helper()
	conn, err := d.writer.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Raw(func(any) error { fn(d.conn); return nil }); err != nil {
		t.Fatal(err)
	}
}

// Writes leave the same rows and queue the same entries as officially.
func TestWrites(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "writes.sql"))
	if err != nil {
		t.Fatal(err)
	}
	o := oracle.Open(t, filepath.Join(t.TempDir(), "official.db"))
	replaceSchema(t, o, everything())
	d := newDB(t, everything())
	raw(t, d, func(c *local.Conn) {
		for _, sql := range strings.Split(strings.TrimSpace(string(text)), "\n") {
			if !strings.HasPrefix(sql, "--") {
				both(t, c, o, sql)
			}
		}
	})
	compare(t, d, o)
}

// So do random ones.
func TestRandomWrites(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	o := oracle.Open(t, filepath.Join(t.TempDir(), "official.db"))
	replaceSchema(t, o, everything())
	d := newDB(t, everything())
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	value := func() string {
		switch r.IntN(6) {
		case 0:
			return "NULL"
		case 1:
			return fmt.Sprint(int64(r.Uint64()) >> (15 + r.IntN(49)))
		case 2:
			// Of up to 15 digits and small exponents: beyond, the official extension
			// rounds a double's last bit wrongly on its way to the queue.
			return fmt.Sprintf("%.12g + 0.0", (r.Float64()-0.5)*float64(uint64(1)<<r.IntN(40)))
		case 3:
			return fmt.Sprintf("%.6fe%d", r.Float64(), r.IntN(20)-4)
		case 4:
			return "char(" + fmt.Sprint(1+r.IntN(200)) + ", " + fmt.Sprint(1+r.IntN(0xd000)) + ")"
		}
		return "'" + pick("", "a", "b", `\`, `"`, "{}", "null") + "'"
	}
	raw(t, d, func(c *local.Conn) {
		open := false
		for range 600 {
			table, id := pick("notes", "old", "renamed", "old_changed", "local"), "'"+pick("1", "2", "3", "4")+"'"
			column := pick("a", "b", "c")
			if table == "notes" {
				column = pick("body", "n", "price")
			}
			sql := pick(
				"INSERT INTO "+table+"(id, "+column+") VALUES ("+id+", "+value()+")",
				"INSERT OR REPLACE INTO "+table+"(id, "+column+") VALUES ("+id+", "+value()+")",
				"UPDATE "+table+" SET "+column+" = "+value()+" WHERE id = "+id,
				"UPDATE "+table+" SET "+column+" = "+value()+" WHERE id >= "+id,
				"DELETE FROM "+table+" WHERE id = "+id,
			)
			if r.IntN(10) == 0 {
				sql = "BEGIN"
				if open {
					sql = pick("COMMIT", "ROLLBACK")
				}
				open = !open
			}
			both(t, c, o, sql)
		}
		if open {
			both(t, c, o, "COMMIT")
		}
	})
	compare(t, d, o)
}
