package session_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/checkpoint"
	"github.com/millrace-sync/millrace/internal/deploy"
	"github.com/millrace-sync/millrace/internal/replicate"
	"github.com/millrace-sync/millrace/internal/session"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/pebblestore"
	"github.com/millrace-sync/millrace/internal/streams"
	"github.com/millrace-sync/millrace/protocol"
)

var update = flag.Bool("update", false, "write what transcripts give as what they are to give")

// TestTranscripts plays the conversations in testdata/transcripts: blocks of a verb
// with its input, a line "----", and the output, with a blank line between blocks.
//
//	config             a sync config
//	commit             rows, as "insert|update|delete table column=value …", or
//	                   "fill table from to column=value …" for many
//	compact            all that can be, as the command does
//	connect user       a request's body; what was connected before is gone
//	advance [write=N]  the newest view, with the user's newest write checkpoint
//	chunk              one call of Chunk
//	expire after=N     the view, while the bucket after N others is read
//	sync [write=N]     advance, and chunks to the end of the checkpoint
//
// Every checkpoint that completes is checked as clients do: by its checksums.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/transcripts/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(text), nil)
			if !*update {
				// Lines that come from other sessions are the same lines.
				shared := &sharing{lines: map[session.ChunkKey]session.EncodedChunk{}}
				play(t, string(text), shared)
				if diff := cmp.Diff(got, play(t, string(text), shared)); diff != "" {
					t.Errorf("with lines that sessions share it differs (-without +with):\n%s", diff)
				}
				if strings.Contains(got, `{"data":`) && shared.hits == 0 {
					t.Error("nothing was shared")
				}
			}
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(text), got); diff != "" {
				t.Errorf("the conversation differs (-want +got):\n%s", diff)
			}
		})
	}
}

// expiring is a view that is no longer kept when left buckets have been read.
type expiring struct {
	session.View
	left int
}

func (e *expiring) Ops(key storage.BucketKey, after bucket.OpID, yield func(*bucket.Op) bool) error {
	if e.left--; e.left >= 0 {
		return e.View.Ops(key, after, yield)
	}
	err := e.View.Ops(key, after, func(op *bucket.Op) bool {
		yield(op)
		return false
	})
	return errors.Join(err, storage.ErrExpired)
}

// sharing keeps every line.
type sharing struct {
	lines map[session.ChunkKey]session.EncodedChunk
	hits  int
	off   bool
}

func (s *scene) share(on bool) {
	if c, ok := s.shared.(*sharing); ok {
		c.off = !on
	}
}

func (s *sharing) Get(k session.ChunkKey) (session.EncodedChunk, bool) {
	c, ok := s.lines[k]
	if s.off {
		return c, false
	}
	if ok {
		s.hits++
	}
	return c, ok
}

func (s *sharing) Put(k session.ChunkKey, c session.EncodedChunk) {
	c.Line = bytes.Clone(c.Line)
	s.lines[k] = c
}

func play(t *testing.T, text string, shared session.Chunks) string {
	s := &scene{t: t, held: map[string]*holding{}, shared: shared}
	defer s.close()
	var out []string
	for _, block := range strings.Split(strings.TrimSpace(text), "\n\n") {
		var comments []string
		lines := strings.Split(block, "\n")
		for len(lines) > 0 && strings.HasPrefix(lines[0], "#") {
			comments, lines = append(comments, lines[0]), lines[1:]
		}
		end := slices.Index(lines, "----")
		if end < 0 {
			end = len(lines)
		}
		if end == 0 {
			out = append(out, block)
			continue
		}
		result := s.do(strings.Fields(lines[0]), strings.Join(lines[1:end], "\n"))
		block = strings.Join(append(comments, lines[:end]...), "\n") + "\n----"
		if result = strings.TrimRight(result, "\n"); result != "" {
			block += "\n" + result
		}
		out = append(out, block)
	}
	return strings.Join(out, "\n\n") + "\n"
}

// scene is a whole service without clocks and sockets, and one client.
type scene struct {
	t       *testing.T
	store   *pebblestore.Store
	hub     *checkpoint.Hub
	deploy  *deploy.Deploy
	applier *replicate.Applier
	lsn     source.LSN
	changes checkpoint.Changes

	shared  session.Chunks
	session *session.Session
	watcher *checkpoint.Watcher
	snap    *pebblestore.Snapshot
	view    session.View // snap, unless it is to expire
	watched bool

	target map[string]protocol.Bucket
	held   map[string]*holding
}

// holding is what the client has of a bucket.
type holding struct {
	sum   uint32
	after uint64
}

func (s *scene) close() {
	s.disconnect()
	if s.store != nil {
		s.check(s.store.Close())
	}
}

func (s *scene) disconnect() {
	if s.session == nil {
		return
	}
	s.watcher.Close()
	if s.snap != nil {
		s.snap.Close()
	}
	s.session, s.snap, s.watched, s.target = nil, nil, false, nil
}

