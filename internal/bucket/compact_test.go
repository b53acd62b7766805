package bucket

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// memory is a bucket in a slice.
type memory struct {
	ops   []Op
	state State
	edits int
	// interrupt fails the edit after so many, if it is not negative.
	interrupt int
	// before is called before each edit.
	before func()
}

var errInterrupted = errors.New("interrupted")

func (m *memory) add(op Op) {
	m.ops = append(m.ops, op)
	m.state = m.state.Add(&op)
}

func (m *memory) Descend(after, until OpID, yield func(*Op) bool) error {
	for i := len(m.ops) - 1; i >= 0; i-- {
		op := m.ops[i]
		op.Data = bytes.Clone(op.Data)
		if op.ID > after && op.ID <= until && !yield(&op) {
			return nil
		}
		clear(op.Data) // it was valid until now
	}
	return nil
}

func (m *memory) Apply(e *Edit) error {
	if m.before != nil {
		m.before()
	}
	if m.interrupt == 0 {
		return errInterrupted
	}
	m.interrupt--
	m.edits++
	ops := slices.Clone(m.ops)
	for _, op := range e.Set {
		i := slices.IndexFunc(ops, func(o Op) bool { return o.ID == op.ID })
		if i < 0 {
			return fmt.Errorf("op %s is not there", op.ID)
		}
		ops[i] = op
		ops[i].Data = bytes.Clone(op.Data)
	}
	if e.Clear != nil {
		ops = slices.DeleteFunc(ops, func(o Op) bool { return o.ID <= e.Clear.ID })
		ops = slices.Insert(ops, 0, *e.Clear)
	}
	m.ops = ops
	m.state.Count += e.Count
	m.state.Bytes += e.Bytes
	return nil
}

// check compares the state with the ops.
func (m *memory) check() error {
	var want State
	for i := range m.ops {
		want = want.Add(&m.ops[i])
	}
	if m.state != want {
		return fmt.Errorf("state %+v, the ops give %+v", m.state, want)
	}
	return nil
}

// reader is what every client does: the reference that compaction is held to.
type reader struct {
	at   OpID
	sum  Checksum
	rows map[string]row
}

type row struct {
	op   OpID
	data string
}

func (r *reader) apply(op *Op) {
	key := op.ObjectType + "/" + op.ObjectID + "/" + op.Subkey.String()
	r.at = op.ID
	r.sum += op.Checksum
	switch op.Kind {
	case Put:
		r.rows[key] = row{op.ID, string(op.Data)}
	case Remove:
		delete(r.rows, key)
	case Clear:
		clear(r.rows)
		r.sum = op.Checksum
	}
}

func (r *reader) clone() *reader {
	c := *r
	c.rows = maps.Clone(r.rows)
	return &c
}

// contents are the rows without their ops, and what shows of those that share type
// and id: the newest.
func (r *reader) contents() (all, shown map[string]string) {
	all, shown = map[string]string{}, map[string]string{}
	newest := map[string]OpID{}
	for key, e := range r.rows {
		all[key] = e.data
		id := key[:strings.LastIndexByte(key, '/')]
		if e.op > newest[id] {
			newest[id], shown[id] = e.op, e.data
		}
	}
	return all, shown
}

func equal(a, b *reader) bool {
	all, shown := a.contents()
	wantAll, wantShown := b.contents()
	return a.sum == b.sum && maps.Equal(all, wantAll) && maps.Equal(shown, wantShown)
}

func testSeeds(t *testing.T, n uint64) (from, to uint64) {
	if s := os.Getenv("BUCKET_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("BUCKET_SEED: %v", err)
		}
		return seed, seed + 1
	}
	from = uint64(rand.Uint32())
	return from, from + n
}

// TestCompactionIsRightAtEveryPosition grows a bucket, compacts it at random
// moments, perhaps interrupted and with clients reading between its steps, and has
// clients at every position that ever was. All end as if nothing was compacted.
func TestCompactionIsRightAtEveryPosition(t *testing.T) {
	from, to := testSeeds(t, 60)
	var did Compacted
	for seed := from; seed < to; seed++ {
		d, err := everyPosition(seed)
		if err != nil {
			t.Fatalf("seed %d (BUCKET_SEED=%d repeats it): %v", seed, seed, err)
		}
		did.Add(d)
	}
	if to-from > 1 && (did.Moved == 0 || did.Cleared == 0 || did.Shifted == 0 || did.Bytes == 0) {
		t.Errorf("the dice never reached what is to be tested: %+v", did)
	}
}

