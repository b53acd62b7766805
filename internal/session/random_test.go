package session_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-sync/millrace/internal/session"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/protocol"
)

var (
	randomSeeds = flag.Int("session.seeds", 8, "how many random conversations to have")
	randomSeed  = flag.Uint64("session.seed", 0, "the seed of the only one, if not 0")
	record      = flag.String("session.record", "", "a file for what one conversation sends, in the form of client/testdata/lines")
)

const randomConfig = `
config: {edition: 3}
streams:
  own:
    auto_subscribe: true
    priority: 1
    query: SELECT * FROM notes WHERE owner = auth.user_id()
  shared:
    auto_subscribe: true
    query: SELECT * FROM notes WHERE list IN (SELECT list FROM members WHERE person = auth.user_id())
  chosen:
    query: SELECT * FROM notes WHERE list = subscription.parameter('list')
`

// TestRecord writes a conversation for the client's tests, which give it to the
// official core extension: one of a client that subscribes to nothing and never lies.
func TestRecord(t *testing.T) {
	if *record == "" {
		return
	}
	r := newRandomRun(t, max(*randomSeed, 1))
	defer r.close()
	r.plain, r.honest = true, true
	fmt.Fprintf(&r.script, "# What the service sent in a random conversation, seed %d: see internal/session.\n", max(*randomSeed, 1))
	for range 120 {
		r.step()
	}
	r.reconnect()
	r.finish()
	if err := os.WriteFile(*record, r.script.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func newRandomRun(t *testing.T, seed uint64) *randomRun {
	r := &randomRun{
		scene: &scene{t: t, held: map[string]*holding{}, shared: &sharing{lines: map[session.ChunkKey]session.EncodedChunk{}}},
		Rand:  rand.New(rand.NewPCG(seed, 0)), notes: map[string]note{}, members: map[string]string{}, buckets: map[string]*replica{},
	}
	r.configure(randomConfig)
	return r
}

// TestRandomConversations has commits, reconnects, subscriptions, compactions and
// slow reads follow each other at random. Whenever a checkpoint is complete, the
// client, which checks sums and lies about its positions at times, must hold what the
// queries give on the tables as of that checkpoint.
func TestRandomConversations(t *testing.T) {
	first := uint64(time.Now().UnixNano())
	n := *randomSeeds
	if *randomSeed != 0 {
		first, n = *randomSeed, 1
	}
	for i := range n {
		seed := first + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := newRandomRun(t, seed)
			defer r.close()
			for range 150 {
				r.step()
			}
			// All comes to rest. The first time an old lie may come to light.
			r.honest = true
			for range 2 {
				r.reconnect()
				r.finish()
			}
			if r.session == nil || r.completed == 0 {
				t.Errorf("%d checkpoints were completed, the last one: %v", r.completed, r.session != nil)
			}
		})
	}
}

// note is a row of the table notes.
type note struct{ owner, list, body string }

// replica is what the client holds of a bucket.
type replica struct {
	rows  map[string]string // by subkey
	sum   uint32
	after uint64
}

// randomRun is a scene with dice and a client that keeps rows.
type randomRun struct {
	*scene
	*rand.Rand
	notes   map[string]note   // the tables
	members map[string]string // id → list, of ann

	subscribed []string // lists
	buckets    map[string]*replica
	announced  map[string]protocol.Bucket
	want       map[string]string // what the client must hold when the checkpoint completes
	lied       bool              // about a position; sums may differ until it is found out
	honest     bool              // it does not lie again
	plain      bool              // it subscribes to nothing, and there are few rows
	script     bytes.Buffer      // what it did and got
	completed  int
	body       int
}

func (r *randomRun) step() {
	switch n := r.IntN(20); {
	case n < 6:
		r.change()
	case n < 7 && !r.plain:
		r.large()
	case n < 9:
		r.reconnect()
	case n < 10:
		_, err := r.store.Compact(context.Background(), storage.CompactOptions{Incremental: r.IntN(2) == 0})
		r.check(err)
	case n < 12:
		r.finish()
	case r.session == nil:
		r.reconnect()
	case n < 15:
		r.look()
	default:
		if r.session.Sending() {
			r.read()
		}
	}
}

