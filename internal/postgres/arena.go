package postgres

import (
	"unsafe"

	"github.com/millrace-sync/millrace/internal/source"
)

// arena hands out memory for rows from large blocks, so that a row costs no
// allocation. What it has handed out is never touched again; a block is freed when
// none of its rows is referred to any more. The zero arena is ready for use.
type arena struct {
	bytes  []byte
	datums []source.Datum
}

const (
	arenaBytes  = 64 << 10
	arenaDatums = 1024

	datumSize      = int(unsafe.Sizeof(source.Datum{}))
	changeOverhead = int(unsafe.Sizeof(source.Change{}))
)

// copy returns a copy of b.
func (a *arena) copy(b []byte) []byte {
	if len(b) > cap(a.bytes)-len(a.bytes) {
		if len(b) > arenaBytes/4 {
			return append([]byte(nil), b...)
		}
		a.bytes = make([]byte, 0, arenaBytes)
	}
	start := len(a.bytes)
	a.bytes = append(a.bytes, b...)
	return a.bytes[start:len(a.bytes):len(a.bytes)]
}

// row returns n datums.
func (a *arena) row(n int) []source.Datum {
	if n > len(a.datums) {
		if n > arenaDatums/4 {
			return make([]source.Datum, n)
		}
		a.datums = make([]source.Datum, arenaDatums)
	}
	out := a.datums[:n:n]
	a.datums = a.datums[n:]
	return out
}
