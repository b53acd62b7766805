package sim

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/checkpoint"
	"github.com/millrace-sync/millrace/internal/deploy"
	"github.com/millrace-sync/millrace/internal/session"
	"github.com/millrace-sync/millrace/internal/storage/pebblestore"
	"github.com/millrace-sync/millrace/internal/streams"
	"github.com/millrace-sync/millrace/protocol"
)

// client is a model of what every client does with the lines it gets, and the
// driver of its session.
type client struct {
	world *World
	user  string

	// kept while disconnected
	buckets map[string]*held
	visible map[string]string // id → body, as of the last complete checkpoint

	// the connection
	session *session.Session
	deploy  *deploy.Deploy // of session
	watcher *checkpoint.Watcher
	snap    *pebblestore.Snapshot // of the checkpoint being sent
	view    *view                 // what it shows
	target  map[string]protocol.Bucket
	watched bool
}

// held is what a client has of one bucket.
type held struct {
	last uint64
	sum  uint32
	rows map[string]entry // by type, id and subkey
}

type entry struct {
	op       uint64
	id, body string
}

func newClient(w *World, user string) *client {
	return &client{world: w, user: user, buckets: map[string]*held{}, visible: map[string]string{}}
}

func (c *client) connect() {
	w := c.world
	positions := map[string]bucket.OpID{}
	for name, b := range c.buckets {
		positions[name] = bucket.OpID(b.last)
	}
	claims, _ := json.Marshal(map[string]string{"sub": c.user})
	c.session = session.New(session.Config{
		Deploy:    w.current,
		Request:   streams.Request{Claims: claims, IncludeDefaults: true},
		Positions: positions,
		Codec:     protocol.JSONLines,
		Limits:    streams.Limits{Buckets: 1000, LookupResults: 1000},
	})
	c.deploy = w.current
	c.watcher = w.hub.Watch(c.user)
	c.watched = false
}

func (c *client) disconnect() {
	if c.session == nil {
		return
	}
	c.watcher.Close()
	c.closeSnapshot()
	c.session, c.watcher, c.target = nil, nil, nil
}

func (c *client) closeSnapshot() {
	if c.snap != nil {
		c.snap.Close()
		c.snap = nil
	}
}

// step does one thing that a connection or its driver may do.
func (c *client) step() error {
	switch {
	case c.session == nil:
		if c.world.current != nil {
			c.connect()
		}
		return nil
	case c.world.IntN(15) == 0:
		c.disconnect()
		return nil
	case c.session.Sending() && c.world.IntN(4) > 0:
		return c.chunk()
	default:
		return c.advance()
	}
}

// settle carries the connection to the newest checkpoint.
func (c *client) settle() error {
	if c.session == nil {
		c.connect()
	}
	for {
		if err := c.advance(); err != nil {
			return err
		}
		for c.session.Sending() {
			if err := c.chunk(); err != nil {
				return err
			}
			if c.session == nil { // a checksum did not fit
				return fmt.Errorf("client %s had to drop its data", c.user)
			}
		}
		if !c.watcher.Pending() {
			return nil
		}
	}
}

func (c *client) advance() error {
	latest, dirty := c.watcher.Take()
	c.closeSnapshot()
	var err error
	if c.snap, err = c.world.store.Snapshot(); err != nil {
		return err
	}
	// Now, since a source that is set back comes by the same position again.
	c.view = c.world.views[c.snap.Checkpoint()]
	if c.snap.Checkpoint().Op > latest.Op {
		dirty.All = true // of changes that the hub has not told of yet
	}
	if c.deploy != c.world.current {
		c.deploy = c.world.current
		c.session.Redeploy(c.deploy)
		dirty.All, c.watched = true, false
	}
	out, _, err := c.session.Advance(nil, c.snap, dirty, 0)
	if err != nil {
		return err
	}
	if !c.watched || dirty.All || dirty.Lookups {
		c.watched = true
		c.watcher.Set(c.session.Watched())
	}
	return c.receive(out)
}

func (c *client) chunk() error {
	out, _, err := c.session.Chunk(nil, c.snap)
	if err != nil {
		return err
	}
	return c.receive(out)
}