func everyPosition(seed uint64) (did Compacted, err error) {
	rng := rand.New(rand.NewPCG(seed, 3))
	m := &memory{interrupt: -1}
	truth := &reader{rows: map[string]row{}} // never compacted
	clients := []*reader{truth.clone()}
	next, settled := OpID(1), OpID(0)
	objects := 1 + rng.IntN(40)
	live := map[string]bool{}
	// sync lets a client read up to the announced state, or only a part of it.
	sync := func(c *reader, limit int) error {
		for i := range m.ops {
			if m.ops[i].ID <= c.at {
				continue
			}
			if limit == 0 {
				return nil
			}
			limit--
			c.apply(&m.ops[i])
		}
		c.at = max(c.at, m.state.Last)
		if c.sum != m.state.Checksum {
			return fmt.Errorf("a client at %s sums to %d, announced %d", c.at, c.sum, m.state.Checksum)
		}
		if !equal(c, truth) {
			return fmt.Errorf("a client at %s has %v, want %v", c.at, c.rows, truth.rows)
		}
		return nil
	}
	for range 30 {
		for range rng.IntN(60) {
			n := rng.IntN(objects)
			if rng.IntN(3) == 0 {
				n %= 1 + objects/8 // hot ones
			}
			// Of each object id there are two source rows.
			op := Op{ID: next, Subkey: Subkey{byte(rng.IntN(2))}, ObjectType: "t", ObjectID: fmt.Sprint(n), Checksum: Checksum(rng.Uint32())}
			next += OpID(1 + rng.IntN(3))
			key := op.ObjectID + op.Subkey.String()
			if live[key] && rng.IntN(3) == 0 {
				op.Kind = Remove
			} else {
				op.Kind = Put
				op.Data = []byte(fmt.Sprint("v", op.ID, strings.Repeat("-", rng.IntN(20))))
			}
			live[key] = op.Kind == Put
			m.add(op)
			truth.apply(&op)
			if rng.IntN(8) == 0 {
				clients = append(clients, truth.clone()) // one that is up to date now
			}
		}
		for _, c := range clients {
			if rng.IntN(4) == 0 {
				if err := sync(c, rng.IntN(100)); err != nil {
					return did, err
				}
			}
		}
		if rng.IntN(2) == 0 {
			continue
		}
		var inStep error
		m.before = func() {
			// A client from the very beginning, and one that goes on.
			fresh := &reader{rows: map[string]row{}}
			inStep = errors.Join(inStep, m.check(), sync(fresh, -1), sync(clients[rng.IntN(len(clients))], rng.IntN(50)))
		}
		if rng.IntN(3) == 0 {
			m.interrupt = rng.IntN(3)
		}
		c := Compaction{Until: m.state.Last, Settled: settled, Keys: 64, Sample: rng.IntN(4) == 0}
		if rng.IntN(4) == 0 {
			c.Until = OpID(rng.IntN(int(m.state.Last) + 1))
		}
		if rng.IntN(4) == 0 {
			c.Settled = m.state.Last
		}
		d, err := Compact(m, c)
		m.interrupt, m.before = -1, nil
		if err != nil && !errors.Is(err, errInterrupted) {
			return did, err
		}
		did.Add(d)
		if err := errors.Join(inStep, m.check()); err != nil {
			return did, err
		}
		settled = c.Until
		clients = append(clients, &reader{rows: map[string]row{}})
	}
	for _, c := range clients {
		if err := sync(c.clone(), -1); err != nil {
			return did, err
		}
	}
	if d, err := Compact(m, Compaction{Until: m.state.Last, Settled: m.state.Last}); err != nil {
		return did, err
	} else {
		did.Add(d)
	}
	for _, c := range append(clients, &reader{rows: map[string]row{}}) {
		if err := sync(c, -1); err != nil {
			return did, fmt.Errorf("after all is compacted: %w", err)
		}
	}
	return did, m.check()
}

// TestManyParts walks a bucket of more rows than may be remembered.
func TestManyParts(t *testing.T) {
	m := &memory{interrupt: -1}
	truth := &reader{rows: map[string]row{}}
	for i := range 3000 {
		op := Op{ID: OpID(i + 1), Kind: Put, ObjectID: fmt.Sprint(i % 1000), Checksum: Checksum(i), Data: []byte(fmt.Sprint(i))}
		m.add(op)
		truth.apply(&op)
	}
	did, err := Compact(m, Compaction{Until: 2500, Keys: 64, Sample: true})
	if err != nil {
		t.Fatal(err)
	}
	// Up to 2500 the last 1000 are live; what is before becomes one CLEAR.
	if did.Cleared != 1500 || did.Moved != 0 || m.state.Count != 1501 {
		t.Errorf("did %+v, %d ops left", did, m.state.Count)
	}
	fresh := &reader{rows: map[string]row{}}
	for i := range m.ops {
		fresh.apply(&m.ops[i])
	}
	if !equal(fresh, truth) {
		t.Error("a new client does not get all rows")
	}
	before := m.edits
	for i := range 20 {
		m.add(Op{ID: OpID(3001 + i), Kind: Put, ObjectID: fmt.Sprint(i % 10), Checksum: 1})
	}
	if _, err := Compact(m, Compaction{Until: 2500, Keys: 64, Sample: true}); err != nil || m.edits != before {
		t.Errorf("a bucket with nothing to gain was edited: %v", err)
	}
}

