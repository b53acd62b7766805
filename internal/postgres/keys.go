package postgres

import (
	"errors"
	"fmt"
	"strings"

	"github.com/millrace-sync/millrace/internal/source"
)

// byIndexSQL lets the index of the key find rows, however large the part of the
// table is that they are.
var byIndexSQL = []string{"SET LOCAL enable_seqscan = off", "SET LOCAL enable_hashjoin = off", "SET LOCAL enable_mergejoin = off"}

// among limits the statement to the rows with the given keys.
//
// A text may stand for a value that another text stands for too (1.0 and 1.00 as
// numeric): the answer has the table's own, for the caller to compare.
func (p *chunkPlan) among(t *source.Table, keys [][]string) error {
	if len(p.keys) == 0 {
		return errors.New("its rows have no key by which to look them up")
	}
	names, arrays, casts := make([]string, len(p.keys)), make([]string, len(p.keys)), make([]string, len(p.keys))
	for i, k := range p.keys {
		names[i] = quoteIdent(t.Columns[k.index].Name)
		casts[i] = fmt.Sprintf("u.c%d::%s", i, k.cast)
		items := make([]string, len(keys))
		for j, key := range keys {
			if len(key) != len(p.keys) {
				return fmt.Errorf("%w: its key has %d columns and had %d", ErrTableChanged, len(p.keys), len(key))
			}
			items[j] = key[i]
		}
		arrays[i] = quoteLiteral(arrayLiteral(items)) + "::text[]"
	}
	aliases := make([]string, len(p.keys))
	for i := range aliases {
		aliases[i] = fmt.Sprintf("c%d", i)
	}
	// MATERIALIZED keeps a condition from being evaluated on more than these keys.
	p.sql = fmt.Sprintf("WITH k AS MATERIALIZED (SELECT %s FROM unnest(%s) u(%s)) %s WHERE (%s) IN (SELECT * FROM k)",
		strings.Join(casts, ", "), strings.Join(arrays, ", "), strings.Join(aliases, ", "), p.sql, strings.Join(names, ", "))
	return nil
}