// receive does what a client does with lines.
func (c *client) receive(lines []byte) error {
	s := bufio.NewScanner(bytes.NewReader(lines))
	s.Buffer(nil, 16<<20)
	for s.Scan() {
		line, err := protocol.JSONLines.DecodeLine(s.Bytes())
		if err != nil {
			return fmt.Errorf("line %s: %w", s.Bytes(), err)
		}
		switch l := line.(type) {
		case *protocol.Checkpoint:
			c.target = map[string]protocol.Bucket{}
			for _, b := range l.Buckets {
				c.target[b.Name] = b
			}
			for name := range c.buckets {
				if _, ok := c.target[name]; !ok {
					delete(c.buckets, name)
				}
			}
		case *protocol.CheckpointDiff:
			for _, b := range l.UpdatedBuckets {
				c.target[b.Name] = b
			}
			for _, name := range l.RemovedBuckets {
				delete(c.target, name)
				delete(c.buckets, name)
			}
		case *protocol.DataChunk:
			if err := c.store(l); err != nil {
				return err
			}
		case *protocol.CheckpointComplete:
			if err := c.complete(bucket.OpID(l.LastOpID)); err != nil {
				return err
			}
		}
	}
	return s.Err()
}

func (c *client) store(l *protocol.DataChunk) error {
	b := c.buckets[l.Bucket]
	if b == nil {
		b = &held{rows: map[string]entry{}}
		c.buckets[l.Bucket] = b
	}
	for i := range l.Ops {
		op := &l.Ops[i]
		if op.ID <= b.last {
			return fmt.Errorf("client %s: op %d of %s came after %d", c.user, op.ID, l.Bucket, b.last)
		}
		b.last = op.ID
		b.sum += op.Checksum
		key := strings.Join([]string{op.ObjectType, op.ObjectID, string(op.Subkey)}, "/")
		switch op.Kind {
		case protocol.Put:
			var data struct{ Body string }
			if err := json.Unmarshal(op.Data, &data); err != nil {
				return err
			}
			b.rows[key] = entry{op.ID, op.ObjectID, data.Body}
		case protocol.Remove:
			delete(b.rows, key)
		case protocol.Clear:
			clear(b.rows)
			b.sum = op.Checksum
		}
	}
	return nil
}

// complete checks every bucket's sum and shows the rows.
func (c *client) complete(at bucket.OpID) error {
	w := c.world
	for name, t := range c.target {
		b := c.buckets[name]
		if b == nil {
			b = &held{rows: map[string]entry{}}
			c.buckets[name] = b
		}
		if b.sum != t.Checksum {
			return fmt.Errorf("client %s: bucket %s sums to %d at %s, announced %d", c.user, name, b.sum, at, t.Checksum)
		}
		b.last = max(b.last, uint64(at))
	}
	newest := map[string]entry{}
	for _, b := range c.buckets {
		for _, e := range b.rows {
			if e.op > newest[e.id].op {
				newest[e.id] = e
			}
		}
	}
	clear(c.visible)
	for id, e := range newest {
		c.visible[id] = e.body
	}
	v := c.view
	if v == nil {
		return fmt.Errorf("client %s completed %s, which was never published", c.user, at)
	}
	want := w.want(c.deploy, c.user, v.rows)
	right := maps.Equal(c.visible, want)
	if v.loose {
		right = between(c.visible, w.want(c.deploy, c.user, unaltered(v.rows)), want)
	}
	if !right {
		return fmt.Errorf("client %s at %s sees %v, want %v (loose: %v)", c.user, at, c.visible, want, v.loose)
	}
	w.Completed++
	return nil
}

// between reports whether each row shows as it was before an alteration or is after it:
// what transactions wrote is in both.
func between(shown, before, after map[string]string) bool {
	for id, body := range shown {
		old, was := before[id]
		now, is := after[id]
		if bare := strings.TrimRight(body, mark); !(was && old == bare) && !(is && strings.TrimRight(now, mark) == bare) {
			return false
		}
	}
	for id := range before {
		if _, is := after[id]; !is {
			continue
		}
		if _, there := shown[id]; !there {
			return false
		}
	}
	return true
}