// change commits a few changes of rows.
func (r *randomRun) change() {
	var lines []string
	for range 1 + r.IntN(5) {
		id, list := fmt.Sprint("n", r.IntN(30)), string(rune('a'+r.IntN(4)))
		if r.IntN(4) == 0 {
			m := fmt.Sprint("m", r.IntN(4))
			if _, there := r.members[m]; there {
				lines = append(lines, "delete members id="+m)
				delete(r.members, m)
			} else {
				lines = append(lines, fmt.Sprintf("insert members id=%s person=ann list=%s", m, list))
				r.members[m] = list
			}
			continue
		}
		_, there := r.notes[id]
		if there && r.IntN(3) == 0 {
			lines = append(lines, "delete notes id="+id)
			delete(r.notes, id)
			continue
		}
		verb := "insert"
		if there {
			verb = "update"
		}
		r.body++
		row := note{[]string{"ann", "bob"}[r.IntN(2)], list, fmt.Sprint("body", r.body)}
		lines = append(lines, fmt.Sprintf("%s notes id=%s owner=%s list=%s body=%s", verb, id, row.owner, row.list, row.body))
		r.notes[id] = row
	}
	r.commit(strings.Join(lines, "\n"))
}

// large commits more rows than one line holds, or deletes them again.
func (r *randomRun) large() {
	const n = 1500
	var lines []string
	if _, there := r.notes["n01000"]; there {
		for i := 1; i <= n; i++ {
			id := fmt.Sprintf("n%05d", i)
			lines = append(lines, "delete notes id="+id)
			delete(r.notes, id)
		}
		r.commit(strings.Join(lines, "\n"))
		return
	}
	list := string(rune('a' + r.IntN(4)))
	for i := 1; i <= n; i++ {
		r.notes[fmt.Sprintf("n%05d", i)] = note{"bob", list, "large"}
	}
	r.commit(fmt.Sprintf("fill notes 1 %d owner=bob list=%s body=large", n, list))
}

// reconnect begins a session with other subscriptions, and at times with positions
// that are not the client's.
func (r *randomRun) reconnect() {
	r.subscribed = nil
	for _, list := range []string{"a", "b", "c"} {
		if !r.plain && r.IntN(3) == 0 {
			r.subscribed = append(r.subscribed, list)
		}
	}
	type position struct {
		Name  string `json:"name"`
		After string `json:"after"`
	}
	type subscription struct {
		Stream     string            `json:"stream"`
		Parameters map[string]string `json:"parameters"`
		Priority   *int              `json:"override_priority"`
	}
	var request struct {
		Buckets []position `json:"buckets"`
		Streams struct {
			Defaults      bool           `json:"include_defaults"`
			Subscriptions []subscription `json:"subscriptions"`
		} `json:"streams"`
	}
	request.Streams.Defaults, request.Buckets, request.Streams.Subscriptions = true, []position{}, []subscription{}
	fmt.Fprintln(&r.script, "start")
	for _, name := range slices.Sorted(maps.Keys(r.buckets)) {
		after := r.buckets[name].after
		if !r.honest && r.IntN(15) == 0 {
			r.lied = true
			after = uint64(r.Int64N(1 << 20))
		}
		request.Buckets = append(request.Buckets, position{name, fmt.Sprint(after)})
	}
	if r.IntN(5) == 0 {
		request.Buckets = append(request.Buckets, position{"e.99#gone|0[]", "7"}, position{"1#other|0[\"ann\"]", "9223372036854775807"})
	}
	for _, list := range r.subscribed {
		s := subscription{Stream: "chosen", Parameters: map[string]string{"list": list}}
		if r.IntN(2) == 0 {
			p := r.IntN(4)
			s.Priority = &p
		}
		request.Streams.Subscriptions = append(request.Streams.Subscriptions, s)
	}
	body, err := json.Marshal(request)
	r.check(err)
	r.held = map[string]*holding{} // the transcripts' client sleeps
	r.announced = nil
	r.disconnect()
	r.connect("ann", string(body))
}

// truth is what the queries give now: rows of ann's, of lists that she is a member
// of, and of those that she has subscribed to.
func (r *randomRun) truth() map[string]string {
	lists := slices.Collect(maps.Values(r.members))
	lists = append(lists, r.subscribed...)
	rows := map[string]string{}
	for id, n := range r.notes {
		if n.owner == "ann" || slices.Contains(lists, n.list) {
			rows[id] = fmt.Sprintf(`{"id":%q,"owner":%q,"list":%q,"body":%q}`, id, n.owner, n.list, n.body)
		}
	}
	return rows
}