func (s *scene) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) do(verb []string, input string) string {
	args := map[string]string{}
	for _, a := range verb[1:] {
		k, v, _ := strings.Cut(a, "=")
		args[k] = v
	}
	write, _ := strconv.ParseUint(args["write"], 10, 64)
	switch verb[0] {
	case "config":
		s.configure(input)
	case "commit":
		return s.commit(input)
	case "compact":
		_, err := s.store.Compact(context.Background(), storage.CompactOptions{})
		s.check(err)
	case "connect":
		return s.connect(verb[1], input)
	case "advance":
		out, _ := s.advance(write)
		return out
	case "chunk":
		out, _ := s.chunk()
		return out
	case "expire": // the view, in the middle of the bucket after so many
		n, err := strconv.Atoi(args["after"])
		s.check(err)
		s.view = &expiring{View: s.snap, left: n}
		s.share(false) // so that it is read
	case "sync":
		out, ok := s.advance(write)
		for ok && s.session.Sending() {
			var more string
			more, ok = s.chunk()
			out += more
		}
		return out
	default:
		s.t.Fatalf("unknown verb %q", verb[0])
	}
	return ""
}

// text is a type whose values are their bytes.
type text struct{}

func (text) Name() string { return "text" }

func (text) Decode(d source.Datum, _ source.Form) (source.Value, error) {
	if d.Encoding == source.Null {
		return source.Value{}, nil
	}
	return source.String(string(d.Bytes)), nil
}

func column(name string, key bool) source.Column {
	return source.Column{Name: name, Type: text{}, Key: key}
}

var tables = map[string]*source.Table{
	"notes":   {ID: 7, Schema: "public", Name: "notes", Columns: []source.Column{column("id", true), column("owner", false), column("list", false), column("body", false)}},
	"members": {ID: 8, Schema: "public", Name: "members", Columns: []source.Column{column("id", true), column("person", false), column("list", false)}},
}

func (s *scene) configure(config string) {
	plan, diagnostics := streams.Compile(streams.Source{File: "sync.yaml", Text: config})
	if plan == nil {
		s.t.Fatalf("sync config: %s", streams.Format(diagnostics))
	}
	var err error
	s.store, err = pebblestore.Open(context.Background(), pebblestore.Options{Dir: "data", FS: vfs.NewMem(), CacheSize: 1 << 20, MemTableSize: 1 << 20})
	s.check(err)
	rec := s.store.Recovered()
	s.hub = checkpoint.NewHub(rec.Checkpoint)
	diff := deploy.Compare(nil, nil, plan, rec.NextDefinition)
	for i := range diff.Definitions {
		diff.Definitions[i].State = storage.Serving
	}
	s.check(s.store.Commit(context.Background(), &storage.Batch{Definitions: diff.Definitions, Publish: true}))
	s.deploy = deploy.New(plan, diff.Definitions, "e")
	refetch := func(*source.Table, []source.Datum, source.XID) (replicate.Refetched, error) {
		return replicate.Refetched{}, errors.New("nothing was left out")
	}
	s.applier = replicate.NewApplier(s.store, refetch, replicate.NewEvaluator([32]byte{}, s.deploy, nil), rec.NextOp, replicate.DefaultLimits)
}

// commit replicates one transaction.
func (s *scene) commit(input string) string {
	s.lsn++
	tx := &source.Txn{XID: source.XID(s.lsn), Commit: s.lsn}
	for _, line := range strings.Split(input, "\n") {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		table := tables[words[1]]
		switch words[0] {
		case "fill":
			from, _ := strconv.Atoi(words[2])
			to, _ := strconv.Atoi(words[3])
			for i := from; i <= to; i++ {
				tx.Changes = append(tx.Changes, source.Change{Kind: source.Insert, Table: table, New: row(table, append(words[4:], fmt.Sprintf("id=n%05d", i)))})
			}
		case "insert":
			tx.Changes = append(tx.Changes, source.Change{Kind: source.Insert, Table: table, New: row(table, words[2:])})
		case "update":
			tx.Changes = append(tx.Changes, source.Change{Kind: source.Update, Table: table, New: row(table, words[2:])})
		case "delete":
			tx.Changes = append(tx.Changes, source.Change{Kind: source.Delete, Table: table, Old: row(table, words[2:])})
		default:
			s.t.Fatalf("unknown change %q", line)
		}
	}
	s.check(s.applier.Apply(tx, s.write))
	s.check(s.applier.Flush(s.lsn, s.write))
	return s.hub.Latest().String()
}

func row(t *source.Table, values []string) []source.Datum {
	out := make([]source.Datum, len(t.Columns))
	for i, c := range t.Columns {
		out[i] = source.Datum{Encoding: source.Null}
		for _, v := range values {
			if name, value, _ := strings.Cut(v, "="); name == c.Name {
				out[i] = source.Datum{Encoding: source.Text, Bytes: []byte(value)}
			}
		}
	}
	return out
}

