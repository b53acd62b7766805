package pebblestore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"unsafe"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// decoder reads a stored value. It never reads past the end: the first attempt to
// do so makes it bad, and everything after reads as zero.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) bytes(n uint64) []byte {
	if n > uint64(len(d.rest)) {
		d.rest, d.bad = nil, true
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) u8() byte {
	if b := d.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) u32() uint32 {
	if b := d.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if b := d.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.rest, d.bad = nil, true
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// text reads a length and so many bytes, which it does not copy.
func (d *decoder) text() []byte { return d.bytes(d.uvarint()) }

func (d *decoder) str() string { return string(d.text()) }

// shared is like str, but the string shares the bytes read: they must never
// change again.
func (d *decoder) shared() string {
	b := d.text()
	return unsafe.String(unsafe.SliceData(b), len(b))
}

// count reads the number of the items that follow, each of which takes at least
// one byte: so a wrong count cannot make the caller allocate without bound.
func (d *decoder) count() int {
	n := d.uvarint()
	if n > uint64(len(d.rest)) {
		d.rest, d.bad = nil, true
		return 0
	}
	return int(n)
}

// end returns ErrCorrupt unless the value was read exactly to its end.
func (d *decoder) end(what string) error {
	if d.bad {
		return fmt.Errorf("decode %s: value ends early: %w", what, storage.ErrCorrupt)
	}
	if len(d.rest) > 0 {
		return fmt.Errorf("decode %s: %d bytes left over: %w", what, len(d.rest), storage.ErrCorrupt)
	}
	return nil
}

func uvarintLen(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

func appendText[T string | []byte](dst []byte, s T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// An op is its kind u8, checksum u32 and, for PUT and REMOVE, subkey, object type
// and id as texts, then the data to the end.

func hasEntry(k bucket.OpKind) bool { return k == bucket.Put || k == bucket.Remove }

func opLen(op *bucket.Op) int {
	if !hasEntry(op.Kind) {
		return 5
	}
	return 5 + subkeyLen +
		uvarintLen(uint64(len(op.ObjectType))) + len(op.ObjectType) +
		uvarintLen(uint64(len(op.ObjectID))) + len(op.ObjectID) + len(op.Data)
}

func appendOp(dst []byte, op *bucket.Op) []byte {
	dst = binary.BigEndian.AppendUint32(append(dst, byte(op.Kind)), uint32(op.Checksum))
	if !hasEntry(op.Kind) {
		return dst
	}
	dst = append(dst, op.Subkey[:]...)
	dst = appendText(dst, op.ObjectType)
	dst = appendText(dst, op.ObjectID)
	return append(dst, op.Data...)
}

// opDecoder decodes consecutive ops. Object ids are copied into chunks that are
// never written again, so that the strings handed out stay valid at a hundredth
// of an allocation each.
type opDecoder struct {
	chunk      []byte
	objectType string // of the op before, which mostly is the same
}

// Chunks grow, as most reads are of a few ops.
const minChunkLen, maxChunkLen = 128, 4 << 10

// decode fills op, but for its ID, from value, whose bytes op.Data shares.
func (d *opDecoder) decode(op *bucket.Op, value []byte) error {
	r := decoder{rest: value}
	op.Kind, op.Checksum = bucket.OpKind(r.u8()), bucket.Checksum(r.u32())
	switch op.Kind {
	case bucket.Put, bucket.Remove:
		copy(op.Subkey[:], r.bytes(uint64(subkeyLen)))
		if t := r.text(); string(t) != d.objectType {
			d.objectType = string(t)
		}
		op.ObjectType = d.objectType
		op.ObjectID = d.intern(r.text())
		op.Data = r.bytes(uint64(len(r.rest)))
		if op.Kind == bucket.Remove && len(op.Data) > 0 {
			return fmt.Errorf("decode op %s: a REMOVE with data: %w", op.ID, storage.ErrCorrupt)
		}
	case bucket.Move, bucket.Clear:
		*op = bucket.Op{ID: op.ID, Kind: op.Kind, Checksum: op.Checksum}
	default:
		return fmt.Errorf("decode op %s: unknown kind %d: %w", op.ID, op.Kind, storage.ErrCorrupt)
	}
	return r.end("op")
}

func (d *opDecoder) intern(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if len(b) > minChunkLen {
		return string(b)
	}
	if cap(d.chunk)-len(d.chunk) < len(b) {
		d.chunk = make([]byte, 0, max(minChunkLen, min(2*cap(d.chunk), maxChunkLen)))
	}
	n := len(d.chunk)
	d.chunk = append(d.chunk, b...)
	return unsafe.String(&d.chunk[n], len(b))
}

func appendState(dst []byte, s bucket.State) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.Last))
	dst = binary.BigEndian.AppendUint32(dst, uint32(s.Checksum))
	dst = binary.AppendUvarint(dst, uint64(s.Count))
	return binary.AppendUvarint(dst, uint64(s.Bytes))
}

