package engine

import (
	"fmt"
	"slices"
)

// Status is the state of the download.
type Status struct {
	// Priorities tells when buckets up to a priority were last complete, the widest
	// first. Of a full sync the priority is [Complete].
	Priorities []SyncTime
	// Streams holds the subscriptions and default streams.
	Streams []Stream

	progress map[string]*bucketProgress // by bucket; nil if nothing is being downloaded
}

// Complete is the priority under which full syncs are recorded.
const Complete = complete

// SyncTime is when everything up to a priority became visible.
type SyncTime struct {
	Priority int
	At       int64 // microseconds since 1970
}

// Progress counts operations.
type Progress struct {
	Priority          int
	Total, Downloaded int64
}

// Stream is a subscription's or a default stream's state. Times are in microseconds
// since 1970, 0 for none.
type Stream struct {
	StreamKey
	// Active says that the service knows the stream.
	Active, Default, Explicit bool
	// Priority is the last priority at which the stream has buckets; -1 if it has none.
	Priority            int
	ExpiresAt, SyncedAt int64
	Progress            Progress

	id      int64
	buckets []string
}

type bucketProgress struct {
	priority                  int
	atLast, sinceLast, target int64
}

func (s *Status) clone() Status {
	c := Status{Priorities: slices.Clone(s.Priorities), Streams: slices.Clone(s.Streams)}
	for i := range c.Streams {
		p := Progress{Priority: c.Streams[i].Priority}
		for _, name := range c.Streams[i].buckets {
			if b := s.progress[name]; b != nil {
				p.add(b)
			}
		}
		c.Streams[i].Progress = p
	}
	if s.progress != nil {
		c.progress = make(map[string]*bucketProgress, 1)
		for _, p := range s.Downloading() {
			c.progress[fmt.Sprint(p.Priority)] = &bucketProgress{p.Priority, 0, p.Downloaded, p.Total}
		}
	}
	return c
}

func (p *Progress) add(b *bucketProgress) {
	p.Total += b.target - b.atLast
	p.Downloaded += b.sinceLast
}

// Downloading returns the progress of each priority, nil if nothing is being downloaded.
func (s *Status) Downloading() []Progress {
	if s.progress == nil {
		return nil
	}
	list := []Progress{}
	for _, b := range s.progress {
		i, ok := slices.BinarySearchFunc(list, b.priority, func(p Progress, priority int) int { return p.Priority - priority })
		if !ok {
			list = slices.Insert(list, i, Progress{Priority: b.priority})
		}
		list[i].add(b)
	}
	return list
}

func (s *Status) count(bucket string, ops int) {
	if b := s.progress[bucket]; b != nil {
		b.sinceLast += int64(ops)
	}
}

// synced records that everything up to a priority is visible.
func (s *Status) synced(priority int, now int64) {
	if priority == complete {
		s.progress = nil
	}
	s.Priorities = slices.DeleteFunc(s.Priorities, func(t SyncTime) bool { return t.Priority <= priority })
	s.Priorities = append(s.Priorities, SyncTime{priority, now})
	slices.SortFunc(s.Priorities, func(a, b SyncTime) int { return b.Priority - a.Priority })
}

// Offline reads the status that earlier connections left.
func Offline(store Store) (Status, error) {
	var s Status
	err := store.Query(`SELECT priority, last_synced_at FROM ps_sync_state ORDER BY priority DESC`, func(r Row) error {
		s.Priorities = append(s.Priorities, SyncTime{int(r.Int64(0)), r.Int64(1)})
		return nil
	})
	if err != nil {
		return Status{}, fmt.Errorf("read sync times: %w", err)
	}
	known, err := readSubscriptions(store)
	for i := range known {
		s.Streams = append(s.Streams, known[i].status())
	}
	return s, err
}

// progressOf compares a checkpoint with what is here. If a bucket holds more than the
// service now says it has, it was compacted, and counting starts again.
func progressOf(store Store, c *checkpoint) (map[string]*bucketProgress, error) {
	progress := make(map[string]*bucketProgress, len(c.buckets))
	for name, b := range c.buckets {
		progress[name] = &bucketProgress{priority: b.Priority, target: b.Count}
	}
	reset := false
	err := store.Query(`SELECT name, count_at_last, count_since_last FROM ps_buckets`, func(r Row) error {
		if b := progress[r.Text(0)]; b != nil {
			b.atLast, b.sinceLast = r.Int64(1), r.Int64(2)
			reset = reset || b.target < b.atLast+b.sinceLast
		}
		return nil
	})
	if err == nil && reset {
		for _, b := range progress {
			b.atLast, b.sinceLast = 0, 0
		}
		err = store.Exec(`UPDATE ps_buckets SET count_since_last = 0, count_at_last = 0`)
	}
	if err != nil {
		return nil, fmt.Errorf("compare progress: %w", err)
	}
	return progress, nil
}
