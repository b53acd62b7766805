package deploy

import (
	"slices"

	"github.com/millrace-sync/millrace/internal/streams"
)

// Changes tells what a deploy does to what is served, for people who are to decide
// about it.
type Changes struct {
	// Keep is the number of definitions that both plans have. New are positions in the
	// next plan's Definitions, Drop in the current one's.
	Keep      int
	New, Drop []int
	// Reads are the tables that new definitions read, without duplicates.
	Reads []streams.TablePattern
	// Streams are those of both plans: the next one's in its order, then those that go.
	Streams []StreamChange
}

// StreamChange is what becomes of one stream.
type StreamChange struct {
	Name string
	Fate Fate
}

// Fate is what a deploy does to the clients of a stream.
type Fate uint8

// The fates of a stream.
const (
	Unchanged Fate = iota // its clients keep what they have
	Added                 // it is new
	Resent                // its clients download it again, in part or whole
	Removed               // its clients lose it
)

// String returns one word, as in the admin API.
func (f Fate) String() string {
	return [...]string{"unchanged", "added", "resent", "removed"}[f]
}

// Compared returns what replacing one plan by another changes; current may be nil.
func Compared(current, next *streams.Plan) Changes {
	if current == nil {
		current = &streams.Plan{}
	}
	var c Changes
	had := map[string]bool{}
	for _, d := range current.Definitions {
		had[d.Hash] = true
	}
	has := map[string]bool{}
	for i, d := range next.Definitions {
		has[d.Hash] = true
		if had[d.Hash] {
			c.Keep++
			continue
		}
		c.New = append(c.New, i)
		for _, p := range d.Tables {
			if !slices.Contains(c.Reads, p) {
				c.Reads = append(c.Reads, p)
			}
		}
	}
	for i, d := range current.Definitions {
		if !has[d.Hash] {
			c.Drop = append(c.Drop, i)
		}
	}
	names := map[string]bool{}
	for _, s := range current.Streams {
		names[s.Name] = true
	}
	kept := map[string]bool{}
	for i, s := range next.Streams {
		change := StreamChange{s.Name, Unchanged}
		buckets, _ := next.DefinitionsOf(i)
		switch {
		case !names[s.Name]:
			change.Fate = Added
		case slices.ContainsFunc(buckets, func(b int) bool { return !had[next.Definitions[b].Hash] }):
			change.Fate = Resent
		}
		kept[s.Name] = true
		c.Streams = append(c.Streams, change)
	}
	for _, s := range current.Streams {
		if !kept[s.Name] {
			c.Streams = append(c.Streams, StreamChange{s.Name, Removed})
		}
	}
	return c
}
