package replicate

import "unsafe"

// slab hands out slices of T from blocks, which it uses again after reset. So what
// is made for a batch costs no garbage, and is found side by side.
type slab[T any] struct {
	blocks [][]T
	at     int // the block handed out from
	used   int // of it
}

// A slab keeps slabKept blocks when it is reset: what a usual batch needs, and not
// what the largest one did.
const (
	slabBlock = 1024
	slabKept  = 32
)

// take returns n zero values, to be forgotten at the next reset.
func (s *slab[T]) take(n int) []T {
	if n > slabBlock/4 {
		return make([]T, n)
	}
	if len(s.blocks) > 0 && s.used+n > slabBlock {
		s.at, s.used = s.at+1, 0
	}
	if s.at == len(s.blocks) {
		s.blocks = append(s.blocks, make([]T, slabBlock))
	}
	out := s.blocks[s.at][s.used : s.used+n : s.used+n]
	s.used += n
	return out
}

func (s *slab[T]) one() *T { return &s.take(1)[0] }

func (s *slab[T]) reset() {
	for i := range s.blocks[:min(s.at+1, len(s.blocks))] {
		clear(s.blocks[i])
	}
	if len(s.blocks) > slabKept {
		clear(s.blocks[slabKept:])
		s.blocks = s.blocks[:slabKept]
	}
	s.at, s.used = 0, 0
}

// arena hands out memory that is never used again: a block is freed when nothing of
// it is referred to any more. It serves evaluated rows, which are made many at a
// time and forgotten together.
type arena struct {
	bytes []byte
	rows  []Row
	puts  []Put
}

const (
	arenaBytes = 32 << 10
	arenaRows  = 128
)

func (a *arena) row() *Row {
	if len(a.rows) == 0 {
		a.rows = make([]Row, arenaRows)
	}
	r := &a.rows[0]
	a.rows = a.rows[1:]
	return r
}

// room returns an empty slice for n puts.
func (a *arena) room(n int) []Put {
	if n > len(a.puts) {
		if n > arenaRows/4 {
			return make([]Put, 0, n)
		}
		a.puts = make([]Put, arenaRows)
	}
	out := a.puts[:0:n]
	a.puts = a.puts[n:]
	return out
}

func (a *arena) copy(b []byte) []byte {
	if len(b) > cap(a.bytes)-len(a.bytes) {
		if len(b) > arenaBytes/8 {
			return append([]byte(nil), b...)
		}
		a.bytes = make([]byte, 0, arenaBytes)
	}
	start := len(a.bytes)
	a.bytes = append(a.bytes, b...)
	return a.bytes[start:len(a.bytes):len(a.bytes)]
}

// text returns a copy of b as a string.
func (a *arena) text(b []byte) string {
	c := a.copy(b)
	return unsafe.String(unsafe.SliceData(c), len(c))
}
