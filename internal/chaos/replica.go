//go:build unix

package chaos

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/millrace-sync/millrace/protocol"
)

// A Row is a row as a client shows it.
type Row struct {
	Table, ID string
	Data      string         // its JSON, keys in order
	Fields    map[string]any // its values; numbers as json.Number
	Group     string         // which seal it counts for; empty if none
	Hash      uint64         // what it adds to the seal's digest
}

// rowKey tells rows apart.
type rowKey struct{ table, id string }

// Rows is what a client shows.
type Rows map[rowKey]*Row

// Replica is a model of what a client keeps of the lines that it gets, and checks
// whatever a client can check of them. It belongs to one goroutine.
type Replica struct {
	buckets map[string]*held
	target  map[string]protocol.Bucket // the checkpoint that is on its way
	rows    Rows                       // as of the last complete checkpoint
	Write   uint64                     // the write checkpoint that came with it
	write   uint64
}

// held is what a replica has of one bucket.
type held struct {
	after   uint64
	sum     uint32
	entries map[string]entry // by table, id and subkey
}

type entry struct {
	op  uint64
	row *Row
}

// NewReplica returns an empty one.
func NewReplica() *Replica {
	return &Replica{buckets: map[string]*held{}, rows: Rows{}}
}

// Clone returns a copy, from which a client may go on as from a backup of its file.
func (r *Replica) Clone() *Replica {
	c := &Replica{buckets: map[string]*held{}, rows: maps.Clone(r.rows), Write: r.Write}
	for name, b := range r.buckets {
		c.buckets[name] = &held{b.after, b.sum, maps.Clone(b.entries)}
	}
	return c
}

// Rows returns what is shown: the state at the last complete checkpoint.
func (r *Replica) Rows() Rows { return r.rows }

// Positions returns what a request says of the buckets held.
func (r *Replica) Positions() []protocol.BucketPosition {
	var list []protocol.BucketPosition
	for _, name := range slices.Sorted(maps.Keys(r.buckets)) {
		list = append(list, protocol.BucketPosition{Name: name, After: r.buckets[name].after})
	}
	return list
}

// Receive takes a line. It reports whether that completed a checkpoint. An error is
// a line that a service must not send.
func (r *Replica) Receive(line protocol.Line) (complete bool, err error) {
	switch l := line.(type) {
	case *protocol.Checkpoint:
		r.target = map[string]protocol.Bucket{}
		for _, b := range l.Buckets {
			if _, twice := r.target[b.Name]; twice {
				return false, fmt.Errorf("checkpoint %d lists bucket %s twice", l.LastOpID, b.Name)
			}
			r.target[b.Name] = b
		}
		maps.DeleteFunc(r.buckets, func(name string, _ *held) bool { _, ok := r.target[name]; return !ok })
		r.write = l.WriteCheckpoint
	case *protocol.CheckpointDiff:
		if r.target == nil {
			return false, fmt.Errorf("the first line is a diff")
		}
		for _, name := range l.RemovedBuckets {
			delete(r.target, name)
			delete(r.buckets, name)
		}
		for _, b := range l.UpdatedBuckets {
			r.target[b.Name] = b
		}
		r.write = l.WriteCheckpoint
	case *protocol.DataChunk:
		return false, r.store(l)
	case *protocol.PartialCheckpointComplete:
		return false, r.verify(l.LastOpID, l.Priority)
	case *protocol.CheckpointComplete:
		if err := r.verify(l.LastOpID, 3); err != nil {
			return false, err
		}
		r.show(l.LastOpID)
		return true, nil
	}
	return false, nil
}

func (r *Replica) bucket(name string) *held {
	b := r.buckets[name]
	if b == nil {
		b = &held{entries: map[string]entry{}}
		r.buckets[name] = b
	}
	return b
}

func (r *Replica) store(l *protocol.DataChunk) error {
	if _, ok := r.target[l.Bucket]; !ok {
		return fmt.Errorf("data of bucket %s, which is not in the checkpoint", l.Bucket)
	}
	b := r.bucket(l.Bucket)
	for i := range l.Ops {
		op := &l.Ops[i]
		if op.ID <= b.after {
			return fmt.Errorf("bucket %s: op %d came after %d", l.Bucket, op.ID, b.after)
		}
		b.after, b.sum = op.ID, b.sum+op.Checksum
		key := op.ObjectType + "/" + op.ObjectID + "/" + string(op.Subkey)
		switch op.Kind {
		case protocol.Put:
			row, err := newRow(op.ObjectType, op.ObjectID, op.Data)
			if err != nil {
				return fmt.Errorf("bucket %s: op %d: %w", l.Bucket, op.ID, err)
			}
			b.entries[key] = entry{op.ID, row}
		case protocol.Remove:
			delete(b.entries, key)
		case protocol.Clear:
			clear(b.entries)
			b.sum = op.Checksum
		}
	}
	return nil
}

// verify compares the checksums of the buckets up to a priority.
func (r *Replica) verify(at uint64, priority int) error {
	for name, want := range r.target {
		if got := r.bucket(name).sum; want.Priority <= priority && got != want.Checksum {
			return fmt.Errorf("checkpoint %d: bucket %s sums to %d, announced %d", at, name, got, want.Checksum)
		}
	}
	return nil
}

func (r *Replica) show(at uint64) {
	r.rows = Rows{}
	newest := map[rowKey]uint64{}
	for _, b := range r.buckets {
		b.after = max(b.after, at)
		for _, e := range b.entries {
			if k := (rowKey{e.row.Table, e.row.ID}); e.op > newest[k] {
				newest[k], r.rows[k] = e.op, e.row
			}
		}
	}
	r.Write = r.write
}

// newRow reads a row's JSON.
func newRow(table, id string, data []byte) (*Row, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	r := &Row{Table: table, ID: id}
	if err := d.Decode(&r.Fields); err != nil {
		return nil, fmt.Errorf("row %s/%s: %w", table, id, err)
	}
	text, err := json.Marshal(r.Fields)
	if err != nil {
		return nil, fmt.Errorf("row %s/%s: %w", table, id, err)
	}
	r.Data = string(text)
	r.Group, r.Hash = r.sealed()
	return r, nil
}

// diff says how rows differ; empty if they do not.
func diff(want, got Rows) string {
	var text strings.Builder
	differences := 0
	say := func(format string, args ...any) {
		if differences++; differences <= 10 {
			fmt.Fprintf(&text, "\n  "+format, args...)
		}
	}
	for k, w := range want {
		switch g := got[k]; {
		case g == nil:
			say("missing %s/%s %.200s", k.table, k.id, w.Data)
		case g.Data != w.Data:
			say("%s/%s is %.200s, want %.200s", k.table, k.id, g.Data, w.Data)
		}
	}
	for k, g := range got {
		if want[k] == nil {
			say("%s/%s is too much: %.200s", k.table, k.id, g.Data)
		}
	}
	if differences == 0 {
		return ""
	}
	return fmt.Sprintf("%d rows shown, %d wanted, %d differences:%s", len(got), len(want), differences, text.String())
}
