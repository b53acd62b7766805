package bucket

import (
	"testing"
	"time"
)

func TestDue(t *testing.T) {
	for _, c := range []struct {
		count, marked    int64
		all, incremental bool
	}{
		{0, 0, false, false},
		{1, 0, false, false},
		{2, 0, true, false},
		{99, 0, true, false},
		{100, 0, true, true},
		{150, 100, true, false},
		{200, 100, true, true},
		{1499, 1000, true, false},
		{1500, 1000, true, true},
		{1500, 1500, true, false},
	} {
		if all, incremental := Due(c.count, c.marked, false), Due(c.count, c.marked, true); all != c.all || incremental != c.incremental {
			t.Errorf("%d ops, %d when last compacted: %v, incrementally %v", c.count, c.marked, all, incremental)
		}
	}
}

func TestPace(t *testing.T) {
	begun := time.Unix(100, 0)
	for _, c := range []struct {
		share        float64
		worked, rest time.Duration
	}{
		{0, time.Second, 0}, {1, time.Second, 0}, {0.2, 4 * time.Millisecond, 0},
		{0.2, 10 * time.Millisecond, 40 * time.Millisecond}, {0.5, time.Second, time.Second},
	} {
		p := NewPace(c.share, begun)
		if got := p.Rest(begun.Add(c.worked)); got.Round(time.Microsecond) != c.rest {
			t.Errorf("%v of a core: %v after %v, want %v", c.share, got, c.worked, c.rest)
		}
		p.Rested(begun.Add(c.worked))
		if got := p.Rest(begun.Add(c.worked + time.Millisecond)); got != 0 {
			t.Errorf("%v of a core: %v just after a rest", c.share, got)
		}
	}
}
