// Package replicate turns the source's transactions and backfill chunks into the
// operations of buckets. It decides; the server package feeds it and commits what
// it hands back.
//
// It is pure: no clock, disk, socket or goroutine. What it needs to know of stored
// rows it asks through Rows, what it has to write it gives to a commit function.
//
// Invariants:
//   - A batch is published only when it ends at a transaction boundary; the parts
//     of a large transaction before its last are committed unpublished.
//   - After any sequence of transactions the entries of a row, over all buckets of
//     live definitions, are exactly what the plan gives for the row's last version.
//   - Memory is bounded: a batch by Limits, the changes remembered for a backfill
//     window by maxWindow.
package replicate

import (
	"errors"
	"fmt"
	"slices"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// Rows reads what the store remembers of source rows, as of the last commit.
type Rows interface {
	Row(storage.RowRef) (*storage.RowRecord, bool, error)
	// Records calls found for those rows of a table that have a record, in the order
	// of keys, which are ascending and differ; i is the place of the row's key.
	Records(table source.TableID, keys []source.RowKey, found func(i int, rec *storage.RowRecord)) error
	// RowsOf calls yield for every row of the table, in key order, as they were when
	// it was called: commits made meanwhile are not seen.
	RowsOf(table source.TableID, yield func(source.RowKey, *storage.RowRecord) error) error
}

// Prefetcher is a Rows that is asked over a network: it wants to know which rows it is
// about to be asked for.
type Prefetcher interface {
	Prefetch([]storage.RowRef) error
}

// Refetch reads a row's present version from the source by its identity columns. It
// serves only where a large unchanged value was omitted by the source and is not known
// (see Table.keep). after is the transaction that is being applied: the answer shows what
// it wrote, or something later. Its being in the stream is not enough for that: the source
// writes a commit to its log before it makes it visible.
type Refetch func(t *source.Table, identity []source.Datum, after source.XID) (Refetched, error)

// Refetched is a row as it was when the source's log ended at At; nil if it was gone.
type Refetched struct {
	Row []source.Datum
	At  source.LSN
	// Altered says that the table has other columns by now, and cannot be asked: it is
	// going to be read whole, once the stream tells of that.
	Altered bool
}

// CommitFunc makes a batch durable. The batch, and what it points to, is reused once
// it returns.
type CommitFunc func(*storage.Batch) error

// Limits bounds a batch: it is committed when either is reached.
type Limits struct {
	Ops   int // operations and row records
	Bytes int // of row data
}

// DefaultLimits lets most transactions be one batch: one that is committed in parts
// costs the store an undo log. Of a larger one, what is left at its end is soon
// written. A batch takes up to about 25 MB of memory while it is being applied.
var DefaultLimits = Limits{Ops: 50_000, Bytes: 8 << 20}

// Problem is something wrong with one row or one table, for operators. The rest
// goes on.
type Problem struct {
	Table      string
	Row        source.RowKey
	Definition storage.DefinitionID // 0: all of the table's
	Message    string
}

// maxProblems bounds the problems held between two calls of Applier.Problems.
const maxProblems = 100

// Applier applies transactions and chunks. It is used by one goroutine.
type Applier struct {
	rows    Rows
	refetch Refetch
	limits  Limits
	eval    *Evaluator
	tables  map[source.TableID]version
	next    bucket.OpID
	xid     source.XID // of the transaction that is being applied
	scratch Scratch

	batch   storage.Batch
	bytes   int
	pending map[storage.RowRef]int32 // places in batch.Rows of the rows that may be asked for again
	commits uint64                   // so far, and one
	looked  []*Row                   // scratch of prefetch
	records slab[storage.RowRecord]  // of batch
	members slab[storage.Membership] // of records
	// ahead is a position up to which some row was read again: until the stream is
	// there, what is stored is of no one point in time.
	ahead source.LSN

	backfill backfill

	wanted []storage.RowRef // reused

	problems []Problem
	dropped  int
}

// NewApplier returns an Applier that gives out op ids from next.
func NewApplier(rows Rows, refetch Refetch, eval *Evaluator, next bucket.OpID, limits Limits) *Applier {
	return &Applier{
		rows: rows, refetch: refetch, limits: limits, eval: eval, next: next,
		tables:   map[source.TableID]version{},
		pending:  map[storage.RowRef]int32{},
		commits:  1,
		backfill: newBackfill(),
	}
}

// SetEvaluator changes the live definitions to those of e, for which live holds,
// after a deploy.
func (a *Applier) SetEvaluator(e *Evaluator, live func(storage.DefinitionID) bool) {
	a.eval = e
	clear(a.tables)
	a.backfill.definitions = slices.DeleteFunc(slices.Clone(a.backfill.definitions), func(d storage.Definition) bool { return !live(d.ID) })
}

// Bind makes t the current version of its table and returns its binding, nil if
// no live definition reads it.
func (a *Applier) Bind(t *source.Table) *Table {
	had, known := a.tables[t.ID]
	if known && had.table == t {
		return had.bound
	}
	if known && had.table.Shape() != t.Shape() {
		a.backfill.reshape(t.ID)
	}
	b := a.eval.Bind(t)
	if b != nil && !t.Usable() {
		a.problem(Problem{Table: t.QualifiedName(), Message: "has no primary key or other replica identity: its updates and deletes cannot be followed"})
	}
	a.tables[t.ID] = version{t, b}
	return b
}

// version is the version of a table that the stream has, and its binding, nil if
// no live definition reads it.
type version struct {
	table *source.Table
	bound *Table
}

// Pending reports whether anything waits for Flush.
func (a *Applier) Pending() bool {
	return len(a.batch.Rows) > 0 || len(a.batch.Ops) > 0 || len(a.batch.Lookups) > 0 || len(a.batch.Definitions) > 0
}

// Problems returns the problems met since the last call, and how many more were
// not kept.
func (a *Applier) Problems() (list []Problem, dropped int) {
	list, dropped = a.problems, a.dropped
	a.problems, a.dropped = nil, 0
	return list, dropped
}

func (a *Applier) problem(p Problem) {
	if len(a.problems) == maxProblems {
		a.dropped++
		return
	}
	a.problems = append(a.problems, p)
}

// Apply applies a transaction or a part of one. Batches that fill up are
// committed on the way, unpublished; what is left waits for Flush, so that
// several small transactions share a commit.
func (a *Applier) Apply(tx *source.Txn, commit CommitFunc) error {
	return a.ApplyPrepared(&Prepared{Txn: tx}, commit)
}

// ApplyPrepared is Apply for a transaction that a Preparer has been at. What it was
// prepared for may have changed since: it is then evaluated again.
func (a *Applier) ApplyPrepared(tx *Prepared, commit CommitFunc) error {
	if err := a.Announce(tx); err != nil {
		return err
	}
	if tx.eval == a.eval {
		if err := a.prefetch(tx); err != nil {
			return err
		}
	}
	a.xid = tx.XID
	for i := range tx.Changes {
		ch := &tx.Changes[i]
		t := a.Bind(ch.Table)
		if t == nil {
			continue
		}
		if a.backfill.hold(t, tx.XID, ch) {
			continue
		}
		var r *Row
		if tx.eval == a.eval {
			r = tx.rows[i]
		}
		if err := a.change(t, ch, r, commit); err != nil {
			return fmt.Errorf("apply %s of %s: %w", ch.Kind, ch.Table.QualifiedName(), err)
		}
	}
	if !tx.More {
		a.backfill.committed(tx.XID)
	}
	return nil
}

// Announce tells the store which rows transactions that are about to be applied will
// ask for, if it wants to know: several small ones together, so that they share a
// round trip. It may leave some out: those of tables that are new, or of identities
// that do not decode.
func (a *Applier) Announce(list ...*Prepared) error {
	store, ok := a.rows.(Prefetcher)
	if !ok {
		return nil
	}
	a.wanted = a.wanted[:0]
	for _, tx := range list {
		a.want(tx)
	}
	if len(a.wanted) < 2 {
		return nil
	}
	return store.Prefetch(a.wanted)
}

// want adds the rows of a transaction to those wanted.
func (a *Applier) want(tx *Prepared) {
	for i := range tx.Changes {
		ch := &tx.Changes[i]
		t := a.tables[ch.Table.ID]
		if t.bound == nil || t.table != ch.Table {
			continue
		}
		if tx.eval == a.eval && tx.rows[i] != nil {
			a.wanted = append(a.wanted, storage.RowRef{Table: ch.Table.ID, Key: tx.rows[i].Key})
		} else if ch.New != nil {
			if ref, err := a.ref(t.bound, ch.New); err == nil {
				a.wanted = append(a.wanted, ref)
			}
		}
		if ch.Old != nil {
			if ref, err := a.ref(t.bound, ch.Old); err == nil {
				a.wanted = append(a.wanted, ref)
			}
		}
	}
}

// Flush commits what waits and publishes everything up to lsn, if that is Consistent.
func (a *Applier) Flush(lsn source.LSN, commit CommitFunc) error {
	a.batch.LSN, a.batch.Publish = lsn, a.Consistent(lsn)
	return a.commit(commit)
}

func (a *Applier) commit(commit CommitFunc) error {
	err := commit(&a.batch)
	a.commits++
	if len(a.pending) > batchKept {
		a.pending = map[storage.RowRef]int32{}
	}
	clear(a.pending)
	// What the batch points to must not outlive it through the reused arrays.
	clear(a.batch.Ops)
	clear(a.batch.Rows)
	clear(a.batch.Lookups)
	a.batch = storage.Batch{Ops: emptied(a.batch.Ops), Rows: emptied(a.batch.Rows), Lookups: emptied(a.batch.Lookups)}
	a.records.reset()
	a.members.reset()
	a.bytes = 0
	return err
}

// batchKept is the number of entries that a batch's lists may keep room for: a usual
// batch finds it, and the largest one leaves none.
const batchKept = slabKept * slabBlock

func emptied[T any](list []T) []T {
	if cap(list) > batchKept {
		return nil
	}
	return list[:0]
}

func (a *Applier) commitIfFull(commit CommitFunc) error {
	if !a.full() {
		return nil
	}
	return a.commit(commit)
}

func (a *Applier) full() bool {
	return len(a.batch.Ops)+len(a.batch.Rows) >= a.limits.Ops || a.bytes >= a.limits.Bytes
}

// change applies one change of a transaction. r is its new row evaluated, or nil.
func (a *Applier) change(t *Table, ch *source.Change, r *Row, commit CommitFunc) error {
	switch ch.Kind {
	case source.Insert:
		if err := a.put(t, ch.New, r); err != nil {
			return err
		}
	case source.Update:
		if err := a.update(t, ch, r); err != nil {
			return err
		}
	case source.Delete:
		ref, err := a.ref(t, ch.Old)
		if err != nil {
			return a.tolerate(t, err)
		}
		if err := a.remove(t, ref); err != nil {
			return err
		}
	case source.Truncate:
		return a.truncate(t, commit)
	}
	return a.commitIfFull(commit)
}

// tolerate reports an error that concerns one row and lets the rest go on.
func (a *Applier) tolerate(t *Table, err error) error {
	a.problem(Problem{Table: t.QualifiedName(), Message: err.Error()})
	return nil
}

func (a *Applier) ref(t *Table, row []source.Datum) (storage.RowRef, error) {
	var err error
	a.scratch.key, err = source.AppendRowKey(a.scratch.key[:0], t.Table, row)
	return storage.RowRef{Table: t.ID, Key: source.RowKey(a.scratch.key)}, err
}

// found is what is known of a row before a change: its record as of the pending
// batch, nil if there is none.
type found struct {
	rec   *storage.RowRecord
	at    int  // in batch.Rows; -1 if the batch does not write it
	isNew bool // the store has no record of it
}

func (a *Applier) find(ref storage.RowRef) (found, error) {
	if at, ok := a.pending[ref]; ok {
		return found{rec: a.batch.Rows[at].Record, at: int(at)}, nil
	}
	rec, ok, err := a.rows.Row(ref)
	if err != nil || !ok {
		return found{at: -1, isNew: true}, err
	}
	return found{rec: rec, at: -1}, nil
}

// findPrior is find for a row that may have been looked up ahead.
func (a *Applier) findPrior(ref storage.RowRef, r *Row) (found, error) {
	if _, pending := a.pending[ref]; pending || r.asOf != a.commits {
		return a.find(ref)
	}
	return found{rec: r.prior, at: -1, isNew: r.prior == nil}, nil
}

// set replaces the record of a row that had was found of; nil deletes it.
func (a *Applier) set(ref storage.RowRef, had found, rec *storage.RowRecord) {
	if had.at >= 0 {
		a.batch.Rows[had.at].Record = rec
		return
	}
	a.pending[ref] = int32(len(a.batch.Rows))
	a.batch.Rows = append(a.batch.Rows, storage.RowWrite{Ref: ref, Record: rec, New: had.isNew})
}

// update applies an update: under whole-row identity as a delete and an insert,
// else as a new version of the row, which may have got another identity.
func (a *Applier) update(t *Table, ch *source.Change, r *Row) error {
	if r != nil && ch.Old == nil {
		return a.putEvaluated(t, r)
	}
	var old *storage.RowRef
	row := ch.New
	if ch.Old != nil {
		ref, err := a.ref(t, ch.Old)
		if err != nil {
			return a.tolerate(t, err)
		}
		old = &ref
		row = fillFromOld(t, row, ch.Old)
	}
	ref, err := a.ref(t, row)
	if err != nil {
		return a.tolerate(t, err)
	}
	prior := ref
	if old != nil {
		prior = *old
	}
	if slices.ContainsFunc(row, unchanged) {
		full, gone, err := a.fill(t, row, prior)
		if err != nil {
			return err
		}
		if full == nil {
			if gone || prior != ref {
				return a.remove(t, prior)
			}
			return nil // until its table is read: see tear
		}
		row = full
	}
	if prior != ref {
		if err := a.remove(t, prior); err != nil {
			return err
		}
	}
	return a.put(t, row, r)
}

// fill finds the values that the source left out of a new version of the row that is
// stored as prior. No row means that they are not to be had, as it is gone, which the
// stream will say, or else because its table is altered and going to be read whole.
func (a *Applier) fill(t *Table, row []source.Datum, prior storage.RowRef) (full []source.Datum, gone bool, err error) {
	had, err := a.find(prior)
	if err != nil {
		return nil, false, err
	}
	kept := fillFromKept(t, row, had.rec)
	known := !slices.ContainsFunc(kept, unchanged)
	// A value that was kept may have been changed while nobody listened.
	if known && !a.unswept(t.ID) {
		return kept, false, nil
	}
	fresh, err := a.refetch(t.Table, row, a.xid)
	switch {
	case err != nil:
		return nil, false, fmt.Errorf("read again a row with large values that the source left out: %w", err)
	case fresh.Altered && known:
		// The other values belong to the transaction, of which clients must not get a part.
		// What is kept is as they have it, and the table is going to be read.
		return kept, false, nil
	case fresh.Altered:
		a.tear(t.ID)
		return nil, false, nil
	}
	a.ahead = max(a.ahead, fresh.At)
	return fresh.Row, fresh.Row == nil, nil
}

func unchanged(d source.Datum) bool { return d.Encoding == source.Unchanged }

// fillFromOld takes unchanged values from the old row, where the source repeats
// them: all columns under FULL, otherwise the identity's.
func fillFromOld(t *Table, row, old []source.Datum) []source.Datum {
	if !slices.ContainsFunc(row, unchanged) {
		return row
	}
	row = slices.Clone(row)
	for i := range row {
		if unchanged(row[i]) && (t.Identity == source.IdentityFull || t.Columns[i].Key) {
			row[i] = old[i]
		}
	}
	return row
}

func fillFromKept(t *Table, row []source.Datum, rec *storage.RowRecord) []source.Datum {
	if rec == nil {
		return row
	}
	row = slices.Clone(row)
	for i := range row {
		if !unchanged(row[i]) {
			continue
		}
		for _, k := range rec.Kept {
			if k.Column == t.Columns[i].Name {
				row[i] = k.Datum
			}
		}
	}
	return row
}

// put makes row, complete, the present version of its source row. r is it evaluated,
// or nil.
func (a *Applier) put(t *Table, row []source.Datum, r *Row) error {
	if r == nil {
		var err error
		if r, err = t.Evaluate(row, &a.scratch); err != nil {
			return a.tolerate(t, err)
		}
	}
	return a.putEvaluated(t, r)
}

func (a *Applier) putEvaluated(t *Table, r *Row) error {
	ref := storage.RowRef{Table: t.ID, Key: r.Key}
	had, err := a.findPrior(ref, r)
	if err != nil {
		return err
	}
	a.backfill.touch(ref)
	if t.wholeRow && had.rec != nil {
		rec := a.records.one()
		*rec = *had.rec
		rec.Copies++
		a.set(ref, had, rec)
		return nil
	}
	a.reportErrors(t, r)
	a.replace(ref, had, a.diff(had.rec, r))
	return nil
}

func (a *Applier) reportErrors(t *Table, r *Row) {
	for _, e := range r.Errors {
		a.problem(Problem{Table: t.QualifiedName(), Row: r.Key, Definition: e.Definition, Message: e.Message})
	}
}

// diff emits what changes between a row's record and its evaluation, and returns
// the new record. Entries whose content stays are left alone: clients have them.
func (a *Applier) diff(prior *storage.RowRecord, r *Row) *storage.RowRecord {
	rec := a.records.one()
	rec.Kept = r.Kept
	var old []storage.Membership
	var oldLookups []storage.Contribution
	if prior != nil {
		old, oldLookups = prior.Memberships, prior.Lookups
		rec.Copies = prior.Copies
	}
	find := newMembershipIndex(old)
	if len(r.Puts) > 0 {
		rec.Memberships = a.members.take(len(r.Puts))[:0]
	}
	for i := range r.Puts {
		p := &r.Puts[i]
		m := storage.Membership{Bucket: p.Bucket, ObjectType: p.ObjectType, ObjectID: p.ObjectID, Hash: p.Hash}
		if j := find.find(&m); j >= 0 && old[j].Hash == p.Hash {
			m.Op = old[j].Op
		} else {
			m.Op = a.emit(p.Bucket, bucket.Op{
				Kind: bucket.Put, Checksum: bucket.PutChecksum(p.Hash), Subkey: r.Subkey,
				ObjectType: p.ObjectType, ObjectID: p.ObjectID, Data: p.Data,
			})
		}
		rec.Memberships = append(rec.Memberships, m)
	}
	find = newMembershipIndex(rec.Memberships)
	for i := range old {
		if find.find(&old[i]) < 0 {
			a.takeBack(&old[i], r.Subkey)
		}
	}
	for i := range r.Lookups {
		l := &r.Lookups[i]
		c := storage.Contribution{Lookup: l.Key, Hash: l.Hash}
		rec.Lookups = append(rec.Lookups, c)
		if !slices.Contains(oldLookups, c) {
			a.batch.Lookups = append(a.batch.Lookups, storage.LookupWrite{Lookup: l.Key, Row: r.Subkey, Values: l.Values})
			a.bytes += len(l.Values)
		}
	}
	for _, c := range oldLookups {
		if !slices.ContainsFunc(r.Lookups, func(l Lookup) bool { return l.Key == c.Lookup }) {
			a.withdraw(c.Lookup, r.Subkey)
		}
	}
	return rec
}

// membershipIndex finds the entry with a membership's bucket and object. Rows in many
// buckets get an index.
type membershipIndex struct {
	list  []storage.Membership
	index map[entryKey]int
}

type entryKey struct {
	bucket   storage.BucketKey
	typ, obj string
}

func newMembershipIndex(list []storage.Membership) membershipIndex {
	x := membershipIndex{list: list}
	if len(list) <= 16 {
		return x
	}
	x.index = make(map[entryKey]int, len(list))
	for i := range list {
		x.index[entryKey{list[i].Bucket, list[i].ObjectType, list[i].ObjectID}] = i
	}
	return x
}

// find returns the entry's place, or -1.
func (x *membershipIndex) find(m *storage.Membership) int {
	if x.index != nil {
		if i, ok := x.index[entryKey{m.Bucket, m.ObjectType, m.ObjectID}]; ok {
			return i
		}
		return -1
	}
	for i := range x.list {
		if x.list[i].Bucket == m.Bucket && x.list[i].ObjectID == m.ObjectID && x.list[i].ObjectType == m.ObjectType {
			return i
		}
	}
	return -1
}

func (a *Applier) emit(b storage.BucketKey, op bucket.Op) bucket.OpID {
	op.ID = a.next
	a.next++
	a.batch.Ops = append(a.batch.Ops, storage.BucketOp{Bucket: b, Op: op})
	a.bytes += len(op.Data) + len(op.ObjectID) + 64
	return op.ID
}

func (a *Applier) takeBack(m *storage.Membership, s bucket.Subkey) {
	if !a.eval.live(m.Bucket.Def) {
		return
	}
	a.emit(m.Bucket, bucket.Op{
		Kind: bucket.Remove, Checksum: bucket.RemoveChecksum(s), Subkey: s,
		ObjectType: m.ObjectType, ObjectID: m.ObjectID,
	})
}

func (a *Applier) withdraw(k storage.LookupKey, s bucket.Subkey) {
	if a.eval.live(k.Def) {
		a.batch.Lookups = append(a.batch.Lookups, storage.LookupWrite{Lookup: k, Row: s})
	}
}

// remove takes back everything of a row.
func (a *Applier) remove(t *Table, ref storage.RowRef) error {
	a.backfill.touch(ref)
	had, err := a.find(ref)
	if err != nil || had.rec == nil {
		return err
	}
	if had.rec.Copies > 0 {
		fewer := a.records.one()
		*fewer = *had.rec
		fewer.Copies--
		a.set(ref, had, fewer)
		return nil
	}
	a.removeRecord(ref, had)
	return nil
}

func (a *Applier) removeRecord(ref storage.RowRef, had found) {
	s := bucket.SubkeyFor(a.eval.secret, uint32(ref.Table), string(ref.Key))
	for i := range had.rec.Memberships {
		a.takeBack(&had.rec.Memberships[i], s)
	}
	for _, c := range had.rec.Lookups {
		a.withdraw(c.Lookup, s)
	}
	a.set(ref, had, nil)
}

// truncate applies the truncation of a table.
func (a *Applier) truncate(t *Table, commit CommitFunc) error {
	a.backfill.touchAll(t.ID)
	return a.removeAll(t.ID, commit)
}

// removeAll takes back everything of every row of a table.
func (a *Applier) removeAll(table source.TableID, commit CommitFunc) error {
	// What waits is committed first, so that RowsOf sees it.
	if a.Pending() {
		if err := a.commit(commit); err != nil {
			return err
		}
	}
	return a.rows.RowsOf(table, func(key source.RowKey, rec *storage.RowRecord) error {
		a.removeRecord(storage.RowRef{Table: table, Key: key}, found{rec: rec, at: -1})
		return a.commitIfFull(commit)
	})
}

// ErrWindow says that a chunk has to be read again: what happened between its
// watermarks cannot be reconciled with it.
var ErrWindow = errors.New("the chunk must be read again")