func decodeState(value []byte) (bucket.State, error) {
	r := decoder{rest: value}
	s := bucket.State{
		Last:     bucket.OpID(r.u64()),
		Checksum: bucket.Checksum(r.u32()),
		Count:    int64(r.uvarint()),
		Bytes:    int64(r.uvarint()),
	}
	return s, r.end("bucket state")
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
	r := decoder{rest: value}
	m := compactionMark{Until: bucket.OpID(r.u64()), Count: int64(r.uvarint())}
	return m, r.end("compaction mark")
}

// A row record is its memberships, its lookups, its kept values, each with their
// count, and the number of copies.

func appendRow(dst []byte, rec *storage.RowRecord) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(rec.Memberships)))
	for i := range rec.Memberships {
		m := &rec.Memberships[i]
		dst = binary.AppendUvarint(dst, uint64(m.Bucket.Def))
		dst = appendText(dst, m.Bucket.Params)
		dst = appendText(dst, m.ObjectType)
		dst = appendText(dst, m.ObjectID)
		dst = binary.AppendUvarint(dst, uint64(m.Op))
		dst = binary.BigEndian.AppendUint64(dst, m.Hash)
	}
	dst = binary.AppendUvarint(dst, uint64(len(rec.Lookups)))
	for i := range rec.Lookups {
		c := &rec.Lookups[i]
		dst = binary.AppendUvarint(dst, uint64(c.Lookup.Def))
		dst = appendText(dst, c.Lookup.Key)
		dst = binary.BigEndian.AppendUint64(dst, c.Hash)
	}
	dst = binary.AppendUvarint(dst, uint64(len(rec.Kept)))
	for i := range rec.Kept {
		k := &rec.Kept[i]
		dst = appendText(dst, k.Column)
		dst = append(dst, byte(k.Datum.Encoding))
		dst = appendText(dst, k.Datum.Bytes)
	}
	return binary.AppendUvarint(dst, uint64(rec.Copies))
}

func decodeRow(value []byte) (*storage.RowRecord, error) {
	// One copy holds all strings of the record.
	r := decoder{rest: bytes.Clone(value)}
	rec := &storage.RowRecord{}
	if n := r.count(); n > 0 {
		rec.Memberships = make([]storage.Membership, n)
	}
	for i := range rec.Memberships {
		rec.Memberships[i] = storage.Membership{
			Bucket:     storage.BucketKey{Def: storage.DefinitionID(r.uvarint()), Params: r.shared()},
			ObjectType: r.shared(),
			ObjectID:   r.shared(),
			Op:         bucket.OpID(r.uvarint()),
			Hash:       r.u64(),
		}
	}
	if n := r.count(); n > 0 {
		rec.Lookups = make([]storage.Contribution, n)
	}
	for i := range rec.Lookups {
		rec.Lookups[i] = storage.Contribution{
			Lookup: storage.LookupKey{Def: storage.DefinitionID(r.uvarint()), Key: r.shared()},
			Hash:   r.u64(),
		}
	}
	if n := r.count(); n > 0 {
		rec.Kept = make([]storage.Kept, n)
	}
	for i := range rec.Kept {
		rec.Kept[i].Column = r.shared()
		rec.Kept[i].Datum.Encoding = source.Encoding(r.u8())
		if b := r.text(); len(b) > 0 {
			rec.Kept[i].Datum.Bytes = b
		}
	}
	rec.Copies = int64(r.uvarint())
	if err := r.end("row record"); err != nil {
		return nil, err
	}
	return rec, nil
}

