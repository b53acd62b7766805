package postgres

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace-sync/millrace/internal/postgres/pgtypes"
	"github.com/millrace-sync/millrace/internal/source"
)

// ChunkRequest asks for a part of a table.
type ChunkRequest struct {
	Table *source.Table
	// After is Chunk.Last of the chunk before: one text for each key column, in the
	// table's column order. Nil asks for the first chunk.
	After []string
	// Until is the key, in the same form, of the last row that may be of the chunk, or
	// nil: there need not be such a row.
	Until []string
	// Limit bounds the rows; 0 means all. A table whose rows are told apart by all
	// their columns has to be read whole.
	Limit int
	// Keys, if not nil, asks instead which of these rows there are, each named by the
	// texts of its key columns in the table's column order. The chunk holds them in
	// any order, with the key columns alone: others are null.
	Keys [][]string
	// Bytes, if Limit is set, bounds the rows too: no more follow the one that reaches
	// it. 0 means no bound.
	Bytes int
	// Yield gets the rows as they come; nil collects them in Chunk.Rows. The row's
	// slice is used again, the bytes of its datums are not. An error ends the reading
	// and the connection.
	Yield func(row []source.Datum) error
}

// Chunk is a part of a table in the order of its key, as of one snapshot.
type Chunk struct {
	Rows [][]source.Datum
	// Count is the number of rows, and Size that of their bytes.
	Count, Size int
	// Last is where the next chunk starts from; Done says that there is none. A chunk
	// that has come to the end of its request ends at Until.
	Last []string
	Done bool
	// Unseen are the transactions that were in progress for the snapshot, and Next
	// follows the last that was not: rows written by these, and by all from Next on,
	// are not in the chunk. See Chunk.Sees.
	Unseen []source.XID
	Next   source.XID
}

// Sees reports whether the chunk shows what a transaction wrote. xid must be of the
// last two billion transactions.
func (c *Chunk) Sees(xid source.XID) bool {
	return int32(xid-c.Next) < 0 && !slices.Contains(c.Unseen, xid)
}

// lockTimeout bounds the wait for somebody who alters the table.
const lockTimeout = "10s"

