package bucket

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// A Compactable is a bucket that Compact works on. What it shows below the
// Until of a Compaction is changed by nobody else meanwhile.
type Compactable interface {
	// Descend calls yield with the bucket's ops after one id and up to another, the
	// newest first, until it returns false. The Op and its Data are valid until yield
	// returns; its strings may be kept.
	// Edits that are applied during a walk may show in it, or not.
	Descend(after, until OpID, yield func(*Op) bool) error
	// Apply carries out an edit, all of it or nothing. Edits are carried out in
	// their order. The edit is the caller's again when Apply returns.
	Apply(*Edit) error
}

// Edit is one step of a compaction. Whoever reads the bucket between two steps
// sees one that is as good as before and after.
type Edit struct {
	Set []Op // each replaces the op with its id
	// Clear replaces all ops up to its own id, if it is set.
	Clear *Op
	// Count and Bytes are to be added to those of the bucket's State. Nothing else of
	// it changes.
	Count, Bytes int64
}

// Compaction says how far a compaction may go.
type Compaction struct {
	// Until is the last op that is looked at: one of a published checkpoint, so that
	// every view that shows the result also shows what an op is superseded by.
	Until OpID
	// Settled is the last op whose place may be given to an older row, when most ops
	// up to it are dead; 0 for none. Clients that are beyond it have nothing to
	// download on account of that; others may have to download live rows again.
	Settled OpID
	// Keys is the number of entries to remember at a time, at about 50 bytes each;
	// at least 64. A bucket of more rows is walked several times.
	Keys int
	// Sample allows to leave a bucket of more than Keys rows alone if a part of its
	// entries shows that hardly anything is to be gained.
	Sample bool
}

// Compacted is what a compaction did. Its sum over buckets makes sense.
type Compacted struct {
	Moved   int64 // ops that became MOVE
	Cleared int64 // ops that a CLEAR, new or grown, stands for now
	Shifted int64 // rows that were given a later op's place
	Bytes   int64 // of data that were dropped
}

// Add adds what another compaction did.
func (c *Compacted) Add(d Compacted) {
	c.Moved += d.Moved
	c.Cleared += d.Cleared
	c.Shifted += d.Shifted
	c.Bytes += d.Bytes
}

// Compact drops what no client needs any more from a bucket:
//
//   - An op with the same entry (object type, object id, subkey) as a newer one is
//     superseded. It becomes MOVE: its data go, its checksum stays.
//   - The ops before the first live row (a PUT that is not superseded), if there
//     are several, become one CLEAR at the last one's id with the sum of their
//     checksums.
//   - Where dead ops outnumber the rows among them, rows move towards the end, so
//     that the ops before can be cleared: the newest row takes the newest place that
//     a row or a MOVE has, the next one the next, and so on. A place keeps its id
//     and its checksum, whatever row it is given.
//
// This is right for a client at any position p, wherever it stopped:
//
//   - Sums. The sum of all checksums up to an id that is still there is what it
//     always was, for MOVE and moved rows keep those of their places, and a CLEAR
//     has the sum of all up to its id, with which a client starts anew.
//   - Rows. An entry that the client has wrong was changed after p. Its newest op is
//     still after p, for rows only move to later places; or, if that is a REMOVE, it
//     or a CLEAR is, which takes everything away. What follows a CLEAR has all rows.
//     A row that the client gets twice is the same both times.
//   - Order. Rows keep their order: of two that show as one, the same one shows.
//
// So a client which is up to date has nothing to do, and one that has interrupted
// a download goes on with whatever is there. What must not be is a view with ops
// that are newer than the announced State of the bucket, of which one could have
// superseded what the client is about to get: see Until, and session.View.
func Compact(b Compactable, c Compaction) (Compacted, error) {
	w := compacting{bucket: b, Compaction: c}
	w.Keys = max(w.Keys, 64)
	w.Settled = min(w.Settled, w.Until)
	err := w.run()
	return w.did, err
}

// maxEdit bounds the ops and the bytes of data of one Edit.
const maxEditOps, maxEditBytes = 512, 256 << 10

// minDead is the number of dead ops among live rows that are not worth moving them.
const minDead = 64

type compacting struct {
	bucket Compactable
	Compaction
	did  Compacted
	edit Edit
	size int // bytes of data in edit
}

func (w *compacting) run() error {
	s, parts, err := w.survey()
	if err != nil || s.ops == 0 || s.skipped {
		return err
	}
	floor, err := w.clear(s.prefixLast(), s.ops-s.newer.ops, s.bytes-s.newer.bytes, s.sum-s.newer.sum)
	if err != nil {
		return err
	}
	superseded := s.superseded
	if parts == 1 && floor > 0 {
		superseded = s.newer.superseded
	}
	if superseded > 0 {
		for part := range parts {
			if err := w.move(part, parts, floor); err != nil {
				return err
			}
		}
	}
	if dead := s.newer.ops - s.live; w.Settled > floor && dead >= minDead && dead > s.live {
		return w.shift(floor)
	}
	return nil
}

