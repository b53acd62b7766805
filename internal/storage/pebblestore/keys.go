package pebblestore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// The first byte of every key says what it is of. Numbers are big-endian, so that
// keys sort as they do.
const (
	spaceState      = 'b' // definition u32, params → bucket.State
	spaceMark       = 'c' // definition u32, params → compactionMark
	spaceDefinition = 'd' // definition u32 → storage.Definition
	spaceLookup     = 'l' // definition u32, escaped key, 0x00, subkey → values
	spaceMeta       = 'm' // name → …
	spaceOp         = 'o' // definition u32, params, 0x00, op id u64 → bucket.Op
	spaceDeploy     = 'p' // deploy id u64 → storage.Deploy
	spaceRow        = 'r' // table u32, row key → storage.RowRecord
	spaceUndo       = 'u' // sequence u64 → a key and what it held, see undo.go
	spaceUpload     = 'w' // user → upload
)

// The keys of spaceMeta.
const (
	metaFormat     = "mformat"     // u32: storage.FormatVersion
	metaIdentity   = "midentity"   // epoch (epochLen bytes), secret (32 bytes)
	metaNext       = "mnext"       // u64: NextOp; u32: NextDefinition
	metaCheckpoint = "mcheckpoint" // u64: op; u64: LSN
	metaDropped    = "mdropped"    // there may be row records of tables that no definition reads
)

const (
	defLen    = 1 + 4 // of a key up to its definition or table
	subkeyLen = len(bucket.Subkey{})
)

func appendDef(dst []byte, space byte, id uint32) []byte {
	return binary.BigEndian.AppendUint32(append(dst, space), id)
}

// appendBucket appends the key under which a bucket's state is. Params has no
// zero byte (JSON text cannot), which validation ensures.
func appendBucket(dst []byte, space byte, key storage.BucketKey) []byte {
	return append(appendDef(dst, space, uint32(key.Def)), key.Params...)
}

func opKeyLen(key storage.BucketKey) int { return defLen + len(key.Params) + 1 + 8 }

func appendOpKey(dst []byte, key storage.BucketKey, id bucket.OpID) []byte {
	dst = append(appendBucket(dst, spaceOp, key), 0)
	return binary.BigEndian.AppendUint64(dst, uint64(id))
}

func appendRowKey(dst []byte, ref storage.RowRef) []byte {
	return append(appendDef(dst, spaceRow, uint32(ref.Table)), ref.Key...)
}

// appendLookup appends the start of the keys of a lookup's entries, each of which
// ends with the row's subkey. In the lookup key 0x00 becomes 0x01 0x01 and 0x01
// becomes 0x01 0x02, so that 0x00 ends it.
func appendLookup(dst []byte, key storage.LookupKey) []byte {
	dst = appendDef(dst, spaceLookup, uint32(key.Def))
	if strings.IndexByte(key.Key, 0) < 0 && strings.IndexByte(key.Key, 1) < 0 {
		return append(append(dst, key.Key...), 0)
	}
	for i := range len(key.Key) {
		switch c := key.Key[i]; c {
		case 0, 1:
			dst = append(dst, 1, c+1)
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, 0)
}

func appendUpload(dst []byte, user string) []byte {
	return append(append(dst, spaceUpload), user...)
}

// defRange returns the range of a definition's, or a table's, keys in a space.
func defRange(space byte, id uint32) (from, to []byte) {
	from = appendDef(nil, space, id)
	if id == math.MaxUint32 {
		return from, []byte{space + 1}
	}
	return from, appendDef(nil, space, id+1)
}

// bucketOf reads the bucket back from the key of its state.
func bucketOf(key []byte) (storage.BucketKey, bool) {
	if len(key) < defLen || key[0] != spaceState {
		return storage.BucketKey{}, false
	}
	return storage.BucketKey{
		Def:    storage.DefinitionID(binary.BigEndian.Uint32(key[1:])),
		Params: string(key[defLen:]),
	}, true
}

// definitionOf reads the id back from the key of a definition.
func definitionOf(key []byte) (storage.DefinitionID, error) {
	if len(key) != defLen || key[0] != spaceDefinition {
		return 0, fmt.Errorf("definition key of %d bytes: %w", len(key), storage.ErrCorrupt)
	}
	return storage.DefinitionID(binary.BigEndian.Uint32(key[1:])), nil
}

// rowOf reads the row key back from the key of a row record.
func rowOf(key []byte) (source.RowKey, bool) {
	if len(key) < defLen || key[0] != spaceRow {
		return "", false
	}
	return source.RowKey(key[defLen:]), true
}

// split returns the length of the part of a key by which Bloom filters find it:
// for ops the bucket, for lookup entries the lookup, else all of it. So the
// filters stay small, and a table without a bucket's ops is not read for them.
//
// It is total: any bytes are split by the same rule, up to the first zero byte
// after the definition. No prefix is then a proper prefix of another one that
// ends in the zero byte, and plain byte order is prefix order and then suffix order.
func split(key []byte) int {
	if len(key) < defLen || (key[0] != spaceOp && key[0] != spaceLookup) {
		return len(key)
	}
	if i := bytes.IndexByte(key[defLen:], 0); i >= 0 {
		return defLen + i + 1
	}
	return len(key)
}

// comparer orders keys as bytes. Its name is part of the format on disk.
func comparer() *pebble.Comparer {
	c := *pebble.DefaultComparer
	c.Name = "millrace.v1"
	c.Split = split
	return &c
}
