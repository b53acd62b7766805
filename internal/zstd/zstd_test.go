package zstd_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	reference "github.com/klauspost/compress/zstd"

	"github.com/millrace-sync/millrace/internal/zstd"
)

// frame makes one frame of several writes.
func frame(e *zstd.Encoder, writes ...[]byte) []byte {
	out := zstd.AppendHeader(nil)
	for _, w := range writes {
		out = e.AppendBlocks(out, w)
	}
	return zstd.AppendEnd(out)
}

func unpack(t testing.TB, b []byte) []byte {
	t.Helper()
	d, err := reference.NewReader(bytes.NewReader(b), reference.WithDecoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	out, err := io.ReadAll(d)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// lines are like those of a sync stream.
func lines(rng *rand.Rand, n int) []byte {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"op_id":"%d","op":"PUT","object_type":"notes","object_id":"%x","checksum":%d,"subkey":"%x","data":"{\"id\":\"%x\",\"owner\":\"user%d\",\"body\":\"a note of some length %d\"}"},`,
			i, rng.Uint64(), rng.Uint32(), rng.Uint64(), rng.Uint64(), i%100, i)
	}
	return []byte(b.String())
}

func random(rng *rand.Rand, n, symbols int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.IntN(symbols))
	}
	return b
}

func TestRoundTrip(t *testing.T) {
	const seed = 1
	rng := rand.New(rand.NewPCG(seed, 0))
	var e zstd.Encoder
	for name, b := range map[string][]byte{
		"nothing": nil, "a byte": {7}, "63": random(rng, 63, 3), "64": random(rng, 64, 3), "64 equal": make([]byte, 64), "equal": make([]byte, 300_000),
		"noise": random(rng, 200_000, 256), "bits": random(rng, 200_000, 2), "few": random(rng, 1000, 4), "many": random(rng, 131_072, 20),
		"lines": lines(rng, 5000), "one line": lines(rng, 1), "1023": random(rng, 1023, 30), "1024": random(rng, 1024, 30), "16384": random(rng, 16384, 30),
		"periods":  []byte(strings.Repeat("abcdefghij", 70_000)),
		"far away": append(append(lines(rng, 1), random(rng, 120_000, 256)...), lines(rng, 1)...),
	} {
		out := frame(&e, b)
		if got := unpack(t, out); !bytes.Equal(got, b) {
			t.Errorf("%s (seed %d): %d bytes come back as %d", name, seed, len(b), len(got))
		}
		if most := len(b) + len(b)/40_000*3 + 20; len(out) > most {
			t.Errorf("%s: %d bytes take %d", name, len(b), len(out))
		}
	}
	b := lines(rng, 2000)
	if out := frame(&e, b); len(out) > len(b)/2 {
		t.Errorf("%d bytes of lines take %d", len(b), len(out))
	}
}

// Blocks of different encoders make one frame, and each write can be read before the
// next is made.
func TestStream(t *testing.T) {
	const seed = 2
	rng := rand.New(rand.NewPCG(seed, 0))
	r, w := io.Pipe()
	next := zstd.AppendHeader(nil)
	d, err := reference.NewReader(r, reference.WithDecoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	encoders := [3]zstd.Encoder{}
	for i := range 300 {
		b := lines(rng, 1+rng.IntN(50))
		switch rng.IntN(3) {
		case 0:
			b = b[:1+rng.IntN(100)]
		case 1:
			b = random(rng, 1+rng.IntN(3000), 1+rng.IntN(256))
		}
		write := encoders[rng.IntN(3)].AppendBlocks(next, b)
		next = nil
		go func() { _, _ = w.Write(write) }()
		got := make([]byte, len(b))
		if _, err := io.ReadFull(d, got); err != nil || !bytes.Equal(got, b) {
			t.Fatalf("seed %d: write %d of %d bytes: %v", seed, i, len(b), err)
		}
	}
	go func() {
		_, _ = w.Write(zstd.AppendEnd(nil))
		w.Close()
	}()
	if n, err := d.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("after the end: %d bytes, %v", n, err)
	}
}

func FuzzEncoder(f *testing.F) {
	f.Add([]byte("hello hello hello hello hello hello hello hello hello hello hello"), 3)
	f.Add(lines(rand.New(rand.NewPCG(3, 0)), 20), 100)
	f.Add(bytes.Repeat([]byte{1, 2, 3}, 100), 50)
	e := new(zstd.Encoder)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		cut = min(max(cut, 0), len(b))
		if got := unpack(t, frame(e, b[:cut], b[cut:])); !bytes.Equal(got, b) {
			t.Errorf("%x comes back as %x", b, got)
		}
	})
}

func BenchmarkEncoder(b *testing.B) {
	src := lines(rand.New(rand.NewPCG(4, 0)), 1000)[:64<<10]
	var e zstd.Encoder
	var out []byte
	b.SetBytes(int64(len(src)))
	b.ReportAllocs()
	for b.Loop() {
		out = e.AppendBlocks(out[:0], src)
	}
	b.ReportMetric(float64(len(src))/float64(len(out)), "ratio")
}
