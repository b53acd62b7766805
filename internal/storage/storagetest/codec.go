package storagetest

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-sync/millrace/internal/storage"
)

// Codec is how a store encodes values, and a sample of each kind, at its edges.
type Codec struct {
	Samples []any
	Encode  func(any) []byte
	// Decode reads bytes as what like is.
	Decode  func(like any, b []byte) (any, error)
	Compare cmp.Option
}

// Check has each sample survive being written and read, and be refused with ErrCorrupt
// where it is cut short, unless data reaches to its end.
func (c Codec) Check(t *testing.T) {
	t.Helper()
	for _, want := range c.Samples {
		b := c.Encode(want)
		got, err := c.Decode(want, b)
		if err != nil {
			t.Errorf("%+v: %v", want, err)
			continue
		}
		if d := cmp.Diff(want, got, c.Compare); d != "" {
			t.Errorf("%T (-want +got):\n%s", want, d)
		}
		for n := range len(b) {
			got, err := c.Decode(want, b[:n])
			if err == nil && bytes.Equal(c.Encode(got), b[:n]) {
				continue
			}
			if !errors.Is(err, storage.ErrCorrupt) {
				t.Fatalf("%T cut to %d of %d bytes: %v, want ErrCorrupt", want, n, len(b), err)
			}
		}
	}
}

// Fuzz feeds any bytes to every decoder: none fails otherwise than with ErrCorrupt, and
// what it reads survives being written and read again.
func (c Codec) Fuzz(f *testing.F) {
	for i, v := range c.Samples {
		f.Add(byte(i), c.Encode(v))
	}
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		like := c.Samples[int(kind)%len(c.Samples)]
		got, err := c.Decode(like, b)
		if err != nil {
			if !errors.Is(err, storage.ErrCorrupt) {
				t.Fatalf("%T: %v", like, err)
			}
			return
		}
		again, err := c.Decode(like, c.Encode(got))
		if err != nil {
			t.Fatalf("%T written anew: %v", like, err)
		}
		if d := cmp.Diff(got, again, c.Compare); d != "" {
			t.Fatalf("%T changed:\n%s", like, d)
		}
	})
}
