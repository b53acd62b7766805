package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace-sync/millrace/internal/postgres/pgtypes"
	"github.com/millrace-sync/millrace/internal/source"
)

// SplitRequest asks into which parts a table can be read.
type SplitRequest struct {
	Table *source.Table
	// After is the key after which it is still to be read, in the form of
	// ChunkRequest.After; nil for all.
	After []string
	// Rows is how many rows a part should have, about; more if that made too many parts.
	Rows int
	// Within is how long the sampling may take, during which the server says nothing; 0
	// means no bound.
	Within time.Duration
}

// Split says into which parts a table can be read beside each other.
type Split struct {
	// Bounds are keys in ascending order, in the form of ChunkRequest.After: each ends
	// a part, and the last part has no end. Their rows need not exist.
	Bounds [][]string
	// Rows is how many rows there are after the key that was given, by estimate.
	Rows int64
}

// The bounds of a sample. A part of a large table is many chunks.
const (
	maxParts    = 256
	partBlocks  = 16   // sampled for each part
	minBlocks   = 64   // a smaller table is not split
	sampleLeast = 256  // blocks
	sampleMost  = 8192 // blocks
)

// SplitTable finds keys that divide a table into parts. It looks at a sample of the
// table's blocks, whose cost is small beside that of reading the table, and
// needs no statistics. A table without a usable key is one part, and so is one whose
// sample takes the server too long.
//
// conn must not be in a transaction. It fails with ErrTableChanged as ReadChunk does.
func SplitTable(ctx context.Context, conn *pgconn.PgConn, registry *pgtypes.Registry, q SplitRequest) (*Split, error) {
	split, err := splitTable(ctx, conn, registry, &q)
	slow := canceled(err)
	if conn.TxStatus() != 'I' && !conn.IsClosed() {
		if end := conn.Exec(ctx, "ROLLBACK").Close(); err == nil {
			err = end
		}
	}
	if slow {
		split = &Split{}
		split.Rows, err = Estimate(ctx, conn, q.Table)
	}
	if err != nil {
		return nil, failed("sample "+q.Table.QualifiedName(), err)
	}
	return split, nil
}

func splitTable(ctx context.Context, conn *pgconn.PgConn, registry *pgtypes.Registry, q *SplitRequest) (*Split, error) {
	t, rows := q.Table, q.Rows
	relation := quoteIdent(t.Schema) + "." + quoteIdent(t.Name)
	results, err := conn.Exec(ctx, strings.Join([]string{
		"BEGIN TRANSACTION READ ONLY",
		"SET LOCAL lock_timeout = '" + lockTimeout + "'",
		"LOCK TABLE ONLY " + relation + " IN ACCESS SHARE MODE",
		fmt.Sprintf("SELECT pg_catalog.pg_relation_size(%s::regclass) / pg_catalog.current_setting('block_size')::bigint", quoteLiteral(relation)),
		fmt.Sprintf(chunkColumnsSQL, quoteLiteral(relation)),
	}, ";")).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(results) != 5 || len(results[3].Rows) != 1 {
		return nil, errors.New("unexpected answer")
	}
	blocks, err := strconv.ParseInt(string(results[3].Rows[0][0]), 10, 64)
	if err != nil {
		return nil, err
	}
	plan, err := planChunk(registry, &ChunkRequest{Table: t}, relation, results[4].Rows)
	if err != nil {
		return nil, err
	}
	keyed := len(plan.keys) > 0 && (len(plan.keys) < len(t.Columns) || t.Identity != source.IdentityFull)
	// Blocks of a usual table hold at least 20 rows: better too many than too few.
	sample := min(max(sampleLeast, partBlocks*(1+blocks*20/int64(rows))), sampleMost, blocks)
	percent := 100.0
	if sample < blocks {
		percent = 100 * float64(sample) / float64(blocks)
	}
	results, err = conn.Exec(ctx, fmt.Sprintf("SET LOCAL statement_timeout = %d;", q.Within.Milliseconds())+plan.sampleSQL(t, relation, q.After, keyed, percent, rows)).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(results) != 2 {
		return nil, errors.New("unexpected answer")
	}
	split := &Split{}
	for _, r := range results[1].Rows {
		row := texts(r)
		n, err := strconv.ParseInt(row[0], 10, 64)
		if err != nil {
			return nil, err
		}
		total, err := strconv.ParseInt(row[1], 10, 64)
		if err != nil {
			return nil, err
		}
		split.Rows = int64(float64(total) * 100 / percent)
		if n < total && keyed && blocks >= minBlocks {
			split.Bounds = append(split.Bounds, row[2:])
		}
	}
	return split, nil
}

// sampleSQL gives, of every so many rows of a sample in the order of the key, the
// row's number, the number of all, and its key; and the same of the last.
func (p *chunkPlan) sampleSQL(t *source.Table, relation string, after []string, keyed bool, percent float64, rows int) string {
	from := fmt.Sprintf("FROM ONLY %s TABLESAMPLE SYSTEM (%g)", relation, percent)
	if !keyed {
		return "SELECT count(*), count(*) " + from
	}
	where := ""
	if after != nil && len(after) == len(p.keys) {
		where = fmt.Sprintf(" WHERE (%s) > (%s)", p.names(t), p.literals(after))
	}
	var list []string
	for _, k := range p.keys {
		list = append(list, pgtypes.TextExpr(quoteIdent(t.Columns[k.index].Name))+" AS k"+strconv.Itoa(len(list)))
	}
	names := make([]string, len(list))
	for i := range names {
		names[i] = "k" + strconv.Itoa(i)
	}
	inner := fmt.Sprintf("SELECT row_number() OVER (ORDER BY %s) AS n, count(*) OVER () AS total, %s %s%s", p.names(t), strings.Join(list, ", "), from, where)
	parts := fmt.Sprintf("greatest(1, least(%d, ceil(total::float8 * 100 / %g / %d)))", maxParts, percent, rows)
	return fmt.Sprintf("SELECT n, total, %s FROM (%s) s WHERE n %% greatest(1, floor(total / %s)::bigint) = 0 OR n = total ORDER BY n",
		strings.Join(names, ", "), inner, parts)
}
