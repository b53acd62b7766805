package pebblestore

import (
	"bytes"
	"encoding/binary"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// probe finds single keys of the newest state, most of which may be absent: the
// rows of a backfill, the keys that a part of a transaction adds. DB.Get would
// read a block of the last level for each, as it does not ask that level's Bloom
// filters; so an iterator does, which is kept from one key to the next.
//
// It also knows how far a table's row keys go: the rows that a backfill in key
// order or a sequence adds are found absent without looking.
type probe struct {
	mu sync.Mutex // held from find to the last use of what it returned
	db *pebble.DB
	it *pebble.Iterator // of the state since the last reset; nil if there is none
	// largest holds, for tables that were asked for, a key that none of their row
	// records is beyond.
	largest map[source.TableID][]byte
}

// find returns what a key holds, false if it is absent. The bytes are valid until
// the next call. The caller holds mu.
func (p *probe) find(key []byte) ([]byte, bool, error) {
	if err := p.open(); err != nil {
		return nil, false, err
	}
	if key[0] == spaceRow {
		if beyond, err := p.beyond(key); beyond || err != nil {
			return nil, false, err
		}
	}
	// The first key of a prefix that is the whole key is the key itself.
	if !p.it.SeekPrefixGE(key) || string(p.it.Key()) != string(key) {
		return nil, false, corrupt(p.it.Error())
	}
	value, err := p.it.ValueAndErr()
	return value, err == nil, corrupt(err)
}

func (p *probe) open() error {
	if p.it != nil {
		return nil
	}
	it, err := p.db.NewIter(&pebble.IterOptions{UseL6Filters: true})
	if err != nil {
		return corrupt(err)
	}
	p.it = it
	return nil
}

// beyond reports whether a row's key is after all keys of its table.
func (p *probe) beyond(key []byte) (bool, error) {
	table := source.TableID(binary.BigEndian.Uint32(key[1:]))
	largest, ok := p.largest[table]
	if !ok {
		from, to := defRange(spaceRow, uint32(table))
		largest = from
		if p.it.SeekLT(to) && bytes.HasPrefix(p.it.Key(), from) {
			largest = bytes.Clone(p.it.Key())
		}
		if err := p.it.Error(); err != nil {
			return false, corrupt(err)
		}
		p.largest[table] = largest
	}
	return bytes.Compare(key, largest) > 0, nil
}

// committed takes note of a batch: of the keys of its rows, and that the iterator
// does not see it, and keeps obsolete tables from being deleted.
func (p *probe) committed(rows []storage.RowWrite) error {
	p.mu.Lock()
	for i := range rows {
		r := &rows[i].Ref
		largest, ok := p.largest[r.Table]
		if ok && rows[i].Record != nil && string(r.Key) > string(largest[defLen:]) {
			p.largest[r.Table] = append(largest[:defLen], r.Key...)
		}
	}
	p.mu.Unlock()
	return p.reset()
}

// reset lets go of the state read so far.
func (p *probe) reset() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	it := p.it
	p.it = nil
	if it == nil {
		return nil
	}
	return it.Close()
}
