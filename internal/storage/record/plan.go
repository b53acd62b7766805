package record

import (
	"encoding/binary"

	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// The flags of a storage.TableProgress.
const (
	tableDone  = 1
	tableSweep = 2
)

// AppendDefinition appends a definition, but for its id.
func AppendDefinition(dst []byte, def *storage.Definition) []byte {
	dst = AppendText(dst, def.Hash)
	dst = AppendText(dst, def.Label)
	dst = append(dst, byte(def.State))
	dst = binary.AppendUvarint(dst, uint64(len(def.Tables)))
	for i := range def.Tables {
		t := &def.Tables[i]
		dst = binary.AppendUvarint(dst, uint64(t.Table))
		dst = AppendText(dst, t.Shape)
		flags := byte(0)
		if t.Done {
			flags |= tableDone
		}
		if t.Sweep {
			flags |= tableSweep
		}
		dst = append(dst, flags)
		dst = binary.AppendUvarint(dst, uint64(t.Rows))
		// One more than the number of columns, as none and nil differ.
		if t.After == nil {
			dst = append(dst, 0)
			continue
		}
		dst = binary.AppendUvarint(dst, uint64(len(t.After))+1)
		for _, s := range t.After {
			dst = AppendText(dst, s)
		}
	}
	return dst
}

// DecodeDefinition decodes the definition of an id.
func DecodeDefinition(id storage.DefinitionID, value []byte) (storage.Definition, error) {
	r := NewDecoder(value)
	def := storage.Definition{ID: id, Hash: r.Str(), Label: r.Str(), State: storage.DefinitionState(r.U8())}
	if n := r.Count(); n > 0 {
		def.Tables = make([]storage.TableProgress, n)
	}
	for i := range def.Tables {
		t := &def.Tables[i]
		t.Table = source.TableID(r.Uvarint())
		t.Shape = r.Str()
		flags := r.U8()
		t.Done, t.Sweep = flags&tableDone != 0, flags&tableSweep != 0
		t.Rows = int64(r.Uvarint())
		n := r.Uvarint()
		if n == 0 {
			continue
		}
		if n-1 > uint64(len(r.rest)) {
			r.Fail()
			break
		}
		t.After = make([]string, n-1)
		for j := range t.After {
			t.After[j] = r.Str()
		}
	}
	return def, r.End("definition")
}

// AppendDeploy appends a deploy, but for its id.
func AppendDeploy(dst []byte, d *storage.Deploy) []byte {
	dst = append(dst, byte(d.State))
	dst = AppendText(dst, d.SyncConfig)
	dst = AppendText(dst, d.Source)
	dst = binary.AppendUvarint(dst, uint64(len(d.Definitions)))
	for _, id := range d.Definitions {
		dst = binary.AppendUvarint(dst, uint64(id))
	}
	return dst
}

// DecodeDeploy decodes the deploy of an id.
func DecodeDeploy(id uint64, value []byte) (storage.Deploy, error) {
	r := NewDecoder(value)
	d := storage.Deploy{ID: id, State: storage.DeployState(r.U8()), SyncConfig: r.Str(), Source: r.Str()}
	if n := r.Count(); n > 0 {
		d.Definitions = make([]storage.DefinitionID, n)
	}
	for i := range d.Definitions {
		d.Definitions[i] = storage.DefinitionID(r.Uvarint())
	}
	return d, r.End("deploy")
}