func (s *scene) write(b *storage.Batch) error {
	if err := s.store.Commit(context.Background(), b); err != nil {
		return err
	}
	for i := range b.Ops {
		if k := b.Ops[i].Bucket; !slices.Contains(s.changes.Buckets, k) {
			s.changes.Buckets = append(s.changes.Buckets, k)
		}
	}
	for i := range b.Lookups {
		if k := b.Lookups[i].Lookup; !slices.Contains(s.changes.Lookups, k) {
			s.changes.Lookups = append(s.changes.Lookups, k)
		}
	}
	if b.Publish {
		snap, err := s.store.Snapshot()
		if err != nil {
			return err
		}
		defer snap.Close()
		s.hub.Publish(snap.Checkpoint(), s.changes)
		s.changes = checkpoint.Changes{}
	}
	return nil
}

func (s *scene) connect(user, body string) string {
	s.disconnect()
	if body == "" {
		body = "{}"
	}
	req, err := protocol.DecodeRequest([]byte(body))
	s.check(err)
	claims, _ := json.Marshal(map[string]string{"sub": user})
	r := streams.Request{Claims: claims, Parameters: req.Parameters, IncludeDefaults: req.IncludeDefaults}
	for _, sub := range req.Subscriptions {
		r.Subscriptions = append(r.Subscriptions, streams.Subscription{Stream: sub.Stream, Parameters: sub.Parameters, Priority: sub.Priority})
	}
	positions := map[string]bucket.OpID{}
	held := map[string]*holding{}
	for _, b := range req.Buckets {
		positions[b.Name] = bucket.OpID(b.After)
		if held[b.Name] = s.held[b.Name]; held[b.Name] == nil {
			held[b.Name] = &holding{} // the client claims what it was never sent
		}
	}
	s.held = held
	s.session = session.New(session.Config{
		Deploy: s.deploy, Request: r, Positions: positions, Codec: protocol.JSONLines,
		Limits: streams.Limits{Buckets: 5, LookupResults: 100}, Chunks: s.shared,
	})
	s.watcher = s.hub.Watch(user)
	return ""
}

func (s *scene) advance(write uint64) (string, bool) {
	_, dirty := s.watcher.Take()
	if s.snap != nil {
		s.snap.Close()
	}
	var err error
	s.snap, err = s.store.Snapshot()
	s.check(err)
	s.view = s.snap
	s.share(true)
	out, _, err := s.session.Advance(nil, s.snap, dirty, write)
	if err != nil {
		return "error: " + err.Error(), false
	}
	if !s.watched || dirty.All || dirty.Lookups {
		s.watched = true
		s.watcher.Set(s.session.Watched())
	}
	return s.receive(out), true
}

func (s *scene) chunk() (string, bool) {
	out, p, err := s.session.Chunk(nil, s.view)
	if errors.Is(err, storage.ErrExpired) {
		return s.receive(out) + "expired", false
	}
	if err != nil {
		return "error: " + err.Error(), false
	}
	if p.Done != !s.session.Sending() {
		s.t.Errorf("Chunk says done %v, Sending %v", p.Done, s.session.Sending())
	}
	return s.receive(out), true
}

// receive does with lines what a client does, and returns them, long ones summed up.
func (s *scene) receive(lines []byte) string {
	var out strings.Builder
	for line := range bytes.Lines(lines) {
		l, err := protocol.JSONLines.DecodeLine(line)
		if err != nil {
			s.t.Fatalf("line %.200s: %v", line, err)
		}
		switch l := l.(type) {
		case *protocol.Checkpoint:
			s.target = map[string]protocol.Bucket{}
			s.announce(l.Buckets)
			for name := range s.held {
				if _, ok := s.target[name]; !ok {
					delete(s.held, name)
				}
			}
		case *protocol.CheckpointDiff:
			s.announce(l.UpdatedBuckets)
			for _, name := range l.RemovedBuckets {
				delete(s.target, name)
				delete(s.held, name)
			}
		case *protocol.DataChunk:
			s.data(l)
			if len(l.Ops) > 5 {
				line = fmt.Appendf(nil, "data %s after=%d ops=%d has_more=%v next_after=%d\n", l.Bucket, l.After, len(l.Ops), l.HasMore, l.NextAfter)
			}
		case *protocol.CheckpointComplete:
			for name, b := range s.target {
				var sum uint32
				if h := s.held[name]; h != nil {
					sum = h.sum
				}
				if sum != b.Checksum {
					line = fmt.Appendf(line, "the client finds that %s does not sum up\n", name)
					delete(s.held, name)
				}
			}
		}
		out.Write(line)
	}
	return out.String()
}

func (s *scene) announce(list []protocol.Bucket) {
	for _, b := range list {
		s.target[b.Name] = b
	}
}

func (s *scene) data(l *protocol.DataChunk) {
	h := s.held[l.Bucket]
	if h == nil {
		h = &holding{}
		s.held[l.Bucket] = h
	}
	for _, op := range l.Ops {
		if op.ID <= h.after {
			s.t.Errorf("op %d of %s comes after %d", op.ID, l.Bucket, h.after)
		}
		h.after = op.ID
		if op.Kind == protocol.Clear {
			h.sum = 0
		}
		h.sum += op.Checksum
	}
}
