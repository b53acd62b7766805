package sql

import (
	"strings"
	"testing"
)

func TestParseAccepts(t *testing.T) {
	for _, q := range []string{
		`SELECT * FROM users`,
		`select u.*, U.Id as "Id", "Mixed Case".x FROM public.users u -- note`,
		`SELECT id, age + 1 AS n, a->>'b'::text c FROM t WHERE NOT a = 1 AND (b OR c) AND x IN (SELECT y FROM z) /* a /* b */ */;`,
		`SELECT id FROM t WHERE x IN auth.parameter('k') AND y NOT IN ARRAY['a', 'b'] AND z IN ('a', 'b')`,
		`SELECT p.id FROM projects p JOIN json_each(p.watchers) w ON w.value = p.id, b INNER JOIN (SELECT id FROM c) d ON d.id = b.id`,
		`SELECT CASE a WHEN 1 THEN 2 ELSE 3 END, CASE WHEN a THEN b END, CAST(a AS TEXT), a BETWEEN 1 AND 2 OR b NOT BETWEEN -1 AND +2.5e3, substring(a FROM 1 FOR 2) FROM t`,
		`SELECT FROM users WHERE users.is_admin IS NOT TRUE AND a ISNULL AND E'a\'b' = 'a''b'`,
		`SELECT request.user_id() AS user_id`,
		`SELECT DISTINCT id FROM "logs_%" AS logs WHERE logs.table_suffix() LIKE '2%'`,
		`SELECT a << 1 | 2 & 3, a && b, a || b FROM t`,
	} {
		if _, errs := Parse(q); len(errs) > 0 {
			t.Errorf("%s\n  %v", q, errs)
		}
	}
}

func TestParseRejects(t *testing.T) {
	for _, c := range []struct{ query, place, message string }{
		{`SELECT id FROM WHERE`, `WHERE`, `found WHERE where a table was expected; write a table before WHERE`},
		{`SELECT org_id, count(*) FROM users GROUP BY org_id`, `count(*)`, `no aggregates`},
		{`SELECT * FROM users GROUP BY org_id`, `GROUP`, `GROUP BY`},
		{`SELECT * FROM users LIMIT 1`, `LIMIT`, `LIMIT`},
		{`SELECT * FROM users ORDER BY (a, b)`, `ORDER`, `ORDER BY`},
		{`SELECT * FROM a UNION SELECT * FROM b`, `UNION`, `UNION`},
		{`SELECT * FROM a; SELECT * FROM b`, `;`, `one statement`},
		{`SELECT * FROM users LEFT JOIN b ON true`, `LEFT`, `LEFT JOIN`},
		{`SELECT * FROM users JOIN b USING (id)`, `USING`, `USING`},
		{`SELECT id, row_number() OVER () FROM users`, `OVER`, `OVER`},
		{`SELECT id FROM users WHERE EXISTS (SELECT 1 FROM orgs)`, `EXISTS`, `EXISTS`},
		{`SELECT * FROM users WHERE id = $1`, `$`, `SQL parameters`},
		{`SELECT * FROM users WHERE a = 'x`, `'`, `not closed`},
		{`SELECT -age FROM users`, `-`, `minus`},
		{`SELECT a @> b FROM users`, `@>`, `@>`},
		{`SELECT a FROM users WHERE user = 1`, `user`, `USER`},
		{`SELECT a ILIKE b FROM users`, `ILIKE`, `ILIKE`},
		{`WITH x AS (SELECT 1) SELECT * FROM x`, `WITH`, `WITH`},
		{``, ``, `empty`},
		{`SELECT (a FROM users`, `FROM`, `found FROM where`},
		{`SELECT a FROM users)`, `)`, `closing parenthesis`},
		{`SELECT a < b < c FROM users`, `<`, `chained`},
		{"SELECT `a` FROM users", "`", `backquotes`},
		{`DELETE FROM users`, `DELETE`, `DELETE`},
		{`SELECT ` + strings.Repeat("(", 1000), `(`, `deeply`},
	} {
		_, errs := Parse(c.query)
		if len(errs) == 0 {
			t.Errorf("%s: accepted", c.query)
			continue
		}
		e := errs[0]
		if got := c.query[e.Start:e.End]; got != c.place || !strings.Contains(e.Error(), c.message) {
			t.Errorf("%s\n  at %q: %v\n  want %q: %s", c.query, got, e, c.place, c.message)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, q := range []string{`SELECT * FROM users u WHERE a = 'x' AND b IN (SELECT c::text FROM d) -- x`, `select case when "A".b -> '$.x' is not null then -1.5e3 end`, `SELECT count(*) FROM a JOIN json_each(b) ON c NOT BETWEEN 1 AND 2 GROUP BY (1)`} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, text string) {
		q, errs := Parse(text)
		if (q == nil) == (len(errs) == 0) {
			t.Fatalf("query %v with errors %v", q, errs)
		}
		for _, e := range errs {
			if e.Start < 0 || e.Start > e.End || e.End > len(text) {
				t.Fatalf("span %v of %q", e.Span, text)
			}
		}
	})
}
