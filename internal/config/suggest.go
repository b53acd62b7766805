package config

import "strings"

// foreignKeys says what to write instead of keys that are often taken over from
// elsewhere and are too far from the right ones to be recognised.
var foreignKeys = map[string]string{
	"host":             `write "hostname"`,
	"user":             `write "username"`,
	"dbname":           `write "database"`,
	"ssl":              `write "sslmode"`,
	"allow_local_jwks": `local addresses are allowed unless block_local_jwks is true`,
	"streams":          `streams stand in the text of sync_config.content, or in the file that sync_config.path names`,
	"bucket_definitions": `bucket definitions stand in the text of sync_config.content, or in the file ` +
		`that sync_config.path names`,
}

// suggest returns the word nearest to s, or "" if none is near.
func suggest(s string, words []string) string {
	best, least := "", 1+min(2, len(s)/3)
	for _, w := range words {
		d := distance(fold(s), fold(w))
		if d < least {
			best, least = w, d
		}
	}
	return best
}

// fold makes camelCase, kebab-case and snake_case equal.
func fold(s string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s))
}

// distance counts the insertions, deletions, replacements and swaps of neighbours
// that turn a into b.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	// rows holds the row before the last, the last, and the current one.
	rows := [3][]int{make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)}
	for j := range rows[1] {
		rows[1][j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur := rows[2]
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(rows[1][j]+1, cur[j-1]+1, rows[1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], rows[0][j-2]+1)
			}
		}
		rows[0], rows[1], rows[2] = rows[1], rows[2], rows[0]
	}
	return rows[1][len(b)]
}
