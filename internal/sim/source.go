package sim

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/millrace-sync/millrace/internal/source"
)

// Note is a row of a simulated table, but for its id.
type Note struct{ Owner, Body string }

// text is a type whose values are their bytes.
type text struct{}

func (text) Name() string { return "text" }

func (text) Decode(d source.Datum, _ source.Form) (source.Value, error) {
	if d.Encoding == source.Null {
		return source.Value{}, nil
	}
	return source.String(string(d.Bytes)), nil
}

func datum(s string) source.Datum {
	return source.Datum{Encoding: source.Text, Bytes: []byte(s)}
}

// row is a note as a row of the table. Its last column is a new one after each
// alteration, and always empty.
func row(id string, n Note) []source.Datum {
	return []source.Datum{datum(id), datum(n.Owner), datum(n.Body), datum("")}
}

// users own notes; the last owns none.
var users = []string{"ann", "bob", "cem", "dia"}

// event is one place in the source's log.
type event struct {
	txn *source.Txn
	// low and high are the watermarks of a chunk of table.
	low, high uint64
	// altered says that table is a new version.
	altered bool
	table   *source.Table
}

// table is one of the tables.
type table struct {
	id      source.TableID
	name    string // its first letter begins the ids of its rows
	now     *source.Table
	version int
	altered source.LSN // where it was last altered
}

// alter gives the table another column.
func (t *table) alter() {
	t.version++
	t.now = &source.Table{
		ID: t.id, Schema: "public", Name: t.name,
		Columns: []source.Column{
			{Name: "id", Type: text{}, Key: true}, {Name: "owner", Type: text{}}, {Name: "body", Type: text{}}, {Name: fmt.Sprintf("v%d", t.version), Type: text{}},
		},
	}
}

// of reports whether a row is one of the table's.
func (t *table) of(id string) bool { return id[0] == t.name[0] }

// database is the scripted source.
type database struct {
	*dice
	ids     int // how many rows may exist in a table
	tables  []*table
	rows    map[string]Note
	log     []event           // log[i] ends at LSN i+1
	history []map[string]Note // history[lsn] is what the tables hold as of lsn
	// slot is where the changes begin that can be had; there is none before the first
	// connection, and after it was lost.
	slot   source.LSN
	noSlot bool
}

func newDatabase(d *dice) *database {
	db := &database{
		dice: d, ids: 20 + d.IntN(130), rows: map[string]Note{}, noSlot: true,
		tables: []*table{{id: 7, name: "notes"}, {id: 8, name: "memos"}},
	}
	for _, t := range db.tables {
		t.alter()
	}
	for range d.IntN(db.ids) {
		db.rows[db.id()] = db.note()
	}
	db.history = append(db.history, maps.Clone(db.rows))
	return db
}

func (db *database) table(id source.TableID) *table { return db.tables[id-db.tables[0].id] }

func (db *database) tableOf(id string) *table {
	return db.tables[slices.IndexFunc(db.tables, func(t *table) bool { return t.of(id) })]
}

func (db *database) anyTable() *table { return db.tables[db.IntN(len(db.tables))] }

// now returns the tables as they are.
func (db *database) now() []*source.Table {
	var list []*source.Table
	for _, t := range db.tables {
		list = append(list, t.now)
	}
	return list
}

func (db *database) end() source.LSN { return source.LSN(len(db.log)) }

func (db *database) id() string { return db.idOf(db.anyTable()) }

func (db *database) idOf(t *table) string { return fmt.Sprintf("%c%d", t.name[0], db.IntN(db.ids)) }

func (db *database) note() Note {
	n := Note{users[db.IntN(len(users)-1)], strings.Repeat("x", db.IntN(5))}
	switch db.IntN(8) {
	case 0:
		n.Body = strings.Repeat("l", largeBody+db.IntN(3))
	case 1:
		n.Body = strings.Repeat("l", keptBody+db.IntN(3))
	}
	return n
}

// Bodies from largeBody on are kept out of line by the source, and those from keptBody on
// by the service, too.
const (
	largeBody = 800
	keptBody  = 1200
)

// update is an update of a row: a large value that stays is left out.
func (db *database) update(id string, old, n Note, identity []source.Datum) source.Change {
	ch := source.Change{Kind: source.Update, Table: db.tableOf(id).now, Old: identity, New: row(id, n)}
	if len(n.Body) >= largeBody && n.Body == old.Body {
		ch.New[2] = source.Datum{Encoding: source.Unchanged}
	}
	return ch
}