// clear replaces the dead ops at the beginning, given by the id of their last,
// their number, bytes and sum. It returns last if it did, 0 if it is not worth it.
func (w *compacting) clear(last OpID, ops, bytes int64, sum Checksum) (OpID, error) {
	if ops < 2 {
		return 0, nil
	}
	err := w.bucket.Apply(&Edit{
		Clear: &Op{ID: last, Kind: Clear, Checksum: sum},
		Count: 1 - ops, Bytes: -bytes,
	})
	if err != nil {
		return 0, fmt.Errorf("clear up to op %s: %w", last, err)
	}
	w.did.Cleared += ops
	w.did.Bytes += bytes
	return last, nil
}

// set adds an op to the edit, which replaces one that had some bytes of data.
func (w *compacting) set(op Op, had int) error {
	w.edit.Set = append(w.edit.Set, op)
	w.edit.Bytes += int64(len(op.Data) - had)
	w.size += len(op.Data)
	if len(w.edit.Set) < maxEditOps && w.size < maxEditBytes {
		return nil
	}
	return w.flush()
}

func (w *compacting) flush() error {
	if len(w.edit.Set) == 0 {
		return nil
	}
	if err := w.bucket.Apply(&w.edit); err != nil {
		return fmt.Errorf("replace ops from %s to %s: %w", w.edit.Set[0].ID, w.edit.Set[len(w.edit.Set)-1].ID, err)
	}
	w.did.Bytes -= w.edit.Bytes
	clear(w.edit.Set)
	w.edit = Edit{Set: w.edit.Set[:0]}
	w.size = 0
	return nil
}

// tally sums up ops.
type tally struct {
	ops, bytes, superseded int64
	sum                    Checksum
}

// survey is what a walk through a bucket finds.
type survey struct {
	tally         // of all ops
	newer   tally // of the oldest live row and all after it
	entries int64 // PUT and REMOVE
	live    int64 // rows
	last    OpID  // of all ops
	oldest  OpID  // live row; 0 if there is none
	before  OpID  // the op before oldest
	fitted  int64 // of entries, when there was no room for the next one
	skipped bool  // hardly anything is to be gained
}

// prefixLast returns the last op before the oldest live row.
func (s *survey) prefixLast() OpID {
	if s.oldest == 0 {
		return s.last
	}
	return s.before
}

// survey walks through the bucket, as often as it has parts.
func (w *compacting) survey() (s survey, parts uint64, err error) {
	parts = 1
	for {
		fits := true
		for part := uint64(0); fits && part < parts; part++ {
			var found survey
			if found, fits, err = w.look(part, parts); err != nil {
				return s, 0, err
			}
			s = s.merge(found, part == 0)
			s.fitted = found.fitted
			if w.Sample && fits && parts > 1 && part == 0 {
				dead := s.superseded*int64(parts) + s.ops - s.entries
				if s.skipped = 8*dead < s.ops; s.skipped {
					return s, parts, nil
				}
			}
		}
		if fits {
			return s, parts, nil
		}
		// New entries get rarer towards the oldest op, so this is too many rather than too few.
		parts *= max(2, 1+uint64(s.entries)*5/4/uint64(s.fitted))
	}
}

// merge adds what the walk of another part found.
func (s survey) merge(part survey, first bool) survey {
	if first {
		return part
	}
	s.live += part.live
	s.superseded += part.superseded
	if part.oldest != 0 && (s.oldest == 0 || part.oldest < s.oldest) {
		s.oldest, s.before, s.newer = part.oldest, part.before, part.newer
	}
	return s
}

// look is the walk of one part; fits is false if it has too many entries.
func (w *compacting) look(part, parts uint64) (s survey, fits bool, err error) {
	k := newKnown(part, parts, w.Keys)
	err = w.bucket.Descend(0, w.Until, func(op *Op) bool {
		if s.last == 0 {
			s.last = op.ID
		}
		if s.oldest != 0 && s.before == 0 {
			s.before = op.ID
		}
		s.ops++
		s.bytes += int64(len(op.Data))
		s.sum += op.Checksum
		if op.Kind == Put || op.Kind == Remove {
			s.entries++
		}
		switch k.fate(op) {
		case superseded:
			s.superseded++
		case live:
			s.live++
			s.oldest, s.before, s.newer = op.ID, 0, s.tally
		}
		if k.full && s.fitted == 0 {
			s.fitted = s.entries
		}
		return true
	})
	return s, !k.full, err
}

