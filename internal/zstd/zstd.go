// Package zstd compresses a stream into one Zstandard frame (RFC 8878) without
// keeping anything of it between two writes: what a connection that waits for hours
// must not cost. httpapi uses it for responses.
//
// Each write becomes blocks that refer to nothing before them. Ordinary encoders
// either hold a window and tables for every stream, or make a frame of every write;
// and there are clients that stop at the end of the first frame.
//
// It is pure. Invariants:
//   - AppendHeader, any number of AppendBlocks and AppendEnd make a valid frame, and
//     a decoder has all of a write once it has its blocks.
//   - Blocks use no repeated offsets and no tables of earlier blocks, so they may come
//     from different Encoders.
package zstd

import (
	"encoding/binary"
	"math/bits"

	"github.com/klauspost/compress/huff0"
)

const (
	// blockBytes is the most that a block stands for: also the frame's window.
	blockBytes = 128 << 10
	windowLog  = 17
	// minCompress is the size below which a block is not worth compressing.
	minCompress = 64

	hashLog   = 14
	minMatch  = 5
	skipShift = 6 // after so many misses (as a power of two) every other byte is tried
)

// The types of a block, in the place where its header has them.
const (
	rawBlock        = 0 << 1
	compressedBlock = 2 << 1
	lastBlock       = 1
)

// AppendHeader appends the beginning of a frame of unknown length.
func AppendHeader(dst []byte) []byte {
	return append(dst, 0x28, 0xb5, 0x2f, 0xfd, 0, (windowLog-10)<<3)
}

// AppendEnd appends the end of a frame.
func AppendEnd(dst []byte) []byte { return appendBlockHeader(dst, rawBlock|lastBlock, 0) }

func appendBlockHeader(dst []byte, kind, size int) []byte {
	h := uint32(size)<<3 | uint32(kind)
	return append(dst, byte(h), byte(h>>8), byte(h>>16))
}

// Encoder holds the tables that compressing needs while it goes on: some 300 KB. It
// is used by one goroutine at a time, and by any number of frames.
type Encoder struct {
	// table maps a hash to where it was last seen, plus base; what is less than base
	// is of an earlier block.
	table [1 << hashLog]uint32
	base  uint32

	literals  []byte
	sequences []sequence
	huff      huff0.Scratch
}

// sequence is a run of literals and the match that follows it.
type sequence struct{ literals, match, offset uint32 }

// AppendBlocks appends what stands for src.
func (e *Encoder) AppendBlocks(dst, src []byte) []byte {
	for len(src) > 0 {
		n := min(len(src), blockBytes)
		dst = e.appendBlock(dst, src[:n])
		src = src[n:]
	}
	return dst
}

func (e *Encoder) appendBlock(dst, src []byte) []byte {
	start := len(dst)
	if len(src) >= minCompress {
		dst = appendBlockHeader(dst, 0, 0)
		e.match(src)
		dst = e.appendLiterals(dst)
		dst = e.appendSequences(dst)
		if size := len(dst) - start - 3; size < len(src) {
			appendBlockHeader(dst[:start], compressedBlock, size)
			return dst
		}
		dst = dst[:start]
	}
	return append(appendBlockHeader(dst, rawBlock, len(src)), src...)
}

// match splits src into literals and sequences.
func (e *Encoder) match(src []byte) {
	if e.base > 1<<31 {
		clear(e.table[:])
		e.base = 0
	}
	// A position p is stored as base+p, and base is more than any stored before.
	e.base++
	base := e.base
	e.base += uint32(len(src))
	e.literals, e.sequences = e.literals[:0], e.sequences[:0]
	anchor, p := 0, 0
	for limit := len(src) - 8; p <= limit; {
		v := binary.LittleEndian.Uint64(src[p:])
		slot := &e.table[v<<(64-8*minMatch)*0x9e3779b185ebca87>>(64-hashLog)]
		candidate := int(*slot) - int(base)
		*slot = base + uint32(p)
		if candidate < 0 || (v^binary.LittleEndian.Uint64(src[candidate:]))<<(64-8*minMatch) != 0 {
			p += 1 + (p-anchor)>>skipShift
			continue
		}
		length := minMatch + matching(src[candidate+minMatch:], src[p+minMatch:])
		for p > anchor && candidate > 0 && src[p-1] == src[candidate-1] {
			p, candidate, length = p-1, candidate-1, length+1
		}
		e.literals = append(e.literals, src[anchor:p]...)
		e.sequences = append(e.sequences, sequence{uint32(p - anchor), uint32(length), uint32(p - candidate)})
		end := p + length
		// What the match covers is worth finding again, its end above all.
		for _, q := range [2]int{p + 2, end - 2} {
			if q <= limit {
				v := binary.LittleEndian.Uint64(src[q:])
				e.table[v<<(64-8*minMatch)*0x9e3779b185ebca87>>(64-hashLog)] = base + uint32(q)
			}
		}
		anchor, p = end, end
	}
	e.literals = append(e.literals, src[anchor:]...)
}

// matching returns how many bytes a and the shorter b have in common.
func matching(a, b []byte) int {
	n := 0
	for len(b)-n >= 8 {
		if x := binary.LittleEndian.Uint64(a[n:]) ^ binary.LittleEndian.Uint64(b[n:]); x != 0 {
			return n + bits.TrailingZeros64(x)/8
		}
		n += 8
	}
	for n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// The types of a literals section.
const (
	rawLiterals        = 0
	compressedLiterals = 2
)

func (e *Encoder) appendLiterals(dst []byte) []byte {
	lit := e.literals
	e.huff.Reuse = huff0.ReusePolicyNone
	single := len(lit) < 256
	compress := huff0.Compress4X
	if single {
		compress = huff0.Compress1X
	}
	out, _, err := compress(lit, &e.huff)
	if len(lit) < 32 || err != nil || len(out) >= len(lit) {
		// Of any error: what does not compress goes out as it is.
		switch n := uint32(len(lit)); {
		case n < 1<<5:
			dst = append(dst, byte(n<<3|rawLiterals))
		case n < 1<<12:
			dst = append(dst, byte(n<<4|1<<2|rawLiterals), byte(n>>4))
		default:
			dst = append(dst, byte(n<<4|3<<2|rawLiterals), byte(n>>4), byte(n>>12))
		}
		return append(dst, lit...)
	}
	n, size := uint64(len(lit)), uint64(len(out))
	switch {
	case single:
		h := compressedLiterals | 0<<2 | n<<4 | size<<14
		dst = append(dst, byte(h), byte(h>>8), byte(h>>16))
	case n < 1<<10:
		h := compressedLiterals | 1<<2 | n<<4 | size<<14
		dst = append(dst, byte(h), byte(h>>8), byte(h>>16))
	case n < 1<<14:
		h := compressedLiterals | 2<<2 | n<<4 | size<<18
		dst = append(dst, byte(h), byte(h>>8), byte(h>>16), byte(h>>24))
	default:
		h := compressedLiterals | 3<<2 | n<<4 | size<<22
		dst = append(dst, byte(h), byte(h>>8), byte(h>>16), byte(h>>24), byte(h>>32))
	}
	return append(dst, out...)
}