// transaction changes the table.
func (db *database) transaction() {
	tx := &source.Txn{XID: source.XID(db.end() + 1), Commit: db.end() + 1}
	key := func(id string) []source.Datum { return []source.Datum{datum(id), {}, {}, {}} }
	if db.IntN(100) == 0 {
		t := db.anyTable()
		tx.Changes = append(tx.Changes, source.Change{Kind: source.Truncate, Table: t.now})
		maps.DeleteFunc(db.rows, func(id string, _ Note) bool { return t.of(id) })
	}
	if db.IntN(16) == 0 {
		// One row changes again and again.
		id := db.id()
		for i := range db.IntN(60) {
			n := Note{users[0], strings.Repeat("x", i%5)}
			kind := source.Update
			if _, exists := db.rows[id]; !exists {
				kind = source.Insert
			}
			db.rows[id] = n
			tx.Changes = append(tx.Changes, source.Change{Kind: kind, Table: db.tableOf(id).now, New: row(id, n)})
		}
	}
	for range db.IntN(5) {
		id := db.id()
		old, exists := db.rows[id]
		switch {
		case !exists:
			n := db.note()
			db.rows[id] = n
			tx.Changes = append(tx.Changes, source.Change{Kind: source.Insert, Table: db.tableOf(id).now, New: row(id, n)})
		case db.IntN(3) == 0:
			delete(db.rows, id)
			tx.Changes = append(tx.Changes, source.Change{Kind: source.Delete, Table: db.tableOf(id).now, Old: key(id)})
		case db.IntN(6) == 0:
			to := db.idOf(db.tableOf(id))
			if _, taken := db.rows[to]; taken {
				continue
			}
			delete(db.rows, id)
			db.rows[to] = old
			tx.Changes = append(tx.Changes, db.update(to, old, old, key(id)))
		default:
			n := db.note()
			if db.IntN(3) == 0 {
				n.Body = old.Body
			}
			db.rows[id] = n
			tx.Changes = append(tx.Changes, db.update(id, old, n, nil))
		}
	}
	db.append(event{txn: tx})
}

func (db *database) append(e event) {
	if e.txn == nil {
		e.txn = &source.Txn{XID: source.XID(db.end() + 1), Commit: db.end() + 1}
	}
	db.log = append(db.log, e)
	db.history = append(db.history, maps.Clone(db.rows))
}

// mark ends the bodies that an alteration changed.
const mark = "'"

// unaltered returns rows as they would be without any alteration.
func unaltered(rows map[string]Note) map[string]Note {
	out := make(map[string]Note, len(rows))
	for id, n := range rows {
		out[id] = Note{n.Owner, strings.TrimRight(n.Body, mark)}
	}
	return out
}

// alter gives a table another column and other bodies, of which the log says only
// that it was altered.
func (db *database) alter() {
	t := db.anyTable()
	t.alter()
	for _, id := range slices.Sorted(maps.Keys(db.rows)) {
		if n := db.rows[id]; t.of(id) && db.IntN(3) == 0 {
			n.Body += mark
			db.rows[id] = n
		}
	}
	db.append(event{altered: true, table: t.now})
	t.altered = db.end()
}

// setBack takes the last transactions back, as a standby does that takes over without
// them. The slot is gone, and the new past soon as long as the old one.
func (db *database) setBack() {
	to := db.end() - source.LSN(db.IntN(min(10, len(db.log))+1))
	for _, t := range db.tables {
		to = max(to, t.altered) // its versions would come back
	}
	db.log, db.history = db.log[:to], db.history[:to+1]
	db.rows = maps.Clone(db.history[to])
	db.noSlot = true
}

// chunk is a chunk on its way: its low watermark is written, then it is read, then
// its high watermark is written.
type chunk struct {
	id   uint64
	read bool
	high bool

	rows map[string]Note
	last []string
	done bool
	gone []source.RowKey // of those looked up

	unseen []source.XID
	next   source.XID
}

// snapshot returns what a chunk of a table sees. It may lack the newest transactions
// though they are in the log, as Postgres' may; not those from before the slot or the
// table's last alteration, which waited for them.
func (db *database) snapshot(t *table, c *chunk) map[string]Note {
	c.next = source.XID(db.end() + 1)
	seen := db.end()
	if db.IntN(2) == 0 {
		seen = max(db.slot, t.altered, seen-min(seen, source.LSN(db.IntN(6))))
	}
	for x := seen; x < db.end(); x++ {
		c.unseen = append(c.unseen, source.XID(x+1))
	}
	if len(c.unseen) > 0 && db.IntN(2) == 0 {
		// None of them has completed, so they are not even listed.
		c.next, c.unseen = c.unseen[0], nil
	}
	return db.history[seen]
}

// lately returns what a single row is read from. It may lack the newest transactions
// as well, but none up to from.
func (db *database) lately(from source.LSN) map[string]Note {
	seen := db.end()
	if db.IntN(2) == 0 {
		seen = max(from, seen-min(seen, source.LSN(db.IntN(6))))
	}
	return db.history[seen]
}

// readRows reads the next rows of a part of a table.
func (db *database) readRows(t *table, c *chunk, after, until []string) {
	rows := db.snapshot(t, c)
	c.rows = map[string]Note{}
	limit := 5 + db.IntN(60)
	for _, id := range slices.Sorted(maps.Keys(rows)) {
		if !t.of(id) || after != nil && id <= after[0] || until != nil && id > until[0] {
			continue
		}
		c.rows[id] = rows[id]
		if c.last = []string{id}; len(c.rows) == limit {
			return
		}
	}
	if c.done = until == nil; !c.done {
		c.last = until
	}
}

// lookUp finds which of the stored rows are gone.
func (db *database) lookUp(t *table, c *chunk, keys []source.RowKey) error {
	rows := db.snapshot(t, c)
	for _, key := range keys {
		texts, err := key.Texts()
		if err != nil || len(texts) != 1 {
			return fmt.Errorf("key %q is %q, %w", key, texts, err)
		}
		if _, there := rows[texts[0]]; !there {
			c.gone = append(c.gone, key)
		}
	}
	return nil
}