// move makes the superseded ops of a part MOVE.
func (w *compacting) move(part, parts uint64, floor OpID) error {
	k := newKnown(part, parts, w.Keys)
	var failed error
	err := w.bucket.Descend(floor, w.Until, func(op *Op) bool {
		if k.fate(op) == superseded {
			w.did.Moved++
			failed = w.set(Op{ID: op.ID, Kind: Move, Checksum: op.Checksum}, len(op.Data))
		}
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	if err != nil {
		return err
	}
	return w.flush()
}

// shift moves the rows up to Settled towards it, if dead ops outnumber them, and
// clears what is then before them. Superseded ops are MOVEs by now.
func (w *compacting) shift(floor OpID) error {
	var rows, free int64
	err := w.bucket.Descend(floor, w.Settled, func(op *Op) bool {
		switch op.Kind {
		case Put:
			rows++
		case Move:
			free++
		}
		return true
	})
	if err != nil || free < minDead || free <= rows {
		return err
	}
	next := rowReader{bucket: w.bucket, floor: floor, until: w.Settled}
	var prefix tally
	var last OpID
	var failed error
	err = w.bucket.Descend(floor, w.Settled, func(op *Op) bool {
		if rows == 0 {
			if prefix.ops == 0 {
				last = op.ID
			}
			prefix.ops++
			prefix.bytes += int64(len(op.Data))
			prefix.sum += op.Checksum
			return true
		}
		if op.Kind != Put && op.Kind != Move {
			return true // a REMOVE is needed where it is
		}
		var row *Op
		if row, failed = next.read(); failed != nil {
			return false
		}
		rows--
		if row.ID == op.ID {
			return true
		}
		w.did.Shifted++
		moved := *row
		moved.ID, moved.Checksum = op.ID, op.Checksum
		failed = w.set(moved, len(op.Data))
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	if err != nil {
		return err
	}
	if err := w.flush(); err != nil {
		return err
	}
	if floor > 0 && last != 0 {
		// What is cleared begins with the CLEAR at floor, which the walk left out.
		err := w.bucket.Descend(floor-1, floor, func(op *Op) bool {
			prefix.ops++
			prefix.sum += op.Checksum
			return true
		})
		if err != nil {
			return err
		}
	}
	_, err = w.clear(last, prefix.ops, prefix.bytes, prefix.sum)
	return err
}

// rowReader reads the PUTs of a bucket ahead, the newest first.
type rowReader struct {
	bucket       Compactable
	floor, until OpID // of what is still to be read
	ahead        []Op // the next last
}

func (r *rowReader) read() (*Op, error) {
	if len(r.ahead) == 0 {
		if err := r.fill(); err != nil {
			return nil, err
		}
	}
	op := &r.ahead[0]
	r.ahead = r.ahead[1:]
	return op, nil
}

func (r *rowReader) fill() error {
	r.ahead = make([]Op, 0, 64)
	size := 0
	err := r.bucket.Descend(r.floor, r.until, func(op *Op) bool {
		if op.Kind != Put {
			return true
		}
		c := *op
		c.Data = append([]byte(nil), op.Data...)
		r.ahead = append(r.ahead, c)
		r.until = op.ID - 1
		size += len(c.Data)
		return len(r.ahead) < maxEditOps && size < maxEditBytes
	})
	if err == nil && len(r.ahead) == 0 {
		err = fmt.Errorf("no more rows up to op %s, where there were some before", r.until)
	}
	return err
}

// fate is what a walk knows of an op.
type fate uint8

const (
	void       fate = iota // it is no row's: MOVE or CLEAR, or a REMOVE that is not superseded
	live                   // a row's present content
	superseded             // PUT or REMOVE, with a newer one of the same entry
	elsewhere              // of another part
)

// known remembers the entries of one part that a walk from the newest op to the
// oldest has met.
type known struct {
	part, parts uint64
	seen        map[[16]byte]struct{}
	max         int
	full        bool // an entry could not be remembered: fates are of no use
	cleared     bool // the walk is before a CLEAR
}

func newKnown(part, parts uint64, max int) *known {
	return &known{part: part, parts: parts, max: max, seen: map[[16]byte]struct{}{}}
}

func (k *known) fate(op *Op) fate {
	switch op.Kind {
	case Clear:
		k.cleared = true
		return void
	case Put, Remove:
	default:
		return void
	}
	e := entryKey(op)
	if k.parts > 1 && binary.BigEndian.Uint64(e[:])%k.parts != k.part {
		return elsewhere
	}
	if _, ok := k.seen[e]; ok || k.cleared {
		return superseded
	}
	if len(k.seen) == k.max {
		k.full = true
		return elsewhere
	}
	k.seen[e] = struct{}{}
	if op.Kind == Remove {
		return void
	}
	return live
}

// entryKey identifies the entry of a PUT or REMOVE. Two entries with one key would
// cost a row, so it is a cryptographic hash.
func entryKey(op *Op) [16]byte {
	var stack [256]byte
	b := append(stack[:0], op.Subkey[:]...)
	b = binary.AppendUvarint(b, uint64(len(op.ObjectType)))
	b = append(b, op.ObjectType...)
	b = append(b, op.ObjectID...)
	h := sha256.Sum256(b)
	return [16]byte(h[:16])
}
