package record

import (
	"math"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
	"github.com/millrace-sync/millrace/internal/storage/storagetest"
)

// samples has a value of each encoding, at its edges.
var samples = []any{
	&bucket.Op{Kind: bucket.Put, Checksum: math.MaxUint32, ObjectType: "notes", ObjectID: "é\x00", Subkey: bucket.Subkey{1, 0, 255}, Data: []byte(`{"a":1}`)},
	&bucket.Op{Kind: bucket.Put},
	&bucket.Op{Kind: bucket.Remove, ObjectID: string(make([]byte, 300)), Subkey: bucket.Subkey{9}},
	&bucket.Op{Kind: bucket.Move, Checksum: 1 << 31},
	&bucket.Op{Kind: bucket.Clear, Checksum: 5},
	&storage.RowRecord{},
	&storage.RowRecord{
		Memberships: []storage.Membership{{Bucket: storage.BucketKey{Def: math.MaxUint32, Params: `["a"]`}, ObjectType: "notes", ObjectID: "1", Op: bucket.MaxOpID, Hash: math.MaxUint64}, {}},
		Lookups:     []storage.Contribution{{Lookup: storage.LookupKey{Def: 2, Key: "\x00\xff"}, Hash: 1 << 63}},
		Kept:        []storage.Kept{{Column: "body", Datum: source.Datum{Encoding: source.Binary, Bytes: []byte("x")}}, {Column: "n", Datum: source.Datum{Encoding: source.Null}}},
		Copies:      1 << 40,
	},
	storage.Definition{ID: 7, Hash: "h", Label: "l|x", State: storage.Stale, Tables: []storage.TableProgress{
		{Table: math.MaxUint32, Shape: "s", After: []string{"a\x00", ""}, Rows: 1 << 50, Done: true}, {After: []string{}}, {},
	}},
	storage.Deploy{ID: 7, SyncConfig: "a: b", Source: "s/1", Definitions: []storage.DefinitionID{1, math.MaxUint32}, State: storage.DeployFailed},
}

func encode(v any) []byte {
	switch v := v.(type) {
	case *bucket.Op:
		return AppendOp(nil, v)
	case *storage.RowRecord:
		return AppendRow(nil, v)
	case storage.Definition:
		return AppendDefinition(nil, &v)
	case storage.Deploy:
		return AppendDeploy(nil, &v)
	}
	panic("no encoding")
}

// decode reads b as what like is.
func decode(like any, b []byte) (any, error) {
	switch like.(type) {
	case *bucket.Op:
		var op bucket.Op
		var d OpDecoder
		err := d.Decode(&op, b)
		return &op, err
	case *storage.RowRecord:
		return DecodeRow(b)
	case storage.Definition:
		return DecodeDefinition(7, b)
	case storage.Deploy:
		return DecodeDeploy(7, b)
	}
	panic("no encoding")
}

var codec = storagetest.Codec{Samples: samples, Encode: encode, Decode: decode, Compare: cmpopts.EquateEmpty()}

func TestCodec(t *testing.T) {
	codec.Check(t)
	for _, v := range samples {
		b := encode(v)
		if got, err := decode(v, b); err != nil {
			t.Error(err)
		} else if def, ok := v.(storage.Definition); ok && !reflect.DeepEqual(def, got) {
			t.Errorf("an After that is empty and one that is nil are not told apart: %+v", got)
		}
		if op, ok := v.(*bucket.Op); ok && OpLen(op) != len(b) {
			t.Errorf("%+v takes %d bytes, not %d", op, len(b), OpLen(op))
		}
	}
}

func FuzzDecode(f *testing.F) { codec.Fuzz(f) }
