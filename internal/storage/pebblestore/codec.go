package pebblestore

import (
	"encoding/binary"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/record"
)

// Ops, row records, definitions and deploys are encoded by package record.

func appendState(dst []byte, s bucket.State) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.Last))
	dst = binary.BigEndian.AppendUint32(dst, uint32(s.Checksum))
	dst = binary.AppendUvarint(dst, uint64(s.Count))
	return binary.AppendUvarint(dst, uint64(s.Bytes))
}

func decodeState(value []byte) (bucket.State, error) {
	r := record.NewDecoder(value)
	s := bucket.State{
		Last:     bucket.OpID(r.U64()),
		Checksum: bucket.Checksum(r.U32()),
		Count:    int64(r.Uvarint()),
		Bytes:    int64(r.Uvarint()),
	}
	return s, r.End("bucket state")
}

// compactionMark is where the last compaction of a bucket left it.
type compactionMark struct {
	Until bucket.OpID // the last op that was looked at
	Count int64       // State.Count then
}

func appendMark(dst []byte, m compactionMark) []byte {
	return binary.AppendUvarint(binary.BigEndian.AppendUint64(dst, uint64(m.Until)), uint64(m.Count))
}

func decodeMark(value []byte) (compactionMark, error) {
	r := record.NewDecoder(value)
	m := compactionMark{Until: bucket.OpID(r.U64()), Count: int64(r.Uvarint())}
	return m, r.End("compaction mark")
}

// upload is what is stored of a user's write checkpoint.
type upload struct {
	storage.WriteCheckpoint
	// Requested is when the user last asked, in seconds since 1970, if it always named
	// an id; else 0.
	Requested int64
}

func appendUploadValue(dst []byte, u upload) []byte {
	dst = binary.BigEndian.AppendUint64(dst, u.ID)
	dst = binary.BigEndian.AppendUint64(dst, uint64(u.LSN))
	if u.Requested != 0 {
		dst = binary.BigEndian.AppendUint64(dst, uint64(u.Requested))
	}
	return dst
}

func decodeUpload(value []byte) (upload, error) {
	r := record.NewDecoder(value)
	u := upload{WriteCheckpoint: storage.WriteCheckpoint{ID: r.U64(), LSN: source.LSN(r.U64())}}
	if len(r.Rest()) > 0 {
		u.Requested = int64(r.U64())
	}
	return u, r.End("write checkpoint")
}

func appendCheckpoint(dst []byte, c storage.Checkpoint) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(c.Op))
	return binary.BigEndian.AppendUint64(dst, uint64(c.LSN))
}

func decodeCheckpoint(value []byte) (storage.Checkpoint, error) {
	r := record.NewDecoder(value)
	c := storage.Checkpoint{Op: bucket.OpID(r.U64()), LSN: source.LSN(r.U64())}
	return c, r.End("checkpoint")
}

func appendNext(dst []byte, op bucket.OpID, def storage.DefinitionID) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(op))
	return binary.BigEndian.AppendUint32(dst, uint32(def))
}

func decodeNext(value []byte) (bucket.OpID, storage.DefinitionID, error) {
	r := record.NewDecoder(value)
	op, def := bucket.OpID(r.U64()), storage.DefinitionID(r.U32())
	return op, def, r.End("numbering")
}