// look brings the session to the newest view.
func (r *randomRun) look() {
	_, dirty := r.watcher.Take()
	if r.snap != nil {
		r.snap.Close()
	}
	var err error
	r.snap, err = r.store.Snapshot()
	r.check(err)
	out, changed, err := r.session.Advance(nil, r.snap, dirty, 0)
	r.check(err)
	if !r.watched || dirty.All || dirty.Lookups {
		r.watched = true
		r.watcher.Set(r.session.Watched())
	}
	if changed {
		r.want = r.truth()
	} else if len(out) > 0 {
		r.t.Fatalf("nothing changed, and it says %s", out)
	}
	r.apply(out)
}

// read has the session send a little.
func (r *randomRun) read() {
	out, _, err := r.session.Chunk(nil, r.snap)
	r.check(err)
	r.apply(out)
}

// finish reads to the end of the newest checkpoint, and reports whether the client
// was content.
func (r *randomRun) finish() bool {
	if r.session == nil {
		return false
	}
	r.look()
	for r.session != nil && r.session.Sending() {
		r.read()
	}
	return r.session != nil
}

// apply does with lines what a client does.
func (r *randomRun) apply(lines []byte) {
	r.script.Write(lines)
	for text := range bytes.Lines(lines) {
		line, err := protocol.JSONLines.DecodeLine(text)
		r.check(err)
		switch line := line.(type) {
		case *protocol.Checkpoint:
			r.announced = map[string]protocol.Bucket{}
			r.expect(line.Buckets)
			maps.DeleteFunc(r.buckets, func(name string, _ *replica) bool { _, ok := r.announced[name]; return !ok })
		case *protocol.CheckpointDiff:
			if r.announced == nil {
				r.t.Fatal("a difference from nothing")
			}
			r.expect(line.UpdatedBuckets)
			for _, name := range line.RemovedBuckets {
				delete(r.announced, name)
				delete(r.buckets, name)
			}
		case *protocol.DataChunk:
			r.data(line)
		case *protocol.PartialCheckpointComplete:
			for _, b := range r.announced {
				if b.Priority <= line.Priority && r.sum(b.Name) != b.Checksum && !r.lied {
					r.t.Fatalf("priority %d is said to be complete, and %s is not", line.Priority, b.Name)
				}
			}
		case *protocol.CheckpointComplete:
			if !r.complete(line.LastOpID) {
				return
			}
		}
	}
}

func (r *randomRun) expect(list []protocol.Bucket) {
	for _, b := range list {
		r.announced[b.Name] = b
	}
}

func (r *randomRun) sum(name string) uint32 {
	if b := r.buckets[name]; b != nil {
		return b.sum
	}
	return 0
}

func (r *randomRun) data(chunk *protocol.DataChunk) {
	if _, ok := r.announced[chunk.Bucket]; !ok {
		r.t.Fatalf("data of %s, which was not announced", chunk.Bucket)
	}
	b := r.buckets[chunk.Bucket]
	if b == nil {
		b = &replica{rows: map[string]string{}}
		r.buckets[chunk.Bucket] = b
	}
	for _, op := range chunk.Ops {
		b.after = op.ID
		key := string(op.Subkey)
		switch op.Kind {
		case protocol.Put:
			b.rows[key] = string(op.Data)
		case protocol.Remove:
			delete(b.rows, key)
		case protocol.Clear:
			b.rows, b.sum = map[string]string{}, 0
		}
		b.sum += op.Checksum
	}
}

// complete checks the sums and the rows. A client whose sums differ drops those
// buckets and comes back; it must have lied.
func (r *randomRun) complete(last uint64) bool {
	content := true
	for name, b := range r.announced {
		if r.sum(name) != b.Checksum {
			if !r.lied {
				r.t.Fatalf("%s sums up to %d, announced is %d", name, r.sum(name), b.Checksum)
			}
			delete(r.buckets, name)
			content = false
		}
	}
	if !content {
		r.disconnect()
		return false
	}
	r.lied = false // what it holds is right
	for name := range r.announced {
		if r.buckets[name] == nil {
			r.buckets[name] = &replica{rows: map[string]string{}}
		}
		r.buckets[name].after = last
	}
	r.completed++
	got := map[string]string{}
	for _, b := range r.buckets {
		for _, row := range b.rows {
			var key struct{ ID string }
			r.check(json.Unmarshal([]byte(row), &key))
			got[key.ID] = row
		}
	}
	if diff := cmp.Diff(r.want, got); diff != "" {
		r.t.Fatalf("the client's rows differ (-tables +client):\n%s", diff)
	}
	return true
}
