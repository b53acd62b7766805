package bucket

import "time"

const (
	// minGrowth is the number of ops by which a bucket must have grown, besides by
	// half, to be compacted by an incremental compaction.
	minGrowth = 100
	// compactKeys is the number of entries of a bucket to remember: some 10 MB.
	compactKeys = 200_000
	// paceSlice is the work after which there is a rest.
	paceSlice = 5 * time.Millisecond
)

// Due reports whether a bucket of so many ops is worth compacting, which had marked ones
// when it was last compacted: any but the smallest; with incremental, as beside a
// service in use, one that has grown by half.
func Due(count, marked int64, incremental bool) bool {
	if incremental {
		return count >= minGrowth && count-marked >= max(minGrowth, marked/2)
	}
	return count >= 2
}

// NewCompaction says how far to compact a bucket up to an op of a published checkpoint;
// marked is the op up to which it was last compacted. An incremental compaction moves
// rows among ops only that the last one has seen: clients which were here since then
// need not download them again.
func NewCompaction(until, marked OpID, incremental bool) Compaction {
	c := Compaction{Until: until, Settled: until, Keys: compactKeys, Sample: incremental}
	if incremental {
		c.Settled = marked
	}
	return c
}

// Pace keeps work to a share of one core's time.
type Pace struct {
	share float64
	since time.Time // the last rest
}

// NewPace begins work. A share of 0, and of 1 or more, is all the time there is.
func NewPace(share float64, now time.Time) Pace { return Pace{share, now} }

// Rest returns how long to rest now. When the rest is over, Rested must be called.
func (p *Pace) Rest(now time.Time) time.Duration {
	worked := now.Sub(p.since)
	if p.share <= 0 || p.share >= 1 || worked < paceSlice {
		return 0
	}
	return time.Duration(float64(worked) * (1/p.share - 1))
}

// Rested ends a rest.
func (p *Pace) Rested(now time.Time) { p.since = now }
