package server

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-sync/millrace/internal/source"
)

func TestBackfillProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackfills(slog.New(slog.DiscardHandler))
		notes := &source.Table{ID: 1, Schema: "public", Name: "notes"}
		tags := &source.Table{ID: 2, Schema: "public", Name: "tags"}
		expect := func(want ...string) {
			t.Helper()
			list := b.List()
			if len(list) != len(want) {
				t.Fatalf("%v, want %q", list, want)
			}
			for i, s := range list {
				if s.String() != want[i] {
					t.Errorf("got %q, want %q", s, want[i])
				}
			}
		}
		expect()
		b.wait(tags, 0)
		b.wait(notes, 1000)
		expect("public.notes: 1000 rows", "public.tags: 0 rows")
		b.begin(notes, 1000, 9000)
		expect("public.notes: 10 % of about 10000 rows", "public.tags: 0 rows")
		time.Sleep(10 * time.Second)
		b.add(notes.ID, 3000)
		expect("public.notes: 40 % of about 10000 rows, 20s left", "public.tags: 0 rows")
		if got := b.List()[0].RowsPerSecond; got != 300 {
			t.Errorf("%v rows a second, want 300", got)
		}
		b.add(notes.ID, 6000)
		if got := b.List()[0].Percent(); got != 99 {
			t.Errorf("%d %% while it is still read, want 99", got)
		}
		// The estimate was too small: nothing is claimed any more.
		b.add(notes.ID, 1)
		expect("public.notes: 10001 rows", "public.tags: 0 rows")
		b.drop(tags.ID)
		b.end(notes.ID)
		b.add(notes.ID, 1)
		expect()
	})
}
