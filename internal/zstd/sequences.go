package zstd

import "math/bits"

// code is a range of lengths: from base, with so many extra bits.
type code struct {
	base  uint32
	extra uint8
}

// The codes of RFC 8878, section 3.1.1.3.2.1.1. Literal lengths below 16 and match
// lengths below 35 are their own codes.
var (
	literalCodes = [...]code{
		16: {16, 1}, {18, 1}, {20, 1}, {22, 1}, {24, 2}, {28, 2}, {32, 3}, {40, 3}, {48, 4}, {64, 6}, {128, 7}, {256, 8}, {512, 9},
		{1024, 10}, {2048, 11}, {4096, 12}, {8192, 13}, {16384, 14}, {32768, 15}, {65536, 16},
	}
	matchCodes = [...]code{
		32: {35, 1}, {37, 1}, {39, 1}, {41, 1}, {43, 2}, {47, 2}, {51, 3}, {59, 3}, {67, 4}, {83, 4}, {99, 5}, {131, 7}, {259, 8},
		{515, 9}, {1027, 10}, {2051, 11}, {4099, 12}, {8195, 13}, {16387, 14}, {32771, 15}, {65539, 16},
	}
)

// The predefined distributions of section 3.1.1.3.2.2.
var (
	literalTable = newFSE(6, []int8{4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1})
	matchTable   = newFSE(6, []int8{1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1})
	offsetTable  = newFSE(5, []int8{1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1})
)

// codeOf finds the code of a value that is not its own.
func codeOf(codes []code, first int, v uint32) int {
	i := first
	for i+1 < len(codes) && codes[i+1].base <= v {
		i++
	}
	return i
}

func literalCode(n uint32) (symbol int, extra uint32, size uint8) {
	if n < 16 {
		return int(n), 0, 0
	}
	symbol = codeOf(literalCodes[:], 16, n)
	return symbol, n - literalCodes[symbol].base, literalCodes[symbol].extra
}

func matchCode(n uint32) (symbol int, extra uint32, size uint8) {
	if n < 35 {
		return int(n - 3), 0, 0
	}
	symbol = codeOf(matchCodes[:], 32, n)
	return symbol, n - matchCodes[symbol].base, matchCodes[symbol].extra
}

// offsetCode skips the values that stand for repeated offsets.
func offsetCode(n uint32) (symbol int, extra uint32, size uint8) {
	n += 3
	symbol = bits.Len32(n) - 1
	return symbol, n - 1<<symbol, uint8(symbol)
}

// fse is a table for entropy coding with finite states.
type fse struct {
	log     uint8
	next    []uint16
	symbols []transition
}

type transition struct {
	deltaBits  uint32
	deltaState int32
}

// newFSE builds the table of a distribution of 1<<log; -1 is "less than one".
func newFSE(log uint8, distribution []int8) *fse {
	size := 1 << log
	t := &fse{log: log, next: make([]uint16, size), symbols: make([]transition, len(distribution))}
	at := make([]int, len(distribution)+1) // where each symbol's states begin
	spread := make([]int, size)
	high := size - 1
	for s, p := range distribution {
		if p == -1 {
			at[s+1] = at[s] + 1
			spread[high] = s
			high--
		} else {
			at[s+1] = at[s] + int(p)
		}
	}
	step, position := size>>1+size>>3+3, 0
	for s, p := range distribution {
		for range p {
			spread[position] = s
			for position = (position + step) & (size - 1); position > high; {
				position = (position + step) & (size - 1)
			}
		}
	}
	total := int32(0)
	for s, p := range distribution {
		switch p {
		case -1, 1:
			t.symbols[s] = transition{uint32(log)<<16 - uint32(size), total - 1}
			total++
		default:
			most := uint32(log) - uint32(bits.Len32(uint32(p)-1)-1)
			t.symbols[s] = transition{most<<16 - uint32(p)<<most, total - int32(p)}
			total += int32(p)
		}
	}
	for u, s := range spread {
		t.next[at[s]] = uint16(size + u)
		at[s]++
	}
	return t
}

// first returns the state that stands for a symbol alone.
func (t *fse) first(symbol int) uint32 {
	tr := t.symbols[symbol]
	n := (tr.deltaBits + 1<<15) >> 16
	value := n<<16 - tr.deltaBits
	return uint32(t.next[int32(value>>n)+tr.deltaState])
}

// encode writes a symbol and returns the state after it.
func (t *fse) encode(w *bitWriter, state uint32, symbol int) uint32 {
	tr := t.symbols[symbol]
	n := (state + tr.deltaBits) >> 16
	w.add(state, uint8(n))
	return uint32(t.next[int32(state>>n)+tr.deltaState])
}

// bitWriter writes numbers from their lowest bits, to be read backwards.
type bitWriter struct {
	dst  []byte
	bits uint64
	n    uint8
}

func (w *bitWriter) add(v uint32, n uint8) {
	w.bits |= uint64(v) & (1<<n - 1) << w.n
	w.n += n
	if w.n >= 32 {
		w.dst = append(w.dst, byte(w.bits), byte(w.bits>>8), byte(w.bits>>16), byte(w.bits>>24))
		w.bits >>= 32
		w.n -= 32
	}
}

// close marks the end and writes what is left.
func (w *bitWriter) close() []byte {
	w.add(1, 1)
	for ; w.n > 0; w.n -= min(w.n, 8) {
		w.dst = append(w.dst, byte(w.bits))
		w.bits >>= 8
	}
	return w.dst
}

// appendSequences appends the sequences section, with the predefined tables.
func (e *Encoder) appendSequences(dst []byte) []byte {
	const predefined = 0
	n := len(e.sequences)
	switch {
	case n == 0:
		return append(dst, 0)
	case n < 128:
		dst = append(dst, byte(n))
	case n < 0x7f00:
		dst = append(dst, byte(n>>8)+128, byte(n))
	default:
		dst = append(dst, 255, byte(n-0x7f00), byte((n-0x7f00)>>8))
	}
	w := bitWriter{dst: append(dst, predefined)}
	var literalState, matchState, offsetState uint32
	for i := n - 1; i >= 0; i-- { // decoders read from the end
		s := e.sequences[i]
		literal, literalExtra, literalBits := literalCode(s.literals)
		match, matchExtra, matchBits := matchCode(s.match)
		offset, offsetExtra, offsetBits := offsetCode(s.offset)
		if i == n-1 {
			literalState, matchState, offsetState = literalTable.first(literal), matchTable.first(match), offsetTable.first(offset)
		} else {
			offsetState = offsetTable.encode(&w, offsetState, offset)
			matchState = matchTable.encode(&w, matchState, match)
			literalState = literalTable.encode(&w, literalState, literal)
		}
		w.add(literalExtra, literalBits)
		w.add(matchExtra, matchBits)
		w.add(offsetExtra, offsetBits)
	}
	w.add(matchState, matchTable.log)
	w.add(offsetState, offsetTable.log)
	w.add(literalState, literalTable.log)
	return w.close()
}