func TestCompactionRules(t *testing.T) {
	for _, test := range []struct {
		name, ops, want string
		settled         OpID
	}{
		{name: "nothing", ops: "", want: ""},
		{name: "rows stay", ops: "Pa Pb Pc", want: "1Pa 2Pb 3Pc"},
		{name: "a superseded PUT", ops: "Pa Pb Pb", want: "1Pa 2M 3Pb"},
		{name: "a single one at the beginning is no run", ops: "Pa Pa", want: "1M 2Pa"},
		{name: "several are", ops: "Pa Pa Pa Pb", want: "2C3 3Pa 4Pb"},
		{name: "a PUT that is removed", ops: "Pb Pa Ra", want: "1Pb 2M 3Ra"},
		{name: "a REMOVE stays while a row is before it", ops: "Pb Pa Ra Pc", want: "1Pb 2M 3Ra 4Pc"},
		{name: "a REMOVE at the beginning goes", ops: "Pa Ra Pb", want: "2C3 3Pb"},
		{name: "a superseded REMOVE", ops: "Pb Pa Ra Pa", want: "1Pb 2M 3M 4Pa"},
		{name: "all gone", ops: "Pa Ra", want: "2C3"},
		{name: "a CLEAR grows", ops: "C Pa Pa Pb", want: "2C3 3Pa 4Pb"},
		{name: "a CLEAR alone stays", ops: "C Pa Pb", want: "1C1 2Pa 3Pb"},
		{name: "a cold row", ops: "Pa" + strings.Repeat(" Pb", 200), settled: 150,
			// It takes the newest place up to 150.
			want: "149C11175 150Pa" + moves(151, 200) + " 201Pb"},
		{name: "a cold row in what is not settled", ops: "Pa" + strings.Repeat(" Pb", 200), settled: 0,
			want: "1Pa" + moves(2, 200) + " 201Pb"},
		{name: "rows keep their order, a REMOVE its place", ops: "Pa Px Pb" + strings.Repeat(" Pc", 100) + " Rx Pc", settled: 105,
			want: "101C5151 102Pa 103Pb 104Rx 105Pc"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := &memory{interrupt: -1}
			for i, s := range strings.Fields(test.ops) {
				op := Op{ID: OpID(i + 1), Checksum: Checksum(i + 1), ObjectID: s[1:]}
				op.Kind = map[byte]OpKind{'P': Put, 'R': Remove, 'C': Clear, 'M': Move}[s[0]]
				m.add(op)
			}
			if _, err := Compact(m, Compaction{Until: MaxOpID, Settled: test.settled}); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, op := range m.ops {
				s := op.ID.String() + op.Kind.String()[:1] + op.ObjectID
				if op.Kind == Clear {
					s += fmt.Sprint(uint32(op.Checksum))
				} else if op.Checksum != Checksum(op.ID) {
					s += " with another checksum"
				}
				got = append(got, s)
			}
			if s := strings.Join(got, " "); s != test.want {
				t.Errorf("got  %s\nwant %s", s, test.want)
			}
			if err := m.check(); err != nil {
				t.Error(err)
			}
		})
	}
}

// moves are the MOVEs of a range, each after a space.
func moves(from, to int) string {
	var b strings.Builder
	for id := from; id <= to; id++ {
		fmt.Fprintf(&b, " %dM", id)
	}
	return b.String()
}

// TestManyRowsShift moves more rows than are read ahead at a time.
func TestManyRowsShift(t *testing.T) {
	m := &memory{interrupt: -1}
	truth := &reader{rows: map[string]row{}}
	for i := range 5000 {
		op := Op{ID: OpID(i + 1), Kind: Put, ObjectID: fmt.Sprint(min(i, 1500)), Checksum: Checksum(i), Data: bytes.Repeat([]byte{byte(i)}, i%700)}
		m.add(op)
		truth.apply(&op)
	}
	did, err := Compact(m, Compaction{Until: 5000, Settled: 5000})
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(1500); did.Shifted != want || m.state.Count != want+2 {
		t.Errorf("did %+v, %d ops left", did, m.state.Count)
	}
	fresh := &reader{rows: map[string]row{}}
	for i := range m.ops {
		fresh.apply(&m.ops[i])
	}
	if err := m.check(); err != nil || !equal(fresh, truth) {
		t.Errorf("a new client does not get all rows: %v", err)
	}
}