// ReadChunk reads a part of a table by binary COPY. conn must not be in a
// transaction. It fails with ErrTableChanged if the table is no longer as Table
// describes it.
func ReadChunk(ctx context.Context, conn *pgconn.PgConn, registry *pgtypes.Registry, q ChunkRequest) (*Chunk, error) {
	c, err := readChunk(ctx, conn, registry, &q)
	if conn.TxStatus() != 'I' && !conn.IsClosed() {
		// Reading has ended; how does not matter to the transaction.
		if end := conn.Exec(ctx, "ROLLBACK").Close(); err == nil && end != nil {
			err = failed("read "+q.Table.QualifiedName(), end)
		}
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

func readChunk(ctx context.Context, conn *pgconn.PgConn, registry *pgtypes.Registry, q *ChunkRequest) (*Chunk, error) {
	t := q.Table
	doing := "read " + t.QualifiedName()
	relation := quoteIdent(t.Schema) + "." + quoteIdent(t.Name)
	// The lock comes before the snapshot: whoever alters the table is then either
	// wholly before both or after.
	begin := []string{
		"BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY",
		"SET LOCAL lock_timeout = '" + lockTimeout + "'",
		"LOCK TABLE ONLY " + relation + " IN ACCESS SHARE MODE",
		// Sorting the whole table for each chunk is never right where an index gives the order.
		"SET LOCAL enable_sort = off",
		"SELECT pg_catalog.pg_current_snapshot()",
		fmt.Sprintf(chunkColumnsSQL, quoteLiteral(relation)),
	}
	if q.Keys != nil {
		begin = append(begin, byIndexSQL...)
	}
	results, err := conn.Exec(ctx, strings.Join(begin, ";")).ReadAll()
	if err != nil {
		return nil, failed(doing, err)
	}
	if len(results) != len(begin) || len(results[4].Rows) != 1 {
		return nil, &Error{Code: codeQuery, Kind: ErrTransient, Message: doing + ": unexpected answer"}
	}
	chunk := &Chunk{Last: q.After}
	if err := chunk.snapshot(string(results[4].Rows[0][0])); err != nil {
		return nil, failed(doing, err)
	}
	plan, err := planChunk(registry, q, relation, results[5].Rows)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	if err := chunk.copy(ctx, conn, q, plan); err != nil {
		return nil, failed(doing, err)
	}
	if q.Keys != nil {
		chunk.Last, chunk.Done = q.After, true
	}
	return chunk, nil
}

// copy reads the rows.
func (c *Chunk) copy(ctx context.Context, conn *pgconn.PgConn, q *ChunkRequest, plan *chunkPlan) error {
	full := false
	w := copyReader{columns: plan.encodings, yield: func(row []source.Datum, size int) error {
		if full {
			return nil // beyond the bound of bytes
		}
		c.Count++
		c.Size += size
		if full = q.Limit > 0 && (c.Count == q.Limit || q.Bytes > 0 && c.Size >= q.Bytes); full {
			var err error
			if c.Last, err = plan.key(row); err != nil {
				return err
			}
		}
		if q.Yield != nil {
			return q.Yield(row)
		}
		c.Rows = append(c.Rows, slices.Clone(row))
		return nil
	}}
	if _, err := conn.CopyTo(ctx, &w, "COPY ("+plan.sql+") TO STDOUT (FORMAT binary)"); err != nil {
		return err
	}
	if !full {
		if c.Done = q.Until == nil; !c.Done {
			c.Last = q.Until
		}
	}
	return w.finish()
}

// snapshot reads the text form of pg_snapshot: xmin:xmax:xip_list.
func (c *Chunk) snapshot(s string) error {
	parts := strings.Split(s, ":")
	if len(parts) != 3 {
		return fmt.Errorf("snapshot %q is not xmin:xmax:xip_list", s)
	}
	next, err := strconv.ParseUint(parts[1], 10, 64)
	if err != nil {
		return err
	}
	c.Next = source.XID(next) // the low half, which is what the stream has
	for x := range strings.SplitSeq(parts[2], ",") {
		if x == "" {
			continue
		}
		xid, err := strconv.ParseUint(x, 10, 64)
		if err != nil {
			return err
		}
		c.Unseen = append(c.Unseen, source.XID(xid))
	}
	return nil
}

// chunkColumnsSQL tells of each column of a table: name, type, the type as SQL, and
// its place in the index that the replica identity names, if it does, or that is
// the primary key's.
const chunkColumnsSQL = `SELECT a.attrelid, a.attname, a.atttypid, pg_catalog.format_type(a.atttypid, a.atttypmod),
  coalesce(pg_catalog.array_position((i.indkey::int2[])[0:i.indnkeyatts-1], a.attnum), -1)
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
LEFT JOIN pg_catalog.pg_index i ON i.indrelid = a.attrelid AND i.indisvalid AND i.indimmediate
  AND CASE WHEN c.relreplident = 'i' THEN i.indisreplident ELSE i.indisprimary END
WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped`

// chunkPlan is how to read one chunk.
type chunkPlan struct {
	sql       string
	encodings []source.Encoding // how each column comes
	keys      []keyColumn       // in the table's column order
}

type keyColumn struct {
	index int    // in the table's columns
	typ   uint32 // oid
	cast  string // the type as SQL
	order int    // place in the index, -1 if there is no index
}

// exactKeys are the types, by oid, whose binary form gives their text form in full.
// Key columns of other types are read as text, since the text is what the next
// chunk starts from.
var exactKeys = map[uint32]func(b []byte) (string, bool){
	20:   integerText,                                              // int8
	21:   integerText,                                              // int2
	23:   integerText,                                              // int4
	25:   func(b []byte) (string, bool) { return string(b), true }, // text
	1043: func(b []byte) (string, bool) { return string(b), true }, // varchar
	2950: uuidText,                                                 // uuid
}

func integerText(b []byte) (string, bool) {
	var n int64
	switch len(b) {
	case 2:
		n = int64(int16(binary.BigEndian.Uint16(b)))
	case 4:
		n = int64(int32(binary.BigEndian.Uint32(b)))
	case 8:
		n = int64(binary.BigEndian.Uint64(b))
	default:
		return "", false
	}
	return strconv.FormatInt(n, 10), true
}

func uuidText(b []byte) (string, bool) {
	if len(b) != 16 {
		return "", false
	}
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:], true
}

// planChunk makes the statement. attributes are the rows of chunkColumnsSQL.
func planChunk(registry *pgtypes.Registry, q *ChunkRequest, relation string, attributes [][][]byte) (*chunkPlan, error) {
	t := q.Table
	byName := make(map[string][]string, len(attributes))
	for _, a := range attributes {
		row := texts(a)
		byName[row[1]] = row
		if row[0] != strconv.FormatUint(uint64(t.ID), 10) {
			return nil, fmt.Errorf("%w: another table has taken its name", ErrTableChanged)
		}
	}
	plan := &chunkPlan{encodings: make([]source.Encoding, len(t.Columns))}
	list := make([]string, len(t.Columns))
	allKeys := true
	for i := range t.Columns {
		c := &t.Columns[i]
		row, ok := byName[c.Name]
		if !ok {
			return nil, fmt.Errorf("%w: it has no column %s any more", ErrTableChanged, c.Name)
		}
		oid, err := strconv.ParseUint(row[2], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("type of column %s: %w", c.Name, err)
		}
		typ := uint32(oid)
		if name := registry.Type(typ).Name(); name != c.Type.Name() {
			return nil, fmt.Errorf("%w: column %s was %s and is %s", ErrTableChanged, c.Name, c.Type.Name(), name)
		}
		plan.encodings[i], list[i] = source.Binary, quoteIdent(c.Name)
		asText := !registry.BinaryReadable(typ)
		if c.Key {
			order, err := strconv.Atoi(row[4])
			if err != nil {
				return nil, fmt.Errorf("index of column %s: %w", c.Name, err)
			}
			plan.keys = append(plan.keys, keyColumn{index: i, typ: typ, cast: row[3], order: order})
			asText = asText || q.Limit > 0 && exactKeys[typ] == nil
		} else if q.Keys != nil {
			list[i] = "NULL"
			continue
		}
		allKeys = allKeys && c.Key
		if asText {
			plan.encodings[i], list[i] = source.Text, pgtypes.TextExpr(list[i])
		}
	}
	plan.sql = "SELECT " + strings.Join(list, ", ") + " FROM ONLY " + relation
	if q.Keys != nil {
		return plan, plan.among(t, q.Keys)
	}
	if q.Limit <= 0 {
		return plan, nil
	}
	if len(plan.keys) == 0 || allKeys && t.Identity == source.IdentityFull {
		return nil, errors.New("its rows have no key by which to read it in parts; read it whole")
	}
	return plan, plan.bound(t, q)
}

// bound adds order and limits to the statement.
func (p *chunkPlan) bound(t *source.Table, q *ChunkRequest) error {
	if q.After != nil && len(q.After) != len(p.keys) {
		return fmt.Errorf("%w: its key has %d columns and had %d", ErrTableChanged, len(p.keys), len(q.After))
	}
	if q.Until != nil && len(q.Until) != len(p.keys) {
		return fmt.Errorf("%w: its key has %d columns and had %d", ErrTableChanged, len(p.keys), len(q.Until))
	}
	names := p.names(t)
	var where []string
	if q.After != nil {
		where = append(where, fmt.Sprintf("(%s) > (%s)", names, p.literals(q.After)))
	}
	if q.Until != nil {
		where = append(where, fmt.Sprintf("(%s) <= (%s)", names, p.literals(q.Until)))
	}
	if len(where) > 0 {
		p.sql += " WHERE " + strings.Join(where, " AND ")
	}
	p.sql += fmt.Sprintf(" ORDER BY %s LIMIT %d", names, q.Limit)
	return nil
}

// inOrder returns the places of the keys in the order of the index, so that it can
// be used, or in any if there is none.
func (p *chunkPlan) inOrder() []int {
	order := make([]int, len(p.keys))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return p.keys[a].order - p.keys[b].order })
	return order
}

// names lists the key columns in that order.
func (p *chunkPlan) names(t *source.Table) string {
	var list []string
	for _, k := range p.inOrder() {
		list = append(list, quoteIdent(t.Columns[p.keys[k].index].Name))
	}
	return strings.Join(list, ", ")
}

// literals lists the values of a key in that order.
func (p *chunkPlan) literals(key []string) string {
	var list []string
	for _, k := range p.inOrder() {
		list = append(list, quoteLiteral(key[k])+"::"+p.keys[k].cast)
	}
	return strings.Join(list, ", ")
}

// key returns the texts of a row's key columns, in the table's column order.
func (p *chunkPlan) key(row []source.Datum) ([]string, error) {
	out := make([]string, len(p.keys))
	for i, k := range p.keys {
		d := row[k.index]
		switch d.Encoding {
		case source.Text:
			out[i] = string(d.Bytes)
		case source.Binary:
			var ok bool
			if out[i], ok = exactKeys[k.typ](d.Bytes); !ok {
				return nil, fmt.Errorf("key of %d bytes does not fit its type", len(d.Bytes))
			}
		default:
			return nil, errors.New("a key column is null")
		}
	}
	return out, nil
}
