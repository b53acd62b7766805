package protocol_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/millrace-sync/millrace/protocol"
)

// chunk is a data line of 1,000 rows of some 150 bytes.
func chunk() *protocol.DataChunk {
	l := &protocol.DataChunk{Bucket: `1#todos|0["7b0d2f8c-6b0e-4a39-9d4c-0a4a0f4f3b11"]`, NextAfter: 1000}
	for i := range 1000 {
		id := fmt.Sprintf("%08d-0000-4000-8000-000000000001", i)
		l.Ops = append(l.Ops, protocol.Op{ID: uint64(100000 + i), Kind: protocol.Put, Checksum: 3129678135 + uint32(i), ObjectType: "todos", ObjectID: id,
			Subkey: []byte("q1w2e3r4t5y6u7i8o9p0-_"),
			Data:   fmt.Appendf(nil, `{"id":"%s","list_id":"7b0d2f8c-6b0e-4a39","description":"Buy \"milk\" and eggs, item %d","completed":0,"created_at":"2026-01-02T03:04:05Z"}`, id, i)})
	}
	return l
}

func BenchmarkAppendOps(b *testing.B) {
	l := chunk()
	for _, c := range codecs {
		b.Run(c.String(), func(b *testing.B) {
			dst := c.AppendDataChunk(nil, l)
			b.SetBytes(int64(len(dst)))
			b.ReportAllocs()
			for b.Loop() {
				dst = c.AppendDataChunk(dst[:0], l)
			}
		})
	}
}

func BenchmarkReader(b *testing.B) {
	l := chunk()
	for _, c := range codecs {
		b.Run(c.String(), func(b *testing.B) {
			stream := bytes.Repeat(c.AppendDataChunk(nil, l), 4)
			b.SetBytes(int64(len(stream)))
			b.ReportAllocs()
			for b.Loop() {
				r := protocol.NewReader(bytes.NewReader(stream), c, 16<<20)
				for range 4 {
					if _, err := r.Next(); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

func BenchmarkDecodeRequest(b *testing.B) {
	r := protocol.Request{ClientID: "c", Parameters: []byte(`{"a":1}`)}
	for i := range 100 {
		r.Buckets = append(r.Buckets, protocol.BucketPosition{Name: fmt.Sprintf(`1#todos|0["%d"]`, i), After: uint64(i)})
	}
	body := r.AppendJSON(nil)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := protocol.DecodeRequest(body); err != nil {
			b.Fatal(err)
		}
	}
}

func TestEncodersDoNotAllocate(t *testing.T) {
	data := chunk()
	check := &protocol.Checkpoint{LastOpID: 5, WriteCheckpoint: 4, Buckets: []protocol.Bucket{{Name: "b\"", Defaults: []int{1}}}, Streams: []protocol.Stream{{Name: "s"}}}
	diff := &protocol.CheckpointDiff{RemovedBuckets: []string{"x"}, UpdatedBuckets: check.Buckets}
	for _, c := range codecs {
		dst := make([]byte, 0, 4<<20)
		if n := testing.AllocsPerRun(10, func() {
			dst = c.AppendCheckpoint(dst[:0], check)
			dst = c.AppendCheckpointDiff(dst, diff)
			dst = c.AppendDataChunk(dst, data)
			dst = c.AppendPartialCheckpointComplete(dst, &protocol.PartialCheckpointComplete{LastOpID: 1, Priority: 2})
			dst = c.AppendCheckpointComplete(dst, &protocol.CheckpointComplete{LastOpID: 1})
			dst = c.AppendTokenExpiresIn(dst, &protocol.TokenExpiresIn{Seconds: 5})
		}); n != 0 {
			t.Errorf("%s: %v allocations", c, n)
		}
	}
}