func appendDefinition(dst []byte, def *storage.Definition) []byte {
	dst = appendText(dst, def.Hash)
	dst = appendText(dst, def.Label)
	dst = append(dst, byte(def.State))
	dst = binary.AppendUvarint(dst, uint64(len(def.Tables)))
	for i := range def.Tables {
		t := &def.Tables[i]
		dst = binary.AppendUvarint(dst, uint64(t.Table))
		dst = appendText(dst, t.Shape)
		done := byte(0)
		if t.Done {
			done = 1
		}
		dst = append(dst, done)
		dst = binary.AppendUvarint(dst, uint64(t.Rows))
		// One more than the number of columns, as none and nil differ.
		if t.After == nil {
			dst = append(dst, 0)
			continue
		}
		dst = binary.AppendUvarint(dst, uint64(len(t.After))+1)
		for _, s := range t.After {
			dst = appendText(dst, s)
		}
	}
	return dst
}

func decodeDefinition(id storage.DefinitionID, value []byte) (storage.Definition, error) {
	r := decoder{rest: value}
	def := storage.Definition{ID: id, Hash: r.str(), Label: r.str(), State: storage.DefinitionState(r.u8())}
	if n := r.count(); n > 0 {
		def.Tables = make([]storage.TableProgress, n)
	}
	for i := range def.Tables {
		t := &def.Tables[i]
		t.Table = source.TableID(r.uvarint())
		t.Shape = r.str()
		t.Done = r.u8() == 1
		t.Rows = int64(r.uvarint())
		n := r.uvarint()
		if n == 0 {
			continue
		}
		if n-1 > uint64(len(r.rest)) {
			r.bad = true
			break
		}
		t.After = make([]string, n-1)
		for j := range t.After {
			t.After[j] = r.str()
		}
	}
	return def, r.end("definition")
}

func appendDeploy(dst []byte, d *storage.Deploy) []byte {
	dst = append(dst, byte(d.State))
	dst = appendText(dst, d.SyncConfig)
	dst = appendText(dst, d.Source)
	dst = binary.AppendUvarint(dst, uint64(len(d.Definitions)))
	for _, id := range d.Definitions {
		dst = binary.AppendUvarint(dst, uint64(id))
	}
	return dst
}

func decodeDeploy(id uint64, value []byte) (storage.Deploy, error) {
	r := decoder{rest: value}
	d := storage.Deploy{ID: id, State: storage.DeployState(r.u8()), SyncConfig: r.str(), Source: r.str()}
	if n := r.count(); n > 0 {
		d.Definitions = make([]storage.DefinitionID, n)
	}
	for i := range d.Definitions {
		d.Definitions[i] = storage.DefinitionID(r.uvarint())
	}
	return d, r.end("deploy")
}

func appendUploadValue(dst []byte, wc storage.WriteCheckpoint) []byte {
	dst = binary.BigEndian.AppendUint64(dst, wc.ID)
	return binary.BigEndian.AppendUint64(dst, uint64(wc.LSN))
}

func decodeUpload(value []byte) (storage.WriteCheckpoint, error) {
	r := decoder{rest: value}
	wc := storage.WriteCheckpoint{ID: r.u64(), LSN: source.LSN(r.u64())}
	return wc, r.end("write checkpoint")
}

func appendCheckpoint(dst []byte, c storage.Checkpoint) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(c.Op))
	return binary.BigEndian.AppendUint64(dst, uint64(c.LSN))
}

func decodeCheckpoint(value []byte) (storage.Checkpoint, error) {
	r := decoder{rest: value}
	c := storage.Checkpoint{Op: bucket.OpID(r.u64()), LSN: source.LSN(r.u64())}
	return c, r.end("checkpoint")
}

func appendNext(dst []byte, op bucket.OpID, def storage.DefinitionID) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(op))
	return binary.BigEndian.AppendUint32(dst, uint32(def))
}

func decodeNext(value []byte) (bucket.OpID, storage.DefinitionID, error) {
	r := decoder{rest: value}
	op, def := bucket.OpID(r.u64()), storage.DefinitionID(r.u32())
	return op, def, r.end("numbering")
}
