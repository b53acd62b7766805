package server

import (
	"slices"
	"testing"
	"testing/synctest"

	"github.com/millrace-sync/millrace/internal/source"
)

// Readers go from table to table and part to part, but not far ahead of the first part
// that is not read to its end.
func TestParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackfiller(nil, nil, nil, "run", tableReaders, newBackfills(nil), nil)
		first, second := &tableRead{wanted: wanted{table: &source.Table{ID: 1}}}, &tableRead{wanted: wanted{table: &source.Table{ID: 2}}}
		bounds := make([][]string, 3*partsAhead)
		for i := range bounds {
			bounds[i] = []string{string(rune('a' + i))}
		}
		b.begin(first, bounds)
		take := func() (*tableRead, *part) {
			t.Helper()
			table, p, err := b.take(t.Context())
			if err != nil || p == nil {
				t.Fatal(table, p, err)
			}
			return table, p
		}
		_, slow := take()
		if slow.number != 0 || slow.after != nil || !slices.Equal(slow.until, bounds[0]) {
			t.Errorf("the first part is %+v", slow)
		}
		for i := 1; i <= partsAhead; i++ {
			_, p := take()
			if p.number != i || !slices.Equal(p.after, bounds[i-1]) {
				t.Errorf("part %d is %+v", i, p)
			}
			b.end(first, p)
		}
		// Now the first part has to end, or another table is read.
		b.begin(second, nil)
		if table, p := take(); table != second || p.after != nil || p.until != nil {
			t.Errorf("took %+v of table %d", p, table.table.ID)
		} else if !b.end(second, p) {
			t.Error("the second table is not complete")
		}
		taken := make(chan *part)
		go func() {
			_, p, _ := b.take(t.Context())
			taken <- p
		}()
		synctest.Wait()
		select {
		case p := <-taken:
			t.Errorf("took %+v, too far ahead", p)
		default:
		}
		b.end(first, slow)
		if p := <-taken; p.number != partsAhead+1 {
			t.Errorf("then took %+v", p)
		} else {
			b.end(first, p)
		}
		for i := partsAhead + 2; i <= len(bounds); i++ {
			_, p := take()
			if complete := b.end(first, p); complete != (i == len(bounds)) || p.number != i {
				t.Errorf("part %+v: complete is %t", p, complete)
			}
		}
	})
}
